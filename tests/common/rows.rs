//! A tcptop that writes chosen columns as JSON.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;

use super::sock::Ends;
use super::tcptop::{Launch, Tcptop};

/// A tcptop with some columns, besides the addresses and the state of each row.
pub struct Rows(Tcptop);

impl Rows {
    pub fn start(columns: &str, more: &[&str]) -> Rows {
        Rows(launch(columns, more).start())
    }

    /// The same. Calls `prepare` in the child before it becomes tcptop.
    ///
    /// # Safety
    /// As for [`Launch::prepare`].
    pub unsafe fn prepared(
        columns: &str,
        more: &[&str],
        prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> Rows {
        // SAFETY: the caller's promise.
        Rows(unsafe { launch(columns, more).prepare(prepare) }.start())
    }

    /// The PID of tcptop.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// The rows of this connection so far.
    pub fn of(&self, ends: Ends) -> Vec<Value> {
        let text = text_of(ends);
        self.0.look(|output| {
            output
                .lines
                .iter()
                .filter(|line| line.contains(&text))
                .map(|line| parse(line))
                .collect()
        })
    }

    /// The newest row of this connection.
    pub fn last(&self, ends: Ends) -> Option<Value> {
        let text = text_of(ends);
        self.0.look(|output| {
            output.lines.iter().rev().find(|line| line.contains(&text)).map(|line| parse(line))
        })
    }

    /// Waits until a row of this connection satisfies the condition. Returns the newest such
    /// row.
    pub fn wait(&self, what: &str, ends: Ends, mut condition: impl FnMut(&Value) -> bool) -> Value {
        let text = text_of(ends);
        self.0.wait(what, |output| {
            let mut rows = output.lines.iter().rev().filter(|line| line.contains(&text));
            rows.find_map(|line| Some(parse(line)).filter(&mut condition))
        })
    }

    /// Waits for the final row of this connection or flow.
    pub fn wait_final(&self, ends: Ends) -> Value {
        self.wait("a final row", ends, |row| row["event"] != "sample")
    }

    /// Stops tcptop. Returns all rows.
    pub fn finish(self) -> Vec<Value> {
        let ended = self.0.stop(libc::SIGINT);
        assert!(ended.status.success(), "{:?}: {}", ended.status, ended.stderr);
        assert_eq!(ended.lost(), "nothing");
        ended.output.lines.iter().map(|line| parse(line)).collect()
    }
}

fn launch(columns: &str, more: &[&str]) -> Launch {
    let columns = format!("local,remote,state,{columns}");
    let usual = ["--format", "json", "--interval", "0.1", "--columns", &columns];
    Launch::new(&[&usual[..], more].concat())
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))
}

/// What a row of this connection contains.
fn text_of(ends: Ends) -> String {
    format!("\"local\":\"{}\",\"remote\":\"{}\"", ends.local, ends.remote)
}

/// The ends of a row.
pub fn ends_of(row: &Value) -> Ends {
    let address = |key: &str| -> SocketAddr {
        row[key].as_str().and_then(|text| text.parse().ok()).expect("an address")
    };
    Ends::new(address("local"), address("remote"))
}
