//! UDP flows: datagrams and bytes at both ends, owners, the life of a flow.
//!
//! Which of the two providers counts is read from tcptop's own descriptors: what
//! they show differs where a receive buffer overflows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use caps::Capability;
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use serde_json::Value;

use crate::common::agent::Agent;
use crate::common::netns::{self, Netns, ip};
use crate::common::rng::Rng;
use crate::common::sock::{self, Ends, Family, Pair, set_int};
use crate::common::tcptop::{Launch, Output, Row, Tcptop};
use crate::common::udp::{self, Duo, LARGEST, QUICK, Totals, check_flow, wait_totals};
use crate::common::wait::{until, until_true};

use super::privilege::{as_nobody, public_binary};
use super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("udp::hundred_thousand_datagrams", hundred_thousand_datagrams),
        test("udp::every_size", every_size),
        test("udp::segmented_sends", segmented_sends),
        test("udp::corked_sends", corked_sends),
        test("udp::peeking", peeking),
        test("udp::truncated_receives", truncated_receives),
        test("udp::over_a_small_mtu", over_a_small_mtu),
        test("udp::nobody_listens", nobody_listens),
        test("udp::own_peer", own_peer),
        test("udp::many_local_addresses", many_local_addresses),
        test("udp::many_threads_one_socket", many_threads_one_socket),
        test("udp::raw_sockets_are_no_flows", raw_sockets_are_no_flows),
        test("udp::link_local", link_local),
        test("udp::multicast", multicast),
        test("udp::multicast_v6", multicast_v6),
        test("udp::broadcast", broadcast),
        test("udp::reuseport_group", reuseport_group),
        test("udp::short_lived", short_lived),
        test("udp::owner_of_a_sender", owner_of_a_sender),
        test("udp::owner_of_a_receiver", owner_of_a_receiver),
        test("udp::owner_after_a_fork", owner_after_a_fork),
        test("udp::owner_receives_late", owner_receives_late),
        test("udp::no_owner_of_a_tunnel", no_owner_of_a_tunnel),
        test("udp::older_sockets", older_sockets),
        test("udp::other_namespaces", other_namespaces),
        test("udp::five_thousand_peers", five_thousand_peers),
        test("udp::expires_and_returns", expires_and_returns),
        test("udp::nothing_lost_while_flows_expire", nothing_lost_while_flows_expire),
        test("udp::full_table", full_table),
        test("udp::overflow", overflow),
        test("udp::dns", dns),
        test("udp::iperf", iperf),
        test("udp::filters", filters),
        test("udp::without_net_admin", without_net_admin),
    ]
}

/// What counts the datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Provider {
    /// Counts what arrives at the socket.
    CgroupSkb,
    /// Counts what a process takes from it.
    Entry,
}

impl Provider {
    /// What this tcptop has attached.
    fn of(tcptop: &Tcptop) -> Provider {
        if tcptop.has_link("cgroup") { Provider::CgroupSkb } else { Provider::Entry }
    }
}

/// Whether tcptop learns who receives on a socket. With cgroup_skb it needs a
/// tracepoint for that (Linux 6.3); without, it looks up who holds the socket.
fn sees_receivers(tcptop: &Tcptop) -> bool {
    Provider::of(tcptop) == Provider::Entry || tcptop.has_tracepoint("sock_recv_length")
}

/// The rows of sockets with these local ports, whatever the addresses.
fn of_ports<'a>(output: &'a Output, ports: &'a [u16]) -> impl Iterator<Item = &'a Row> {
    output.rows.iter().filter(|row| ports.contains(&row.ends.local.port()))
}

/// Both flows of each are exact and this process's, and there are no others.
fn check_duos(output: &Output, duos: &[Duo]) {
    for duo in duos {
        for (ends, totals) in duo.expected() {
            check_flow(output, ends, totals, process::id());
        }
    }
    let expected: BTreeSet<Ends> =
        duos.iter().flat_map(|duo| [duo.ends, duo.ends.flipped()]).collect();
    let ports: Vec<u16> = expected.iter().map(|ends| ends.local.port()).collect();
    let other = of_ports(output, &ports).find(|row| !expected.contains(&row.ends));
    assert_eq!(other, None, "0.0.0.0, or one flow twice");
}

fn wait_duos(tcptop: &Tcptop, duos: &[Duo]) {
    for (ends, totals) in duos.iter().flat_map(Duo::expected) {
        wait_totals(tcptop, ends, totals);
    }
}

