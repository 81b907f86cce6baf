//! What must hold for any record in the ring, and for any text that a name is read from.
//! See [`crate::properties`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{decode, names as host_names, wire};
use crate::connection::{Closed, Sample};
use crate::event::CollectorEvent;

/// A record is refused, or it becomes the event that its bytes say at the offsets of
/// `bpf/event.h`.
pub fn decoding(data: &[u8]) {
    // The ring aligns records.
    let mut aligned = vec![0_u64; data.len().div_ceil(8)];
    // SAFETY: the bytes of integers may be written one by one, and so many are there.
    let record =
        unsafe { std::slice::from_raw_parts_mut(aligned.as_mut_ptr().cast::<u8>(), data.len()) };
    record.copy_from_slice(data);
    let length = record.len();
    let known = [
        size_of::<wire::Event>(),
        size_of::<wire::Identified>(),
        size_of::<wire::Detailed>(),
        size_of::<wire::CgroupMade>(),
    ];
    let event = decode::decode(record);
    if !known.contains(&length) {
        assert_eq!(event, None, "{length} bytes");
        return;
    }
    match event {
        Some(CollectorEvent::CgroupMade { id, path }) => {
            assert_eq!((record[0], length), (4, 1040));
            assert_eq!(id, u64_at(record, 8));
            assert!(path.starts_with('/') && !path.contains('\0'));
        }
        Some(CollectorEvent::Sample(sample)) => {
            assert_eq!(record[0], 1);
            check(record, &sample);
        }
        Some(CollectorEvent::Closed(Closed { sample, closed_ns, .. })) => {
            assert_eq!((record[0], record[2], closed_ns), (2, 6, u64_at(record, 24)));
            check(record, &sample);
        }
        Some(CollectorEvent::Expired(Closed { sample, closed_ns, .. })) => {
            assert_eq!((record[0], closed_ns), (3, u64_at(record, 24)));
            check(record, &sample);
        }
        Some(CollectorEvent::Untracked { sample, .. }) => {
            assert_eq!((record[0], record[2]), (5, 6));
            check(record, &sample);
        }
        Some(CollectorEvent::Tick(tick)) => panic!("no record is a tick: {tick:?}"),
        None if length < 1040 => {
            let state = matches!((record[2], record[3]), (17, _) | (6, 1..=5 | 8..=9 | 11));
            let refused = !matches!((record[0], record[1]), (1..=3 | 5, 2 | 10));
            let only_tcp = matches!((record[0], record[2]), (2 | 5, 17));
            assert!(refused || !state || only_tcp, "refused: {:?}", &record[..4]);
        }
        None => {}
    }
}

/// A name that is found is in the text, and a name that a runtime writes is found.
pub fn names(data: &[u8]) {
    host_names::properties::names(data);
}

fn check(record: &[u8], sample: &Sample) {
    let u16_at = |at: usize| u16::from_ne_bytes([record[at], record[at + 1]]);
    let u32_at = |at: usize| u64_at(record, at & !7).to_ne_bytes();
    let u32_at = |at: usize| {
        let bytes = u32_at(at);
        let half = at % 8;
        u32::from_ne_bytes([bytes[half], bytes[half + 1], bytes[half + 2], bytes[half + 3]])
    };
    let counters = &sample.counters;
    assert_eq!(sample.key.object, u64_at(record, 8));
    assert_eq!(sample.key.born_ns, u64_at(record, 16));
    assert_eq!(
        [counters.bytes_in, counters.bytes_out, counters.packets_in, counters.packets_out],
        [32, 40, 48, 56].map(|at| u64_at(record, at))
    );
    assert_eq!(sample.cgroup, u64_at(record, 64));
    for (end, at, port) in [(&sample.local, 72, 104), (&sample.remote, 88, 106)] {
        let bytes: [u8; 16] = std::array::from_fn(|byte| record[at + byte]);
        let address = match record[1] {
            2 => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
            _ => Ipv6Addr::from(bytes).to_canonical(),
        };
        assert_eq!((end.ip(), end.port()), (address, u16_at(port)));
    }
    assert_eq!((sample.netns, sample.uid), (u32_at(108), u32_at(116)));
    assert_eq!(sample.owner.map_or(0, |owner| owner.pid), u32_at(112));
    if let Some(owner) = sample.owner {
        let name = owner.name.as_bytes();
        assert!(record[120..136].starts_with(name) && !name.contains(&0));
    }
    assert_eq!(sample.rtt_us.unwrap_or(0), u32_at(136));
    assert_eq!((sample.retransmits, sample.ifindex), (u32_at(144), u32_at(148)));
    assert_eq!(sample.partial, record[4] & 1 == 1);
    if let Some(details) = sample.details.as_deref().filter(|details| details.cwnd.is_some()) {
        assert_eq!(record.len(), 304);
        assert_eq!(details.cwnd, Some(u32_at(160 + 16 + 64)));
    }
}

fn u64_at(record: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(std::array::from_fn(|byte| record[at + byte]))
}

#[cfg(test)]
mod tests {
    use crate::properties::try_it;

    #[test]
    fn a_record_is_what_its_bytes_say() {
        try_it("decoding", super::decoding);
    }

    #[test]
    fn names_come_from_their_texts() {
        try_it("names", super::names);
    }
}
