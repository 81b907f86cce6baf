//! Decides which sockets a tick visits.
//!
//! Owns these decisions: which sockets the sampling program looks at, whether a pass
//! must be followed by another, when the owners of sockets are looked up, and which sockets
//! are sampled although they did not change: all of them after the record of an end was
//! lost, and some at each tick to find connections that ended without a record. Pure:
//! decisions are values that [`collector`](super::collector) carries out; no kernel, no
//! clock.

use crate::event::Slices;
use crate::loss::Loss;

/// With more tracked sockets than this, a tick visits only the sockets that are marked
/// active. Every [`SWEEP`]th tick visits all. Visiting an idle socket costs twice as much
/// as skipping it.
const SMALL_TABLE: u64 = 8_000;
const SWEEP: u64 = 8;

/// All connections are sampled once in this time, in nanoseconds, a slice after the other.
/// So each tick has a share of the work, and none gets long.
const ROUND_NS: u64 = 60_000_000_000;

/// A tick samples at most about this many sockets that did not change. This is half of
/// what finds room in the ring; what finds none takes another pass.
const UNCHANGED: u64 = 3_000;

/// After a look-up of owners there is none for this many times its own duration.
const OWNER_LOOKUP_SHARE: u64 = 50;

/// The kind of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// The listing at start.
    Listing,
    /// The end of an interval that is not the last.
    Between,
    /// The end of the last interval.
    Last,
}

/// What the collector does, and sets in the sampling program, before a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Instructions {
    /// Look up which process has each socket open before anything is sampled.
    pub(super) look_up_owners: bool,
    /// Sample each socket of these slices, changed or not. A connection without a sample
    /// has ended.
    pub(super) sample: Slices,
    /// Visit only the sockets that are marked active.
    pub(super) marked_only: bool,
    /// Mark the sockets that are used from now on: the next tick may visit only those.
    pub(super) marking: bool,
}

/// What the passes of a tick found, TCP and UDP together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// The number of TCP sockets that were visited; `None` where TCP is not sampled.
    pub(super) visited: Option<u64>,
    /// The number of sockets and flows that changed, but were left for another pass
    /// because the ring was half full.
    pub(super) deferred: u64,
    /// The number that have been open for a while without being used by any process.
    pub(super) ownerless: u64,
}

/// What follows a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Look up the owners, then make another pass.
    LookUpOwners,
    /// Make another pass, for the sockets that were deferred.
    Again,
    /// The tick is complete.
    Done,
}

/// The state that is kept from tick to tick.
#[derive(Clone, Debug, Default)]
pub(super) struct Sampling {
    /// True where no hook reports which process uses a socket. The processes that have
    /// sockets open are looked up repeatedly instead.
    holders_only: bool,
    /// The number of sockets that the last pass visited.
    tracked: u64,
    /// True where sockets used since the last tick have been marked.
    marking: bool,
    /// The number of ticks so far.
    ticks: u64,
    /// True where close records were lost: the next tick samples every socket.
    resync: bool,
    /// For how many ticks more every socket is sampled, because the kernel may have skipped an
    /// end: a connection that is missing twice is ended.
    looks: u8,
    /// The slice that is sampled next, and when its time began, in nanoseconds of
    /// CLOCK_MONOTONIC.
    next_slice: u32,
    sliced_ns: u64,
    /// Owners are not looked up before this time, in nanoseconds of CLOCK_MONOTONIC.
    owners_after_ns: u64,
}

impl Sampling {
    /// The state at the start. With `holders_only` no hook reports who uses a socket.
    pub(super) fn new(holders_only: bool) -> Sampling {
        Sampling { holders_only, ..Sampling::default() }
    }

    /// Called when a tick begins, at `now_ns`.
    pub(super) fn begin(&mut self, now_ns: u64, moment: Moment) -> Instructions {
        let many = self.tracked > SMALL_TABLE;
        let every = self.resync || self.looks > 0;
        self.looks = self.looks.saturating_sub(1);
        let sweep = every
            || self.holders_only
            || moment != Moment::Between
            || !(many && self.marking)
            || self.ticks % SWEEP == 0;
        self.marking = many;
        self.ticks += 1;
        if moment == Moment::Listing {
            self.sliced_ns = now_ns;
        }
        let sample = match (every, moment) {
            (true, _) => Slices::ALL,
            (false, Moment::Between) if sweep => self.slices(now_ns),
            _ => Slices::NONE,
        };
        Instructions {
            look_up_owners: self.holders_only && self.may_look_up(now_ns),
            sample,
            marked_only: !sweep,
            marking: many,
        }
    }

