//! CSV: other programs read it correctly, and it survives log rotation.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use chrono::{SubsecRound, Utc};
use tempfile::TempDir;

use crate::common::agent::Agent;
use crate::common::churn::read_account;
use crate::common::log::{Log, LogRow, check_continuous};
use crate::common::program;
use crate::common::rng::Rng;
use crate::common::sock::{
    Ends, Family, Pair, Stream, TcpInfo, await_acked, bounded, loopback, reset,
};
use crate::common::tcptop::{self, Launch, Tcptop};
use crate::common::wait::until_true;

use super::{Test, figures, left_out, long, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("csv::adds_up_for_other_programs", adds_up_for_other_programs),
        test("csv::every_open_connection_in_every_interval", every_interval),
        test("csv::wide_columns", wide_columns),
        test("csv::to_the_standard_output", to_the_standard_output),
        test("csv::append", append),
        test("csv::a_second_tcptop_goes_on", a_second_tcptop_goes_on),
        test("csv::logrotate", logrotate),
        test("csv::closed_stdout_does_not_matter", closed_stdout_does_not_matter),
        test("csv::late_interval_is_measured", late_interval_is_measured),
        test("csv::on_time_under_churn", on_time_under_churn),
        test("csv::long_interval_in_parts", long_interval_in_parts),
    ]
}

/// A fresh directory, and the path of a log in it.
pub fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tcptop.csv");
    (directory, path)
}

/// tcptop that logs into this file.
pub fn logger(log: &Path, arguments: &[&str]) -> Tcptop {
    Launch::new(&with_log(log, arguments)).start()
}

