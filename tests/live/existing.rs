//! Connections that are older than tcptop.

use std::collections::HashSet;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::agent::Agent;
use crate::common::netns::Netns;
use crate::common::sock::{
    self, Ends, Family, Pair, Stream, TcpInfo, await_received, receive, receive_all, send,
};
use crate::common::tcptop::{Launch, Output, QUICK, Row, Tcptop};
use crate::common::udp::{Duo, Totals, wait_totals};
use crate::common::wait::load;

use super::{Test, long, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("existing::idle", idle),
        test("existing::busy", busy),
        test("existing::in_the_accept_queue", in_the_accept_queue),
        test("existing::closing", closing),
        test("existing::lifetime", lifetime),
        test("existing::lifetime_of_a_flow", lifetime_of_a_flow),
        test("existing::thousands", thousands),
        test("existing::restarted_at_once", restarted_at_once),
        test("existing::shared_by_processes", shared_by_processes),
        test("existing::listeners_are_no_connections", listeners_are_no_connections),
    ]
}

/// The row of the start listing, which is written when tcptop says it is ready.
fn listed(output: &Output, ends: Ends) -> Row {
    let row = output.rows_of(ends).next().unwrap_or_else(|| panic!("{ends:?} is not listed"));
    assert!(row.partial, "{row:?}");
    row.clone()
}

/// The totals start at zero and then count exactly what is moved.
fn check_idle(tcptop: &Tcptop, ends: Ends, pid: u32, name: &str, state: &str) {
    let row = tcptop.look(|output| listed(output, ends));
    assert_eq!((row.pid, &*row.process, &*row.state), (Some(pid), name, state));
    let counts = (row.bytes_in, row.bytes_out, row.packets_in, row.packets_out);
    assert_eq!(counts, (0, 0, 0, 0), "{row:?}");
    assert_eq!(row.rates(), (0, 0));
}

/// Connections here and in another namespace, each held by a different process.
fn idle() {
    let other = Netns::new();
    let connect = || {
        let mut agent = Agent::new("keeps-it");
        let (socket, peer) = agent.connect_here(Family::V4);
        agent.send(socket, 1000);
        receive(&peer, 1000);
        send(&peer, 3);
        agent.receive(socket, 3);
        // The acknowledgement of the 3 bytes was sent.
        sock::await_acked(&peer);
        (agent, socket, peer)
    };
    let mut held = [connect(), other.run(connect)];
    let tcptop = Tcptop::start(&QUICK);
    for (agent, socket, peer) in &mut held {
        check_idle(&tcptop, socket.ends, agent.pid, "keeps-it", "ESTABLISHED");
        agent.send(*socket, 12_345);
        receive(peer, 12_345);
        send(peer, 6789);
        agent.receive(*socket, 6789);
        tcptop.wait_row("row with what moved since", socket.ends, |row| {
            row.partial && (row.bytes_in, row.bytes_out) == (6789, 12_345)
        });
        agent.close(*socket);
        assert_eq!(receive_all(peer), 0);
    }
    let ends: Vec<_> = held.iter().map(|(_, socket, _)| socket.ends).collect();
    let pids: Vec<_> = held.iter().map(|(agent, ..)| agent.pid).collect();
    drop(held);
    tcptop.wait_closed(&ends);
    let output = tcptop.finish();
    for (ends, pid) in ends.into_iter().zip(pids) {
        let closed = output.the_closed(ends);
        assert!(closed.partial, "{closed:?}");
        assert_eq!((closed.bytes_in, closed.bytes_out), (6789, 12_345), "{closed:?}");
        assert_eq!((closed.pid, &*closed.process), (Some(pid), "keeps-it"));
        assert_eq!(closed.age, "-", "unknown: {closed:?}");
        let closed = output.the_closed(ends.flipped());
        assert_eq!((closed.bytes_in, closed.bytes_out), (12_345, 6789), "{closed:?}");
        assert_eq!(closed.pid, Some(process::id()));
    }
}

