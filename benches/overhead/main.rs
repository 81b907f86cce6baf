//! What tcptop costs: load generators run with and without it, in pairs.
//!
//! One executable plays every part. Without `--role` it is the conductor: it
//! starts generators (`loads`), what is measured (`subject`) and writes the
//! tables (`report`). `benches/README.md` says how to run it and how to read it.
//!
//! Everything happens in a network namespace of its own, so that neither the
//! host's traffic nor its settings take part.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod churn;
mod loads;
mod machine;
mod options;
mod pairs;
mod process;
mod programs;
mod reference;
mod report;
mod role;
mod scale;
mod servers;
mod statistics;
mod subject;
mod tcp;
mod udp;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::options::Options;
use crate::report::Report;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.split_first() {
        Some((flag, role)) if flag == role::FLAG => role::play(role),
        _ => conduct(&arguments),
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
    let Some(options) = Options::parse(arguments)? else { return Ok(()) };
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
