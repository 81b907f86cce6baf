//! Loads without and with a subject, in turns.
//!
//! Each run with a subject follows one without, so that what changes slowly (the
//! clock of the processor, neighbours, caches) is the same in both and cancels
//! out in their ratio.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::churn;
use crate::load::Load;
use crate::loads;
use crate::machine::HostCpu;
use crate::options::Options;
use crate::programs::{self, Statistics};
use crate::report::{Measured, Pair, Report};
use crate::subject::{self, Running, Subject};

/// Loads that a smoke run tries with every subject: one of TCP, one of UDP.
const SMOKE_WITH_ALL: [&str; 2] = ["tcp-pingpong", "udp-flood"];

pub fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let subjects = working_subjects(options, report)?;
    let idle = if options.smoke { 1_000 } else { 100_000 };
    for name in loads::NAMES {
        if !options.loads.is_empty() && !options.loads.iter().any(|asked| asked == name) {
            continue;
        }
        match loads::start(name, idle).with_context(|| format!("{name} did not start"))? {
            Err(reason) => report.leave_out(name, &reason),
            Ok(mut load) => {
                report.progress(&format!("load {name}"));
                let mut subjects = subjects.clone();
                if options.smoke && !SMOKE_WITH_ALL.contains(&name) {
                    subjects.retain(Subject::is_tcptop);
                }
                load_with_all(options, name, &mut *load, &subjects, report)
                    .with_context(|| format!("load {name}"))?;
            }
        }
    }
    Ok(())
}

/// The subjects that can be started and stopped on this machine.
fn working_subjects(options: &Options, report: &mut Report) -> Result<Vec<Subject>> {
    let mut working = Vec::new();
    for subject in subject::chosen(options) {
        match subject.start(options).and_then(Running::stop) {
            Ok(_) => working.push(subject),
            Err(error) if subject.is_tcptop() => return Err(error),
            Err(error) => report.leave_out(subject.name, &format!("{error:#}")),
        }
    }
    if working.is_empty() {
        bail!("nothing to measure");
    }
    Ok(working)
}

fn load_with_all(
    options: &Options,
    name: &'static str,
    load: &mut dyn Load,
    subjects: &[Subject],
    report: &mut Report,
) -> Result<()> {
    // A first run fills caches, routes and queues and raises the processor's clock.
    load.run(options.time)?;
    for number in 1..=options.pairs {
        for subject in subjects {
            match pair(options, name, load, subject, report) {
                Ok((off, on)) => {
                    report.add_pair(Pair { load: name, subject: *subject, number, off, on });
                }
                Err(error) if subject.is_foreign() => {
                    report.leave_out(subject.name, &format!("in {name}: {error:#}"));
                }
                Err(error) => return Err(error.context(subject.name)),
            }
        }
    }
    for subject in subjects.iter().filter(|subject| !subject.is_foreign()) {
        let running = subject.start(options)?;
        if let Some(pid) = running.pid() {
            let statistics = Statistics::enable()?;
            let before = programs::of_process(pid)?;
            let run = load.run(options.time)?;
            let after = programs::of_process(pid)?;
            drop(statistics);
            report.add_programs(name, subject, &run, programs::difference(&before, after));
        }
        running.stop()?;
    }
    Ok(())
}

fn pair(
    options: &Options,
    name: &str,
    load: &mut dyn Load,
    subject: &Subject,
    report: &mut Report,
) -> Result<(Measured, Measured)> {
    let off = run(load, options.time, &Running::Nothing)?;
    let running = subject.start(options)?;
    let on = run(load, options.time, &running)?;
    let Some(stopped) = running.stop()? else { return Ok((off, on)) };
    if stopped.lost != "nothing" {
        if options.smoke {
            bail!("tcptop lost {}", stopped.lost);
        }
        report.lost(name, subject, &stopped.lost);
    }
    // Without arguments it prints all that it sees.
    if name == "tcp-churn" && options.arguments.is_empty() {
        churn::check(&stopped.output(), on.run.operations)?;
    }
    Ok((off, on))
}

fn run(load: &mut dyn Load, time: Duration, subject: &Running) -> Result<Measured> {
    let (host, cpu) = (HostCpu::now()?, subject.cpu()?);
    let run = load.run(time)?;
    if run.operations == 0 {
        bail!("nothing was done");
    }
    let subject = subject.cpu()?.saturating_sub(cpu);
    Ok(Measured { run, host: HostCpu::now()?.since(host), subject })
}
