//! The `tcptop` command.
//!
//! ```text
//! kernel hook → ring buffer → channel → table → lines
//!  bpf/          linux/        report    table   output/
//! ```
//!
//! Owns the messages at the end and the exit status. The only line that depends on the
//! platform is the `use` of its [`Host`].

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use anyhow::{Context, Error, Result, anyhow, bail};
use crossbeam_channel::never;
use tcptop::cli::{self, Task};
use tcptop::connection::Needs;
use tcptop::linux::{Host, in_its_directory, open_to_append, say, standard_output_is_open};
use tcptop::names::NoNames;
use tcptop::output::destination::put_whole;
use tcptop::output::fit::Screen;
use tcptop::output::tame::{Instead, Tame};
use tcptop::output::textfile::Textfile;
use tcptop::output::{self, Destination, Writer, columns};
use tcptop::report::Reporter;
use tcptop::settings::{FormatName, Settings};

/// `--strict`, and something was lost.
const LOST: u8 = 3;
/// `EX_NOPERM` of sysexits.h.
const NOT_PRIVILEGED: u8 = 77;

fn main() -> ExitCode {
    let result = match cli::parse(std::env::args_os()) {
        Ok(task) => perform(task),
        Err(mistake) if mistake.use_stderr() => mistake.exit(),
        // Help and version
        Err(text) => to_stdout(|_| text.print()).map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            say(&format!("tcptop: error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(task: Task) -> Result<ExitCode> {
    match task {
        Task::Columns => {
            print(columns::list().as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Task::Stream(settings) => stream(*settings),
        Task::Doctor(settings) => doctor(*settings),
        Task::Verify(settings) => verify(*settings),
        Task::Generate(what) => {
            print(&what.text())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn stream(settings: Settings) -> Result<ExitCode> {
    let needs = output::needs(&settings);
    let mut host = platform(settings.clone(), needs);
    host.take_user()?;
    let writer = writer(&settings)?;
    if !host.is_privileged() {
        return Ok(not_privileged(&host));
    }
    host.check_kernel()?;
    let log = settings.output.log.as_ref().map(|log| log.display().to_string());
    let interval = settings.times.interval.as_secs_f64();
    let (strict, format) = (settings.more.strict, settings.output.format());
    let quiet = settings.output.quiet;
    let names = needs.intersects(Needs::NAMES).then(|| host.names());
    let textfile = settings.groups.textfile.as_ref();
    let textfile = textfile.map(|path| Textfile::new(path, &settings.groups.by, in_its_directory));
    let textfile = textfile.transpose().map_err(|error| of_user(error, &settings))?;
    let reporter = Reporter {
        writer,
        textfile,
        names: names.unwrap_or_else(|| Box::new(NoNames)),
        host: settings.output.host.clone().unwrap_or_else(|| host.name()),
        filter: host.filter()?,
        greeting: log
            .as_ref()
            .filter(|_| !quiet)
            .map(|log| format!("tcptop: logging to {log} (interval: {interval}s, Ctrl-C to stop)")),
        open: open_to_append,
        say,
        reopen: never(),
        settings,
    };
    let Some(summary) = host.stream(reporter)? else { return Ok(ExitCode::SUCCESS) };
    let lost = !summary.lost.is_zero();
    if !quiet && !summary.reader_gone {
        say(&format!(
            "tcptop: {} connections closed, {} open, lost: {}",
            summary.closed, summary.open, summary.lost
        ));
        if let Some(log) = log {
            say(&format!("tcptop: logging stopped, {} written to {log}", format.name()));
        }
    } else if lost && quiet {
        say(&format!("tcptop: lost in total: {}", summary.lost));
    }
    if strict && lost {
        return Ok(ExitCode::from(LOST));
    }
    Ok(ExitCode::SUCCESS)
}

fn doctor(settings: Settings) -> Result<ExitCode> {
    let json = settings.output.format() == FormatName::Json;
    let host = platform(settings, Needs::empty());
    if !host.is_privileged() {
        return Ok(not_privileged(&host));
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

fn verify(settings: Settings) -> Result<ExitCode> {
    let host = platform(settings, Needs::empty());
    if !host.is_privileged() {
        return Ok(not_privileged(&host));
    }
    host.check_kernel()?;
    let result = host.verify()?;
    result.left_out.iter().for_each(|words| notice(words));
    let mut text = String::new();
    for difference in &result.differences {
        text += &format!("{difference}\n");
    }
    let (compared, wrong) = (result.compared, result.differences.len());
    text += &format!("{compared} totals compared, {wrong} differ, lost: {}\n", result.lost);
    print(text.as_bytes())?;
    Ok(if result.agrees() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The platform with these settings. A value that it does not know is a mistake in the
/// arguments.
fn platform(settings: Settings, needs: Needs) -> Host {
    let refuse = |error: anyhow::Error| cli::invalid_value(&error.to_string()).exit();
    Host::new(settings, needs, notice).unwrap_or_else(refuse)
}

fn print(text: &[u8]) -> Result<()> {
    to_stdout(|stdout| put_whole(stdout, text))
}

/// Writes to the standard output. A reader that has gone away is not an error.
fn to_stdout(write: impl FnOnce(&mut io::Stdout) -> io::Result<()>) -> Result<()> {
    check_stdout()?;
    let mut stdout = io::stdout();
    match write(&mut stdout).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("failed to write to the standard output")
        }
        _ => Ok(()),
    }
}

fn check_stdout() -> Result<()> {
    if !standard_output_is_open() {
        bail!("the standard output is closed; open it, or write into a file with --log FILE");
    }
    Ok(())
}

fn not_privileged(host: &Host) -> ExitCode {
    say("error: tcptop requires root privileges. Run with sudo.");
    if let Some(missing) = host.missing_privilege() {
        notice(&missing);
    }
    ExitCode::from(NOT_PRIVILEGED)
}

fn notice(message: &str) {
    say(&format!("tcptop: {message}"));
}

/// The present size of the terminal.
fn screen() -> Option<Screen> {
    let (columns, rows) = terminal_size::terminal_size_of(io::stdout())?;
    (columns.0 > 0).then_some(Screen { columns: columns.0.into(), rows: rows.0.into() })
}

/// The error of making a file, with a hint if its reason may be `--setuid`.
fn of_user(error: Error, settings: &Settings) -> Error {
    let denied = error.chain().any(|cause| {
        let cause = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        cause == Some(io::ErrorKind::PermissionDenied)
    });
    match settings.more.setuid {
        Some(_) if denied => anyhow!("{error:#}; it is opened as the user of --setuid"),
        _ => error,
    }
}

/// The format and its destination. A file is opened here, before anything else.
fn writer(settings: &Settings) -> Result<Writer> {
    let asked = &settings.output;
    let terminal = io::stdout().is_terminal();
    let color = asked.color.resolve(terminal, |name| std::env::var_os(name));
    let format = output::format(settings, color, terminal.then_some(screen));
    let document = format.document();
    let destination = match &asked.log {
        None if settings.prints_nothing() => Destination::stream(io::sink()),
        None => {
            check_stdout()?;
            let stdout = io::stdout();
            match asked.format() {
                FormatName::Csv if terminal => {
                    Destination::stream_of(Tame::new(stdout, Instead::Blank), document)
                }
                FormatName::Json if terminal => {
                    Destination::stream_of(Tame::new(stdout, Instead::Escape), document)
                }
                _ => Destination::stream_of(stdout, document),
            }
        }
        Some(log) => {
            let file = Destination::file(log, asked.append, document, open_to_append);
            file.map_err(|error| of_user(error.into(), settings))?
        }
    };
    if destination.repaired() > 0 && !asked.quiet {
        notice(&format!(
            "cut off an unfinished row of {} bytes that an earlier run left",
            destination.repaired()
        ));
    }
    Ok(Writer::new(format, destination))
}
