//! What was measured, as a line of JSON: a guest prints it, `compare write-document` reads it.

use std::collections::BTreeMap;
use std::fs;
use std::ops::{Add, AddAssign};
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// What the line of a result begins with.
const MARK: &str = "compare-result: ";

/// Bytes in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bytes {
    pub received: u64,
    pub sent: u64,
}

impl Bytes {
    pub fn total(self) -> u64 {
        self.received + self.sent
    }

    /// What was added since then.
    pub fn since(self, before: Bytes) -> Bytes {
        Bytes {
            received: self.received.saturating_sub(before.received),
            sent: self.sent.saturating_sub(before.sent),
        }
    }
}

impl Add for Bytes {
    type Output = Bytes;
    fn add(self, other: Bytes) -> Bytes {
        Bytes { received: self.received + other.received, sent: self.sent + other.sent }
    }
}

impl AddAssign for Bytes {
    fn add_assign(&mut self, other: Bytes) {
        *self = *self + other;
    }
}

impl std::iter::Sum for Bytes {
    fn sum<I: Iterator<Item = Bytes>>(bytes: I) -> Bytes {
        bytes.fold(Bytes::default(), Bytes::add)
    }
}

/// Everything from one kernel.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Results {
    /// Kernel, processor, date and the like.
    pub facts: Vec<(String, String)>,
    pub tools: Vec<Tool>,
    pub cases: Vec<Case>,
    pub sessions: Vec<Session>,
    pub costs: Vec<Cost>,
    /// Tools and loads that were not run, and why.
    pub left_out: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Tool {
    pub name: String,
    pub version: String,
    pub command: String,
    /// What its bytes are.
    pub counts: String,
    /// How often it looks or reports.
    pub interval: String,
    /// How its output was added up.
    pub read: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Case {
    pub name: String,
    pub what: String,
}

/// One tool on one load.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    pub tool: String,
    pub case: String,
    pub parts: Vec<Part>,
    /// What the tool reported of nobody, or of processes that had no part in it.
    pub others: Bytes,
    /// All packets on the device, headers included.
    pub wire: Bytes,
    /// CPU time of the tool, from its start to the moment at which it was ready.
    pub start_ms: f64,
    /// CPU time of the tool during the load.
    pub cpu_ms: f64,
    /// What the generators have to say about this run.
    pub note: String,
}

impl Session {
    fn is_like(&self, other: &Session) -> bool {
        (&self.tool, &self.case) == (&other.tool, &other.case)
    }
}

/// A process of a load.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub process: String,
    pub truth: Bytes,
    pub seen: Bytes,
}

/// One tool's effect on the speed of a load.
#[derive(Debug, Serialize, Deserialize)]
pub struct Cost {
    pub tool: String,
    pub load: String,
    /// Throughput with the tool, divided by that without it, a pair each.
    pub ratios: Vec<f64>,
    /// CPU time of the tool by time that passed, in percent of one processor, a pair each.
    pub cpu: Vec<f64>,
}

impl Cost {
    fn is_like(&self, other: &Cost) -> bool {
        (&self.tool, &self.load) == (&other.tool, &other.load)
    }
}

impl Results {
    pub fn leave_out(&mut self, what: &str, why: &str) {
        let line = format!("{what}: {why}");
        eprintln!("compare: left out: {line}");
        if !self.left_out.contains(&line) {
            self.left_out.push(line);
        }
    }

    pub fn fact(&self, name: &str) -> &str {
        let fact = self.facts.iter().find(|(other, _)| other == name);
        fact.map_or("unknown", |(_, value)| value)
    }

    pub fn session(&self, tool: &str, case: &str) -> Option<&Session> {
        self.sessions.iter().find(|session| session.tool == tool && session.case == case)
    }

    /// Takes what a later run on the same kernel has measured again.
    pub fn take(&mut self, later: Results) {
        for (name, value) in later.facts {
            match self.facts.iter_mut().find(|(other, _)| *other == name) {
                Some((_, known)) if !known.contains(&value) => *known += &format!("; {value}"),
                Some(_) => {}
                None => self.facts.push((name, value)),
            }
        }
        for case in later.cases {
            if self.cases.iter().all(|known| known.name != case.name) {
                self.cases.push(case);
            }
        }
        for tool in later.tools {
            match self.tools.iter_mut().find(|other| other.name == tool.name) {
                Some(known) => *known = tool,
                None => self.tools.push(tool),
            }
        }
        self.sessions.retain(|one| later.sessions.iter().all(|other| !one.is_like(other)));
        self.sessions.extend(later.sessions);
        self.costs.retain(|one| later.costs.iter().all(|other| !one.is_like(other)));
        self.costs.extend(later.costs);
        self.left_out.retain(|line| !later.left_out.contains(line));
        self.left_out.extend(later.left_out);
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let line = format!("{MARK}{}\n", serde_json::to_string(self)?);
        if path == Path::new("-") {
            // The second line is what kernels/matrix.sh expects of a test.
            println!("{line}test compare ... ok");
            return Ok(());
        }
        fs::write(path, line).with_context(|| format!("failed to write {}", path.display()))
    }

    /// The results in a file.
    pub fn read(path: &Path) -> Result<Vec<Results>> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("failed to read {}", path.display()))?;
        let lines = text.lines().filter_map(|line| line.strip_prefix(MARK));
        let results: Vec<Results> = lines
            .map(|line| serde_json::from_str(line.trim_end()))
            .collect::<Result<_, _>>()
            .with_context(|| format!("no result: {}", path.display()))?;
        anyhow::ensure!(!results.is_empty(), "no result in {}", path.display());
        Ok(results)
    }
}

/// Bytes by something.
pub type Sums<K> = BTreeMap<K, Bytes>;
