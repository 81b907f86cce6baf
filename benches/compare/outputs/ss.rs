//! ss -tinpHO, again and again: a line for each socket, with `bytes_sent`, `bytes_retrans` and
//! `bytes_received` since it was opened (none of them where it is 0), and the processes that
//! have it open. What was added since the last look goes to the first of these. What a
//! connection moved after the last look at it, or while nobody looked, is not there. The kernel
//! takes a FIN that it has received for a byte.

use super::{Owner, Seen, Steps};
use crate::results::Bytes;

pub fn read(text: &str) -> Seen {
    let mut steps = Steps::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(3);
        let (Some(local), Some(remote)) = (words.next(), words.next()) else { continue };
        let (mut sent, mut retransmitted, mut received, mut pid) = (0_u64, 0, 0, None);
        for word in words {
            let number = |name: &str| word.strip_prefix(name).and_then(|text| text.parse().ok());
            sent = number("bytes_sent:").unwrap_or(sent);
            retransmitted = number("bytes_retrans:").unwrap_or(retransmitted);
            received = number("bytes_received:").unwrap_or(received);
            if word.starts_with("users:") {
                let after = word.split_once("pid=").map_or("", |(_, rest)| rest);
                pid = after.split(',').next().and_then(|text| text.parse().ok());
            }
        }
        let bytes = Bytes { sent: sent.saturating_sub(retransmitted), received };
        steps.add(&format!("{local} {remote}"), Owner::of_pid(pid), bytes);
    }
    steps.seen
}
