//! The line format as a shell sees it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, FixedOffset, Utc};

use crate::common::agent::Agent;
use crate::common::sock::{self, Ends, Family, Pair, Stream, receive, receive_all};
use crate::common::tcptop::{self, Closed, Output, QUICK, Row, Tcptop};
use crate::common::wait::{patience, until};

use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("lines::hostile_process_names", hostile_process_names),
        test("lines::readable_sizes", readable_sizes),
        test("lines::only_what_changed", only_what_changed),
        test("lines::all_connections", all_connections),
        test("lines::timestamps", timestamps),
        test("lines::highest_rate_first", highest_rate_first),
        test("lines::families", families),
        test("lines::states", states),
        test("lines::head_ends_it", head_ends_it),
        test("lines::closed_pipe_with_a_long_interval", closed_pipe_with_a_long_interval),
        test("lines::full_disk_is_an_error", full_disk_is_an_error),
    ]
}

/// Names of processes, and how a row shows them (`None`: in any way, as one field).
const NAMES: [(&[u8], Option<&str>); 17] = [
    (b"two words", Some("two_words")),
    (b" lead & trail ", Some("_lead_&_trail_")),
    (b"tab\there", Some("tab_here")),
    (b"line\nfeed", Some("line_feed")),
    (b"return\rhome", Some("return_home")),
    (b"\x1b[31mred\x1b[0m", Some("_[31mred_[0m")),
    (b"\x07bell\x7f", Some("_bell_")),
    (b"%s%n%d %", Some("%s%n%d_%")),
    (b"\"quoted\"", Some("\"quoted\"")),
    (b"it's, [CSV]", Some("it's,_[CSV]")),
    (b"a) in=1 out=2", Some("a)_in=1_out=2")),
    (b"[PARTIAL]", None),
    ("日本語の名".as_bytes(), Some("日本語の名")),
    ("csi\u{9b}31m".as_bytes(), Some("csi_31m")),
    (b"\xff\xfe\xc3(", None),
    (b"   ", Some("___")),
    (b"", None),
];

fn hostile_process_names() {
    let tcptop = Tcptop::start(&QUICK);
    let mut agents: Vec<_> = NAMES
        .iter()
        .map(|&(name, shown)| {
            let mut agent = Agent::new(name);
            let (socket, peer) = agent.connect_here(Family::V4);
            agent.send(socket, 10);
            receive(&peer, 10);
            (agent, socket, peer, shown)
        })
        .collect();
    for (agent, socket, peer, shown) in &mut agents {
        let row = tcptop.wait_row("row of the name", socket.ends, |row| row.bytes_out == 10);
        assert_eq!(row.pid, Some(agent.pid));
        assert!(shown.is_none_or(|shown| shown == row.process), "{shown:?}: {row:?}");
        agent.close(*socket);
        assert_eq!(receive_all(peer), 0);
    }
    let all: Vec<Ends> = agents.iter().map(|(_, socket, ..)| socket.ends).collect();
    tcptop.wait_closed(&all);
    let output = tcptop.finish();
    for (agent, socket, _, shown) in &agents {
        let closed = output.the_closed(socket.ends);
        assert_eq!(closed.pid, Some(agent.pid));
        assert!(shown.is_none_or(|shown| shown == closed.process), "{shown:?}: {closed:?}");
    }
    // Rows of other processes' connections, older ones too, must have this form as well.
    let program = r#"!/^\[CLOSED\]/ && NF != 13 && !(NF == 14 && $14 == "[PARTIAL]")"#;
    assert_eq!(awk(&output, program), "");
    assert_eq!(awk(&output, "NF == 13 { n++ } END { print (n > 17) }"), "1\n");
}

/// Runs the awk of this machine on the output.
fn awk(output: &Output, program: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("output");
    fs::write(&path, output.lines.join("\n") + "\n").expect("write");
    let mut command = Command::new("awk");
    let result = match command.arg(program).arg(&path).output() {
        Err(_) => Command::new("busybox").arg("awk").arg(program).arg(&path).output(),
        result => result,
    };
    let result = result.expect("awk");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
    String::from_utf8(result.stdout).expect("UTF-8")
}

