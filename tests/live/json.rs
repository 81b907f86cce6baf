//! JSON lines: other programs read them correctly, and a reader may stop reading.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

use crate::common::agent::Agent;
use crate::common::churn::read_account;
use crate::common::columns::{CAUSES, COLUMNS};
use crate::common::program;
use crate::common::sock::{Ends, Family, Pair, Stream, bounded, loopback, reset};
use crate::common::tcptop::{Launch, Output, Tcptop, check_messages_of_log};
use crate::common::wait::until_true;

use super::{Test, left_out, long, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("json::schema", schema),
        test("json::for_other_programs", for_other_programs),
        test("json::published_schema", published_schema),
        test("json::lost_datagrams", lost_datagrams),
        test("json::log_file", log_file),
        test("json::stopped_reader", stopped_reader),
    ]
}

/// Checks that the line is one object with exactly the keys and types of the schema.
fn parse(line: &str) -> BTreeMap<String, Value> {
    let object: BTreeMap<String, Value> =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!(object["schema"], 1, "{line}");
    if object["event"] == "lost" {
        assert_eq!(object.len(), 4 + CAUSES.len(), "{line}");
        assert!(CAUSES.iter().all(|(cause, _)| object[*cause].is_u64()), "{line}");
        return object;
    }
    let event = object["event"].as_str().expect("text");
    assert!(["sample", "closed", "expired"].contains(&event), "{line}");
    assert_eq!(event == "closed", object["state"] == "CLOSED", "{line}");
    assert_eq!(event == "expired", object["state"] == "EXPIRED", "{line}");
    // The keys besides `schema` and `event`.
    assert_eq!(object.len(), 2 + COLUMNS.len(), "{line}");
    for &(key, kind) in COLUMNS {
        let value = object.get(key).unwrap_or_else(|| panic!("no {key}: {line}"));
        let fits = match kind.to_ascii_uppercase() {
            'S' => value.is_string(),
            'N' => value.is_number(),
            _ => value.is_boolean(),
        };
        assert!(fits || (value.is_null() && kind.is_lowercase()), "{key}: {line}");
    }
    object
}

/// `--log FILE --format json`: every file has only whole objects, also after rotation. With
/// `--append` they follow those of an earlier run; tcptop refuses to append to CSV.
fn log_file() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, moved) = (directory.path().join("log.json"), directory.path().join("log.json.1"));
    let path = log.to_str().expect("UTF-8");
    let arguments = ["--tcp", "--interval", "0.1", "--format", "json", "--log", path];
    let objects = |file: &Path| -> Vec<BTreeMap<String, Value>> {
        let text = fs::read_to_string(file).unwrap_or_default();
        // The last object may be incomplete.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        text[..whole].lines().map(parse).collect()
    };
    let closed = |file: &Path, ends: Ends| {
        let of = |object: &&BTreeMap<String, Value>| {
            object["event"] == "closed" && ends_of(object) == ends
        };
        objects(file).iter().filter(of).map(bytes_of).collect::<Vec<_>>()
    };
    let moves = |bytes: u64| {
        let pair = Pair::new(Family::V4);
        pair.exchange(bytes, 7);
        let ends = pair.ends;
        pair.close();
        ends
    };

    let tcptop = Launch::new(&arguments).start();
    let first = moves(1000);
    until_true("the first in the file", || closed(&log, first) == [(7, 1000)]);
    fs::rename(&log, &moved).expect("rename");
    tcptop.signal(libc::SIGHUP);
    until_true("a new file", || log.exists());
    let second = moves(2000);
    until_true("the second in the new file", || closed(&log, second) == [(7, 2000)]);
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success() && ended.output.lines.is_empty(), "{:?}", ended.status);
    check_messages_of_log(&ended.stderr, &log, "0.1", "JSON");
    assert_eq!((closed(&moved, first), closed(&moved, second)), (vec![(7, 1000)], vec![]));

    let whole = fs::read(&log).expect("the log");
    fs::write(&log, [&whole[..], b"{\"schema\":1,\"ev"].concat()).expect("write");
    let append = [&arguments[..], &["--append", "--once"]].concat();
    let ended = Launch::new(&append).spawn().ended();
    let cut = "tcptop: cut off an unfinished row of 15 bytes that an earlier run left";
    assert_eq!(ended.stderr.lines().next(), Some(cut));
    let after = fs::read(&log).expect("the log");
    assert!(after.starts_with(&whole) && after.ends_with(b"\n"));
    assert_eq!(closed(&log, second), [(7, 2000)]);

    fs::write(&log, "timestamp,protocol\n").expect("write");
    let ended = Launch::new(&append).spawn().ended();
    ended.check_error(&format!(
        "cannot append to {path}: it does not begin as tcptop's JSON lines do; choose another file"
    ));
    assert_eq!(fs::read(&log).expect("the log"), b"timestamp,protocol\n", "not touched");
}

