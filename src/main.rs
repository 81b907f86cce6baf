//! The `tcptop` command.
//!
//! ```text
//! kernel hook → ring buffer → channel → table → lines
//!  bpf/          collector/    report    table   output/
//! ```
//!
//! Owns the order of things at start and at the end, and the exit status.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use caps::Capability;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::net::if_::if_nametoindex;
use nix::unistd::pipe2;
use tcptop::cli::{self, Config, Format, Task};
use tcptop::collector::NetworkCollector;
use tcptop::collector::linux::{CHANNEL, LinuxCollector, Schedule};
use tcptop::connection::Protocol;
use tcptop::doctor;
use tcptop::filter::Filter;
use tcptop::names::{self, HostNames};
use tcptop::output::csv::{CsvLogger, CsvStyle};
use tcptop::output::json::JsonLines;
use tcptop::output::lines::{LineStyle, Lines};
use tcptop::output::{Names, Sink};
use tcptop::plan::Provider;
use tcptop::privileges;
use tcptop::report::{Reporter, Summary, say};
use tcptop::signals::{End, Signals};

/// `--strict`, and something was lost.
const LOST: u8 = 3;
/// `EX_NOPERM` of sysexits.h.
const NOT_PRIVILEGED: u8 = 77;

/// Makes large pieces of memory go back to the kernel when they are freed. glibc
/// raises the size from which they do, to 32 MiB, as soon as one has been freed:
/// then a burst of connections would stay in memory for good.
#[cfg(target_env = "gnu")]
fn return_memory() {
    use nix::libc;
    // SAFETY: changes settings of the allocator, before there is another thread.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024) };
}

#[cfg(not(target_env = "gnu"))]
fn return_memory() {}

fn main() -> ExitCode {
    return_memory();
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
        Task::Run(config) => stream(*config),
        Task::Doctor { json, without, verbose } => doctor(json, without, verbose),
        Task::Generate(what) => match io::stdout().write_all(&what.text()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).context("failed to write to the standard output")
            }
            _ => Ok(ExitCode::SUCCESS),
        },
    }
}

fn stream(config: Config) -> Result<ExitCode> {
    let sink = sink(&config)?;
    if !privileges::may_trace() {
        return Ok(not_privileged());
    }
    privileges::check_kernel()?;
    let filter = filter(&config)?;
    let mut signals = Signals::install()?;

    // Closed to tell the collector to stop, and by the reporter when it is done.
    let (stop, running) = pipe2(OFlag::O_CLOEXEC).context("failed to make a pipe")?;
    let (done, working) = pipe2(OFlag::O_CLOEXEC).context("failed to make a pipe")?;
    let (sender, receiver) = crossbeam_channel::bounded(CHANNEL);
    let mut collector = LinuxCollector {
        schedule: Schedule {
            interval: config.interval,
            count: config.count,
            duration: config.duration,
            stop,
        },
        lifetime: config.lifetime,
        tcp: config.filter.protocol != Some(Protocol::Udp),
        udp: config.filter.protocol != Some(Protocol::Tcp),
        family: config.filter.family,
        ports: config.filter.ports.clone(),
        udp_flows: config.udp_flows,
        udp_timeout: config.udp_timeout,
        without: config.without.clone(),
        verbose: config.verbose,
        notice,
        plan: None,
    };
    let reporter = Reporter {
        sink,
        filter,
        sort: config.sort,
        top: config.top,
        all: config.all || config.format != Format::Lines,
        lifetime: config.lifetime,
        greeting: config.log.as_ref().map(|log| {
            let interval = config.interval.as_secs_f64();
            format!("tcptop: logging to {} (interval: {interval}s, Ctrl-C to stop)", log.display())
        }),
        reopen: if config.log.is_some() { Signals::hang_up()? } else { Arc::default() },
        ready_file: config.ready_file,
    };
    let logs = config.log.is_some();
    let collecting = thread::Builder::new()
        .name("collector".into())
        .spawn(move || collector.run(sender))
        .context("failed to start a thread")?;
    let reporting = thread::Builder::new()
        .name("reporter".into())
        .spawn(move || {
            // Only logrotate may ask for a file in a place that root's uid does not own.
            give_up_privileges(if logs { &[Capability::CAP_DAC_OVERRIDE] } else { &[] });
            let result = reporter.run(&receiver);
            drop((receiver, working));
            result
        })
        .context("failed to start a thread")?;

    give_up_privileges(&[]);
    let end = signals.wait(&done, config.log.is_none())?;
    drop(running);
    if end == End::ReaderGone {
        // The reporter may have nothing to write and so never notice. Whatever
        // is attached goes with the process.
        return Ok(ExitCode::SUCCESS);
    }
    let summary: Summary = reporting.join().map_err(|_| anyhow!("the reporter panicked"))??;
    collecting.join().map_err(|_| anyhow!("the collector panicked"))??;
    if let Some(log) = &config.log {
        if !summary.lost.is_zero() {
            say(&format!("tcptop: lost in total: {}", summary.lost));
        }
        say(&format!("tcptop: logging stopped, CSV written to {}", log.display()));
    } else if !summary.reader_gone {
        say(&format!(
            "tcptop: {} connections closed, {} open, lost: {}",
            summary.closed, summary.open, summary.lost
        ));
    }
    if config.strict && !summary.lost.is_zero() {
        return Ok(ExitCode::from(LOST));
    }
    Ok(ExitCode::SUCCESS)
}

