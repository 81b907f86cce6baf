//! The Linux collector: ring buffer and iterators become batches of events.
//!
//! Owns the thread that polls: it empties the ring between ticks, runs the
//! iterators at each tick, and ends. What a tick visits is decided in
//! [`sampling`](super::sampling); what waits for the reporter, and what is lost
//! there, is kept in [`outbox`](super::outbox). Prints nothing and keeps no
//! connections.
//!
//! A reporter that is blocked (a paused pager) stops the sampling, not the
//! counting: totals are cumulative, so the next tick makes up for it.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};
use caps::Capability;
use crossbeam_channel::Sender;
use libbpf_rs::{RingBuffer, RingBufferBuilder};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::clock::{self, monotonic};
use super::outbox::Outbox;
use super::plan::{Choice, Need, Plan, Provider};
use super::programs::{self, Hooks, Knobs};
use super::sampling::{Findings, Instructions, Moment, Next, Sampling};
use super::{decode, iterate, names, privileges, seed};
use crate::connection::{Closed, Protocol};
use crate::event::{Batch, CollectorEvent, NetworkCollector, Tick};
use crate::loss::{Loss, LossCause};
use crate::settings::Settings;

/// Batches in the channel between collector and reporter.
pub(super) const CHANNEL: usize = 8;

/// Room for 12,000 close records before anything is lost. The pages are mapped
/// twice and count twice in the resident size.
const RING_BYTES: u32 = 2 << 20;

/// The collector's thread goes first where the processors are all busy: it has
/// little to do, and what it is late for is lost.
const NICE: i32 = -10;

/// Records taken from the ring at a time.
const CHUNK: usize = 1024;

/// The host's connections, from the running kernel.
pub(super) struct LinuxCollector {
    /// What to collect, when to tick and when to end.
    pub(super) settings: Settings,
    /// Providers that are not to be tried.
    pub(super) without: Vec<Provider>,
    /// End when the other end of this pipe is closed.
    pub(super) stop: OwnedFd,
    /// Told what cannot be shown, and why, in one line.
    pub(super) notice: fn(&str),
    /// Told the hook plan, before it is known whether everything could be attached.
    pub(super) plan: Option<Sender<Plan>>,
}

/// Why the collector stops before its time.
#[derive(Debug)]
pub(super) enum Stop {
    /// The receiver is gone: the reporter has ended, and says itself why.
    ReporterGone,
    /// Something failed for good.
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Failed(error)
    }
}

impl NetworkCollector for LinuxCollector {
    fn run(&mut self, batches: Sender<Batch>) -> Result<()> {
        programs::set_verbose(self.settings.more.verbose);
        go_first();
        let mut storage = [MaybeUninit::uninit(), MaybeUninit::uninit()];
        let knobs = Knobs::new(&self.settings, &self.without, RING_BYTES);
        let (plan, hooks) = Hooks::attach(&mut storage, &knobs);
        if let Some(sender) = &self.plan {
            let _ = sender.send(plan.clone());
        }
        let hooks = hooks.map_err(privileges::explain)?;
        self.tell_of_gaps(&plan)?;
        let without_owners = plan.provider(Need::Owner).is_none();
        let outbox = Outbox::new(batches);
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
        };
        match running.run() {
            Ok(()) | Err(Stop::ReporterGone) => Ok(()),
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

impl LinuxCollector {
    /// Says what cannot be shown here.
    ///
    /// # Errors
    /// Where nothing can.
    fn tell_of_gaps(&self, plan: &Plan) -> Result<()> {
        let gaps: Vec<String> = plan.gaps().filter_map(words_for).collect();
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
    /// The kernel's counters of losses at the last tick.
    lost_before: Loss,
    notice: fn(&str),
}

impl Running<'_> {
    fn run(mut self) -> Result<(), Stop> {
        // Attached already: what begins from now on is seen, so nothing falls
        // between the listing and the stream.
        seed::held(&self.hooks.seed_held)?;
        if let Some(link) = &self.hooks.seed_unheld {
            seed::unheld(link)?;
        }
        // From here on only maps and iterators are read.
        privileges::give_up_all_but(&[Capability::CAP_BPF], self.notice);
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
                // The reporter still has the last interval: this one gets longer.
                deadline = next_deadline(deadline, interval, now);
                continue;
            }
            if last {
                // Nothing begins or ends from here on, so the last interval is whole.
                self.hooks.attached.clear();
            }
            // A full backlog would have no room for samples.
            self.flush()?;
            self.tick(monotonic()?, if last { Moment::Last } else { Moment::Between })?;
            if last {
                return Ok(());
            }
            intervals += 1;
            deadline = next_deadline(deadline, interval, monotonic()?);
        }
    }

    /// Empties the ring until `deadline_ns`; true where tcptop was told to stop
    /// before.
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

    /// Takes everything out of the ring, also while more comes in, and hands it
    /// over as it goes: what is in memory stays small.
    fn flush(&self) -> Result<(), Stop> {
        loop {
            let more = take(&self.ring)?;
            self.outbox.deliver(|| drain(&self.ring))?;
            if !more {
                return Ok(());
            }
        }
    }

    /// Samples what changed and ends the interval.
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
        let lost = self.lost()?;
        self.sampling.end(&lost);
        let tick = Tick {
            now_ns,
            time: clock::wall(now_ns),
            lost,
            listing: moment == Moment::Listing,
            complete: instructions.sample_all,
        };
        self.outbox.end_interval(tick, || drain(&self.ring))
    }

    /// Runs the iterators that sample, once each.
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

    /// Sockets that were accepted and not used since still show their listener's
    /// owner: finds who holds them.
    fn look_up_owners(&mut self) -> Result<()> {
        let start = monotonic()?;
        seed::held(&self.hooks.seed_held)?;
        self.sampling.owners_looked_up(start, monotonic()?);
        Ok(())
    }

    /// Tells the programs what they are to visit and to mark.
    fn instruct(&mut self, instructions: Instructions) -> Result<()> {
        let control = self.hooks.control()?;
        control.sample_all.write(instructions.sample_all);
        control.marked_only.write(instructions.marked_only);
        control.marks_matter.write(instructions.marking);
        if instructions.marking {
            control.mark_rounds = control.mark_rounds.wrapping_add(1);
        }
        Ok(())
    }

    /// What was lost since the last call: the kernel's counters and our own.
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

/// Takes some records out of the ring; true where there may be more.
fn take(ring: &RingBuffer<'_>) -> Result<bool> {
    let taken = ring.consume_raw_n(CHUNK);
    if taken < 0 {
        return Err(Errno::from_raw(-taken)).context("failed to read the ring buffer");
    }
    Ok(taken as usize >= CHUNK)
}

/// Takes everything out of the ring, also while more comes in.
fn drain(ring: &RingBuffer<'_>) -> Result<(), Stop> {
    while take(ring)? {}
    Ok(())
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

/// What cannot be shown since a need has no provider, why, and what to do.
fn words_for(choice: &Choice) -> Option<String> {
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