fn ends_of(object: &BTreeMap<String, Value>) -> Ends {
    let address = |side: &str| -> SocketAddr {
        let host = object[&format!("{side}_addr")].as_str().expect("a string");
        let port = object[&format!("{side}_port")].as_u64().expect("a port");
        let text = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        format!("{text}:{port}").parse().expect("an address")
    };
    Ends::new(address("local"), address("remote"))
}

fn bytes_of(object: &BTreeMap<String, Value>) -> (u64, u64) {
    let number = |key: &str| object[key].as_u64().expect("a whole number");
    (number("bytes_in"), number("bytes_out"))
}

fn schema() {
    let tcptop = Tcptop::start(&["--format", "json", "--interval", "0.1", "--udp-timeout", "60"]);
    let (fin, rst) = (Pair::new(Family::V4), Pair::new(Family::V6));
    fin.exchange(1000, 1_000_000);
    rst.exchange(1, 2);
    let (fin_ends, rst_ends) = (fin.ends, rst.ends);
    fin.close();
    reset(rst.client);
    let flow = UdpSocket::bind((loopback(1), 0)).expect("bind");
    let server = UdpSocket::bind((loopback(1), 0)).expect("bind");
    let [here, there] = [&flow, &server].map(|socket| socket.local_addr().expect("bound"));
    flow.send_to(&[0; 99], there).expect("send");
    bounded(&server);
    server.recv(&mut [0; 99]).expect("receive");
    let has = |ends: Ends, event: &str| {
        tcptop.wait(event, |output| {
            // Parsing every row of a busy host again and again would take long.
            let port = format!("\"local_port\":{},", ends.local.port());
            let lines = output.lines.iter().filter(|line| line.contains(&port));
            let objects = lines.map(|line| parse(line));
            objects
                .filter(|object| object["event"] == event && ends_of(object) == ends)
                .find(|object| event == "closed" || bytes_of(object) != (0, 0))
        })
    };
    let closed = has(fin_ends, "closed");
    assert_eq!(bytes_of(&closed), (1_000_000, 1000));
    assert_eq!((&closed["end"], &closed["partial"]), (&"fin".into(), &false.into()));
    assert_eq!(closed["pid"], std::process::id());
    assert_eq!(bytes_of(&has(rst_ends.flipped(), "closed")), (1, 2));
    assert_eq!(has(rst_ends.flipped(), "closed")["end"], "rst");
    let sample = has(Ends::new(here, there), "sample");
    assert_eq!((bytes_of(&sample), &sample["rtt_us"]), ((0, 99), &Value::Null));
    assert_eq!((&sample["state"], &sample["end"]), (&"UDP".into(), &Value::Null));
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    for line in &ended.output.lines {
        parse(line);
    }
}

/// jq, with the recipe of the documentation, and Python's json can read the lines.
fn for_other_programs() {
    const RESETS: &str =
        r#"select(.event == "closed" and .end == "rst") | [.remote_port, .bytes_in]"#;
    const PYTHON: &str = r#"
import json, sys
for line in sys.stdin:
    row = json.loads(line)
    if row["event"] == "closed" and row["end"] == "rst":
        print(json.dumps([row["remote_port"], row["bytes_in"]], separators=(",", ":")))
"#;
    let tcptop = Tcptop::start(&["--format", "json", "--tcp", "--interval", "0.1"]);
    let mut agent = Agent::new(b"a \"b\"\\\n\xff");
    let (_socket, peer) = agent.connect_here(Family::V4);
    let pair = Pair::new(Family::V4);
    pair.exchange(10, 12_345);
    let ends = pair.ends.flipped();
    reset(pair.client);
    let expected = format!("[{},10]", ends.remote.port());
    tcptop.wait("reset", |output| {
        output.lines.iter().any(|line| line.contains("\"end\":\"rst\"")).then_some(())
    });
    let ended = tcptop.stop(libc::SIGINT);
    drop(peer);
    let text = ended.output.lines.join("\n");
    let of = |answer: String| answer.lines().filter(|line| **line == expected).count();
    if program::is_there("jq") {
        assert_eq!(of(program::output_of("jq", &["-c", RESETS], &text)), 1);
    } else {
        left_out("json::for_other_programs", "no jq here");
    }
    if program::is_there("python3") {
        assert_eq!(of(program::output_of("python3", &["-c", PYTHON], &text)), 1);
    } else {
        left_out("json::for_other_programs", "no python3 here");
    }
}

