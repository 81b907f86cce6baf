//! A long run under traffic of all kinds, as bounded as the traffic of a small host: every byte
//! of every connection is in the log, once, and tcptop grows in no way. Seconds in `make test`;
//! `make soak` takes its time (`TCPTOP_TEST_SOAK`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::agent::Agent;
use crate::common::churn::read_account;
use crate::common::netns::Netns;
use crate::common::rng::Rng;
use crate::common::sock::{self, Ends, Family, Pair, loopback, receive, reset};
use crate::common::tcptop::{Launch, Tcptop};
use crate::common::udp::{self, Duo};
use crate::common::wait::{load, patience, until_true};

use super::csv::{place, with_log};
use super::{Test, figures, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("soak::soak", || soak(length())),
        test("soak::growth_is_seen", growth_is_seen),
        test("soak::a_wrong_byte_is_seen", a_wrong_byte_is_seen),
    ]
}

/// How long it takes: `TCPTOP_TEST_SOAK`, or a few seconds.
fn length() -> Duration {
    let seconds = env::var("TCPTOP_TEST_SOAK").ok();
    Duration::from_secs(seconds.map_or(3, |text| text.parse().expect("TCPTOP_TEST_SOAK")))
}

/// The columns that are read, in this order.
const COLUMNS: &str =
    "conn_id,protocol,local_addr,local_port,remote_addr,remote_port,netns,state,bytes_in,bytes_out";

/// What the generators did, less what the log says. Everything cancels out, so that a long
/// run needs no more memory than a short one.
#[derive(Default)]
struct Ledger {
    /// Connections by their ends and bytes: how many more were made than have a final row.
    tcp: HashMap<(Ends, [u64; 2]), i64>,
    /// Flows by their ends, which several flows can have one after the other: bytes.
    udp: HashMap<Ends, [i64; 2]>,
    /// The last row of what is open, by `conn_id`.
    open: HashMap<String, (bool, Ends, [u64; 2])>,
    /// Hashes of each `conn_id` that had its final row.
    ended: HashSet<u64>,
    hashes: RandomState,
    /// The generators' own network namespace.
    home: u64,
    made: u64,
    rows: u64,
}

impl Ledger {
    fn tcp(&mut self, ends: Ends, up: u64, down: u64) {
        for (ends, moved) in [(ends, [down, up]), (ends.flipped(), [up, down])] {
            self.made += 1;
            self.count(ends, moved, 1);
        }
    }

    fn count(&mut self, ends: Ends, moved: [u64; 2], difference: i64) {
        let key = (ends, moved);
        let count = self.tcp.entry(key).or_default();
        *count += difference;
        if *count == 0 {
            self.tcp.remove(&key);
        }
    }

    fn udp(&mut self, ends: Ends, up: u64, down: u64) {
        for (ends, moved) in [(ends, [down, up]), (ends.flipped(), [up, down])] {
            self.add(ends, moved, 1);
        }
    }

    fn add(&mut self, ends: Ends, moved: [u64; 2], sign: i64) {
        let sums = self.udp.entry(ends).or_default();
        for (sum, bytes) in sums.iter_mut().zip(moved) {
            *sum += sign * bytes as i64;
        }
        if *sums == [0, 0] {
            self.udp.remove(&ends);
        }
    }

    /// Takes the rows of a file to which tcptop writes no more.
    fn take(&mut self, path: &Path) {
        let mut reader = csv::Reader::from_path(path).expect("a log");
        let header: Vec<&str> = reader.headers().expect("a header").iter().collect();
        assert_eq!(header.join(","), COLUMNS);
        for row in reader.records() {
            self.row(&row.expect("a row"));
        }
    }

