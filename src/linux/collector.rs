//! The Linux collector: ring buffer and iterators become batches of events.
//!
//! Owns the work of the collector's thread: it empties the ring between ticks, runs the
//! iterators at each tick, and decides when to end. [`sampling`](super::sampling)
//! decides which sockets a tick visits. [`outbox`](super::outbox) keeps the events that
//! wait for the reporter, and counts those it cannot keep. Prints nothing and stores no
//! connections.
//!
//! While the reporter is blocked (a paused pager) nothing is sampled, but the kernel
//! goes on counting. Totals are cumulative, so the next tick has everything.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use caps::Capability;
use crossbeam_channel::Sender;
use libbpf_rs::{RingBuffer, RingBufferBuilder, num_possible_cpus};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::clock::{self, monotonic};
use super::confine::{self, Confinement};
use super::knobs::Knobs;
use super::outbox::{BACKLOG, Outbox};
use super::plan::{Choice, Need, Plan, Provider};
use super::programs::{self, Hooks};
use super::sampling::{Findings, Instructions, Moment, Next, Sampling};
use super::{decode, iterate, memory, names, privileges, seed};
use crate::connection::{Closed, Needs, Protocol};
use crate::event::{Batch, CollectorEvent, NetworkCollector, Tick};
use crate::loss::{Loss, LossCause};
use crate::settings::{Place, Room, Settings};

/// The number of batches that fit into the channel between collector and reporter.
pub(super) const CHANNEL: usize = 32;

/// The usual size of the ring buffer: room for 12,000 close records. Its pages are mapped
/// twice, so they count twice in tcptop's resident size.
const RING_BYTES: u32 = 2 << 20;

/// The niceness of the collector's thread. It gets a processor early when all are busy:
/// it has little to do, and records are lost when it empties the ring too late.
const NICE: i32 = -10;

/// Records taken from the ring at a time.
const CHUNK: usize = 1024;

/// Collects the host's connections from the running kernel.
pub(super) struct LinuxCollector {
    /// What to collect, how long an interval is and when to end.
    pub(super) settings: Settings,
    /// What is wanted beyond what every sample has.
    pub(super) needs: Needs,
    /// Providers that must not be tried.
    pub(super) without: Vec<Provider>,
    /// A pipe. The collector ends when its other end is closed.
    pub(super) stop: OwnedFd,
    /// Called with one line for each part of the output that cannot be shown, and why.
    pub(super) notice: fn(&str),
    /// The hook plan is sent here as soon as it is known, even if attaching fails.
    pub(super) plan: Option<Sender<Plan>>,
    /// What this process gives up once all sockets are listed; `None` for this thread's
    /// capabilities alone.
    pub(super) confinement: Option<Confinement>,
}

