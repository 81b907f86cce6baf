//! The connection table: events in, the rows of an interval out.
//!
//! Owns every tracked connection and the arithmetic of rates. Pure: the time comes with
//! each tick, and nothing here knows where events come from or how rows are written. A
//! tick visits only the connections that changed in its interval or the interval
//! before, so an idle connection costs it nothing.

mod limit;

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use indexmap::IndexMap;
use indexmap::map::Entry;
use rustc_hash::FxBuildHasher;

use crate::connection::{CloseReason, Closed, ConnectionKey, Protocol, Sample};
use crate::event::{CollectorEvent, Slices, Tick};
use limit::Limit;
pub use limit::LimitedBy;

/// A tracked connection.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionRecord {
    /// The newest sample.
    pub sample: Sample,
    /// Bytes per second received in the last interval.
    pub rate_in: f64,
    /// Bytes per second sent in the last interval.
    pub rate_out: f64,
    /// True in the interval in which the connection first appeared.
    pub is_new: bool,
    /// When the connection began, in nanoseconds since 1970 (UTC); `None` where it is older
    /// than tcptop.
    pub started_ns: Option<i64>,
    bytes_in_before: u64,
    bytes_out_before: u64,
    /// Where the samples have what it takes.
    limit: Option<Box<Limit>>,
    /// True where a sample since the last tick differed from the sample before it.
    moved: bool,
    /// Number of the last tick that visited this record; 0 for none.
    visited: u32,
    /// Number of the last tick before the newest sample.
    sampled: u32,
    /// True where a tick that should have brought a sample brought none, and none has come
    /// since.
    missing: bool,
}

impl ConnectionRecord {
    fn new(sample: Sample, lifetime: bool, ticks: u32) -> ConnectionRecord {
        // The totals include what the connection moved before tcptop started. That is
        // not traffic of this interval, so rates start from the present totals.
        let has_past = sample.partial && !sample.lacks_past(lifetime);
        let (bytes_in_before, bytes_out_before) =
            if has_past { (sample.counters.bytes_in, sample.counters.bytes_out) } else { (0, 0) };
        ConnectionRecord {
            limit: Limit::new(&sample),
            sample,
            rate_in: 0.0,
            rate_out: 0.0,
            is_new: true,
            started_ns: None,
            bytes_in_before,
            bytes_out_before,
            moved: true,
            visited: 0,
            sampled: ticks,
            missing: false,
        }
    }

    /// Bytes per second of both directions in the last interval.
    pub fn rate(&self) -> f64 {
        self.rate_in + self.rate_out
    }

    /// What kept this end from sending more in the last interval; `None` where it is not
    /// known, and for UDP.
    pub fn limited_by(&self) -> Option<LimitedBy> {
        self.limit.as_ref().and_then(|limit| limit.by)
    }

    /// Takes the newest sample. Totals never decrease: a sample can be taken after the
    /// kernel has counted a FIN or a retransmission and before the count that corrects
    /// it has changed, so the next sample can be lower.
    fn absorb(&mut self, mut sample: Sample) {
        let before = &self.sample;
        self.moved |= sample.counters != before.counters
            || sample.state != before.state
            || sample.owner != before.owner;
        let now = &mut sample.counters;
        now.bytes_in = now.bytes_in.max(before.counters.bytes_in);
        now.bytes_out = now.bytes_out.max(before.counters.bytes_out);
        now.packets_in = forward(before.counters.packets_in, now.packets_in);
        now.packets_out = forward(before.counters.packets_out, now.packets_out);
        self.sample = sample;
    }

    /// Ends an interval of `elapsed_ns` (0 where its length is not known: rates are 0
    /// then). Returns true where the connection changed: it is new, had traffic, has a
    /// new state or owner, or its rate has just fallen to zero.
    fn tick(&mut self, elapsed_ns: u64) -> bool {
        let had_rate = self.rate() > 0.0;
        let per_second = |now: u64, before: u64| match elapsed_ns {
            0 => 0.0,
            _ => now.saturating_sub(before) as f64 * 1e9 / elapsed_ns as f64,
        };
        let now = self.sample.counters;
        self.rate_in = per_second(now.bytes_in, self.bytes_in_before);
        self.rate_out = per_second(now.bytes_out, self.bytes_out_before);
        self.bytes_in_before = now.bytes_in;
        self.bytes_out_before = now.bytes_out;
        self.is_new = self.visited == 0;
        let moved = std::mem::take(&mut self.moved);
        moved || (had_rate && self.rate() == 0.0)
    }
}