    fn row(&mut self, row: &csv::StringRecord) {
        let address = |column: usize| -> SocketAddr {
            let port = row[column + 1].parse().expect("a port");
            SocketAddr::new(row[column].parse().expect("an address"), port)
        };
        let number = |column: usize| row[column].parse::<u64>().expect("a number");
        let ends = Ends::new(address(2), address(4));
        // The generators' addresses in whatever namespace, or their namespace.
        let own = |ip: IpAddr| matches!(ip, IpAddr::V4(ip) if ip.octets()[..3] == loopback(0).octets()[..3]);
        if !own(ends.local.ip()) && !own(ends.remote.ip()) && row[6].parse() != Ok(self.home) {
            return;
        }
        self.rows += 1;
        let (id, is_tcp, moved) = (&row[0], &row[1] == "TCP", [number(8), number(9)]);
        let hash = self.hashes.hash_one(id);
        assert!(!self.ended.contains(&hash), "a row after the final one: {row:?}");
        if let Some((_, before, less)) = self.open.get(id) {
            assert_eq!(*before, ends, "another connection has its conn_id: {row:?}");
            assert!(less[0] <= moved[0] && less[1] <= moved[1], "{less:?} before {row:?}");
        }
        if !["CLOSED", "EXPIRED"].contains(&&row[7]) {
            self.open.insert(id.to_owned(), (is_tcp, ends, moved));
            return;
        }
        self.open.remove(id);
        self.ended.insert(hash);
        if is_tcp { self.count(ends, moved, -1) } else { self.add(ends, moved, -1) }
    }

    /// What differs if the last rows of the flows that are open are counted, too.
    fn differences(&self) -> Vec<String> {
        let mut udp = self.udp.clone();
        let mut found = Vec::new();
        for (is_tcp, ends, moved) in self.open.values() {
            if *is_tcp {
                found.push(format!("still open: {ends:?} {moved:?}"));
            }
            let sums = udp.entry(*ends).or_default();
            for (sum, bytes) in sums.iter_mut().zip(moved) {
                *sum -= *bytes as i64;
            }
        }
        let tcp = self.tcp.iter().map(|(key, count)| format!("TCP {key:?}: {count} without a row"));
        let udp = udp.iter().filter(|(_, sums)| **sums != [0, 0]);
        found.extend(tcp.chain(udp.map(|(ends, sums)| format!("UDP {ends:?}: {sums:?} bytes"))));
        found
    }
}

/// The generators.
struct Traffic {
    rng: Rng,
    home: Netns,
    server: Agent,
    client: Agent,
    open: VecDeque<(Pair, u64, u64)>,
    flows: Vec<Duo>,
    sink: UdpSocket,
    directory: TempDir,
    namespaces: u32,
}

impl Traffic {
    fn new() -> Traffic {
        let home = Netns::new();
        let [server, client] = home.run(|| ["soak-server", "soak-client"].map(Agent::new));
        let flows = home.run(|| {
            let families = [Family::V4, Family::V6, Family::Mapped, Family::Dual];
            families.map(|family| Duo::new(family, family == Family::V6)).into()
        });
        Traffic {
            rng: Rng::new(0x7c97_0050),
            home,
            server,
            client,
            open: VecDeque::new(),
            flows,
            sink: udp::bind((loopback(1), 0).into()),
            directory: tempfile::tempdir().expect("a directory"),
            namespaces: 0,
        }
    }

    /// Short connections, longer ones, flows of both kinds, a namespace, a fork.
    fn turn(&mut self, ledger: &mut Ledger) {
        self.short(ledger);
        self.long(ledger);
        self.flows(ledger);
        self.shots(ledger);
        self.namespace(ledger);
        self.fork(ledger);
    }

    /// They end in all ways.
    fn short(&mut self, ledger: &mut Ledger) {
        let connections = load(150, 30);
        let account = self.directory.path().join("account");
        let address = self.server.serve_churn(connections);
        self.client.churn(address, connections, &account);
        for entry in read_account(&fs::read_to_string(account).expect("the account")) {
            ledger.tcp(entry.ends, entry.up, entry.down);
        }
    }

    /// Each lives for some turns.
    fn long(&mut self, ledger: &mut Ledger) {
        const OPEN: usize = 12;
        for family in Family::ALL {
            let pair = self.home.run(|| Pair::new(family));
            self.open.push_back((pair, 0, 0));
        }
        for (pair, up, down) in &mut self.open {
            let moved = [(); 2].map(|()| self.rng.pick(&[0, 1, 1000, 40_000]));
            pair.exchange(moved[0], moved[1]);
            *up += moved[0];
            *down += moved[1];
        }
        while self.open.len() > OPEN {
            self.end_one(ledger);
        }
    }

