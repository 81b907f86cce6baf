//! The tools: how each is started in its fairest mode, when it is ready, how it is ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::common::tcptop as house;
use crate::machine;
use crate::outputs::{self, Seen};
use crate::process::{Process, which};
use crate::results;
use crate::role::end_requested;

/// A tool, and how it is used.
pub struct Tool {
    pub name: &'static str,
    kind: Kind,
    version: &'static [&'static str],
    /// What its bytes are.
    counts: &'static str,
    interval: &'static str,
    read_how: &'static str,
    read: fn(&str) -> Seen,
    /// How long it must run before the traffic and after it.
    pub around: Duration,
}

enum Kind {
    Tcptop(&'static [&'static str]),
    /// `ss`, started again after each pause of this many milliseconds.
    Ss(&'static str),
    /// Captures packets on the device, which is its last argument.
    Capture(&'static str, &'static [&'static str]),
    /// tcptop of libbpf-tools, under the name that kernels/compare.sh gives it.
    LibbpfTools(&'static str, &'static [&'static str]),
}

/// In its sandbox, and as another user than root, rustnet finds no process where it has no
/// eBPF programs.
const RUSTNET: [&str; 5] =
    ["--headless", "--no-sandbox", "--no-uid-drop", "--no-resolve-dns", "--interface"];

const SECOND: Duration = Duration::from_millis(1200);

pub const ALL: [Tool; 8] = [
    Tool {
        name: "tcptop",
        kind: Kind::Tcptop(&["--format", "json"]),
        version: &["--version"],
        counts: "payload: TCP's own counters; datagrams",
        interval: "1 s, and each connection's end",
        read_how: "each row's increase goes to the process of that row",
        read: outputs::tcptop::read,
        around: SECOND,
    },
    Tool {
        name: "ss-1s",
        kind: Kind::Ss("1000"),
        version: &["-V"],
        counts: "payload: TCP's own counters, which take a FIN received for a byte",
        interval: "1 s",
        read_how: "each look's increase goes to the first process that has the socket open",
        read: outputs::ss::read,
        around: SECOND,
    },
    Tool {
        name: "ss-0.1s",
        kind: Kind::Ss("100"),
        version: &["-V"],
        counts: "payload: TCP's own counters, which take a FIN received for a byte",
        interval: "0.1 s",
        read_how: "as ss-1s",
        read: outputs::ss::read,
        around: SECOND,
    },
    Tool {
        name: "nethogs",
        kind: Kind::Capture("nethogs", &["-t", "-v", "2", "-C", "-a"]),
        version: &["-V"],
        counts: "packets with headers, acknowledgements and what is sent again",
        interval: "1 s; packets as they come",
        read_how: "the largest total of each PID",
        read: outputs::nethogs::read,
        around: SECOND,
    },
    Tool {
        name: "bandwhich",
        kind: Kind::Capture("bandwhich", &["--raw", "--no-resolve", "--interface"]),
        version: &["--version"],
        counts: "IP payload: TCP and UDP headers too, acknowledgements, what is sent again",
        interval: "1 s; packets as they come",
        read_how: "the sum of the rates of each name; each is the mean of five seconds",
        read: outputs::bandwhich::read,
        around: Duration::from_secs(outputs::bandwhich::MEMORY + 1),
    },
    Tool {
        name: "rustnet",
        kind: Kind::Capture("rustnet", &RUSTNET),
        version: &["--version"],
        counts: "packets with headers, acknowledgements and what is sent again",
        interval: "0.5 s; packets as they come",
        read_how: "the largest total of each connection, for its PID",
        read: outputs::rustnet::read,
        around: SECOND,
    },
    Tool {
        name: "iftop",
        kind: Kind::Capture("iftop", &["-t", "-n", "-N", "-P", "-B", "-i"]),
        version: &["-h"],
        counts: "packets with headers, acknowledgements and what is sent again",
        interval: "2 s; packets as they come",
        read_how: "the last total of the device",
        read: outputs::iftop::read,
        around: Duration::from_millis(4500),
    },
    Tool {
        name: "libbpf-tools",
        kind: Kind::LibbpfTools("bpf-tcptop", &["-C", "-S", "-r", "10000", "1"]),
        version: &["-V"],
        counts: "TCP payload: what the calls asked to send, what was taken from the receive queue",
        interval: "1 s; calls as they come",
        read_how: "the sum of all lines of each PID, in whole KiB",
        read: outputs::libbpf_tools::read,
        around: SECOND,
    },
];

impl Tool {
    fn program(&self) -> Result<PathBuf> {
        let name = match self.kind {
            Kind::Tcptop(_) => return Ok(house::binary()),
            Kind::Ss(_) => "ss",
            Kind::Capture(name, _) | Kind::LibbpfTools(name, _) => name,
        };
        which(name).with_context(|| format!("{name} is not installed"))
    }

    /// What a reader must know about it.
    pub fn facts(&self) -> Result<results::Tool> {
        let output = Command::new(self.program()?).args(self.version).stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("failed to start {}", self.name))?;
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // iftop has its version in its help.
        let mut lines = text.lines().filter(|line| line.contains(|c: char| c.is_ascii_digit()));
        let line = lines.clone().find(|line| line.contains("version")).or_else(|| lines.next());
        let command = match self.kind {
            Kind::Tcptop(arguments) => format!("tcptop {}", arguments.join(" ")),
            Kind::Ss(pause) => format!("ss {SS}, again after {pause} ms"),
            Kind::Capture(name, arguments) => format!("{name} {} DEVICE", arguments.join(" ")),
            Kind::LibbpfTools(_, arguments) => format!("tcptop {}", arguments.join(" ")),
        };
        Ok(results::Tool {
            name: self.name.to_owned(),
            version: line.unwrap_or("unknown").trim().to_owned(),
            command,
            counts: self.counts.to_owned(),
            interval: self.interval.to_owned(),
            read: self.read_how.to_owned(),
        })
    }

    /// Starts it on this device of the calling thread's network namespace, and waits until it
    /// counts.
    pub fn start(&self, device: &str) -> Result<Running> {
        let directory = TempDir::new().context("failed to make a directory")?;
        let path = |name: &str| directory.path().join(name);
        house::open_to_all(directory.path());
        let mut command = match self.kind {
            Kind::Ss(pause) => {
                let output = path("stdout");
                let output = output.to_str().context("a path")?;
                crate::reexec::command(Path::new(crate::reexec::ITSELF), &["ss", pause, output])
            }
            Kind::Tcptop(_) => Command::new(self.program()?),
            Kind::Capture(..) | Kind::LibbpfTools(..) => {
                // Some keep what they print until they have kilobytes of it.
                let mut command = Command::new("stdbuf");
                command.arg("-oL").arg(self.program()?);
                command
            }
        };
        match self.kind {
            Kind::Tcptop(arguments) => {
                command.args(arguments).arg("--ready-file").arg(path("ready"));
            }
            Kind::Capture(_, arguments) => drop(command.args(arguments).arg(device)),
            Kind::LibbpfTools(_, arguments) => drop(command.args(arguments)),
            Kind::Ss(_) => {}
        }
        let create = |name| File::create(path(name)).context("failed to make a file");
        // Nobody types: iftop asks again and again where its input has ended.
        command.stdin(Stdio::piped()).stderr(create("stderr")?);
        match self.kind {
            Kind::Ss(_) => command.stdout(Stdio::null()),
            _ => command.stdout(create("stdout")?),
        };
        let process = Process::spawn(command, None)?;
        let mut running = Running { process, directory, read: self.read };
        if let Err(error) = self.await_ready(&running) {
            let _ = running.process.kill();
            bail!("{error:#}: {}", running.errors());
        }
        Ok(running)
    }

    fn await_ready(&self, running: &Running) -> Result<()> {
        let size = |name: &str| fs::metadata(running.path(name)).map_or(0, |file| file.len());
        running.process.await_that("sign that it counts", || {
            Ok(match self.kind {
                Kind::Tcptop(_) => running.path("ready").exists(),
                // Nobody else has a packet socket in this network namespace.
                Kind::Capture(..) => {
                    let sockets = fs::read_to_string("/proc/thread-self/net/packet");
                    sockets.context("failed to read /proc/net/packet")?.lines().count() > 1
                }
                // It prints first a second after it has attached its programs.
                Kind::LibbpfTools(..) => size("stdout") > 0,
                Kind::Ss(_) => running.path("stdout").exists(),
            })
        })
    }
}

/// A tool that runs, and writes into files. Killed when dropped.
pub struct Running {
    process: Process,
    directory: TempDir,
    read: fn(&str) -> Seen,
}

impl Running {
    /// Its CPU time so far, with that of the children that it has waited for.
    pub fn cpu(&self) -> Result<Duration> {
        machine::exact_cpu(self.process.id())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn errors(&self) -> String {
        let text = fs::read_to_string(self.path("stderr")).unwrap_or_default();
        text.lines().next_back().unwrap_or("it says nothing").to_owned()
    }

    /// Ends it. Returns what it reported and all of its CPU time, and keeps what it printed in
    /// this file.
    pub fn stop(mut self, keep: Option<&Path>) -> Result<(Seen, Duration)> {
        self.process.interrupt()?;
        let (_, cpu) = self.process.finish()?;
        if let Some(keep) = keep {
            fs::copy(self.path("stdout"), keep)
                .with_context(|| format!("failed to write {}", keep.display()))?;
        }
        let output = fs::read(self.path("stdout")).context("failed to read a tool's output")?;
        Ok(((self.read)(&String::from_utf8_lossy(&output)), cpu.total()))
    }
}

/// What `ss` is asked for: TCP, details, numbers, processes, a line for each socket.
const SS: &str = "-tinpHO";

/// The role that runs `ss` again and again, and appends what it prints to a file.
pub fn play_ss(milliseconds: u64, output: &Path) -> Result<()> {
    loop {
        let file = File::options().create(true).append(true).open(output)?;
        let status = Command::new("ss").arg(SS).stdin(Stdio::null()).stdout(file).status();
        if !status.context("failed to start ss")?.success() {
            bail!("ss failed");
        }
        if end_requested(Duration::from_millis(milliseconds))? {
            return Ok(());
        }
    }
}
