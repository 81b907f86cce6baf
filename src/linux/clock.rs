//! The clocks.
//!
//! Owns the reading of CLOCK_MONOTONIC, the clock that the BPF programs use, and the
//! conversion of its times to times of day.

use std::fs;
use std::sync::OnceLock;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};
use nix::time::{ClockId, clock_getres, clock_gettime};

/// The CLOCK_MONOTONIC of the BPF programs, in nanoseconds.
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn monotonic() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("failed to read the clock")?;
    let shown = now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64;
    Ok(shown.wrapping_sub(namespace_offset_ns() as u64))
}

/// Must be called before tcptop is confined: it may not read the offset of its time
/// namespace then.
pub(super) fn learn_offset() {
    namespace_offset_ns();
}

/// What a time namespace adds to the clock of its processes, but not to that of the BPF
/// programs: 0 outside of one (time_namespaces(7)).
fn namespace_offset_ns() -> i64 {
    static OFFSET: OnceLock<i64> = OnceLock::new();
    *OFFSET.get_or_init(|| {
        let namespace = |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).ok();
        // The file is about the namespace that children get.
        if namespace("time") != namespace("time_for_children") {
            return 0;
        }
        let offsets = fs::read_to_string("/proc/self/timens_offsets").unwrap_or_default();
        monotonic_offset_ns(&offsets).unwrap_or(0)
    })
}

/// From the text of `/proc/PID/timens_offsets`: a line for each clock, with seconds and
/// nanoseconds.
fn monotonic_offset_ns(offsets: &str) -> Option<i64> {
    let mut words =
        offsets.lines().find_map(|line| line.strip_prefix("monotonic "))?.split_ascii_whitespace();
    let mut number = || words.next()?.parse::<i64>().ok();
    number()?.checked_mul(1_000_000_000)?.checked_add(number()?)
}

/// The wall-clock time at which CLOCK_MONOTONIC showed `monotonic_ns`. The difference of
/// the two clocks is measured at each call, because the wall clock can be set.
pub(super) fn wall(monotonic_ns: u64) -> DateTime<Utc> {
    let now = Utc::now();
    let Ok(monotonic) = monotonic() else { return now };
    now - TimeDelta::nanoseconds(monotonic.wrapping_sub(monotonic_ns) as i64)
}

/// The length of a jiffy in microseconds, rounded down as in `tcp_get_info()`: there it is
/// `USEC_PER_SEC / HZ`. The coarse clock advances once a jiffy, so its resolution is that
/// of the kernel's HZ (`KTIME_LOW_RES` in include/linux/hrtimer.h).
///
/// # Errors
/// Where the kernel refuses.
pub(super) fn jiffy_us() -> Result<u32> {
    let jiffy = clock_getres(ClockId::CLOCK_MONOTONIC_COARSE)
        .context("failed to read the resolution of a clock")?;
    let ns = u64::try_from(jiffy.tv_nsec()).unwrap_or(1).max(1);
    Ok(whole_us(ns))
}

/// A jiffy of about `ns` nanoseconds in microseconds: HZ is a whole number.
fn whole_us(ns: u64) -> u32 {
    let hz = ((1_000_000_000 + ns / 2) / ns).max(1);
    (1_000_000 / hz) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// HZ 100, 250, 300 and 1000; the kernel gives (10^9 + HZ / 2) / HZ nanoseconds.
    #[test]
    fn a_jiffy_is_rounded_as_the_kernel_does() {
        for (ns, us) in [(10_000_000, 10_000), (4_000_000, 4000), (3_333_333, 3333)] {
            assert_eq!(whole_us(ns), us);
        }
        assert_eq!(whole_us(1_000_000), 1000);
        assert!((100..=10_000).contains(&jiffy_us().unwrap()));
    }

    #[test]
    fn offsets_of_a_time_namespace() {
        let offsets = "monotonic     1000000 500000000\nboottime            -1         0\n";
        assert_eq!(monotonic_offset_ns(offsets), Some(1_000_000_500_000_000));
        let offsets = "monotonic          -2 999999999\n";
        assert_eq!(monotonic_offset_ns(offsets), Some(-1_000_000_001));
        for none in ["", "boottime 1 0\n", "monotonic 1\n", "monotonic 9223372036854775807 0\n"] {
            assert_eq!(monotonic_offset_ns(none), None, "{none}");
        }
    }

    #[test]
    fn a_second_ago_is_a_second_ago() {
        let (before, now) = (Utc::now(), monotonic().unwrap());
        for (then, seconds) in [(now - 1_000_000_000, -1), (now, 0), (now + 5_000_000_000, 5)] {
            let error = wall(then) - before - TimeDelta::seconds(seconds);
            assert!(error.abs() < TimeDelta::milliseconds(500), "{error}");
        }
    }
}
