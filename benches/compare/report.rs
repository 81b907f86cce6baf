//! docs/comparison.md, from results: every number in it was measured by `compare run-tools`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::results::{Bytes, Results, Session};
use crate::statistics::Spread;

const HEAD: &str = include_str!("head.md");
const TAIL: &str = include_str!("tail.md");

pub fn write(output: &Path, files: &[PathBuf]) -> Result<()> {
    let mut results: Vec<Results> = Vec::new();
    for later in files.iter().map(|file| Results::read(file)) {
        for later in later? {
            let kernel = later.fact("kernel");
            match results.iter_mut().find(|results| results.fact("kernel") == kernel) {
                Some(earlier) => earlier.take(later),
                None => results.push(later),
            }
        }
    }
    let text = document(&results);
    fs::write(output, text).with_context(|| format!("failed to write {}", output.display()))?;
    eprintln!("compare: wrote {}", output.display());
    Ok(())
}

const COSTS: &str = "
## What they cost

Speed of a load on the loopback device with the tool, divided by its speed without, in pairs of
runs: the median (least to greatest). `-` where there were fewer than three
pairs. A range with 1 in it proves nothing, and a wide one says that the machine had other work, as
the load average above does; `make bench` measures tcptop on a quiet one. The CPU time of a tool
depends less on that.

";

/// What is left out by design.
const LEFT_OUT: &str = "
## Left out

- bcc's own tcptop (bpfcc-tools) needs Python and LLVM, which the guests have not. That of
  libbpf-tools is the same tool without them.
- Costs in guests: an emulated processor has others.
";

/// The document. The first result has all that is to be said of loads and costs.
pub fn document(all: &[Results]) -> String {
    let Some(first) = all.first() else { return String::new() };
    let day = |date: &str| date.split('T').next().unwrap_or_default().to_owned();
    let mut text = HEAD.replace("DATE", &day(first.fact("date")));
    text.push_str("\n## The tools\n\n");
    text += &tools(first, all);
    text.push_str("\n## The loads\n\n");
    text += &loads(first);
    for results in all {
        let _ = writeln!(text, "\n## Who saw them: Linux {}\n", results.fact("kernel"));
        text += &summary(results);
    }
    if !first.costs.is_empty() {
        text.push_str(COSTS);
        text += &costs(first);
    }
    text.push_str(LEFT_OUT);
    for results in all {
        for line in &results.left_out {
            let _ = writeln!(text, "- Linux {}: {line}.", results.fact("kernel"));
        }
    }
    text.push_str(TAIL);
    text.push_str("\n## Every number\n");
    for results in all {
        text += &numbers(results);
    }
    text
}

fn tools(first: &Results, all: &[Results]) -> String {
    let mut rows = vec![
        ["", "version", "started as", "its bytes are", "looks", "added up"].map(str::to_owned),
    ];
    let mut names: Vec<&str> = Vec::new();
    for tool in all.iter().flat_map(|results| &results.tools) {
        if !names.contains(&&*tool.name) {
            names.push(&tool.name);
            rows.push([
                tool.name.clone(),
                tool.version.clone(),
                format!("`{}`", tool.command),
                tool.counts.clone(),
                tool.interval.clone(),
                tool.read.clone(),
            ]);
        }
    }
    let mut text = table(&rows);
    text.push('\n');
    for name in ["processor", "load average before", "commit", "date"] {
        let _ = writeln!(text, "- {name}: {}", first.fact(name));
    }
    text
}

fn loads(results: &Results) -> String {
    let mut rows = vec![["", "what it is"].map(str::to_owned)];
    rows.extend(results.cases.iter().map(|case| [case.name.clone(), case.what.clone()]));
    table(&rows)
}

/// A row for each load, a column for each tool.
fn summary(results: &Results) -> String {
    let mut header = vec![
        "load".to_owned(),
        "payload, by the generators".to_owned(),
        "packets on the device".to_owned(),
    ];
    header.extend(results.tools.iter().map(|tool| tool.name.clone()));
    let mut rows = vec![header];
    for case in &results.cases {
        let sessions = || results.sessions.iter().filter(|session| session.case == case.name);
        let Some(first) = sessions().next() else { continue };
        let truth: Bytes = first.parts.iter().map(|part| part.truth).sum();
        let wire = Spread::of(sessions().map(|session| {
            percent_of(session.wire.total(), session.parts.iter().map(|part| part.truth).sum())
        }));
        let wire = wire.map_or("-".to_owned(), |wire| format!("{:.1} %", wire.median));
        let mut row = vec![case.name.clone(), grouped(truth.total()), wire];
        row.extend(
            results
                .tools
                .iter()
                .map(|tool| results.session(&tool.name, &case.name).map_or("-".to_owned(), cell)),
        );
        rows.push(row);
    }
    table(&rows)
}

