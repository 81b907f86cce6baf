//! What kept a sender from sending more.
//!
//! Owns the comparison of the kernel's chronographs over an interval. Pure.

use crate::connection::{Details, Sample};

/// By how much the chronographs may have run longer than the interval: two jiffies at the
/// lowest HZ.
const TOLERANCE_US: u64 = 20_000;

/// A jiffy at the lowest HZ. In a shorter interval the chronographs may not have moved,
/// whatever limited the connection.
const JIFFY_US: u64 = 10_000;

/// What kept this end of a TCP connection from sending more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitedBy {
    /// The process had nothing to send.
    App,
    /// The network: the congestion window, or the wait for acknowledgements.
    Cwnd,
    /// The receive window of the peer.
    Rwnd,
    /// The send buffer.
    Sndbuf,
}

impl LimitedBy {
    /// The name as the outputs write it.
    pub fn name(self) -> &'static str {
        match self {
            LimitedBy::App => "app",
            LimitedBy::Cwnd => "cwnd",
            LimitedBy::Rwnd => "rwnd",
            LimitedBy::Sndbuf => "sndbuf",
        }
    }
}

/// The kernel's chronographs of a socket, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Chronographs {
    busy_us: u64,
    rwnd_us: u64,
    sndbuf_us: u64,
}

impl Chronographs {
    fn of(details: &Details) -> Option<Chronographs> {
        Some(Chronographs {
            busy_us: details.busy_us?,
            rwnd_us: details.rwnd_limited_us?,
            sndbuf_us: details.sndbuf_limited_us?,
        })
    }

    /// The longest share of an interval of `elapsed_us`, in which the chronographs came
    /// from `before` to these. Of equal shares the first one in this order: the process,
    /// the network, the reader, the send buffer. The kernel counts in jiffies, so a
    /// difference can be a little longer than the interval.
    fn longest(&self, before: &Chronographs, elapsed_us: u64) -> LimitedBy {
        let busy = self.busy_us.saturating_sub(before.busy_us);
        let rwnd = self.rwnd_us.saturating_sub(before.rwnd_us);
        let sndbuf = self.sndbuf_us.saturating_sub(before.sndbuf_us);
        let shares = [
            (elapsed_us.saturating_sub(busy), LimitedBy::App),
            (busy.saturating_sub(rwnd).saturating_sub(sndbuf), LimitedBy::Cwnd),
            (rwnd, LimitedBy::Rwnd),
            (sndbuf, LimitedBy::Sndbuf),
        ];
        shares
            .into_iter()
            .reduce(|longest, share| if share.0 > longest.0 { share } else { longest })
            .map_or(LimitedBy::App, |(_, by)| by)
    }
}

/// What limits a connection, interval by interval.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limit {
    before: Chronographs,
    /// In the last interval; `None` where it is not known.
    pub(super) by: Option<LimitedBy>,
}

impl Limit {
    /// From a connection's first sample; `None` where it has no chronographs.
    pub(super) fn new(sample: &Sample) -> Option<Box<Limit>> {
        let now = Chronographs::of(sample.details.as_deref()?)?;
        let before = if sample.partial { now } else { Chronographs::default() };
        Some(Box::new(Limit { before, by: None }))
    }

