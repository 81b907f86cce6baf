//! Waits for the end: a signal, the end of the work, or a reader that goes away.
//!
//! Owns the signal handlers, and notices when the reader of the output goes away. Runs
//! in the main thread, which then asks the collector to stop.

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::{Receiver, Sender, bounded};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::pipe2;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};

/// Why the wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// SIGINT, SIGTERM or SIGHUP came: finish the interval. Another one, later than
    /// [`ONE_WISH`], kills tcptop.
    Signal,
    /// The reader of the standard output has gone away.
    ReaderGone,
    /// The work is done, or has failed.
    Done,
}

/// Signals that come so close together are one wish to end: timeout(1) signals its child
/// and then the whole process group.
const ONE_WISH: Duration = Duration::from_millis(300);

/// The handlers, installed before anything is attached.
#[derive(Debug)]
pub(super) struct Signals {
    /// Once it is set, the signals that end tcptop kill it.
    impatient: Arc<AtomicBool>,
    /// Readable after a signal that ends tcptop.
    stream: File,
    /// Readable after SIGHUP with a log, and who is told then.
    hung_up: Option<(File, Sender<()>)>,
}

impl Signals {
    /// Installs the handlers. With `logs`, SIGHUP is left to [`hang_up`](Signals::hang_up);
    /// otherwise it ends tcptop as SIGTERM does.
    ///
    /// # Errors
    /// Where the kernel refuses them.
    pub(super) fn install(logs: bool) -> Result<Signals> {
        let (stream, sender) = wake()?;
        let impatient = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // A shell without job control ignores SIGINT for what runs in the background:
            // Ctrl-C is for the foreground. nohup(1) ignores SIGHUP.
            let left_out = match signal {
                SIGINT => is_ignored(signal),
                SIGHUP => logs || is_ignored(signal),
                _ => false,
            };
            if left_out {
                continue;
            }
            flag::register_conditional_default(signal, Arc::clone(&impatient))
                .and_then(|_| pipe::register(signal, sender.try_clone()?))
                .context("failed to install the signal handlers")?;
        }
        // With a handler, a file that reaches its size limit (`ulimit -f`) makes the write
        // fail, and tcptop can report that. Without one, SIGXFSZ would kill tcptop.
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
            .context("failed to install the signal handlers")?;
        // The mask of blocked signals comes from the parent, and may have these. A thread
        // gets the mask of the one that starts it.
        let handled: SigSet =
            [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        handled.thread_unblock().context("failed to unblock signals")?;
        Ok(Signals { impatient, stream, hung_up: None })
    }

    /// Makes SIGHUP send a message to what this returns, instead of ending tcptop. The
    /// message is sent by [`wait`](Signals::wait).
    ///
    /// # Errors
    /// Where the kernel refuses the handler.
    pub(super) fn hang_up(&mut self) -> Result<Receiver<()>> {
        let (stream, signal) = wake()?;
        pipe::register(SIGHUP, signal).context("failed to install a signal handler")?;
        let (sender, receiver) = bounded(1);
        self.hung_up = Some((stream, sender));
        Ok(receiver)
    }

    /// Waits until a signal comes, the other end of `done` is closed or, with
    /// `to_stdout`, the reader of the standard output goes away.
    ///
    /// # Errors
    /// Where poll(2) fails.
    pub(super) fn wait(&mut self, done: &OwnedFd, to_stdout: bool) -> Result<End> {
        let stdout = io::stdout();
        // A terminal that goes away sends SIGHUP, so only a pipe must be watched.
        let watched = to_stdout && !stdout.is_terminal();
        loop {
            let mut waiting = vec![
                PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
                PollFd::new(done.as_fd(), PollFlags::POLLIN),
            ];
            if let Some((stream, _)) = &self.hung_up {
                waiting.push(PollFd::new(stream.as_fd(), PollFlags::POLLIN));
            } else if watched {
                // No event is asked for: poll(2) always reports errors.
                waiting.push(PollFd::new(stdout.as_fd(), PollFlags::empty()));
            }
            match poll(&mut waiting, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("failed to wait for signals"),
            }
            let happened = |index: usize| {
                waiting
                    .get(index)
                    .and_then(PollFd::revents)
                    .is_some_and(|events| !events.is_empty())
            };
            if happened(1) {
                return Ok(End::Done);
            }
            if happened(0) {
                let _ = (&self.stream).read(&mut [0; 16]);
                return Ok(End::Signal);
            }
            if happened(2) {
                let Some((stream, reporter)) = &self.hung_up else {
                    return Ok(End::ReaderGone);
                };
                let _ = (&*stream).read(&mut [0; 16]);
                // Where a message waits already, it is about this signal too.
                let _ = reporter.try_send(());
            }
        }
    }

    /// After [`End::Signal`]: waits until another signal is another wish, or `done` is closed.
    /// From then on another signal kills.
    ///
    /// # Errors
    /// Where poll(2) fails.
    pub(super) fn lose_patience(&self, done: &OwnedFd) -> Result<()> {
        let deadline = Instant::now() + ONE_WISH;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut [PollFd::new(done.as_fd(), PollFlags::POLLIN)], timeout) {
                Err(Errno::EINTR) if !left.is_zero() => {}
                Ok(_) | Err(Errno::EINTR) => break,
                Err(error) => return Err(error).context("failed to wait for the end"),
            }
        }
        self.impatient.store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// A pipe for the handlers: they may write to it while something waits in it already, and
/// must not wait themselves. (Writing to a socket would take more system calls.)
fn wake() -> Result<(File, OwnedFd)> {
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let (reading, writing) = pipe2(flags).context("failed to make a pipe")?;
    Ok((File::from(reading), writing))
}

/// Whether the parent has left this signal ignored.
fn is_ignored(signal: i32) -> bool {
    // SAFETY: all zeroes is a value of this structure, which the kernel then writes.
    let action = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &raw mut action) != 0 {
            return false;
        }
        action
    };
    action.sa_sigaction == libc::SIG_IGN
}
