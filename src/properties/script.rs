//! Events as a collector could send them, made from any bytes, and what they add up to.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use arbitrary::{Result, Unstructured};
use chrono::{DateTime, TimeDelta};

use crate::connection::{
    CloseReason, Closed, ConnectionKey, Counters, Details, Identity, KernelName, Needs, Owner,
    Protocol, Sample, TcpState,
};
use crate::event::{CollectorEvent, Slices, Tick};
use crate::loss::{Loss, LossCause};
use crate::names::{Names, Place};

/// Bytes that make some connections.
pub(super) const SAMPLE: &[u8] = include_bytes!("sample");

/// How a connection left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Open,
    /// With a record.
    Closed,
    /// Without one, counted or not.
    Unnoticed,
}

/// What was told of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Its totals, and the highest where a sample stepped back.
    pub(super) counters: Counters,
    pub(super) fate: Fate,
}

/// All connections that events told of.
pub(super) type All = HashMap<ConnectionKey, Told>;

/// Events, and what they add up to.
pub(super) struct Script {
    pub(super) events: Vec<CollectorEvent>,
    pub(super) known: All,
}

/// The state of the host that a script is about.
#[derive(Default)]
struct Host {
    events: Vec<CollectorEvent>,
    known: All,
    /// The newest state of each open connection, with its whole counts.
    open: Vec<Sample>,
    /// Whether the tick before lost an end: then the next one samples all connections.
    lost_end: bool,
    /// Connections that closed since the tick before the last one.
    recent: [Vec<Sample>; 2],
    lost: Loss,
    now_ns: u64,
    next: u64,
}

impl Script {
    pub(super) fn make(data: &mut Unstructured<'_>) -> Result<Script> {
        const STEPS: usize = 400;
        let mut host = Host { now_ns: 1 << 40, ..Host::default() };
        host.tick(data, true)?;
        for _ in 0..STEPS {
            if data.is_empty() {
                break;
            }
            host.step(data)?;
        }
        // All that moved is told at last, at a time that no other tick has.
        host.tick(&mut Unstructured::new(&[]), false)?;
        if let Some(CollectorEvent::Tick(last)) = host.events.last_mut() {
            last.time += TimeDelta::days(1000);
        }
        Ok(Script { events: host.events, known: host.known })
    }
}

impl Host {
    fn step(&mut self, data: &mut Unstructured<'_>) -> Result<()> {
        let choice = data.int_in_range(0..=15u8)?;
        if self.open.is_empty() || (choice == 0 && self.open.len() < 12) {
            let sample = self.connection(data)?;
            self.open.push(sample);
        }
        let index = data.choose_index(self.open.len())?;
        match choice {
            0..=7 => self.sample(index, data),
            8 | 9 => self.close(index, data),
            10 => {
                // Its end is lost, and counted or not.
                if self.open[index].protocol == Protocol::Tcp {
                    let gone = self.open.swap_remove(index);
                    self.known.entry(gone.key).and_modify(|told| told.fate = Fate::Unnoticed);
                    let count = data.int_in_range(0..=1)?;
                    self.lost[LossCause::RingFull] += count;
                }
                Ok(())
            }
            11 => {
                // A sample that was taken while the connection closed.
                let late: Vec<&Sample> = self.recent.iter().flatten().collect();
                if !late.is_empty() {
                    let late = (*data.choose(&late)?).clone();
                    self.events.push(CollectorEvent::Sample(late));
                }
                Ok(())
            }
            12 => {
                let (id, path) = (data.int_in_range(0..=3)?, "/a/b".into());
                self.events.push(CollectorEvent::CgroupMade { id, path });
                Ok(())
            }
            _ => self.tick(data, false),
        }
    }

    /// A new connection, of which nothing was told yet.
    fn connection(&mut self, data: &mut Unstructured<'_>) -> Result<Sample> {
        self.next += 1;
        let protocol = if data.ratio(1, 3)? { Protocol::Udp } else { Protocol::Tcp };
        let object = data.int_in_range(0..=5)?;
        let key = ConnectionKey { object, born_ns: self.now_ns.wrapping_add(self.next * 7919) };
        let sample = Sample::new(key, protocol, address(data)?, address(data)?);
        Ok(Sample {
            partial: data.ratio(1, 5)?,
            uid: data.int_in_range(0..=2)?,
            cgroup: data.int_in_range(0..=3)?,
            id: Identity { cookie: self.next, part: self.next },
            ..sample
        })
    }

    /// The connection moves something. Returns it as the kernel shows it: TCP's segments
    /// modulo 2^32, and sometimes a byte less than before.
    fn moved(&mut self, index: usize, data: &mut Unstructured<'_>) -> Result<Sample> {
        let sample = &mut self.open[index];
        let is_tcp = sample.protocol == Protocol::Tcp;
        let more = &mut sample.counters;
        more.bytes_in += amount(data)?;
        more.bytes_out += amount(data)?;
        more.packets_in += amount(data)? >> 8;
        more.packets_out += amount(data)? >> 8;
        sample.state = if is_tcp { Some(*data.choose(&TcpState::ALL)?) } else { None };
        let name: [u8; 16] = data.arbitrary()?;
        let pid = data.int_in_range(0..=3)?;
        sample.owner = (pid != 0).then_some(Owner { pid, name: KernelName::from_comm(name) });
        sample.rtt_us = if is_tcp { data.arbitrary()? } else { None };
        sample.retransmits = sample.retransmits.saturating_add(data.int_in_range(0..=2)?);
        if data.ratio(1, 4)? {
            sample.details = Some(Box::new(Details {
                cwnd: data.arbitrary()?,
                busy_us: data.arbitrary()?,
                rwnd_limited_us: data.arbitrary()?,
                sndbuf_limited_us: data.arbitrary()?,
                delivery_rate: data.arbitrary()?,
                congestion: Some(KernelName::from_comm(name)),
                ..Details::default()
            }));
        }
        let mut shown = sample.clone();
        if is_tcp {
            shown.counters.packets_in &= u64::from(u32::MAX);
            shown.counters.packets_out &= u64::from(u32::MAX);
            if data.ratio(1, 8)? {
                shown.counters.bytes_in = shown.counters.bytes_in.saturating_sub(1);
            }
        }
        Ok(shown)
    }

