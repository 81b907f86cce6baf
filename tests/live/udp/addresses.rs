//! The addresses of flows: wildcards, groups, link-local addresses, namespaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::process;

use crate::common::agent::Agent;
use crate::common::sock::{self, Ends, set_int};
use crate::common::tcptop::Tcptop;
use crate::common::udp::{self, QUICK, Totals, check_flow, wait_totals};
use crate::live::{Test, sharing, test};

use super::Link;

pub fn tests() -> Vec<Test> {
    vec![
        sharing("udp::many_local_addresses", many_local_addresses),
        sharing("udp::link_local", link_local),
        sharing("udp::multicast", multicast),
        sharing("udp::multicast_v6", multicast_v6),
        sharing("udp::broadcast", broadcast),
        sharing("udp::reuseport_group", reuseport_group),
        test("udp::other_namespaces", other_namespaces),
    ]
}

/// One peer, one socket, many local addresses: each address is one flow, none is lost.
fn many_local_addresses() {
    let tcptop = Tcptop::share(&QUICK);
    let server = udp::bind((Ipv4Addr::UNSPECIFIED, 0).into());
    let port = server.local_addr().expect("bound").port();
    let client = udp::bind((sock::loopback(0), 0).into());
    let from = client.local_addr().expect("bound");
    let all: Vec<SocketAddr> = (1..=250).map(|last| (sock::loopback(last), port).into()).collect();
    for &to in &all {
        udp::send_to(&client, to, 9, 2);
        assert_eq!(udp::receive(&server, 2), 18);
    }
    for &to in &all {
        wait_totals(&tcptop, Ends::new(to, from), Totals::received(18, 2));
        wait_totals(&tcptop, Ends::new(from, to), Totals::sent(18, 2));
    }
    tcptop.finish();
}

/// Link-local addresses are shown with their device, for connected and for unconnected
/// sockets.
fn link_local() {
    let tcptop = Tcptop::share(&QUICK);
    let link = Link::new("fe80::86:1", "fe80::86:2");
    let IpAddr::V6(there) = link.addresses[1] else { unreachable!("IPv6") };
    let (device_here, device_there) = (Link::device(&link.here), Link::device(&link.there));
    let scoped =
        |address, port, device| SocketAddr::from(SocketAddrV6::new(address, port, 0, device));
    for connected in [true, false] {
        let server = link.there.run(|| udp::bind(scoped(there, 0, device_there)));
        let port = server.local_addr().expect("bound").port();
        let to = scoped(there, port, device_here);
        let client = link.here.run(|| {
            let socket = udp::bind((Ipv6Addr::UNSPECIFIED, 0).into());
            if connected {
                socket.connect(to).expect("connect");
                udp::send(&socket, 50);
            } else {
                udp::send_to(&socket, to, 50, 1);
            }
            socket
        });
        // The kernel chooses the source address among those of the link.
        let (size, from) = server.recv_from(&mut [0; 100]).expect("a datagram");
        let SocketAddr::V6(from) = from else { unreachable!("IPv6") };
        assert_eq!((size, from.scope_id()), (50, device_there));
        udp::send_to(&server, from.into(), 7, 2);
        assert_eq!(udp::receive(&client, 2), 14);
        let totals = Totals { bytes_in: 14, bytes_out: 50, packets_in: 2, packets_out: 1 };
        let ends = Ends::new(scoped(*from.ip(), from.port(), device_here), to);
        wait_totals(&tcptop, ends, totals);
        let ends = Ends::new(scoped(there, port, device_there), from.into());
        wait_totals(&tcptop, ends, totals.flipped());
    }
    let output = tcptop.finish();
    let shown = format!("[{there}%{device_there}]");
    assert!(output.lines.iter().any(|line| line.contains(&shown)));
}

/// A group with two receivers on the other side of a link, and its sender.
fn group_of_receivers(link: &Link, group: SocketAddr) {
    let tcptop = Tcptop::share(&QUICK);
    let (device_here, device_there) = (Link::device(&link.here), Link::device(&link.there));
    let mut receivers: Vec<(Agent, i32)> = ["hears-one", "hears-two"]
        .into_iter()
        .map(|name| {
            let mut agent = link.there.run(|| Agent::new(name));
            let any = if group.is_ipv4() { "0.0.0.0" } else { "::" };
            let any = any.parse::<IpAddr>().expect("an address");
            let (socket, _) = agent.udp(SocketAddr::new(any, group.port()));
            agent.udp_join(socket, group.ip(), device_there);
            (agent, socket)
        })
        .collect();
    let sender = link.here.run(|| {
        let socket = udp::bind((link.addresses[0], 0).into());
        match group {
            SocketAddr::V4(_) => {
                let request = libc::ip_mreqn {
                    imr_multiaddr: libc::in_addr { s_addr: 0 },
                    imr_address: libc::in_addr { s_addr: 0 },
                    imr_ifindex: device_here as i32,
                };
                sock::set_option(&socket, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request)
                    .expect("IP_MULTICAST_IF");
            }
            SocketAddr::V6(_) => {
                let device = device_here as i32;
                set_int(&socket, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, device);
            }
        }
        socket
    });
    let from = sender.local_addr().expect("bound");
    let (size, count) = (333, 40);
    for _ in 0..count {
        udp::send_to(&sender, group, size, 1);
        for (agent, socket) in &mut receivers {
            assert_eq!(agent.udp_receive(*socket, 1), size as u64);
        }
    }
    let bytes = size as u64 * count;
    let group = SocketAddr::new(group.ip(), group.port());
    wait_totals(&tcptop, Ends::new(from, group), Totals::sent(bytes, count));
    let ends = Ends::new(group, from);
    for ((agent, _), name) in receivers.iter().zip(["hears-one", "hears-two"]) {
        let row = tcptop.wait_row("row of each receiver", ends, |row| {
            row.pid == Some(agent.pid) && Totals::of(row) == Totals::received(bytes, count)
        });
        assert_eq!(row.process, name);
    }
    let output = tcptop.finish();
    let pids: BTreeSet<Option<u32>> =
        output.rows_of(ends).filter_map(|row| row.pid).map(Some).collect();
    assert_eq!(pids.len(), 2);
}