/// What a tool saw of a load, in few words.
pub fn cell(session: &Session) -> String {
    let truth: Bytes = session.parts.iter().map(|part| part.truth).sum();
    let seen: Bytes = session.parts.iter().map(|part| part.seen).sum();
    let others = percent_of(session.others.total(), truth);
    let others = if others >= 0.05 { format!("{others:.1} % of nobody") } else { String::new() };
    let mut words: Vec<String> = Vec::new();
    if session.parts.iter().all(|part| part.seen == part.truth) {
        words.push("**exact**".to_owned());
    } else if let [part] = &session.parts[..] {
        if part.seen.total() > 0 {
            words.push(format!("{:.1} %", percent_of(part.seen.total(), part.truth)));
        }
    } else if seen.total() > 0 {
        words.extend(session.parts.iter().map(|part| {
            format!("{} {:.1} %", part.process, percent_of(part.seen.total(), part.truth))
        }));
    }
    if !others.is_empty() {
        words.push(others);
    }
    if words.is_empty() { "nothing".to_owned() } else { words.join(", ") }
}

fn percent_of(bytes: u64, truth: Bytes) -> f64 {
    100.0 * bytes as f64 / truth.total() as f64
}

/// Fewer pairs of runs say nothing of a tool's cost.
const LEAST_PAIRS: usize = 3;

fn costs(results: &Results) -> String {
    let mut loads: Vec<&str> = Vec::new();
    for cost in &results.costs {
        if !loads.contains(&&*cost.load) {
            loads.push(&cost.load);
        }
    }
    let mut header = vec!["".to_owned(), "its CPU time to start".to_owned()];
    header.extend(
        results
            .cases
            .iter()
            .filter(|case| case.name == "short")
            .map(|_| "its CPU time for `short`".to_owned()),
    );
    for load in &loads {
        header.push(format!("speed of {load}"));
        header.push("its CPU meanwhile".to_owned());
    }
    let mut rows = vec![header];
    for tool in &results.tools {
        let own = |session: &&Session| session.tool == tool.name;
        let start = Spread::of(results.sessions.iter().filter(own).map(|session| session.start_ms));
        let mut row = vec![
            tool.name.clone(),
            start.map_or("-".to_owned(), |start| format!("{:.0} ms", start.median)),
        ];
        if let Some(session) = results.session(&tool.name, "short") {
            row.push(format!("{:.0} ms", session.cpu_ms));
        }
        for load in &loads {
            let cost =
                results.costs.iter().find(|cost| cost.tool == tool.name && cost.load == *load);
            let spread = |values: fn(&crate::results::Cost) -> &Vec<f64>| {
                cost.and_then(|cost| Spread::of(values(cost).iter().copied()))
            };
            // The ratio of one or two pairs is noise.
            let pairs = cost.map_or(0, |cost| cost.ratios.len());
            let ratio = spread(|cost| &cost.ratios).filter(|_| pairs >= LEAST_PAIRS);
            row.push(ratio.map_or("-".to_owned(), |ratio| {
                format!("{:.3} ({:.3} to {:.3})", ratio.median, ratio.min, ratio.max)
            }));
            row.push(
                spread(|cost| &cost.cpu)
                    .map_or("-".to_owned(), |cpu| format!("{:.1} %", cpu.median)),
            );
        }
        rows.push(row);
    }
    table(&rows)
}

/// The numbers behind the summary.
fn numbers(results: &Results) -> String {
    let mut text = String::new();
    for case in &results.cases {
        let _ = writeln!(text, "\n### {}, Linux {}\n", case.name, results.fact("kernel"));
        let header = ["tool", "process", "received", "truth", "sent", "truth", "CPU time", "note"];
        let mut rows = vec![header.map(str::to_owned)];
        for session in results.sessions.iter().filter(|session| session.case == case.name) {
            let mut cpu = format!("{:.1} ms", session.cpu_ms);
            let mut note = session.note.clone();
            for part in &session.parts {
                rows.push([
                    session.tool.clone(),
                    part.process.clone(),
                    grouped(part.seen.received),
                    grouped(part.truth.received),
                    grouped(part.seen.sent),
                    grouped(part.truth.sent),
                    std::mem::take(&mut cpu),
                    std::mem::take(&mut note),
                ]);
            }
            let rest = [("(nobody)", session.others), ("(packets on the device)", session.wire)];
            for (what, bytes) in rest.into_iter().filter(|(_, bytes)| bytes.total() > 0) {
                let [received, sent] = [grouped(bytes.received), grouped(bytes.sent)];
                let (tool, none) = (session.tool.clone(), String::new);
                rows.push([tool, what.to_owned(), received, none(), sent, none(), none(), none()]);
            }
        }
        text += &table(&rows);
    }
    text
}

/// A number with separators, as 4,194,304.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The first row is the header.
fn table<R: AsRef<[String]>>(rows: &[R]) -> String {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row.as_ref().iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
        if number == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(cells.len()));
        }
    }
    text
}
