//! The results, printed and written to files: Markdown tables for people, CSV for programs.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::load::Run;
use crate::loads;
use crate::machine::{self, HostCpu};
use crate::options::Options;
use crate::programs::Total;
use crate::statistics::{Spread, median};
use crate::subject::Subject;

/// A run of a load, and the CPU time that it took outside the generators.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub run: Run,
    pub host: HostCpu,
    /// The subject's own CPU time.
    pub subject: Duration,
}

/// Two runs: one without the subject, then one with it.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    pub load: &'static str,
    pub subject: Subject,
    pub number: usize,
    pub off: Measured,
    pub on: Measured,
}

impl Pair {
    /// The ratio of the run with the subject to the run without.
    fn ratio(&self, of: impl Fn(&Measured) -> f64) -> f64 {
        of(&self.on) / of(&self.off)
    }
}

/// Everything measured so far.
pub struct Report {
    facts: Vec<(&'static str, String)>,
    notes: Vec<String>,
    pairs: Vec<Pair>,
    /// Rows: load, subject, program, runs per operation, ns per run.
    programs: Vec<[String; 6]>,
    /// Rows: what, value, how it was measured.
    scale: Vec<[String; 3]>,
    /// Every single value from which the rows were computed.
    samples: String,
    stem: Option<PathBuf>,
    pairs_asked: usize,
}

impl Report {
    pub fn new(options: &Options) -> Result<Report> {
        let mut facts = machine::facts();
        facts.push(("tcptop", format!("tcptop {}", options.arguments.join(" ")).trim().to_owned()));
        facts
            .push(("runs", format!("{} pairs of {} s", options.pairs, options.time.as_secs_f64())));
        let stem = match &options.output {
            Some(folder) => {
                // Fail now, not after half an hour of measuring.
                fs::create_dir_all(folder)
                    .with_context(|| format!("failed to make {}", folder.display()))?;
                let date = chrono::Utc::now().format("%Y-%m-%d");
                Some(folder.join(format!("{}-{date}", machine::kernel_release())))
            }
            None => None,
        };
        Ok(Report {
            facts,
            notes: Vec::new(),
            pairs: Vec::new(),
            programs: Vec::new(),
            scale: Vec::new(),
            samples: String::new(),
            stem,
            pairs_asked: options.pairs,
        })
    }

    pub fn progress(&self, what: &str) {
        eprintln!("overhead: {what}");
    }

    pub fn leave_out(&mut self, what: &str, reason: &str) {
        self.note(format!("left out: {what}: {reason}"));
    }

    pub fn lost(&mut self, load: &str, subject: &Subject, what: &str) {
        self.note(format!("lost: {} in {load}: {what}", subject.name));
    }

    fn note(&mut self, line: String) {
        self.progress(&line);
        if !self.notes.contains(&line) {
            self.notes.push(line);
        }
    }

    pub fn add_pair(&mut self, pair: Pair) {
        self.pairs.push(pair);
    }

    pub fn add_programs(
        &mut self,
        load: &str,
        subject: &Subject,
        run: &Run,
        programs: Vec<(String, Total)>,
    ) {
        for (name, total) in programs {
            let per_run = total.nanoseconds as f64 / total.runs as f64;
            self.programs.push([
                load.to_owned(),
                subject.about.to_owned(),
                name,
                total.runs.to_string(),
                format!("{:.3}", total.runs as f64 / run.operations as f64),
                format!("{per_run:.0}"),
            ]);
        }
    }

    /// Adds a figure that is not a ratio: its value and the samples behind it.
    pub fn add_figure(&mut self, what: &str, value: String, how: &str, samples: &[f64]) {
        self.progress(&format!("{what}: {value}"));
        for (number, sample) in samples.iter().enumerate() {
            let _ = writeln!(self.samples, "{},{number},{sample}", what.replace(',', ""));
        }
        self.scale.push([what.to_owned(), value, how.to_owned()]);
    }

    /// Prints and writes everything.
    ///
    /// # Errors
    /// If a file cannot be written, or if pairs of tcptop or of a reference are missing.
    pub fn finish(self) -> Result<()> {
        let text = self.markdown();
        print!("{text}");
        if let Some(stem) = &self.stem {
            let mut files = vec![("md", text), ("csv", self.csv())];
            if !self.samples.is_empty() {
                files.push(("samples.csv", format!("what,sample,value\n{}", self.samples)));
            }
            for (extension, content) in files {
                // Not with_extension: the kernel's release contains dots.
                let path = PathBuf::from(format!("{}.{extension}", stem.display()));
                fs::write(&path, content)
                    .with_context(|| format!("failed to write {}", path.display()))?;
                eprintln!("overhead: wrote {}", path.display());
            }
        }
        for (load, subject) in self.groups() {
            let count = self.of(load, subject).count();
            if !subject.is_foreign() && count != self.pairs_asked {
                bail!("{count} pairs of {load} with {}", subject.name);
            }
        }
        Ok(())
    }

    /// The measured combinations of load and subject, once each, in the order of measurement.
    fn groups(&self) -> Vec<(&'static str, Subject)> {
        let mut groups = Vec::new();
        for pair in &self.pairs {
            if !groups.contains(&(pair.load, pair.subject)) {
                groups.push((pair.load, pair.subject));
            }
        }
        groups
    }

