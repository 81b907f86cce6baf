//! Groups of connections (`--by`): totals per process, container, peer and the like.
//!
//! Owns the totals of each group, and for each open connection what of it is already in
//! them. Pure: the caller says which values a connection has under the keys. An interval
//! costs as much as the connections that changed in it.
//!
//! The number of groups is bounded. A group that finds no room, and the one that was idle
//! longest where room is needed, goes into the group [`OTHER`], so that the sum over all
//! groups always is the sum over all connections.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

use crate::connection::{CloseReason, ConnectionKey, Counters, Sample};
use crate::table::ClosedRecord;

/// The group of everything that has no group of its own, as it is shown.
pub const OTHER: &str = "(other)";

/// What a connection has under one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyValue {
    /// It is not known, or the connection has none.
    None,
    /// A text.
    Text(Box<str>),
    /// A number.
    Number(u64),
}

/// What a connection has under each key of `--by`.
pub type GroupKey = Box<[KeyValue]>;

/// Totals since tcptop began. They only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Connections that began.
    pub opened: u64,
    /// Connections that ended, UDP flows that were forgotten included.
    pub closed: u64,
    /// Those of them that ended in one of the ways of [`CloseReason::is_failure`].
    pub failed: u64,
    /// Bytes and packets.
    pub counters: Counters,
    /// Retransmitted segments.
    pub retransmits: u64,
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, more: Totals) {
        self.opened += more.opened;
        self.closed += more.closed;
        self.failed += more.failed;
        self.retransmits += more.retransmits;
        add(&mut self.counters, &more.counters);
    }
}

/// One group, as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    /// `None` for [`OTHER`].
    pub key: Option<GroupKey>,
    /// Connections that are open now.
    pub connections: u64,
    /// Totals since tcptop began.
    pub totals: Totals,
    /// Bytes per second received in the last interval.
    pub rate_in: f64,
    /// Bytes per second sent in the last interval.
    pub rate_out: f64,
    /// Median of the smoothed round-trip times of the connections that moved something in
    /// the last interval, in microseconds.
    pub rtt_us: Option<u32>,
    /// True where something of it changed in the last interval, or its rate has just
    /// fallen to zero.
    pub changed: bool,
    /// Bytes that are not traffic of the present interval.
    bytes_before: [u64; 2],
    /// Number of the last interval in which a connection of it changed.
    touched: u64,
    /// How often its slot was given to another group.
    generation: u32,
}

impl Group {
    /// Bytes per second of both directions in the last interval.
    pub fn rate(&self) -> f64 {
        self.rate_in + self.rate_out
    }

    /// Takes everything of another group, which ends.
    fn swallow(&mut self, group: &Group) {
        self.connections += group.connections;
        self.totals += group.totals;
        self.rate_in += group.rate_in;
        self.rate_out += group.rate_out;
        for (mine, other) in self.bytes_before.iter_mut().zip(group.bytes_before) {
            *mine += other;
        }
        self.changed |= group.changed;
    }

    /// The sum of groups, as [`OTHER`]. A median cannot be had from medians: it has none.
    pub fn sum<'g>(groups: impl IntoIterator<Item = &'g Group>) -> Group {
        let mut sum = Group::default();
        groups.into_iter().for_each(|group| sum.swallow(group));
        sum
    }

    fn end_interval(&mut self, elapsed_ns: u64, interval: u64) {
        let had_rate = self.rate() > 0.0;
        let now = [self.totals.counters.bytes_in, self.totals.counters.bytes_out];
        let before = std::mem::replace(&mut self.bytes_before, now);
        let rate = |direction: usize| match elapsed_ns {
            0 => 0.0,
            _ => now[direction].saturating_sub(before[direction]) as f64 * 1e9 / elapsed_ns as f64,
        };
        (self.rate_in, self.rate_out) = (rate(0), rate(1));
        self.changed = self.touched == interval || (had_rate && self.rate() == 0.0);
    }
}

/// A group of a member: its slot, and the generation of the slot. Where the slot has
/// another generation by now, the group went into [`OTHER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    slot: u32,
    generation: u32,
}

