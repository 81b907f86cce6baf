//! Connections with a place in the pool, and those without (`bpf/pool.bpf.h`): both have the
//! same rows.

use std::net::TcpStream;
use std::process;

use crate::common::agent::Agent;
use crate::common::sock::{self, Ends, Family, Pair, send};
use crate::common::tcptop::{QUICK, Tcptop};
use crate::common::wait::load;

use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("pool::none", || with_room(Some("0"))),
        test("pool::half", || with_room(Some("2048"))),
        test("pool::whole", || with_room(None)),
        test("pool::full", full),
    ]
}

fn start(room: Option<&str>) -> Tcptop {
    let room = room.map(|places| format!("pool={places}"));
    Tcptop::start(
        &QUICK
            .into_iter()
            .chain(["--room"].into_iter().filter(|_| room.is_some()))
            .chain(room.as_deref())
            .collect::<Vec<_>>(),
    )
}

/// The child of a listener that has a place, or none, has a place or none. While no process
/// has accepted it, it belongs to its own listener's process.
fn with_room(room: Option<&str>) {
    const LISTENERS: usize = 6;
    const CLIENTS: usize = 30;
    let mut agents: Vec<Agent> =
        (0..LISTENERS).map(|number| Agent::new(format!("pool-{number}"))).collect();
    let mut listen = |agent: &mut Agent| agent.listen((sock::loopback(3), 0).into());
    // Half of the listeners are older than tcptop.
    let (older, younger) = agents.split_at_mut(LISTENERS / 2);
    let mut listeners: Vec<_> = older.iter_mut().map(&mut listen).collect();
    let tcptop = start(room);
    listeners.extend(younger.iter_mut().map(&mut listen));
    let clients: Vec<(TcpStream, Ends, usize, u64)> = (1..=CLIENTS * LISTENERS)
        .map(|number| {
            let listener = number % LISTENERS;
            let client = sock::connect(listeners[listener].1);
            send(&client, number as u64);
            let ends = Ends::of(&client);
            (client, ends, listener, number as u64)
        })
        .collect();
    for (_, ends, listener, bytes) in &clients {
        let (pid, name) = (agents[*listener].pid, format!("pool-{listener}"));
        tcptop.wait_row("row of a child", ends.flipped(), |row| {
            (row.bytes_in, row.pid, &row.process) == (*bytes, Some(pid), &name)
        });
        tcptop.wait_row("row of a client", *ends, |row| {
            (row.bytes_out, row.pid) == (*bytes, Some(process::id()))
        });
    }
    let pids: Vec<u32> = agents.iter().map(|agent| agent.pid).collect();
    // Nobody has read what was sent: each end is reset.
    agents.into_iter().for_each(Agent::exit);
    let ended: Vec<_> = clients
        .into_iter()
        .map(|(client, ends, listener, bytes)| {
            sock::await_closed(&client);
            (ends, pids[listener], bytes)
        })
        .collect();
    let all: Vec<Ends> = ended.iter().flat_map(|(ends, ..)| [*ends, ends.flipped()]).collect();
    tcptop.wait_closed(&all);
    let output = tcptop.finish();
    for (ends, pid, bytes) in ended {
        let server = output.the_closed(ends.flipped());
        assert_eq!((server.bytes_in, server.bytes_out, server.pid), (bytes, 0, Some(pid)));
        let client = output.the_closed(ends);
        assert_eq!((client.bytes_in, client.bytes_out), (0, bytes), "{client:?}");
        assert_eq!(client.pid, Some(process::id()), "{client:?}");
    }
}

/// More connections than the pool has places. All have their rows and their ends.
fn full() {
    sock::raise_file_limit();
    let tcptop = start(None);
    let (listener, address) = sock::listen(Family::V6);
    let pairs: Vec<Pair> = (0..load(3000, 2100))
        .map(|number| {
            let pair = Pair::accept(&listener, sock::connect(address));
            pair.exchange(u64::from(number) + 1, 1);
            pair
        })
        .collect();
    for (pair, bytes) in pairs.iter().zip(1..) {
        for (ends, totals) in [(pair.ends, (1, bytes)), (pair.ends.flipped(), (bytes, 1))] {
            tcptop.wait_row("row", ends, |row| (row.bytes_in, row.bytes_out) == totals);
        }
    }
    let ends: Vec<Ends> = pairs.iter().map(|pair| pair.ends).collect();
    pairs.into_iter().for_each(Pair::close);
    // Their places are free again.
    let after: Vec<Pair> = (0..100).map(|_| Pair::new(Family::V4)).collect();
    after.iter().for_each(|pair| pair.exchange(7, 8));
    let after_ends: Vec<Ends> = after.iter().map(|pair| pair.ends).collect();
    after.into_iter().for_each(Pair::close);
    let both = |ends: &[Ends]| -> Vec<Ends> {
        ends.iter().flat_map(|ends| [*ends, ends.flipped()]).collect()
    };
    tcptop.wait_closed(&both(&ends));
    tcptop.wait_closed(&both(&after_ends));
    let output = tcptop.finish();
    for (ends, bytes) in ends.into_iter().zip(1..) {
        let (client, server) = (output.the_closed(ends), output.the_closed(ends.flipped()));
        assert_eq!((client.bytes_in, client.bytes_out), (1, bytes), "{client:?}");
        assert_eq!((server.bytes_in, server.bytes_out), (bytes, 1), "{server:?}");
    }
    for ends in after_ends {
        let client = output.the_closed(ends);
        assert_eq!((client.bytes_in, client.bytes_out), (8, 7), "{client:?}");
    }
}
