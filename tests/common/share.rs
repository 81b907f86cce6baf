//! One tcptop for many tests. Most tests need a tcptop with the usual arguments and look
//! only at their own connections. These tests take turns with one tcptop that is started
//! once.
//!
//! [`Tcptop::share`] lends it to a test. [`Tcptop::finish`] gives it back, and checks its
//! output since then against the contract. Its end (status, summary, loss) is checked once,
//! in [`retire`]. A test that fails does not give it back: the next test gets a new one.
//!
//! A test about the start, the listing, the end, options or older sockets must not share:
//! it calls [`Tcptop::start`].

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::sock::{Family, Pair};
use super::tcptop::{Output, Tcptop};
use super::udp::{Duo, wait_totals};

/// What belongs to a shared tcptop.
pub struct Lent {
    arguments: Vec<String>,
    beacon: Beacon,
}

/// Traffic that makes tcptop write a line, to know that all earlier lines are written.
enum Beacon {
    /// A new connection each time.
    Connection,
    /// The same two sockets each time. They stay open, so no test gets their ports.
    Flow(Box<Duo>),
}

/// The shared tcptop, while no test uses it.
static FREE: Mutex<Option<Tcptop>> = Mutex::new(None);

fn free() -> MutexGuard<'static, Option<Tcptop>> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The free tcptop if it has these arguments; else a new one.
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

/// Takes the tcptop back; what it wrote while it was lent.
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
    /// Waits until tcptop has written everything that has happened so far: makes new
    /// traffic and waits for its line.
    fn settle(&mut self, tcptop: &Tcptop) {
        match self {
            // `[CLOSED]` lines come after the rows of their interval, in order of time.
            Beacon::Connection => {
                let pair = Pair::new(Family::V4);
                let ends = pair.ends;
                pair.close();
                tcptop.wait_closed(&[ends, ends.flipped()]);
            }
            // Other rows of this interval may follow this one; the second round is in a
            // later interval, and so after all of them.
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

/// Ends the shared tcptop, if there is one, and checks its whole run against the contract:
/// status 0, nothing lost.
pub fn retire() {
    let tcptop = free().take();
    if let Some(mut tcptop) = tcptop {
        tcptop.lent = None;
        tcptop.finish();
    }
}
