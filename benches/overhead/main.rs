//! What tcptop costs: load generators run with and without it, in pairs.
//!
//! One executable plays every part. Without `--role` it is the conductor: it
//! starts generators (`loads`), what is measured (`subject`) and writes the
//! tables (`report`). `benches/README.md` says how to run it and how to read it.
//!
//! Each module uses only modules further down in this list:
//! * `main`;
//! * `pairs` and `scale`, which measure;
//! * `report`;
//! * `loads`, the list of loads, and `subject`;
//! * each load; `load`, which all loads use, and `idle`;
//! * `role`, `process` and `machine`.
//!
//! Everything runs in a separate network namespace, so that the host's traffic and settings
//! have no influence.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod churn;
mod idle;
mod load;
mod loads;
mod machine;
mod options;
mod pairs;
mod process;
mod programs;
#[path = "../../tests/common/reexec.rs"]
mod reexec;
mod reference;
mod report;
mod role;
mod scale;
mod servers;
mod statistics;
mod subject;
mod tail;
mod tcp;
mod udp;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::options::Options;
use crate::report::Report;

fn main() -> ExitCode {
    let result = match reexec::asked_for() {
        Some(role) => play(&role),
        None => conduct(&std::env::args().skip(1).collect::<Vec<_>>()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("overhead: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn conduct(arguments: &[String]) -> Result<()> {
    let Some(options) = Options::parse(arguments, &loads::NAMES, &subject::names())? else {
        return Ok(());
    };
    if !nix::unistd::geteuid().is_root() {
        bail!("BPF programs and a network namespace of its own need root");
    }
    machine::limit_descriptors()?;
    machine::own_network()?;
    let mut report = Report::new(&options)?;
    pairs::measure(&options, &mut report)?;
    if !options.sizes.is_empty() {
        scale::measure(&options, &mut report)?;
    }
    report.finish()
}

/// Plays the role of a child of the conductor.
fn play(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["load", name] => loads::play(name),
        ["idle", port, sockets] => idle::play(port.parse()?, sockets.parse()?),
        ["active", port, sockets, period] => {
            let period = Duration::from_millis(period.parse()?);
            scale::play_active(port.parse()?, sockets.parse()?, period)
        }
        ["reference", design] => reference::play(design),
        ["ss"] => subject::play_ss(),
        _ => bail!("no such role: {}", words.join(" ")),
    }
}