/// Traffic before, during and after the start: tcptop began to count between its start and
/// its readiness, so the totals lie between the bytes moved since these two moments.
fn busy() {
    let pairs = [Pair::new(Family::Mapped), Netns::new().run(|| Pair::new(Family::V6))];
    let streams = pairs.each_ref().map(|pair| {
        pair.exchange(3 << 20, 3 << 20);
        Stream::start(pair, 20_000, Duration::from_micros(200))
    });
    // What the client has sent, and what the server has received.
    let moved = || {
        pairs.each_ref().map(|pair| {
            let (client, server) = (TcpInfo::of(&pair.client), TcpInfo::of(&pair.server));
            [client.bytes_out(), server.bytes_received]
        })
    };
    let before = moved();
    let tcptop = Tcptop::start(&QUICK);
    let ready = moved();
    for pair in &pairs {
        tcptop.look(|output| listed(output, pair.ends));
        tcptop.wait_row("row with traffic", pair.ends, |row| row.partial && row.rates().1 > 0);
    }
    for stream in streams {
        stream.stop();
    }
    let total = moved();
    let ends = pairs.each_ref().map(|pair| pair.ends);
    drop(pairs);
    tcptop.wait_closed(&ends);
    tcptop.wait_closed(&ends.map(Ends::flipped));
    let output = tcptop.finish();
    for (i, ends) in ends.into_iter().enumerate() {
        let (client, server) = (output.the_closed(ends), output.the_closed(ends.flipped()));
        let told = [(client, client.bytes_out), (server, server.bytes_in)];
        for (end, (closed, bytes)) in told.into_iter().enumerate() {
            let [before, ready, total] = [before, ready, total].map(|moved| moved[i][end]);
            assert!(ready > before, "there was traffic meanwhile");
            let possible = total - ready..=total - before;
            assert!(possible.contains(&bytes), "{possible:?}: {closed:#?}");
            assert!(closed.partial);
            assert_eq!(closed.pid, Some(process::id()));
        }
    }
}

/// A connection that is established but not yet accepted: no process holds its socket.
fn in_the_accept_queue() {
    let mut agent = Agent::new("slow-acceptor");
    let (listener, address) = agent.listen((sock::loopback(1), 0).into());
    let client = sock::connect(address);
    send(&client, 500);
    sock::await_acked(&client);
    let ends = Ends::of(&client).flipped();
    let tcptop = Tcptop::start(&QUICK);
    let row = tcptop.look(|output| listed(output, ends));
    assert_eq!((&*row.state, row.bytes_in, row.bytes_out), ("ESTABLISHED", 0, 0));
    assert!(row.pid.is_none() || row.pid == Some(agent.pid), "{row:?}");
    let socket = agent.accept(listener);
    assert_eq!(socket.ends, ends);
    agent.receive(socket, 500);
    agent.send(socket, 40);
    receive(&client, 40);
    send(&client, 60);
    agent.receive(socket, 60);
    tcptop.wait_row("row of the acceptor", ends, |row| {
        row.pid == Some(agent.pid) && (row.bytes_in, row.bytes_out) == (60, 40)
    });
    agent.close(socket);
    assert_eq!(receive_all(&client), 0);
    drop(client);
    tcptop.wait_closed(&[ends]);
    let output = tcptop.finish();
    let closed = output.the_closed(ends);
    assert_eq!((closed.pid, &*closed.process), (Some(agent.pid), "slow-acceptor"));
    assert_eq!((closed.bytes_in, closed.bytes_out, closed.partial), (60, 40, true));
}