/// The total number of packets, where it was `before` and the sample says `now`. The
/// kernel counts segments modulo 2^32 (`tcp_sock.segs_in`), so the difference modulo
/// 2^32 is added. A difference of 2^31 or more is a step back and changes nothing.
fn forward(before: u64, now: u64) -> u64 {
    let distance = (now as u32).wrapping_sub(before as u32);
    if now >= before {
        now
    } else if distance < 1 << 31 {
        before + u64::from(distance)
    } else {
        before
    }
}

/// A connection that closed.
#[derive(Clone, Debug, PartialEq)]
pub struct ClosedRecord {
    /// Its final totals.
    pub closed: Closed,
    /// When the connection began, in nanoseconds since 1970 (UTC); `None` where it is older
    /// than tcptop.
    pub started_ns: Option<i64>,
    /// What kept this end from sending more in the interval in which it closed.
    pub limited_by: Option<LimitedBy>,
}

/// A moment, on both clocks.
#[derive(Clone, Copy, Debug, Default)]
struct Moment {
    /// CLOCK_MONOTONIC.
    now_ns: u64,
    /// Since 1970 (UTC); `None` beyond the year 2262.
    unix_ns: Option<i64>,
}

impl Moment {
    /// When a connection began. To be asked once, so that all rows say the same even where
    /// the clock is set meanwhile.
    fn started_ns(self, sample: &Sample) -> Option<i64> {
        let age = self.now_ns.saturating_sub(sample.key.born_ns);
        if sample.partial { None } else { self.unix_ns?.checked_sub_unsigned(age) }
    }
}

/// After so many other ends within an interval no sample of a connection that closed can be
/// waiting: the ring has room for far fewer records.
const BURIED: usize = 65_536;

/// The open connections, and those that closed in the last interval.
#[derive(Debug, Default)]
pub struct ConnectionTable {
    records: IndexMap<ConnectionKey, ConnectionRecord, FxBuildHasher>,
    lifetime: bool,
    /// Keys of the records that got a sample since the last tick; may have duplicates.
    sampled: Vec<ConnectionKey>,
    /// Keys of the records that the last tick found changed.
    changed: Vec<ConnectionKey>,
    /// Keys of the records that something other than their process limited in the last
    /// interval. Without a sample it is the process in the next one.
    limited: Vec<ConnectionKey>,
    /// Connections that closed since the last tick or part.
    closing: Vec<ClosedRecord>,
    /// Connections that closed in the interval, or the part of one, that was ended last.
    closed: Vec<ClosedRecord>,
    /// Keys of the connections that left without an end in the interval before the last tick.
    vanished: Vec<ConnectionKey>,
    /// Keys of the connections that closed since the last tick. The tracepoint runs
    /// before the kernel stores the new state, so the iterator on another processor can
    /// sample a socket whose close record is in the ring already. Such a sample must not
    /// bring the connection back.
    buried: HashSet<ConnectionKey, FxBuildHasher>,
    /// The same for the interval before the last tick.
    buried_before: HashSet<ConnectionKey, FxBuildHasher>,
    census: Census,
    /// True where the last tick lost ends of connections.
    lost_ends: bool,
    ticks: u32,
    last_tick_ns: u64,
    last_tick_time: DateTime<Utc>,
}

/// How many TCP connections each slice has, and how many of them got a sample since the
/// last tick. Where the two are equal, the records need not be looked through.
#[derive(Debug)]
struct Census {
    open: [u32; Slices::COUNT as usize],
    sampled: [u32; Slices::COUNT as usize],
}

impl Default for Census {
    fn default() -> Census {
        const NONE: [u32; Slices::COUNT as usize] = [0; Slices::COUNT as usize];
        Census { open: NONE, sampled: NONE }
    }
}