/// Without `--raw` a size has the exact number and a readable one in one field.
fn readable_sizes() {
    let tcptop = Tcptop::start(&["--tcp", "--interval", "0.1"]);
    let pair = Pair::new(Family::V4);
    let sizes = [(340, "340B"), (2048, "2048(2.0K)"), (1_258_291, "1258291(1.2M)")];
    let mut sent = 0;
    for (total, text) in &sizes {
        pair.exchange(total - sent, 0);
        sent = *total;
        tcptop.wait_row("row with the size", pair.ends, |row| row.bytes_out == *total);
        tcptop.look(|output| {
            let row = output.rows_of(pair.ends).rfind(|row| row.bytes_out == *total).expect("seen");
            let fields: Vec<&str> = output.lines[row.line].split_ascii_whitespace().collect();
            assert_eq!((fields[6], fields[7]), ("0B", *text), "{fields:?}");
        });
    }
    let ends = pair.ends;
    pair.close();
    tcptop.wait_closed(&[ends]);
    let output = tcptop.finish();
    for row in output.rows_of(ends) {
        for rate in [&row.rate_in, &row.rate_out] {
            assert!(
                is_readable(rate.strip_suffix("/s").unwrap_or(""), &["B", "KB", "MB", "GB"]),
                "{row:?}"
            );
        }
        assert!(row.rtt == "-" || is_readable(&row.rtt, &["us", "ms", "s"]), "{row:?}");
    }
    let closed = output.the_closed(ends);
    assert!(is_readable(&closed.rtt, &["us", "ms", "s"]), "{closed:?}");
    let sum = |field| {
        awk(
            &output,
            &format!(
                "$1 == \"TCP\" && $3 == \"{}\" {{ n = ${field} + 0 }} END {{ print n }}",
                ends.remote
            ),
        )
    };
    assert_eq!(sum(8).trim(), sizes[2].0.to_string(), "awk reads the exact number");
}

/// A number with at most one decimal, and one of the units.
fn is_readable(text: &str, units: &[&str]) -> bool {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let decimals = number.split_once('.').map_or(0, |(_, decimals)| decimals.len());
    number.parse::<f64>().is_ok() && decimals <= 1 && units.contains(&unit)
}

/// An idle connection is shown once when its rate falls to zero, and then not again.
fn only_what_changed() {
    let tcptop = Tcptop::start(&QUICK);
    let (resting, ticking) = (Pair::new(Family::V4), Pair::new(Family::V4));
    resting.exchange(5000, 6000);
    sock::await_acked(&resting.server);
    let stream = Stream::start(&ticking, 10, Duration::from_millis(5));
    let last = tcptop.wait_row("row without a rate", resting.ends, |row| {
        row.bytes_out == 5000 && row.rates() == (0, 0)
    });
    let intervals_since =
        |output: &Output| output.rows_of(ticking.ends).filter(|row| row.line > last.line).count();
    tcptop.wait("ten more intervals", |output| (intervals_since(output) >= 10).then_some(()));
    stream.stop();
    let output = tcptop.finish();
    let rows: Vec<&Row> = output.rows_of(resting.ends).collect();
    assert_eq!(rows.last(), Some(&&last), "{rows:#?}");
    let resting_rows =
        rows.iter().filter(|row| row.rates() == (0, 0) && row.bytes_out == 5000).count();
    assert_eq!(resting_rows, 1, "{rows:#?}");
    // One row when it is new, one or two with traffic, one when the rate falls to zero.
    assert!(rows.len() <= 4, "{rows:#?}");
    assert_eq!(output.closed_of(resting.ends).count(), 0, "it is open");
}

/// `--all`: each connection has one row in each interval, idle or not.
fn all_connections() {
    let idle = Pair::new(Family::V4);
    let tcptop =
        Tcptop::start(&["--tcp", "--raw", "-t", "--all", "--interval", "0.1", "--count", "5"]);
    let new = Pair::new(Family::V6);
    let ended = tcptop.ended();
    ended.check();
    let output = ended.output;
    let times = |rows: &[&Row]| rows.iter().map(|row| row.time.clone()).collect::<BTreeSet<_>>();
    for (ends, is_idle) in [
        (idle.ends, true),
        (idle.ends.flipped(), true),
        (new.ends, false),
        (new.ends.flipped(), false),
    ] {
        let rows: Vec<&Row> = output.rows_of(ends).collect();
        assert_eq!(times(&rows).len(), rows.len(), "once in an interval: {rows:#?}");
        // The listing at the start shows the connection too, but is not an interval.
        assert!(if is_idle { rows.len() == 6 } else { (1..=5).contains(&rows.len()) }, "{rows:#?}");
        let since: Vec<&Row> = output.rows.iter().filter(|row| row.time >= rows[0].time).collect();
        assert_eq!(times(&rows), times(&since), "in every interval since it is there");
    }
}

