//! The clocks.
//!
//! Owns the reading of CLOCK_MONOTONIC, the clock that the BPF programs use, and the
//! conversion of its times to times of day.

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use nix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC in nanoseconds.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn monotonic() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("failed to read the clock")?;
    Ok(now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
}

/// The wall-clock time at which CLOCK_MONOTONIC showed `monotonic_ns`. The difference of
/// the two clocks is measured at each call, because the wall clock can be set.
pub(super) fn wall(monotonic_ns: u64) -> DateTime<Utc> {
    let now = Utc::now();
    let Ok(monotonic) = monotonic() else { return now };
    now - TimeDelta::nanoseconds(monotonic.wrapping_sub(monotonic_ns) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_ago_is_a_second_ago() {
        let (before, now) = (Utc::now(), monotonic().unwrap());
        for (then, seconds) in [(now - 1_000_000_000, -1), (now, 0), (now + 5_000_000_000, 5)] {
            let error = wall(then) - before - TimeDelta::seconds(seconds);
            assert!(error.abs() < TimeDelta::milliseconds(500), "{error}");
        }
    }
}