    fn end_one(&mut self, ledger: &mut Ledger) {
        let Some((pair, up, down)) = self.open.pop_front() else { return };
        ledger.tcp(pair.ends, up, down);
        if up % 2 == 0 { pair.close() } else { reset(pair.client) }
    }

    /// Flows that go on.
    fn flows(&mut self, ledger: &mut Ledger) {
        for duo in &mut self.flows {
            let [up, down] = [(); 2].map(|()| self.rng.pick(&[0, 1, 1400, 9000]));
            duo.send(up, 3);
            duo.answer(down, 2);
            ledger.udp(duo.ends, 3 * up as u64, 2 * down as u64);
        }
    }

    /// Flows of one datagram and its answer.
    fn shots(&mut self, ledger: &mut Ledger) {
        for _ in 0..100 {
            shot(&self.sink, ledger, self.rng.below(500) as usize);
        }
    }

    /// A namespace that lives for a connection and a flow.
    fn namespace(&mut self, ledger: &mut Ledger) {
        let bytes = self.rng.below(10_000);
        Netns::new().run(|| {
            shot(&udp::bind((loopback(1), 0).into()), ledger, 100);
            let pair = Pair::new(Family::V4);
            pair.exchange(bytes, 1);
            ledger.tcp(pair.ends, bytes, 1);
            pair.close();
        });
        self.namespaces += 1;
    }

    /// The child of a process that connected uses the connection.
    fn fork(&mut self, ledger: &mut Ledger) {
        let bytes = self.rng.below(10_000);
        let mut agent = Agent::new("soak-fork");
        let (socket, peer) = agent.connect_here(Family::V4);
        agent.fork();
        agent.send(socket, bytes);
        receive(&peer, bytes);
        agent.exit();
        assert_eq!(sock::receive_all(&peer), 0);
        ledger.tcp(socket.ends, bytes, 0);
    }
}

/// A datagram from a new socket, and an answer of one byte.
fn shot(sink: &UdpSocket, ledger: &mut Ledger, bytes: usize) {
    let (socket, to) = (udp::bind((loopback(2), 0).into()), sink.local_addr().expect("bound"));
    udp::send_to(&socket, to, bytes, 1);
    udp::answer(sink, 1, 1);
    udp::receive(&socket, 1);
    let ends = Ends::new(socket.local_addr().expect("bound"), to);
    ledger.udp(ends, bytes as u64, 1);
}

/// What tcptop takes at a moment.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Ends of connections that were made by then.
    made: u64,
    /// Bytes of its own memory (RssAnon in proc_pid_status(5)).
    memory: u64,
    /// Bytes of its maps in the kernel.
    maps: u64,
    descriptors: u64,
    threads: u64,
}

impl Size {
    fn of(tcptop: &Tcptop, made: u64) -> Size {
        let process = Path::new("/proc").join(tcptop.id().to_string());
        let status = fs::read_to_string(process.join("status")).expect("it runs");
        let field = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
            line.split_ascii_whitespace().next().and_then(|word| word.parse().ok()).expect("number")
        };
        let mut maps = HashMap::new();
        let mut descriptors = 0;
        // A descriptor may be closed between the listing and the look.
        for entry in fs::read_dir(process.join("fdinfo")).expect("it runs").flatten() {
            descriptors += 1;
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            let value = |name: &str| -> Option<u64> {
                text.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
            };
            if let (Some(id), Some(bytes)) = (value("map_id:"), value("memlock:")) {
                maps.insert(id, bytes);
            }
        }
        assert!(!maps.is_empty(), "its maps are seen");
        let (memory, threads) = (field("RssAnon:") * 1024, field("Threads:"));
        Size { made, memory, maps: maps.values().sum(), descriptors, threads }
    }
}

