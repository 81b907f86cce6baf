//! What a tool costs two short loads on the loopback device, in pairs of runs: without it,
//! then with it. benches/README.md says why pairs; `make bench` measures tcptop at length.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::load::{Load, Run as Measured};
use crate::options::Run;
use crate::results::{Cost, Results};
use crate::role::Role;
use crate::tools::Tool;
use crate::{churn, machine, reexec, sessions, tcp};

/// Round trips with both ends on one processor, where every nanosecond shows; connections.
const LOADS: [&str; 2] = ["tcp-pingpong-1cpu", "tcp-churn"];

pub fn measure(run: &Run, results: &mut Results) -> Result<()> {
    if run.pairs == 0 {
        return Ok(());
    }
    machine::limit_descriptors()?;
    machine::own_network()?;
    let time = Duration::from_secs_f64(run.seconds);
    for name in LOADS {
        let mut load = Role::start(&["load", name])?;
        // A first run fills caches, routes and queues.
        one(&mut load, time)?;
        let (mut tools, mut costs) = (Vec::new(), Vec::new());
        for tool in sessions::chosen(run) {
            if results.tools.iter().any(|known| known.name == tool.name) {
                let (tool_name, load_name) = (tool.name.to_owned(), name.to_owned());
                costs.push(Cost {
                    tool: tool_name,
                    load: load_name,
                    ratios: Vec::new(),
                    cpu: Vec::new(),
                });
                tools.push(tool);
            }
        }
        for _ in 0..run.pairs {
            for (tool, cost) in tools.iter().zip(&mut costs) {
                eprintln!("compare: {} with {name}", tool.name);
                match pair(&mut load, tool, time) {
                    Ok((ratio, cpu)) => {
                        cost.ratios.push(ratio);
                        cost.cpu.push(cpu);
                    }
                    Err(error) => {
                        let what = format!("cost of {} in {name}", tool.name);
                        results.leave_out(&what, &format!("{error:#}"));
                    }
                }
            }
        }
        results.costs.extend(costs);
        load.end()?;
    }
    Ok(())
}

fn pair(load: &mut Role, tool: &Tool, time: Duration) -> Result<(f64, f64)> {
    let off = one(load, time)?;
    let running = tool.start("lo")?;
    let before = running.cpu()?;
    let on = one(load, time)?;
    let cpu = (running.cpu()? - before).as_secs_f64() / on.wall.as_secs_f64();
    running.stop(None)?;
    Ok((on.per_second() / off.per_second(), 100.0 * cpu))
}

fn one(load: &mut Role, time: Duration) -> Result<Measured> {
    let answer = load.ask(&time.as_micros().to_string())?;
    Measured::decode(&answer).ok_or_else(|| anyhow!("a load failed: {answer}"))
}

/// Runs a load in the generator's process.
pub fn play(name: &str) -> Result<()> {
    let cpus = machine::processors()?;
    let mut load: Box<dyn Load> = match name {
        "tcp-pingpong-1cpu" => Box::new(tcp::PingPong::new([cpus[0]; 2])?),
        "tcp-churn" => Box::new(churn::Churn::new(cpus)?),
        _ => return Err(anyhow!("no such load: {name}")),
    };
    reexec::say("ready")?;
    reexec::serve(|line| {
        let time = Duration::from_micros(line.parse().context("no time")?);
        Ok(load.run(time)?.encode())
    })
}
