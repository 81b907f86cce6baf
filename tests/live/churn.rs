//! Connections as fast as the machine makes them.

use std::collections::HashMap;
use std::fs;

use crate::common::agent::Agent;
use crate::common::churn::{Entry, read_account};
use crate::common::sock::Ends;
use crate::common::tcptop::{Ended, Output, Tcptop};
use crate::common::wait::load;

use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("churn::every_connection", every_connection),
        test("churn::while_tcptop_rests", while_tcptop_rests),
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
        let directory = tempfile::tempdir().expect("a directory");
        let account = directory.path().join("account");
        let address = self.server.serve_churn(connections);
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
    let causes = ended.lost().split(", ").filter(|cause| cause.contains("closed connections"));
    causes
        .map(|cause| cause.split(' ').next().and_then(|n| n.parse::<i64>().ok()).expect("a number"))
        .sum()
}
