//! A part that this executable plays as a child of itself, seen from the conductor.
//!
//! A role says `ready`, then answers each line with one (see `reexec`). Which role
//! does what is `main`'s to know.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::process::{PATIENCE, Process};
use crate::reexec::{self, Conversation};

/// The conductor's end.
pub struct Role {
    conversation: Conversation,
    pub process: Process,
}

impl Role {
    /// Starts a role and waits until it is ready.
    pub fn start(words: &[&str]) -> Result<Role> {
        let mut command = reexec::command(Path::new(reexec::ITSELF), words);
        Conversation::prepare(&mut command);
        let mut process = Process::spawn(command, None)?;
        let mut conversation =
            Conversation::with(process.child()).context("failed to talk to a role")?;
        let name = words.join(" ");
        let answer = conversation.answer(PATIENCE);
        match answer.with_context(|| format!("{name} did not start"))?.as_str() {
            "ready" => Ok(Role { conversation, process }),
            other => bail!("{name} did not start: {other}"),
        }
    }

    pub fn ask(&mut self, question: &str) -> Result<String> {
        self.conversation.ask(question, PATIENCE).context("failed to ask a role")
    }

    /// Tells it to end, and waits until it has.
    pub fn end(mut self) -> Result<()> {
        self.conversation.hang_up();
        let (status, _) = self.process.finish()?;
        if !status.success() {
            bail!("a role failed: {status}");
        }
        Ok(())
    }
}

/// In a role: waits this long (true: told to end before).
pub fn told_to_end(time: Duration) -> Result<bool> {
    let stdin = io::stdin();
    let mut waiting = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut waiting, PollTimeout::try_from(time)?).context("failed to wait")? > 0)
}
