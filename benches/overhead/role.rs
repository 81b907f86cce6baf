//! A role: this executable, started as a child of itself. This is the conductor's side.
//!
//! A role sends `ready`, then answers each line with a line (see `reexec`). `main` defines
//! what each role does.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::process::{PATIENCE, Process};
use crate::reexec::{self, Conversation};

/// A running role, as the conductor holds it.
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

    /// Ends it, and waits until it has ended.
    pub fn end(mut self) -> Result<()> {
        self.conversation.hang_up();
        let (status, _) = self.process.finish()?;
        if !status.success() {
            bail!("a role failed: {status}");
        }
        Ok(())
    }
}

/// In a role: waits this long; true if the conductor asks the role to end before.
pub fn end_requested(time: Duration) -> Result<bool> {
    let stdin = io::stdin();
    let mut waiting = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut waiting, PollTimeout::try_from(time)?).context("failed to wait")? > 0)
}
