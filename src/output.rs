//! The end of the path: the rows of an interval become lines, CSV or JSON.
//!
//! Owns the [`Sink`] trait and what the formats share. Pure but for the writer
//! that a sink is given: no clock, no kernel, no terminal queries.

use std::io;
use std::net::SocketAddr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

use crate::connection::{Closed, Sample};
use crate::loss::Loss;
use crate::table::ConnectionRecord;
use text::{Host, Room, Text};

pub mod csv;
mod destination;
pub mod json;
pub mod lines;
pub mod text;

/// What one interval has to say, ready to be written.
pub struct Interval<'a> {
    /// The wall-clock time of its end: one for all its rows.
    pub time: DateTime<Utc>,
    /// The same moment on CLOCK_MONOTONIC, in nanoseconds (ages count from it).
    pub now_ns: u64,
    /// The rows to write, filtered, ordered and cut to `--top`.
    pub rows: &'a [&'a ConnectionRecord],
    /// The TCP connections that ended, in order.
    pub closed: &'a [Closed],
    /// What was lost in the interval.
    pub lost: &'a Loss,
    /// True for the listing at start, which ends no interval.
    pub listing: bool,
}

/// A format and its destination. One call writes and flushes one interval.
pub trait Sink {
    /// Writes an interval.
    ///
    /// # Errors
    /// Those of the writer; `BrokenPipe` means that the reader went away.
    fn interval(&mut self, interval: &Interval<'_>) -> io::Result<()>;

    /// Opens the destination again, where that is a file (SIGHUP).
    ///
    /// # Errors
    /// Those of opening.
    fn reopen(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names for the numbers of a connection, for the formats that write them.
pub trait Names {
    /// An interval begins: what may have changed is to be asked for anew.
    fn refresh(&mut self);

    /// Where a connection is.
    fn place(&mut self, sample: &Sample) -> Place<'_>;
}

/// Where a connection is, by names; `None` where one is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// Name of the device.
    pub interface: Option<&'a str>,
    /// Path of the cgroup below the cgroup v2 mount, beginning with `/`.
    pub cgroup: Option<&'a str>,
    /// Id of the container.
    pub container: Option<&'a str>,
}

/// What CSV and JSON say of a connection beyond its sample.
struct Facts<'a> {
    sample: &'a Sample,
    state: &'static str,
    rate_in: f64,
    rate_out: f64,
    /// `None` where the connection is older than tcptop.
    age_ns: Option<u64>,
    partial: bool,
    end: Option<&'static str>,
}

impl<'a> Facts<'a> {
    /// Of an open connection, at `now_ns` (CLOCK_MONOTONIC).
    fn open(row: &'a ConnectionRecord, now_ns: u64, lifetime: bool) -> Facts<'a> {
        let sample = &row.sample;
        Facts {
            sample,
            state: state_name(sample),
            rate_in: row.rate_in,
            rate_out: row.rate_out,
            age_ns: (!sample.partial).then(|| now_ns.saturating_sub(sample.key.born_ns)),
            partial: sample.lacks_past(lifetime),
            end: None,
        }
    }

    /// Of one that ended; there is no interval left to tell a rate of.
    fn closed(closed: &'a Closed, lifetime: bool) -> Facts<'a> {
        Facts {
            sample: &closed.sample,
            state: "CLOSED",
            rate_in: 0.0,
            rate_out: 0.0,
            age_ns: closed.age_ns(),
            partial: closed.sample.lacks_past(lifetime),
            end: closed.reason.name(),
        }
    }

    fn netns(&self) -> Option<u32> {
        (self.sample.netns != 0).then_some(self.sample.netns)
    }
}

/// Serializes a short text, without allocating: there are several in each row.
fn short<S: Serializer>(serializer: S, value: impl Text) -> Result<S::Ok, S::Error> {
    struct Short {
        bytes: [u8; 64],
        length: usize,
    }
    impl Room for Short {
        fn put(&mut self, bytes: &[u8]) {
            let end = self.length + bytes.len();
            // The longest, an IPv6 address with a scope, takes 50.
            if let Some(room) = self.bytes.get_mut(self.length..end) {
                room.copy_from_slice(bytes);
                self.length = end;
            }
        }
    }
    let mut text = Short { bytes: [0; 64], length: 0 };
    value.write(&mut text);
    serializer.serialize_str(std::str::from_utf8(&text.bytes[..text.length]).unwrap_or_default())
}

fn host<S: Serializer>(address: &SocketAddr, serializer: S) -> Result<S::Ok, S::Error> {
    short(serializer, Host(address))
}

/// RFC 3339 in UTC with milliseconds: `2026-03-04T05:06:07.089Z`.
fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// What stands in the state column: `UDP` for what has no state.
fn state_name(sample: &Sample) -> &'static str {
    match sample.state {
        Some(state) => state.name(),
        None => sample.protocol.name(),
    }
}

/// Gives back the memory that a burst left behind, once it is far more than an
/// interval needs.
fn release(buffer: &mut Vec<u8>) {
    const KEEP: usize = 64 * 1024;
    if buffer.capacity() > KEEP.max(buffer.len().saturating_mul(8)) {
        buffer.shrink_to(KEEP.max(buffer.len().saturating_mul(2)));
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    //! Connections that the formats' tests write.

    use super::*;
    use crate::connection::{
        CloseReason, ConnectionKey, Counters, Owner, ProcessName, Protocol, TcpState,
    };
    use crate::table::ConnectionTable;

    pub(crate) fn name(text: &str) -> ProcessName {
        let mut comm = [0; 16];
        comm[..text.len()].copy_from_slice(text.as_bytes());
        ProcessName::from_comm(comm)
    }

    /// Names that need no host.
    pub(crate) struct Known;

    impl Names for Known {
        fn refresh(&mut self) {}
        fn place(&mut self, sample: &Sample) -> Place<'_> {
            match sample.ifindex {
                0 => Place::default(),
                _ => Place {
                    interface: Some("eth0"),
                    cgroup: Some("/docker/a,b"),
                    container: Some("0123"),
                },
            }
        }
    }

    pub(crate) fn tcp() -> Sample {
        Sample {
            key: ConnectionKey { object: 1, born_ns: 1_000_000_000 },
            protocol: Protocol::Tcp,
            local: ([10, 0, 0, 1], 12345).into(),
            remote: ([93, 184, 216, 34], 443).into(),
            state: Some(TcpState::Established),
            owner: Some(Owner { pid: 1234, name: name("curl") }),
            counters: Counters {
                bytes_in: 1_258_291,
                bytes_out: 340,
                packets_in: 900,
                packets_out: 12,
            },
            rtt_us: Some(5000),
            min_rtt_us: Some(4321),
            retransmits: 3,
            partial: false,
            uid: 1000,
            ifindex: 2,
            netns: 4_026_531_840,
            cgroup: 77,
        }
    }

    pub(crate) fn udp() -> Sample {
        Sample {
            key: ConnectionKey { object: 2, born_ns: 2_000_000_000 },
            protocol: Protocol::Udp,
            local: "[2001:db8::1]:5353".parse().unwrap(),
            remote: "[fe80::1%2]:5353".parse().unwrap(),
            state: None,
            owner: Some(Owner { pid: 99, name: name("my resolver") }),
            counters: Counters { bytes_in: 2048, bytes_out: 0, packets_in: 2, packets_out: 0 },
            rtt_us: None,
            min_rtt_us: None,
            retransmits: 0,
            ifindex: 0,
            cgroup: 0,
            ..tcp()
        }
    }

    pub(crate) fn record(sample: Sample, rate_in: f64, rate_out: f64) -> ConnectionRecord {
        let mut table = ConnectionTable::new(false);
        table.seed([sample]);
        let mut record = *table.all().next().unwrap();
        record.rate_in = rate_in;
        record.rate_out = rate_out;
        record
    }

    pub(crate) fn closed(sample: Sample, reason: CloseReason, age_ns: u64) -> Closed {
        Closed { sample, reason, closed_ns: sample.key.born_ns + age_ns }
    }

    pub(crate) fn interval<'a>(
        rows: &'a [&'a ConnectionRecord],
        closed: &'a [Closed],
    ) -> Interval<'a> {
        static NOTHING: std::sync::OnceLock<Loss> = std::sync::OnceLock::new();
        Interval {
            time: "2026-03-04T05:06:07.089123Z".parse().unwrap(),
            now_ns: 11_500_000_000,
            rows,
            closed,
            lost: NOTHING.get_or_init(Loss::default),
            listing: false,
        }
    }
}
