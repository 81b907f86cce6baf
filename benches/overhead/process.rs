//! Child processes that are never left behind.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike;

use crate::machine::{self, Cpu};

/// How long to wait for something that should happen at once. (Listing a million sockets
/// takes a while.)
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A child that is killed when this is dropped, and when the conductor dies.
pub struct Process {
    name: String,
    child: Child,
    /// A pidfd: readable when the process has ended.
    ended: OwnedFd,
    reaped: bool,
}

impl Process {
    /// Starts a command, pinned to a processor if one is given. Only for the main thread: the
    /// kernel ends the child when the thread that started it ends.
    pub fn spawn(mut command: Command, cpu: Option<usize>) -> Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        let parent = nix::unistd::getpid();
        // SAFETY: only system calls between fork and exec, no allocation.
        unsafe {
            command.pre_exec(move || {
                nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
                if nix::unistd::getppid() != parent {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                cpu.map_or(Ok(()), machine::pin)
            })
        };
        let child = command.spawn().with_context(|| format!("failed to start {name}"))?;
        // SAFETY: no memory is involved; the child is not reaped yet.
        let ended = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
        if ended < 0 {
            return Err(io::Error::last_os_error()).context("failed to watch a process");
        }
        // SAFETY: a new descriptor that nothing else owns.
        let ended = unsafe { OwnedFd::from_raw_fd(ended as i32) };
        Ok(Process { name, child, ended, reaped: false })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits until there is something to read from `fd` (or its writer is gone).
    ///
    /// # Errors
    /// If the process ends before that.
    pub fn await_input(&self, fd: BorrowedFd<'_>, what: &str) -> Result<()> {
        let (input, ended) = self.poll(Some(fd))?;
        match (input, ended) {
            (true, _) => Ok(()),
            (false, true) => bail!("{} ended early, before {what}", self.name),
            (false, false) => bail!("{}: no {what} in {} s", self.name, PATIENCE.as_secs()),
        }
    }

    /// Calls `probe` until it is true: for conditions that nothing can block on.
    pub fn await_that(&self, what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !holds()? {
            let mut ended = [PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
            if poll(&mut ended, PollTimeout::ZERO)? > 0 {
                bail!("{} ended early, before {what}", self.name);
            }
            if Instant::now() > deadline {
                bail!("{}: no {what} in 10 s", self.name);
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Waits until the process ends; the caller has already caused the end.
    pub fn finish(&mut self) -> Result<(ExitStatus, Cpu)> {
        if !self.poll(None)?.1 {
            bail!("{} did not end in {} s", self.name, PATIENCE.as_secs());
        }
        let mut status = 0;
        // SAFETY: all zeros is a valid rusage.
        let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
        // SAFETY: the pointers are to the two variables above; the child is ours.
        let result =
            unsafe { libc::wait4(self.child.id() as i32, &raw mut status, 0, &raw mut usage) };
        if result < 0 {
            return Err(io::Error::last_os_error()).context("failed to wait for a process");
        }
        self.reaped = true;
        let time = |value| {
            let time = nix::sys::time::TimeVal::from(value);
            Duration::from_micros(time.num_microseconds().unsigned_abs())
        };
        let cpu = Cpu { user: time(usage.ru_utime), system: time(usage.ru_stime) };
        Ok((ExitStatus::from_raw(status), cpu))
    }

    pub fn interrupt(&self) -> Result<()> {
        // Not SIGINT: a shell may ignore that for what it runs in the background.
        self.signal(libc::SIGTERM)
    }

    /// Kills it.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL)?;
        self.finish().map(drop)
    }

    fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: no memory is involved; the child is not reaped, so the id is its own.
        if unsafe { libc::kill(self.child.id() as i32, signal) } < 0 {
            return Err(io::Error::last_os_error())
                .with_context(|| format!("failed to signal {}", self.name));
        }
        Ok(())
    }

    /// Whether there is input, and whether the process has ended.
    fn poll(&self, input: Option<BorrowedFd<'_>>) -> Result<(bool, bool)> {
        let ended = PollFd::new(self.ended.as_fd(), PollFlags::POLLIN);
        let mut waiting = vec![ended];
        waiting.extend(input.map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        poll(&mut waiting, PollTimeout::try_from(PATIENCE)?).context("failed to wait")?;
        let ready = |index: usize| {
            let events = waiting.get(index).and_then(PollFd::revents);
            events.is_some_and(|events| !events.is_empty())
        };
        Ok((ready(1), ready(0)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.reaped {
            // Fails only if it has ended already.
            let _ = self.kill();
        }
    }
}

/// The path of a program, as the shell would find it.
pub fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    // Debian has some of them in directories that only root's PATH contains.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| fs::metadata(file).is_ok_and(|file| file.is_file()))
}
