//! The Linux collector: ring buffer and iterators become batches of events.
//!
//! Owns the thread that polls: it runs the iterators each interval, drains the
//! ring in between and sends batches through the channel. Prints nothing and
//! keeps no connections.
//!
//! A reporter that is blocked (a paused pager) stops the sampling, not the
//! counting: totals are cumulative, so the next tick makes up for it. Close
//! records are kept meanwhile, up to a limit, and counted as lost beyond it.

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caps::Capability;
use crossbeam_channel::{SendTimeoutError, Sender, TrySendError};
use libbpf_rs::{Link, MapCore, MapFlags, RingBuffer, RingBufferBuilder};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::hooks::{self, Hooks, Knobs};
use super::wire::Pass;
use super::{Batch, CollectorEvent, NetworkCollector, Tick, decode, seed};
use crate::cli::Family;
use crate::clock::monotonic;
use crate::connection::{Closed, Protocol};
use crate::loss::{Loss, LossCause};
use crate::plan::{Choice, Plan, Provider, Signal};
use crate::{names, privileges};

/// Events in a batch, at most.
const BATCH: usize = 1024;

/// Batches in the channel between collector and reporter.
pub const CHANNEL: usize = 8;

/// Close records kept while the reporter is blocked: 16 MiB of them.
const BACKLOG: usize = 65_536;

/// Room for 12,000 close records before anything is lost. The pages are mapped
/// twice and count twice in the resident size.
const RING_BYTES: u32 = 2 << 20;

/// The collector's thread goes first where the processors are all busy: it has
/// little to do, and what it is late for is lost.
const NICE: i32 = -10;

/// Records taken from the ring at a time.
const CHUNK: usize = 1024;

/// With more tracked sockets than this a tick visits only those that are marked
/// active, but for every [`SWEEP`]th: touching an idle one costs as much again as
/// passing it by.
const SMALL_TABLE: u64 = 8_000;
const SWEEP: u64 = 8;

/// A look-up of owners is followed by a pause of so many times its own length.
const OWNER_LOOKUP_SHARE: u64 = 50;

/// When to tick and when to end.
#[derive(Debug)]
pub struct Schedule {
    /// Length of an interval.
    pub interval: Duration,
    /// End after so many intervals.
    pub count: Option<u64>,
    /// End after so long; the last interval is cut short.
    pub duration: Option<Duration>,
    /// End when the other end of this pipe is closed.
    pub stop: OwnedFd,
}

/// The host's connections, from the running kernel.
pub struct LinuxCollector {
    /// When to tick and when to end.
    pub schedule: Schedule,
    /// Totals since connections opened instead of since tcptop's start.
    pub lifetime: bool,
    /// Watch TCP.
    pub tcp: bool,
    /// Watch UDP.
    pub udp: bool,
    /// Only this address family.
    pub family: Option<Family>,
    /// Only these ports, of either end; none for all. A few of them are applied
    /// in the kernel, many are left to who receives the events.
    pub ports: Vec<u16>,
    /// How many UDP flows the kernel keeps, rounded up to a power of two.
    pub udp_flows: u32,
    /// Forget a UDP flow after this time without a datagram.
    pub udp_timeout: Duration,
    /// Providers that are not to be tried.
    pub without: Vec<Provider>,
    /// Let libbpf and the kernel's verifier talk on stderr.
    pub verbose: bool,
    /// Told what cannot be shown, and why, in one line.
    pub notice: fn(&str),
    /// Told the hook plan, before it is known whether everything could be attached.
    pub plan: Option<Sender<Plan>>,
}

impl NetworkCollector for LinuxCollector {
    fn run(&mut self, batches: Sender<Batch>) -> Result<()> {
        hooks::set_verbose(self.verbose);
        go_first();
        let mut storage = [MaybeUninit::uninit(), MaybeUninit::uninit()];
        let knobs = Knobs {
            ring_bytes: RING_BYTES,
            lifetime: self.lifetime,
            tcp: self.tcp,
            udp: self.udp,
            family: self.family,
            ports: self.ports.clone(),
            udp_flows: self.udp_flows,
            udp_timeout: self.udp_timeout,
            without: self.without.clone(),
        };
        let (plan, hooks) = Hooks::attach(&mut storage, &knobs);
        if let Some(told) = &self.plan {
            let _ = told.send(plan.clone());
        }
        let hooks = hooks.map_err(privileges::explain)?;
        let missing: Vec<String> = plan.missing().filter_map(missing).collect();
        if !plan.shows(Protocol::Tcp) && !plan.shows(Protocol::Udp) {
            bail!("{}", missing.join("; "));
        }
        for missing in missing {
            (self.notice)(&missing);
        }
        if let Some(part) = names::cgroup_part().filter(|_| plan.has(Provider::CgroupSkb)) {
            (self.notice)(&format!(
                "cannot show UDP of other cgroups: {} is not the root of cgroup v2; run tcptop in \
                 the host's cgroup namespace",
                part.display()
            ));
        }
        let inbox = RefCell::new(Inbox {
            without_owners: plan.provider(Signal::Owner).is_none(),
            ..Inbox::default()
        });
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&hooks.skel.maps.events, |record| {
                // Nothing else runs while libbpf calls this, so the borrow holds.
                if let Ok(mut inbox) = inbox.try_borrow_mut() {
                    inbox.take(record);
                }
                0
            })
            .context("failed to map the ring buffer")?;
        let ring = builder.build().context("failed to map the ring buffer")?;
        Running {
            schedule: &self.schedule,
            hooks,
            ring,
            inbox: &inbox,
            batches,
            after_tick: 0,
            lost_before: Loss::default(),
            resync: false,
            owners_after_ns: 0,
            notice: self.notice,
            tracked: 0,
            marking: false,
            ticks: 0,
        }
        .run()
    }
}

