//! What a collector tells: the events that cross the channel to the reporter.
//!
//! Owns the [`NetworkCollector`] trait and its [`CollectorEvent`]s. Where they come
//! from is none of its business: the running kernel ([`linux`](crate::linux)), a
//! recorded list (`examples/replay.rs`) or another platform.

use chrono::{DateTime, Utc};
use crossbeam_channel::Sender;

use crate::connection::{Closed, ConnectionKey, Sample};
use crate::loss::Loss;

/// Something the collector saw. A [`Tick`](CollectorEvent::Tick) ends an
/// interval: whatever was sampled for it came before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CollectorEvent {
    /// A connection that is open, with its totals. Sent when they moved.
    Sample(Sample),
    /// A TCP connection that ended. The last event with its key, but for a
    /// sample that raced with the close (see `table.rs`).
    Closed(Closed),
    /// A UDP flow that was idle for the timeout and is forgotten.
    Expired(ConnectionKey),
    /// The interval is over.
    Tick(Tick),
}

/// The end of an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// When sampling began, in nanoseconds of a clock that only goes forward: the
    /// one that the events' other times are of (CLOCK_MONOTONIC on Linux).
    pub now_ns: u64,
    /// The same moment as a time of day.
    pub time: DateTime<Utc>,
    /// What was lost since the tick before.
    pub lost: Loss,
    /// True for the listing at start, which ends no interval.
    pub listing: bool,
    /// True where every open connection was sampled for this tick, so that one
    /// which was not is gone: records of its end were lost.
    pub complete: bool,
}

/// Events cross the channel in batches, so that a busy host does not pay for
/// a synchronisation per connection.
pub type Batch = Vec<CollectorEvent>;

/// A source of connections.
pub trait NetworkCollector {
    /// Lists what exists (ending with a tick whose `listing` is set), then
    /// streams batches into `batches`, each interval ending with a tick, until
    /// it is told to stop, its intervals are over or the receiver is gone.
    ///
    /// # Errors
    /// Where the source cannot start, before anything was sent, or fails for
    /// good. One lost record is not an error but counted in [`Tick::lost`].
    fn run(&mut self, batches: Sender<Batch>) -> anyhow::Result<()>;
}
