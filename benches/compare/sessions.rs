//! Every tool on every load: a new network, a new tool and new processes each time.

use std::panic;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::cases::{self, Case};
use crate::machine;
use crate::network::{self, Network};
use crate::options::Run;
use crate::results::{self, Bytes, Part, Results, Session};
use crate::tools::{self, Running, Tool};

pub fn run(run: &Run) -> Result<Results> {
    let mut results = Results::default();
    let facts = machine::facts();
    results.facts = facts.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    // What else the machine does.
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').take(3).collect::<Vec<_>>().join(", ");
    results.facts.push(("load average before".to_owned(), load));
    check("tool", &run.tools, &tools::ALL.map(|tool| tool.name))?;
    check("load", &run.cases, &cases::ALL.map(|case| case.name))?;
    let cases = || cases::ALL.iter().filter(|case| Run::wants(&run.cases, case.name));
    results.cases = cases().map(Case::facts).collect();
    for tool in chosen(run) {
        match works(&tool) {
            Ok(facts) => results.tools.push(facts),
            Err(error) if tool.name == "tcptop" => return Err(error),
            Err(error) => {
                results.leave_out(tool.name, &format!("{error:#}"));
                continue;
            }
        }
        for case in cases() {
            eprintln!("compare: {} on {}", tool.name, case.name);
            // A generator whose check fails panics.
            let done = panic::catch_unwind(|| session(&tool, case, run));
            match done.unwrap_or_else(|_| Err(anyhow!("the load failed"))) {
                Ok(session) => results.sessions.push(session),
                Err(error) if tool.name == "tcptop" => {
                    return Err(error.context(format!("tcptop on {}", case.name)));
                }
                Err(error) => results
                    .leave_out(&format!("{} on {}", tool.name, case.name), &format!("{error:#}")),
            }
        }
    }
    Ok(results)
}

/// What is known of a tool that can be started here.
fn works(tool: &Tool) -> Result<results::Tool> {
    let facts = tool.facts()?;
    let _network = Network::new();
    tool.start(network::DEVICE)?.stop(None)?;
    Ok(facts)
}

/// The tools that are asked for.
pub fn chosen(run: &Run) -> impl Iterator<Item = Tool> {
    tools::ALL.into_iter().filter(|tool| Run::wants(&run.tools, tool.name))
}

fn check(what: &str, asked: &[String], names: &[&str]) -> Result<()> {
    match asked.iter().find(|name| !names.contains(&name.as_str())) {
        Some(name) => bail!("no {what} is named {name}: {}", names.join(" ")),
        None => Ok(()),
    }
}

/// One tool on one load.
pub fn session(tool: &Tool, case: &Case, run: &Run) -> Result<Session> {
    let around = if run.rest < 1.0 { run.pause() } else { tool.around };
    let network = Network::new();
    let running = tool.start(network::DEVICE)?;
    let (start, wire) = (running.cpu()?, network::on_the_wire()?);
    thread::sleep(around);
    let played = case.play(&network, run).context("the load")?;
    thread::sleep(around);
    catch_up(&running, around)?;
    let wire = network::on_the_wire()?.since(wire);
    if tool.name == "iftop" {
        // It prints only when there are packets.
        for _ in 0..5 {
            network::send_one()?;
            thread::sleep(Duration::from_secs(1));
        }
    }
    let keep = run.keep.as_ref().map(|folder| folder.join(format!("{}-{}", tool.name, case.name)));
    let (mut seen, cpu) = running.stop(keep.as_deref())?;
    let mut part = |part: &cases::Part| {
        let mut own = Bytes::default();
        seen.retain(|owner, bytes| {
            let is = owner.is(part.pid, &part.process);
            own += if is { *bytes } else { Bytes::default() };
            !is
        });
        Part { process: part.process.clone(), truth: part.truth, seen: own }
    };
    let parts = played.parts.iter().map(&mut part).collect();
    Ok(Session {
        tool: tool.name.to_owned(),
        case: case.name.to_owned(),
        parts,
        others: seen.into_values().sum(),
        wire,
        start_ms: start.as_secs_f64() * 1e3,
        cpu_ms: cpu.saturating_sub(start).as_secs_f64() * 1e3,
        note: match network.is_paced {
            true => played.note,
            false => format!("{}; at full speed, since this kernel has no tbf", played.note),
        },
    })
}

/// Gives a tool that is still at work time to end it.
fn catch_up(running: &Running, around: Duration) -> Result<()> {
    let look = around.min(Duration::from_millis(500));
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let before = running.cpu()?;
        thread::sleep(look);
        let busy = running.cpu()? - before > look / 2;
        if !busy || Instant::now() > deadline {
            return Ok(());
        }
    }
}
