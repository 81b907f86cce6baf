//! rustnet --headless: twice a second a line of JSON with all connections that it keeps, each
//! with an `id`, its process and its bytes so far. A connection may be gone from the last
//! line, so the largest totals of each id count, for the process of its last line.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Owner, Seen};
use crate::results::Bytes;

pub fn read(text: &str) -> Seen {
    let mut connections: BTreeMap<String, (Owner, Bytes)> = BTreeMap::new();
    let snapshots = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    for snapshot in snapshots {
        for connection in snapshot["connections"].as_array().into_iter().flatten() {
            let Some(id) = connection["id"].as_str() else { continue };
            let number = |key: &str| connection["traffic"][key].as_u64().unwrap_or(0);
            let bytes = Bytes { sent: number("bytes_sent"), received: number("bytes_received") };
            let process = &connection["process"];
            let owner = match (process["pid"].as_u64(), process["name"].as_str()) {
                (Some(pid), _) => Owner::of_pid(u32::try_from(pid).ok()),
                (None, Some(name)) => Owner::Named(name.to_owned()),
                (None, None) => Owner::Nobody,
            };
            let kept = connections.entry(id.to_owned()).or_insert((Owner::Nobody, bytes));
            kept.1.sent = kept.1.sent.max(bytes.sent);
            kept.1.received = kept.1.received.max(bytes.received);
            if owner != Owner::Nobody {
                kept.0 = owner;
            }
        }
    }
    let mut seen = Seen::new();
    for (owner, bytes) in connections.into_values() {
        *seen.entry(owner).or_default() += bytes;
    }
    seen
}