/// Why the collector stops early.
#[derive(Debug)]
pub(super) enum Stop {
    /// The channel has no receiver: the reporter has ended, and it reports the reason.
    ReporterGone,
    /// An error that cannot be recovered from.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

impl NetworkCollector for LinuxCollector {
    fn run(&mut self, batches: Sender<Batch>) -> Result<()> {
        programs::set_verbose(self.settings.more.verbose > 1);
        raise_priority();
        let mut storage = [MaybeUninit::uninit(), MaybeUninit::uninit()];
        let room = |place, usual| Room::of(&self.settings.more.room, place).unwrap_or(usual);
        let ring_bytes = room(Place::Ring, RING_BYTES);
        let knobs = Knobs::new(&self.settings, self.needs, &self.without, ring_bytes);
        let (plan, hooks) = Hooks::attach(&mut storage, &knobs);
        if let Some(sender) = &self.plan {
            let _ = sender.send(plan.clone());
        }
        let hooks = hooks.map_err(privileges::explain)?;
        self.report_gaps(&plan)?;
        let without_owners = plan.provider(Need::Owner).is_none();
        let outbox = Outbox::new(batches, room(Place::Backlog, BACKLOG as u32) as usize);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&hooks.skel.maps.events, |record| {
                let mut event = decode::decode(record);
                if without_owners {
                    event.iter_mut().for_each(forget_owner);
                }
                outbox.take(event);
                0
            })
            .context("failed to map the ring buffer")?;
        let ring = builder.build().context("failed to map the ring buffer")?;
        let sampling = Sampling::new(plan.has(Provider::FileIterator));
        let running = Running {
            settings: &self.settings,
            stop: &self.stop,
            hooks,
            ring,
            outbox: &outbox,
            sampling,
            lost_before: Loss::default(),
            notice: self.notice,
            confinement: self.confinement.take(),
        };
        match running.run() {
            Ok(()) | Err(Stop::ReporterGone) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

impl LinuxCollector {
    /// Calls `notice` for each part of the output that cannot be shown here.
    ///
    /// # Errors
    /// Where neither TCP nor UDP can be shown.
    fn report_gaps(&self, plan: &Plan) -> Result<()> {
        let gaps: Vec<String> = plan.gaps().filter_map(gap_notice).collect();
        if !plan.shows(Protocol::Tcp) && !plan.shows(Protocol::Udp) {
            bail!("{}", gaps.join("; "));
        }
        for gap in gaps {
            (self.notice)(&gap);
        }
        if let Some(part) = names::cgroup_part().filter(|_| plan.has(Provider::CgroupSkb)) {
            (self.notice)(&format!(
                "cannot show UDP of other cgroups: {} is not the root of cgroup v2; run tcptop in \
                 the host's cgroup namespace",
                part.display()
            ));
        }
        Ok(())
    }
}

struct Running<'run> {
    settings: &'run Settings,
    stop: &'run OwnedFd,
    hooks: Hooks<'run>,
    ring: RingBuffer<'run>,
    outbox: &'run Outbox,
    sampling: Sampling,
    /// The loss counters of the kernel side at the last tick.
    lost_before: Loss,
    notice: fn(&str),
    confinement: Option<Confinement>,
}

impl Running<'_> {
    fn run(mut self) -> Result<(), Stop> {
        // The hooks are attached already, so they see every connection that begins from
        // now on. The listing finds all others.
        seed::held(&self.hooks.seed_held)?;
        if let Some(link) = &self.hooks.seed_unheld {
            if let Some(words) = seed::unheld(link)?.filter(|_| !self.settings.output.quiet) {
                (self.notice)(&words);
            }
        }
        // From here on tcptop only reads maps and iterators.
        self.confine()?;
        self.hooks.control()?.starting.write(false);
        let start = monotonic()?;
        self.tick(start, Moment::Listing)?;
        let times = &self.settings.times;
        let interval = duration_ns(times.interval);
        let end =
            times.duration.map_or(u64::MAX, |length| start.saturating_add(duration_ns(length)));
        let mut deadline = start.saturating_add(interval);
        let mut intervals = 0;
        loop {
            let stopping = self.wait(deadline.min(end))?;
            let now = monotonic()?;
            let last = stopping
                || now >= end
                || times.intervals().is_some_and(|count| intervals + 1 >= count);
            if !last && self.outbox.is_behind() {
                // The reporter has not taken the last interval yet: this one gets longer.
                deadline = next_deadline(deadline, interval, now);
                continue;
            }
            // Makes room in the outbox for the samples.
            self.flush()?;
            self.tick(monotonic()?, if last { Moment::Last } else { Moment::Between })?;
            if last {
                return Ok(());
            }
            intervals += 1;
            deadline = next_deadline(deadline, interval, monotonic()?);
        }
    }

    fn confine(&mut self) -> Result<()> {
        let Some(confinement) = self.confinement.take() else {
            return confine::keep_collectors().context("failed to give up privileges");
        };
        // Counters are read per processor. libbpf reads how many there are from a file, once.
        num_possible_cpus().context("failed to count the processors")?;
        let verbose = self.settings.more.verbose > 0;
        let memory = verbose.then(memory::figure);
        let parts = confinement.finish().context("failed to give up privileges")?;
        if verbose {
            parts.iter().for_each(|part| (self.notice)(&part.line()));
        }
        memory.into_iter().for_each(|figure| (self.notice)(&figure));
        Ok(())
    }

    /// Empties the ring until `deadline_ns`. Returns true, earlier, when the collector is
    /// asked to stop.
    fn wait(&mut self, deadline_ns: u64) -> Result<bool, Stop> {
        loop {
            let now = monotonic()?;
            if now >= deadline_ns {
                return Ok(false);
            }
            let timeout = TimeSpec::from_duration(Duration::from_nanos(deadline_ns - now));
            // SAFETY: the descriptor belongs to self.ring, which outlives this borrow.
            let ring = unsafe { BorrowedFd::borrow_raw(self.ring.epoll_fd()) };
            let mut waiting = [
                PollFd::new(ring, PollFlags::POLLIN),
                PollFd::new(self.stop.as_fd(), PollFlags::POLLIN),
            ];
            match ppoll(&mut waiting, Some(timeout), None) {
                Ok(_) | Err(Errno::EINTR) => {}
                result => {
                    result.context("failed to wait for the ring buffer")?;
                }
            }
            if waiting[1].revents().is_some_and(|events| !events.is_empty()) {
                return Ok(true);
            }
            drain(&self.ring)?;
            self.outbox.forward()?;
        }
    }

