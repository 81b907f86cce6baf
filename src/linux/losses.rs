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
    unseen: Unseen,
}

/// How many state changes no program has seen, at most.
///
/// The kernel counts for each program what it missed. What all of them missed is no more than
/// the smallest of these numbers. But over weeks each program misses something that another
/// one sees, so this looks at two readings at a time: at what was missed since the one before
/// the last. Two, since the misses of one state change may lie around a reading.
#[derive(Default)]
struct Unseen {
    /// The counters at the last reading, and at the one before.
    last: Vec<u64>,
    before: Vec<u64>,
    /// What the last reading added.
    added: u64,
    total: u64,
}

impl Unseen {
    /// The total, after a reading of all counters.
    fn read(&mut self, misses: Vec<u64>) -> u64 {
        let earlier = self.before.iter().copied().chain(std::iter::repeat(0));
        let least = misses.iter().zip(earlier).map(|(now, then)| now.saturating_sub(then)).min();
        self.added = least.unwrap_or(0).saturating_sub(self.added);
        self.total += self.added;
        self.before = std::mem::replace(&mut self.last, misses);
        self.total
    }
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
    fn states_skipped(&mut self) -> Result<u64> {
        if self.states.len() > 1 && !self.preempted {
            return Ok(0);
        }
        let misses = self.states.iter().map(misses).collect::<Result<_>>()?;
        Ok(self.unseen.read(misses))
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
pub(super) fn total(counters: &impl MapCore, skippable: &mut Skippable) -> Result<Loss> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The total after each of these readings of two programs.
    fn totals(readings: &[[u64; 2]]) -> Vec<u64> {
        let mut unseen = Unseen::default();
        readings.iter().map(|misses| unseen.read(misses.to_vec())).collect()
    }

    #[test]
    fn what_all_missed_counts_once() {
        assert_eq!(totals(&[[1, 1], [1, 1], [1, 1], [1, 1]]), [1, 1, 1, 1]);
        assert_eq!(totals(&[[1, 1], [2, 2], [4, 4], [4, 4]]), [1, 2, 4, 4]);
    }

    #[test]
    fn around_a_reading_too() {
        assert_eq!(totals(&[[0, 0], [1, 0], [1, 1], [1, 1]]), [0, 0, 1, 1]);
        assert_eq!(totals(&[[3, 3], [4, 3], [5, 5], [5, 5]]), [3, 3, 5, 5]);
    }

    #[test]
    fn what_another_one_saw_does_not_count_later() {
        let readings = [[1, 0], [1, 0], [1, 0], [1, 1], [1, 1], [2, 1]];
        assert_eq!(totals(&readings), [0; 6]);
    }
}
