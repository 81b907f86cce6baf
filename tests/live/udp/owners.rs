//! The owner of a flow.

use std::process;

use crate::common::agent::Agent;
use crate::common::netns::{self, Netns, ip};
use crate::common::sock::{self, Ends, Family};
use crate::common::tcptop::{Row, Tcptop};
use crate::common::udp::{self, Duo, QUICK, Totals, check_flow, wait_totals};
use crate::live::{Test, left_out, sharing, test};

use super::{Link, Provider, check_duos, sees_receivers, wait_duos};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("udp::owner_of_a_sender", owner_of_a_sender),
        sharing("udp::owner_of_a_receiver", owner_of_a_receiver),
        test("udp::owner_after_a_fork", owner_after_a_fork),
        test("udp::owner_receives_late", owner_receives_late),
        sharing("udp::no_owner_of_a_tunnel", no_owner_of_a_tunnel),
        test("udp::older_sockets", older_sockets),
    ]
}

/// The owner is the process, not its thread, from the first datagram on.
fn owner_of_a_sender() {
    let mut agent = Agent::new("the-sender");
    let tcptop = Tcptop::share(&QUICK);
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
    let tcptop = Tcptop::share(&QUICK);
    let mut agent = Agent::new("the-receiver");
    let (socket, to) = agent.udp((sock::loopback(1), 0).into());
    let client = udp::bind((sock::loopback(2), 0).into());
    let ends = Ends::new(to, client.local_addr().expect("bound"));
    udp::send_to(&client, to, 10, 3);
    assert_eq!(agent.udp_receive(socket, 3), 30);
    let row = tcptop.wait_row("row of the receiver", ends, |row| row.pid.is_some());
    assert_eq!((row.pid, &*row.process, row.partial), (Some(agent.pid), "the-receiver", false));
    assert_eq!(Totals::of(&row), Totals::received(30, 3));
    // The process has received on this socket, so it owns new flows from the start.
    let other = udp::bind((sock::loopback(3), 0).into());
    let ends = Ends::new(to, other.local_addr().expect("bound"));
    udp::send_to(&other, to, 10, 1);
    assert_eq!(agent.udp_receive(socket, 1), 10);
    wait_totals(&tcptop, ends, Totals::received(10, 1));
    check_flow(&tcptop.finish(), ends, Totals::received(10, 1), agent.pid);
}

/// The parent has bound the socket; its worker receives and answers, and owns the flows.
fn owner_after_a_fork() {
    for older in [true, false] {
        let mut agent = Agent::new("the-master");
        let mut bound = older.then(|| agent.udp((sock::loopback(1), 0).into()));
        let tcptop = Tcptop::start(&QUICK);
        if !sees_receivers(&tcptop) {
            return left_out("owner_after_a_fork", "this kernel does not show who receives");
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

/// A datagram is counted while a process only holds the socket. Later the worker of that
/// process takes it: from then on the flow belongs to the worker, without a new datagram.
fn owner_receives_late() {
    let mut agent = Agent::new("only-holds-it");
    let (socket, to) = agent.udp((sock::loopback(1), 0).into());
    let tcptop = Tcptop::start(&QUICK);
    if !sees_receivers(&tcptop) {
        return left_out("owner_receives_late", "this kernel does not show who receives");
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

/// The outer datagrams of a VXLAN tunnel belong to a socket of the kernel. Either they are
/// not shown (tunnels bypass the socket), or they have no owner: they never belong to the
/// process whose packets they carry.
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
    let tcptop = Tcptop::share(&QUICK);
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

/// Flows of sockets that are older than tcptop are partial and have an owner at once.
fn older_sockets() {
    let elsewhere = Netns::new();
    let mut here = Agent::new("older-here");
    let mut there = elsewhere.run(|| Agent::new("older-there"));
    let clients = [
        udp::bind((sock::loopback(2), 0).into()),
        elsewhere.run(|| udp::bind((sock::loopback(2), 0).into())),
    ];
    let bound = [&mut here, &mut there].map(|agent| agent.udp((sock::loopback(1), 0).into()));
    // Datagrams before tcptop's start are not counted.
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
            // Nobody has received yet: the process that holds the socket owns the flow.
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
    // A socket that the same process makes after tcptop's start.
    let mut duo = Duo::new(Family::V4, false);
    duo.send(3, 3);
    wait_duos(&tcptop, std::slice::from_ref(&duo));
    let output = tcptop.finish();
    check_duos(&output, &[duo]);
    for (ends, ..) in flows {
        assert!(output.rows_of(ends).all(|row| row.partial));
    }
}