/// What of an open connection is in the totals.
#[derive(Clone, Copy, Debug)]
struct Member {
    place: Place,
    /// False while the filter does not let the connection pass: then it is not among the
    /// open ones of its group.
    shown: bool,
    /// Whether a group has counted its beginning. Once, although the filter may let it pass
    /// later than it begins, or again.
    opened: bool,
    counters: Counters,
    retransmits: u32,
}

/// All groups.
#[derive(Debug)]
pub struct Groups {
    /// The first slot is [`OTHER`].
    slots: Vec<Group>,
    by_key: IndexMap<GroupKey, u32, FxBuildHasher>,
    /// One entry for each group but [`OTHER`]: when it was touched, as far as that is known
    /// here, and its slot. The group that was idle longest is found with it.
    idle: BinaryHeap<Reverse<(u64, u32)>>,
    members: IndexMap<ConnectionKey, Member, FxBuildHasher>,
    room: usize,
    lifetime: bool,
    /// Slot and round-trip time of what moved in this interval.
    rtts: Vec<(u32, u32)>,
    interval: u64,
    last_ns: Option<u64>,
}

const OTHER_PLACE: Place = Place { slot: 0, generation: 0 };

impl Groups {
    /// Room for that many groups besides [`OTHER`]. With `lifetime` the totals of a TCP
    /// connection that is older than tcptop have its past.
    pub fn new(room: usize, lifetime: bool) -> Groups {
        Groups {
            slots: vec![Group::default()],
            by_key: IndexMap::default(),
            idle: BinaryHeap::new(),
            members: IndexMap::default(),
            room,
            lifetime,
            rtts: Vec::new(),
            interval: 1,
            last_ns: None,
        }
    }

    /// Takes the newest sample of an open connection that the filter lets pass.
    pub fn open(&mut self, sample: &Sample, key: &[KeyValue]) {
        let place = self.place(key);
        let known = self.members.get(&sample.key).copied();
        let before = known.map_or(Counters::default(), |member| member.counters);
        let again = known.map_or(0, |member| member.retransmits);
        let moved = more(&sample.counters, &before);
        if known.is_some_and(|member| member.place != place) {
            self.leave(&sample.key);
        }
        let arrives = known.is_none_or(|member| !member.shown || member.place != place);
        let past = known.is_none() && sample.partial && !sample.lacks_past(self.lifetime);
        let begins = !sample.partial && !known.is_some_and(|member| member.opened);
        let group = self.at(place);
        group.connections += u64::from(arrives);
        group.totals.opened += u64::from(begins);
        add(&mut group.totals.counters, &moved);
        group.totals.retransmits += u64::from(sample.retransmits.saturating_sub(again));
        if past {
            group.bytes_before[0] += moved.bytes_in;
            group.bytes_before[1] += moved.bytes_out;
        }
        if let Some(rtt) = sample.rtt_us.filter(|_| moved != Counters::default() && !past) {
            self.rtts.push((place.slot, rtt));
        }
        let member = Member {
            place,
            shown: true,
            opened: true,
            counters: sample.counters,
            retransmits: sample.retransmits.max(again),
        };
        self.members.insert(sample.key, member);
    }
    /// Takes the end of a connection that the filter lets pass.
    pub fn close(&mut self, record: &ClosedRecord, key: &[KeyValue]) {
        let closed = &record.closed;
        self.open(&closed.sample, key);
        if let Some(group) = self.leave(&closed.sample.key) {
            group.totals.closed += 1;
            group.totals.failed += u64::from(closed.reason.is_failure());
        }
        self.members.swap_remove(&closed.sample.key);
    }

    /// Takes the newest sample of an open connection that the filter does not let pass. It
    /// is not open for its group, and what it moves meanwhile belongs to none.
    pub fn hide(&mut self, sample: &Sample) {
        let opened = self.members.get(&sample.key).is_some_and(|member| member.opened);
        self.leave(&sample.key);
        let member = Member {
            place: OTHER_PLACE,
            shown: false,
            opened,
            counters: sample.counters,
            retransmits: sample.retransmits,
        };
        self.members.insert(sample.key, member);
    }

