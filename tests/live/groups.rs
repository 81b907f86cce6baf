//! Groups: their totals are those of the generators, to the byte, in every format; and
//! what is written for Prometheus can be read at any moment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::agent::Agent;
use crate::common::cgroups::{self, Cgroup};
use crate::common::churn::read_account;
use crate::common::program;
use crate::common::sock::{Family, Pair, loopback};
use crate::common::tcptop::{Launch, binary, command, open_to_all};
use crate::common::wait::{load, patience, until, until_true};

use super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("groups::sums", sums),
        test("groups::who_takes_over", who_takes_over),
        test("groups::owners_that_pass", owners_that_pass),
        test("groups::containers", containers),
        test("groups::rows", rows),
        test("groups::textfile", textfile),
        test("groups::node_exporter", node_exporter),
    ]
}

/// What a group moved: bytes in, bytes out, connections and flows.
type Moved = (u64, u64, u64);

/// tcptop with its standard output in a file.
struct Printing {
    child: Child,
    output: PathBuf,
}

impl Printing {
    fn start(directory: &Path, name: &str, arguments: &[&str]) -> Printing {
        open_to_all(directory);
        let output = directory.join(name);
        let ready = directory.join(format!("{name}.ready"));
        let mut command = command(&binary(), arguments);
        command.args(["--ready-file", ready.to_str().expect("UTF-8")]);
        command.stdout(File::create(&output).expect("a file")).stderr(Stdio::piped());
        let child = command.spawn().expect("tcptop");
        until_true("the listing at start", || ready.exists());
        Printing { child, output }
    }

    /// Ends it. Returns what it has printed; it must have lost nothing.
    fn finish(self) -> String {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT).expect("SIGINT");
        let ended = self.child.wait_with_output().expect("an end");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && stderr.ends_with("lost: nothing\n"), "{stderr}");
        fs::read_to_string(&self.output).expect("UTF-8")
    }
}

/// The groups of the last interval of CSV, by the columns before `connections`.
fn csv_groups(text: &str) -> BTreeMap<Vec<String>, Moved> {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let headers: Vec<String> =
        reader.headers().expect("a header").iter().map(str::to_owned).collect();
    let at = |name: &str| headers.iter().position(|header| header == name).expect("a column");
    let (first, opened) = (at("connections"), at("opened"));
    let (bytes_in, bytes_out) = (at("bytes_in"), at("bytes_out"));
    let rows: Vec<csv::StringRecord> = reader.records().map(|row| row.expect("a row")).collect();
    let last = rows.last().expect("rows")[0].to_owned();
    let of_last = rows.iter().filter(|row| row[0] == last);
    let number = |row: &csv::StringRecord, at: usize| row[at].parse().expect("a number");
    let group = |row: &csv::StringRecord| {
        let key = row.iter().skip(1).take(first - 1).map(str::to_owned).collect();
        (key, (number(row, bytes_in), number(row, bytes_out), number(row, opened)))
    };
    let groups: BTreeMap<_, _> = of_last.clone().map(group).collect();
    assert_eq!(groups.len(), of_last.count(), "each group once");
    groups
}

/// The same of JSON, for one key.
fn json_groups(text: &str, key: &str) -> BTreeMap<Vec<String>, Moved> {
    let objects: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let last = &objects.last().expect("objects")["timestamp"];
    let number = |object: &Value, name: &str| object[name].as_u64().expect("a number");
    objects
        .iter()
        .filter(|object| object["timestamp"] == *last)
        .map(|object| {
            assert_eq!(object["event"], "group");
            let text = object[key].as_str().unwrap_or_default().to_owned();
            let moved = ["bytes_in", "bytes_out", "opened"].map(|name| number(object, name));
            (vec![text], moved.into())
        })
        .collect()
}

/// The same of the file for Prometheus, for one key.
fn prom_groups(text: &str) -> BTreeMap<Vec<String>, Moved> {
    let mut groups: BTreeMap<Vec<String>, Moved> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (metric, labels) = series.split_once('{').expect("labels");
        let label = labels.split('"').nth(1).expect("a label").to_owned();
        let group = groups.entry(vec![label]);
        let value = value.parse::<f64>().expect("a number") as u64;
        match metric {
            "tcptop_bytes_in_total" => group.or_default().0 = value,
            "tcptop_bytes_out_total" => group.or_default().1 = value,
            "tcptop_opened_total" => group.or_default().2 = value,
            _ => {}
        }
    }
    groups
}