    fn of(&self, load: &'static str, subject: Subject) -> impl Iterator<Item = &Pair> {
        self.pairs.iter().filter(move |pair| pair.load == load && pair.subject == subject)
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# What tcptop costs\n\n");
        for (name, value) in &self.facts {
            let _ = writeln!(text, "- {name}: {value}");
        }
        if !self.pairs.is_empty() {
            text.push_str(
                "\n## Ratios, on : off\n\nMedian of the pairs [quartiles] (minimum to maximum). \
                 Throughput: higher is better; CPU time per operation: lower is better.\n\n",
            );
            let mut rows = vec![
                [
                    "load",
                    "with",
                    "without",
                    "throughput",
                    "CPU of both ends",
                    "system CPU of both ends",
                    "system CPU of the host",
                    "its own CPU",
                ]
                .map(str::to_owned),
            ];
            rows.extend(self.groups().into_iter().map(|(load, subject)| self.row(load, subject)));
            text.push_str(&table(&rows));
        }
        let tails: Vec<_> =
            self.groups().into_iter().filter_map(|group| self.tail(group)).collect();
        if !tails.is_empty() {
            text.push_str("\n## The slowest requests, on : off\n\nAs above. Lower is better.\n\n");
            let header =
                ["load", "with", "99 % without", "ratio", "99.9 % without", "ratio of that"];
            let mut rows = vec![header.map(str::to_owned)];
            rows.extend(tails);
            text.push_str(&table(&rows));
        }
        if !self.programs.is_empty() {
            text.push_str(
                "\n## BPF programs\n\nFrom a run of each load with the kernel's statistics on, \
                 which add to what they measure.\n\n",
            );
            let header = ["load", "with", "program", "runs", "runs per operation", "ns per run"];
            let mut rows = vec![header.map(str::to_owned)];
            rows.extend(self.programs.iter().cloned());
            text.push_str(&table(&rows));
        }
        if !self.scale.is_empty() {
            text.push_str("\n## Size\n\n");
            let mut rows = vec![["what", "value", "how"].map(str::to_owned)];
            rows.extend(self.scale.iter().cloned());
            text.push_str(&table(&rows));
        }
        if !self.notes.is_empty() {
            text.push('\n');
            for line in &self.notes {
                let _ = writeln!(text, "- {line}");
            }
        }
        text
    }

    fn row(&self, load: &'static str, subject: Subject) -> [String; 8] {
        let ratio = |of: fn(&Measured) -> f64| {
            Spread::of(self.of(load, subject).map(|pair| pair.ratio(of)))
                .map_or("-".to_owned(), spread)
        };
        let off = median(self.of(load, subject).map(|pair| pair.off.run.per_second()));
        let own =
            median(self.of(load, subject).map(|pair| {
                100.0 * pair.on.subject.as_secs_f64() / pair.on.run.wall.as_secs_f64()
            }));
        [
            load.to_owned(),
            subject.about.to_owned(),
            format!("{off:.0} {}s/s", loads::operation(load)),
            ratio(|measured| measured.run.per_second()),
            ratio(|measured| measured.run.per_operation(measured.run.cpu.total())),
            ratio(|measured| measured.run.per_operation(measured.run.cpu.system)),
            ratio(|measured| measured.run.per_operation(measured.host.system)),
            format!("{own:.2} %"),
        ]
    }

    /// `None` if the load has no tail.
    fn tail(&self, (load, subject): (&'static str, Subject)) -> Option<[String; 6]> {
        self.of(load, subject).all(|pair| pair.on.run.tail.is_some()).then(|| {
            let late = |measured: &Measured, share: usize| {
                measured.run.tail.map_or(f64::NAN, |tail| tail[share].as_secs_f64() * 1e6)
            };
            let off = |share| {
                let without = self.of(load, subject).map(|pair| late(&pair.off, share));
                format!("{:.0} us", median(without))
            };
            let ratio = |share| {
                let ratios = self.of(load, subject);
                Spread::of(ratios.map(|pair| pair.ratio(|measured| late(measured, share))))
                    .map_or("-".to_owned(), spread)
            };
            [load.to_owned(), subject.about.to_owned(), off(0), ratio(0), off(1), ratio(1)]
        })
    }

    fn csv(&self) -> String {
        let mut text = String::from(
            "load,subject,pair,side,operations,attempts,wall_ns,user_ns,system_ns,\
             host_system_ns,host_steal_ns,subject_cpu_ns,p99_ns,p999_ns\n",
        );
        for pair in &self.pairs {
            for (side, measured) in [("off", &pair.off), ("on", &pair.on)] {
                let run = &measured.run;
                let late = |share: usize| {
                    run.tail.map_or(String::new(), |tail| tail[share].as_nanos().to_string())
                };
                let _ = writeln!(
                    text,
                    "{},{},{},{side},{},{},{},{},{},{},{},{},{},{}",
                    pair.load,
                    pair.subject.name,
                    pair.number,
                    run.operations,
                    run.attempts,
                    run.wall.as_nanos(),
                    run.cpu.user.as_nanos(),
                    run.cpu.system.as_nanos(),
                    measured.host.system.as_nanos(),
                    measured.host.steal.as_nanos(),
                    measured.subject.as_nanos(),
                    late(0),
                    late(1),
                );
            }
        }
        text
    }
}

fn spread(spread: Spread) -> String {
    let Spread { min, lower, median, upper, max } = spread;
    format!("{median:.3} [{lower:.3} {upper:.3}] ({min:.3} to {max:.3})")
}

/// The first row is the header.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let _ = writeln!(text, "| {} |", row.join(" | "));
        if number == 0 {
            let _ = writeln!(text, "|{}", "---|".repeat(N));
        }
    }
    text
}