/// What came out of the ring and was not yet sent.
#[derive(Default)]
struct Inbox {
    events: Vec<CollectorEvent>,
    lost: Loss,
    /// Nothing tells who uses a TCP connection: who opened it is no answer.
    without_owners: bool,
}

impl Inbox {
    fn take(&mut self, record: &[u8]) {
        match decode::decode(record) {
            None => self.lost[LossCause::Malformed] += 1,
            Some(_) if self.events.len() >= BACKLOG => self.lost[LossCause::ChannelFull] += 1,
            Some(mut event) => {
                if self.without_owners {
                    forget_owner(&mut event);
                }
                self.events.push(event);
            }
        }
    }
}

/// Which tick it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// The listing at start.
    Listing,
    /// The end of an interval, with more to come.
    Between,
    /// The end.
    Last,
}

/// The receiver is gone: the reporter ended, and says itself why.
struct ReporterGone;

struct Running<'run> {
    schedule: &'run Schedule,
    hooks: Hooks<'run>,
    ring: RingBuffer<'run>,
    inbox: &'run RefCell<Inbox>,
    batches: Sender<Batch>,
    /// Batches sent since the one that ended with the last tick. Where more than
    /// these are in the channel, the reporter has not come to that tick yet.
    after_tick: usize,
    /// Kernel counters at the last tick.
    lost_before: Loss,
    /// Close records were lost: the next pass samples every socket.
    resync: bool,
    /// No look-up of owners before.
    owners_after_ns: u64,
    notice: fn(&str),
    /// Sockets that the last pass found.
    tracked: u64,
    /// Changes have been marked since the last tick.
    marking: bool,
    /// Passes so far.
    ticks: u64,
}