fn doctor(json: bool, without: Vec<Provider>, verbose: bool) -> Result<ExitCode> {
    if !privileges::may_trace() {
        return Ok(not_privileged());
    }
    privileges::check_kernel()?;
    let report = doctor::examine(without, verbose)?;
    match report.write(json, &mut io::stdout().lock()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("failed to write to the standard output")
        }
        _ if report.all_work() => Ok(ExitCode::SUCCESS),
        _ => report.failure().map_or(Ok(ExitCode::FAILURE), Err),
    }
}

/// What this thread will not need any more. The collector's thread does the same
/// once everything is attached.
fn give_up_privileges(kept: &[Capability]) {
    if let Err(error) = privileges::keep_only(kept) {
        notice(&format!("failed to give up privileges: {error:#}"));
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
fn sink(config: &Config) -> Result<Box<dyn Sink + Send>> {
    let stdout = io::stdout();
    match config.format {
        Format::Lines => {
            let color = config.color.resolve(stdout.is_terminal(), |name| std::env::var_os(name));
            let style = LineStyle {
                raw: config.raw,
                timestamp: config.timestamp,
                lifetime: config.lifetime,
                color,
            };
            Ok(Box::new(Lines::new(stdout, style)))
        }
        Format::Csv => {
            let wide = config.wide.then(|| Box::new(HostNames::new()) as Box<dyn Names + Send>);
            let style = CsvStyle { wide, lifetime: config.lifetime };
            let csv = match &config.log {
                None => CsvLogger::stream(Box::new(stdout), style),
                Some(log) if config.append => CsvLogger::append(log, style)?,
                Some(log) => CsvLogger::new(log, style)?,
            };
            if csv.repaired() > 0 {
                say(&format!(
                    "tcptop: cut off an unfinished row of {} bytes that an earlier run left",
                    csv.repaired()
                ));
            }
            Ok(Box::new(csv))
        }
        Format::Json => {
            Ok(Box::new(JsonLines::new(stdout, Box::new(HostNames::new()), config.lifetime)))
        }
    }
}

/// The process that a PID, which may be a thread's, belongs to.
fn process_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// What the user's words for the filter mean on this host.
fn filter(config: &Config) -> Result<Filter> {
    let asked = config.filter.clone();
    for &pid in &asked.pids {
        match process_of(pid) {
            Some(process) if process != pid => say(&format!(
                "tcptop: {pid} is a thread of process {process}; connections belong to \
                 processes: --pid {process}"
            )),
            Some(_) => {}
            None => say(&format!("tcptop: no process has PID {pid} yet; waiting for it")),
        }
    }
    let interfaces = asked
        .interfaces
        .iter()
        .map(|name| {
            if_nametoindex(name.as_str()).map_err(|error| match error {
                Errno::ENODEV => {
                    anyhow!("no network device is named '{name}' here; `ip -br link` lists them")
                }
                error => anyhow!("failed to look up the network device '{name}': {error}"),
            })
        })
        .collect::<Result<Vec<u32>>>()?;
    let own = names::own_network_namespace().context("failed to read /proc/self/ns/net")?;
    Ok(Filter::new(asked, interfaces, own))
}