    /// Called after a pass of the tick that began at `now_ns`.
    pub(super) fn after_pass(&mut self, now_ns: u64, findings: Findings) -> Next {
        self.tracked = findings.visited.unwrap_or(self.tracked);
        if findings.ownerless > 0 && self.may_look_up(now_ns) {
            Next::LookUpOwners
        } else if findings.deferred > 0 {
            Next::Again
        } else {
            Next::Done
        }
    }

    /// Called after a look-up of owners, with its start and end. A look-up visits every
    /// file descriptor of the host, so a slower one is followed by a longer pause.
    pub(super) fn owners_looked_up(&mut self, start_ns: u64, end_ns: u64) {
        let pause = end_ns.saturating_sub(start_ns).saturating_mul(OWNER_LOOKUP_SHARE);
        self.owners_after_ns = end_ns.saturating_add(pause);
    }

    /// Called when the tick is over, with the losses since the tick before. A connection
    /// whose close record was lost would otherwise stay in the table for ever.
    pub(super) fn end(&mut self, lost: &Loss) {
        self.resync = lost.hides_ends();
        if lost.may_miss_ends() {
            self.looks = 2;
        }
    }

    /// The slices whose turn has come, as many as one tick should sample.
    fn slices(&mut self, now_ns: u64) -> Slices {
        const EACH: u64 = ROUND_NS / Slices::COUNT as u64;
        let waited = now_ns.saturating_sub(self.sliced_ns);
        let due = waited / EACH;
        if due == 0 {
            return Slices::NONE;
        }
        let most = UNCHANGED * u64::from(Slices::COUNT) / self.tracked.max(1);
        let count = due.min(most.clamp(1, Slices::COUNT.into())) as u32;
        let slices = Slices::from(self.next_slice, count);
        self.next_slice = (self.next_slice + count) % Slices::COUNT;
        self.sliced_ns = now_ns - waited % EACH;
        slices
    }

