//! How the output of each tool is read: from what it printed to the bytes of each process.
//! Every reader is tested on a recorded output of the real tool (`recorded/`).

pub mod bandwhich;
pub mod iftop;
pub mod libbpf_tools;
pub mod nethogs;
pub mod rustnet;
pub mod ss;
pub mod tcptop;

use crate::results::{Bytes, Sums};

/// Whom a tool reports bytes of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    Process(u32),
    /// A tool that reports only names.
    Named(String),
    /// A tool that knows no processes, or did not know this one.
    Nobody,
}

impl Owner {
    /// Tools write 0 for a process that they do not know.
    fn of_pid(pid: Option<u32>) -> Owner {
        pid.filter(|&pid| pid != 0).map_or(Owner::Nobody, Owner::Process)
    }

    pub fn is(&self, pid: u32, name: &str) -> bool {
        match self {
            Owner::Process(other) => *other == pid,
            Owner::Named(other) => other == name,
            Owner::Nobody => false,
        }
    }
}

/// What a tool reported.
pub type Seen = Sums<Owner>;

/// Totals of connections that grow from report to report; each step goes to the process that
/// the report names.
#[derive(Default)]
struct Steps {
    last: Sums<String>,
    seen: Seen,
}

impl Steps {
    fn add(&mut self, connection: &str, owner: Owner, total: Bytes) {
        let last = self.last.entry(connection.to_owned()).or_default();
        // Smaller totals are those of a new connection with the same addresses.
        let anew = total.received < last.received || total.sent < last.sent;
        let before = if anew { Bytes::default() } else { *last };
        *self.seen.entry(owner).or_default() += total.since(before);
        *last = total;
    }
}