    /// Notes what a record says.
    fn tell(&mut self, shown: &Sample, whole: Counters, fate: Fate) {
        let none = Told { counters: Counters::default(), fate };
        let told = self.known.entry(shown.key).or_insert(none);
        told.fate = fate;
        let counters = &mut told.counters;
        counters.bytes_in = counters.bytes_in.max(shown.counters.bytes_in);
        counters.bytes_out = counters.bytes_out.max(shown.counters.bytes_out);
        (counters.packets_in, counters.packets_out) = (whole.packets_in, whole.packets_out);
    }

    fn sample(&mut self, index: usize, data: &mut Unstructured<'_>) -> Result<()> {
        let shown = self.moved(index, data)?;
        self.tell(&shown, self.open[index].counters, Fate::Open);
        self.events.push(CollectorEvent::Sample(shown));
        Ok(())
    }

    fn close(&mut self, index: usize, data: &mut Unstructured<'_>) -> Result<()> {
        let sample = self.moved(index, data)?;
        let whole = self.open.swap_remove(index);
        self.tell(&sample, whole.counters, Fate::Closed);
        self.recent[0].push(sample.clone());
        let closed_ns = self.now_ns + 1;
        self.events.push(match sample.protocol {
            Protocol::Tcp => {
                let reasons = [CloseReason::Fin, CloseReason::Reset, CloseReason::Unknown];
                let reason = *data.choose(&reasons)?;
                CollectorEvent::Closed(Closed { sample, reason, closed_ns })
            }
            Protocol::Udp => {
                let reason = CloseReason::Unknown;
                CollectorEvent::Expired(Closed { sample, reason, closed_ns })
            }
        });
        Ok(())
    }

    fn tick(&mut self, data: &mut Unstructured<'_>, listing: bool) -> Result<()> {
        // After an end was lost, all connections are sampled. Each that is open is told of.
        let all = self.lost_end || data.ratio(1, 3)?;
        let some = Slices::from(data.arbitrary()?, data.int_in_range(0..=Slices::COUNT)?);
        let complete = if all { Slices::ALL } else { some };
        for index in 0..self.open.len() {
            let sample = &self.open[index];
            if sample.protocol == Protocol::Tcp && complete.contains(&sample.key) {
                self.sample(index, data)?;
            }
        }
        self.now_ns += u64::from(data.arbitrary::<u32>()?) + 1_000_000;
        let step = TimeDelta::seconds(data.arbitrary::<i16>()?.into());
        let now = TimeDelta::nanoseconds(i64::try_from(self.now_ns).unwrap_or_default());
        if data.ratio(1, 6)? {
            self.lost[*data.choose(&LossCause::ALL[1..])?] += 1;
        }
        let lost = std::mem::take(&mut self.lost);
        self.lost_end = lost.hides_ends();
        self.events.push(CollectorEvent::Tick(Tick {
            now_ns: self.now_ns,
            time: DateTime::UNIX_EPOCH + now + step,
            lost,
            listing,
            complete,
        }));
        let [last, before] = &mut self.recent;
        *before = std::mem::take(last);
        Ok(())
    }
}

/// Mostly small.
fn amount(data: &mut Unstructured<'_>) -> Result<u64> {
    let bits = data.int_in_range(0..=38)?;
    Ok(data.arbitrary::<u64>()? & ((1 << bits) - 1))
}

fn address(data: &mut Unstructured<'_>) -> Result<SocketAddr> {
    let address = match data.int_in_range(0..=3u8)? {
        0 => IpAddr::V6(Ipv6Addr::from(data.arbitrary::<u128>()?)),
        _ => IpAddr::V4(Ipv4Addr::from(data.arbitrary::<u32>()?)),
    };
    Ok(SocketAddr::new(address, data.arbitrary()?))
}

/// The same names for every connection.
pub(super) struct Strings([Option<String>; 8]);

impl Strings {
    pub(super) fn make(data: &mut Unstructured<'_>) -> Strings {
        Strings(std::array::from_fn(|_| {
            let length = data.int_in_range(0..=20).ok()?;
            let bytes = data.bytes(length.min(data.len())).ok()?;
            (length > 2).then(|| String::from_utf8_lossy(bytes).into_owned())
        }))
    }
}

impl Names for Strings {
    fn refresh(&mut self) {}
    fn cgroup_made(&mut self, _: u64, _: &str) {}
    fn place(&mut self, _: &Sample, _: Needs) -> Place<'_> {
        let [interface, cgroup, container, container_name, pod, unit, exe, user] = &self.0;
        Place {
            interface: interface.as_deref(),
            cgroup: cgroup.as_deref(),
            container: container.as_deref(),
            container_name: container_name.as_deref(),
            pod: pod.as_deref(),
            unit: unit.as_deref(),
            exe: exe.as_deref(),
            user: user.as_deref(),
        }
    }
}
