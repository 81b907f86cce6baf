//! As cron runs it.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::common::log::{Log, check_continuous};
use crate::common::sock::{Family, Pair, Stream};
use crate::common::tcptop;
use crate::common::wait::until;

use super::csv::place;
use super::{long, test};

pub fn tests() -> Vec<Trial> {
    vec![test("cron::job", job)]
}

/// cron gives a job a handful of variables, `/` for a directory, no terminal,
/// and a pipe whose text it mails. Here standard input is closed as well.
fn job() {
    let duration = long(Duration::from_secs(2), Duration::from_secs(300));
    let interval = if duration.as_secs() > 60 { "1" } else { "0.1" };
    let (_directory, log) = place();
    let pair = Pair::new(Family::V4);
    let stream = Stream::start(&pair, 1000, Duration::from_millis(1));
    let extra = std::env::var("TCPTOP_TEST_ARGS").unwrap_or_default();
    let line = format!(
        "{} --tcp --log {} --append --interval {interval} --duration {} {extra} <&-",
        tcptop::binary().display(),
        log.display(),
        duration.as_secs()
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
    std::thread::sleep(duration);
    until("the job to end", || child.try_wait().expect("wait"));
    let output = child.wait_with_output().expect("output");
    stream.stop();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
    assert!(output.stdout.is_empty(), "cron would mail it");
    let log_name = log.display();
    let expected = format!(
        "tcptop: logging to {log_name} (interval: {interval}s, Ctrl-C to stop)\n\
         tcptop: logging stopped, CSV written to {log_name}\n"
    );
    assert_eq!(messages, expected);
    let log = Log::read(&log);
    for ends in [pair.ends, pair.ends.flipped()] {
        check_continuous(&log.open_rows_of(ends));
    }
    let times: BTreeSet<_> =
        log.rows.iter().filter(|row| !row.is_final()).map(|row| row.time).collect();
    let rows = log.open_rows_of(pair.ends);
    assert_eq!(rows.len(), times.len(), "in every interval");
    let whole = (rows[rows.len() - 1].time - rows[0].time).to_std().expect("forwards");
    let seconds: f64 = interval.parse().expect("a number");
    // From the end of the first interval to the end of the last.
    assert!((whole.as_secs_f64() + seconds - duration.as_secs_f64()).abs() < 0.5, "{whole:?}");
}
