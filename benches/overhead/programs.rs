//! The kernel's statistics of BPF programs: runs and nanoseconds.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use anyhow::{Context, Result};
use libbpf_rs::libbpf_sys::{BPF_STATS_RUN_TIME, bpf_enable_stats};
use libbpf_rs::query::ProgInfoIter;

/// The kernel measures every run of every program while this exists.
pub struct Statistics(#[allow(dead_code)] OwnedFd);

impl Statistics {
    pub fn enable() -> Result<Statistics> {
        // SAFETY: no memory is involved.
        let fd = unsafe { bpf_enable_stats(BPF_STATS_RUN_TIME) };
        if fd < 0 {
            return Err(io::Error::from_raw_os_error(-fd)).context("failed to enable statistics");
        }
        // SAFETY: a new descriptor that nothing else owns.
        Ok(Statistics(unsafe { OwnedFd::from_raw_fd(fd) }))
    }
}

/// Runs of a program, and their time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Total {
    pub runs: u64,
    pub nanoseconds: u64,
}

/// The programs that a process holds, by name. They are found by its descriptors, since
/// other processes may load programs with the same names.
pub fn of_process(pid: u32) -> Result<BTreeMap<String, Total>> {
    let folder = format!("/proc/{pid}/fdinfo");
    let mut ids = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("failed to list {folder}"))? {
        // The descriptor may have been closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        // A link has a prog_id too, but no prog_type.
        let field = |name| text.lines().find_map(|line| line.strip_prefix(name));
        if field("prog_type:").is_some() {
            ids.extend(field("prog_id:").and_then(|id| id.trim().parse::<u32>().ok()));
        }
    }
    Ok(ProgInfoIter::default()
        .filter(|program| ids.contains(&program.id))
        .map(|program| {
            let total = Total { runs: program.run_cnt, nanoseconds: program.run_time_ns };
            (program.name.to_string_lossy().into_owned(), total)
        })
        .collect())
}

/// The difference from `before` to `after`, without programs that did not run.
pub fn difference(
    before: &BTreeMap<String, Total>,
    after: BTreeMap<String, Total>,
) -> Vec<(String, Total)> {
    let difference = |(name, total): (String, Total)| {
        let old = before.get(&name).copied().unwrap_or_default();
        let runs = total.runs - old.runs;
        let total = Total { runs, nanoseconds: total.nanoseconds - old.nanoseconds };
        (runs > 0).then_some((name, total))
    };
    after.into_iter().filter_map(difference).collect()
}