    /// A connection ended, and nobody knows how, or the filter does not let its end pass.
    /// What it has moved stays.
    pub fn forget(&mut self, key: &ConnectionKey) {
        if let Some(group) = self.leave(key) {
            group.totals.closed += 1;
        }
        self.members.swap_remove(key);
    }

    /// The connection is not open for its group any more. Returns the group that it left;
    /// `None` where it was in none.
    fn leave(&mut self, key: &ConnectionKey) -> Option<&mut Group> {
        let member = self.members.get(key).copied().filter(|member| member.shown)?;
        let group = self.at(member.place);
        group.connections = group.connections.saturating_sub(1);
        Some(group)
    }

    /// Ends the interval at `now_ns` (CLOCK_MONOTONIC).
    pub fn end_interval(&mut self, now_ns: u64) {
        let elapsed = self.last_ns.map_or(0, |last| now_ns.saturating_sub(last));
        self.last_ns = Some(now_ns);
        for group in &mut self.slots {
            group.end_interval(elapsed, self.interval);
            group.rtt_us = None;
        }
        self.rtts.sort_unstable();
        for of_one in self.rtts.chunk_by(|a, b| a.0 == b.0) {
            let middle = of_one.len() / 2;
            let high = of_one[middle].1;
            let low = if of_one.len() % 2 == 1 { high } else { of_one[middle - 1].1 };
            self.slots[of_one[0].0 as usize].rtt_us = Some(low.midpoint(high));
        }
        self.rtts.clear();
        self.interval += 1;
    }

    /// All groups, [`OTHER`] only where something is in it.
    pub fn all(&self) -> impl Iterator<Item = &Group> + Clone {
        let (other, groups) = self.slots.split_at(1);
        let used = |group: &&Group| group.totals != Totals::default() || group.connections > 0;
        groups.iter().filter(|group| group.key.is_some()).chain(other.iter().filter(used))
    }

    fn at(&mut self, place: Place) -> &mut Group {
        let slot = place.slot as usize;
        let same = self.slots.get(slot).is_some_and(|group| group.generation == place.generation);
        let group = &mut self.slots[if same { slot } else { 0 }];
        group.touched = self.interval;
        group
    }

    /// The place of the group with this key, which is made where there is none yet.
    fn place(&mut self, key: &[KeyValue]) -> Place {
        // A process can call itself that. Two groups of one name would be told as one.
        let is_other = |value: &KeyValue| matches!(value, KeyValue::Text(text) if **text == *OTHER);
        if key.iter().all(is_other) {
            return OTHER_PLACE;
        }
        let slot = match self.by_key.get(key) {
            Some(&slot) => slot,
            None => match self.free_slot() {
                Some(slot) => {
                    self.by_key.insert(key.into(), slot);
                    self.idle.push(Reverse((self.interval, slot)));
                    let group = &mut self.slots[slot as usize];
                    let generation = group.generation.wrapping_add(1);
                    *group = Group { key: Some(key.into()), generation, ..Group::default() };
                    slot
                }
                None => return OTHER_PLACE,
            },
        };
        let group = &mut self.slots[slot as usize];
        group.touched = self.interval;
        Place { slot, generation: group.generation }
    }

    /// A slot for a new group; `None` where every group has changed in this interval.
    fn free_slot(&mut self) -> Option<u32> {
        if self.by_key.len() < self.room {
            let slot = u32::try_from(self.slots.len()).ok()?;
            self.slots.push(Group::default());
            return Some(slot);
        }
        loop {
            let Reverse((touched, slot)) = self.idle.pop()?;
            let really = self.slots[slot as usize].touched;
            if really > touched {
                self.idle.push(Reverse((really, slot)));
                continue;
            }
            if touched >= self.interval {
                self.idle.push(Reverse((touched, slot)));
                return None;
            }
            let (other, groups) = self.slots.split_at_mut(1);
            let group = &mut groups[slot as usize - 1];
            other[0].swallow(group);
            other[0].touched = self.interval;
            if let Some(key) = group.key.take() {
                self.by_key.swap_remove(&key);
            }
            return Some(slot);
        }
    }
}

