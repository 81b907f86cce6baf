//! The events that came out of the ring and are not yet sent to the reporter.
//!
//! Owns the channel's sending end, the events that wait for room in the channel, and the
//! count of events that could not be kept. Knows nothing about the kernel: a caller that
//! waits here passes a function, which empties the ring while it waits.
//!
//! A reporter that is blocked (a paused pager) must not delay the emptying of the ring,
//! so the collector never waits for it between ticks. Events that do not fit into the
//! channel stay here, usually up to [`BACKLOG`]; further events are counted as lost.

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use crossbeam_channel::{SendTimeoutError, Sender, TrySendError};

use super::collector::Stop;
use crate::connection::Sample;
use crate::event::{Batch, CollectorEvent, Tick};
use crate::loss::{Loss, LossCause};

/// The largest number of events in a batch.
const BATCH: usize = 256;

// The C library would map larger pieces of memory anew each time, and zero every page.
const _: () = assert!(BATCH * size_of::<CollectorEvent>() < 128 << 10);

/// The largest number of events that is usually kept while the reporter is blocked: 16 MiB
/// of memory.
pub(super) const BACKLOG: usize = 65_536;

/// The largest number of connections without storage that are told of in an interval. Of
/// the others only their number is told.
const TOLD: u64 = 16;

/// How long to wait for room in the channel before the ring is emptied again.
const PATIENCE: Duration = Duration::from_millis(50);

/// The events of the collector on their way into the channel.
pub(super) struct Outbox {
    waiting: RefCell<Waiting>,
    /// The number of records that came while `waiting` was in use.
    refused: Cell<u64>,
    batches: Sender<Batch>,
    /// The largest number of events kept while the reporter is blocked.
    backlog: usize,
    /// The number of batches sent after the batch with the last tick. While the channel
    /// has more batches than this, the reporter has not taken that tick yet.
    after_tick: Cell<usize>,
}

#[derive(Default)]
struct Waiting {
    /// Batches that wait, the oldest first.
    batches: VecDeque<Batch>,
    /// The batch that is being filled.
    newest: Batch,
    /// How many events there are in all of them.
    count: usize,
    lost: Loss,
    /// The sockets of connections without storage. Not their cookies: before Linux 6.13 an
    /// accepted socket gets another one after the hook.
    untracked: HashSet<u64>,
    /// True where one of them should not wait until a batch is full.
    urgent: bool,
}

impl Waiting {
    /// Keeps an event. It is not copied again on its way to the reporter.
    fn push(&mut self, event: CollectorEvent) {
        if self.newest.capacity() == 0 {
            self.newest.reserve_exact(BATCH);
        }
        self.newest.push(event);
        self.count += 1;
        if self.newest.len() == BATCH {
            self.batches.push_back(std::mem::take(&mut self.newest));
        }
    }

    /// Takes the oldest batch: where it is the newest as well, only if that is `wanted`.
    fn take(&mut self, wanted: bool) -> Option<Batch> {
        let batch = match self.batches.pop_front() {
            None if wanted => std::mem::take(&mut self.newest),
            batch => batch?,
        };
        self.count -= batch.len();
        Some(batch).filter(|batch| !batch.is_empty())
    }

    /// Takes a batch back for which there was no room.
    fn put_back(&mut self, batch: Batch) {
        self.count += batch.len();
        self.batches.push_front(batch);
    }

    /// Counts a connection without storage, and keeps the event for the reporter to tell.
    fn untracked(&mut self, sample: Sample, again: bool) {
        // Not more memory than for events that wait.
        if self.untracked.len() >= BACKLOG {
            self.untracked.clear();
        }
        let known = !self.untracked.insert(sample.key.object);
        if known && again {
            return;
        }
        self.lost[LossCause::StorageFull] += 1;
        if self.lost[LossCause::StorageFull] <= TOLD {
            self.push(CollectorEvent::Untracked { sample, again: false });
        }
    }
}

impl Outbox {
    /// An outbox that sends into `batches` and keeps up to `backlog` events.
    pub(super) fn new(batches: Sender<Batch>, backlog: usize) -> Outbox {
        Outbox {
            waiting: RefCell::default(),
            refused: Cell::new(0),
            batches,
            backlog,
            after_tick: Cell::new(0),
        }
    }

    /// Takes the event of a record of the ring; `None` is a malformed record and is
    /// counted. libbpf calls this, and only while no other method of the outbox is
    /// running. If one is, the event cannot be kept and is counted as lost.
    pub(super) fn take(&self, event: Option<CollectorEvent>) {
        let Ok(mut waiting) = self.waiting.try_borrow_mut() else {
            return self.refused.set(self.refused.get() + 1);
        };
        match event {
            None => waiting.lost[LossCause::Malformed] += 1,
            Some(CollectorEvent::Untracked { sample, again }) => waiting.untracked(sample, again),
            Some(CollectorEvent::CgroupMade { .. }) if waiting.count >= self.backlog => {
                waiting.lost[LossCause::CgroupsFull] += 1;
            }
            Some(_) if waiting.count >= self.backlog => {
                waiting.lost[LossCause::ChannelFull] += 1;
            }
            Some(event) => {
                // The reporter reads files that may be gone soon.
                waiting.urgent |= matches!(event, CollectorEvent::CgroupMade { .. });
                waiting.push(event);
            }
        }
    }

