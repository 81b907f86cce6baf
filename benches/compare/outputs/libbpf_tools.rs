//! tcptop of libbpf-tools (-C -S -r 10000 1): each second a line `PID COMM LADDR RADDR RX_KB
//! TX_KB` for each connection and process with traffic in that second. Kilobytes are rounded
//! down, line by line. The sum of all lines counts, without those of the far end's sockets.

use std::net::{IpAddr, SocketAddr};

use super::{Owner, Seen};
use crate::network::is_here;
use crate::results::Bytes;

pub fn read(text: &str) -> Seen {
    let mut seen = Seen::new();
    for (pid, local, bytes) in text.lines().filter_map(parse) {
        if is_here(local) {
            *seen.entry(Owner::of_pid(Some(pid))).or_default() += bytes;
        }
    }
    seen
}

fn parse(line: &str) -> Option<(u32, IpAddr, Bytes)> {
    // The name may have blanks.
    let pid = line.split_ascii_whitespace().next()?.parse().ok()?;
    let mut words = line.split_ascii_whitespace().rev();
    let mut kilobytes = || words.next()?.parse::<u64>().ok().map(|number| number * 1024);
    let (sent, received) = (kilobytes()?, kilobytes()?);
    let local: SocketAddr = words.nth(1)?.parse().ok()?;
    Some((pid, local.ip(), Bytes { sent, received }))
}