/// Connections that are half closed at the start: listed with their states, and their FIN
/// does not count as a byte.
fn closing() {
    let pair = Pair::new(Family::V4);
    pair.exchange(10, 10);
    pair.client.shutdown(std::net::Shutdown::Write).expect("shutdown");
    assert_eq!(receive_all(&pair.server), 0);
    sock::await_acked(&pair.client);
    let tcptop = Tcptop::start(&QUICK);
    let row = tcptop.look(|output| listed(output, pair.ends));
    assert_eq!((&*row.state, row.bytes_in, row.bytes_out), ("FIN_WAIT2", 0, 0));
    let row = tcptop.look(|output| listed(output, pair.ends.flipped()));
    assert_eq!((&*row.state, row.bytes_in, row.bytes_out), ("CLOSE_WAIT", 0, 0));
    send(&pair.server, 4000);
    receive(&pair.client, 4000);
    let ends = pair.ends;
    drop(pair);
    tcptop.wait_closed(&[ends, ends.flipped()]);
    let output = tcptop.finish();
    for (ends, bytes_in, bytes_out) in [(ends, 4000, 0), (ends.flipped(), 0, 4000)] {
        let closed = output.the_closed(ends);
        assert_eq!(
            (closed.bytes_in, closed.bytes_out, &*closed.end),
            (bytes_in, bytes_out, "fin"),
            "{closed:?}"
        );
    }
}

/// With `--lifetime` the totals count from the beginning of the connection, without a mark.
fn lifetime() {
    let pair = Pair::new(Family::V4);
    pair.exchange(70_000, 5);
    sock::await_acked(&pair.client);
    await_received(&pair.client, 5);
    let info = TcpInfo::of(&pair.client);
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "0.1", "--lifetime"]);
    let row = tcptop.look(|output| output.last_row(pair.ends).cloned()).expect("listed");
    assert_eq!((row.bytes_in, row.bytes_out, row.partial), (5, 70_000, false), "{row:?}");
    assert_eq!(row.rates(), (0, 0), "its past is no traffic of now");
    assert!(
        row.packets_out >= u64::from(info.segs_out) && row.packets_in >= u64::from(info.segs_in)
    );
    pair.exchange(30_000, 6);
    let ends = pair.ends;
    pair.close();
    tcptop.wait_closed(&[ends, ends.flipped()]);
    let output = tcptop.finish();
    for (ends, bytes_in, bytes_out) in [(ends, 11, 100_000), (ends.flipped(), 100_000, 11)] {
        let closed = output.the_closed(ends);
        assert_eq!(
            (closed.bytes_in, closed.bytes_out, closed.partial),
            (bytes_in, bytes_out, false),
            "{closed:?}"
        );
    }
}

/// `--lifetime` changes nothing for UDP flows, since nobody counts what they moved before
/// tcptop: an older flow is marked, and its first interval has a rate.
fn lifetime_of_a_flow() {
    let mut duo = Duo::new(Family::V4, true);
    duo.send(1000, 3);
    let arguments = ["--raw", "--interval", "0.1", "--udp-timeout", "300", "--lifetime"];
    let tcptop = Tcptop::start(&arguments);
    duo.totals = Totals::default();
    duo.send(500, 4);
    for (ends, totals) in duo.expected() {
        wait_totals(&tcptop, ends, totals);
    }
    let expected = duo.expected();
    let output = tcptop.finish();
    for (ends, totals) in expected {
        let first = output.rows_of(ends).next().expect("a row");
        assert!(first.partial, "{first:?}");
        let (rate_in, rate_out) = first.rates();
        assert!(rate_in + rate_out > 0, "its first datagrams have a rate: {first:?}");
        assert!(output.rows_of(ends).all(|row| row.partial), "{totals:?}");
    }
}