    /// The losses since the last call.
    pub(super) fn take_lost(&self) -> Loss {
        let mut lost = std::mem::take(&mut self.waiting.borrow_mut().lost);
        lost[LossCause::Malformed] += self.refused.take();
        lost
    }

    /// True where the reporter has not yet taken the last tick.
    pub(super) fn is_behind(&self) -> bool {
        self.batches.len() > self.after_tick.get()
    }

    /// Sends full batches, and all if one event is urgent, as long as the channel has
    /// room. Never waits.
    ///
    /// # Errors
    /// Where the receiver is gone.
    pub(super) fn forward(&self) -> Result<(), Stop> {
        let waiting = &mut *self.waiting.borrow_mut();
        while let Some(batch) = waiting.take(waiting.urgent) {
            match self.batches.try_send(batch) {
                Ok(()) => self.after_tick.set(self.after_tick.get() + 1),
                Err(TrySendError::Full(batch)) => {
                    waiting.put_back(batch);
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(Stop::ReporterGone),
            }
        }
        waiting.urgent = false;
        Ok(())
    }

    /// Sends all events, and waits for room in the channel. Calls `meanwhile`, which
    /// empties the ring, each time it has waited in vain.
    ///
    /// # Errors
    /// Where the receiver is gone, and those of `meanwhile`.
    pub(super) fn deliver(
        &self,
        mut meanwhile: impl FnMut() -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        loop {
            let Some(mut batch) = self.waiting.borrow_mut().take(true) else { return Ok(()) };
            loop {
                match self.batches.send_timeout(batch, PATIENCE) {
                    Ok(()) => break,
                    Err(SendTimeoutError::Disconnected(_)) => return Err(Stop::ReporterGone),
                    Err(SendTimeoutError::Timeout(unsent)) => {
                        batch = unsent;
                        meanwhile()?;
                    }
                }
            }
        }
    }

    /// Sends all events, then a tick.
    ///
    /// # Errors
    /// The same as for [`deliver`](Outbox::deliver).
    pub(super) fn end_interval(
        &self,
        tick: Tick,
        meanwhile: impl FnMut() -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        // Does not check for the backlog: a tick must never be lost.
        self.waiting.borrow_mut().push(CollectorEvent::Tick(tick));
        self.after_tick.set(0);
        self.deliver(meanwhile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{CloseReason, Closed, ConnectionKey, Protocol};
    use crate::event::Slices;
    use chrono::DateTime;
    use crossbeam_channel::{Receiver, bounded};

    fn outbox(room: usize) -> (Outbox, Receiver<Batch>) {
        let (sender, receiver) = bounded(room);
        (Outbox::new(sender, BACKLOG), receiver)
    }

    fn event(object: u64) -> Option<CollectorEvent> {
        let (key, nowhere) = (ConnectionKey { object, born_ns: 0 }, ([0; 4], 0).into());
        let sample = Sample::new(key, Protocol::Udp, nowhere, nowhere);
        let expired = Closed { sample, reason: CloseReason::Unknown, closed_ns: 0 };
        Some(CollectorEvent::Expired(expired))
    }

    fn tick() -> Tick {
        Tick {
            now_ns: 1,
            time: DateTime::UNIX_EPOCH,
            lost: Loss::default(),
            listing: false,
            complete: Slices::NONE,
        }
    }

    fn objects(batch: &Batch) -> Vec<u64> {
        batch
            .iter()
            .map(|event| match event {
                CollectorEvent::Expired(expired) => expired.sample.key.object,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn nothing() -> Result<(), Stop> {
        Ok(())
    }

    #[test]
    fn whole_batches_go_at_once_and_the_rest_with_the_tick() {
        let (outbox, receiver) = outbox(8);
        (0..2 * BATCH as u64 + 3).for_each(|object| outbox.take(event(object)));
        outbox.forward().unwrap();
        assert_eq!(receiver.len(), 2);
        outbox.end_interval(tick(), nothing).unwrap();
        let batches: Vec<Batch> = receiver.try_iter().collect();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [BATCH, BATCH, 4]);
        assert_eq!(objects(&batches[1])[0], BATCH as u64, "in order");
        assert_eq!(batches[2][3], CollectorEvent::Tick(tick()));
    }

    #[test]
    fn a_new_cgroup_does_not_wait_for_a_batch() {
        let (outbox, receiver) = outbox(1);
        outbox.take(event(1));
        outbox.forward().unwrap();
        assert_eq!(receiver.len(), 0);
        outbox.take(Some(CollectorEvent::CgroupMade { id: 7, path: "/x".into() }));
        outbox.take(event(2));
        outbox.forward().unwrap();
        assert_eq!(receiver.try_recv().unwrap().len(), 3, "in order, with what came before it");
        outbox.take(event(3));
        outbox.forward().unwrap();
        assert_eq!(receiver.len(), 0, "once");
        (0..BACKLOG as u64).for_each(|object| outbox.take(event(object)));
        outbox.take(Some(CollectorEvent::CgroupMade { id: 8, path: "/y".into() }));
        let lost = outbox.take_lost();
        assert_eq!((lost[LossCause::CgroupsFull], lost[LossCause::ChannelFull]), (1, 1));
    }

    #[test]
    fn a_full_channel_keeps_everything_in_order() {
        let (outbox, receiver) = outbox(1);
        (0..3 * BATCH as u64).for_each(|object| outbox.take(event(object)));
        outbox.forward().unwrap();
        assert_eq!(receiver.len(), 1, "one has room, and nothing waits");
        let mut received = Vec::new();
        let mut asked = 0;
        // The reporter takes a batch whenever the ring is looked at.
        let meanwhile = || {
            asked += 1;
            received.extend(receiver.try_iter());
            Ok(())
        };
        outbox.deliver(meanwhile).unwrap();
        received.extend(receiver.try_iter());
        assert!(asked >= 2, "{asked}");
        let all: Vec<u64> = received.iter().flat_map(objects).collect();
        assert_eq!(all, (0..3 * BATCH as u64).collect::<Vec<_>>());
        assert!(outbox.take_lost().is_zero());
    }

    #[test]
    fn beyond_the_backlog_each_event_is_counted() {
        let (outbox, _receiver) = outbox(1);
        (0..BACKLOG as u64 + 5).for_each(|object| outbox.take(event(object)));
        outbox.take(None);
        let lost = outbox.take_lost();
        assert_eq!(lost[LossCause::ChannelFull], 5);
        assert_eq!(lost[LossCause::Malformed], 1);
        assert!(outbox.take_lost().is_zero(), "reported once");
    }

    #[test]
    fn a_connection_without_storage_counts_once() {
        let (outbox, receiver) = outbox(8);
        let untracked = |object, again| {
            let Some(CollectorEvent::Expired(Closed { sample, .. })) = event(object) else {
                panic!("another event");
            };
            outbox.take(Some(CollectorEvent::Untracked { sample, again }));
        };
        // Seen by a hook, by the next hook and by a look-up; then a connection of the same
        // socket, and one of another that only the look-up has seen.
        for (object, again) in [(1, false), (1, true), (1, true), (1, false), (2, true), (2, true)]
        {
            untracked(object, again);
        }
        assert_eq!(outbox.take_lost()[LossCause::StorageFull], 3);
        (3..100).for_each(|object| untracked(object, false));
        assert_eq!(outbox.take_lost()[LossCause::StorageFull], 97);
        outbox.end_interval(tick(), nothing).unwrap();
        let told = receiver.recv().unwrap().len() as u64 - 1;
        assert_eq!(told, 3 + TOLD, "and of the others only the number");
    }

    /// libbpf calls back while the outbox is in use: that would be a bug in tcptop.
    #[test]
    fn a_record_that_finds_the_outbox_in_use_is_counted() {
        let (outbox, _receiver) = outbox(1);
        let in_use = outbox.waiting.borrow_mut();
        outbox.take(event(1));
        drop(in_use);
        assert_eq!(outbox.take_lost()[LossCause::Malformed], 1);
    }

    #[test]
    fn a_reporter_that_is_gone_ends_the_collector() {
        let (outbox, receiver) = outbox(1);
        drop(receiver);
        (0..BATCH as u64).for_each(|object| outbox.take(event(object)));
        assert!(matches!(outbox.forward(), Err(Stop::ReporterGone)));
        outbox.take(event(1));
        assert!(matches!(outbox.deliver(nothing), Err(Stop::ReporterGone)));
    }

    #[test]
    fn the_reporter_is_behind_until_it_has_taken_the_tick() {
        let (outbox, receiver) = outbox(8);
        assert!(!outbox.is_behind());
        outbox.end_interval(tick(), nothing).unwrap();
        assert!(outbox.is_behind());
        (0..BATCH as u64).for_each(|object| outbox.take(event(object)));
        outbox.forward().unwrap();
        assert!(outbox.is_behind(), "the tick is still in the channel");
        receiver.recv().unwrap();
        assert!(!outbox.is_behind(), "what is left came after it");
    }

    #[test]
    fn what_fails_meanwhile_ends_the_wait() {
        let (outbox, _receiver) = outbox(0);
        outbox.take(event(1));
        let failing = || Err(Stop::Failed(anyhow::anyhow!("the ring")));
        assert!(matches!(outbox.deliver(failing), Err(Stop::Failed(_))));
    }
}