impl Census {
    fn misses_some(&self, slices: Slices) -> bool {
        let pairs = self.open.iter().zip(&self.sampled).enumerate();
        pairs
            .into_iter()
            .any(|(slice, (open, sampled))| slices.bits() >> slice & 1 == 1 && open != sampled)
    }
}

impl ConnectionTable {
    /// An empty table. With `lifetime`, the totals of a TCP sample count from the opening
    /// of the connection, even where it is older than tcptop.
    pub fn new(lifetime: bool) -> ConnectionTable {
        ConnectionTable { lifetime, ..ConnectionTable::default() }
    }

    /// Takes samples of connections that existed before the first tick.
    pub fn seed(&mut self, samples: impl IntoIterator<Item = Sample>) {
        for sample in samples {
            self.sample(sample);
        }
    }

    /// Takes one event.
    pub fn update(&mut self, event: CollectorEvent) {
        match event {
            CollectorEvent::Sample(sample) => self.sample(sample),
            CollectorEvent::Closed(closed) | CollectorEvent::Expired(closed) => self.close(closed),
            CollectorEvent::CgroupMade { .. } | CollectorEvent::Untracked { .. } => {}
            CollectorEvent::Tick(tick) => {
                self.vanished.clear();
                self.end_unsampled(&tick);
                self.tick(tick.now_ns, tick.time);
            }
        }
    }

    fn sample(&mut self, sample: Sample) {
        let key = sample.key;
        let is_tcp = sample.protocol == Protocol::Tcp;
        let slice = Slices::number(&key);
        let again = match self.records.entry(key) {
            Entry::Occupied(mut occupied) => {
                let record = occupied.get_mut();
                record.absorb(sample);
                record.missing = false;
                std::mem::replace(&mut record.sampled, self.ticks) == self.ticks
            }
            // What is buried has no record.
            Entry::Vacant(_) if self.buried.contains(&key) || self.buried_before.contains(&key) => {
                return;
            }
            Entry::Vacant(vacant) => {
                vacant.insert(ConnectionRecord::new(sample, self.lifetime, self.ticks));
                self.census.open[slice] += u32::from(is_tcp);
                false
            }
        };
        self.sampled.push(key);
        self.census.sampled[slice] += u32::from(is_tcp && !again);
    }

    fn close(&mut self, mut closed: Closed) {
        let key = closed.sample.key;
        if self.buried_before.contains(&key) || !self.buried.insert(key) {
            return;
        }
        let mut started_ns = None;
        let mut limit = Limit::new(&closed.sample);
        if let Some(mut record) = self.records.swap_remove(&key) {
            if record.sample.protocol == Protocol::Tcp {
                let slice = Slices::number(&key);
                self.census.open[slice] -= 1;
                self.census.sampled[slice] -= u32::from(record.sampled == self.ticks);
            }
            record.absorb(closed.sample);
            closed.sample = record.sample;
            started_ns = record.started_ns;
            limit = record.limit;
        }
        let limited_by = limit.and_then(|mut limit| {
            limit.end_interval(&closed.sample, self.last_tick_ns, closed.closed_ns);
            limit.by
        });
        self.closing.push(ClosedRecord { closed, started_ns, limited_by });
    }

    /// Ends an interval at `now_ns` (CLOCK_MONOTONIC), which was at `time`. Rates are over
    /// the time since the previous tick. At the first tick all rates are 0.
    pub fn tick(&mut self, now_ns: u64, time: DateTime<Utc>) {
        let elapsed_ns = match self.ticks {
            0 => 0,
            _ => now_ns.saturating_sub(self.last_tick_ns),
        };
        let now = Moment { now_ns, unix_ns: time.timestamp_nanos_opt() };
        let start_ns = now_ns.saturating_sub(elapsed_ns);
        (self.last_tick_ns, self.last_tick_time) = (now_ns, time);
        self.ticks = self.ticks.wrapping_add(1).max(1);
        self.census.sampled = Census::default().sampled;
        self.buried_before.clear();
        std::mem::swap(&mut self.buried_before, &mut self.buried);
        self.end_closing(now);

        // Visits the records with a sample, and those that the last tick found changed:
        // their rate may fall to zero now, and they are no longer new.
        let mut visit = std::mem::take(&mut self.sampled);
        visit.append(&mut self.changed);
        visit.append(&mut self.limited);
        visit.retain(|key| match self.records.get_mut(key) {
            Some(record) if record.visited != self.ticks => {
                let changed = record.tick(elapsed_ns);
                if record.visited == 0 {
                    record.started_ns = now.started_ns(&record.sample);
                }
                record.visited = self.ticks;
                if let Some(limit) = &mut record.limit {
                    limit.end_interval(&record.sample, start_ns, now_ns);
                    if limit.by.is_some_and(|by| by != LimitedBy::App) {
                        self.limited.push(*key);
                    }
                }
                changed
            }
            _ => false,
        });
        self.changed = visit;
        self.release();
    }

