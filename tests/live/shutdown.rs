//! tcptop ends in the midst of heavy traffic: what happened before its end is in its last
//! interval.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::rng::Rng;
use crate::common::sock::{self, Ends, Family, Pair, Part, Stream};
use crate::common::tcptop::{Ended, Launch, Output};
use crate::common::udp::Duo;

use super::churn::lost_closes;
use super::{Test, figures, long, test};

pub fn tests() -> Vec<Test> {
    vec![test("shutdown::nothing_before_the_end_is_lost", nothing_before_the_end_is_lost)]
}

/// A connection that both ends have closed.
struct Done {
    ends: Ends,
    up: u64,
    down: u64,
    began: Instant,
    ended: Instant,
}

/// When a run of tcptop began and ended, each between two moments.
struct Bounds {
    /// It was started, and it was ready.
    start: [Instant; 2],
    /// It was not asked to end yet, and it had ended.
    end: [Instant; 2],
}

impl Bounds {
    /// Whether tcptop must have seen all of something.
    fn owed(&self, began: Instant, ended: Instant) -> bool {
        began > self.start[1] && ended < self.end[0]
    }

    /// Whether it can have seen a part of it.
    fn possible(&self, began: Instant, ended: Instant) -> bool {
        ended > self.start[0] && began < self.end[1]
    }
}

/// Traffic as fast as it goes: connections that open and close, one that stays, and a flow.
struct Load {
    running: Arc<AtomicBool>,
    churn: Vec<JoinHandle<Vec<Done>>>,
    stream: (Ends, Stream),
    flow: (Ends, JoinHandle<Vec<Part>>),
}

impl Load {
    fn start() -> Load {
        let running = Arc::new(AtomicBool::new(true));
        let churn = (0..2).map(|seed| {
            let running = Arc::clone(&running);
            thread::spawn(move || churn(&running, seed))
        });
        let pair = Pair::new(Family::V4);
        let stream = (pair.ends, Stream::start(&pair, 700, Duration::from_micros(500)));
        let mut duo = Duo::new(Family::V4, true);
        let ends = duo.ends;
        let go_on = Arc::clone(&running);
        let flow = thread::spawn(move || {
            let mut log = Vec::new();
            while go_on.load(Ordering::Relaxed) {
                let began = Instant::now();
                duo.send(300, 1);
                log.push(Part { began, ended: Instant::now(), total: duo.totals.bytes_out });
                thread::sleep(Duration::from_micros(500));
            }
            log
        });
        Load { churn: churn.collect(), running, stream, flow: (ends, flow) }
    }

    /// Ends it, and checks what tcptop told. Returns the numbers of lines that it must tell,
    /// that it told, and that it reports as lost.
    fn check(self, ended: &Ended, bounds: &Bounds) -> (usize, usize, i64) {
        self.running.store(false, Ordering::Relaxed);
        let done: Vec<Done> =
            self.churn.into_iter().flat_map(|thread| thread.join().expect("churn")).collect();
        let output = &ended.output;
        check_sum(output, self.stream.0, &self.stream.1.stop(), bounds);
        check_sum(output, self.flow.0, &self.flow.1.join().expect("the flow"), bounds);

        // The lines of each end, with their bytes. A port is used again, so they are counted.
        let mut told: HashMap<(Ends, u64, u64), i64> = HashMap::new();
        for closed in &output.closed {
            *told.entry((closed.ends, closed.bytes_in, closed.bytes_out)).or_default() += 1;
        }
        let (mut owed, mut missing, mut lines) = (0, Vec::new(), 0);
        // First those that are owed: another with the same line must not take it.
        let is_owed = |done: &Done| bounds.owed(done.began, done.ended);
        let (first, others): (Vec<Done>, Vec<Done>) = done.into_iter().partition(is_owed);
        for done in first.iter().chain(&others) {
            let is_owed = is_owed(done);
            let (ends, up, down) = (done.ends, done.up, done.down);
            for line in [(ends, down, up), (ends.flipped(), up, down)] {
                let left = told.get_mut(&line).filter(|left| **left > 0);
                owed += usize::from(is_owed);
                match left {
                    Some(left) => {
                        *left -= 1;
                        lines += 1;
                    }
                    None if is_owed => missing.push(line),
                    None => {}
                }
            }
        }
        let reported = lost_closes(ended);
        assert!(
            missing.len() as i64 <= reported,
            "{} of {owed} lines are missing, {reported} reported lost: {:#?}",
            missing.len(),
            missing.iter().take(5).collect::<Vec<_>>()
        );
        (owed, lines, reported)
    }
}

