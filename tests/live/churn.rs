//! Connections as fast as the machine makes them.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::common::agent::Agent;
use crate::common::churn::{Entry, read_account};
use crate::common::netns::Netns;
use crate::common::sock::Ends;
use crate::common::tcptop::{Ended, Output, Tcptop};
use crate::common::wait::{load, slowness, until_true};

use super::{Test, figures, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("churn::every_connection", every_connection),
        test("churn::while_tcptop_rests", while_tcptop_rests),
        test("churn::more_than_the_ring_holds", || saturated("ring=4096", "ring_full")),
        test("churn::more_than_the_backlog_holds", || saturated("backlog=1000", "channel_full")),
        test("churn::skipped_state_changes", skipped_state_changes),
    ]
}

/// Everything that a `[CLOSED]` line must say; it also identifies the line.
type Line = (Ends, u64, u64, Option<u32>, String, String);

/// The two processes of a churn.
struct Churn {
    server: Agent,
    client: Agent,
}

impl Churn {
    fn new() -> Churn {
        Churn { server: Agent::new("churn-server"), client: Agent::new("churn-client") }
    }

    /// Makes the connections. Returns the expected lines of both ends, each with its count.
    fn run(&mut self, connections: u32) -> HashMap<Line, i64> {
        let address = self.server.serve_churn(connections);
        self.make(address, connections)
    }

    /// The same, when the server listens at this address already.
    fn make(&mut self, address: SocketAddr, connections: u32) -> HashMap<Line, i64> {
        let directory = tempfile::tempdir().expect("a directory");
        let account = directory.path().join("account");
        self.client.churn(address, connections, &account);
        let entries = read_account(&fs::read_to_string(account).expect("the account"));
        assert_eq!(entries.len(), connections as usize);
        let mut expected = HashMap::new();
        for line in entries.iter().flat_map(|entry| self.lines(entry)) {
            *expected.entry(line).or_default() += 1;
        }
        expected
    }

    fn lines(&self, entry: &Entry) -> [Line; 2] {
        let (ends, up, down) = (entry.ends, entry.up, entry.down);
        let (at_client, at_server) = entry.ending.words();
        [
            (ends, down, up, Some(self.client.pid), "churn-client".into(), at_client.into()),
            (
                ends.flipped(),
                up,
                down,
                Some(self.server.pid),
                "churn-server".into(),
                at_server.into(),
            ),
        ]
    }

    /// The lines of these two processes.
    fn printed_in(&self, output: &Output) -> HashMap<Line, i64> {
        let mut printed = HashMap::new();
        for closed in &output.closed {
            if closed.process.starts_with("churn-") || self.is_own(closed.pid) {
                let (process, end) = (closed.process.clone(), closed.end.clone());
                let line =
                    (closed.ends, closed.bytes_in, closed.bytes_out, closed.pid, process, end);
                *printed.entry(line).or_default() += 1;
            }
        }
        printed
    }

    fn is_own(&self, pid: Option<u32>) -> bool {
        pid == Some(self.client.pid) || pid == Some(self.server.pid)
    }
}

/// Some of the lines that are in one account but not in the other.
fn missing(of: &HashMap<Line, i64>, within: &HashMap<Line, i64>) -> (i64, Vec<Line>) {
    let lacks = |(line, &count): (&Line, &i64)| {
        let lack = count - within.get(line).copied().unwrap_or(0);
        (lack > 0).then(|| (lack, line.clone()))
    };
    let all: Vec<(i64, Line)> = of.iter().filter_map(lacks).collect();
    (
        all.iter().map(|(lack, _)| lack).sum(),
        all.into_iter().take(5).map(|(_, line)| line).collect(),
    )
}

/// Each connection has one line at each end, with its owner, bytes and ending.
fn every_connection() {
    let tcptop = Tcptop::start(&["--tcp", "--raw"]);
    let mut churn = Churn::new();
    let connections = load(20_000, 5_000);
    let expected = churn.run(connections);
    let lines = 2 * connections as usize;
    assert_eq!(expected.values().sum::<i64>(), lines as i64);
    tcptop.wait("all [CLOSED] lines", |output| (output.closed.len() >= lines).then_some(()));
    let output = tcptop.finish();
    let printed = churn.printed_in(&output);
    let (lost, invented) = (missing(&expected, &printed), missing(&printed, &expected));
    assert!(
        lost.0 == 0 && invented.0 == 0,
        "expected but not printed: {lost:#?}\nprinted but not expected: {invented:#?}"
    );
}

/// While tcptop is stopped, more connections end than it can keep. The number of missing
/// lines is exactly the number that it reports as lost.
fn while_tcptop_rests() {
    // Other connections of the host that end meanwhile are lost too; they are few.
    let exact = (0..3).any(|_| {
        let (missing, reported) = missing_and_reported();
        assert!(missing > 0, "the ring is smaller than that");
        assert!(missing <= reported, "{missing} lines are missing, {reported} reported lost");
        missing == reported
    });
    assert!(exact, "more reported lost than missing, every time");
}

