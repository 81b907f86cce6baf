//! The `tcptop` command.
//!
//! ```text
//! kernel hook → ring buffer → channel → table → lines
//!  bpf/          linux/        report    table   output/
//! ```
//!
//! Owns what is said at the end, and the exit status. What platform this is only
//! the `use` of its [`Host`] tells.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use tcptop::cli::{self, Task};
use tcptop::linux::Host;
use tcptop::output::Sink;
use tcptop::output::csv::{CsvLogger, CsvStyle};
use tcptop::output::json::JsonLines;
use tcptop::output::lines::{LineStyle, Lines};
use tcptop::report::{Reporter, say};
use tcptop::settings::{Format, Settings};

/// `--strict`, and something was lost.
const LOST: u8 = 3;
/// `EX_NOPERM` of sysexits.h.
const NOT_PRIVILEGED: u8 = 77;

fn main() -> ExitCode {
    let task = match cli::parse(std::env::args_os()) {
        Ok(task) => task,
        // Prints help and version as well, each to where it belongs.
        Err(error) => error.exit(),
    };
    match perform(task) {
        Ok(status) => status,
        Err(error) => {
            say(&format!("tcptop: error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Stream(settings) => stream(*settings),
        Task::Doctor(settings) => doctor(*settings),
        Task::Generate(what) => {
            print(&what.text())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn stream(settings: Settings) -> Result<ExitCode> {
    let host = Host::new(settings.clone(), notice)?;
    let sink = sink(&settings, &host)?;
    if !host.is_privileged() {
        return Ok(not_privileged());
    }
    host.check_kernel()?;
    let log = settings.output.log.as_ref().map(|log| log.display().to_string());
    let interval = settings.times.interval.as_secs_f64();
    let strict = settings.more.strict;
    let reporter = Reporter {
        sink,
        filter: host.filter()?,
        greeting: log
            .as_ref()
            .map(|log| format!("tcptop: logging to {log} (interval: {interval}s, Ctrl-C to stop)")),
        reopen: Arc::default(),
        settings,
    };
    let Some(summary) = host.stream(reporter)? else { return Ok(ExitCode::SUCCESS) };
    if let Some(log) = log {
        if !summary.lost.is_zero() {
            say(&format!("tcptop: lost in total: {}", summary.lost));
        }
        say(&format!("tcptop: logging stopped, CSV written to {log}"));
    } else if !summary.reader_gone {
        say(&format!(
            "tcptop: {} connections closed, {} open, lost: {}",
            summary.closed, summary.open, summary.lost
        ));
    }
    if strict && !summary.lost.is_zero() {
        return Ok(ExitCode::from(LOST));
    }
    Ok(ExitCode::SUCCESS)
}

fn doctor(settings: Settings) -> Result<ExitCode> {
    let json = settings.output.format() == Format::Json;
    let host = Host::new(settings, notice)?;
    if !host.is_privileged() {
        return Ok(not_privileged());
    }
    host.check_kernel()?;
    let report = host.examine()?;
    let mut text = Vec::new();
    report.write(json, &mut text)?;
    print(&text)?;
    if report.all_work() {
        return Ok(ExitCode::SUCCESS);
    }
    report.failure().map_or(Ok(ExitCode::FAILURE), Err)
}

/// Writes to the standard output, whose reader may go away.
fn print(text: &[u8]) -> Result<()> {
    let mut stdout = io::stdout();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("failed to write to the standard output")
        }
        _ => Ok(()),
    }
}

fn not_privileged() -> ExitCode {
    say("error: tcptop requires root privileges. Run with sudo.");
    ExitCode::from(NOT_PRIVILEGED)
}

fn notice(message: &str) {
    say(&format!("tcptop: {message}"));
}

/// The format and its destination. A file is opened here, before anything else.
fn sink(settings: &Settings, host: &Host) -> Result<Box<dyn Sink + Send>> {
    let stdout = io::stdout();
    let output = &settings.output;
    let lifetime = settings.rows.lifetime;
    match output.format() {
        Format::Lines => {
            let color = output.color.resolve(stdout.is_terminal(), |name| std::env::var_os(name));
            let style = LineStyle { raw: output.raw, timestamp: output.timestamp, lifetime, color };
            Ok(Box::new(Lines::new(stdout, style)))
        }
        Format::Csv => {
            let style = CsvStyle { wide: output.wide.then(|| host.names()), lifetime };
            let csv = match &output.log {
                None => CsvLogger::stream(Box::new(stdout), style),
                Some(log) if output.append => CsvLogger::append(log, style)?,
                Some(log) => CsvLogger::new(log, style)?,
            };
            if csv.repaired() > 0 {
                notice(&format!(
                    "cut off an unfinished row of {} bytes that an earlier run left",
                    csv.repaired()
                ));
            }
            Ok(Box::new(csv))
        }
        Format::Json => Ok(Box::new(JsonLines::new(stdout, host.names(), lifetime))),
    }
}