/// Bytes only. How many flows a server has depends on the ports that its clients use again.
fn bytes(groups: &BTreeMap<Vec<String>, Moved>) -> Sums {
    groups.iter().map(|(key, moved)| (key.clone(), (moved.0, moved.1))).collect()
}

/// Sum over the groups.
fn sum(groups: &BTreeMap<Vec<String>, Moved>) -> Moved {
    groups.values().fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2))
}

/// Connections that live less than an interval, UDP flows of one datagram whose ports are
/// used again, and more groups than there is room for.
fn sums() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let text = |path: &PathBuf| path.to_str().expect("UTF-8").to_owned();
    let (csv, prom) = (path("by-process.csv"), path("by-process.prom"));
    let common = ["--process", "gen-", "--udp-timeout", "1", "--udp-flows", "262144"];
    let by = |by: &str| [&common[..], &["--by", by]].concat().join(" ");
    let to_files = format!("{} --log {} --textfile {}", by("process"), text(&csv), text(&prom));
    let logger = Launch::new(&to_files.split(' ').collect::<Vec<_>>()).start();
    let json = format!("{} --format json --interval 0.5", by("remote"));
    let json = Printing::start(directory.path(), "json", &json.split(' ').collect::<Vec<_>>());
    let lines = format!("{} --groups 16 --raw --all", by("process,remote_port"));
    let lines = Printing::start(directory.path(), "lines", &lines.split(' ').collect::<Vec<_>>());

    // 100,000 of them: two turns, both ends.
    let (each, columns) = (path("each.csv"), "conn_id,process_name,bytes_in,bytes_out");
    let to_each = format!("{} --log {} --columns {columns}", common.join(" "), text(&each));
    let each_logger = Launch::new(&to_each.split(' ').collect::<Vec<_>>()).start();

    let (connections, datagrams) = (load(12_000, 1_000), load(13_000, 1_000));
    let mut expected: BTreeMap<Vec<String>, Moved> = BTreeMap::new();
    let mut remotes: BTreeMap<Vec<String>, Moved> = BTreeMap::new();
    let add = |groups: &mut BTreeMap<Vec<String>, Moved>, name: &str, moved: Moved| {
        let group = groups.entry(vec![name.to_owned()]).or_default();
        *group = (group.0 + moved.0, group.1 + moved.1, group.2 + moved.2);
    };
    for turn in 0..2 {
        let names = [format!("gen-client-{turn}"), format!("gen-server-{turn}")];
        let [mut client, mut server] = [&names[0], &names[1]].map(Agent::new);
        let account = path("account");
        let address = server.serve_churn(connections);
        client.churn(address, connections, &account);
        for entry in read_account(&fs::read_to_string(&account).expect("an account")) {
            let (up, down) = (entry.up, entry.down);
            add(&mut expected, &names[0], (down, up, 1));
            add(&mut expected, &names[1], (up, down, 1));
            add(&mut remotes, &address.ip().to_string(), (down, up, 1));
            add(&mut remotes, &entry.ends.local.ip().to_string(), (up, down, 1));
        }
        // One datagram and its answer for each socket of the client.
        let (socket, address) = server.udp(SocketAddr::from((loopback(250), 0)));
        let served = thread::scope(|scope| {
            let served = scope.spawn(|| server.udp_answer(socket, datagrams, 70));
            client.udp_shots(loopback(251), address, 33, datagrams);
            served.join()
        });
        served.expect("answers");
        let count = u64::from(datagrams);
        add(&mut expected, &names[0], (70 * count, 33 * count, count));
        add(&mut expected, &names[1], (33 * count, 70 * count, count));
        add(&mut remotes, &loopback(250).to_string(), (70 * count, 33 * count, count));
        add(&mut remotes, &loopback(251).to_string(), (33 * count, 70 * count, count));
    }
    let all = sum(&expected);
    let totals = || prom_groups(&fs::read_to_string(&prom).unwrap_or_default());
    let deadline = Instant::now() + patience();
    while bytes(&totals()) != bytes(&expected) && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(50));
    }
    let found = totals();
    assert_eq!(bytes(&found), bytes(&expected), "the file for Prometheus");
    for turn in 0..2 {
        let client = vec![format!("gen-client-{turn}")];
        assert_eq!(found[&client], expected[&client], "each of its sockets is another one");
    }
    let ended = logger.stop(libc::SIGINT);
    ended.check_log(&csv, "1");
    assert_eq!(bytes(&csv_groups(&fs::read_to_string(&csv).expect("a log"))), bytes(&expected));
    let ended = each_logger.stop(libc::SIGINT);
    ended.check_log(&each, "1");
    for (what, sums) in sums_of_other_programs(&each) {
        assert_eq!(sums, bytes(&expected), "{what}");
    }
    let by_remote = json_groups(&json.finish(), "remote");
    assert_eq!(bytes(&by_remote), bytes(&remotes));
    // Sixteen groups have room; (other) has all that went before them.
    let lines = lines.finish();
    let rows: Vec<Vec<&str>> =
        lines.lines().map(|line| line.split_whitespace().collect()).collect();
    let last = rows.iter().rposition(|row| row[0] == "(other)").expect("others");
    let first = rows[..last].iter().rposition(|row| row[0] == "(other)" || row[0] == "PROCESS");
    let interval = &rows[first.expect("an interval before") + 1..=last];
    assert_eq!(interval.len(), 17, "{interval:?}");
    let column = |at: usize| -> u64 {
        interval.iter().map(|row| row[at].parse::<u64>().expect("a number")).sum()
    };
    assert_eq!((column(6), column(7)), (all.0, all.1));
    assert!(column(3) >= u64::from(4 * connections + 2 * datagrams), "opened: {}", column(3));
}