/// Connected and unconnected, all families, both directions, mixed sizes.
fn hundred_thousand_datagrams() {
    let tcptop = Tcptop::start(&QUICK);
    let mut duos: Vec<Duo> = [true, false]
        .iter()
        .flat_map(|&connected| Family::ALL.map(|family| Duo::new(family, connected)))
        .collect();
    let mut rng = Rng::new(0x7c97_0003);
    let mut left = 100_000;
    while left > 0 {
        let duo = &mut duos[rng.below(8) as usize];
        let count = (1 + rng.below(32)).min(left) as u32;
        left -= u64::from(count);
        let size = rng.pick(&[0, 1, 12, 64, 300, 1200, 1472, 1473]);
        if rng.below(2) == 0 { duo.send(size, count) } else { duo.answer(size, count) }
    }
    let total: u64 = duos.iter().map(|duo| duo.totals.packets_in + duo.totals.packets_out).sum();
    assert_eq!(total, 100_000);
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

/// From an empty datagram to the largest one.
fn every_size() {
    let tcptop = Tcptop::start(&QUICK);
    let mut duos: Vec<Duo> = [true, false]
        .iter()
        .flat_map(|&connected| Family::ALL.map(|family| Duo::new(family, connected)))
        .collect();
    for duo in &mut duos {
        for size in [0, 1, 2, 63, 64, 65, 511, 1500, 4096, 8191, 16_384, 40_000, 65_506, LARGEST] {
            duo.send(size, 1);
            duo.answer(size, 1);
        }
    }
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

const UDP_GRO: i32 = 104;

/// Room for a whole batch, each datagram of which takes 2 KiB and more.
fn roomy(socket: &UdpSocket) {
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
}

/// UDP_SEGMENT sends of 1 to 64 segments, the last one shorter or not, received
/// one by one and in batches.
fn segmented_sends() {
    let tcptop = Tcptop::start(&QUICK);
    let mut duos = Vec::new();
    let mut batches = 0;
    for family in [Family::V4, Family::V6, Family::Mapped] {
        for gro in [false, true] {
            let mut duo = Duo::new(family, true);
            roomy(&duo.other);
            set_int(&duo.other, libc::SOL_UDP, UDP_GRO, i32::from(gro));
            for segments in 1..=64u64 {
                for (size, last) in [(1000, 1000), (1000, 1), (700, 699), (1, 1)] {
                    let bytes = size * (segments - 1) + last;
                    udp::send_segments(&duo.one, bytes as usize, size as u16).expect("UDP_SEGMENT");
                    let calls = udp::receive_bytes(&duo.other, bytes);
                    assert!(gro || calls == segments, "{calls} of {segments}");
                    batches += u64::from(calls < segments);
                    duo.totals += Totals::sent(bytes, segments);
                }
            }
            duos.push(duo);
        }
    }
    assert!(batches > 0, "no batch was received as one");
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

/// Several sends, one datagram.
fn corked_sends() {
    let tcptop = Tcptop::start(&QUICK);
    let mut duos: Vec<Duo> = Family::ALL.map(|family| Duo::new(family, true)).into();
    for duo in &mut duos {
        for piece in [1, 100, 20_000] {
            udp::send_part(&duo.one, piece);
            udp::send_part(&duo.one, piece);
            udp::send(&duo.one, piece);
            assert_eq!(udp::receive(&duo.other, 1), 3 * piece as u64);
            duo.totals += Totals::sent(3 * piece as u64, 1);
            set_int(&duo.one, libc::SOL_UDP, libc::UDP_CORK, 1);
            for _ in 0..3 {
                udp::send(&duo.one, piece);
            }
            set_int(&duo.one, libc::SOL_UDP, libc::UDP_CORK, 0);
            assert_eq!(udp::receive(&duo.other, 1), 3 * piece as u64);
            duo.totals += Totals::sent(3 * piece as u64, 1);
        }
        // Never sent.
        udp::send_part(&duo.one, 5000);
    }
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

/// A look at a datagram is no receive, also where there is nothing to look at.
fn peeking() {
    let tcptop = Tcptop::start(&QUICK);
    let mut duos: Vec<Duo> = Family::ALL.map(|family| Duo::new(family, false)).into();
    for duo in &mut duos {
        let to = duo.ends.remote;
        let to = if duo.one.local_addr().expect("bound").is_ipv4() || to.is_ipv6() {
            to
        } else {
            let IpAddr::V4(v4) = to.ip() else { unreachable!("canonical") };
            SocketAddr::new(v4.to_ipv6_mapped().into(), to.port())
        };
        for size in [0, 1, 1000, LARGEST] {
            udp::send_to(&duo.one, to, size, 1);
            for room in [0, 1, 65_536] {
                udp::peek(&duo.other, room);
                udp::peek(&duo.other, room);
            }
            assert_eq!(udp::receive(&duo.other, 1), size as u64);
            duo.totals += Totals::sent(size as u64, 1);
        }
    }
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

/// The reader's buffer is smaller than the datagram: the flow has all of it.
fn truncated_receives() {
    let tcptop = Tcptop::start(&QUICK);
    let mut duo = Duo::new(Family::V4, true);
    for room in [0, 1, 999] {
        udp::send(&duo.one, 1000);
        let mut buffer = vec![0; room];
        assert_eq!(duo.other.recv(&mut buffer).expect("a datagram"), room);
        duo.totals += Totals::sent(1000, 1);
    }
    wait_duos(&tcptop, std::slice::from_ref(&duo));
    check_duos(&tcptop.finish(), &[duo]);
}

/// Two namespaces with a link between them, and sockets at both ends of it.
struct Link {
    here: Netns,
    there: Netns,
    addresses: [IpAddr; 2],
}

impl Link {
    fn new(here: &str, there: &str) -> Link {
        let addresses = [here, there].map(|text| text.parse().expect("an address"));
        let link = Link { here: Netns::new(), there: Netns::new(), addresses };
        link.here.join(addresses[0], &link.there, addresses[1]);
        link
    }

    /// The index of the link's device.
    fn device(netns: &Netns) -> u32 {
        netns.run(|| {
            let text = fs::read_to_string("/proc/thread-self/net/dev_snmp6/veth0");
            let text = text.expect("the device has IPv6");
            let line = text.lines().find(|line| line.starts_with("ifIndex")).expect("ifIndex");
            line.split_ascii_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("number")
        })
    }

    /// A connected socket here and the one it is connected to.
    fn pair(&self) -> (UdpSocket, UdpSocket, Ends) {
        let [here, there] = self.addresses;
        let other = self.there.run(|| udp::bind((there, 0).into()));
        let to = other.local_addr().expect("bound");
        let one = self.here.run(|| {
            let socket = udp::bind((here, 0).into());
            socket.connect(to).expect("connect");
            socket
        });
        let ends = Ends::new(one.local_addr().expect("bound"), to);
        (one, other, ends)
    }
}

/// IP fragments and segments made by software: still whole datagrams.
fn over_a_small_mtu() {
    let tcptop = Tcptop::start(&QUICK);
    for (here, there) in [("10.86.0.1", "10.86.0.2"), ("fd86::1", "fd86::2")] {
        let link = Link::new(here, there);
        let (one, other, ends) = link.pair();
        roomy(&other);
        let mut totals = Totals::default();
        for size in [1000, 1473, 5000, 30_000, LARGEST] {
            // The first one may wait for the neighbour.
            udp::send(&one, size);
            assert_eq!(udp::receive(&other, 1), size as u64);
            totals += Totals::sent(size as u64, 1);
        }
        for gro in [0, 1] {
            set_int(&other, libc::SOL_UDP, UDP_GRO, gro);
            for segments in [2, 7, 45] {
                udp::send_segments(&one, 1400 * segments - 5, 1400).expect("UDP_SEGMENT");
                udp::receive_bytes(&other, 1400 * segments as u64 - 5);
                totals += Totals::sent(1400 * segments as u64 - 5, segments as u64);
            }
        }
        wait_totals(&tcptop, ends, totals);
        wait_totals(&tcptop, ends.flipped(), totals.flipped());
    }
    tcptop.finish();
}

/// What is sent is counted, whatever becomes of it.
fn nobody_listens() {
    let tcptop = Tcptop::start(&QUICK);
    let closed = udp::bind((sock::loopback(1), 0).into()).local_addr().expect("bound");
    let socket = udp::bind((sock::loopback(2), 0).into());
    socket.connect(closed).expect("connect");
    udp::send(&socket, 77);
    let refused = socket.recv(&mut [0; 1]).expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let ends = Ends::new(socket.local_addr().expect("bound"), closed);
    wait_totals(&tcptop, ends, Totals::sent(77, 1));
    let output = tcptop.finish();
    check_flow(&output, ends, Totals::sent(77, 1), process::id());
    assert_eq!(output.rows_of(ends.flipped()).count(), 0, "there is no such socket");
}

/// A socket that sends to itself has one flow, with both directions.
fn own_peer() {
    let tcptop = Tcptop::start(&QUICK);
    let socket = udp::bind((sock::loopback(1), 0).into());
    let own = socket.local_addr().expect("bound");
    udp::send_to(&socket, own, 300, 4);
    assert_eq!(udp::receive(&socket, 4), 1200);
    let totals = Totals { bytes_in: 1200, bytes_out: 1200, packets_in: 4, packets_out: 4 };
    wait_totals(&tcptop, Ends::new(own, own), totals);
    check_flow(&tcptop.finish(), Ends::new(own, own), totals, process::id());
}

/// One peer, one socket, many local addresses: as many flows, none lost.
fn many_local_addresses() {
    let tcptop = Tcptop::start(&QUICK);
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

/// Two threads send the first datagrams of a flow at the same time, over and over:
/// nothing is lost, and there is one flow of it, with what both have sent.
fn many_threads_one_socket() {
    let arguments = ["--udp", "--raw", "--all", "-t", "--interval", "0.2", "--udp-timeout", "300"];
    let tcptop = Tcptop::start(&arguments);
    let socket = udp::bind((sock::loopback(0), 0).into());
    let from = socket.local_addr().expect("bound");
    let sinks = [(); 4].map(|()| {
        let sink = udp::bind((Ipv4Addr::UNSPECIFIED, 0).into());
        roomy(&sink);
        sink
    });
    let all: Vec<SocketAddr> = (1..=1000u32)
        .map(|i| {
            let port = sinks[i as usize % 4].local_addr().expect("bound").port();
            (sock::loopback((1 + i / 4) as u8), port).into()
        })
        .collect();
    let together = Barrier::new(2);
    thread::scope(|scope| {
        for size in [10, 20] {
            let (all, socket, together) = (&all, &socket, &together);
            scope.spawn(move || {
                for &to in all {
                    together.wait();
                    udp::send_to(socket, to, size, 3);
                }
            });
        }
    });
    let drained = sinks.each_ref().map(udp::drain);
    assert_eq!(drained, [(1500, 22_500); 4]);
    let sent = Totals::sent(90, 6);
    let expected: BTreeMap<Ends, Totals> = all
        .iter()
        .flat_map(|&to| [(Ends::new(from, to), sent), (Ends::new(to, from), sent.flipped())])
        .collect();
    // Where one thread is preempted within tcptop's program, the kernel skips it for the
    // other. Then as many datagrams are missing as tcptop says.
    let packets = |all: &BTreeMap<Ends, Totals>| -> u64 {
        all.values().map(|totals| totals.packets_in + totals.packets_out).sum()
    };
    let extra = tcptop.wait("exact totals of each flow", |output| {
        let mut sums: BTreeMap<Ends, Totals> = BTreeMap::new();
        let mut rows = 0;
        for row in rows_of_a_whole_interval(output).filter(|row| expected.contains_key(&row.ends)) {
            *sums.entry(row.ends).or_default() += Totals::of(row);
            rows += 1;
        }
        let skipped = tcptop.skipped();
        let exact = skipped > 0 || sums == expected;
        (exact && packets(&sums) + skipped == packets(&expected)).then(|| rows - sums.len())
    });
    // Two rows only where one was written before the other flow was there.
    assert!(extra <= expected.len() / 100, "{extra} of {} have two rows", expected.len());
    let skipped = tcptop.skipped();
    if skipped == 0 {
        tcptop.finish();
        return;
    }
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.output.check_contract();
    assert_eq!(ended.lost(), format!("{skipped} UDP sends and receives (skipped by the kernel)"));
}

/// A raw socket gets a copy of every datagram, and makes packets of its own.
fn raw_sockets_are_no_flows() {
    let tcptop = Tcptop::start(&QUICK);
    let raw = socket::socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Udp,
    )
    .expect("a raw socket");
    sock::bounded(&raw);
    let mut duo = Duo::new(Family::V4, true);
    duo.send(10, 5);
    duo.answer(20, 5);
    let mut buffer = [0; 2048];
    let port = duo.ends.local.port().to_be_bytes();
    for _ in 0..10 {
        // Other sockets' datagrams come here as well.
        until_true("the copy of a datagram", || {
            socket::recv(raw.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("a packet");
            buffer[20..22] == port || buffer[22..24] == port
        });
    }
    wait_duos(&tcptop, std::slice::from_ref(&duo));
    let totals = duo.expected();
    let output = tcptop.finish();
    for (ends, _) in totals {
        let seen = output.rows_of(ends).filter(|row| Totals::of(row) == Totals::default()).count();
        assert_eq!(seen, 0);
        let last: Vec<_> = output.rows_of(ends).map(Totals::of).collect();
        assert!(last.windows(2).all(|two| two[0].packets_in <= two[1].packets_in), "{last:?}");
    }
    check_duos(&output, &[duo]);
}

/// Link-local addresses are shown with their device, both of a connected and of
/// an unconnected socket.
fn link_local() {
    let tcptop = Tcptop::start(&QUICK);
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
        // Which of the link's addresses it comes from is the kernel's choice.
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
    let tcptop = Tcptop::start(&QUICK);
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
    let tcptop = Tcptop::start(&QUICK);
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

/// The sockets of a group share an address; each flow is of the one that got it.
fn reuseport_group() {
    let mut servers = [Agent::new("member-one"), Agent::new("member-two")];
    let tcptop = Tcptop::start(&QUICK);
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

/// socket, connect, send, close: gone before anybody looks.
fn short_lived() {
    let tcptop = Tcptop::start(&QUICK);
    let server = udp::bind((sock::loopback(1), 0).into());
    let to = server.local_addr().expect("bound");
    let mut sent = BTreeMap::new();
    for i in 0..300 {
        let client = udp::bind((sock::loopback(2), 0).into());
        client.connect(to).expect("connect");
        udp::send(&client, i);
        let ends = Ends::new(client.local_addr().expect("bound"), to);
        drop(client);
        assert_eq!(udp::receive(&server, 1), i as u64);
        // A port that is used again is another socket: then a row of its own.
        sent.entry(ends).or_insert_with(Vec::new).push(i as u64);
    }
    for (&ends, sizes) in &sent {
        for &size in sizes {
            let row = wait_totals(&tcptop, ends, Totals::sent(size, 1));
            assert_eq!((row.pid, row.partial), (Some(process::id()), false));
        }
        // The server's socket is one and the same.
        let received = Totals::received(sizes.iter().sum(), sizes.len() as u64);
        wait_totals(&tcptop, ends.flipped(), received);
    }
    tcptop.finish();
}

/// The process, not its thread, from the first datagram on.
fn owner_of_a_sender() {
    let mut agent = Agent::new("the-sender");
    let tcptop = Tcptop::start(&QUICK);
    let sink = udp::bind((sock::loopback(1), 0).into());
    let to = sink.local_addr().expect("bound");
    let (socket, from) = agent.udp((sock::loopback(2), 0).into());
    agent.udp_send(socket, to, 20, 5);
    let row = wait_totals(&tcptop, Ends::new(from, to), Totals::sent(100, 5));
    assert_eq!((row.pid, &*row.process), (Some(agent.pid), "the-sender"));
    agent.rename("new-name");
    agent.udp_send(socket, to, 20, 1);
    let row = wait_totals(&tcptop, Ends::new(from, to), Totals::sent(120, 6));
    assert_eq!((row.pid, &*row.process, row.partial), (Some(agent.pid), "new-name", false));
    let output = tcptop.finish();
    assert!(output.rows_of(Ends::new(from, to)).all(|row| row.pid == Some(agent.pid)));
}

/// A process that only receives.
fn owner_of_a_receiver() {
    let tcptop = Tcptop::start(&QUICK);
    let mut agent = Agent::new("the-receiver");
    let (socket, to) = agent.udp((sock::loopback(1), 0).into());
    let client = udp::bind((sock::loopback(2), 0).into());
    let ends = Ends::new(to, client.local_addr().expect("bound"));
    udp::send_to(&client, to, 10, 3);
    assert_eq!(agent.udp_receive(socket, 3), 30);
    let row = tcptop.wait_row("row of the receiver", ends, |row| row.pid.is_some());
    assert_eq!((row.pid, &*row.process, row.partial), (Some(agent.pid), "the-receiver", false));
    assert_eq!(Totals::of(&row), Totals::received(30, 3));
    // A flow of a socket that has been received on is its from the start.
    let other = udp::bind((sock::loopback(3), 0).into());
    let ends = Ends::new(to, other.local_addr().expect("bound"));
    udp::send_to(&other, to, 10, 1);
    assert_eq!(agent.udp_receive(socket, 1), 10);
    wait_totals(&tcptop, ends, Totals::received(10, 1));
    check_flow(&tcptop.finish(), ends, Totals::received(10, 1), agent.pid);
}

/// The parent has bound the socket, its worker receives on it and answers.
fn owner_after_a_fork() {
    for older in [true, false] {
        let mut agent = Agent::new("the-master");
        let mut bound = older.then(|| agent.udp((sock::loopback(1), 0).into()));
        let tcptop = Tcptop::start(&QUICK);
        if !sees_receivers(&tcptop) {
            return left_out("owner_after_a_fork", "this kernel does not tell who receives");
        }
        let (socket, to) = *bound.get_or_insert_with(|| agent.udp((sock::loopback(1), 0).into()));
        let client = udp::bind((sock::loopback(2), 0).into());
        let from = client.local_addr().expect("bound");
        let ends = Ends::new(to, from);
        udp::send_to(&client, to, 10, 3);
        assert_eq!(agent.udp_receive(socket, 3), 30);
        tcptop.wait_row("row of the master", ends, |row| {
            row.process == "the-master" && Totals::of(row) == Totals::received(30, 3)
        });
        agent.fork();
        udp::send_to(&client, to, 10, 1);
        assert_eq!(agent.udp_receive(socket, 1), 10);
        let row = tcptop.wait_row("row of the worker", ends, |row| {
            row.pid == Some(agent.pid) && Totals::of(row) == Totals::received(40, 4)
        });
        assert_eq!((&*row.process, row.partial), ("the-master", older));
        agent.rename("the-worker");
        agent.udp_send(socket, from, 6, 1);
        assert_eq!(udp::receive(&client, 1), 6);
        let totals = Totals { bytes_in: 40, bytes_out: 6, packets_in: 4, packets_out: 1 };
        let row = wait_totals(&tcptop, ends, totals);
        assert_eq!((row.pid, &*row.process), (Some(agent.pid), "the-worker"));
        tcptop.finish();
    }
}

/// The datagram has been counted for a while before the worker of a process that
/// only holds the socket takes it: the worker's from then on, without another one.
fn owner_receives_late() {
    let mut agent = Agent::new("only-holds-it");
    let (socket, to) = agent.udp((sock::loopback(1), 0).into());
    let tcptop = Tcptop::start(&QUICK);
    if !sees_receivers(&tcptop) {
        return left_out("owner_receives_late", "this kernel does not tell who receives");
    }
    let client = udp::bind((sock::loopback(2), 0).into());
    let ends = Ends::new(to, client.local_addr().expect("bound"));
    udp::send_to(&client, to, 10, 1);
    if Provider::of(&tcptop) == Provider::CgroupSkb {
        let row = tcptop.wait_row("row of a rate back to zero", ends, |row| row.rates().0 == 0);
        assert_eq!((row.pid, &*row.process), (Some(agent.pid), "only-holds-it"));
    }
    agent.fork();
    agent.rename("late-worker");
    assert_eq!(agent.udp_receive(socket, 1), 10);
    let row = tcptop.wait_row("row of the worker", ends, |row| row.process == "late-worker");
    assert_eq!((row.pid, Totals::of(&row)), (Some(agent.pid), Totals::received(10, 1)));
    tcptop.finish();
}

/// The outer datagrams of a VXLAN tunnel are of a socket of the kernel's. Either
/// they are not shown (tunnels bypass the socket) or they belong to nobody: not
/// to the process whose packets are in them.
fn no_owner_of_a_tunnel() {
    let link = Link::new("10.86.3.1", "10.86.3.2");
    let [here, there] = link.addresses;
    for (netns, own, peer, inner) in
        [(&link.here, here, there, "10.86.4.1"), (&link.there, there, here, "10.86.4.2")]
    {
        let made = netns.run(|| {
            let device = format!(
                "link add vxlan0 type vxlan id 7 local {own} remote {peer} dstport 4789 dev veth0"
            );
            netns::run("ip", &device)?;
            ip(&format!("address add {inner}/24 dev vxlan0"));
            ip("link set vxlan0 up");
            Ok::<_, String>(())
        });
        if let Err(why) = made {
            return left_out("no_owner_of_a_tunnel", why.trim());
        }
    }
    let tcptop = Tcptop::start(&QUICK);
    let mut agent = link.here.run(|| Agent::new("in-the-tunnel"));
    let server = link.there.run(|| udp::bind(([10, 86, 4, 2], 0).into()));
    let to = server.local_addr().expect("bound");
    let (socket, from) = agent.udp(([10, 86, 4, 1], 0).into());
    for _ in 0..20 {
        agent.udp_send(socket, to, 500, 1);
        assert_eq!(udp::receive(&server, 1), 500);
    }
    let row = wait_totals(&tcptop, Ends::new(from, to), Totals::sent(10_000, 20));
    assert_eq!(row.pid, Some(agent.pid));
    wait_totals(&tcptop, Ends::new(to, from), Totals::received(10_000, 20));
    let output = tcptop.finish();
    let outer = |row: &&Row| {
        let ends = row.ends;
        (ends.local.port() == 4789 || ends.remote.port() == 4789)
            && (ends.local.ip() == here || ends.local.ip() == there)
    };
    for row in output.rows.iter().filter(outer) {
        assert_eq!(row.pid, None, "{row:?}");
    }
}

/// Sockets that are older than tcptop have partial flows, and an owner at once.
fn older_sockets() {
    let elsewhere = Netns::new();
    let mut here = Agent::new("older-here");
    let mut there = elsewhere.run(|| Agent::new("older-there"));
    let clients = [
        udp::bind((sock::loopback(2), 0).into()),
        elsewhere.run(|| udp::bind((sock::loopback(2), 0).into())),
    ];
    let bound = [&mut here, &mut there].map(|agent| agent.udp((sock::loopback(1), 0).into()));
    // What moved before is not counted.
    for ((agent, client), (socket, to)) in
        [&mut here, &mut there].into_iter().zip(&clients).zip(bound)
    {
        udp::send_to(client, to, 1000, 3);
        assert_eq!(agent.udp_receive(socket, 3), 3000);
    }
    let tcptop = Tcptop::start(&QUICK);
    let mut flows = Vec::new();
    for ((agent, client), (socket, to)) in
        [&mut here, &mut there].into_iter().zip(&clients).zip(bound)
    {
        let from = client.local_addr().expect("bound");
        let name = if flows.is_empty() { "older-here" } else { "older-there" };
        udp::send_to(client, to, 10, 2);
        if Provider::of(&tcptop) == Provider::CgroupSkb {
            // Nobody has received yet: it is whose the socket is.
            let row = wait_totals(&tcptop, Ends::new(to, from), Totals::received(20, 2));
            assert_eq!((row.pid, &*row.process), (Some(agent.pid), name));
        }
        assert_eq!(agent.udp_receive(socket, 2), 20);
        agent.udp_send(socket, from, 7, 1);
        assert_eq!(udp::receive(client, 1), 7);
        let totals = Totals { bytes_in: 20, bytes_out: 7, packets_in: 2, packets_out: 1 };
        flows.push((Ends::new(to, from), agent.pid, totals));
        flows.push((Ends::new(from, to), process::id(), totals.flipped()));
    }
    for &(ends, pid, totals) in &flows {
        let row = wait_totals(&tcptop, ends, totals);
        assert_eq!((row.pid, row.partial), (Some(pid), true));
    }
    // A newer socket of the same process.
    let mut duo = Duo::new(Family::V4, false);
    duo.send(3, 3);
    wait_duos(&tcptop, std::slice::from_ref(&duo));
    let output = tcptop.finish();
    check_duos(&output, &[duo]);
    for (ends, ..) in flows {
        assert!(output.rows_of(ends).all(|row| row.partial));
    }
}

/// The same tuple in two pairs of namespaces: four flows, no sum.
fn other_namespaces() {
    let tcptop = Tcptop::start(&["--udp", "--raw", "--all", "-t", "--interval", "0.1"]);
    let traffic = [(1000, 3), (50, 20)];
    // Of this process: another suite may run on this machine.
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

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    let kilobytes = line.split_ascii_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
    kilobytes.expect("a number") * 1024
}

/// As many descriptors as the kernel lets a process have.
fn many_descriptors() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills and reads a struct that lives here.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max.max(20_000);
        limit.rlim_max = limit.rlim_cur;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit)
    };
    assert_eq!(result, 0, "RLIMIT_NOFILE");
}

/// The rows of the newest interval of a run with `--all -t`.
fn rows_of_now(output: &Output) -> impl Iterator<Item = &Row> {
    let time = output.rows.last().and_then(|row| row.time.clone());
    output.rows.iter().rev().take_while(move |row| row.time == time)
}

/// The rows of the interval before the newest one, which may not be complete yet.
fn rows_of_a_whole_interval(output: &Output) -> impl Iterator<Item = &Row> {
    let newest = output.rows.last().and_then(|row| row.time.clone());
    let mut rows = output.rows.iter().rev().skip_while(move |row| row.time == newest).peekable();
    let time = rows.peek().and_then(|row| row.time.clone());
    rows.take_while(move |row| row.time == time)
}

/// What tcptop may need more than at its start, with nothing to show: 1,000 rows'
/// room for the next ones.
const SPARE: u64 = 3 << 20;

/// One unconnected socket answers 5,000 peers: each flow exact, all of the right
/// owner, all gone after the timeout, and their memory as well.
fn five_thousand_peers() {
    many_descriptors();
    let mut server = Agent::new("the-server");
    // Something to show while all others are gone.
    let mut beacon = Duo::new(Family::V4, true);
    let arguments = ["--udp", "--raw", "--all", "-t", "--interval", "0.2", "--udp-timeout", "1.5"];
    let tcptop = Tcptop::start(&arguments);
    let at_start = resident(tcptop.id());
    for _ in 0..2 {
        let (socket, to) = server.udp((sock::loopback(1), 0).into());
        let mut clients = Vec::new();
        let mut expected = HashMap::new();
        for i in 0..5000 {
            let client = udp::bind((sock::loopback(2), 0).into());
            let (size, count) = (1 + i % 1400, 1 + i as u32 % 3);
            let from = client.local_addr().expect("bound");
            udp::send_to(&client, to, size, count);
            let packets = u64::from(count);
            let totals = Totals {
                bytes_in: size as u64 * packets,
                bytes_out: 30 * packets,
                packets_in: packets,
                packets_out: packets,
            };
            expected.insert(Ends::new(to, from), (server.pid, totals));
            expected.insert(Ends::new(from, to), (process::id(), totals.flipped()));
            clients.push((client, count));
            // What waits in the server's socket is bounded.
            if clients.len() % 20 == 0 {
                let last = clients.len() - 20;
                let waiting = clients[last..].iter().map(|(_, count)| count).sum();
                server.udp_answer(socket, waiting, 30);
                for (client, count) in &clients[last..] {
                    assert_eq!(udp::receive(client, *count), u64::from(30 * count));
                }
            }
        }
        let mut waiting: HashMap<Ends, (u32, Totals)> = expected.clone();
        let mut seen = 0;
        tcptop.wait("row of each of 5,000 peers, at both ends", |output| {
            for row in &output.rows[seen..] {
                if let Some(&(pid, totals)) = waiting.get(&row.ends) {
                    if row.pid == Some(pid) && Totals::of(row) == totals && !row.partial {
                        waiting.remove(&row.ends);
                    }
                }
            }
            seen = output.rows.len();
            waiting.is_empty().then_some(())
        });
        tcptop.look(|output| {
            for row in output.rows.iter().filter(|row| expected.contains_key(&row.ends)) {
                let (pid, totals) = expected[&row.ends];
                let context = format!("{row:?}, expected {totals:?} of {pid}");
                assert!(row.bytes_in <= totals.bytes_in, "{context}");
                assert!(row.bytes_out <= totals.bytes_out, "{context}");
                assert!(row.pid.is_none_or(|found| found == pid), "{context}");
            }
        });
        drop(clients);
        let gone = |output: &Output| {
            let left = rows_of_now(output).any(|row| expected.contains_key(&row.ends));
            (!left).then_some(())
        };
        until_true("all flows to be gone", || {
            beacon.send(1, 1);
            tcptop.look(|output| rows_of_now(output).count() > 0 && gone(output).is_some())
        });
        until_true("the memory of 10,000 flows to be given back", || {
            beacon.send(1, 1);
            resident(tcptop.id()) < at_start + SPARE
        });
        println!("resident: {} KiB, at start {}", resident(tcptop.id()) >> 10, at_start >> 10);
    }
    let output = tcptop.finish();
    assert!(output.closed.is_empty(), "UDP has no [CLOSED]");
}

/// A flow that was forgotten begins anew with its next datagram.
fn expires_and_returns() {
    let arguments = ["--udp", "--raw", "--all", "-t", "--interval", "0.1", "--udp-timeout", "0.5"];
    let tcptop = Tcptop::start(&arguments);
    let mut beacon = Duo::new(Family::V4, true);
    let mut duo = Duo::new(Family::V4, false);
    for (size, count) in [(100, 3), (5, 2), (0, 1)] {
        duo.totals = Totals::default();
        duo.send(size, count);
        duo.answer(size + 1, count);
        let expected = duo.expected();
        // Within what --all shows now, not of the time before.
        for (ends, totals) in expected {
            tcptop.wait("row of now", |output| {
                rows_of_now(output)
                    .any(|row| row.ends == ends && Totals::of(row) == totals)
                    .then_some(())
            });
        }
        let began = Instant::now();
        until_true("the flow to be gone", || {
            beacon.send(1, 1);
            tcptop.look(|output| {
                let gone = !rows_of_now(output).any(|row| expected.iter().any(|e| e.0 == row.ends));
                gone && rows_of_now(output).count() > 0
            })
        });
        assert!(began.elapsed() > Duration::from_millis(300), "{:?}", began.elapsed());
    }
    let output = tcptop.finish();
    assert!(output.closed.is_empty(), "UDP has no [CLOSED]");
}

/// A flow of a run with `--format json`, apart from others of the same tuple by
/// the moment of its birth.
#[derive(Clone, Debug)]
struct Life {
    born_ms: i64,
    totals: Totals,
}

fn endpoint(value: &Value, end: &str) -> SocketAddr {
    let text = |key: &str| value[format!("{end}_{key}")].clone();
    let address = text("addr");
    let port = text("port").as_u64().expect("a port") as u16;
    SocketAddr::new(address.as_str().expect("an address").parse().expect("an address"), port)
}

/// The lives of each of these flows in JSON lines.
fn lives(output: &Output, ends: impl Iterator<Item = Ends>) -> HashMap<Ends, Vec<Life>> {
    let mut all: HashMap<Ends, Vec<Life>> = ends.map(|ends| (ends, Vec::new())).collect();
    for line in &output.lines {
        let value: Value = serde_json::from_str(line).expect("JSON");
        if value["event"] != "sample" || value["protocol"] != "UDP" {
            continue;
        }
        let ends = Ends::new(endpoint(&value, "local"), endpoint(&value, "remote"));
        let Some(lives) = all.get_mut(&ends) else { continue };
        let age = value["age_sec"].as_f64().expect("not partial");
        let time = value["timestamp"].as_str().expect("a time");
        let time = chrono::DateTime::parse_from_rfc3339(time).expect("a time").timestamp_millis();
        let born_ms = time - (age * 1000.0).round() as i64;
        let number = |key: &str| value[key].as_u64().expect("a number");
        let totals = Totals {
            bytes_in: number("bytes_in"),
            bytes_out: number("bytes_out"),
            packets_in: number("packets_in"),
            packets_out: number("packets_out"),
        };
        match lives.iter_mut().find(|life| (life.born_ms - born_ms).abs() < 50) {
            Some(life) => {
                assert!(life.totals.packets_in <= totals.packets_in, "{life:?} {line}");
                assert!(life.totals.packets_out <= totals.packets_out, "{life:?} {line}");
                life.totals = totals;
            }
            None => lives.push(Life { born_ms, totals }),
        }
    }
    all
}

/// Datagrams that come just when their flow is forgotten are counted, by it or
/// by the one after it.
fn nothing_lost_while_flows_expire() {
    let arguments = ["--udp", "--format", "json", "--interval", "0.1", "--udp-timeout", "0.2"];
    let tcptop = Tcptop::start(&arguments);
    let mut duos: Vec<Duo> = (0..100).map(|i| Duo::new(Family::ALL[i % 4], i % 8 < 4)).collect();
    let mut rng = Rng::new(0x7c97_0004);
    // Each flow rests for about the timeout and the intervals after it.
    let mut due: Vec<(Instant, usize)> = (0..duos.len()).map(|i| (Instant::now(), i)).collect();
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        for (when, i) in &mut due {
            if Instant::now() < *when {
                continue;
            }
            let size = rng.below(200) as usize;
            let count = 1 + rng.below(3) as u32;
            if rng.below(2) == 0 {
                duos[*i].send(size, count)
            } else {
                duos[*i].answer(size, count)
            }
            *when = Instant::now() + Duration::from_micros(180_000 + rng.below(250_000));
        }
        thread::sleep(Duration::from_micros(200));
    }
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(ended.lost(), "nothing");
    let all = lives(&ended.output, duos.iter().flat_map(Duo::expected).map(|(ends, _)| ends));
    let mut count = 0;
    for (ends, expected) in duos.iter().flat_map(Duo::expected) {
        let lives = &all[&ends];
        count += lives.len();
        let mut sum = Totals::default();
        lives.iter().for_each(|life| sum += life.totals);
        assert_eq!(sum, expected, "{ends:?}: {lives:#?}");
    }
    println!("{} flows in {count} lives", 2 * duos.len());
    assert!(count > 6 * duos.len(), "hardly any expired: {count}");
}

/// Datagrams that the namespace of the caller has sent and received.
fn host_datagrams() -> u64 {
    let udp = |file: &str, name: &str| -> u64 {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect(file);
        if file == "snmp6" {
            let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(name));
            return line.and_then(|l| l.split_ascii_whitespace().nth(1)?.parse().ok()).unwrap_or(0);
        }
        let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let position = names.split_ascii_whitespace().position(|n| n == name).expect("known");
        values.split_ascii_whitespace().nth(position).and_then(|v| v.parse().ok()).expect("number")
    };
    udp("snmp", "InDatagrams")
        + udp("snmp", "OutDatagrams")
        + udp("snmp6", "Udp6InDatagrams")
        + udp("snmp6", "Udp6OutDatagrams")
}

/// The counts of UDP that the summary says were lost: datagrams and bytes.
fn lost_flows(lost: &str) -> (u64, u64) {
    let count = |what: &str| {
        let part = lost.split(", ").find_map(|part| part.strip_suffix(what));
        part.map_or(0, |number| number.trim().parse().expect("a number"))
    };
    (count("UDP datagrams (flow table full)"), count("UDP bytes (flow table full)"))
}

/// 64 places, 1,000 flows: what is not in a row is in the loss, to the byte.
fn full_table() {
    // Traffic of others finds the table full as well: then again.
    for _ in 0..20 {
        if full_table_undisturbed() {
            return;
        }
    }
    panic!("this machine is never without UDP traffic of others");
}

fn full_table_undisturbed() -> bool {
    let arguments =
        ["--udp", "--raw", "--interval", "0.1", "--udp-timeout", "300", "--udp-flows", "64"];
    let tcptop = Tcptop::start(&arguments);
    let before = host_datagrams();
    let server = udp::bind((sock::loopback(1), 0).into());
    let to = server.local_addr().expect("bound");
    let clients: Vec<UdpSocket> =
        (0..500).map(|_| udp::bind((sock::loopback(2), 0).into())).collect();
    let mut sent = Totals::default();
    for round in 0..3 {
        for (i, client) in clients.iter().enumerate() {
            let size = 1 + (i * 7 + round) % 1000;
            udp::send_to(client, to, size, 1);
            assert_eq!(udp::receive(&server, 1), size as u64);
            // At the client out, at the server in: 1,000 flows.
            sent += Totals {
                bytes_in: size as u64,
                bytes_out: size as u64,
                packets_in: 1,
                packets_out: 1,
            };
        }
    }
    let moved = host_datagrams() - before;
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.output.check_contract();
    let mut last = HashMap::new();
    for row in &ended.output.rows {
        last.insert(row.ends, Totals::of(row));
    }
    let own: Vec<Totals> = last
        .iter()
        .filter(|(ends, _)| ends.local == to || ends.remote == to)
        .map(|(_, totals)| *totals)
        .collect();
    let mut shown = Totals::default();
    own.iter().for_each(|&totals| shown += totals);
    let foreign = last.len() > own.len() || moved != sent.packets_in + sent.packets_out;
    assert!(last.len() <= 64, "{} rows", last.len());
    let (datagrams, bytes) = lost_flows(ended.lost());
    let missing = (
        sent.packets_in + sent.packets_out - shown.packets_in - shown.packets_out,
        sent.bytes_in + sent.bytes_out - shown.bytes_in - shown.bytes_out,
    );
    if foreign {
        assert!(datagrams >= missing.0 && bytes >= missing.1, "{}", ended.stderr);
        return false;
    }
    assert_eq!(last.len(), 64, "the table was used to the last place");
    assert_eq!((datagrams, bytes), missing, "{}", ended.stderr);
    // Told in the interval in which it happened, too.
    let told =
        ended.stderr.lines().filter_map(|l| l.strip_prefix("tcptop: lost in this interval: "));
    let told = told.map(lost_flows).fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    assert_eq!(told, missing, "{}", ended.stderr);
    true
}

/// A receive buffer that overflows: the sender's flow has everything; the
/// receiver's has what arrived (cgroup_skb) or what the process got (fentry).
fn overflow() {
    let tcptop = Tcptop::start(&QUICK);
    let provider = Provider::of(&tcptop);
    let duo = Duo::new(Family::V4, true);
    set_int(&duo.other, libc::SOL_SOCKET, libc::SO_RCVBUF, 4096);
    for _ in 0..1000 {
        udp::send(&duo.one, 500);
    }
    let (got, bytes) = udp::drain(&duo.other);
    assert!((1..1000).contains(&got), "{got} of 1000");
    assert_eq!(bytes, 500 * got);
    wait_totals(&tcptop, duo.ends, Totals::sent(500_000, 1000));
    let expected = match provider {
        Provider::CgroupSkb => Totals::received(500_000, 1000),
        Provider::Entry => Totals::received(bytes, got),
    };
    wait_totals(&tcptop, duo.ends.flipped(), expected);
    let output = tcptop.finish();
    check_flow(&output, duo.ends, Totals::sent(500_000, 1000), process::id());
    assert_eq!(output.last_row(duo.ends.flipped()).map(Totals::of), Some(expected));
}

/// Killed when dropped.
struct Program(Child);

impl Program {
    /// `None` where it is not installed.
    fn start(command: &mut Command) -> Option<Program> {
        match command.stdin(Stdio::null()).spawn() {
            Ok(child) => Some(Program(child)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    /// What it wrote until its end, which it must reach by itself.
    fn output(&mut self) -> String {
        let mut text = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
        assert!(self.0.wait().expect("wait").success(), "{text}");
        text
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sums over the newest rows of all flows that satisfy the condition.
fn sum_flows(output: &Output, condition: impl Fn(&Row) -> bool) -> Totals {
    let last: HashMap<Ends, &Row> = output.rows.iter().map(|row| (row.ends, row)).collect();
    let mut sum = Totals::default();
    last.values().filter(|row| condition(row)).for_each(|row| sum += Totals::of(row));
    sum
}

/// dig asks dnsmasq: the flows have the sizes that dig tells.
fn dns() {
    let port = udp::bind((sock::loopback(1), 0).into()).local_addr().expect("bound").port();
    let address = SocketAddr::from((sock::loopback(1), port));
    let mut command = Command::new("dnsmasq");
    command
        .args(["--keep-in-foreground", "--no-daemon", "--conf-file=/dev/null", "--no-resolv"])
        .args(["--no-hosts", "--bind-interfaces", "--pid-file=", "--user=root"])
        .args(["--address=/test/192.0.2.1", "--quiet-dhcp"])
        .arg(format!("--port={port}"))
        .arg(format!("--listen-address={}", address.ip()))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let tcptop = Tcptop::start(&QUICK);
    let Some(server) = Program::start(&mut command) else {
        return left_out("dns", "dnsmasq is not installed");
    };
    until_true("dnsmasq to listen", || {
        let text = fs::read_to_string("/proc/net/udp").expect("/proc is mounted");
        text.contains(&format!(":{port:04X} "))
    });
    let questions = tempfile::NamedTempFile::new().expect("a file");
    let names = (1..=20).map(|i| format!("{}.test {}\n", "n".repeat(i), ["A", "TXT"][i % 2]));
    fs::write(questions.path(), names.collect::<String>()).expect("write");
    let mut command = Command::new("dig");
    command
        .arg(format!("@{}", address.ip()))
        .args(["-p", &port.to_string(), "+qr", "+notcp", "+tries=1", "+time=9", "-f"])
        .arg(questions.path())
        .env("HOME", "/nonexistent")
        .stdout(Stdio::piped());
    let Some(mut client) = Program::start(&mut command) else {
        return left_out("dns", "dig is not installed");
    };
    let text = client.output();
    let sizes = |label: &str| -> Vec<u64> {
        let lines = text.lines().filter_map(|line| line.strip_prefix(label));
        lines.map(|size| size.trim().parse().expect("a number")).collect()
    };
    let (asked, told) = (sizes(";; QUERY SIZE:"), sizes(";; MSG SIZE  rcvd:"));
    assert_eq!((asked.len(), told.len()), (20, 20), "{text}");
    let of_dig = Totals {
        bytes_in: told.iter().sum(),
        bytes_out: asked.iter().sum(),
        packets_in: 20,
        packets_out: 20,
    };
    let (dig, dnsmasq) = (client.0.id(), server.0.id());
    tcptop.wait("flows of the whole exchange", |output| {
        let of_client = sum_flows(output, |row| row.ends.remote == address);
        let of_server = sum_flows(output, |row| row.ends.local == address);
        (of_client == of_dig && of_server == of_dig.flipped()).then_some(())
    });
    let output = tcptop.finish();
    for row in &output.rows {
        if row.ends.remote == address {
            assert_eq!((row.pid, &*row.process), (Some(dig), "dig"), "{row:?}");
        } else if row.ends.local == address && (row.packets_out > 0 || row.pid.is_some()) {
            // What was only received may not have been looked at yet.
            assert_eq!((row.pid, &*row.process), (Some(dnsmasq), "dnsmasq"), "{row:?}");
        }
    }
}

/// iperf3 tells how many datagrams of which size it sent and got.
fn iperf() {
    let port = sock::listen(Family::V4).1.port();
    let address = SocketAddr::from((sock::loopback(1), port));
    let command = |role: &[&str]| {
        let mut command = Command::new("iperf3");
        command.args(role).args(["-p", &port.to_string(), "-J"]).stdout(Stdio::piped());
        command
    };
    let tcptop = Tcptop::start(&["--raw", "--interval", "0.1", "--udp-timeout", "300"]);
    let host = address.ip().to_string();
    let Some(mut server) = Program::start(&mut command(&["-s", "-1", "-B", &host])) else {
        return left_out("iperf", "iperf3 is not installed");
    };
    until_true("iperf3 to listen", || {
        let text = fs::read_to_string("/proc/net/tcp").expect("/proc is mounted");
        text.lines().any(|line| line.contains(&format!(":{port:04X} 00000000:0000 0A")))
    });
    let arguments = ["-c", &host, "-u", "-b", "100M", "-l", "1400", "-t", "1"];
    let mut client = Program::start(&mut command(&arguments)).expect("installed");
    let (text_client, text_server) = (client.output(), server.output());
    let read = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let (of_client, of_server) = (read(&text_client), read(&text_server));
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value}: {text_client}"));
    let sent = number(&of_client["end"]["sum_sent"]["packets"]);
    let bytes = number(&of_client["end"]["sum_sent"]["bytes"]);
    assert_eq!(bytes, 1400 * sent);
    // What the server did not miss of what it knows of.
    let of_server = &of_server["end"]["sum"];
    let got = number(&of_server["packets"]) - number(&of_server["lost_packets"]);
    let local = number(&of_client["start"]["connected"][0]["local_port"]) as u16;
    // Before the test each side sends one datagram of 4 bytes.
    let expected =
        Totals { bytes_in: 4, bytes_out: bytes + 4, packets_in: 1, packets_out: sent + 1 };
    let out = tcptop.wait("flow of the client", |output| {
        output
            .rows
            .iter()
            .find(|row| {
                row.state == "UDP"
                    && row.ends.remote == address
                    && row.ends.local.port() == local
                    && Totals::of(row) == expected
            })
            .cloned()
    });
    assert_eq!((out.pid, &*out.process), (Some(client.0.id()), "iperf3"));
    let arrived = match Provider::of(&tcptop) {
        Provider::CgroupSkb => expected.flipped(),
        Provider::Entry => {
            Totals { bytes_in: 1400 * got + 4, packets_in: got + 1, ..expected.flipped() }
        }
    };
    let row = wait_totals(&tcptop, out.ends.flipped(), arrived);
    assert_eq!((row.pid, &*row.process), (Some(server.0.id()), "iperf3"));
    tcptop.finish();
}

/// Each filter on UDP rows, beside TCP ones.
fn filters() {
    let mut runs = [
        (&["--udp"][..], [false, true, true]),
        (&["--tcp"], [true, false, false]),
        (&["-4"], [true, true, false]),
        (&["-6"], [false, false, true]),
        (&["--udp", "-4"], [false, true, false]),
        (&["--udp", "-6"], [false, false, true]),
        (&[], [true, true, true]),
    ]
    .map(|(filter, shown)| {
        let arguments = [filter, &["--raw", "--interval", "0.1", "--udp-timeout", "300"]].concat();
        (filter, shown, Some(Tcptop::start(&arguments)))
    });
    let pair = Pair::new(Family::V4);
    pair.exchange(10, 10);
    let mut duos = [Duo::new(Family::Mapped, false), Duo::new(Family::V6, false)];
    for duo in &mut duos {
        duo.send(10, 1);
        duo.answer(11, 2);
    }
    let all = [
        (pair.ends, Totals { bytes_in: 10, bytes_out: 10, ..Totals::default() }),
        duos[0].expected()[0],
        duos[1].expected()[0],
    ];
    for (filter, shown, tcptop) in &mut runs {
        let tcptop = tcptop.take().expect("runs");
        for ((ends, totals), shown) in all.iter().zip(*shown) {
            if shown {
                tcptop.wait_row("row that the filter lets through", *ends, |row| {
                    (row.bytes_in, row.bytes_out) == (totals.bytes_in, totals.bytes_out)
                });
            }
        }
        let output = tcptop.finish();
        for ((ends, _), shown) in all.iter().zip(*shown) {
            assert_eq!(output.last_row(*ends).is_some(), shown, "{filter:?}: {ends:?}");
        }
        if filter.contains(&"--udp") {
            assert!(output.rows.iter().all(|row| row.state == "UDP"));
            assert!(output.closed.is_empty());
        }
    }
}

/// CAP_BPF and CAP_PERFMON alone: where UDP needs CAP_NET_ADMIN as well, tcptop
/// says so in one line and shows TCP.
fn without_net_admin() {
    let (_directory, binary): (_, std::path::PathBuf) = public_binary();
    let capabilities = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    let arguments = ["--raw", "--interval", "0.1"];
    let run = |binary: &Path, capabilities: &[Capability]| -> Launch {
        as_nobody(binary, &arguments, capabilities)
    };
    let tcptop = run(&binary, &capabilities).start();
    let without_udp = !tcptop.stderr().is_empty();
    if without_udp {
        let notice = until("the notice", || {
            let text = tcptop.stderr();
            text.ends_with('\n').then_some(text)
        });
        assert_eq!(notice.lines().count(), 1, "{notice}");
        assert!(notice.starts_with("tcptop: cannot show UDP: "), "{notice}");
        assert!(notice.contains("CAP_NET_ADMIN"), "{notice}");
    } else {
        assert_eq!(Provider::of(&tcptop), Provider::Entry);
    }
    let pair = Pair::new(Family::V4);
    let mut duo = Duo::new(Family::V4, true);
    duo.send(30, 2);
    pair.exchange(100, 200);
    tcptop.wait_row("row of the connection", pair.ends, |row| row.bytes_in == 200);
    if !without_udp {
        wait_duos(&tcptop, std::slice::from_ref(&duo));
    }
    let ends = pair.ends;
    pair.close();
    tcptop.wait_closed(&[ends]);
    let output = tcptop.finish();
    assert_eq!(output.last_row(duo.ends).is_none(), without_udp);
    if without_udp {
        // With it there is UDP.
        let all = [&capabilities[..], &[Capability::CAP_NET_ADMIN]].concat();
        let tcptop = run(&binary, &all).start();
        assert_eq!(Provider::of(&tcptop), Provider::CgroupSkb);
        duo.totals = Totals::default();
        duo.send(30, 2);
        let row = wait_totals(&tcptop, duo.ends, duo.totals);
        assert_eq!(row.pid, Some(process::id()));
        tcptop.finish();
    }
}
