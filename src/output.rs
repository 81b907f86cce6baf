//! The end of the path: the rows of an interval become lines, CSV or JSON.
//!
//! Owns the [`Sink`] trait and what the formats share. Pure but for the writer
//! that a sink is given: no clock, no kernel, no terminal queries.

use std::io;

use chrono::{DateTime, Utc};

use crate::connection::Closed;
use crate::loss::Loss;
use crate::table::ConnectionRecord;

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
}
