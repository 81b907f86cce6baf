//! The collector's interface: what any source of connections offers.
//!
//! Owns the [`NetworkCollector`] trait and the [`CollectorEvent`]s that cross
//! the channel to the reporter. The Linux source is in [`linux`]; a recorded
//! trace or another platform can stand in for it.

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
    /// CLOCK_MONOTONIC, in nanoseconds, when sampling began.
    pub now_ns: u64,
    /// What was lost since the tick before.
    pub lost: Loss,
    /// True for the listing at start, which ends no interval.
    pub listing: bool,
    /// True where no further tick follows.
    pub last: bool,
}

/// Events cross the channel in batches, so that a busy host does not pay for
/// a synchronisation per connection.
pub type Batch = Vec<CollectorEvent>;

/// A source of connections.
pub trait NetworkCollector {
    /// Lists what exists, then streams batches into `batches` until
    /// [`stop`](NetworkCollector::stop) is called or the intervals asked for
    /// are over. Returns once the last tick was handed over.
    ///
    /// # Errors
    /// Where the source fails for good; one lost record is not an error but
    /// counted in [`Tick::lost`].
    fn run(&mut self, batches: Sender<Batch>) -> anyhow::Result<()>;
}
