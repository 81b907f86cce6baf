//! When a flow begins, when it is forgotten, and that nothing is lost in between.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::SocketAddr;
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::agent::Agent;
use crate::common::rng::Rng;
use crate::common::sock::{self, Ends, Family};
use crate::common::tcptop::{Output, Row, Tcptop};
use crate::common::udp::{self, Duo, QUICK, Totals, wait_totals};
use crate::common::wait::{load, until_true};
use crate::live::{Test, sharing, test};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("udp::short_lived", short_lived),
        test("udp::five_thousand_peers", five_thousand_peers),
        test("udp::expires_and_returns", expires_and_returns),
        test("udp::nothing_lost_while_flows_expire", nothing_lost_while_flows_expire),
    ]
}

/// socket, connect, send, close: the socket is gone before a tick looks at the flow.
fn short_lived() {
    let tcptop = Tcptop::share(&QUICK);
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
        // If a port is used again, it is another socket with its own row.
        sent.entry(ends).or_insert_with(Vec::new).push(i as u64);
    }
    for (&ends, sizes) in &sent {
        for &size in sizes {
            let row = wait_totals(&tcptop, ends, Totals::sent(size, 1));
            assert_eq!((row.pid, row.partial), (Some(process::id()), false));
        }
        // The server always uses the same socket.
        let received = Totals::received(sizes.iter().sum(), sizes.len() as u64);
        wait_totals(&tcptop, ends.flipped(), received);
    }
    tcptop.finish();
}

/// Resident memory of a process in bytes.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).expect("RssAnon");
    let kilobytes = line.split_ascii_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
    kilobytes.expect("a number") * 1024
}

/// Raises the limit of descriptors to the kernel's maximum for a process.
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

/// The memory that tcptop may keep when all flows are gone, above that at its start: it
/// keeps room for the next 1,000 rows.
const SPARE: u64 = 3 << 20;

/// One unconnected socket answers 5,000 peers, on an emulated machine 1,500. Each flow is exact and has the right owner.
/// After the timeout all flows are gone, and their memory too.
fn five_thousand_peers() {
    many_descriptors();
    let mut server = Agent::new("the-server");
    // This flow stays when all others are gone.
    let mut beacon = Duo::new(Family::V4, true);
    let arguments = ["--udp", "--raw", "--all", "-t", "--interval", "0.2", "--udp-timeout", "1.5"];
    let tcptop = Tcptop::start(&arguments);
    let at_start = resident(tcptop.id());
    for _ in 0..2 {
        let (socket, to) = server.udp((sock::loopback(1), 0).into());
        let mut clients = Vec::new();
        let mut expected = HashMap::new();
        for i in 0..load(5000, 1500) as usize {
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
            // Only a bounded number of datagrams may wait in the server's socket.
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
        tcptop.wait("row of each peer, at both ends", |output| {
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
        until_true("the memory of all flows to be given back", || {
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
        // Only rows of the newest interval, not older ones.
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

/// A flow in JSON lines. The time of its birth distinguishes it from other flows of the
/// same tuple.
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

/// For each tuple, all flows that the JSON lines show.
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

/// Datagrams that arrive while their flow is being forgotten are counted: in that flow or
/// in the next one of the same tuple.
fn nothing_lost_while_flows_expire() {
    let arguments = ["--udp", "--format", "json", "--interval", "0.1", "--udp-timeout", "0.2"];
    let tcptop = Tcptop::start(&arguments);
    let mut duos: Vec<Duo> = (0..100).map(|i| Duo::new(Family::ALL[i % 4], i % 8 < 4)).collect();
    let mut rng = Rng::new(0x7c97_0004);
    // Each flow is silent for about the timeout plus the intervals that removing it takes.
    let mut due: Vec<(Instant, usize)> = (0..duos.len()).map(|i| (Instant::now(), i)).collect();
    let end = Instant::now() + Duration::from_secs(5);
    let mut bursts = 0;
    // On a busy machine, five seconds are too short for that many.
    while Instant::now() < end || bursts < 10 * duos.len() {
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
            bursts += 1;
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
