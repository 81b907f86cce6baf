//! One tcptop for many tests. Most of them need a tcptop that runs with the usual
//! arguments and look at nothing but their own connections: they take turns with one
//! that is started once.
//!
//! [`Tcptop::share`] lends it, [`Tcptop::finish`] gives it back: with everything that
//! was written in between, which is held against the contract there and then. Its end
//! (status, summary, loss) is checked once, in [`retire`]. A test that fails does not
//! give it back: the next one gets a fresh one.
//!
//! For a test about the start, the listing, the end, options or older sockets this is
//! not the way: it calls [`Tcptop::start`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sock::{Family, Pair};
use super::tcptop::{Output, Tcptop};
use super::udp::{Duo, wait_totals};

/// What a shared tcptop has with it.
pub struct Lent {
    arguments: Vec<String>,
    beacon: Beacon,
}

/// What makes tcptop write a line at will.
enum Beacon {
    /// A new connection each time.
    Connection,
    /// The same sockets each time: no test must get their ports.
    Flow(Box<Duo>),
}

/// The one that nobody uses at the moment.
static FREE: Mutex<Option<Tcptop>> = Mutex::new(None);

fn free() -> MutexGuard<'static, Option<Tcptop>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one that is free, where it has these arguments; else a new one.
pub fn lend(arguments: &[&str]) -> Tcptop {
    let same =
        |tcptop: &mut Tcptop| tcptop.lent.as_ref().is_some_and(|lent| lent.arguments == arguments);
    let found = free().take_if(same);
    found.unwrap_or_else(|| {
        retire();
        let mut tcptop = Tcptop::start(arguments);
        let beacon = match arguments.contains(&"--udp") {
            true => Beacon::Flow(Box::new(Duo::new(Family::V4, true))),
            false => Beacon::Connection,
        };
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        tcptop.lent = Some(Lent { arguments, beacon });
        tcptop
    })
}

/// What was written while the borrower had it.
pub fn give_back(mut tcptop: Tcptop, mut lent: Lent) -> Output {
    lent.beacon.settle(&tcptop);
    let stderr = tcptop.stderr();
    assert!(!stderr.contains("lost in this interval"), "{stderr}");
    let output = tcptop.take_output();
    output.check_contract();
    tcptop.lent = Some(lent);
    *free() = Some(tcptop);
    output
}

impl Beacon {
    /// Waits until all that has happened by now is written: until something is that
    /// happens later.
    fn settle(&mut self, tcptop: &Tcptop) {
        match self {
            // `[CLOSED]` lines come after the rows of their interval, in their order.
            Beacon::Connection => {
                let pair = Pair::new(Family::V4);
                let ends = pair.ends;
                pair.close();
                tcptop.wait_closed(&[ends, ends.flipped()]);
            }
            // Others may follow this row, but before those of the next interval.
            Beacon::Flow(duo) => {
                for _ in 0..2 {
                    duo.send(1, 1);
                    let [(ends, totals), _] = duo.expected();
                    wait_totals(tcptop, ends, totals);
                }
            }
        }
    }
}

/// Ends the shared tcptop, where there is one, and holds its whole run against the
/// contract: status 0, nothing lost.
pub fn retire() {
    let tcptop = free().take();
    if let Some(mut tcptop) = tcptop {
        tcptop.lent = None;
        tcptop.finish();
    }
}
