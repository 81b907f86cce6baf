//! bandwhich --raw: each second the line `process: <TIME> "NAME" up/down Bps: UP/DOWN
//! connections: N` of each process, each the mean of the last five seconds. So the sum of all
//! lines is the total, if the tool ran five seconds before the traffic and five after it.
//! `<UNKNOWN>` stands for a process that it did not find. It prints names and no PIDs.

use super::{Owner, Seen};
use crate::results::Bytes;

/// The seconds of which it shows the mean.
pub const MEMORY: u64 = 5;

pub fn read(text: &str) -> Seen {
    let mut seen = Seen::new();
    for (name, bytes) in text.lines().filter_map(parse) {
        let owner = match name {
            "<UNKNOWN>" => Owner::Nobody,
            name => Owner::Named(name.to_owned()),
        };
        *seen.entry(owner).or_default() += bytes;
    }
    seen
}

fn parse(line: &str) -> Option<(&str, Bytes)> {
    let (_, rest) = line.strip_prefix("process: ")?.split_once("> \"")?;
    let (name, rest) = rest.rsplit_once("\" up/down Bps: ")?;
    let (up, down) = rest.split_once(' ')?.0.split_once('/')?;
    Some((name, Bytes { sent: up.parse().ok()?, received: down.parse().ok()? }))
}
