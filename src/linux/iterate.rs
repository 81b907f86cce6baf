//! Running a BPF iterator.
//!
//! Owns the reading of an iterator's descriptor to its end, and the totals that a
//! sampling pass writes there. The callers decide when to run one.

use std::io::{self, ErrorKind, Read};

use anyhow::{Context, Result, bail};
use libbpf_rs::{Iter, Link};

use super::wire::Pass;

/// Runs an iterator for the effect of its program, and ignores its output.
pub(super) fn run(link: &Link) -> io::Result<()> {
    read(link, &mut []).map(drop)
}

/// Runs an iterator that samples, and returns the totals that it writes at its end.
///
/// # Errors
/// Where the iterator cannot be read, or ends without writing the totals.
pub(super) fn sample(link: &Link) -> Result<Pass> {
    let mut pass = Pass::default();
    // SAFETY: Pass is Plain: any bytes are a valid Pass.
    let bytes = unsafe { plain::as_mut_bytes(&mut pass) };
    let expected = bytes.len();
    let length = read(link, bytes).context("failed to sample the connections")?;
    if length != expected {
        bail!("failed to sample the connections: the iterator ended early");
    }
    Ok(pass)
}

/// Reads an iterator to its end, and keeps as much of its output as `out` has room for.
/// Returns the length of its output. An iterator that has skipped a million objects
/// returns EAGAIN and must be read on (`MAX_ITER_OBJECTS` in kernel/bpf/bpf_iter.c).
fn read(link: &Link, out: &mut [u8]) -> io::Result<usize> {
    let mut iter = Iter::new(link).map_err(io::Error::other)?;
    let mut total = 0;
    let mut scratch = [0; 64];
    loop {
        match iter.read(&mut scratch) {
            Ok(0) => return Ok(total),
            Ok(length) => {
                let end = (total + length).min(out.len());
                let taken = end.saturating_sub(total);
                if let (Some(to), Some(from)) = (out.get_mut(total..end), scratch.get(..taken)) {
                    to.copy_from_slice(from);
                }
                total += length;
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
}
