//! tcptop --format json: each second a row for each connection with traffic, and a final one
//! when it ends, with its totals so far and the process that last used it. What was added
//! since its last row goes to that process. Rows of the far end's sockets, which it sees too,
//! are left out: the other tools cannot see them.

use std::net::IpAddr;

use serde_json::Value;

use super::{Owner, Seen, Steps};
use crate::network::is_here;
use crate::results::Bytes;

pub fn read(text: &str) -> Seen {
    let mut steps = Steps::default();
    for row in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let local = row["local_addr"].as_str().and_then(|text| text.parse::<IpAddr>().ok());
        if !local.is_some_and(is_here) {
            continue;
        }
        let number = |key: &str| row[key].as_u64().unwrap_or(0);
        let bytes = Bytes { received: number("bytes_in"), sent: number("bytes_out") };
        let pid = row["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        let connection = ["conn_id", "local_addr", "local_port", "remote_addr", "remote_port"]
            .map(|key| row[key].to_string());
        steps.add(&connection.join(" "), Owner::of_pid(pid), bytes);
    }
    steps.seen
}
