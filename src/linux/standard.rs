//! Whether the standard output was open when tcptop began.
//!
//! Before `main`, Rust opens /dev/null in place of a standard stream that is closed (as with
//! `>&-` in a shell). All rows would then go there without a word. So this looks earlier.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;

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