/// The last row of a connection or flow has at least what must have been seen, and at most
/// what can have been.
fn check_sum(output: &Output, ends: Ends, parts: &[Part], bounds: &Bounds) {
    // The parts are equal.
    let size = parts.first().map_or(0, |part| part.total);
    let sum = |counts: fn(&Bounds, Instant, Instant) -> bool| {
        let counted = parts.iter().filter(|part| counts(bounds, part.began, part.ended));
        counted.count() as u64 * size
    };
    let (least, most) = (sum(Bounds::owed), sum(Bounds::possible));
    let row = |ends: Ends| output.last_row(ends).unwrap_or_else(|| panic!("a row of {ends:?}"));
    let (sent, received) = (row(ends).bytes_out, row(ends.flipped()).bytes_in);
    assert!(most > least, "{least} to {most} in {} parts", parts.len());
    for told in [sent, received] {
        assert!(least <= told && told <= most, "{least} <= {told} <= {most}: {ends:?}");
    }
}

/// Opens a connection, moves bytes both ways, and resets it: after the server has seen the
/// reset, the kernel has closed both ends.
fn churn(running: &AtomicBool, seed: u64) -> Vec<Done> {
    let (listener, address) = sock::listen(Family::V4);
    let mut rng = Rng::new(seed);
    let mut done = Vec::new();
    while running.load(Ordering::Relaxed) {
        let began = Instant::now();
        let pair = Pair::accept(&listener, sock::connect(address));
        let (up, down) = (1 + rng.below(3000), rng.below(3000));
        sock::send(&pair.client, up);
        sock::receive(&pair.server, up);
        sock::send(&pair.server, down);
        sock::receive(&pair.client, down);
        sock::reset(pair.client);
        let error = (&pair.server).read(&mut [0]).expect_err("a reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        done.push(Done { ends: pair.ends, up, down, began, ended: Instant::now() });
    }
    done
}

/// How long tcptop takes at most, almost always, until it is ready.
const START: Duration = Duration::from_millis(300);

/// How a run ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Signal(libc::c_int),
    Duration,
    Count,
}

fn nothing_before_the_end_is_lost() {
    let ends = [End::Signal(libc::SIGTERM), End::Duration, End::Count, End::Signal(libc::SIGINT)];
    let (mut owed, mut told, mut lost) = (0, 0, 0);
    for round in 0..long(1, 50) {
        for end in ends {
            let numbers = run(end, Duration::from_millis(50 + 37 * round % 300));
            owed += numbers.0;
            told += numbers.1;
            lost += numbers.2;
        }
    }
    assert!(owed > 100, "{owed} lines owed: too little traffic");
    figures(format!("{owed} lines owed, {told} told, {lost} reported lost"));
}

/// A run that ends about this long after it was ready.
fn run(end: End, time: Duration) -> (usize, usize, i64) {
    // To start takes a part of it.
    let time = if matches!(end, End::Signal(_)) { time } else { time + START };
    let seconds = format!("{:.3}", time.as_secs_f64());
    let mut arguments = vec!["--raw", "--udp-timeout", "300"];
    match end {
        End::Signal(_) => arguments.extend(["--interval", "0.1"]),
        End::Duration => arguments.extend(["--interval", "0.03", "--duration", &seconds]),
        End::Count => arguments.extend(["--count", "1", "--interval", &seconds]),
    }
    let load = Load::start();
    let started = Instant::now();
    let tcptop = Launch::new(&arguments).start();
    let ready = Instant::now();
    // It counts the time from its listing on, so it does not end before this.
    let mut asked = started + time;
    if let End::Signal(signal) = end {
        thread::sleep(time);
        asked = Instant::now();
        tcptop.signal(signal);
    }
    let ended = tcptop.ended();
    let bounds = Bounds { start: [started, ready], end: [asked, Instant::now()] };
    assert!(ended.status.success(), "{end:?}: {}", ended.stderr);
    ended.output.check_contract();
    load.check(&ended, &bounds)
}