impl Running<'_> {
    fn run(mut self) -> Result<()> {
        // Attached already: what begins from now on is seen, so nothing falls
        // between the listing and the stream.
        seed::held(&self.hooks.seed_held)?;
        if let Some(link) = &self.hooks.seed_unheld {
            seed::unheld(link)?;
        }
        // From here on only maps and iterators are read.
        if let Err(error) = privileges::keep_only(&[Capability::CAP_BPF]) {
            (self.notice)(&format!("failed to give up privileges: {error:#}"));
        }
        if let Some(bss) = self.hooks.skel.maps.data_data.as_deref_mut() {
            bss.starting = false;
        }
        let start = monotonic()?;
        if self.tick(start, Moment::Listing)?.is_err() {
            return Ok(());
        }
        let interval = duration_ns(self.schedule.interval);
        let end = self
            .schedule
            .duration
            .map_or(u64::MAX, |duration| start.saturating_add(duration_ns(duration)));
        let mut deadline = start.saturating_add(interval);
        let mut ticks = 0;
        loop {
            let stopping = match self.wait(deadline.min(end))? {
                Ok(stopping) => stopping,
                Err(ReporterGone) => return Ok(()),
            };
            let now = monotonic()?;
            let last = stopping
                || now >= end
                || self.schedule.count.is_some_and(|count| ticks + 1 >= count);
            if !last && self.batches.len() > self.after_tick {
                // The reporter still has the last interval: this one gets longer.
                deadline = next_deadline(deadline, interval, now);
                continue;
            }
            if last {
                // Nothing begins or ends from here on, so the last interval is whole.
                self.hooks.attached.clear();
            }
            // A full backlog would have no room for samples.
            if self.flush()?.is_err() {
                return Ok(());
            }
            let moment = if last { Moment::Last } else { Moment::Between };
            if self.tick(monotonic()?, moment)?.is_err() || last {
                return Ok(());
            }
            ticks += 1;
            deadline = next_deadline(deadline, interval, monotonic()?);
        }
    }

    /// Drains the ring until `deadline` (true: told to stop before).
    fn wait(&mut self, deadline_ns: u64) -> Result<Result<bool, ReporterGone>> {
        loop {
            let now = monotonic()?;
            if now >= deadline_ns {
                return Ok(Ok(false));
            }
            let timeout = TimeSpec::from_duration(Duration::from_nanos(deadline_ns - now));
            // SAFETY: the descriptor belongs to self.ring, which outlives this borrow.
            let ring = unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) };
            let mut waiting = [
                PollFd::new(ring, PollFlags::POLLIN),
                PollFd::new(self.schedule.stop.as_fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut waiting, Some(timeout), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("failed to wait for the ring buffer"),
            }
            if waiting[1].revents().is_some_and(|events| !events.is_empty()) {
                return Ok(Ok(true));
            }
            self.drain()?;
            if self.forward().is_err() {
                return Ok(Err(ReporterGone));
            }
        }
    }

    /// Takes some records out of the ring; true where there may be more.
    fn take(&mut self) -> Result<bool> {
        let taken = self.ring.consume_raw_n(CHUNK);
        if taken < 0 {
            return Err(Errno::from_raw(-taken)).context("failed to read the ring buffer");
        }
        Ok(taken as usize >= CHUNK)
    }

    /// Takes everything out of the ring, also while more comes in.
    fn drain(&mut self) -> Result<()> {
        while self.take()? {}
        Ok(())
    }

    /// The same, handing over as it goes: what is in memory stays small.
    fn flush(&mut self) -> Result<Result<(), ReporterGone>> {
        loop {
            let more = self.take()?;
            if self.deliver()?.is_err() {
                return Ok(Err(ReporterGone));
            }
            if !more {
                return Ok(Ok(()));
            }
        }
    }

    /// Hands over whole batches where the channel has room, without waiting.
    fn forward(&mut self) -> Result<(), ReporterGone> {
        let events = &mut self.inbox.borrow_mut().events;
        while events.len() >= BATCH {
            let rest = events.split_off(BATCH);
            match self.batches.try_send(std::mem::replace(events, rest)) {
                Ok(()) => self.after_tick += 1,
                Err(TrySendError::Full(mut batch)) => {
                    batch.append(events);
                    *events = batch;
                    return Ok(());
                }
                Err(TrySendError::Disconnected(_)) => return Err(ReporterGone),
            }
        }
        Ok(())
    }

    /// Hands over everything, waiting for room and draining the ring meanwhile.
    fn deliver(&mut self) -> Result<Result<(), ReporterGone>> {
        loop {
            let mut batch = {
                let events = &mut self.inbox.borrow_mut().events;
                let rest = events.split_off(events.len().min(BATCH));
                std::mem::replace(events, rest)
            };
            if batch.is_empty() {
                return Ok(Ok(()));
            }
            loop {
                match self.batches.send_timeout(batch, Duration::from_millis(50)) {
                    Ok(()) => break,
                    Err(SendTimeoutError::Disconnected(_)) => return Ok(Err(ReporterGone)),
                    Err(SendTimeoutError::Timeout(unsent)) => {
                        batch = unsent;
                        self.drain()?;
                    }
                }
            }
        }
    }

    /// Samples what changed and ends the interval.
    fn tick(&mut self, now_ns: u64, moment: Moment) -> Result<Result<(), ReporterGone>> {
        let complete = self.resync;
        let holders_only = self.hooks.plan.has(Provider::FileIterator);
        if holders_only && now_ns >= self.owners_after_ns {
            self.look_up_owners()?;
        }
        let many = self.tracked > SMALL_TABLE;
        let sweep = complete
            || holders_only
            || moment != Moment::Between
            || !(many && self.marking)
            || self.ticks % SWEEP == 0;
        self.marking = many;
        self.ticks += 1;
        self.instruct(complete, sweep)?;
        loop {
            let mut pass = Pass::default();
            if let Some(link) = &self.hooks.sample {
                pass = self::pass(link)?;
                self.tracked = pass.visited;
            }
            if let Some(link) = &self.hooks.sample_flows {
                let flows = self::pass(link)?;
                pass.deferred += flows.deferred;
                pass.ownerless += flows.ownerless;
            }
            if self.flush()?.is_err() {
                return Ok(Err(ReporterGone));
            }
            if pass.ownerless > 0 && now_ns >= self.owners_after_ns {
                self.look_up_owners()?;
                continue;
            }
            if pass.deferred == 0 {
                break;
            }
        }
        let lost = self.lost()?;
        // A connection whose end was lost would stay in the table for ever.
        self.resync = lost[LossCause::RingFull] > 0 || lost[LossCause::ChannelFull] > 0;
        let tick = Tick { now_ns, lost, listing: moment == Moment::Listing, complete };
        self.inbox.borrow_mut().events.push(CollectorEvent::Tick(tick));
        self.after_tick = 0;
        self.deliver()
    }

    /// Sockets that were accepted and not used since still show their listener's
    /// owner: find who holds them. That visits every descriptor of the host, so
    /// it is done as seldom as it is slow.
    fn look_up_owners(&mut self) -> Result<()> {
        let start = monotonic()?;
        seed::held(&self.hooks.seed_held)?;
        let end = monotonic()?;
        let pause = (end - start).saturating_mul(OWNER_LOOKUP_SHARE);
        self.owners_after_ns = end.saturating_add(pause);
        Ok(())
    }

    /// Tells the sampling program what it is to visit and what to sample.
    fn instruct(&mut self, sample_all: bool, sweep: bool) -> Result<()> {
        let variables = self
            .hooks
            .skel
            .maps
            .bss_data
            .as_deref_mut()
            .context("the BPF object has no variables")?;
        variables.sample_all = sample_all;
        variables.marked_only = !sweep;
        variables.marks_matter = self.marking;
        if self.marking {
            variables.mark_rounds = variables.mark_rounds.wrapping_add(1);
        }
        Ok(())
    }

    /// What was lost since the last call: the kernel's counters and our own.
    fn lost(&mut self) -> Result<Loss> {
        // In the order of enum tcptop_loss in bpf/event.h.
        const KERNEL: [LossCause; 4] = [
            LossCause::RingFull,
            LossCause::StorageFull,
            LossCause::FlowTableDatagrams,
            LossCause::FlowTableBytes,
        ];
        let mut total = Loss::default();
        for (index, cause) in (0u32..).zip(KERNEL) {
            let per_cpu = self
                .hooks
                .skel
                .maps
                .losses
                .lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY)
                .context("failed to read the loss counters")?
                .unwrap_or_default();
            total[cause] = per_cpu
                .iter()
                .filter_map(|bytes| Some(u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?)))
                .sum();
        }
        total[LossCause::Skipped] = self.hooks.skipped()?;
        let mut lost = std::mem::take(&mut self.inbox.borrow_mut().lost);
        for cause in KERNEL.into_iter().chain([LossCause::Skipped]) {
            lost[cause] += total[cause].saturating_sub(self.lost_before[cause]);
        }
        self.lost_before = total;
        Ok(lost)
    }
}

