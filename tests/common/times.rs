//! The tests' times. With `TCPTOP_TEST_TIMES` set, a table shows how long each test took,
//! and how much of that starting and ending tcptop took, slowest first.

use std::cell::Cell;
use std::env;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The times of one test.
struct Taken {
    name: String,
    all: Duration,
    inside: Inside,
}

/// The part of a test's time that tcptop's starts and ends took.
#[derive(Clone, Copy, Default)]
struct Inside {
    starts: u32,
    starting: Duration,
    ending: Duration,
}

static TAKEN: Mutex<Vec<Taken>> = Mutex::new(Vec::new());

thread_local! {
    /// The starts and ends in the test that runs in this thread.
    static INSIDE: Cell<Inside> = const { Cell::new(Inside { starts: 0, starting: Duration::ZERO, ending: Duration::ZERO }) };
}

/// Runs a test and remembers how long it took. (One that panics is not in the table.)
pub fn of_test(name: &str, run: impl FnOnce()) {
    INSIDE.set(Inside::default());
    let began = Instant::now();
    run();
    let taken = Taken { name: name.to_owned(), all: began.elapsed(), inside: INSIDE.get() };
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(taken);
}

/// Measures a start of tcptop, until it is ready.
pub fn of_start<T>(start: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let started = start();
    let mut inside = INSIDE.get();
    inside.starts += 1;
    inside.starting += began.elapsed();
    INSIDE.set(inside);
    started
}

/// Measures an end of tcptop, from the signal until it has been waited for.
pub fn of_end<T>(end: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let ended = end();
    let mut inside = INSIDE.get();
    inside.ending += began.elapsed();
    INSIDE.set(inside);
    ended
}

/// Prints the table, if `TCPTOP_TEST_TIMES` is set.
pub fn print() {
    if env::var_os("TCPTOP_TEST_TIMES").is_none() {
        return;
    }
    let mut all = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    all.sort_by_key(|taken| std::cmp::Reverse(taken.all));
    let row = |name: &str, all: Duration, inside: Inside| {
        let seconds = |time: Duration| time.as_secs_f64();
        println!(
            "{:9.2} {:6} {:9.2} {:9.2}  {name}",
            seconds(all),
            inside.starts,
            seconds(inside.starting),
            seconds(inside.ending)
        );
    };
    println!("  seconds starts  starting    ending");
    let (mut whole, mut inside) = (Duration::ZERO, Inside::default());
    for taken in all.iter() {
        row(&taken.name, taken.all, taken.inside);
        whole += taken.all;
        inside.starts += taken.inside.starts;
        inside.starting += taken.inside.starting;
        inside.ending += taken.inside.ending;
    }
    row("(all)", whole, inside);
}