/// `-t`: all lines of an interval have the same time, in RFC 3339; the times ascend.
fn timestamps() {
    let started = Utc::now();
    let tcptop = Tcptop::start(&["--tcp", "--raw", "-t", "--interval", "0.2"]);
    let pairs = [Pair::new(Family::V4), Pair::new(Family::V6)];
    let ends: Vec<Ends> = pairs.iter().flat_map(|pair| [pair.ends, pair.ends.flipped()]).collect();
    for &ends in &ends {
        tcptop.wait_row("row", ends, |_| true);
    }
    pairs.into_iter().for_each(Pair::close);
    tcptop.wait_closed(&ends);
    let output = tcptop.finish();
    let ended = Utc::now();
    assert!(output.lines[0].starts_with("TIME "), "{}", output.lines[0]);
    let rows = output.rows.iter().map(|row| (row.line, &row.time));
    let closed = output.closed.iter().map(|closed| (closed.line, &closed.time));
    let mut times: Vec<(usize, DateTime<FixedOffset>)> = rows
        .chain(closed)
        .map(|(line, time)| {
            let time = time.as_deref().expect("a time");
            (line, DateTime::parse_from_rfc3339(time).unwrap_or_else(|e| panic!("{time}: {e}")))
        })
        .collect();
    times.sort_by_key(|(line, _)| *line);
    assert!(times.is_sorted_by_key(|(_, time)| *time), "{times:?}");
    // tcptop writes milliseconds; the clock that is read here is at least as fine.
    let slack = chrono::TimeDelta::milliseconds(1);
    assert!(
        times.iter().all(|(_, time)| (started - slack..=ended).contains(&time.to_utc())),
        "{times:?}"
    );
    let time_of = |closed: &Closed| closed.time.clone();
    let of_closed: BTreeSet<_> =
        ends.iter().map(|&ends| time_of(output.the_closed(ends))).collect();
    assert!(of_closed.len() <= 2, "all closed within an interval or two: {of_closed:?}");
}

/// Rows of an interval come highest rate first.
fn highest_rate_first() {
    let tcptop = Tcptop::start(&["--tcp", "--raw", "-t", "--interval", "0.2", "--count", "5"]);
    let pairs: Vec<Pair> = (0..5).map(|_| Pair::new(Family::V4)).collect();
    let streams: Vec<Stream> = [3, 1, 5, 2, 4]
        .iter()
        .zip(&pairs)
        .map(|(factor, pair)| Stream::start(pair, factor * 1000, Duration::from_millis(2)))
        .collect();
    let ended = tcptop.ended();
    ended.check();
    streams.into_iter().for_each(|stream| drop(stream.stop()));
    let rows = ended.output.rows;
    assert!(rows.iter().filter(|row| pairs.iter().any(|pair| pair.ends == row.ends)).count() >= 20);
    for two in rows.windows(2).filter(|two| two[0].time == two[1].time) {
        let rate = |row: &Row| row.rates().0 + row.rates().1;
        // Each rate is rounded to a whole number.
        assert!(rate(&two[0]) + 1 >= rate(&two[1]), "{two:#?}");
    }
}

/// `-4` and `-6`; an IPv4-mapped connection is an IPv4 one.
fn families() {
    for (option, shown) in [("-4", [true, false, true, true]), ("-6", [false, true, false, false])]
    {
        let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "0.1", option]);
        let all = Family::ALL.map(|family| {
            let pair = Pair::new(family);
            pair.exchange(10, 10);
            let ends = pair.ends;
            pair.close();
            ends
        });
        let expected: Vec<Ends> =
            all.into_iter().zip(shown).filter_map(|(ends, shown)| shown.then_some(ends)).collect();
        tcptop.wait_closed(&expected);
        let ended = tcptop.stop(libc::SIGINT);
        assert!(ended.status.success());
        ended.output.check_contract();
        let wanted = |ends: Ends| ends.local.is_ipv4() == (option == "-4");
        assert!(ended.output.rows.iter().all(|row| wanted(row.ends)), "rows with {option}");
        assert!(
            ended.output.closed.iter().all(|closed| wanted(closed.ends)),
            "[CLOSED] with {option}"
        );
        for ends in expected {
            ended.output.the_closed(ends);
        }
    }
}

