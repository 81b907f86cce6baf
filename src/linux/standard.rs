//! The standard streams: whether the output was open when tcptop began, and messages.
//!
//! Before `main`, Rust opens /dev/null in place of a standard stream that is closed (as with
//! `>&-` in a shell). All rows would then go there without a word. So this looks earlier.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// The dynamic loader calls the functions of this section before `main`.
#[used]
// SAFETY: the section holds pointers to functions, and this is one. The function needs
// nothing of what Rust prepares: it makes a system call and stores a byte.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    // SAFETY: asks for the flags of a descriptor, which may be closed.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    CLOSED.store(flags == -1, Ordering::Relaxed);
}

/// False where tcptop was started with its standard output closed.
pub fn standard_output_is_open() -> bool {
    !CLOSED.load(Ordering::Relaxed)
}

/// How long a message waits for a reader, in milliseconds.
const PATIENCE_MS: u16 = 1000;

/// True after a message has waited in vain, until another one is read.
static UNREAD: AtomicBool = AtomicBool::new(false);

/// Prints a message on stderr. Goes on where that fails. A pipe that is full and that nobody
/// reads keeps tcptop neither from its work nor from its end: the message is left out then.
pub fn say(message: &str) {
    let stderr = io::stderr();
    // Who stops a terminal (Ctrl-S) sees it, and lets it go on.
    if !stderr.is_terminal() {
        let patience = if UNREAD.load(Ordering::Relaxed) { 0 } else { PATIENCE_MS };
        let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        // With room there is room for a page (pipe(7)), which is more than a message has.
        let full = loop {
            match poll(&mut room, PollTimeout::from(patience)) {
                Err(Errno::EINTR) => {}
                result => break result == Ok(0),
            }
        };
        UNREAD.store(full, Ordering::Relaxed);
        if full {
            return;
        }
    }
    let _ = stderr.lock().write_all(format!("{message}\n").as_bytes());
}
