//! The list of loads: their names, what each counts as an operation, how each is started.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::load::{Load, Run};
use crate::reexec;
use crate::role::Role;
use crate::{churn, machine, servers, tail, tcp, udp};

/// All loads, in the order in which they are measured.
pub const NAMES: [&str; 13] = [
    "tcp-pingpong",
    "tcp-pingpong-1cpu",
    "tcp-bulk",
    "tcp-many",
    "tcp-churn",
    "udp-flood",
    "udp-flood-polled",
    "udp-peers",
    "udp-answer",
    "redis",
    "nginx",
    "redis-tail",
    "nginx-tail",
];

/// Starts a load; `Err` with the reason if this machine cannot run it. `idle`: how many
/// other sockets are open while a tail is measured.
pub fn start(name: &str, idle: usize) -> Result<Result<Box<dyn Load>, String>> {
    Ok(match name {
        "redis" => servers::Redis::start()?.map(|load| Box::new(load) as Box<dyn Load>),
        "nginx" => servers::Nginx::start()?.map(|load| Box::new(load) as Box<dyn Load>),
        "redis-tail" => tail::Tail::redis(idle)?.map(|load| Box::new(load) as Box<dyn Load>),
        "nginx-tail" => tail::Tail::nginx(idle)?.map(|load| Box::new(load) as Box<dyn Load>),
        _ => Ok(Box::new(Generator(Role::start(&["load", name])?))),
    })
}

/// What is counted as one operation.
pub fn operation(name: &str) -> &'static str {
    match name {
        "tcp-pingpong" | "tcp-pingpong-1cpu" => "round trip",
        "tcp-bulk" => "128 KiB write",
        "tcp-many" => "message",
        "tcp-churn" => "connection",
        "udp-flood" | "udp-flood-polled" | "udp-peers" => "datagram",
        _ => "request",
    }
}

/// A load of this program, which runs in its own process.
struct Generator(Role);

impl Load for Generator {
    fn run(&mut self, time: Duration) -> Result<Run> {
        let answer = self.0.ask(&time.as_micros().to_string())?;
        Run::decode(&answer).ok_or_else(|| anyhow!("a load failed: {answer}"))
    }
}

/// Runs a load in the generator's process.
pub fn play(name: &str) -> Result<()> {
    let cpus = machine::processors()?;
    let mut load: Box<dyn Load> = match name {
        "tcp-pingpong" => Box::new(tcp::PingPong::new(cpus)?),
        "tcp-pingpong-1cpu" => Box::new(tcp::PingPong::new([cpus[0]; 2])?),
        "tcp-bulk" => Box::new(tcp::Bulk::new(cpus)?),
        "tcp-many" => Box::new(tcp::Many::new(cpus)?),
        "tcp-churn" => Box::new(churn::Churn::new(cpus)?),
        "udp-flood" => Box::new(udp::Flood::connected(cpus, false)?),
        "udp-flood-polled" => Box::new(udp::Flood::connected(cpus, true)?),
        "udp-peers" => Box::new(udp::Flood::unconnected(cpus)?),
        "udp-answer" => Box::new(udp::Answer::new(cpus)?),
        _ => return Err(anyhow!("no such load: {name}")),
    };
    reexec::say("ready")?;
    reexec::serve(|line| {
        let time = Duration::from_micros(line.parse().context("no time")?);
        Ok(load.run(time)?.encode())
    })
}