/// Many older connections: each is listed once and counted from zero.
fn thousands() {
    sock::raise_file_limit();
    let pairs: Vec<Pair> = (0..2000)
        .map(|i| {
            let pair = Pair::new(Family::ALL[i % 4]);
            send(&pair.client, 100);
            receive(&pair.server, 100);
            pair
        })
        .collect();
    // An interval so long that the listing is all there is.
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "3600"]);
    let own: HashSet<Ends> = pairs.iter().flat_map(|p| [p.ends, p.ends.flipped()]).collect();
    assert_eq!(own.len(), 4000);
    tcptop.look(|output| {
        let rows: Vec<&Row> = output.rows.iter().filter(|row| own.contains(&row.ends)).collect();
        assert_eq!(rows.len(), own.len(), "each once");
        for row in rows {
            assert_eq!((row.bytes_in, row.bytes_out, row.partial), (0, 0, true), "{row:?}");
            assert_eq!(row.pid, Some(process::id()));
        }
    });
    for (i, pair) in pairs.iter().enumerate() {
        send(&pair.client, i as u64);
        receive(&pair.server, i as u64);
    }
    let output = tcptop.finish();
    for (i, pair) in pairs.iter().enumerate().skip(1) {
        let i = i as u64;
        for (ends, totals) in [(pair.ends, (0, i)), (pair.ends.flipped(), (i, 0))] {
            let row = output.last_row(ends).expect("a row");
            assert_eq!((row.bytes_in, row.bytes_out, row.partial), (totals.0, totals.1, true));
        }
    }
}

/// tcptop is killed while the next one lists the sockets, at another moment each time: the
/// kernel takes the storage of the first one from the sockets to which the second one gives
/// its own. No connection is lost, not even at a moment.
fn restarted_at_once() {
    // `--process` leaves out all rows, and the kernel's side works as ever.
    const ARGUMENTS: [&str; 5] = ["--tcp", "--interval", "0.1", "--process", "(nobody)"];
    let (holders, connections, turns) = long((1, load(2_000, 300), load(12, 4)), (6, 9_000, 20));
    sock::raise_file_limit();
    let mut agents: Vec<Agent> = (0..holders).map(|_| Agent::new("holder")).collect();
    thread::scope(|scope| {
        for agent in &mut agents {
            scope.spawn(move || agent.hold(connections));
        }
    });
    let began = Instant::now();
    let mut older = Tcptop::start(&ARGUMENTS);
    let start = began.elapsed();
    for turn in 0..turns {
        let mut younger = Launch::new(&ARGUMENTS).spawn();
        thread::sleep(start * turn / turns);
        older.stop(libc::SIGKILL);
        younger.await_ready();
        let told = younger.stderr();
        assert_eq!(told, "", "turn {turn} of {turns}");
        older = younger;
    }
    older.finish();
}

/// A socket that a process and its fork both hold is one connection.
fn shared_by_processes() {
    let mut agent = Agent::new("parent");
    let (socket, peer) = agent.connect_here(Family::V4);
    let parent = agent.pid;
    agent.fork();
    agent.rename("child");
    let tcptop = Tcptop::start(&QUICK);
    let row = tcptop.look(|output| listed(output, socket.ends));
    let holders = [(Some(parent), "parent"), (Some(agent.pid), "child")];
    assert!(holders.contains(&(row.pid, &*row.process)), "{row:?}");
    agent.send(socket, 8);
    receive(&peer, 8);
    tcptop.wait_row("row of the child", socket.ends, |row| {
        (row.pid, &*row.process, row.bytes_out) == (Some(agent.pid), "child", 8)
    });
    tcptop.finish();
}

/// A listener, TIME_WAIT and a socket that never connected are not listed.
fn listeners_are_no_connections() {
    let (listener, address) = sock::listen(Family::V4);
    let unconnected = sock::unconnected(address, Some((sock::loopback(5), 0).into()));
    let pair = Pair::accept(&listener, sock::connect(address));
    let ends = pair.ends;
    pair.close();
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--all", "--interval", "0.1", "--count", "2"]);
    let ended = tcptop.ended();
    ended.check();
    let own = [address, unconnected.local_addr().expect("bound"), ends.local];
    let shown = ended.output.rows.iter().find(|row| own.contains(&row.ends.local));
    assert_eq!(shown, None);
}
