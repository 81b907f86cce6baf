//! nethogs -t -v 2: each refresh lists `PROGRAM/PID/UID`, a tab, the bytes sent, a tab, the
//! bytes received, both since its start. `unknown TCP`, or the addresses of a connection,
//! stand for a process that it did not find, with PID 0. A process may leave the list, so the
//! largest totals of each count. It prints six digits (`1.00205e+06`).

use super::{Owner, Seen};
use crate::results::{Bytes, Sums};

pub fn read(text: &str) -> Seen {
    let mut totals: Sums<&str> = Sums::new();
    for line in text.lines() {
        let mut words = line.split('\t');
        let (Some(who), Some(sent), Some(received)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let (Some(sent), Some(received)) = (number(sent), number(received)) else { continue };
        let total = totals.entry(who).or_default();
        total.sent = total.sent.max(sent);
        total.received = total.received.max(received);
    }
    let mut seen = Seen::new();
    for (who, total) in totals {
        let pid = who.rsplit('/').nth(1).and_then(|pid| pid.parse().ok());
        *seen.entry(Owner::of_pid(pid)).or_default() += Bytes { ..total };
    }
    seen
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse::<f64>().ok().map(|number| number.round() as u64)
}