/// Python's validator accepts what tcptop writes, with all kinds of columns and events, and
/// refuses what it never writes.
fn published_schema() {
    const VALIDATE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator
lines = [json.loads(line) for line in sys.stdin]
Draft202012Validator.check_schema(lines[0])
validator = Draft202012Validator(lines[0])
known = set(lines[0]["properties"]) | set(lines[0]["then"]["properties"])
for line in lines[1:]:
    if validator.is_valid(line) and set(line) <= known:
        print(line["event"])
"#;
    if !program::is_there("jsonschema") {
        return left_out("json::published_schema", "no jsonschema here");
    }
    let schema: Value =
        serde_json::from_str(include_str!("../../docs/tcptop.schema.json")).expect("JSON");
    let wide = "+exe,user,unit,cwnd,limited_by,connect_us,delivery_rate,congestion,drops,pod";
    let timeout = ["--interval", "0.1", "--udp-timeout", "0.2", "--format", "json"];
    let mut lines = vec![schema.to_string()];
    for (arguments, last) in [
        (&["--columns", wide][..], r#""event":"expired""#),
        (&["--by", "process,remote"][..], r#""event":"group""#),
        (&["--udp-flows", "16"][..], r#""event":"lost""#),
    ] {
        let tcptop = Tcptop::start(&[&timeout[..], arguments].concat());
        let pair = Pair::new(Family::V6);
        pair.exchange(10, 20);
        pair.close();
        let server = UdpSocket::bind((loopback(1), 0)).expect("bind");
        for _ in 0..40 {
            let client = UdpSocket::bind((loopback(1), 0)).expect("bind");
            client.send_to(b"x", server.local_addr().expect("bound")).expect("send");
        }
        let there = |output: &Output| output.lines.iter().any(|line| line.contains(last));
        tcptop.wait(last, |output| there(output).then_some(()));
        lines.extend(tcptop.stop(libc::SIGINT).output.lines);
    }
    let written = lines.len() - 1;
    lines.push(r#"{"schema":1,"event":"sample","bytes_in":"many"}"#.into());
    lines.push(r#"{"schema":1,"event":"lost"}"#.into());
    lines.push(r#"{"schema":2,"event":"sample"}"#.into());
    let valid = program::output_of("python3", &["-c", VALIDATE], &lines.join("\n"));
    assert_eq!(valid.lines().count(), written);
    for event in ["sample", "closed", "expired", "group", "lost"] {
        assert!(valid.lines().any(|line| line == event), "no {event}");
    }
}

/// More flows than the table has room for: each byte that is in no row is in the `lost`
/// objects, and `--strict` ends with status 3.
fn lost_datagrams() {
    let server = UdpSocket::bind((loopback(1), 0)).expect("bind");
    bounded(&server);
    let address = server.local_addr().expect("bound");
    let port = address.port().to_string();
    // With --port only flows of that port take room in the table.
    let arguments = ["--udp", "--port", &port, "--udp-flows", "16", "--strict"];
    let tcptop =
        Tcptop::start(&[&arguments[..], &["--format", "json", "--interval", "0.1"]].concat());
    let mut sent = 0;
    for size in 0..200 {
        let client = UdpSocket::bind((loopback(1), 0)).expect("bind");
        client.send_to(&vec![b'u'; size], address).expect("send");
        assert_eq!(server.recv(&mut [0; 1000]).expect("receive"), size);
        sent += size as u64;
    }
    let ended = tcptop.stop(libc::SIGINT);
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    let mut shown = HashMap::new();
    let mut lost = (0, 0);
    for object in ended.output.lines.iter().map(|line| parse(line)) {
        let number = |key: &str| object[key].as_u64().expect("a number");
        if object["event"] == "lost" {
            lost.0 += number("flow_table_datagrams");
            lost.1 += number("flow_table_bytes");
        } else {
            let bytes = bytes_of(&object);
            let packets = number("packets_in") + number("packets_out");
            shown.insert(ends_of(&object), (packets, bytes.0 + bytes.1));
        }
    }
    let shown = shown.values().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    // Each datagram is sent on one flow and received on another.
    assert_eq!((shown.0 + lost.0, shown.1 + lost.1), (400, 2 * sent), "{shown:?} {lost:?}");
    assert!(lost.0 > 300, "{lost:?}");
    let (datagrams, bytes) = lost;
    let total =
        format!("{datagrams} UDP datagrams (flow table full), {bytes} UDP bytes (flow table full)");
    assert_eq!(ended.lost(), total);
    assert!(ended.stderr.contains("tcptop: lost in this interval: "), "{}", ended.stderr);
}

/// A `cat` that writes its input into a file and can be stopped. Killed when dropped.
struct Cat(Child);

impl Cat {
    fn signal(&self, signal: libc::c_int) {
        // SAFETY: no memory is involved; the child is not reaped, so the id is its own.
        assert_eq!(unsafe { libc::kill(self.0.id() as i32, signal) }, 0, "kill");
    }
}

impl Drop for Cat {
    fn drop(&mut self) {
        // Fails only if it was waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The reader of a pipeline is stopped (Ctrl-Z) while more connections end than tcptop
/// keeps: tcptop's memory stays bounded, it counts what it could not keep, and afterwards
/// every total is exact.
fn stopped_reader() {
    const CONNECTIONS: u32 = 45_000;
    let directory = tempfile::tempdir().expect("a directory");
    let (output, account) = (directory.path().join("output"), directory.path().join("account"));
    let steady = Pair::new(Family::V4);
    let tcptop = Launch::new(&["--tcp", "--format", "json", "--interval", "0.1", "--strict"])
        .blocked()
        .start();
    let mut command = Command::new("cat");
    tcptop.give_output_to(&mut command);
    command.stdout(File::create(&output).expect("create"));
    let mut cat = Cat(command.spawn().expect("cat"));
    until_true("rows", || fs::metadata(&output).is_ok_and(|meta| meta.len() > 0));
    cat.signal(libc::SIGSTOP);

    let stream = Stream::start(&steady, 1000, Duration::from_millis(1));
    let _idle: Vec<Pair> = (0..100).map(|_| Pair::new(Family::V6)).collect();
    let (mut server, mut client) = (Agent::new("rest-server"), Agent::new("rest-client"));
    let rest = std::time::Instant::now();
    let address = server.serve_churn(CONNECTIONS);
    client.churn(address, CONNECTIONS, &account);
    until_true("a full pipe", || tcptop.is_blocked());
    while rest.elapsed() < long(Duration::ZERO, Duration::from_secs(60)) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let peak = tcptop.peak_memory();
    assert!(peak < 64 << 20, "{} MiB", peak >> 20);
    cat.signal(libc::SIGCONT);
    let sent = stream.stop().last().expect("something").total;

    let ended = tcptop.stop(libc::SIGINT);
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    let lost: u64 = ended
        .lost()
        .split(", ")
        .filter(|cause| cause.contains("closed connections"))
        .map(|cause| cause.split(' ').next().and_then(|n| n.parse::<u64>().ok()).expect("a number"))
        .sum();
    assert!(lost > 0, "{}", ended.stderr);
    assert!(cat.0.wait().expect("wait").success());

    // Two connections can have the same tuple, so the test compares how often each line
    // occurs in the account and in the rows.
    let mut balance: HashMap<(Ends, (u64, u64)), i64> = HashMap::new();
    let mut last = (0, 0);
    let mut lost_events = 0;
    for line in BufReader::new(File::open(&output).expect("open")).lines() {
        let object = parse(&line.expect("a line"));
        if object["event"] == "lost" {
            let number = |key: &str| object[key].as_u64().expect("a number");
            lost_events += number("ring_full") + number("channel_full");
        } else if object["event"] == "closed" && is_churn(&object) {
            *balance.entry((ends_of(&object), bytes_of(&object))).or_default() += 1;
        } else if ends_of(&object) == steady.ends {
            last = bytes_of(&object);
        }
    }
    assert_eq!(lost_events, lost);
    assert_eq!(last, (0, sent), "the total is exact again");
    let account = read_account(&fs::read_to_string(account).expect("the account"));
    assert_eq!(account.len(), CONNECTIONS as usize);
    for entry in account {
        let (ends, up, down) = (entry.ends, entry.up, entry.down);
        for end in [(ends, (down, up)), (ends.flipped(), (up, down))] {
            *balance.entry(end).or_default() -= 1;
        }
    }
    let invented = balance.iter().find(|&(_, &count)| count > 0);
    assert_eq!(invented, None, "printed, but not expected");
    let missing = balance.values().sum::<i64>().unsigned_abs();
    // Other connections of the host may be among what was lost.
    assert!(missing > 0 && missing <= lost, "{missing} missing, {lost} reported as lost");
}

fn is_churn(object: &BTreeMap<String, Value>) -> bool {
    object["process_name"].as_str().is_some_and(|name| name.starts_with("rest-"))
}