    /// Empties the ring and sends the events. Sends after each part of the ring, so that
    /// few events are in memory at a time.
    fn flush(&self) -> Result<(), Stop> {
        loop {
            let more = take(&self.ring)?;
            self.outbox.deliver(|| drain(&self.ring))?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Samples the connections that changed and ends the interval.
    fn tick(&mut self, now_ns: u64, moment: Moment) -> Result<(), Stop> {
        let instructions = self.sampling.begin(now_ns, moment);
        if instructions.look_up_owners {
            self.look_up_owners()?;
        }
        self.instruct(instructions)?;
        loop {
            let findings = self.pass()?;
            self.flush()?;
            match self.sampling.after_pass(now_ns, findings) {
                Next::LookUpOwners => self.look_up_owners()?,
                Next::Again => {}
                Next::Done => break,
            }
        }
        if moment == Moment::Last {
            // Only now: a connection that ends while the others are sampled has no socket
            // any more, and the hooks tell of its end. After this no connection begins or
            // ends in tcptop's view, so the last interval is complete.
            self.hooks.attached.clear();
            self.flush()?;
        }
        let lost = self.lost()?;
        self.sampling.end(&lost);
        let tick = Tick {
            now_ns,
            time: clock::wall(now_ns),
            lost,
            listing: moment == Moment::Listing,
            complete: instructions.sample,
        };
        self.outbox.end_interval(tick, || drain(&self.ring))
    }

    /// Runs each iterator that samples once.
    fn pass(&self) -> Result<Findings> {
        let mut findings = Findings::default();
        if let Some(link) = &self.hooks.sample {
            let sockets = iterate::sample(link)?;
            findings.visited = Some(sockets.visited);
            findings.deferred += sockets.deferred;
            findings.ownerless += sockets.ownerless;
        }
        if let Some(link) = &self.hooks.sample_flows {
            let flows = iterate::sample(link)?;
            findings.deferred += flows.deferred;
            findings.ownerless += flows.ownerless;
        }
        Ok(findings)
    }

    /// Finds out which process has each socket open. A socket that was accepted and not
    /// used since shows the owner of its listener until then.
    fn look_up_owners(&mut self) -> Result<()> {
        let start = monotonic()?;
        seed::held(&self.hooks.seed_held)?;
        self.sampling.owners_looked_up(start, monotonic()?);
        Ok(())
    }

    /// Sets what the programs visit and mark from now on.
    fn instruct(&mut self, instructions: Instructions) -> Result<()> {
        let control = self.hooks.control()?;
        control.sample_slices = instructions.sample.bits();
        control.marked_only.write(instructions.marked_only);
        control.marks_matter.write(instructions.marking);
        if instructions.marking {
            control.mark_rounds = control.mark_rounds.wrapping_add(1);
        }
        Ok(())
    }

    /// The losses since the last call, counted by the kernel side and by the outbox.
    fn lost(&mut self) -> Result<Loss> {
        let total = self.hooks.lost()?;
        let mut lost = self.outbox.take_lost();
        for cause in LossCause::ALL {
            lost[cause] += total[cause].saturating_sub(self.lost_before[cause]);
        }
        self.lost_before = total;
        Ok(lost)
    }
}

/// Takes up to [`CHUNK`] records out of the ring; true where there may be more.
fn take(ring: &RingBuffer<'_>) -> Result<bool> {
    let taken = ring.consume_raw_n(CHUNK);
    if taken < 0 {
        return Err(Errno::from_raw(-taken)).context("failed to read the ring buffer");
    }
    Ok(taken as usize >= CHUNK)
}

/// Takes records out of the ring until it is empty.
fn drain(ring: &RingBuffer<'_>) -> Result<(), Stop> {
    while take(ring)? {}
    Ok(())
}

/// Raises the priority of this thread, if that is permitted.
fn raise_priority() {
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

/// The notice for a need without a provider: what cannot be shown, why, what to do.
fn gap_notice(choice: &Choice) -> Option<String> {
    let reason = choice.failure()?;
    let remedy = if choice.need == Need::Udp && names::cgroup_root().is_none() {
        "`mount -t cgroup2 none DIRECTORY` mounts it"
    } else if choice.need == Need::Udp && !privileges::has(Capability::CAP_NET_ADMIN) {
        "this kernel needs CAP_NET_ADMIN for it, or root"
    } else {
        "`tcptop --doctor` tells more"
    };
    Some(format!("cannot show {}: {reason}; {remedy}", choice.need.fills()))
}

/// The first deadline after `now` that is a whole number of intervals after `deadline`,
/// so that intervals do not drift.
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