/// Bytes in and out of each group.
type Sums = BTreeMap<Vec<String>, (u64, u64)>;

/// What sqlite and DuckDB find in a log of connections: bytes per process, from the last row
/// of each `conn_id`.
fn sums_of_other_programs(log: &Path) -> Vec<(&'static str, Sums)> {
    const QUERY: &str = "SELECT process_name, sum(bytes_in), sum(bytes_out) FROM (SELECT conn_id, \
        max(process_name) AS process_name, max(CAST(bytes_in AS INTEGER)) AS bytes_in, \
        max(CAST(bytes_out AS INTEGER)) AS bytes_out FROM log GROUP BY conn_id) \
        GROUP BY process_name";
    let parse = |text: String| {
        let row = |line: &str| {
            let fields: Vec<&str> = line.trim().split(',').collect();
            let number = |at: usize| fields[at].parse().expect("a number");
            (vec![fields[0].to_owned()], (number(1), number(2)))
        };
        text.lines().map(row).collect()
    };
    let import = format!(".mode csv\n.import {} log\n{QUERY};\n", log.display());
    let mut found = Vec::new();
    if program::is_there("sqlite3") {
        found.push(("sqlite", parse(program::output_of("sqlite3", &[":memory:"], &import))));
    } else {
        left_out("sqlite", "it is not installed");
    }
    if program::has_module("duckdb") {
        let script = format!(
            "import duckdb\nlog = duckdb.read_csv({:?})\n\
             for row in duckdb.sql({QUERY:?}).fetchall(): print(*row, sep=',')\n",
            log.display().to_string()
        );
        found.push(("DuckDB", parse(program::output_of("python3", &["-"], &script))));
    } else {
        left_out("DuckDB", "python3 has no module duckdb");
    }
    found
}

/// A connection that is handed on counts for its new owner from then on.
fn who_takes_over() {
    let directory = tempfile::tempdir().expect("a directory");
    let mailbox = directory.path().join("mailbox");
    let arguments = ["--by", "process", "--tcp", "--process", "heir", "--format", "csv"];
    let arguments = [&arguments[..], &["--interval", "0.1"]].concat();
    let tcptop = Printing::start(directory.path(), "csv", &arguments);
    let (mut first, mut second) = (Agent::new("heir-1"), Agent::new("heir-2"));
    second.mailbox(&mailbox);
    let (socket, _peer) = first.connect_here(Family::V4);
    first.send(socket, 5000);
    let of = |name: &str| -> Option<Moved> {
        let text = fs::read_to_string(&tcptop.output).ok()?;
        let whole =
            text.rfind('\n').map(|end| &text[..=end]).filter(|text| text.lines().count() > 1)?;
        csv_groups(whole).get(&vec![name.to_owned()]).copied()
    };
    until("the first owner", || of("heir-1").filter(|moved| moved.1 == 5000));
    first.give(socket, &mailbox);
    let socket = second.take();
    second.send(socket, 700);
    until("the second owner", || of("heir-2").filter(|moved| moved.1 == 700));
    drop(second);
    assert_eq!(
        csv_groups(&tcptop.finish()).into_iter().collect::<Vec<_>>(),
        [(vec!["heir-1".to_owned()], (0, 5000, 1)), (vec!["heir-2".to_owned()], (0, 700, 0)),]
    );
}