    /// What closed so far is what [`closed`](ConnectionTable::closed) returns from now on.
    fn end_closing(&mut self, now: Moment) {
        self.closed.clear();
        std::mem::swap(&mut self.closed, &mut self.closing);
        for ClosedRecord { closed, started_ns, .. } in &mut self.closed {
            *started_ns = started_ns.or_else(|| now.started_ns(&closed.sample));
        }
    }

    /// Ends a part of the interval once `room` connections have closed since the last tick or
    /// part, so that a long interval takes no more memory than a short one. Returns when the
    /// last of them closed, on both clocks, as far as the last tick knows them. The open ones
    /// are left to the tick.
    pub fn end_part(&mut self, room: usize) -> Option<(u64, DateTime<Utc>)> {
        // Before the first tick the time is not known.
        if self.closing.len() < room || self.ticks == 0 {
            return None;
        }
        let closed_ns = self.closing.last().map_or(0, |last| last.closed.closed_ns);
        let now_ns = closed_ns.max(self.last_tick_ns);
        let since = i64::try_from(now_ns - self.last_tick_ns).map(TimeDelta::nanoseconds);
        let time = self.last_tick_time.checked_add_signed(since.ok()?)?;
        if self.buried.len() >= BURIED {
            self.buried_before = std::mem::take(&mut self.buried);
        }
        self.end_closing(Moment { now_ns, unix_ns: time.timestamp_nanos_opt() });
        Some((now_ns, time))
    }

    /// Shrinks the table once its memory is far more than the present connections need.
    /// A burst of UDP flows, for example, is over in seconds.
    fn release(&mut self) {
        const KEEP: usize = 1024;
        let ample = |length: usize| KEEP.max(length.saturating_mul(2));
        let excessive = |capacity: usize, length: usize| capacity / 4 > ample(length);
        if excessive(self.records.capacity(), self.records.len()) {
            self.records.shrink_to(ample(self.records.len()));
        }
        if excessive(self.changed.capacity(), self.changed.len()) {
            self.changed.shrink_to(ample(self.changed.len()));
        }
        // Its records are large, and two such lists take turns.
        let some = self.closed.len().max(KEEP / 8);
        if self.closing.capacity() > some.saturating_mul(4) {
            self.closing.shrink_to(some.saturating_mul(2));
        }
        // The other one was the larger of the two in the interval before.
        if excessive(self.buried.capacity(), self.buried_before.len()) {
            self.buried.shrink_to(ample(self.buried_before.len()));
        }
        if excessive(self.limited.capacity(), self.limited.len()) {
            self.limited.shrink_to(ample(self.limited.len()));
        }
    }

    /// Ends the TCP connections without a sample since the last tick, in the slices of
    /// which every open connection was sampled.
    ///
    /// After a loss of ends these are the ones that were lost: they leave in silence, since
    /// each was counted. At other times tcptop has missed an end without noticing. Such a
    /// connection is ended, with its last totals, once it has been missing twice: its own
    /// record may only be late.
    fn end_unsampled(&mut self, tick: &Tick) {
        let after_loss = std::mem::replace(&mut self.lost_ends, tick.lost.hides_ends());
        if !self.census.misses_some(tick.complete) || (self.lost_ends && !after_loss) {
            return;
        }
        let ConnectionTable { records, closing, buried, census, ticks, vanished, .. } = self;
        records.retain(|key, record| {
            let is_there = record.sample.protocol != Protocol::Tcp
                || record.sampled == *ticks
                || !tick.complete.contains(key);
            if is_there || (!after_loss && !std::mem::replace(&mut record.missing, true)) {
                return true;
            }
            census.open[Slices::number(key)] -= 1;
            if record.missing {
                buried.insert(*key);
                let reason = CloseReason::Unknown;
                let closed =
                    Closed { sample: record.sample.clone(), reason, closed_ns: tick.now_ns };
                closing.push(ClosedRecord {
                    closed,
                    started_ns: record.started_ns,
                    limited_by: None,
                });
            } else {
                vanished.push(*key);
            }
            false
        });
    }