/// Raises the priority of this thread, where that is allowed.
fn go_first() {
    // SAFETY: setpriority(2) takes three numbers; 0 stands for the calling thread.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}

fn forget_owner(event: &mut CollectorEvent) {
    match event {
        CollectorEvent::Sample(sample) | CollectorEvent::Closed(Closed { sample, .. })
            if sample.protocol == Protocol::Tcp =>
        {
            sample.owner = None;
        }
        _ => {}
    }
}

/// What cannot be shown without a provider for a signal, why, and what to do.
fn missing(choice: &Choice) -> Option<String> {
    let reason = choice.failure()?;
    let remedy = if choice.signal == Signal::Udp && names::cgroup_root().is_none() {
        "`mount -t cgroup2 none DIRECTORY` mounts it"
    } else if choice.signal == Signal::Udp && !privileges::has(Capability::CAP_NET_ADMIN) {
        "this kernel needs CAP_NET_ADMIN for it, or root"
    } else {
        "`tcptop --doctor` tells more"
    };
    Some(format!("cannot show {}: {reason}; {remedy}", choice.signal.fills()))
}

/// Runs an iterator that samples.
fn pass(link: &Link) -> Result<Pass> {
    let mut pass = Pass::default();
    // SAFETY: Pass is Plain: any bytes are a valid one.
    let bytes = unsafe { plain::as_mut_bytes(&mut pass) };
    let expected = bytes.len();
    let length = seed::run(link, bytes).context("failed to sample the connections")?;
    if length != expected {
        bail!("failed to sample the connections: the iterator ended early");
    }
    Ok(pass)
}

/// The next deadline after `now` on the grid that `deadline` lies on, so that
/// intervals do not drift.
fn next_deadline(deadline: u64, interval: u64, now: u64) -> u64 {
    let missed = now.saturating_sub(deadline) / interval;
    deadline.saturating_add(interval.saturating_mul(missed + 1))
}

fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_stay_on_their_grid() {
        assert_eq!(next_deadline(1000, 100, 1000), 1100);
        assert_eq!(next_deadline(1000, 100, 1099), 1100);
        assert_eq!(next_deadline(1000, 100, 1100), 1200);
        assert_eq!(next_deadline(1000, 100, 1350), 1400);
        assert_eq!(next_deadline(u64::MAX - 1, 100, u64::MAX), u64::MAX);
    }
}