/// How tcptop has grown between two parts of a run.
#[derive(Debug)]
struct Growth {
    made: u64,
    memory: i64,
    maps: i64,
    descriptors: i64,
    threads: i64,
}

impl Growth {
    /// From the third after the warm-up, which is half of the run, to the last third.
    fn of(sizes: &[Size]) -> Growth {
        let warm = &sizes[sizes.len() / 2..];
        let third = warm.len() / 3;
        assert!(third > 0, "{} measurements", sizes.len());
        let (early, late) = (&warm[..third], &warm[warm.len() - third..]);
        let median = |part: &[Size], value: fn(&Size) -> u64| {
            let mut values: Vec<u64> = part.iter().map(value).collect();
            values.sort_unstable();
            values[values.len() / 2]
        };
        // In the midst of a tick there are more descriptors.
        let least =
            |part: &[Size], value: fn(&Size) -> u64| part.iter().map(value).min().unwrap_or(0);
        let difference = |of: &dyn Fn(&[Size]) -> u64| of(late) as i64 - of(early) as i64;
        Growth {
            made: median(late, |size| size.made) - median(early, |size| size.made),
            memory: difference(&|part| median(part, |size| size.memory)),
            maps: difference(&|part| median(part, |size| size.maps)),
            descriptors: difference(&|part| least(part, |size| size.descriptors)),
            threads: difference(&|part| least(part, |size| size.threads)),
        }
    }

    /// Memory may differ by pages, not by connections.
    fn is_none(&self) -> bool {
        const PAGES: i64 = 256 << 10;
        const EACH: i64 = 20;
        self.memory <= PAGES + EACH * self.made as i64
            && self.maps <= 0
            && self.descriptors <= 0
            && self.threads <= 0
    }
}

fn soak(length: Duration) {
    /// Fewer turns than these would not show a leak.
    const LEAST: u32 = 40;
    let (directory, log) = place();
    let brief = length < Duration::from_secs(60);
    // Turns without pauses in a short run, so that a leak shows.
    let (pace, interval, timeout) = match brief {
        true => (Duration::ZERO, "0.1", "0.3"),
        false => (Duration::from_secs(1), "1", "2"),
    };
    let arguments = ["--interval", interval, "--udp-timeout", timeout, "--columns", COLUMNS];
    let tcptop = Launch::new(&with_log(&log, &arguments)).start();
    let mut traffic = Traffic::new();
    let home = traffic.home.run(|| fs::metadata("/proc/thread-self/ns/net").expect("/proc").ino());
    let mut ledger = Ledger { home, ..Ledger::default() };
    let mut sizes = Vec::new();
    let start = Instant::now();
    let mut turns = 0;
    let rotate = |ledger: &mut Ledger| {
        let old = directory.path().join("old");
        fs::rename(&log, &old).expect("rename");
        tcptop.signal(libc::SIGHUP);
        let is_new = || fs::metadata(&log).is_ok_and(|file| file.len() > 0);
        until_true("a new file with a header", is_new);
        ledger.take(&old);
    };
    while start.elapsed() < length || turns < load(LEAST, 12) {
        traffic.turn(&mut ledger);
        sizes.push(Size::of(&tcptop, ledger.made));
        turns += 1;
        if turns % 5 == 0 {
            rotate(&mut ledger);
        }
        thread::sleep((start + pace * turns).saturating_duration_since(Instant::now()));
    }
    while !traffic.open.is_empty() {
        traffic.end_one(&mut ledger);
    }
    // One whose end no program has seen is found by the look at every socket, once a minute.
    let patient = Instant::now() + patience() + Duration::from_secs(60);
    while !ledger.tcp.is_empty() && Instant::now() < patient {
        rotate(&mut ledger);
    }
    let ended = tcptop.stop(libc::SIGTERM);
    ledger.take(&log);
    let differences = ledger.differences();
    let some = &differences[..differences.len().min(5)];
    let told = ended.stderr.lines().last().unwrap_or_default();
    assert!(some.is_empty(), "{} differences, such as {some:#?}; {told}", differences.len());

    let growth = Growth::of(&sizes);
    let last = sizes.last().expect("turns");
    let words = format!(
        "{:.0} s, {turns} turns: {} ends of connections, {} connections and flows ended, {} \
         namespaces, {} rows; at the end {last:?}; since the warm-up {growth:?}, {:.1} bytes of \
         memory for each",
        start.elapsed().as_secs_f64(),
        ledger.made,
        ledger.ended.len(),
        traffic.namespaces,
        ledger.rows,
        growth.memory as f64 / growth.made as f64
    );
    if brief {
        figures(&words)
    } else {
        println!("{words}")
    }
    ended.check_log(&log, interval);
    assert!(growth.is_none(), "{words}");
}

