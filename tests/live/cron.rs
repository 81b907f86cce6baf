//! tcptop as a cron job.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::log::{Log, check_continuous};
use crate::common::rng::Rng;
use crate::common::sock::{Family, Pair, Stream};
use crate::common::tcptop::{self, check_messages_of_log};
use crate::common::wait::until;

use super::csv::{Traffic, place};
use super::{Test, figures, long, test};

pub fn tests() -> Vec<Test> {
    vec![test("cron::job", job)]
}

/// cron gives a job a few variables, `/` as its directory, no terminal, and a pipe whose
/// text it mails. Here standard input is closed too. The log is complete, and has all bytes
/// that were moved during the run.
fn job() {
    let duration = long(Duration::from_secs(3), Duration::from_secs(300));
    let interval = long(Duration::from_millis(100), Duration::from_secs(1));
    let seconds = interval.as_secs_f64();
    // Bytes that are moved at the very end may come after the last interval.
    let traffic_ends = duration - long(duration / 2, Duration::from_secs(5));
    let (directory, log) = place();
    let ready = directory.path().join("ready");
    let pair = Pair::new(Family::V4);
    let stream = Stream::start(&pair, 1000, Duration::from_millis(1));
    let extra = std::env::var("TCPTOP_TEST_ARGS").unwrap_or_default();
    let line = format!(
        "{} --log {} --append --interval {seconds} --duration {} --udp-timeout 600 \
         --ready-file {} {extra} <&-",
        tcptop::binary().display(),
        log.display(),
        duration.as_secs(),
        ready.display()
    );
    let mut command = Command::new("setsid");
    command.args(["sh", "-c", &line]).current_dir("/").env_clear();
    for (name, value) in
        [("PATH", "/usr/bin:/bin"), ("HOME", "/root"), ("LOGNAME", "root"), ("SHELL", "/bin/sh")]
    {
        command.env(name, value);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("setsid");
    until("the job to count", || ready.exists().then_some(()));
    let start = Instant::now();
    let mut traffic = Traffic::default();
    let mut rng = Rng::new(0x7c97_000c);
    for turn in 1.. {
        traffic.turn(&mut rng, turn);
        let next = start + Duration::from_millis(100) * turn as u32;
        if next > start + traffic_ends {
            break;
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    assert_eq!(child.try_wait().expect("wait"), None, "the traffic took too long");
    thread::sleep((start + duration).saturating_duration_since(Instant::now()));
    until("the job to end", || child.try_wait().expect("wait"));
    let output = child.wait_with_output().expect("output");
    stream.stop();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    assert!(output.stdout.is_empty(), "cron would mail it");
    check_messages_of_log(&messages, &log, &seconds.to_string(), "CSV");
    let size = fs::metadata(&log).expect("the log").len();
    let log = Log::read(&log);
    for ends in [pair.ends, pair.ends.flipped()] {
        check_continuous(&log.open_rows_of(ends));
    }
    let times: BTreeSet<_> =
        log.rows.iter().filter(|row| !row.is_final()).map(|row| row.time).collect();
    let rows = log.open_rows_of(pair.ends);
    assert_eq!(rows.len(), times.len(), "in every interval");
    let whole = (rows[rows.len() - 1].time - rows[0].time).to_std().expect("forwards");
    // From the end of the first interval to the end of the last.
    assert!((whole.as_secs_f64() + seconds - duration.as_secs_f64()).abs() < 0.5, "{whole:?}");
    let (bytes_in, bytes_out) = traffic.check(&log);
    figures(format_args!(
        "{} rows, {} of them final, in {} intervals, {size} bytes; \
         {bytes_in} bytes in and {bytes_out} out",
        log.rows.len(),
        log.rows.iter().filter(|row| row.is_final()).count(),
        times.len(),
    ));
    let expected = (duration.as_secs_f64() / seconds).round() as usize;
    let few = long(expected / 4, 1);
    assert!(times.len().abs_diff(expected) <= few, "{} intervals", times.len());
}