    /// Ends the interval from `start_ns` to `end_ns` (CLOCK_MONOTONIC). One that is too short
    /// to tell, such as the last one of a connection, changes nothing.
    pub(super) fn end_interval(&mut self, sample: &Sample, start_ns: u64, end_ns: u64) {
        let Some(now) = sample.details.as_deref().and_then(Chronographs::of) else { return };
        let start_ns = if sample.partial { start_ns } else { start_ns.max(sample.key.born_ns) };
        let elapsed_us = end_ns.saturating_sub(start_ns) / 1000;
        if elapsed_us < JIFFY_US && self.by.is_some() {
            self.before = now;
            return;
        }
        // A socket that is used for another connection keeps its chronographs.
        let stale = now.busy_us.saturating_sub(self.before.busy_us) > elapsed_us + TOLERANCE_US;
        self.by = (elapsed_us > 0 && !stale).then(|| now.longest(&self.before, elapsed_us));
        self.before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{ConnectionKey, Protocol};

    const MS: u64 = 1_000_000;

    fn sample(partial: bool, busy_ms: u64, rwnd_ms: u64, sndbuf_ms: u64) -> Sample {
        let key = ConnectionKey { object: 1, born_ns: 1000 * MS };
        let (local, remote) = (([10, 0, 0, 1], 443).into(), ([10, 0, 0, 2], 40000).into());
        let details = Details {
            busy_us: Some(busy_ms * 1000),
            rwnd_limited_us: Some(rwnd_ms * 1000),
            sndbuf_limited_us: Some(sndbuf_ms * 1000),
            ..Details::default()
        };
        let details = Some(Box::new(details));
        Sample { partial, details, ..Sample::new(key, Protocol::Tcp, local, remote) }
    }

    #[test]
    fn too_short_an_interval_changes_nothing() {
        let mut limit = Limit::new(&sample(false, 0, 0, 0)).expect("chronographs");
        limit.end_interval(&sample(false, 900, 900, 0), 1000 * MS, 2000 * MS);
        assert_eq!(limit.by, Some(LimitedBy::Rwnd));
        limit.end_interval(&sample(false, 900, 900, 0), 2000 * MS, 2003 * MS);
        assert_eq!(limit.by, Some(LimitedBy::Rwnd));
        limit.end_interval(&sample(false, 900, 900, 0), 2003 * MS, 2050 * MS);
        assert_eq!(limit.by, Some(LimitedBy::App));
    }

    #[test]
    fn the_longest_share_wins() {
        for (busy, rwnd, sndbuf, by) in [
            (0, 0, 0, LimitedBy::App),
            (499, 0, 0, LimitedBy::App),
            (500, 0, 0, LimitedBy::App),
            (501, 0, 0, LimitedBy::Cwnd),
            (1004, 0, 0, LimitedBy::Cwnd),
            (1000, 501, 0, LimitedBy::Rwnd),
            (1000, 499, 0, LimitedBy::Cwnd),
            (1000, 400, 401, LimitedBy::Sndbuf),
            (700, 400, 0, LimitedBy::Rwnd),
        ] {
            let before = Chronographs { busy_us: 7, rwnd_us: 7, sndbuf_us: 7 };
            let now = Chronographs {
                busy_us: 7 + busy * 1000,
                rwnd_us: 7 + rwnd * 1000,
                sndbuf_us: 7 + sndbuf * 1000,
            };
            assert_eq!(now.longest(&before, 1_000_000), by, "{busy} {rwnd} {sndbuf}");
        }
    }

    #[test]
    fn each_interval_counts_what_moved_in_it() {
        let first = sample(false, 90, 80, 0);
        let mut limit = Limit::new(&first).expect("chronographs");
        assert_eq!(limit.by, None);
        // It is 100 ms old.
        limit.end_interval(&first, 100 * MS, 1100 * MS);
        assert_eq!(limit.by, Some(LimitedBy::Rwnd));
        limit.end_interval(&sample(false, 1090, 80, 0), 1100 * MS, 2100 * MS);
        assert_eq!(limit.by, Some(LimitedBy::Cwnd));
        limit.end_interval(&sample(false, 1090, 80, 0), 2100 * MS, 3100 * MS);
        assert_eq!(limit.by, Some(LimitedBy::App), "no sample came: nothing moved");
    }

    #[test]
    fn what_was_before_tcptop_or_another_connection_does_not_count() {
        let old = sample(true, 50_000, 50_000, 0);
        let mut limit = Limit::new(&old).expect("chronographs");
        limit.end_interval(&old, 0, 0);
        assert_eq!(limit.by, None, "the listing is no interval");
        limit.end_interval(&sample(true, 50_900, 50_000, 0), 2000 * MS, 3000 * MS);
        assert_eq!(limit.by, Some(LimitedBy::Cwnd));

        let again = sample(false, 50_000, 50_000, 0);
        let mut limit = Limit::new(&again).expect("chronographs");
        limit.end_interval(&again, 900 * MS, 1900 * MS);
        assert_eq!(limit.by, None);
        limit.end_interval(&again, 1900 * MS, 2900 * MS);
        assert_eq!(limit.by, Some(LimitedBy::App));
    }

    #[test]
    fn udp_has_none() {
        let mut flow = sample(false, 0, 0, 0);
        flow.details = Some(Box::new(Details { drops: Some(1), ..Details::default() }));
        assert_eq!(Limit::new(&flow), None);
    }
}
