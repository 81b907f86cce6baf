//! What the kernel side could not keep.
//!
//! Owns the reading of its counters: those of the programs (`bpf/loss.bpf.h`), and those in
//! which the kernel counts how often it has skipped a program. Totals since the programs
//! were loaded; the collector makes differences of them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys::{bpf_prog_get_info_by_fd, bpf_prog_info};
use libbpf_rs::{MapCore, MapFlags};

use super::wire;
use crate::loss::{Loss, LossCause};

/// The programs for which the kernel's skipping is a loss. The kernel skips a program on a
/// processor where the same program already runs and was interrupted.
#[derive(Default)]
pub(super) struct Skippable {
    /// Programs that count datagrams.
    counting: Vec<OwnedFd>,
    /// Programs that see the state changes of TCP sockets, each one what the ones before it
    /// have missed.
    states: Vec<OwnedFd>,
    /// True where a process that runs such a program can be preempted.
    preempted: bool,
}

impl Skippable {
    /// No program yet. `preempted`: whether programs on tracepoints can be preempted.
    pub(super) fn new(preempted: bool) -> Skippable {
        Skippable { preempted, ..Skippable::default() }
    }

    /// Adds a program that counts datagrams.
    ///
    /// # Errors
    /// Where there are too many descriptors.
    pub(super) fn count(&mut self, program: BorrowedFd<'_>) -> Result<()> {
        keep(&mut self.counting, program)
    }

    /// Adds a program that sees state changes, in the order in which they are attached.
    ///
    /// # Errors
    /// The same.
    pub(super) fn state(&mut self, program: BorrowedFd<'_>) -> Result<()> {
        keep(&mut self.states, program)
    }

    /// How many state changes no program may have seen: at most this many. All programs are
    /// attached to one tracepoint and run one after the other. So a packet's softirq, which
    /// interrupts one of them, finds the others. Only where processes are preempted there
    /// can each of the programs have been left unfinished by another process.
    fn states_skipped(&self) -> Result<u64> {
        if self.states.len() > 1 && !self.preempted {
            return Ok(0);
        }
        let misses: Vec<u64> = self.states.iter().map(misses).collect::<Result<_>>()?;
        Ok(misses.into_iter().min().unwrap_or(0))
    }
}

fn keep(programs: &mut Vec<OwnedFd>, program: BorrowedFd<'_>) -> Result<()> {
    programs.push(program.try_clone_to_owned().context("failed to keep a program")?);
    Ok(())
}

/// How often the kernel skipped the program.
fn misses(program: &OwnedFd) -> Result<u64> {
    let mut info = bpf_prog_info::default();
    let mut length = size_of::<bpf_prog_info>() as u32;
    // SAFETY: the kernel writes no more than `length` bytes of plain integers.
    let result = unsafe { bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut length) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result))
            .context("failed to read the counters of a program");
    }
    Ok(info.recursion_misses)
}

/// The losses since the programs were loaded. `counters` is the map `losses`.
///
/// # Errors
/// Errors of the system calls.
pub(super) fn total(counters: &impl MapCore, skippable: &Skippable) -> Result<Loss> {
    let mut lost = Loss::default();
    for (index, cause) in wire::LOSSES {
        let per_cpu = counters
            .lookup_percpu(&index.0.to_ne_bytes(), MapFlags::ANY)
            .context("failed to read the loss counters")?
            .unwrap_or_default();
        lost[cause] += per_cpu
            .iter()
            .filter_map(|bytes| Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?)))
            .sum::<u64>();
    }
    lost[LossCause::Skipped] += skippable.counting.iter().map(misses).sum::<Result<u64>>()?;
    lost[LossCause::StateSkipped] += skippable.states_skipped()?;
    Ok(lost)
}
