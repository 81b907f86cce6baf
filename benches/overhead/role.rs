//! The parts that this executable plays as a child of itself.
//!
//! A role says `ready` on stdout, then answers each line on stdin with one on
//! stdout, and ends when stdin does.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::process::Process;
use crate::{loads, reference, scale, subject};

/// The first argument of a child.
pub const FLAG: &str = "--role";

/// The conductor's end.
pub struct Role {
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub process: Process,
}

impl Role {
    /// Starts a role and waits until it is ready.
    pub fn start(words: &[&str]) -> Result<Role> {
        let mut command = Command::new("/proc/self/exe");
        command.arg(FLAG).args(words).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(command, None)?;
        let stdin = process.child().stdin.take();
        let stdout = process.child().stdout.take().context("stdout is piped")?;
        let mut role = Role { stdin, stdout: BufReader::new(stdout), process };
        let name = words.join(" ");
        match role.answer().with_context(|| format!("{name} did not start"))?.as_str() {
            "ready" => Ok(role),
            other => bail!("{name} did not start: {other}"),
        }
    }

    pub fn ask(&mut self, question: &str) -> Result<String> {
        let stdin = self.stdin.as_mut().context("a role that was told to end")?;
        writeln!(stdin, "{question}").context("failed to ask a role")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<String> {
        self.process.await_input(self.stdout.get_ref().as_fd(), "answer")?;
        let mut line = String::new();
        if self.stdout.read_line(&mut line).context("failed to hear a role")? == 0 {
            bail!("it ended early");
        }
        Ok(line.trim_end().to_owned())
    }

    /// Tells it to end, and waits until it has.
    pub fn end(mut self) -> Result<()> {
        self.stdin = None;
        let (status, _) = self.process.finish()?;
        if !status.success() {
            bail!("a role failed: {status}");
        }
        Ok(())
    }
}

/// The child's end.
pub fn play(words: &[String]) -> Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["load", name] => loads::play(name),
        ["idle", port, sockets] => scale::play_idle(port.parse()?, sockets.parse()?),
        ["active", port, sockets, period] => {
            let period = Duration::from_millis(period.parse()?);
            scale::play_active(port.parse()?, sockets.parse()?, period)
        }
        ["reference", design] => reference::play(design),
        ["ss"] => subject::play_ss(),
        _ => bail!("no such role: {}", words.join(" ")),
    }
}

pub fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// Answers each line on stdin, until there are no more.
pub fn serve(mut answer: impl FnMut(&str) -> Result<String>) -> Result<()> {
    say("ready")?;
    for line in io::stdin().lines() {
        say(&answer(&line?)?)?;
    }
    Ok(())
}

/// Waits this long (true: told to end before).
pub fn told_to_end(time: Duration) -> Result<bool> {
    let stdin = io::stdin();
    let mut waiting = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut waiting, PollTimeout::try_from(time)?).context("failed to wait")? > 0)
}
