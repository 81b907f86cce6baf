//! The events that a collector sends through the channel to the reporter.
//!
//! Owns the [`NetworkCollector`] trait and its [`CollectorEvent`]s. Does not depend on
//! where the events come from: the running kernel ([`linux`](crate::linux)), a recorded
//! list (`examples/replay.rs`) or another platform.

use chrono::{DateTime, Utc};
use crossbeam_channel::Sender;

use crate::connection::{Closed, ConnectionKey, Sample};
use crate::loss::Loss;

/// Something the collector saw. A [`Tick`](CollectorEvent::Tick) ends an interval: all
/// samples of the interval come before its tick.
#[derive(Clone, Debug, PartialEq)]
pub enum CollectorEvent {
    /// The totals of an open connection. Sent when they have changed.
    Sample(Sample),
    /// A TCP connection that ended. No other event with its key follows, except for a
    /// sample that was taken while the connection closed (see `table.rs`).
    Closed(Closed),
    /// A UDP flow that had no datagram for `--udp-timeout` and is forgotten. No other
    /// event with its key follows.
    Expired(Closed),
    /// A TCP connection that cannot be shown: the kernel has no memory for the storage of
    /// its socket. It is among the losses of the next tick.
    Untracked {
        /// Its addresses, its state and its id, and nothing else.
        sample: Sample,
        /// True where it may have been sent before. No other event has this.
        again: bool,
    },
    /// A cgroup was made. Comes before the samples of connections in it, and only where
    /// [`Needs::CGROUPS`](crate::connection::Needs) were asked for.
    CgroupMade {
        /// Its id: the inode number of its directory.
        id: u64,
        /// Its path below the mount of cgroup v2, beginning with `/`. Ends with
        /// [`CUT`](crate::names::CUT) where the kernel did not tell all of it.
        path: Box<str>,
    },
    /// The interval is over.
    Tick(Tick),
}

/// The end of an interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tick {
    /// When sampling began, in nanoseconds of a clock that only goes forward
    /// (CLOCK_MONOTONIC on Linux). The other times in events are of the same clock.
    pub now_ns: u64,
    /// The same moment as a time of day.
    pub time: DateTime<Utc>,
    /// What was lost since the previous tick.
    pub lost: Loss,
    /// True for the listing at start, which is not the end of an interval.
    pub listing: bool,
    /// Each open TCP connection in these slices was sampled for this tick. One without a
    /// sample has ended.
    pub complete: Slices,
}

/// A part of all connections: some of [`Slices::COUNT`] slices of about the same size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slices(u64);

impl Slices {
    /// The number of slices.
    pub const COUNT: u32 = u64::BITS;
    /// No connection.
    pub const NONE: Slices = Slices(0);
    /// Every connection.
    pub const ALL: Slices = Slices(u64::MAX);

    /// The slice with number `first`, modulo [`COUNT`](Slices::COUNT), and those after it,
    /// `count` in all.
    pub fn from(first: u32, count: u32) -> Slices {
        let low = 1u64.checked_shl(count).map_or(u64::MAX, |bit| bit - 1);
        Slices(low.rotate_left(first % Slices::COUNT))
    }

    /// The number of the slice that the connection is in, below [`COUNT`](Slices::COUNT).
    /// `in_slices()` in bpf/tracked.bpf.h computes the same.
    pub fn number(key: &ConnectionKey) -> usize {
        (key.born_ns.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize
    }

    /// Whether the connection is in one of them.
    pub fn contains(self, key: &ConnectionKey) -> bool {
        self.0 >> Slices::number(key) & 1 == 1
    }

    /// A bit for each slice, the first one in the lowest bit.
    pub fn bits(self) -> u64 {
        self.0
    }
}

/// Events cross the channel in batches, so that a busy host does not pay for
/// a synchronisation per connection.
pub type Batch = Vec<CollectorEvent>;

/// A source of connections.
pub trait NetworkCollector {
    /// Sends the open connections and a tick whose `listing` is set. Then sends the
    /// events of each interval, followed by a tick. Returns when it is asked to stop,
    /// when the last interval is over, or when the receiver is gone.
    ///
    /// # Errors
    /// Where the source cannot start (nothing was sent then) or fails for good. A lost
    /// record is not an error: it is counted in [`Tick::lost`].
    fn run(&mut self, batches: Sender<Batch>) -> anyhow::Result<()>;
}
