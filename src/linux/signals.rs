//! How tcptop is told to end.
//!
//! Owns the signal handlers and the watch over the reader of the output. Runs
//! in the main thread; ends by letting go of the collector's pipe.

use std::io::{self, IsTerminal, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level::pipe};

/// Why the wait was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// SIGINT or SIGTERM: finish the interval. A second one kills.
    Signal,
    /// Nobody reads standard output any more.
    ReaderGone,
    /// The work is done, or failed.
    Done,
}

/// The handlers, installed before anything is attached.
#[derive(Debug)]
pub(super) struct Signals {
    stream: UnixStream,
}

impl Signals {
    /// Installs the handlers.
    ///
    /// # Errors
    /// Where the kernel refuses them.
    pub(super) fn install() -> Result<Signals> {
        let (stream, sender) = UnixStream::pair().context("failed to make a socket pair")?;
        let told = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first one only sets the flag, the second finds it set.
            flag::register_conditional_default(signal, Arc::clone(&told))
                .and_then(|_| flag::register(signal, Arc::clone(&told)))
                .and_then(|_| pipe::register(signal, sender.try_clone()?))
                .context("failed to install the signal handlers")?;
        }
        // A file that reaches its size limit (`ulimit -f`) is a failed write, which
        // can be told, instead of a signal that kills.
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))
            .context("failed to install the signal handlers")?;
        Ok(Signals { stream })
    }

    /// Makes SIGHUP set the flag that this returns, instead of ending tcptop.
    ///
    /// # Errors
    /// Where the kernel refuses the handler.
    pub(super) fn hang_up() -> Result<Arc<AtomicBool>> {
        let told = Arc::new(AtomicBool::new(false));
        flag::register(SIGHUP, Arc::clone(&told)).context("failed to install a signal handler")?;
        Ok(told)
    }

    /// Waits for a signal, for the other end of `done` to be closed or, where the
    /// data goes to standard output, for its reader to go away.
    ///
    /// # Errors
    /// Where poll(2) fails.
    pub(super) fn wait(&mut self, done: &OwnedFd, to_stdout: bool) -> Result<End> {
        let stdout = io::stdout();
        // A terminal that hangs up sends SIGHUP; only a pipe needs watching.
        let watched = to_stdout && !stdout.is_terminal();
        loop {
            let mut waiting = vec![
                PollFd::new(self.stream.as_fd(), PollFlags::POLLIN),
                PollFd::new(done.as_fd(), PollFlags::POLLIN),
            ];
            if watched {
                // Asks for nothing: an error is reported all the same (poll(2)).
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
                return Ok(End::ReaderGone);
            }
        }
    }
}
