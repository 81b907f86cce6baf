//! Starts this executable again as a child that plays another role. The child answers each
//! line on its stdin with a line on its stdout, and ends when its stdin does. The caller
//! defines the roles and the meaning of the lines.
//!
//! Both the live tests and `benches/overhead` include this file, so it uses no other module
//! of either.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The first argument of a child; its role follows.
const FLAG: &str = "--role";

/// The running executable, even if its file was moved or removed.
pub const ITSELF: &str = "/proc/self/exe";

/// The role of this process and the role's arguments, if it was started for a role.
pub fn asked_for() -> Option<Vec<String>> {
    let mut arguments = env::args().skip(1);
    (arguments.next()? == FLAG).then(|| arguments.collect())
}

/// A command that starts [`ITSELF`], or a copy of it, in a role.
pub fn command(program: &Path, role: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg(FLAG).args(role);
    command
}

/// The starter's end of the conversation with a child.
pub struct Conversation {
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Conversation {
    /// Makes the command connect the child's stdin and stdout to pipes.
    pub fn prepare(command: &mut Command) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
    }

    /// A conversation with a child whose command was [prepared](Conversation::prepare).
    pub fn with(child: &mut Child) -> io::Result<Conversation> {
        let stdout = child.stdout.take().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Conversation { stdin: child.stdin.take(), stdout: BufReader::new(stdout) })
    }

    /// Sends a line and waits this long for the answer.
    pub fn ask(&mut self, line: &str, patience: Duration) -> io::Result<String> {
        let stdin = self.stdin.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        writeln!(stdin, "{line}")?;
        self.answer(patience)
    }

    /// Waits this long for a line.
    pub fn answer(&mut self, patience: Duration) -> io::Result<String> {
        let mut readable = [PollFd::new(self.stdout.get_ref().as_fd(), PollFlags::POLLIN)];
        let patience_ms = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        if self.stdout.buffer().is_empty() && poll(&mut readable, patience_ms)? == 0 {
            let why = format!("no answer in {} s", patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended early"));
        }
        Ok(line.trim_end_matches('\n').to_owned())
    }

    /// Lets the child end.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }
}

/// In the child: sends a line to the starter.
pub fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}

/// In the child: answers each line on stdin until stdin ends.
pub fn serve<E: From<io::Error>>(
    mut answer: impl FnMut(&str) -> Result<String, E>,
) -> Result<(), E> {
    for line in io::stdin().lines() {
        say(&answer(&line?)?)?;
    }
    Ok(())
}
