//! How a run ends, limits of a run, and blocked readers.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::sock::{Ends, Family, Pair, Stream};
use crate::common::tcptop::{self, Launch, QUICK, Row, Tcptop};
use crate::common::wait::until_true;

use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("control::interrupt", || last_interval_of(libc::SIGINT)),
        test("control::terminate", || last_interval_of(libc::SIGTERM)),
        test("control::second_interrupt_kills", second_interrupt_kills),
        test("control::count", count),
        test("control::once", once),
        test("control::duration", duration),
        test("control::refused_options", refused_options),
        test("control::blocked_reader", blocked_reader),
        test("control::stopped_and_continued", stopped_and_continued),
    ]
}

/// A signal ends the interval early: its rows are written, status 0.
fn last_interval_of(signal: libc::c_int) {
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "3600"]);
    let (open, closed) = (Pair::new(Family::V4), Pair::new(Family::V6));
    open.exchange(123, 456_789);
    closed.exchange(2_000_000, 1);
    let closed_ends = closed.ends;
    closed.close();
    let ended = tcptop.stop(signal);
    ended.check();
    let rows: Vec<&Row> = ended.output.rows_of(open.ends).collect();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!((rows[0].bytes_in, rows[0].bytes_out), (456_789, 123));
    for (ends, totals) in [(closed_ends, (1, 2_000_000)), (closed_ends.flipped(), (2_000_000, 1))] {
        let closed = ended.output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), totals);
    }
}

/// A tcptop that is blocked while it writes rows of these connections, since nobody reads.
fn blocked(arguments: &[&str]) -> (Tcptop, Vec<Pair>) {
    let tcptop = Launch::new(arguments).blocked().start();
    let pairs = (0..50).map(|_| Pair::new(Family::V6)).collect();
    until_true("a full pipe", || tcptop.is_blocked());
    (tcptop, pairs)
}

/// tcptop cannot obey the first SIGINT while its output is blocked; the second one kills it.
fn second_interrupt_kills() {
    let (mut tcptop, _pairs) = blocked(&["--tcp", "--all", "--interval", "0.02"]);
    tcptop.signal(libc::SIGINT);
    until_true("the first signal to be taken", || !is_pending(tcptop.id(), libc::SIGINT));
    assert!(tcptop.is_running(), "it waits for its reader");
    let status = tcptop.stop(libc::SIGINT).status;
    let killed = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(killed, Some(libc::SIGINT), "{status}");
}

/// Whether a signal waits to be delivered to the process.
fn is_pending(pid: u32, signal: libc::c_int) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    ["SigPnd:", "ShdPnd:"].iter().any(|key| {
        let mask = status.lines().find_map(|line| line.strip_prefix(key)).expect("in the status");
        u64::from_str_radix(mask.trim(), 16).expect("hex") & (1 << (signal - 1)) != 0
    })
}

/// `--count 2`: the listing, two intervals, the end; never sooner.
fn count() {
    let pair = Pair::new(Family::V4);
    let started = Instant::now();
    let ended =
        Tcptop::start(&["--tcp", "--all", "--raw", "--interval", "0.3", "--count", "2"]).ended();
    let took = started.elapsed();
    ended.check();
    assert_eq!(ended.output.rows_of(pair.ends).count(), 3);
    assert!(took >= Duration::from_millis(600), "{took:?}");
}

fn once() {
    let pair = Pair::new(Family::V4);
    let ended = Tcptop::start(&["--tcp", "--all", "--raw", "--interval", "0.2", "--once"]).ended();
    ended.check();
    assert_eq!(ended.output.rows_of(pair.ends).count(), 2);
}

/// `--duration` ends on time, even within an interval, and loses nothing.
fn duration() {
    for interval in ["0.1", "3600"] {
        let started = Instant::now();
        let tcptop =
            Tcptop::start(&["--tcp", "--raw", "--interval", interval, "--duration", "0.5"]);
        let pair = Pair::new(Family::V4);
        pair.exchange(10_000, 20_000);
        let ends = pair.ends;
        pair.close();
        let ended = tcptop.ended();
        let took = started.elapsed();
        ended.check();
        assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");
        let closed = ended.output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), (20_000, 10_000));
    }
}

/// Status 2 and not a byte on stdout.
fn refused_options() {
    for arguments in
        [&["--interval", "0"][..], &["--interval", "-1"], &["--count", "0"], &["--nonsense"]]
    {
        let mut command: Command = tcptop::command(&tcptop::binary(), arguments);
        let output = command.output().expect("tcptop");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

/// A pager stops reading for a while: afterwards every total is exact, and each connection
/// that closed meanwhile has one line.
fn blocked_reader() {
    let steady = Pair::new(Family::V4);
    let (mut tcptop, _pairs) = blocked(&["--tcp", "--raw", "--all", "--interval", "0.02"]);
    let stream = Stream::start(&steady, 1000, Duration::from_millis(1));
    let closed: Vec<(Ends, u64, u64)> = (0..500)
        .map(|i| {
            let pair = Pair::new(Family::V4);
            pair.exchange(i, 2 * i);
            let ends = pair.ends;
            pair.close();
            (ends, i, 2 * i)
        })
        .collect();
    let sent = stream.stop().last().expect("something").total;
    assert!(tcptop.is_blocked(), "still");
    tcptop.unblock();
    let row = tcptop.wait_row("row with everything", steady.ends, |row| row.bytes_out == sent);
    assert!(row.partial);
    let all: Vec<Ends> = closed.iter().flat_map(|(ends, ..)| [*ends, ends.flipped()]).collect();
    tcptop.wait_closed(&all);
    let output = tcptop.finish();
    for (ends, up, down) in closed {
        for (ends, totals) in [(ends, (down, up)), (ends.flipped(), (up, down))] {
            let closed = output.the_closed(ends);
            assert_eq!((closed.bytes_in, closed.bytes_out), totals);
        }
    }
}

/// tcptop itself is stopped (SIGSTOP, much as by a shell's Ctrl-Z) and continued.
fn stopped_and_continued() {
    let tcptop = Tcptop::start(&QUICK);
    let open = Pair::new(Family::V4);
    tcptop.wait_row("row", open.ends, |_| true);
    tcptop.signal(libc::SIGSTOP);
    open.exchange(1 << 20, 2 << 20);
    let closed: Vec<Ends> = (1..=200)
        .map(|i| {
            let pair = Pair::new(Family::V4);
            pair.exchange(i, i);
            let ends = pair.ends;
            pair.close();
            ends
        })
        .collect();
    tcptop.signal(libc::SIGCONT);
    tcptop.wait_row("row with everything", open.ends, |row| {
        (row.bytes_in, row.bytes_out) == (2 << 20, 1 << 20)
    });
    tcptop.wait_closed(&closed);
    let output = tcptop.finish();
    for (ends, i) in closed.into_iter().zip(1..) {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), (i, i));
    }
}
