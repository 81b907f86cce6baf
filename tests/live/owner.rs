//! The owner of a connection, when sockets pass from one process to another.

use std::fs;
use std::os::unix::fs::symlink;
use std::process;

use crate::common::agent::Agent;
use crate::common::netns::Netns;
use crate::common::sock::{self, Ends, Family, Let, Pair, TcpInfo, receive, receive_all, send};
use crate::common::tcptop::{QUICK, Tcptop};

use super::{Test, left_out, sharing};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("owner::connects_and_accepts", connects_and_accepts),
        sharing("owner::accept_then_fork", accept_then_fork),
        sharing("owner::worker_of_many", worker_of_many),
        sharing("owner::passed_descriptor", passed_descriptor),
        sharing("owner::taking_turns", taking_turns),
        sharing("owner::thread_name", thread_name),
        sharing("owner::ended_before_its_connection", ended_before_its_connection),
        sharing("owner::exec", exec),
        sharing("owner::of_another_namespace", of_another_namespace),
        sharing("owner::of_a_failed_connect", of_a_failed_connect),
    ]
}

/// Waits for a row with this owner and these totals.
fn wait_owner(tcptop: &Tcptop, ends: Ends, pid: u32, name: &str, totals: (u64, u64)) {
    tcptop.wait_row(&format!("row of {name} ({pid}) with {totals:?}"), ends, |row| {
        row.pid == Some(pid) && row.process == name && (row.bytes_in, row.bytes_out) == totals
    });
}

/// Ends the run and checks the owner on the `[CLOSED]` line.
fn finish_owned(tcptop: Tcptop, ends: Ends, pid: u32, name: &str, totals: (u64, u64)) {
    tcptop.wait_closed(&[ends]);
    let output = tcptop.finish();
    let closed = output.the_closed(ends);
    assert_eq!((closed.pid, &*closed.process), (Some(pid), name), "{closed:#?}");
    assert_eq!((closed.bytes_in, closed.bytes_out), totals, "{closed:#?}");
}

/// Whether tcptop has a hook that sees which process uses a connection. Otherwise it only
/// looks up which process holds it.
fn sees_users(tcptop: &Tcptop) -> bool {
    // Without these tracepoints, fentry is the other way.
    tcptop.has_tracepoint("sock_recv_length") || tcptop.has_link("tracing")
}

/// Two processes, one connection: each end shows its own process, before any byte moves.
fn connects_and_accepts() {
    let (mut server, mut client) = (Agent::new("listening"), Agent::new("connecting"));
    let tcptop = Tcptop::share(&QUICK);
    let (listener, address) = server.listen((sock::loopback(1), 0).into());
    let from = client.connect(address);
    let to = server.accept(listener);
    wait_owner(&tcptop, from.ends, client.pid, "connecting", (0, 0));
    wait_owner(&tcptop, to.ends, server.pid, "listening", (0, 0));
    client.close(from);
    server.close(to);
    tcptop.wait_closed(&[from.ends]);
    finish_owned(tcptop, to.ends, server.pid, "listening", (0, 0));
}

/// The master accepts and forks; the worker becomes the owner when it does I/O.
fn accept_then_fork() {
    let mut agent = Agent::new("master");
    let tcptop = Tcptop::share(&QUICK);
    let (listener, address) = agent.listen((sock::loopback(1), 0).into());
    let client = sock::connect(address);
    let socket = agent.accept(listener);
    let master = agent.pid;
    agent.fork();
    let worker = agent.pid;
    assert_ne!(master, worker);
    agent.rename("worker");
    if sees_users(&tcptop) {
        wait_owner(&tcptop, socket.ends, master, "master", (0, 0));
    } else {
        left_out("the master of owner::accept_then_fork", "both hold the connection");
    }
    agent.send(socket, 1000);
    receive(&client, 1000);
    wait_owner(&tcptop, socket.ends, worker, "worker", (0, 1000));
    send(&client, 10);
    agent.receive(socket, 10);
    drop(agent);
    assert_eq!(receive_all(&client), 0);
    drop(client);
    finish_owned(tcptop, socket.ends, worker, "worker", (10, 1000));
}

