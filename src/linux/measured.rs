//! For `benches/rows.rs` only: what the collector's thread does with the records of
//! connections that end, without a kernel. Owns the records; everything else is the
//! collector's own.

use std::net::{IpAddr, SocketAddr};

use crossbeam_channel::Sender;

use super::outbox::{BACKLOG, Outbox};
use super::wire::{self, Event, Family, Kind, State};
use super::{collector, decode};
use crate::connection::Closed;
use crate::event::{Batch, Tick};

/// How many records the ring has each time the collector looks.
const AT_ONCE: usize = 200;

/// The records of connections that ended.
pub struct Records(Vec<Event>);

impl Records {
    /// As the BPF programs write them.
    pub fn new(ends: &[Closed]) -> Records {
        Records(ends.iter().map(record).collect())
    }
}

/// What the collector has, except for its kernel side.
pub struct Collector(Outbox);

impl Collector {
    /// How many batches the channel to the reporter has room for.
    pub const CHANNEL: usize = collector::CHANNEL;

    /// Sends into `batches`.
    pub fn new(batches: Sender<Batch>) -> Collector {
        Collector(Outbox::new(batches, BACKLOG))
    }

    /// Takes the records of an interval and ends it. False where the receiver is gone.
    pub fn interval(&self, records: &Records, tick: Tick) -> bool {
        for some in records.0.chunks(AT_ONCE) {
            for record in some {
                // SAFETY: Event is Plain: initialised bytes without padding.
                self.0.take(decode::decode(unsafe { plain::as_bytes(record) }));
            }
            if self.0.forward().is_err() {
                return false;
            }
        }
        self.0.end_interval(tick, || Ok(())).is_ok()
    }
}

fn record(closed: &Closed) -> Event {
    let sample = &closed.sample;
    let owner = sample.owner.as_ref();
    let mut comm = [0; 16];
    let name = owner.map_or(&b""[..], |owner| owner.name.as_bytes());
    comm[..name.len()].copy_from_slice(name);
    let is_ipv6 = sample.local.is_ipv6() || sample.remote.is_ipv6();
    let counters = &sample.counters;
    Event {
        kind: Kind::TCPTOP_CLOSED,
        family: if is_ipv6 { Family::AF_INET6 } else { Family::AF_INET },
        protocol: wire::Protocol::TCPTOP_TCP,
        state: State::TCPTOP_LAST_ACK,
        object: sample.key.object,
        born_ns: sample.key.born_ns,
        time_ns: closed.closed_ns,
        bytes_in: counters.bytes_in,
        bytes_out: counters.bytes_out,
        packets_in: counters.packets_in,
        packets_out: counters.packets_out,
        cgroup: sample.cgroup,
        local_addr: address(sample.local, is_ipv6),
        remote_addr: address(sample.remote, is_ipv6),
        local_port: sample.local.port(),
        remote_port: sample.remote.port(),
        netns: sample.netns,
        tgid: owner.map_or(0, |owner| owner.pid),
        uid: sample.uid,
        comm,
        srtt_us: sample.rtt_us.unwrap_or_default(),
        min_rtt_us: sample.min_rtt_us.unwrap_or(u32::MAX),
        retransmits: sample.retransmits,
        ifindex: sample.ifindex,
        ..Event::default()
    }
}

/// The address as a socket of IPv6 has it, or as one of IPv4.
fn address(end: SocketAddr, is_ipv6: bool) -> [u8; 16] {
    let mut bytes = [0; 16];
    match end.ip() {
        IpAddr::V4(address) if is_ipv6 => bytes = address.to_ipv6_mapped().octets(),
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    bytes
}
