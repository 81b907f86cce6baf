//! tcptop reports to the byte what it could not count.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Barrier;
use std::thread;

use crate::common::sock::{self, Ends};
use crate::common::tcptop::{Output, Row, Tcptop, losses};
use crate::common::udp::{self, Totals};
use crate::live::{Test, test};

use super::roomy;

pub fn tests() -> Vec<Test> {
    vec![
        test("udp::many_threads_one_socket", many_threads_one_socket),
        test("udp::full_table", full_table),
    ]
}

/// The rows of the last interval but one. (The newest interval may be incomplete.)
fn rows_of_a_whole_interval(output: &Output) -> impl Iterator<Item = &Row> {
    let newest = output.rows.last().and_then(|row| row.time.clone());
    let mut rows = output.rows.iter().rev().skip_while(move |row| row.time == newest).peekable();
    let time = rows.peek().and_then(|row| row.time.clone());
    rows.take_while(move |row| row.time == time)
}

/// Two threads send the first datagrams of a flow at the same time, over and over: nothing
/// is lost, and one flow has the datagrams of both threads.
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
    // If one thread is preempted within tcptop's program, the kernel skips the program for
    // the other thread. Then exactly as many datagrams are missing as tcptop reports.
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
    // A tuple has two rows only if one was written before the second flow was made.
    assert!(extra <= expected.len() / 100, "{extra} of {} have two rows", expected.len());
    let skipped = tcptop.skipped();
    if skipped == 0 {
        tcptop.finish();
        return;
    }
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.output.check_contract();
    assert_eq!(ended.losses().into_iter().collect::<Vec<_>>(), [("skipped", skipped)]);
}

/// The datagrams that the caller's namespace has sent and received so far.
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

/// The UDP losses of a report: datagrams and bytes.
fn lost_flows(losses: &BTreeMap<&str, u64>) -> (u64, u64) {
    let count = |cause| losses.get(cause).copied().unwrap_or(0);
    (count("flow_table_datagrams"), count("flow_table_bytes"))
}

/// 64 slots, 1,000 flows: each byte that is in no row is in the reported loss.
fn full_table() {
    // Other traffic of the host may find the table full as well: then try again.
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
            // A flow out of each client and one into the server: 1,000 flows.
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
    let (datagrams, bytes) = lost_flows(&ended.losses());
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
    // The loss was also reported in the interval in which it happened.
    let reported =
        ended.stderr.lines().filter_map(|l| l.strip_prefix("tcptop: lost in this interval: "));
    let reported = reported
        .map(|lost| lost_flows(&losses(lost)))
        .fold((0, 0), |sum, part| (sum.0 + part.0, sum.1 + part.1));
    assert_eq!(reported, missing, "{}", ended.stderr);
    true
}