/// The master listens, its worker accepts one connection after the other. The kernel reuses
/// the memory of the closed sockets for the new ones; each new one belongs to the worker.
fn worker_of_many() {
    let mut agent = Agent::new("master");
    let tcptop = Tcptop::share(&QUICK);
    if !sees_users(&tcptop) {
        tcptop.finish();
        return left_out("owner::worker_of_many", "both hold the listener");
    }
    let (listener, address) = agent.listen((sock::loopback(1), 0).into());
    agent.fork();
    agent.rename("worker");
    let ended: Vec<Ends> = (0..100)
        .map(|_| {
            let client = sock::connect(address);
            let socket = agent.accept(listener);
            for _ in 0..3 {
                send(&client, 10);
                agent.receive(socket, 10);
                agent.send(socket, 1000);
                receive(&client, 1000);
            }
            agent.close(socket);
            assert_eq!(receive_all(&client), 0);
            socket.ends
        })
        .collect();
    tcptop.wait_closed(&ended);
    let output = tcptop.finish();
    for ends in &ended {
        // The kernel may give a client the port of an earlier one.
        let uses = ended.iter().filter(|other| *other == ends).count();
        assert_eq!(output.closed_of(*ends).count(), uses, "{ends:?}");
        for closed in output.closed_of(*ends) {
            assert_eq!((closed.pid, &*closed.process), (Some(agent.pid), "worker"), "{closed:#?}");
            assert_eq!((closed.bytes_in, closed.bytes_out), (30, 3000), "{closed:#?}");
        }
    }
}

/// A process sends a descriptor over a Unix socket to another one and closes its own copy.
fn passed_descriptor() {
    let (mut giver, mut taker) = (Agent::new("giver"), Agent::new("taker"));
    let tcptop = Tcptop::share(&QUICK);
    let (socket, peer) = giver.connect_here(Family::V4);
    giver.send(socket, 5);
    receive(&peer, 5);
    wait_owner(&tcptop, socket.ends, giver.pid, "giver", (0, 5));
    let directory = tempfile::tempdir().expect("a directory");
    let mailbox = directory.path().join("mailbox");
    taker.mailbox(&mailbox);
    giver.give(socket, &mailbox);
    let taken = taker.take();
    assert_eq!(taken.ends, socket.ends);
    // Receiving is I/O as well.
    send(&peer, 7);
    taker.receive(taken, 7);
    wait_owner(&tcptop, socket.ends, taker.pid, "taker", (7, 5));
    giver.exit();
    taker.send(taken, 9);
    receive(&peer, 9);
    let pid = taker.pid;
    taker.close(taken);
    assert_eq!(receive_all(&peer), 0);
    drop(peer);
    finish_owned(tcptop, socket.ends, pid, "taker", (7, 14));
}

/// Two processes take turns with one socket, each several times: the last user is the owner.
fn taking_turns() {
    let (mut one, mut other) = (Agent::new("one"), Agent::new("other"));
    let tcptop = Tcptop::share(&QUICK);
    if !sees_users(&tcptop) {
        tcptop.finish();
        return left_out("owner::taking_turns", "both hold the connection");
    }
    let (socket, peer) = one.connect_here(Family::V4);
    let directory = tempfile::tempdir().expect("a directory");
    let mailbox = directory.path().join("mailbox");
    other.mailbox(&mailbox);
    one.share(socket, &mailbox);
    let shared = other.take();
    let (mut received, mut sent) = (0, 0);
    for times in [1, 2, 5, 1] {
        for (agent, copy, name) in [(&mut one, socket, "one"), (&mut other, shared, "other")] {
            for _ in 0..times {
                agent.send(copy, 10);
                receive(&peer, 10);
                sent += 10;
            }
            wait_owner(&tcptop, socket.ends, agent.pid, name, (received, sent));
        }
        for (agent, copy, name) in [(&mut one, socket, "one"), (&mut other, shared, "other")] {
            for _ in 0..times {
                send(&peer, 7);
                agent.receive(copy, 7);
                received += 7;
            }
            wait_owner(&tcptop, socket.ends, agent.pid, name, (received, sent));
        }
    }
    let pid = other.pid;
    one.close(socket);
    other.close(shared);
    assert_eq!(receive_all(&peer), 0);
    drop(peer);
    finish_owned(tcptop, shared.ends, pid, "other", (received, sent));
}