    /// The connections that left in that interval without an end, because its record was
    /// lost and counted.
    pub fn vanished(&self) -> &[ConnectionKey] {
        &self.vanished
    }

    /// Every open connection, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = &ConnectionRecord> {
        self.records.values()
    }

    /// The connections that changed in the interval that the last tick ended: new ones,
    /// those with traffic, a new state or owner, and those whose rate has just fallen to
    /// zero.
    pub fn changed(&self) -> impl Iterator<Item = &ConnectionRecord> {
        self.changed.iter().filter_map(|key| self.records.get(key))
    }

    /// What closed in that interval since its last part, or in the part that was ended last, in
    /// the order in which tcptop learned of it.
    pub fn closed(&self) -> &[ClosedRecord] {
        &self.closed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{CloseReason, Counters, Details, TcpState};
    use crate::loss::{Loss, LossCause};

    const SECOND: u64 = 1_000_000_000;

    fn sample(object: u64, bytes_in: u64, bytes_out: u64) -> Sample {
        let key = ConnectionKey { object, born_ns: 1 };
        let (local, remote) = (([10, 0, 0, 1], 443).into(), ([10, 0, 0, 2], 40000).into());
        Sample {
            state: Some(TcpState::Established),
            counters: Counters {
                bytes_in,
                bytes_out,
                packets_in: bytes_in.div_ceil(1000),
                packets_out: bytes_out.div_ceil(1000),
            },
            ..Sample::new(key, Protocol::Tcp, local, remote)
        }
    }

    fn closed(sample: Sample) -> Closed {
        Closed { sample, reason: CloseReason::Fin, closed_ns: 5 * SECOND }
    }

    fn end(table: &mut ConnectionTable, now_ns: u64) {
        table.tick(now_ns, DateTime::UNIX_EPOCH);
    }

    fn changed(table: &ConnectionTable) -> Vec<u64> {
        let mut keys: Vec<u64> = table.changed().map(|r| r.sample.key.object).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn rates_are_over_the_measured_interval() {
        let mut table = ConnectionTable::new(false);
        end(&mut table, SECOND);
        table.seed([sample(1, 3000, 500)]);
        end(&mut table, 3 * SECOND + SECOND / 2);
        let record = table.changed().next().cloned();
        let record = record.expect("new");
        assert_eq!((record.rate_in, record.rate_out), (1200.0, 200.0));
        assert!(record.is_new);
    }

    /// A connection without a sample in an interval had nothing to send in it.
    #[test]
    fn what_limited_a_connection_is_said_of_each_interval() {
        let second = |busy_us: u64| {
            let details = Details {
                busy_us: Some(busy_us),
                rwnd_limited_us: Some(busy_us),
                sndbuf_limited_us: Some(0),
                ..Details::default()
            };
            Sample { details: Some(Box::new(details)), ..sample(1, 0, 0) }
        };
        let mut table = ConnectionTable::new(false);
        let limited_by = |table: &ConnectionTable| table.all().next().and_then(|r| r.limited_by());
        end(&mut table, SECOND);
        table.update(CollectorEvent::Sample(second(900_000)));
        end(&mut table, 2 * SECOND);
        assert_eq!(limited_by(&table), Some(LimitedBy::Rwnd));
        for tick in 3..6 {
            end(&mut table, tick * SECOND);
            assert_eq!(limited_by(&table), Some(LimitedBy::App), "{tick}");
        }
        let mut last = closed(second(1_700_000));
        last.closed_ns = 6 * SECOND;
        table.update(CollectorEvent::Closed(last));
        end(&mut table, 7 * SECOND);
        assert_eq!(table.closed()[0].limited_by, Some(LimitedBy::Rwnd));
    }

    #[test]
    fn a_row_comes_once_more_when_its_rate_falls_to_zero() {
        let mut table = ConnectionTable::new(false);
        end(&mut table, 0);
        table.update(CollectorEvent::Sample(sample(1, 0, 0)));
        end(&mut table, SECOND);
        assert_eq!(changed(&table), [1], "new");
        end(&mut table, 2 * SECOND);
        assert_eq!(changed(&table), [] as [u64; 0], "idle since it began");
        table.update(CollectorEvent::Sample(sample(1, 10, 0)));
        end(&mut table, 3 * SECOND);
        assert_eq!(changed(&table), [1], "traffic");
        end(&mut table, 4 * SECOND);
        assert_eq!(changed(&table), [1], "rate back to zero");
        assert_eq!(table.changed().next().map(|r| (r.rate(), r.is_new)), Some((0.0, false)));
        end(&mut table, 5 * SECOND);
        assert_eq!(changed(&table), [] as [u64; 0]);
        assert_eq!(table.all().count(), 1);
    }

    #[test]
    fn a_new_state_is_news() {
        let mut table = ConnectionTable::new(false);
        table.seed([sample(1, 0, 0)]);
        end(&mut table, 0);
        end(&mut table, SECOND);
        let mut closing = sample(1, 0, 0);
        closing.state = Some(TcpState::FinWait1);
        table.update(CollectorEvent::Sample(closing));
        end(&mut table, 2 * SECOND);
        assert_eq!(changed(&table), [1]);
    }

    #[test]
    fn a_connection_within_one_interval_has_its_exact_totals() {
        let mut table = ConnectionTable::new(false);
        end(&mut table, 0);
        table.update(CollectorEvent::Closed(closed(sample(1, 77, 88))));
        end(&mut table, SECOND);
        assert_eq!(table.closed().len(), 1);
        assert_eq!(table.closed()[0].closed.sample.counters.bytes_in, 77);
        assert_eq!(table.all().count(), 0);
        end(&mut table, 2 * SECOND);
        assert!(table.closed().is_empty(), "reported once");
    }

    #[test]
    fn a_sample_that_raced_with_the_close_raises_nothing() {
        let mut table = ConnectionTable::new(false);
        table.seed([sample(1, 10, 0)]);
        end(&mut table, 0);
        table.update(CollectorEvent::Closed(closed(sample(1, 20, 0))));
        table.update(CollectorEvent::Sample(sample(1, 20, 0)));
        end(&mut table, SECOND);
        table.update(CollectorEvent::Sample(sample(1, 20, 0)));
        table.update(CollectorEvent::Closed(closed(sample(1, 20, 0))));
        end(&mut table, 2 * SECOND);
        assert_eq!(table.all().count(), 0);
        assert!(table.closed().is_empty(), "closed once only");
    }

    #[test]
    fn a_reused_socket_is_another_connection() {
        let mut table = ConnectionTable::new(false);
        end(&mut table, 0);
        table.update(CollectorEvent::Closed(closed(sample(1, 5, 5))));
        let mut again = sample(1, 7, 7);
        again.key.born_ns = 2;
        table.update(CollectorEvent::Sample(again));
        end(&mut table, SECOND);
        assert_eq!(table.all().count(), 1);
        assert_eq!(table.closed()[0].closed.sample.counters.bytes_in, 5);
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let mut table = ConnectionTable::new(false);
        table.seed((1..=100_000).map(|object| sample(object, 1, 1)));
        end(&mut table, 0);
        assert!(table.records.capacity() >= 100_000);
        for object in 11..=100_000 {
            table.update(CollectorEvent::Expired(closed(sample(object, 1, 1))));
        }
        end(&mut table, SECOND);
        assert!(table.records.capacity() < 10_000, "{}", table.records.capacity());
        assert!(table.changed.capacity() < 10_000, "{}", table.changed.capacity());
        end(&mut table, 2 * SECOND);
        let lists = table.closed.capacity() + table.closing.capacity();
        assert!(lists < 1000, "{lists}");
        assert_eq!(table.all().count(), 10);
    }

    #[test]
    fn totals_never_step_back() {
        let mut table = ConnectionTable::new(false);
        table.seed([sample(1, 101, 10)]);
        end(&mut table, 0);
        table.update(CollectorEvent::Sample(sample(1, 100, 9)));
        end(&mut table, SECOND);
        let record = table.all().next().cloned().expect("open");
        assert_eq!((record.sample.counters.bytes_in, record.rate_in), (101, 0.0));
    }

    #[test]
    fn lifetime_totals_are_no_traffic_of_the_first_interval() {
        let mut table = ConnectionTable::new(true);
        end(&mut table, 0);
        let mut old = sample(1, 1_000_000, 0);
        old.partial = true;
        table.update(CollectorEvent::Sample(old.clone()));
        end(&mut table, SECOND);
        assert_eq!(table.all().next().map(|r| r.rate_in), Some(0.0));
        old.counters.bytes_in += 500;
        table.update(CollectorEvent::Sample(old));
        end(&mut table, 2 * SECOND);
        assert_eq!(table.all().next().map(|r| r.rate_in), Some(500.0));
    }

    /// Nobody has counted what the flow moved before tcptop started, so its whole total
    /// belongs to this interval.
    #[test]
    fn a_flow_has_no_past_also_with_lifetime_totals() {
        let mut table = ConnectionTable::new(true);
        end(&mut table, 0);
        let mut flow = sample(1, 500, 0);
        (flow.protocol, flow.state, flow.partial) = (Protocol::Udp, None, true);
        assert!(flow.lacks_past(true));
        table.update(CollectorEvent::Sample(flow));
        end(&mut table, SECOND);
        assert_eq!(table.all().next().map(|r| r.rate_in), Some(500.0));
    }

    fn complete(table: &mut ConnectionTable, complete: Slices, lost: u64) {
        let mut tick = Tick {
            now_ns: 7 * SECOND,
            time: chrono::DateTime::UNIX_EPOCH,
            lost: Loss::default(),
            listing: false,
            complete,
        };
        tick.lost[LossCause::RingFull] = lost;
        table.update(CollectorEvent::Tick(tick));
    }

    fn open(table: &ConnectionTable) -> Vec<u64> {
        let mut open: Vec<u64> = table.all().map(|r| r.sample.key.object).collect();
        open.sort_unstable();
        open
    }

    #[test]
    fn a_connection_whose_end_was_lost_leaves_in_silence() {
        let mut table = ConnectionTable::new(false);
        table.seed([sample(1, 1, 1), sample(2, 1, 1)]);
        end(&mut table, 0);
        // What was lost in the same interval is not known yet.
        complete(&mut table, Slices::ALL, 1);
        assert_eq!(open(&table), [1, 2]);
        table.update(CollectorEvent::Sample(sample(2, 1, 1)));
        complete(&mut table, Slices::ALL, 0);
        assert_eq!((open(&table), table.closed().len()), (vec![2], 0));
    }

    #[test]
    fn a_connection_that_is_missing_twice_has_ended() {
        let mut table = ConnectionTable::new(false);
        let mut flow = sample(3, 1, 1);
        flow.protocol = Protocol::Udp;
        table.seed([sample(1, 30, 40), sample(2, 1, 1), flow]);
        end(&mut table, 0);
        for expected in [vec![1, 2, 3], vec![2, 3]] {
            // Sampled twice, as a change between two passes does.
            table.update(CollectorEvent::Sample(sample(2, 1, 1)));
            table.update(CollectorEvent::Sample(sample(2, 1, 1)));
            complete(&mut table, Slices::ALL, 0);
            assert_eq!(open(&table), expected);
        }
        let [ClosedRecord { closed, .. }] = table.closed() else { panic!("{:?}", table.closed()) };
        assert_eq!((closed.sample.key.object, closed.reason), (1, CloseReason::Unknown));
        assert_eq!((closed.sample.counters.bytes_in, closed.closed_ns), (30, 7 * SECOND));
        // Its own record comes too late.
        table.update(CollectorEvent::Closed(super::tests::closed(sample(1, 30, 40))));
        end(&mut table, 8 * SECOND);
        assert_eq!(table.closed().len(), 0);
    }

    #[test]
    fn a_late_record_is_waited_for() {
        let mut table = ConnectionTable::new(false);
        table.seed([sample(1, 30, 40), sample(2, 1, 1)]);
        end(&mut table, 0);
        complete(&mut table, Slices::ALL, 0);
        table.update(CollectorEvent::Closed(closed(sample(1, 31, 40))));
        table.update(CollectorEvent::Sample(sample(2, 1, 1)));
        complete(&mut table, Slices::ALL, 0);
        assert_eq!(open(&table), [2]);
        assert_eq!(table.closed()[0].closed.reason, CloseReason::Fin);
        // Missing once, then sampled, then missing again: that is not twice.
        complete(&mut table, Slices::ALL, 0);
        assert_eq!(open(&table), [2]);
    }

    #[test]
    fn only_the_slices_of_the_tick_are_judged() {
        let mut table = ConnectionTable::new(false);
        let samples: Vec<Sample> = (0..1000)
            .map(|object| {
                let key = ConnectionKey { object, born_ns: 1_000_000 + 997 * object };
                Sample { key, ..sample(object, 1, 1) }
            })
            .collect();
        table.seed(samples.clone());
        end(&mut table, 0);
        for first in 0..2 * Slices::COUNT {
            let before = table.all().count();
            complete(&mut table, Slices::from(first, 1), 0);
            let ended = before - table.all().count();
            let number = (first % Slices::COUNT) as usize;
            let of_it = samples.iter().filter(|s| Slices::number(&s.key) == number).count();
            assert!((5..30).contains(&of_it), "{of_it} of slice {number}");
            assert_eq!(ended, if first < Slices::COUNT { 0 } else { of_it });
        }
        assert_eq!(table.all().count(), 0);
    }

    #[test]
    fn the_beginning_is_told_once() {
        let time = |second: i64| DateTime::from_timestamp(second, 0).expect("a time");
        let mut table = ConnectionTable::new(false);
        table.tick(100 * SECOND, time(1000));
        let young =
            Sample { key: ConnectionKey { object: 1, born_ns: 97 * SECOND }, ..sample(1, 1, 1) };
        table.update(CollectorEvent::Sample(young.clone()));
        table.update(CollectorEvent::Sample(Sample { partial: true, ..sample(2, 1, 1) }));
        table.tick(101 * SECOND, time(1001));
        let started: Vec<_> = table.all().map(|record| record.started_ns).collect();
        assert_eq!(started, [Some(997 * SECOND as i64), None]);
        // The clock was set an hour forward.
        table.update(CollectorEvent::Closed(closed(young)));
        let short =
            Sample { key: ConnectionKey { object: 3, born_ns: 101 * SECOND }, ..sample(3, 1, 1) };
        table.update(CollectorEvent::Closed(closed(short)));
        table.tick(102 * SECOND, time(4602));
        let started: Vec<_> = table.closed().iter().map(|record| record.started_ns).collect();
        assert_eq!(started, [997, 4601].map(|second| Some(second * SECOND as i64)));
    }

    #[test]
    fn segments_are_counted_beyond_two_to_the_32nd() {
        let mut table = ConnectionTable::new(false);
        let mut busy = sample(1, 1, 1);
        for step in 1..=6u64 {
            busy.counters.packets_in = step * 1_000_000_000 % (1 << 32);
            table.update(CollectorEvent::Sample(busy.clone()));
        }
        busy.counters.packets_in = 6_000_000_007 % (1 << 32);
        table.update(CollectorEvent::Closed(closed(busy)));
        end(&mut table, SECOND);
        assert_eq!(table.closed()[0].closed.sample.counters.packets_in, 6_000_000_007);
    }

    #[test]
    fn an_expired_flow_leaves_with_its_totals() {
        let mut table = ConnectionTable::new(false);
        table.seed([sample(1, 1, 1)]);
        end(&mut table, 0);
        table.update(CollectorEvent::Expired(closed(sample(1, 70, 1))));
        end(&mut table, SECOND);
        assert_eq!((table.all().count(), table.closed().len()), (0, 1));
        assert_eq!(table.closed()[0].closed.sample.counters.bytes_in, 70);
        assert_eq!(changed(&table), [] as [u64; 0]);
    }
}