/// The check of [`soak`] refuses a leak of 100 bytes for each connection, a descriptor, a
/// thread, a page of a map; in the shortest run, too.
fn growth_is_seen() {
    let run = |change: &dyn Fn(&mut Size, u64)| {
        let size = |turn: u64| {
            let noise = turn % 3 * 40_000;
            let mut size = Size {
                made: turn * 320,
                memory: 10_000_000 + noise,
                maps: 9_000_000,
                descriptors: 60 + turn % 2,
                threads: 3,
            };
            change(&mut size, turn);
            size
        };
        Growth::of(&(0..40).map(size).collect::<Vec<_>>()).is_none()
    };
    assert!(run(&|_, _| {}));
    assert!(
        run(&|size, turn| if turn < 5 {
            size.memory /= 2
        }),
        "the warm-up"
    );
    assert!(!run(&|size, _| size.memory += 100 * size.made));
    assert!(!run(&|size, turn| size.descriptors += turn / 10));
    assert!(!run(&|size, turn| size.threads += turn / 10));
    assert!(!run(&|size, turn| size.maps += 4096 * (turn / 10)));
}

/// The ledger sees a byte too many, a missing row, and a second one.
fn a_wrong_byte_is_seen() {
    let local = SocketAddr::from((loopback(1), 1));
    let remote = SocketAddr::from((loopback(2), 2));
    let ends = Ends::new(local, remote);
    let row = |id: &str, protocol: &str, ends: Ends, state: &str, [one, other]: [u64; 2]| {
        let (local, remote) = (ends.local, ends.remote);
        let ports = [local.port(), remote.port()].map(|port| port.to_string());
        let moved = [one, other].map(|bytes| bytes.to_string());
        let addresses = [local, remote].map(|address| address.ip().to_string());
        csv::StringRecord::from(vec![
            id,
            protocol,
            &addresses[0],
            &ports[0],
            &addresses[1],
            &ports[1],
            "1",
            state,
            &moved[0],
            &moved[1],
        ])
    };
    let differences = |rows: &[csv::StringRecord]| {
        let mut ledger = Ledger::default();
        ledger.tcp(ends, 10, 20);
        ledger.udp(ends, 5, 0);
        rows.iter().for_each(|row| ledger.row(row));
        ledger.differences().len()
    };
    let right = [
        row("a", "TCP", ends, "ESTABLISHED", [20, 0]),
        row("a", "TCP", ends, "CLOSED", [20, 10]),
        row("b", "TCP", ends.flipped(), "CLOSED", [10, 20]),
        row("c", "UDP", ends, "EXPIRED", [0, 3]),
        row("d", "UDP", ends, "UDP", [0, 2]),
        row("e", "UDP", ends.flipped(), "EXPIRED", [5, 0]),
    ];
    assert_eq!(differences(&right), 0);
    for wrong in 1..right.len() {
        let without = [&right[..wrong], &right[wrong + 1..]].concat();
        assert_ne!(differences(&without), 0, "{:?}", right[wrong]);
    }
    let twice = [&right[..], &[row("f", "TCP", ends, "CLOSED", [20, 10])]].concat();
    assert_ne!(differences(&twice), 0);
    let more = [&right[..5], &[row("e", "UDP", ends.flipped(), "EXPIRED", [6, 0])]].concat();
    assert_ne!(differences(&more), 0);
}