impl CloseReason {
    /// True for an end that somebody would call a failure: refused, timeout, unreachable,
    /// or a reset by the peer.
    pub fn is_failure(self) -> bool {
        use CloseReason::{Refused, Reset, Timeout, Unreachable};
        matches!(self, Refused | Reset | Timeout | Unreachable)
    }
}

fn add(sum: &mut Counters, more: &Counters) {
    sum.bytes_in += more.bytes_in;
    sum.bytes_out += more.bytes_out;
    sum.packets_in += more.packets_in;
    sum.packets_out += more.packets_out;
}

fn more(now: &Counters, before: &Counters) -> Counters {
    Counters {
        bytes_in: now.bytes_in.saturating_sub(before.bytes_in),
        bytes_out: now.bytes_out.saturating_sub(before.bytes_out),
        packets_in: now.packets_in.saturating_sub(before.packets_in),
        packets_out: now.packets_out.saturating_sub(before.packets_out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Closed, Protocol};
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn sample(object: u64, bytes_in: u64) -> Sample {
        let key = ConnectionKey { object, born_ns: 1 };
        let nowhere = ([0; 4], 0).into();
        let counters = Counters { bytes_in, packets_in: bytes_in / 10, ..Counters::default() };
        Sample { counters, ..Sample::new(key, Protocol::Tcp, nowhere, nowhere) }
    }

    fn ended(sample: Sample, reason: CloseReason) -> ClosedRecord {
        ClosedRecord {
            closed: Closed { sample, reason, closed_ns: 5 },
            started_ns: None,
            limited_by: None,
        }
    }

    fn key(name: &str) -> [KeyValue; 1] {
        [KeyValue::Text(name.into())]
    }

    /// Name, open connections and bytes of each group.
    fn told(groups: &Groups) -> Vec<(String, u64, u64)> {
        let mut told: Vec<_> = groups
            .all()
            .map(|group| {
                let name = match group.key.as_deref() {
                    Some([KeyValue::Text(name)]) => name.to_string(),
                    other => format!("{other:?}"),
                };
                (name, group.connections, group.totals.counters.bytes_in)
            })
            .collect();
        told.sort();
        told
    }

    fn row(name: &str, connections: u64, bytes: u64) -> (String, u64, u64) {
        (name.to_owned(), connections, bytes)
    }

    #[test]
    fn who_takes_a_connection_over_counts_from_then_on() {
        let mut groups = Groups::new(9, false);
        groups.open(&sample(1, 100), &key("a"));
        groups.end_interval(0);
        groups.open(&sample(1, 150), &key("b"));
        groups.close(&ended(sample(1, 170), CloseReason::Reset), &key("b"));
        groups.end_interval(SECOND);
        assert_eq!(told(&groups), [row("a", 0, 100), row("b", 0, 70)]);
        let b = groups.all().find(|group| group.rate_in > 0.0).expect("b");
        assert_eq!((b.rate_in, b.totals.opened, b.totals.closed, b.totals.failed), (70.0, 0, 1, 1));
        let a = groups.all().find(|group| group.totals.opened == 1).expect("a");
        assert!(a.changed, "one of its connections has left it");
        groups.end_interval(2 * SECOND);
        assert!(groups.all().all(|group| group.rate() == 0.0));
        assert_eq!(groups.all().filter(|group| group.changed).count(), 1, "rate back to zero");
    }

    #[test]
    fn the_past_is_no_traffic_of_the_first_interval() {
        let mut groups = Groups::new(9, true);
        groups.end_interval(0);
        let mut old = sample(1, 1000);
        old.partial = true;
        groups.open(&old, &key("a"));
        groups.end_interval(SECOND);
        let a = groups.all().next().expect("a");
        assert_eq!((a.totals.counters.bytes_in, a.rate_in, a.totals.opened), (1000, 0.0, 0));
    }

    #[test]
    fn the_median_is_of_what_moved() {
        let mut groups = Groups::new(9, false);
        for (object, rtt, bytes) in [(1, 10, 1), (2, 30, 1), (3, 20, 1), (4, 90, 0), (5, 40, 1)] {
            let moved = Sample { rtt_us: Some(rtt), ..sample(object, bytes) };
            groups.open(&moved, &key("a"));
        }
        groups.end_interval(0);
        assert_eq!(groups.all().next().and_then(|group| group.rtt_us), Some(25));
        groups.end_interval(1);
        assert_eq!(groups.all().next().and_then(|group| group.rtt_us), None);
    }

    #[test]
    fn the_group_that_was_idle_longest_makes_room() {
        let mut groups = Groups::new(2, false);
        groups.open(&sample(1, 10), &key("a"));
        groups.open(&sample(2, 20), &key("b"));
        groups.open(&sample(3, 30), &key("c"));
        groups.end_interval(0);
        assert_eq!(told(&groups), [row("None", 1, 30), row("a", 1, 10), row("b", 1, 20)]);
        groups.open(&sample(1, 11), &key("a"));
        groups.end_interval(SECOND);
        groups.open(&sample(3, 33), &key("c"));
        groups.end_interval(2 * SECOND);
        assert_eq!(told(&groups), [row("None", 1, 50), row("a", 1, 11), row("c", 1, 3)]);
        groups.close(&ended(sample(2, 25), CloseReason::Fin), &key("b"));
        groups.end_interval(3 * SECOND);
        assert_eq!(told(&groups), [row("None", 1, 61), row("b", 0, 5), row("c", 1, 3)]);
    }

    #[test]
    fn a_process_that_is_called_other_is_among_the_others() {
        let mut groups = Groups::new(9, false);
        groups.open(&sample(1, 10), &key(OTHER));
        assert_eq!(told(&groups), [row("None", 1, 10)]);
    }

    #[test]
    fn what_the_filter_hides_is_not_open() {
        let mut groups = Groups::new(9, false);
        groups.open(&sample(1, 10), &key("a"));
        groups.hide(&sample(1, 60));
        groups.hide(&sample(1, 70));
        assert_eq!(told(&groups), [row("a", 0, 10)]);
        groups.open(&sample(1, 75), &key("a"));
        assert_eq!(told(&groups), [row("a", 1, 15)]);
        groups.forget(&sample(1, 0).key);
        assert_eq!((told(&groups), groups.members.len()), (vec![row("a", 0, 15)], 0));
        // It passes from its second owner on.
        groups.hide(&sample(2, 100));
        groups.open(&sample(2, 130), &key("b"));
        assert_eq!(told(&groups), [row("a", 0, 15), row("b", 1, 30)]);
        let opened: Vec<u64> = groups.all().map(|group| group.totals.opened).collect();
        assert_eq!(opened, [1, 1], "each once, whenever it passes first");
    }

    proptest! {
        /// Whatever happens, the groups have what the connections have.
        #[test]
        fn sums_are_exact(
            events in proptest::collection::vec((0u64..20, 0u64..1000, 0usize..12, 0u8..12), 1..300),
            room in 1usize..6,
        ) {
            let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", OTHER];
            let mut groups = Groups::new(room, false);
            let mut open = std::collections::HashMap::new();
            let (mut bytes, mut born, mut closed) = (0, 0, 0);
            for (at, (object, more, name, what)) in events.into_iter().enumerate() {
                let total = open.entry(object).or_insert_with(|| { born += 1; 0 });
                *total += more;
                bytes += more;
                let sample = sample(object, *total);
                if what == 0 {
                    groups.close(&ended(sample, CloseReason::Fin), &key(names[name]));
                    open.remove(&object);
                    closed += 1;
                } else {
                    groups.open(&sample, &key(names[name]));
                }
                if what > 9 {
                    groups.end_interval(at as u64);
                }
                let sum = Group::sum(groups.all());
                prop_assert_eq!(sum.totals.counters.bytes_in, bytes);
                prop_assert_eq!(sum.connections, open.len() as u64);
                prop_assert_eq!((sum.totals.opened, sum.totals.closed), (born, closed));
                prop_assert!(groups.by_key.len() <= room);
                prop_assert_eq!(groups.idle.len(), groups.by_key.len());
            }
        }
    }
}