/// The number of lines that are missing after tcptop was stopped, and the number that it
/// reports as lost.
fn missing_and_reported() -> (i64, i64) {
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "0.2"]);
    let mut churn = Churn::new();
    tcptop.signal(libc::SIGSTOP);
    // More than 12,000 lines.
    let expected = churn.run(load(20_000, 8_000));
    tcptop.signal(libc::SIGCONT);
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended.output.check_contract();
    let printed = churn.printed_in(&ended.output);
    let invented = missing(&printed, &expected);
    assert_eq!(invented.0, 0, "{invented:#?}");
    (missing(&expected, &printed).0, lost_closes(&ended))
}

/// How many closed connections the summary says were lost.
pub fn lost_closes(ended: &Ended) -> i64 {
    let losses = ended.losses();
    let lost = ["ring_full", "channel_full"].map(|cause| losses.get(cause).copied().unwrap_or(0));
    lost.iter().sum::<u64>() as i64
}

/// Connections end faster than tcptop, which has little room and runs half of the time, can
/// take their records: what is offered is what is printed and what is reported lost, exactly. Only
/// the connections of one port count, so that no other traffic is among them.
fn saturated(room: &str, cause: &str) {
    let mut churn = Churn::new();
    let connections = load(5_000, 2_000);
    let address = churn.server.serve_churn(connections);
    let port = address.port().to_string();
    let tcptop = Tcptop::start(&[
        "--tcp",
        "--raw",
        "--interval",
        "3600",
        "--port",
        &port,
        "--room",
        room,
        "--strict",
    ]);
    let over = AtomicBool::new(false);
    let expected = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for signal in [libc::SIGSTOP, libc::SIGCONT] {
                    tcptop.signal(signal);
                    thread::sleep(Duration::from_millis(2));
                }
            }
        });
        let expected = churn.make(address, connections);
        over.store(true, Ordering::Relaxed);
        expected
    });
    let ended = tcptop.stop(libc::SIGINT);
    ended.output.check_contract();
    let printed = churn.printed_in(&ended.output);
    let invented = missing(&printed, &expected);
    assert_eq!(invented.0, 0, "{invented:#?}");
    let (offered, printed) = (expected.values().sum::<i64>(), printed.values().sum::<i64>());
    let losses = ended.losses();
    let lost = losses.get(cause).copied().unwrap_or(0) as i64;
    assert_eq!(offered, printed + lost, "{}", ended.stderr);
    // Where the kernel preempts programs: an upper bound, of which nothing came true.
    let causes = losses.keys().filter(|cause| slowness() == 1 || **cause != "state_skipped");
    assert!(causes.count() == 1 && lost > 0 && printed > 0, "{printed} printed, {losses:?}");
    assert_eq!(ended.status.code(), Some(3), "{}", ended.stderr);
    figures(format_args!("{room}: {offered} ends = {printed} printed + {lost} lost"));
}

/// TCP sockets of the calling thread's network namespace that are not listeners. TIME_WAIT
/// is none.
fn open_sockets() -> usize {
    let table = fs::read_to_string("/proc/thread-self/net/tcp").expect("/proc");
    let states = table.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().nth(3));
    states.filter(|state| !["06", "0A"].contains(state)).count()
}

/// With one program for state changes instead of two, the kernel skips some of them: where
/// a packet interrupts the program. At most as many lines are missing as are reported.
///
/// There are kernels that run no program, and count none as skipped, while a certain process
/// runs (docs/counting.md, Limitations): then what its interruptions do cannot be seen by
/// anybody. It is not in every round.
fn skipped_state_changes() {
    const MASK: &str = "net/core/rps_default_mask";
    const HIDDEN: u32 = 3;
    let (near, far) = (Netns::new(), Netns::new());
    // Each packet is received by any processor, whatever runs there (Linux 6.2).
    if !near.run(|| Path::new("/proc/sys").join(MASK).exists()) {
        return left_out("churn::skipped_state_changes", format_args!("no {MASK}"));
    }
    for netns in [&near, &far] {
        netns.sysctl(MASK, "3");
    }
    let address = SocketAddr::from(([10, 87, 0, 2], 5000));
    near.join([10, 87, 0, 1].into(), &far, address.ip());
    let mut hidden = 0;
    // Not every round has such an interruption.
    for round in 1..=20 {
        let mut churn = Churn {
            server: far.run(|| Agent::new("churn-server")),
            client: near.run(|| Agent::new("churn-client")),
        };
        let connections = load(3_000, 1_000);
        let address = churn.server.serve_churn_at(address, connections);
        let tcptop =
            Tcptop::start(&["--tcp", "--raw", "--interval", "0.2", "--room", "state-programs=1"]);
        let expected = churn.make(address, connections);
        // What is still open when tcptop ends has no such line.
        for netns in [&near, &far] {
            netns.run(|| until_true("the end of all connections", || open_sockets() == 0));
        }
        let ended = tcptop.stop(libc::SIGINT);
        assert!(ended.status.success(), "{}", ended.stderr);
        let printed = churn.printed_in(&ended.output);
        let (missing, some) = missing(&expected, &printed);
        let losses = ended.losses();
        let skipped = losses.get("state_skipped").copied().unwrap_or(0) as i64;
        figures(format_args!("round {round}: {skipped} skipped, {missing} lines missing"));
        if missing > skipped {
            hidden += 1;
            assert!(hidden <= HIDDEN, "{missing} lines are missing: {losses:?}, such as {some:#?}");
        } else if skipped > 0 {
            return;
        }
    }
    panic!("the kernel never skipped the program");
}