fn multicast() {
    group_of_receivers(&Link::new("10.86.1.1", "10.86.1.2"), ([239, 86, 1, 1], 4567).into());
}

fn multicast_v6() {
    let group = "[ff05::8601]:4567".parse().expect("an address");
    group_of_receivers(&Link::new("fd86:1::1", "fd86:1::2"), group);
}

fn broadcast() {
    let link = Link::new("10.86.2.1", "10.86.2.2");
    let tcptop = Tcptop::share(&QUICK);
    let receiver = link.there.run(|| udp::bind((Ipv4Addr::UNSPECIFIED, 0).into()));
    let to = (Ipv4Addr::new(10, 86, 2, 255), receiver.local_addr().expect("bound").port()).into();
    let sender = link.here.run(|| udp::bind((link.addresses[0], 0).into()));
    sender.set_broadcast(true).expect("SO_BROADCAST");
    for _ in 0..30 {
        udp::send_to(&sender, to, 100, 1);
        assert_eq!(udp::receive(&receiver, 1), 100);
    }
    let from = sender.local_addr().expect("bound");
    wait_totals(&tcptop, Ends::new(from, to), Totals::sent(3000, 30));
    wait_totals(&tcptop, Ends::new(to, from), Totals::received(3000, 30));
    let output = tcptop.finish();
    check_flow(&output, Ends::new(from, to), Totals::sent(3000, 30), process::id());
    check_flow(&output, Ends::new(to, from), Totals::received(3000, 30), process::id());
}

/// The sockets of a group share an address. Each flow belongs to the process whose socket
/// got the datagrams.
fn reuseport_group() {
    let mut servers = [Agent::new("member-one"), Agent::new("member-two")];
    let tcptop = Tcptop::share(&QUICK);
    let (one, address) = servers[0].udp((sock::loopback(1), 0).into());
    let (two, _) = servers[1].udp(address);
    let mut clients = Vec::new();
    for _ in 0..30 {
        let client = udp::bind((sock::loopback(2), 0).into());
        udp::send_to(&client, address, 11, 3);
        let got = [servers[0].udp_drain(one), servers[1].udp_drain(two)];
        let member = usize::from(got[1] > 0);
        assert_eq!(got[member], 3, "{got:?}");
        clients.push((Ends::new(address, client.local_addr().expect("bound")), member, client));
    }
    assert!((1..30).contains(&clients.iter().filter(|client| client.1 == 0).count()));
    for (ends, member, _) in &clients {
        let pid = Some(servers[*member].pid);
        tcptop.wait_row("row of the member", *ends, |row| {
            row.pid == pid && Totals::of(row) == Totals::received(33, 3)
        });
    }
    tcptop.finish();
}

/// The same tuple in two pairs of namespaces: four separate flows.
fn other_namespaces() {
    let tcptop = Tcptop::start(&["--udp", "--raw", "--all", "-t", "--interval", "0.1"]);
    let traffic = [(1000, 3), (50, 20)];
    // Only flows of this process: another test run may share the machine.
    let port = 10_000 + (process::id() % 50_000) as u16;
    let (client, server) = (([10, 86, 5, 1], port).into(), ([10, 86, 5, 2], 5000).into());
    let pairs = traffic.map(|(bytes, count)| {
        let link = Link::new("10.86.5.1", "10.86.5.2");
        let to = link.there.run(|| udp::bind(server));
        let from = link.here.run(|| udp::bind(client));
        for _ in 0..count {
            udp::send_to(&from, server, bytes, 1);
            assert_eq!(udp::receive(&to, 1), bytes as u64);
        }
        (from, to)
    });
    let sent = traffic.map(|(bytes, count)| (bytes as u64 * count, count));
    let ends = Ends::new(client, server);
    for (ends, out) in [(ends, true), (ends.flipped(), false)] {
        tcptop.wait("both flows in one interval", |output| {
            let time = &output.rows.last()?.time;
            let mut found: Vec<_> = output
                .rows_of(ends)
                .filter(|row| row.time == *time)
                .map(|row| match out {
                    true => (row.bytes_out, row.packets_out),
                    false => (row.bytes_in, row.packets_in),
                })
                .collect();
            found.sort_unstable();
            let mut expected = sent;
            expected.sort_unstable();
            (found == expected).then_some(())
        });
    }
    drop(pairs);
    tcptop.finish();
}