    fn may_look_up(&self, now_ns: u64) -> bool {
        now_ns >= self.owners_after_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loss::LossCause;

    const MANY: Findings = Findings { visited: Some(SMALL_TABLE + 1), deferred: 0, ownerless: 0 };
    const FEW: Findings = Findings { visited: Some(SMALL_TABLE), ..MANY };

    /// One tick in which nothing is lost.
    fn tick(sampling: &mut Sampling, moment: Moment, findings: Findings) -> Instructions {
        let instructions = sampling.begin(0, moment);
        assert_eq!(sampling.after_pass(0, findings), Next::Done);
        sampling.end(&Loss::default());
        instructions
    }

    #[test]
    fn a_small_table_is_always_visited_whole_and_never_marked() {
        let mut sampling = Sampling::new(false);
        tick(&mut sampling, Moment::Listing, FEW);
        for _ in 0..20 {
            assert_eq!(tick(&mut sampling, Moment::Between, FEW), Instructions::default());
        }
    }

    #[test]
    fn a_large_table_is_visited_by_marks_once_they_cover_a_whole_interval() {
        let mut sampling = Sampling::new(false);
        assert!(!tick(&mut sampling, Moment::Listing, MANY).marking, "not known to be large");
        let first = tick(&mut sampling, Moment::Between, MANY);
        assert_eq!((first.marking, first.marked_only), (true, false), "nothing is marked yet");
        assert!(tick(&mut sampling, Moment::Between, MANY).marked_only);
    }

    #[test]
    fn every_eighth_tick_sweeps_a_large_table() {
        let mut sampling = Sampling::new(false);
        tick(&mut sampling, Moment::Listing, MANY);
        let marked: Vec<bool> =
            (0..24).map(|_| tick(&mut sampling, Moment::Between, MANY).marked_only).collect();
        let sweeps: Vec<usize> = (1..24).filter(|&tick| !marked[tick]).collect();
        assert_eq!(sweeps, [7, 15, 23]);
    }

    #[test]
    fn the_last_tick_visits_all() {
        let mut sampling = Sampling::new(false);
        for moment in [Moment::Listing, Moment::Between, Moment::Between] {
            tick(&mut sampling, moment, MANY);
        }
        assert!(!tick(&mut sampling, Moment::Last, MANY).marked_only);
    }

    #[test]
    fn a_table_that_has_shrunk_is_no_longer_marked() {
        let mut sampling = Sampling::new(false);
        for findings in [MANY, MANY, FEW] {
            tick(&mut sampling, Moment::Between, findings);
        }
        let after = tick(&mut sampling, Moment::Between, FEW);
        assert_eq!((after.marking, after.marked_only), (false, false));
    }

    #[test]
    fn a_lost_end_makes_the_next_tick_sample_everything_once() {
        for (cause, resync) in [
            (LossCause::RingFull, true),
            (LossCause::ChannelFull, true),
            (LossCause::Malformed, false),
            (LossCause::FlowTableDatagrams, false),
        ] {
            let mut sampling = Sampling::new(false);
            for _ in 0..3 {
                tick(&mut sampling, Moment::Between, MANY);
            }
            let mut lost = Loss::default();
            lost[cause] = 1;
            sampling.begin(0, Moment::Between);
            sampling.end(&lost);
            let next = tick(&mut sampling, Moment::Between, MANY);
            let expected = if resync { Slices::ALL } else { Slices::NONE };
            assert_eq!((next.sample, !next.marked_only), (expected, resync), "{cause:?}");
            assert_eq!(tick(&mut sampling, Moment::Between, MANY).sample, Slices::NONE);
        }
    }

    /// The slices of each tick, `step_ns` after the one before it.
    fn slices(step_ns: u64, ticks: u64, findings: Findings) -> Vec<Slices> {
        let mut sampling = Sampling::new(false);
        sampling.begin(7, Moment::Listing);
        sampling.after_pass(7, findings);
        (1..=ticks)
            .map(|tick| {
                let instructions = sampling.begin(7 + tick * step_ns, Moment::Between);
                sampling.after_pass(0, findings);
                sampling.end(&Loss::default());
                assert!(!instructions.marked_only || instructions.sample == Slices::NONE);
                instructions.sample
            })
            .collect()
    }

    #[test]
    fn each_slice_has_its_turn_in_a_minute() {
        const SECOND: u64 = 1_000_000_000;
        for (step, ticks) in [(SECOND, 65), (SECOND / 10, 601), (10 * SECOND, 7), (600 * SECOND, 1)]
        {
            let few = Findings { visited: Some(100), ..FEW };
            let turns = slices(step, ticks, few);
            let all = turns.iter().fold(0, |all, slices| all | slices.bits());
            assert_eq!(all, u64::MAX, "every {step} ns");
            let sampled: u32 = turns.iter().map(|slices| slices.bits().count_ones()).sum();
            assert!(sampled <= 75, "{sampled}: not more often than that");
        }
    }

    #[test]
    fn a_large_table_is_sampled_in_smaller_parts() {
        let million = Findings { visited: Some(1_000_000), ..MANY };
        let turns = slices(1_000_000_000, 64 * 8 + 1, million);
        assert!(turns.iter().all(|slices| slices.bits().count_ones() <= 1));
        let all = turns.iter().fold(0, |all, slices| all | slices.bits());
        assert_eq!(all, u64::MAX, "every eighth tick one");
    }

    #[test]
    fn the_last_interval_has_no_turn() {
        let mut sampling = Sampling::new(false);
        sampling.begin(0, Moment::Listing);
        assert_eq!(sampling.begin(ROUND_NS, Moment::Last).sample, Slices::NONE);
    }

    #[test]
    fn what_was_deferred_takes_another_pass() {
        let mut sampling = Sampling::new(false);
        sampling.begin(0, Moment::Between);
        assert_eq!(sampling.after_pass(0, Findings { deferred: 3, ..FEW }), Next::Again);
        assert_eq!(sampling.after_pass(0, FEW), Next::Done);
    }

    #[test]
    fn a_slow_look_up_of_owners_is_followed_by_a_long_pause() {
        let ownerless = Findings { ownerless: 1, deferred: 1, ..FEW };
        let mut sampling = Sampling::new(false);
        assert!(!sampling.begin(1000, Moment::Between).look_up_owners, "no socket lacks an owner");
        assert_eq!(sampling.after_pass(1000, ownerless), Next::LookUpOwners);
        sampling.owners_looked_up(1000, 1010);
        assert_eq!(sampling.after_pass(1000, ownerless), Next::Again, "not again so soon");
        let later = 1010 + 10 * OWNER_LOOKUP_SHARE;
        assert_eq!(sampling.after_pass(later - 1, ownerless), Next::Again);
        assert_eq!(sampling.after_pass(later, ownerless), Next::LookUpOwners);
    }

    #[test]
    fn without_a_hook_for_owners_each_tick_looks_them_up_and_visits_all() {
        let mut sampling = Sampling::new(true);
        for _ in 0..3 {
            let instructions = sampling.begin(5, Moment::Between);
            assert!(instructions.look_up_owners && !instructions.marked_only);
            sampling.after_pass(5, MANY);
            sampling.end(&Loss::default());
        }
        sampling.owners_looked_up(5, 6);
        assert!(!sampling.begin(7, Moment::Between).look_up_owners);
    }

    /// With UDP alone there is no pass over sockets.
    #[test]
    fn without_tcp_nothing_is_tracked() {
        let mut sampling = Sampling::new(false);
        let udp = Findings { visited: None, ..FEW };
        assert_eq!(sampling.after_pass(0, udp), Next::Done);
        assert_eq!(sampling.tracked, 0);
    }
}