/// With a filter by owner, only what that owner moved counts, whoever used the connection
/// before it or in between.
fn owners_that_pass() {
    let directory = tempfile::tempdir().expect("a directory");
    let mailbox = directory.path().join("mailbox");
    let (mut first, mut second) = (Agent::new("turn-1"), Agent::new("turn-2"));
    second.mailbox(&mailbox);
    let by = ["--by", "process", "--tcp", "--format", "csv", "--interval", "0.1", "--process"];
    let of =
        |name: &'static str| Printing::start(directory.path(), name, &[&by[..], &[name]].concat());
    let printing = [of("turn-1"), of("turn-2")];
    let moved = |at: usize, name: &str| -> Option<u64> {
        let text = fs::read_to_string(&printing[at].output).ok()?;
        let whole = &text[..=text.rfind('\n')?];
        let groups = (whole.lines().count() > 1).then(|| csv_groups(whole))?;
        groups.get(&vec![name.to_owned()]).map(|moved| moved.1)
    };
    let (socket, _peer) = first.connect_here(Family::V4);
    first.send(socket, 1000);
    until("the first owner", || moved(0, "turn-1").filter(|&bytes| bytes == 1000));
    // The other tcptop has its own intervals: this shows that one has ended.
    let (mark, _other_peer) = second.connect_here(Family::V4);
    second.send(mark, 1);
    until("an interval of the other one", || moved(1, "turn-2").filter(|&bytes| bytes == 1));
    first.share(socket, &mailbox);
    let same = second.take();
    second.send(same, 50_000);
    until("the second owner", || moved(1, "turn-2").filter(|&bytes| bytes == 50_001));
    first.send(socket, 10);
    until("the first one again", || moved(0, "turn-1").filter(|&bytes| bytes == 1010));
    let [one, other] = printing.map(Printing::finish);
    assert_eq!(sum(&csv_groups(&one)).1, 1010);
    assert_eq!(sum(&csv_groups(&other)).1, 50_001);
}

/// Two containers, whose connections begin and end within one interval, and one whose
/// directory is gone by the end of it.
fn containers() {
    let Some(mount) = cgroups::root() else {
        return left_out("groups::containers", "the whole of cgroup v2 is not mounted");
    };
    let directory = tempfile::tempdir().expect("a directory");
    let arguments =
        ["--by", "container", "--process", "boxed", "--format", "csv", "--interval", "5"];
    let tcptop = Printing::start(directory.path(), "csv", &arguments);
    let mut expected = BTreeMap::new();
    let mut made = Vec::new();
    for (digit, bytes) in [("a", 1000), ("b", 20_000)] {
        let id = digit.repeat(64);
        let path = format!("/tcptop{}-{digit}/docker-{id}.scope", std::process::id());
        let cgroup = match Cgroup::new(&mount, &path) {
            Ok(cgroup) => cgroup,
            Err(why) => return left_out("groups::containers", why),
        };
        let mut agent = Agent::new("boxed");
        Cgroup::enter(&cgroup.directory(), agent.pid).expect("a member");
        for _ in 0..2 {
            let (socket, _peer) = agent.connect_here(Family::V4);
            agent.send(socket, bytes);
            agent.close(socket);
        }
        agent.exit();
        expected.insert(vec![id], (0, 2 * bytes));
        made.push(cgroup);
    }
    made.remove(0).remove();
    assert_eq!(bytes(&csv_groups(&tcptop.finish())), expected);
}

