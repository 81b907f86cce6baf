//! iftop -t: every two seconds in which there are packets, a table of pairs of hosts, and below
//! it the line `Cumulative (sent/received/total):` with the bytes of the whole device. The last
//! of these lines counts; packets after the load make it print that. It prints three digits
//! (`1.64KB`, of 1024 bytes). It knows no processes.

use super::{Owner, Seen};
use crate::results::Bytes;

pub fn read(text: &str) -> Seen {
    let line = text.lines().rev().find_map(|line| line.strip_prefix("Cumulative ("));
    let mut words = line.unwrap_or_default().split_ascii_whitespace().skip(1).filter_map(size);
    let mut seen = Seen::new();
    if let (Some(sent), Some(received)) = (words.next(), words.next()) {
        seen.insert(Owner::Nobody, Bytes { sent, received });
    }
    seen
}

fn size(word: &str) -> Option<u64> {
    let digits = word.trim_end_matches(char::is_alphabetic);
    let unit: u64 = match &word[digits.len()..] {
        "B" => 1,
        "KB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    Some((digits.parse::<f64>().ok()? * unit as f64).round() as u64)
}
