//! The subjects whose cost is measured: tcptop, designs that it did not choose, its peers.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::machine;
use crate::options::Options;
use crate::process::{Process, which};
use crate::reexec;
use crate::role::{self, Role};

/// A subject.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Subject {
    pub name: &'static str,
    kind: Kind,
    /// Its description in the tables.
    pub about: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Nothing,
    /// tcptop, with these arguments in addition to those of the command line.
    Tcptop(&'static [&'static str]),
    Reference(&'static str),
    /// A program that captures packets: its name and arguments.
    Peer(&'static str, &'static [&'static str]),
    Ss,
}

const ALL: [Subject; 10] = [
    Subject { name: "nothing", kind: Kind::Nothing, about: "nothing: the noise of a pair" },
    Subject { name: "tcptop", kind: Kind::Tcptop(&[]), about: "tcptop" },
    Subject { name: "tcptop-tcp", kind: Kind::Tcptop(&["--tcp"]), about: "tcptop --tcp" },
    Subject {
        name: "empty",
        kind: Kind::Reference("empty"),
        about: "reference: empty cgroup_skb programs",
    },
    Subject {
        name: "hash",
        kind: Kind::Reference("hash"),
        about: "reference: hash map update per call",
    },
    Subject {
        name: "ring",
        kind: Kind::Reference("ring"),
        about: "reference: ring record per call",
    },
    Subject { name: "ss", kind: Kind::Ss, about: "ss -tin each second" },
    Subject {
        name: "nethogs",
        kind: Kind::Peer("nethogs", &["-t", "-C", "-a", "lo"]),
        about: "nethogs -t -C",
    },
    Subject {
        name: "iftop",
        kind: Kind::Peer("iftop", &["-t", "-n", "-N", "-i", "lo"]),
        about: "iftop -t",
    },
    Subject {
        name: "bandwhich",
        kind: Kind::Peer("bandwhich", &["--raw", "--no-resolve", "--interface", "lo"]),
        about: "bandwhich --raw",
    },
];

/// The subjects of a smoke run.
const SMOKE: [&str; 4] = ["tcptop", "empty", "hash", "ring"];

pub fn names() -> Vec<&'static str> {
    ALL.iter().map(|subject| subject.name).collect()
}

/// The subjects that the options ask for.
pub fn chosen(options: &Options) -> Vec<Subject> {
    let asked = |subject: &Subject| {
        if options.subjects.is_empty() {
            !options.smoke || SMOKE.contains(&subject.name)
        } else {
            options.subjects.iter().any(|name| name == subject.name)
        }
    };
    ALL.into_iter().filter(asked).collect()
}

impl Subject {
    pub fn is_tcptop(&self) -> bool {
        matches!(self.kind, Kind::Tcptop(_))
    }

    /// Whether it is another project's program: if it fails, the rest is still measured.
    pub fn is_foreign(&self) -> bool {
        matches!(self.kind, Kind::Peer(..) | Kind::Ss)
    }

    /// Starts it and waits until it has begun to count.
    pub fn start(&self, options: &Options) -> Result<Running> {
        match self.kind {
            Kind::Nothing => Ok(Running::Nothing),
            Kind::Tcptop(more) => {
                let arguments = options.arguments.iter().map(String::as_str);
                Ok(Running::Tcptop(Tcptop::start(options, arguments.chain(more.iter().copied()))?))
            }
            Kind::Reference(design) => Ok(Running::Role(Role::start(&["reference", design])?)),
            Kind::Ss => Ok(Running::Role(Role::start(&["ss"])?)),
            Kind::Peer(program, arguments) => {
                let Some(path) = which(program) else { bail!("{program} is not installed") };
                let mut command = Command::new(path);
                command.args(arguments);
                // iftop asks again and again, without a pause, where its input has ended.
                command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
                let process = Process::spawn(command, None)?;
                // It has begun when a packet socket exists: nobody else has one in this
                // network namespace.
                process.await_that("packet socket", || {
                    let sockets = fs::read_to_string("/proc/net/packet");
                    Ok(sockets.context("failed to read /proc/net/packet")?.lines().count() > 1)
                })?;
                Ok(Running::Peer(process))
            }
        }
    }
}

/// A running subject; it ends when this is dropped.
pub enum Running {
    Nothing,
    Tcptop(Tcptop),
    Role(Role),
    Peer(Process),
}

impl Running {
    pub fn pid(&self) -> Option<u32> {
        match self {
            Running::Nothing => None,
            Running::Tcptop(tcptop) => Some(tcptop.process.id()),
            Running::Role(role) => Some(role.process.id()),
            Running::Peer(process) => Some(process.id()),
        }
    }

    /// Its CPU time so far.
    pub fn cpu(&self) -> Result<Duration> {
        self.pid().map_or(Ok(Duration::ZERO), machine::exact_cpu)
    }

    /// Ends it. An error if tcptop or a reference does not end properly.
    pub fn stop(self) -> Result<Option<Stopped>> {
        match self {
            Running::Nothing => Ok(None),
            Running::Tcptop(tcptop) => tcptop.stop().map(Some),
            Running::Role(role) => role.end().map(|()| None),
            Running::Peer(mut process) => process.kill().map(|()| None),
        }
    }
}

/// tcptop, writing into files.
pub struct Tcptop {
    process: Process,
    directory: TempDir,
}

/// A tcptop that ended with status 0.
pub struct Stopped {
    directory: TempDir,
    /// The losses that it reported.
    pub lost: String,
}

impl Stopped {
    pub fn output(&self) -> PathBuf {
        self.directory.path().join("stdout")
    }
}

impl Tcptop {
    fn start<'a>(options: &Options, arguments: impl Iterator<Item = &'a str>) -> Result<Tcptop> {
        let directory = TempDir::new().context("failed to make a directory")?;
        let create = |name| File::create(directory.path().join(name));
        let mut command = Command::new(&options.tcptop);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(create("stdout")?).stderr(create("stderr")?);
        // A FIFO, so that the conductor can wait for it.
        let path = directory.path().join("ready");
        mkfifo(&path, Mode::S_IRWXU).context("failed to make a pipe")?;
        // tcptop may become another user than root.
        for (path, mode) in [(directory.path(), 0o755), (path.as_path(), 0o666)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).context("chmod failed")?;
        }
        let ready = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&path)
            .context("failed to open a pipe")?;
        command.arg("--ready-file").arg(&path);
        let process = Process::spawn(command, None)?;
        let tcptop = Tcptop { process, directory };
        match tcptop.process.await_input(ready.as_fd(), "it was ready") {
            Ok(()) => Ok(tcptop),
            Err(error) => bail!("{error:#}: {}", tcptop.stderr()),
        }
    }

    fn stderr(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("stderr")).unwrap_or_default();
        text.trim_end().replace('\n', "; ")
    }

    fn stop(mut self) -> Result<Stopped> {
        self.process.interrupt()?;
        let (status, _) = self.process.finish()?;
        let stderr = self.stderr();
        if !status.success() {
            bail!("tcptop failed ({status}): {stderr}");
        }
        let lost = stderr.rsplit_once("lost: ").map_or("unknown", |(_, lost)| lost).to_owned();
        Ok(Stopped { directory: self.directory, lost })
    }
}

/// The role that runs `ss -tin` each second.
pub fn play_ss() -> Result<()> {
    reexec::say("ready")?;
    loop {
        let status = Command::new("ss").arg("-tin").stdout(Stdio::null()).status();
        if !status.context("failed to start ss")?.success() {
            bail!("ss failed");
        }
        if role::end_requested(Duration::from_secs(1))? {
            return Ok(());
        }
    }
}