/// Order, `--top` with the rest as one row, and chosen columns.
fn rows() {
    let pairs: Vec<Pair> = (1..=5)
        .map(|size| {
            let pair = Pair::new(Family::V4);
            pair.exchange(size * 1000, 0);
            pair
        })
        .collect();
    let pid = std::process::id().to_string();
    let of_ports = ["--pid", &pid, "--tcp", "--lifetime", "--once", "--interval", "0.1"];
    let printed = |arguments: &[&str]| {
        let arguments = [&of_ports[..], arguments].concat();
        let output = command(&binary(), &arguments).output().expect("tcptop");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let ports: Vec<String> =
        pairs.iter().rev().map(|pair| pair.ends.remote.port().to_string()).collect();
    let csv = printed(&[
        "--by",
        "local_port",
        "--sort",
        "bytes_in",
        "--top",
        "2",
        "--format",
        "csv",
        "--columns",
        "local_port,bytes_in,connections,host",
        "--host",
        "alpha",
    ]);
    let rest: u64 = 3000 + 2000 + 1000;
    assert_eq!(
        csv,
        format!(
            "local_port,bytes_in,connections,host\n{},5000,1,alpha\n{},4000,1,alpha\n\
             (other),{rest},8,alpha\n",
            ports[0], ports[1]
        )
    );
    let lines = printed(&["--by", "pid,protocol", "--raw"]);
    let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let row = fields(lines.lines().nth(1).expect("a row"));
    assert_eq!(row[..8], [&pid, "TCP", "10", "0", "0", "0", "15000", "15000"], "{lines}");
    assert_eq!(fields(lines.lines().next().expect("a header")).len(), row.len());
}

/// A reader that opens the file in a loop always finds a whole one, and Prometheus' own
/// checker accepts it, whatever processes call themselves.
fn textfile() {
    let directory = tempfile::tempdir().expect("a directory");
    let prom = directory.path().join("tcptop.prom");
    let arguments = ["--by", "process,state", "--interval", "0.01", "--textfile"];
    let tcptop = Launch::new(&[&arguments[..], &[prom.to_str().expect("UTF-8")]].concat()).start();
    let hostile: [&[u8]; 4] = [b"a\"b\\c", b"new\nline", b"\x1b[31m\xff\xfe", b"(other)"];
    let mut agents: Vec<_> = hostile.iter().map(Agent::new).collect();
    let _open: Vec<_> = agents.iter_mut().map(|agent| agent.connect_here(Family::V4)).collect();
    let stop = AtomicBool::new(false);
    let read = thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut read = 0;
            while !stop.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&prom).expect("there is always a file");
                assert!(text.starts_with("# HELP tcptop_connections "), "{text}");
                assert!(
                    text.ends_with('\n') && text.contains("tcptop_lost_total{cause=\"skipped\"}")
                );
                read += 1;
            }
            read
        });
        let files = super::long(100, 10_000);
        let deadline = Instant::now() + patience() + Duration::from_millis(30) * files;
        let mut seen = std::collections::HashSet::new();
        while (seen.len() as u32) < files {
            let meta = fs::metadata(&prom).expect("a file");
            seen.insert((meta.mtime(), meta.mtime_nsec()));
            Pair::new(Family::V4).exchange(1, 1);
            assert!(Instant::now() < deadline, "{} files in this time", seen.len());
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().expect("a reader")
    });
    assert!(read > 100, "{read}");
    let text = fs::read_to_string(&prom).expect("a file");
    for label in ["a\\\"b\\\\c", "new\\nline", "\u{1b}[31m\u{fffd}\u{fffd}"] {
        let series = format!("tcptop_connections{{process=\"{label}\",state=\"ESTABLISHED\"}} 1");
        assert!(text.contains(&series), "{series}\n{text}");
    }
    if program::is_there("promtool") {
        program::output_of("promtool", &["check", "metrics"], &text);
    } else {
        left_out("promtool", "it is not installed");
    }
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success() && ended.output.lines.is_empty(), "{ended:?}");
}

/// The exporter that most hosts run serves the file.
fn node_exporter() {
    if !program::is_there("prometheus-node-exporter") {
        return left_out("the node exporter", "it is not installed");
    }
    let directory = tempfile::tempdir().expect("a directory");
    let prom = directory.path().join("tcptop.prom");
    let mut agent = Agent::new("exported");
    let arguments = ["--by", "process", "--interval", "0.1", "--textfile"];
    let tcptop = Launch::new(&[&arguments[..], &[prom.to_str().expect("UTF-8")]].concat()).start();
    let (socket, _peer) = agent.connect_here(Family::V4);
    agent.send(socket, 12_345);
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address").to_string();
    drop(port);
    let mut exporter = Command::new("prometheus-node-exporter")
        .args(["--collector.disable-defaults", "--collector.textfile"])
        .arg(format!("--collector.textfile.directory={}", directory.path().display()))
        .arg(format!("--web.listen-address={address}"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the exporter");
    let series = "tcptop_bytes_out_total{process=\"exported\"} 12345";
    until("the exporter's page", || {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(&address).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        page.lines()
            .any(|line| {
                line == series || line == "tcptop_bytes_out_total{process=\"exported\"} 1.2345e+04"
            })
            .then_some(())
    });
    exporter.kill().expect("kill");
    exporter.wait().expect("an end");
    drop(tcptop);
}
