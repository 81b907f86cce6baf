//! Who saw how many bytes of which process, and what that cost: tcptop beside other tools,
//! on the same load.
//!
//! `compare run-tools` starts one tool after the other on loads whose generators count what
//! they move, and leaves a result; `compare write-document` makes docs/comparison.md from the
//! results of one kernel or several (scripts/compare.sh does both). Without a command it runs
//! its own tests, as `cargo test` does: the readers of the tools' outputs on recorded ones,
//! and, as root, a short comparison.
//!
//! Each module uses only modules further down in this list:
//! * `main`, `tests`;
//! * `report`, which writes; `sessions` and `costs`, which measure;
//! * `cases`, the loads;
//! * `tools`, how each tool is started; `outputs`, how what it prints is read;
//! * `network`, where all of it runs;
//! * `results`, `options`.
//!
//! It shares the loads of `costs` with benches/overhead, and the processes that `cases` are
//! played by with the live tests.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cases;
mod costs;
mod network;
mod options;
mod outputs;
mod report;
mod results;
mod sessions;
mod tests;
mod tools;

// What the live tests and the other benchmark have, of which this one needs a part.
#[allow(dead_code)]
#[path = "../overhead/churn.rs"]
mod churn;
#[allow(dead_code)]
#[path = "../../tests/common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../overhead/load.rs"]
mod load;
#[allow(dead_code)]
#[path = "../overhead/machine.rs"]
mod machine;
#[allow(dead_code)]
#[path = "../overhead/process.rs"]
mod process;
#[allow(dead_code)]
#[path = "../overhead/role.rs"]
mod role;
#[allow(dead_code)]
#[path = "../overhead/statistics.rs"]
mod statistics;
#[allow(dead_code)]
#[path = "../overhead/tcp.rs"]
mod tcp;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Parser;

use crate::common::reexec;
use crate::options::{Options, Task};

fn main() -> ExitCode {
    let result = match reexec::asked_for() {
        Some(role) => play(&role),
        None if std::env::args().nth(1).is_some_and(|word| Task::is_one(&word)) => conduct(),
        None => return tests::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn conduct() -> Result<()> {
    match Options::parse().task {
        Task::RunTools(run) => {
            if !nix::unistd::geteuid().is_root() {
                bail!("network namespaces and other programs' sockets need root");
            }
            let mut results = sessions::run(&run)?;
            costs::measure(&run, &mut results)?;
            results.write(&run.result)
        }
        Task::WriteDocument { output, results } => report::write(&output, &results),
    }
}

/// Plays the role of a child of the conductor.
fn play(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["agent"] => {
            common::agent::run_if_asked();
            Ok(())
        }
        ["load", name] => costs::play(name),
        ["ss", milliseconds, output] => tools::play_ss(milliseconds.parse()?, Path::new(output)),
        _ => bail!("no such role: {}", words.join(" ")),
    }
}