pub fn with_log<'a>(log: &'a Path, arguments: &[&'a str]) -> Vec<&'a str> {
    [&["--log", log.to_str().expect("UTF-8")], arguments].concat()
}

/// One end of a connection or flow, and what it moved.
struct Entry {
    protocol: &'static str,
    ends: Ends,
    bytes_in: u64,
    bytes_out: u64,
}

/// Traffic of all kinds with an account of it.
#[derive(Default)]
pub struct Traffic {
    account: Vec<Entry>,
    closed: Vec<Ends>,
    /// The open connections and flows, each with its index in the account.
    open: Vec<(Pair, usize)>,
    flows: Vec<([UdpSocket; 2], usize)>,
}

impl Traffic {
    /// The limit of open ones per protocol: at the limit, one of them moves more instead.
    const MOST_OPEN: usize = 30;

    /// Adds both ends to the account; the index of the first one.
    fn note(&mut self, protocol: &'static str, ends: Ends) -> usize {
        let place = self.account.len();
        for ends in [ends, ends.flipped()] {
            self.account.push(Entry { protocol, ends, bytes_in: 0, bytes_out: 0 });
        }
        place
    }

    /// Adds bytes that went from the first end to the other one, and back.
    fn add(&mut self, place: usize, up: u64, down: u64) {
        for (place, bytes_in, bytes_out) in [(place, down, up), (place + 1, up, down)] {
            self.account[place].bytes_in += bytes_in;
            self.account[place].bytes_out += bytes_out;
        }
    }

    /// A connection and a flow: new ones, or more on one that is open.
    pub fn turn(&mut self, rng: &mut Rng, turn: usize) {
        self.tcp(rng, turn);
        self.udp(rng, turn);
    }

    fn tcp(&mut self, rng: &mut Rng, turn: usize) {
        let sizes = [0, 1, 1000, 300_000, rng.below(100_000)];
        let (up, down) = (rng.pick(&sizes), rng.pick(&sizes));
        if turn % 7 == 0 && self.open.len() >= Traffic::MOST_OPEN {
            let (pair, place) = &self.open[turn % Traffic::MOST_OPEN];
            pair.exchange(up, down);
            return self.add(*place, up, down);
        }
        let pair = Pair::new(Family::ALL[turn % 4]);
        pair.exchange(up, down);
        let place = self.note("TCP", pair.ends);
        self.add(place, up, down);
        match turn % 7 {
            0 => self.open.push((pair, place)),
            1 => {
                self.closed.extend([pair.ends, pair.ends.flipped()]);
                reset(pair.client);
            }
            _ => {
                self.closed.extend([pair.ends, pair.ends.flipped()]);
                pair.close();
            }
        }
    }

    fn udp(&mut self, rng: &mut Rng, turn: usize) {
        let mut next = turn % Traffic::MOST_OPEN;
        if self.flows.len() < Traffic::MOST_OPEN {
            next = self.flows.len();
            let address: SocketAddr = match turn % 2 {
                0 => (loopback(1), 0).into(),
                _ => (Ipv6Addr::LOCALHOST, 0).into(),
            };
            let [one, other] = [(); 2].map(|()| {
                let socket = UdpSocket::bind(address).expect("bind");
                bounded(&socket);
                socket
            });
            let [here, there] = [&one, &other].map(|socket| socket.local_addr().expect("bound"));
            one.connect(there).expect("connect");
            other.connect(here).expect("connect");
            let place = self.note("UDP", Ends::new(here, there));
            self.flows.push(([one, other], place));
        }
        let ([one, other], place) = &self.flows[next];
        let mut totals = [0; 2];
        for _ in 0..1 + rng.below(20) {
            for (total, (from, to)) in totals.iter_mut().zip([(one, other), (other, one)]) {
                let payload = vec![b'u'; rng.pick(&[0, 1, 1400, 9000]) as usize];
                from.send(&payload).expect("send");
                assert_eq!(to.recv(&mut [0; 9001]).expect("receive"), payload.len());
                *total += payload.len() as u64;
            }
        }
        self.add(*place, totals[0], totals[1]);
    }

    /// Connections between two other processes, which end in all possible ways.
    fn churn(&mut self, connections: u32) -> [Agent; 2] {
        let (mut server, mut client) = (Agent::new("csv server"), Agent::new("csv, \"client\""));
        let directory = tempfile::tempdir().expect("a directory");
        let account = directory.path().join("account");
        let address = server.serve_churn(connections);
        client.churn(address, connections, &account);
        for entry in read_account(&fs::read_to_string(account).expect("the account")) {
            let place = self.note("TCP", entry.ends);
            self.add(place, entry.up, entry.down);
            self.closed.extend([entry.ends, entry.ends.flipped()]);
        }
        [server, client]
    }

    /// Checks that the log has every byte of it. Returns the sums over both ends, in and out.
    pub fn check(&self, log: &Log) -> (u64, u64) {
        let mut rows: HashMap<Ends, Vec<&LogRow>> = HashMap::new();
        for row in &log.rows {
            rows.entry(row.ends).or_default().push(row);
        }
        let finals = |ends: &Ends| rows[ends].iter().filter(|row| row.is_final()).count();
        for Entry { protocol, ends, bytes_in, bytes_out } in &self.account {
            let row = rows.get(ends).unwrap_or_else(|| panic!("no row of {ends:?}"));
            let row = row.last().expect("it was made for one");
            assert_eq!((row.bytes_in, row.bytes_out), (*bytes_in, *bytes_out), "{ends:?}");
            let is_udp = *protocol == "UDP";
            assert_eq!((&*row.protocol, row.rtt.is_none()), (*protocol, is_udp), "{row:?}");
            assert!(*bytes_in == 0 || row.packets_in > 0, "{row:?}");
            assert!(*bytes_out == 0 || row.packets_out > 0, "{row:?}");
            assert!(finals(ends) <= 1, "{ends:?}");
        }
        for ends in &self.closed {
            assert_eq!(finals(ends), 1, "{ends:?}");
        }
        let unique: BTreeSet<Ends> = self.account.iter().map(|entry| entry.ends).collect();
        assert_eq!(unique.len(), self.account.len(), "no tuple twice, or the sums need more");
        let sum = |value: fn(&Entry) -> u64| self.account.iter().map(value).sum();
        (sum(|entry| entry.bytes_in), sum(|entry| entry.bytes_out))
    }

    /// The account as CSV, for the other programs that read the log.
    fn write_account(&self, path: &Path) {
        let mut text = "protocol,local_addr,local_port,remote_addr,remote_port\n".to_owned();
        for Entry { protocol, ends: Ends { local, remote }, .. } in &self.account {
            let (one, other) = (local.ip(), remote.ip());
            text += &format!("{protocol},{one},{},{other},{}\n", local.port(), remote.port());
        }
        fs::write(path, text).expect("write");
    }
}

const PYTHON_CSV: &str = r#"
import csv, sys
key = lambda row: tuple(row[c] for c in
    ("protocol", "local_addr", "local_port", "remote_addr", "remote_port"))
account = {key(row) for row in csv.DictReader(open("account.csv", newline="", encoding="utf-8"))}
finals, last = [], {}
for row in csv.DictReader(open("tcptop.csv", newline="", encoding="utf-8"), strict=True):
    assert None not in row and None not in row.values(), row
    if key(row) not in account:
        continue
    if row["state"] == "CLOSED":
        finals.append(row)
        last.pop(key(row), None)
    else:
        last[key(row)] = row
rows = finals + list(last.values())
print(sum(int(r["bytes_in"]) for r in rows), sum(int(r["bytes_out"]) for r in rows), len(rows))
"#;

const QUERY: &str = "
WITH mine AS (
  SELECT log.*, row_number() OVER (
    PARTITION BY protocol, local_addr, local_port, remote_addr, remote_port
    ORDER BY timestamp DESC) AS back
  FROM log JOIN account USING (protocol, local_addr, local_port, remote_addr, remote_port))
SELECT sum(CAST(bytes_in AS BIGINT)), sum(CAST(bytes_out AS BIGINT)), count(*)
FROM mine WHERE state = 'CLOSED' OR back = 1";

const PYTHON_DUCKDB: &str = r#"
import duckdb, sys
for name, file in ("log", "tcptop.csv"), ("account", "account.csv"):
    duckdb.sql(f"CREATE TABLE {name} AS FROM read_csv('{file}', nullstr = ['', 'N/A'])")
print(*duckdb.sql(sys.argv[1]).fetchall()[0])
"#;

/// The final rows plus the last rows of what is still open sum up to the bytes that were
/// moved, in every program that reads the file.
fn adds_up_for_other_programs() {
    let (directory, log) = place();
    // The long test: ten turns a second for a minute. Else: one second without pauses.
    let length = long(Duration::from_secs(1), Duration::from_secs(60));
    let pace = long(Duration::ZERO, Duration::from_millis(100));
    let interval = if pace.is_zero() { "0.1" } else { "1" };
    let tcptop = logger(&log, &["--interval", interval, "--udp-timeout", "3600"]);
    let mut traffic = Traffic::default();
    let mut rng = Rng::new(0x7c97_0004);
    let mut agents = Vec::new();
    let start = Instant::now();
    for turn in 0.. {
        if turn >= 40 && start.elapsed() >= length {
            break;
        }
        if turn == 0 || (turn % 100 == 0 && !pace.is_zero()) {
            agents.push(traffic.churn(200));
        }
        traffic.turn(&mut rng, turn);
        thread::sleep((start + pace * turn as u32).saturating_duration_since(Instant::now()));
    }
    Log::wait_finals(&log, &traffic.closed);
    let ended = tcptop.stop(libc::SIGINT);
    drop(agents);
    ended.check_log(&log, interval);

    let rows = Log::read(&log);
    let (bytes_in, bytes_out) = traffic.check(&rows);
    figures(format_args!(
        "{} rows in {} intervals, {} bytes; {bytes_in} bytes in and {bytes_out} out of {} ends",
        rows.rows.len(),
        rows.times().len(),
        fs::metadata(&log).expect("the log").len(),
        traffic.account.len()
    ));
    let expected = format!("{bytes_in} {bytes_out} {}", traffic.account.len());

    traffic.write_account(&directory.path().join("account.csv"));
    let run = |program: &str, arguments: &[&str]| {
        let script = "cd \"$0\" && exec \"$@\"";
        let place = directory.path().to_str().expect("UTF-8");
        let arguments = [&["-c", script, place, program], arguments].concat();
        program::output_of("sh", &arguments, "").trim().replace(['|', ','], " ")
    };
    if program::is_there("python3") {
        assert_eq!(run("python3", &["-c", PYTHON_CSV]), expected, "Python's csv");
    } else {
        left_out("csv::adds_up_for_other_programs", "no python3 here");
    }
    if program::is_there("sqlite3") {
        let import = ["-csv", "sums.db", ".import tcptop.csv log", ".import account.csv account"];
        let mut arguments = import.to_vec();
        arguments.push(QUERY);
        assert_eq!(run("sqlite3", &arguments), expected, "sqlite3's .import");
    } else {
        left_out("csv::adds_up_for_other_programs", "no sqlite3 here");
    }
    if program::has_module("duckdb") {
        assert_eq!(run("python3", &["-c", PYTHON_DUCKDB, QUERY]), expected, "DuckDB");
    } else {
        left_out("csv::adds_up_for_other_programs with DuckDB", "python3 has no duckdb here");
    }
}

/// All rows of an interval have the same time, and everything open has a row in it: idle or
/// not, new or old.
fn every_interval() {
    let (_directory, log) = place();
    let old = Pair::new(Family::V4);
    let tcptop = logger(&log, &["--tcp", "--interval", "0.1", "--count", "8"]);
    let new = Pair::new(Family::V6);
    let brief = Pair::new(Family::V4);
    brief.exchange(77, 88);
    let ended_brief = brief.ends;
    brief.close();
    let ended = tcptop.ended();
    ended.check_log(&log, "0.1");
    let log = Log::read(&log);
    let times: BTreeSet<_> =
        log.rows.iter().filter(|row| !row.is_final()).map(|row| row.time).collect();
    assert_eq!(times.len(), 8, "--count 8");
    for (ends, is_old) in [(old.ends, true), (new.ends, false)] {
        for ends in [ends, ends.flipped()] {
            let rows: BTreeSet<_> = log.open_rows_of(ends).iter().map(|row| row.time).collect();
            assert_eq!(rows.len(), log.open_rows_of(ends).len(), "once in each interval");
            let since: BTreeSet<_> =
                times.iter().filter(|time| Some(*time) >= rows.first()).copied().collect();
            assert_eq!(rows, since);
            assert!(rows.len() == 8 || !is_old);
        }
    }
    assert_eq!(log.totals(ended_brief), (88, 77));
    assert_eq!(log.finals_of(ended_brief).count(), 1);
}

/// `--wide`: ten more columns behind the others.
fn wide_columns() {
    let (_directory, log) = place();
    let old = Pair::new(Family::V4);
    let tcptop = logger(&log, &["--tcp", "--wide", "--interval", "0.1"]);
    let [fin, rst] = [(); 2].map(|()| Pair::new(Family::V4));
    fin.exchange(1000, 1000);
    rst.exchange(10, 0);
    old.exchange(5, 5);
    await_acked(&fin.client);
    let info = TcpInfo::of(&fin.client);
    let (fin_ends, rst_ends) = (fin.ends, rst.ends);
    fin.close();
    reset(rst.client);
    Log::wait_finals(&log, &[fin_ends, rst_ends]);
    let ended = tcptop.stop(libc::SIGINT);
    ended.check_log(&log, "0.1");
    let log = Log::read(&log);
    let uid = "0";
    let netns = std::os::unix::fs::MetadataExt::ino(
        &fs::metadata("/proc/self/ns/net").expect("a namespace"),
    );
    let final_of = |ends: Ends| log.finals_of(ends).next().expect("closed").wide.clone();
    let [partial, retrans, min_rtt, age, user, ifname, namespace, cgroup, container, end]: [String;
        10] = final_of(fin_ends)[..10].to_vec().try_into().expect("ten");
    assert_eq!((&*partial, &*retrans, &*user, &*ifname), ("false", "0", uid, "lo"));
    // The acknowledgement of the FIN may have had the shortest RTT.
    assert!((1..=info.min_rtt).contains(&min_rtt.parse().expect("microseconds")), "{min_rtt}");
    assert!(age.parse::<f64>().is_ok_and(|age| (0.0..60.0).contains(&age)), "{age}");
    assert_eq!(namespace, netns.to_string());
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    assert_eq!(cgroup, own);
    assert!(container.is_empty() || cgroup.contains(&container));
    assert_eq!(end, "fin");
    assert_eq!(final_of(rst_ends)[9], "abort");
    assert_eq!(final_of(rst_ends.flipped())[9], "rst");
    let row: &LogRow = log.open_rows_of(old.ends).last().copied().expect("open");
    assert_eq!((&*row.wide[0], &*row.wide[3], &*row.wide[9]), ("true", "", ""), "{row:?}");
}

/// `--format csv` prints the same rows, and the messages are those of lines.
fn to_the_standard_output() {
    let tcptop = Tcptop::start(&["--format", "csv", "--tcp", "--interval", "0.1"]);
    let pair = Pair::new(Family::Mapped);
    pair.exchange(4321, 1234);
    let ends = pair.ends;
    pair.close();
    let is_final = |line: &String| line.contains(",CLOSED,");
    tcptop.wait("both final rows", |output| {
        (output.lines.iter().filter(|line| is_final(line)).count() >= 2).then_some(())
    });
    let ended = tcptop.stop(libc::SIGTERM);
    assert!(ended.status.success());
    assert_eq!(ended.lost(), "nothing");
    let log = Log::of_lines(&ended.output.lines);
    assert_eq!((log.totals(ends), log.totals(ends.flipped())), ((1234, 4321), (4321, 1234)));
}

/// With `--append --lifetime` the totals of a connection that outlives tcptop go on in the next
/// one: its last row has all bytes, also those that moved while no tcptop ran.
fn a_second_tcptop_goes_on() {
    let (_directory, log) = place();
    let pair = Pair::new(Family::V4);
    let ends = pair.ends;
    let run = || {
        let arguments = ["--tcp", "--interval", "0.1", "--append", "--lifetime", "--wide"];
        logger(&log, &arguments)
    };
    let last = |wanted: (u64, u64)| {
        Log::wait(&log, "the totals", |log| {
            let row = log.rows_of(ends).next_back()?;
            ((row.bytes_in, row.bytes_out) == wanted).then(|| row.wide[10].clone())
        })
    };
    pair.exchange(1000, 1);
    let first = run();
    pair.exchange(200, 2);
    let id = last((3, 1200));
    first.stop(libc::SIGINT).check_log(&log, "0.1");
    pair.exchange(30, 3);
    let second = run();
    pair.exchange(4, 4);
    pair.close();
    Log::wait_finals(&log, &[ends, ends.flipped()]);
    second.stop(libc::SIGINT).check_log(&log, "0.1");
    assert_eq!(last((10, 1234)), id, "the same conn_id in both");
    let totals: Vec<u64> = Log::read(&log).rows_of(ends).map(|row| row.bytes_out).collect();
    assert!(totals.is_sorted(), "{totals:?}");
}

/// `--append`: one header, however many runs. Without it the file is truncated.
fn append() {
    let (_directory, log) = place();
    let run = |arguments: &[&str]| {
        let arguments = [&["--tcp", "--interval", "0.1", "--once"], arguments].concat();
        let ended = logger(&log, &arguments).ended();
        ended.check_log(&log, "0.1");
        Log::read(&log)
    };
    let pair = Pair::new(Family::V4);
    let rows = |log: &Log| log.open_rows_of(pair.ends).len();
    assert_eq!(rows(&run(&["--append"])), 1, "into a new file");
    assert_eq!(rows(&run(&["--append"])), 2);
    // As after a power cut.
    fs::write(&log, fs::read_to_string(&log).expect("text") + "2026-01-01T00:00").expect("write");
    let ended = logger(&log, &["--tcp", "--interval", "0.1", "--once", "--append"]).ended();
    let cut = "tcptop: cut off an unfinished row of 16 bytes that an earlier run left";
    assert_eq!(ended.stderr.lines().next(), Some(cut), "{}", ended.stderr);
    assert_eq!(rows(&Log::read(&log)), 3);
    let wide = Launch::new(&with_log(&log, &["--append", "--wide"])).spawn().ended();
    wide.check_error(&format!(
        "cannot append to {}: it does not begin with the header of this CSV (made by something \
         else, or with other columns); choose another file",
        log.display()
    ));
    assert_eq!(rows(&Log::read(&log)), 3, "not touched");
    assert_eq!(rows(&run(&[])), 1);
}

/// Debian's logrotate renames the file, sends SIGHUP and compresses the old file at once:
/// each row is in exactly one of the files.
fn logrotate() {
    if !program::is_there("logrotate") {
        return left_out("csv::logrotate", "no logrotate here");
    }
    const ROTATIONS: usize = 5;
    let (directory, log) = place();
    let steady = Pair::new(Family::V4);
    let tcptop = logger(&log, &["--tcp", "--interval", "0.05"]);
    let configuration = directory.path().join("conf");
    let text = format!(
        "{} {{\n rotate 20\n compress\n postrotate\n  kill -HUP {}\n endscript\n}}\n",
        log.display(),
        tcptop.id()
    );
    fs::write(&configuration, text).expect("write");
    let state = directory.path().join("state");
    let stream = Stream::start(&steady, 1000, Duration::from_millis(1));
    let mut closed = Vec::new();
    for rotation in 0..=ROTATIONS {
        for size in 1..=50 {
            let pair = Pair::new(Family::V4);
            pair.exchange(size, rotation as u64);
            closed.push((pair.ends, rotation as u64, size));
            pair.close();
        }
        // Rows in the newest file, after SIGHUP was obeyed.
        Log::wait(&log, "rows", |log| (log.open_rows_of(steady.ends).len() > 1).then_some(()));
        if rotation < ROTATIONS {
            let arguments = [Path::new("-f"), Path::new("-s"), &state, &configuration];
            program::output_of("logrotate", &arguments, "");
        }
    }
    stream.stop();
    Log::wait_finals(&log, &[closed.last().expect("many").0]);
    let ended = tcptop.stop(libc::SIGINT);
    ended.check_log(&log, "0.05");
    let mut whole = Log::default();
    for old in (1..=ROTATIONS).rev() {
        let path = format!("{}.{old}.gz", log.display());
        whole.rows.extend(Log::parse(program::output_of("zcat", &[path], "").as_bytes()).rows);
    }
    whole.rows.extend(Log::read(&log).rows);
    assert!(whole.rows.is_sorted_by_key(|row| row.time));
    check_continuous(&whole.open_rows_of(steady.ends));
    for (ends, bytes_in, bytes_out) in closed {
        assert_eq!(whole.finals_of(ends).count(), 1, "once");
        assert_eq!(whole.totals(ends), (bytes_in, bytes_out));
        assert_eq!(whole.finals_of(ends.flipped()).count(), 1, "once");
    }
}

/// With `--log`, tcptop runs on although nobody reads its standard output.
fn closed_stdout_does_not_matter() {
    let (_directory, log) = place();
    let arguments = with_log(&log, &["--tcp", "--interval", "0.1", "--count", "5"]);
    let mut command: Command = tcptop::command(&tcptop::binary(), &arguments);
    let mut child = command.spawn().expect("tcptop");
    drop(child.stdout.take());
    let pair = Pair::new(Family::V4);
    let output = child.wait_with_output().expect("output");
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    assert!(messages.contains("logging stopped"), "{messages}");
    let times: BTreeSet<_> =
        Log::read(&log).rows.iter().filter(|row| !row.is_final()).map(|row| row.time).collect();
    assert_eq!(times.len(), 5);
    drop(pair);
}

/// tcptop is stopped for several intervals: then one interval is that long, and its rates
/// are bytes by its real length.
fn late_interval_is_measured() {
    let (_directory, log) = place();
    let pair = Pair::new(Family::V4);
    let tcptop = logger(&log, &["--tcp", "--interval", "0.1"]);
    let stream = Stream::start(&pair, 1000, Duration::from_millis(1));
    let rows = |count: usize| {
        Log::wait(&log, "rows", |log| (log.open_rows_of(pair.ends).len() >= count).then_some(()));
    };
    rows(3);
    tcptop.signal(libc::SIGSTOP);
    let before = TcpInfo::of(&pair.client).bytes_out();
    until_true("half a second of traffic", || {
        TcpInfo::of(&pair.client).bytes_out() > before + 500_000
    });
    tcptop.signal(libc::SIGCONT);
    let so_far = Log::read(&log).open_rows_of(pair.ends).len();
    rows(so_far + 4);
    stream.stop();
    tcptop.stop(libc::SIGINT).check_log(&log, "0.1");
    let log = Log::read(&log);
    let rows = log.open_rows_of(pair.ends);
    check_continuous(&rows);
    let longest = rows.windows(2).map(|two| two[1].time - two[0].time).max().expect("intervals");
    assert!(longest >= chrono::TimeDelta::milliseconds(450), "{longest}");
}

/// Thousands of closing connections do not delay an interval.
fn on_time_under_churn() {
    let (_directory, log) = place();
    let pair = Pair::new(Family::V4);
    let tcptop = logger(&log, &["--tcp", "--interval", "0.2"]);
    let mut traffic = Traffic::default();
    let agents = traffic.churn(30_000);
    tcptop.stop(libc::SIGINT).check_log(&log, "0.2");
    drop(agents);
    let log = Log::read(&log);
    let rows = log.open_rows_of(pair.ends);
    let late = |two: &&[&LogRow]| two[1].time - two[0].time > chrono::TimeDelta::milliseconds(350);
    let late = rows.windows(2).filter(late).count();
    assert!(late * 4 <= rows.len(), "{late} of {} intervals", rows.len());
    assert_eq!(
        log.rows.iter().filter(|row| row.is_final() && row.process.starts_with("csv")).count(),
        60_000
    );
}

/// More connections end in an interval than are kept until its end: their final rows come
/// before, in parts that each have one time, and each of them once.
fn long_interval_in_parts() {
    let (_directory, log) = place();
    let rooms = ["--room", "ended=50", "--room", "ring=65536"];
    let tcptop = logger(&log, &[&["--tcp", "--interval", "3600"][..], &rooms].concat());
    let open = Pair::new(Family::V4);
    let begun = Utc::now();
    let mut closed = Vec::new();
    let written = || fs::read_to_string(&log).unwrap_or_default().matches(",CLOSED,").count();
    while written() < 100 {
        assert!(closed.len() < 20_000, "nothing is written before the end");
        for bytes in 0..100 {
            let pair = Pair::new(Family::V4);
            pair.exchange(bytes, 1);
            closed.push((pair.ends, bytes));
            pair.close();
        }
    }
    let text = fs::read_to_string(&log).expect("text");
    assert!(!text.contains(",ESTABLISHED,"), "the interval goes on");
    // As exact as a row.
    let seen = Utc::now().trunc_subsecs(3);
    tcptop.stop(libc::SIGINT).check_log(&log, "3600");
    let log = Log::read(&log);
    assert!(log.rows.is_sorted_by_key(|row| row.time));
    let interval = log.open_rows_of(open.ends);
    assert_eq!(interval.len(), 1);
    let parts = log.rows.chunk_by(|one, next| one.time == next.time);
    let mut early = 0;
    for part in parts.filter(|part| part[0].time != interval[0].time) {
        assert!(part.len() >= 50 && part.iter().all(LogRow::is_final), "{}", part.len());
        early += usize::from(part[0].time > begun && part[0].time <= seen);
    }
    let last = interval[0].time;
    assert!(early >= 2 && last >= seen, "{early} parts; the interval's time {last}, seen {seen}");
    // A port is used again.
    let mut told: HashMap<_, u32> = HashMap::new();
    for row in log.rows.iter().filter(|row| row.is_final()) {
        *told.entry((row.ends, row.bytes_in, row.bytes_out)).or_default() += 1;
    }
    for (ends, bytes) in closed {
        for end in [(ends, 1, bytes), (ends.flipped(), bytes, 1)] {
            let left = told.get_mut(&end).filter(|left| **left > 0);
            *left.unwrap_or_else(|| panic!("no final row of {end:?}")) -= 1;
        }
    }
}