/// A new state is shown in the interval in which the connection enters it, if it lasts.
fn states() {
    let tcptop = Tcptop::start(&QUICK);
    let pair = Pair::new(Family::V4);
    let state = |ends, state: &str| tcptop.wait_row(state, ends, |row| row.state == state);
    state(pair.ends, "ESTABLISHED");
    state(pair.ends.flipped(), "ESTABLISHED");
    pair.client.shutdown(std::net::Shutdown::Write).expect("shutdown");
    state(pair.ends, "FIN_WAIT2");
    state(pair.ends.flipped(), "CLOSE_WAIT");
    // The server's FIN is dropped.
    sock::filter_incoming(&pair.client, sock::Let::Nothing);
    let (client, ends) = (pair.client, pair.ends);
    drop(pair.server);
    state(ends.flipped(), "LAST_ACK");
    sock::let_all_in(&client);
    assert_eq!(receive_all(&client), 0);
    drop(client);
    tcptop.wait_closed(&[ends, ends.flipped()]);
    // A FIN that is dropped, then one from the other end.
    let pair = Pair::new(Family::V6);
    sock::filter_incoming(&pair.server, sock::Let::Nothing);
    pair.client.shutdown(std::net::Shutdown::Write).expect("shutdown");
    state(pair.ends, "FIN_WAIT1");
    pair.server.shutdown(std::net::Shutdown::Write).expect("shutdown");
    state(pair.ends, "CLOSING");
    sock::let_all_in(&pair.server);
    let ends = pair.ends;
    drop(pair);
    tcptop.wait_closed(&[ends, ends.flipped()]);
    let output = tcptop.finish();
    assert_eq!(output.the_closed(ends).end, "fin");
}

/// `tcptop | head -1` in a real shell ends with status 0, within about one interval.
fn head_ends_it() {
    for interval in ["0.2", "1"] {
        let directory = tempfile::tempdir().expect("a directory");
        let status_file = directory.path().join("status");
        let pair = Pair::new(Family::V4);
        let _stream = Stream::start(&pair, 100, Duration::from_millis(5));
        let mut shell = Command::new("sh");
        let script = r#"{ "$0" --tcp --interval "$1" $3; echo $? > "$2"; } | head -1"#;
        shell.arg("-c").arg(script).arg(tcptop::binary()).arg(interval).arg(&status_file);
        shell.arg(std::env::var("TCPTOP_TEST_ARGS").unwrap_or_default());
        let started = Instant::now();
        let mut shell = shell.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("sh");
        let status = until("the pipeline to end", || shell.try_wait().expect("wait"));
        let took = started.elapsed();
        let output = shell.wait_with_output().expect("output");
        assert!(status.success());
        assert_eq!(fs::read_to_string(&status_file).expect("status").trim(), "0");
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("PROTO"));
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(
            !messages.contains("error") && !messages.contains("roken pipe"),
            "quietly: {messages}"
        );
        // The start, an interval, the end.
        let interval = Duration::from_secs_f64(interval.parse().expect("seconds"));
        assert!(
            took < interval + Duration::from_secs(2),
            "{took:?} with an interval of {interval:?}"
        );
    }
}

/// tcptop ends as soon as its reader goes away, even if no interval is due for an hour.
fn closed_pipe_with_a_long_interval() {
    let mut command = tcptop::command(&tcptop::binary(), &["--tcp", "--interval", "3600"]);
    let mut child = command.spawn().expect("tcptop");
    let mut header = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    stdout.read_line(&mut header).expect("a line");
    assert!(header.starts_with("PROTO"), "{header:?}");
    drop(stdout);
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status;
        }
        if started.elapsed() > patience() {
            child.kill().expect("kill");
            child.wait().expect("wait");
            panic!("still there after the reader has gone");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(status.success(), "{status}");
}

/// A failed write to stdout is an error, unless the reader went away.
fn full_disk_is_an_error() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return super::left_out("lines::full_disk_is_an_error", "no /dev/full");
    };
    let mut command = tcptop::command(&tcptop::binary(), &["--tcp", "--interval", "0.1"]);
    let mut child = command.stdout(full).spawn().expect("tcptop");
    let status = until("tcptop to end", || child.try_wait().expect("wait"));
    let output = child.wait_with_output().expect("output");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert_eq!(status.code(), Some(1), "{messages}");
    assert!(messages.lines().any(|line| line.starts_with("tcptop: error: ")), "{messages}");
}
