//! Bounded waits.

use std::env;
use std::thread;
use std::time::{Duration, Instant};

/// How many times slower than usual this machine is (`TCPTOP_TEST_SLOW`), if it is emulated.
pub fn slowness() -> u32 {
    env::var("TCPTOP_TEST_SLOW").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// How long to wait for something that should happen at once.
pub fn patience() -> Duration {
    Duration::from_secs(10) * slowness()
}

/// How large a load is: the second size on a slow machine.
pub fn load(usual: u32, slow: u32) -> u32 {
    if slowness() == 1 { usual } else { slow }
}

/// Calls `probe` until it has an answer. For conditions that nothing can block on: a
/// socket's state, a file, the kernel's list of BPF programs.
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience();
    loop {
        if let Some(answer) = probe() {
            return answer;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// [`until`] for a condition without an answer.
pub fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    until(what, || probe().then_some(()));
}