/// A thread with a name of its own sends: the row shows the name of the process.
fn thread_name() {
    let mut agent = Agent::new("the-process");
    let tcptop = Tcptop::share(&QUICK);
    let (socket, peer) = agent.connect_here(Family::V6);
    agent.send_named("a-thread", socket, 300);
    receive(&peer, 300);
    wait_owner(&tcptop, socket.ends, agent.pid, "the-process", (0, 300));
    agent.close(socket);
    assert_eq!(receive_all(&peer), 0);
    drop(peer);
    let pid = agent.pid;
    let output = tcptop.finish();
    let names = output.rows_of(socket.ends).map(|row| (&*row.process, row.pid));
    assert!(names.into_iter().all(|name| name == ("the-process", Some(pid))));
    let closed = output.the_closed(socket.ends);
    assert_eq!((&*closed.process, closed.pid), ("the-process", Some(pid)));
}

/// The process has ended while the kernel still delivers the bytes that it sent.
fn ended_before_its_connection() {
    let mut agent = Agent::new("short-lived");
    let tcptop = Tcptop::share(&QUICK);
    let (socket, peer) = agent.connect_here(Family::V4);
    sock::filter_incoming(&peer, Let::Nothing);
    let bytes = 50_000;
    agent.send(socket, bytes);
    let pid = agent.pid;
    agent.exit();
    let orphan = tcptop.wait_row("row of the orphan", socket.ends, |row| row.state == "FIN_WAIT1");
    assert_eq!((orphan.pid, &*orphan.process), (Some(pid), "short-lived"));
    assert_eq!(TcpInfo::of(&peer).bytes_received, 0, "not yet delivered");
    sock::let_all_in(&peer);
    assert_eq!(receive_all(&peer), bytes);
    drop(peer);
    finish_owned(tcptop, socket.ends, pid, "short-lived", (0, bytes));
}

/// A process executes another program: the new name is shown when it does I/O.
fn exec() {
    let mut agent = Agent::new("old-image");
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("new-image");
    let this = fs::read_link("/proc/self/exe").expect("/proc is mounted");
    symlink(this, &program).expect("symlink");
    let tcptop = Tcptop::share(&QUICK);
    let (socket, peer) = agent.connect_here(Family::V4);
    agent.send(socket, 100);
    receive(&peer, 100);
    wait_owner(&tcptop, socket.ends, agent.pid, "old-image", (0, 100));
    agent.exec(&program, socket);
    agent.send(socket, 50);
    receive(&peer, 50);
    wait_owner(&tcptop, socket.ends, agent.pid, "new-image", (0, 150));
    agent.close(socket);
    assert_eq!(receive_all(&peer), 0);
    drop(peer);
    finish_owned(tcptop, socket.ends, agent.pid, "new-image", (0, 150));
}

/// A process of another network namespace.
fn of_another_namespace() {
    let netns = Netns::new();
    let tcptop = Tcptop::share(&QUICK);
    let (pid, socket) = netns.run(|| {
        let mut agent = Agent::new("elsewhere");
        let (socket, peer) = agent.connect_here(Family::V4);
        agent.send(socket, 77);
        receive(&peer, 77);
        agent.close(socket);
        assert_eq!(receive_all(&peer), 0);
        (agent.pid, socket)
    });
    finish_owned(tcptop, socket.ends, pid, "elsewhere", (0, 77));
}

/// One process's connects fail while another one serves: each row has the right owner.
fn of_a_failed_connect() {
    let tcptop = Tcptop::share(&QUICK);
    let (listener, address) = sock::listen(Family::V4);
    drop(listener);
    let socket = sock::unconnected(address, None);
    sock::connect_socket(&socket, address).expect_err("nobody listens");
    let pair = Pair::new(Family::V4);
    pair.close();
    let pid = tcptop.wait("the refused connect", |output| {
        output.closed.iter().find(|closed| closed.ends.remote == address).map(|closed| closed.pid)
    });
    assert_eq!(pid, Some(process::id()));
    tcptop.finish();
}
