//! Turns the bytes of a record in the ring buffer into an event.
//!
//! Pure: no kernel, no clock. Never panics, because it runs in a callback of libbpf.

use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use rustc_hash::FxHasher;

use super::wire::{self, CgroupMade, Detailed, Event, Family, Flags, Identified, Kind, State};
use crate::connection::{
    CloseReason, Closed, ConnectionKey, Counters, Details, Identity, KernelName, Owner, Protocol,
    Sample, TcpState,
};
use crate::event::CollectorEvent;
use crate::names::CUT;

// Several flags can be set in one byte, so they are compared as integers.
const PARTIAL: u8 = Flags::TCPTOP_PARTIAL.0;
const FIN_RECEIVED: u8 = Flags::TCPTOP_FIN_RECEIVED.0;
const NO_FIN_WAIT2: u8 = Flags::TCPTOP_NO_FIN_WAIT2.0;
const ORPHAN: u8 = Flags::TCPTOP_ORPHAN.0;
const AGAIN: u8 = Flags::TCPTOP_AGAIN.0;

/// `tcp_sock.rtt_min` before the first measurement.
const NO_MIN_RTT: u32 = u32::MAX;

/// `tcp_sock.snd_ssthresh` before the first loss (`TCP_INFINITE_SSTHRESH` in
/// include/net/tcp.h).
const INFINITE_SSTHRESH: u32 = 0x7fff_ffff;

/// `tcptop_details.syn_retrans` where tcptop did not see the handshake (`TCPTOP_UNKNOWN`).
const NOT_SEEN: u32 = u32::MAX;

/// The event of a record, or `None` where its length, kind, family, protocol or state is
/// not one that the BPF programs write.
pub(super) fn decode(bytes: &[u8]) -> Option<CollectorEvent> {
    if bytes.len() == size_of::<CgroupMade>() {
        return cgroup(plain::from_bytes(bytes).ok()?);
    }
    let record: &Event = plain::from_bytes(bytes).ok()?;
    let mut sample = sample(record)?;
    if bytes.len() != size_of::<Event>() {
        (sample.id, sample.details) = rest(bytes, &sample)?;
    }
    match record.kind {
        Kind::TCPTOP_SAMPLE => Some(CollectorEvent::Sample(sample)),
        Kind::TCPTOP_CLOSED => Some(CollectorEvent::Closed(Closed {
            reason: close_reason(sample.state?, i32::from(record.error), record.flags),
            sample,
            closed_ns: record.time_ns,
        })),
        Kind::TCPTOP_EXPIRED => Some(CollectorEvent::Expired(Closed {
            sample,
            reason: CloseReason::Unknown,
            closed_ns: record.time_ns,
        })),
        Kind::TCPTOP_UNTRACKED => {
            sample.state?;
            Some(CollectorEvent::Untracked { sample, again: record.flags & AGAIN != 0 })
        }
        _ => None,
    }
}

fn cgroup(record: &CgroupMade) -> Option<CollectorEvent> {
    let told = std::ffi::CStr::from_bytes_until_nul(&record.path).ok()?;
    // The kernel has cut off a path that fills the record, maybe within a name.
    let cut = told.count_bytes() == record.path.len() - 1;
    let path = told.to_string_lossy();
    let path = match path.rfind('/') {
        Some(end) if cut => format!("{}{CUT}", &path[..end]).into(),
        _ => path.into(),
    };
    let known = record.kind == Kind::TCPTOP_CGROUP_MADE && told.to_bytes().starts_with(b"/");
    known.then_some(CollectorEvent::CgroupMade { id: record.id, path })
}

fn sample(record: &Event) -> Option<Sample> {
    let (protocol, state) = match record.protocol {
        wire::Protocol::TCPTOP_TCP => (Protocol::Tcp, Some(tcp_state(record.state)?)),
        wire::Protocol::TCPTOP_UDP => (Protocol::Udp, None),
        _ => return None,
    };
    let local = address(record.family, &record.local_addr)?;
    let remote = address(record.family, &record.remote_addr)?;
    Some(Sample {
        key: ConnectionKey { object: record.object, born_ns: record.born_ns },
        protocol,
        local: endpoint(local, record.local_port, record.scope),
        remote: endpoint(remote, record.remote_port, record.scope),
        state,
        owner: (record.tgid != 0)
            .then(|| Owner { pid: record.tgid, name: KernelName::from_comm(record.comm) }),
        counters: Counters {
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
            packets_in: record.packets_in,
            packets_out: record.packets_out,
        },
        rtt_us: (record.srtt_us != 0).then_some(record.srtt_us),
        min_rtt_us: (record.srtt_us != 0 && record.min_rtt_us != NO_MIN_RTT)
            .then_some(record.min_rtt_us),
        retransmits: record.retransmits,
        partial: record.flags & PARTIAL != 0,
        uid: record.uid,
        ifindex: record.ifindex,
        netns: record.netns,
        cgroup: record.cgroup,
        id: Identity::default(),
        details: None,
    })
}

/// What only a longer record has; `None` where its length is not one of them.
fn rest(bytes: &[u8], sample: &Sample) -> Option<(Identity, Option<Box<Details>>)> {
    let (event, identity, details) = if bytes.len() == size_of::<Identified>() {
        let record: &Identified = plain::from_bytes(bytes).ok()?;
        (&record.event, &record.identity, None)
    } else if bytes.len() == size_of::<Detailed>() {
        let record: &Detailed = plain::from_bytes(bytes).ok()?;
        (&record.event, &record.identity, Some(details(&record.event, &record.details)))
    } else {
        return None;
    };
    let part = match sample.protocol {
        Protocol::Tcp => identity.part,
        Protocol::Udp => flow_part(sample, identity.part),
    };
    // The record has the number plus 1, and 0 where it is not known.
    let drops = event.drops.checked_sub(1).map(u64::from);
    let details = if details.is_some() || drops.is_some() {
        Some(Box::new(Details { drops, ..details.unwrap_or_default() }))
    } else {
        None
    };
    Some((Identity { cookie: identity.cookie, part }, details))
}

/// Tells the flows of a UDP socket apart: a hash of the tuple, and of the time at which the
/// flow began in units of the timeout. Another flow of the same tuple comes only after a
/// timeout's silence, so never within the same unit.
fn flow_part(sample: &Sample, born: u64) -> u64 {
    let mut hasher = FxHasher::default();
    (sample.local, sample.remote, born).hash(&mut hasher);
    hasher.finish()
}

/// The values that `TCP_INFO` has, and none where the kernel has not measured one.
fn details(event: &Event, details: &wire::Details) -> Details {
    let measured = |value: u32| (value != 0).then_some(value);
    Details {
        connect_us: measured(details.connect_us),
        syn_retrans: (details.syn_retrans != NOT_SEEN).then_some(details.syn_retrans),
        cwnd: Some(details.cwnd),
        ssthresh: (details.ssthresh < INFINITE_SSTHRESH).then_some(details.ssthresh),
        mss: Some(details.mss),
        rttvar_us: (event.srtt_us != 0).then_some(details.rttvar_us),
        rcv_rtt_us: measured(details.rcv_rtt_us),
        delivery_rate: (details.delivery_rate != 0).then_some(details.delivery_rate),
        pacing_rate: (details.pacing_rate != u64::MAX).then_some(details.pacing_rate),
        unacked: Some(details.unacked),
        lost: Some(details.lost),
        reordering: Some(details.reordering),
        bytes_retrans: Some(details.bytes_retrans),
        dsack_dups: Some(details.dsack_dups),
        rcv_ooo: Some(details.rcv_ooo),
        notsent: Some(details.notsent),
        send_queue: Some(details.send_queue),
        recv_queue: Some(details.recv_queue),
        busy_us: Some(details.busy_us),
        rwnd_limited_us: Some(details.rwnd_limited_us),
        sndbuf_limited_us: Some(details.sndbuf_limited_us),
        congestion: (details.congestion[0] != 0).then(|| KernelName::from_comm(details.congestion)),
        drops: None,
    }
}

/// The state of a connection, or `None` for the kernel's states of other sockets
/// (TIME_WAIT, CLOSE, LISTEN, NEW_SYN_RECV).
fn tcp_state(state: State) -> Option<TcpState> {
    Some(match state {
        State::TCPTOP_ESTABLISHED => TcpState::Established,
        State::TCPTOP_SYN_SENT => TcpState::SynSent,
        State::TCPTOP_SYN_RECV => TcpState::SynRecv,
        State::TCPTOP_FIN_WAIT1 => TcpState::FinWait1,
        State::TCPTOP_FIN_WAIT2 => TcpState::FinWait2,
        State::TCPTOP_CLOSE_WAIT => TcpState::CloseWait,
        State::TCPTOP_LAST_ACK => TcpState::LastAck,
        State::TCPTOP_CLOSING => TcpState::Closing,
        _ => return None,
    })
}

/// An IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2) becomes IPv4, because its
/// packets are IPv4.
fn address(family: Family, bytes: &[u8; 16]) -> Option<IpAddr> {
    match family {
        Family::AF_INET => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
        Family::AF_INET6 => Some(Ipv6Addr::from(*bytes).to_canonical()),
        _ => None,
    }
}

/// A link-local address is unique only on its device, so it has a scope (RFC 4007).
fn endpoint(address: IpAddr, port: u16, scope: u32) -> SocketAddr {
    match address {
        IpAddr::V4(v4) => SocketAddrV4::new(v4, port).into(),
        IpAddr::V6(v6) => {
            let scope = if v6.is_unicast_link_local() { scope } else { 0 };
            SocketAddrV6::new(v6, port, 0, scope).into()
        }
    }
}

/// Why a connection went from `last` to CLOSE with `errno` in `sk_err`.
///
/// The kernel sets the error before the state (`tcp_reset`, `tcp_write_err`,
/// `tcp_v4_err`, `tcp_abort`). It sets no error where this host ends the connection:
/// an orderly end, `close()` with unread data, `SO_LINGER` 0.
pub(super) fn close_reason(last: TcpState, errno: i32, flags: u8) -> CloseReason {
    use nix::errno::Errno;
    match Errno::from_raw(errno) {
        Errno::UnknownErrno if errno == 0 => match last {
            TcpState::LastAck | TcpState::Closing => CloseReason::Fin,
            // Without the peer's FIN, an orphan continues as a TIME_WAIT socket, unless
            // its TCP_LINGER2 is below 0. All others are aborted.
            TcpState::FinWait2
                if flags & FIN_RECEIVED != 0
                    || (flags & ORPHAN != 0 && flags & NO_FIN_WAIT2 == 0) =>
            {
                CloseReason::Fin
            }
            TcpState::FinWait2 => CloseReason::Abort,
            // The process gave up a connect() without an answer. No packet is sent for that.
            TcpState::SynSent => CloseReason::Unknown,
            TcpState::Established
            | TcpState::SynRecv
            | TcpState::FinWait1
            | TcpState::CloseWait => CloseReason::Abort,
        },
        Errno::ECONNREFUSED => CloseReason::Refused,
        Errno::ECONNRESET | Errno::EPIPE => CloseReason::Reset,
        Errno::ECONNABORTED => CloseReason::Abort,
        Errno::ETIMEDOUT => CloseReason::Timeout,
        // The error codes of ICMP and ICMPv6 errors (icmp_err_convert, icmpv6_err_convert).
        Errno::EHOSTUNREACH
        | Errno::ENETUNREACH
        | Errno::EHOSTDOWN
        | Errno::ENONET
        | Errno::ENOPROTOOPT
        | Errno::EPROTO
        | Errno::EACCES => CloseReason::Unreachable,
        _ => CloseReason::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc;

    fn record() -> Event {
        let mut record = Event {
            kind: Kind::TCPTOP_SAMPLE,
            family: Family::AF_INET,
            protocol: wire::Protocol::TCPTOP_TCP,
            state: State::TCPTOP_ESTABLISHED,
            object: 7,
            born_ns: 9,
            bytes_in: 1000,
            local_port: 443,
            remote_port: 40000,
            tgid: 1234,
            srtt_us: 87,
            min_rtt_us: 55,
            ..Event::default()
        };
        record.local_addr[..4].copy_from_slice(&[10, 0, 0, 1]);
        record.remote_addr[..4].copy_from_slice(&[10, 0, 0, 2]);
        record.comm[..4].copy_from_slice(b"curl");
        record
    }

    fn bytes(record: &Event) -> &[u8] {
        // SAFETY: Event is Plain: initialised bytes without padding.
        unsafe { plain::as_bytes(record) }
    }

    fn decoded_longer<T: plain::Plain>(record: &T) -> Option<Sample> {
        // SAFETY: Plain types are initialised bytes without padding.
        match decode(unsafe { plain::as_bytes(record) }) {
            Some(CollectorEvent::Sample(sample)) => Some(sample),
            _ => None,
        }
    }

    fn decoded(record: &Event) -> Sample {
        match decode(bytes(record)) {
            Some(CollectorEvent::Sample(sample)) => sample,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_sample_says_what_the_record_says() {
        let sample = decoded(&record());
        assert_eq!(sample.local.to_string(), "10.0.0.1:443");
        assert_eq!(sample.remote.to_string(), "10.0.0.2:40000");
        let owner = sample.owner.expect("owner");
        assert_eq!((owner.pid, owner.name.as_bytes()), (1234, &b"curl"[..]));
        assert_eq!((sample.rtt_us, sample.min_rtt_us), (Some(87), Some(55)));
        assert_eq!(sample.state, Some(TcpState::Established));
        assert!(!sample.partial);
    }

    #[test]
    fn a_mapped_address_is_shown_as_ipv4() {
        let mut record = record();
        record.family = Family::AF_INET6;
        record.local_addr = "::ffff:192.0.2.1".parse::<Ipv6Addr>().expect("address").octets();
        record.remote_addr = "2001:db8::1".parse::<Ipv6Addr>().expect("address").octets();
        record.scope = 3;
        let sample = decoded(&record);
        assert_eq!(sample.local.to_string(), "192.0.2.1:443");
        assert_eq!(sample.remote.to_string(), "[2001:db8::1]:40000", "global: no scope");
        record.local_addr = "fe80::1".parse::<Ipv6Addr>().expect("address").octets();
        assert_eq!(decoded(&record).local.to_string(), "[fe80::1%3]:443");
    }

    #[test]
    fn a_cgroup_has_its_path_up_to_the_first_nul() {
        let mut record = CgroupMade {
            kind: Kind::TCPTOP_CGROUP_MADE,
            id: 4711,
            path: [b'x'; 1024],
            ..CgroupMade::default()
        };
        let decoded = |record: &CgroupMade| {
            // SAFETY: CgroupMade is Plain: initialised bytes without padding.
            decode(unsafe { plain::as_bytes(record) })
        };
        assert_eq!(decoded(&record), None, "without an end");
        record.path[..8].copy_from_slice(b"/a\xffb\n\0\0y");
        let path = "/a\u{fffd}b\n".into();
        assert_eq!(decoded(&record), Some(CollectorEvent::CgroupMade { id: 4711, path }));
        let path_of = |record: &CgroupMade| match decoded(record) {
            Some(CollectorEvent::CgroupMade { path, .. }) => path,
            other => panic!("{other:?}"),
        };
        record.path = [b'/'; 1024];
        record.path[1..1022].fill(b'x');
        record.path[1022] = 0;
        assert_eq!(path_of(&record).len(), 1022, "this one is whole");
        record.path[1000] = b'/';
        record.path[1022..].copy_from_slice(b"x\0");
        assert_eq!(path_of(&record).len(), 1004);
        assert!(path_of(&record).ends_with("x/..."), "cut off in its last name");
        record.path[0] = b'a';
        assert_eq!(decoded(&record), None, "no path");
        record.path[0] = b'/';
        record.kind = Kind::TCPTOP_SAMPLE;
        assert_eq!(decoded(&record), None, "another kind");
    }

    #[test]
    fn unknown_is_not_zero() {
        let mut record = record();
        record.tgid = 0;
        record.srtt_us = 0;
        record.min_rtt_us = NO_MIN_RTT;
        let sample = decoded(&record);
        assert_eq!((sample.owner, sample.rtt_us, sample.min_rtt_us), (None, None, None));
    }

    #[test]
    fn a_longer_record_says_who_and_why_slow() {
        let identity = wire::Identity { cookie: 5, part: 6 };
        let mut identified = Identified { event: record(), identity };
        let sample = decoded_longer(&identified).expect("a sample");
        assert_eq!(sample.id, Identity { cookie: 5, part: 6 });
        assert_eq!(sample.details, None, "nobody asked");
        identified.event.drops = 1;
        let sample = decoded_longer(&identified).expect("a sample");
        assert_eq!(sample.details.expect("drops").drops, Some(0));

        let details = wire::Details {
            pacing_rate: u64::MAX,
            cwnd: 10,
            ssthresh: INFINITE_SSTHRESH,
            rttvar_us: 3,
            syn_retrans: NOT_SEEN,
            busy_us: 8000,
            congestion: *b"cubic\0\0\0\0\0\0\0\0\0\0\0",
            ..wire::Details::default()
        };
        let mut detailed = Detailed { event: record(), identity, details };
        let known = Details {
            cwnd: Some(10),
            mss: Some(0),
            rttvar_us: Some(3),
            unacked: Some(0),
            lost: Some(0),
            reordering: Some(0),
            bytes_retrans: Some(0),
            dsack_dups: Some(0),
            rcv_ooo: Some(0),
            notsent: Some(0),
            send_queue: Some(0),
            recv_queue: Some(0),
            busy_us: Some(8000),
            rwnd_limited_us: Some(0),
            sndbuf_limited_us: Some(0),
            congestion: Some(KernelName::from_comm(details.congestion)),
            ..Details::default()
        };
        let sample = decoded_longer(&detailed).expect("a sample");
        assert_eq!(sample.id, Identity { cookie: 5, part: 6 });
        assert_eq!(sample.details.as_deref(), Some(&known));
        (detailed.event.srtt_us, detailed.event.drops) = (0, 3);
        detailed.details.ssthresh = 7;
        detailed.details.syn_retrans = 0;
        detailed.details.connect_us = 9;
        let known = Details {
            rttvar_us: None,
            drops: Some(2),
            ssthresh: Some(7),
            syn_retrans: Some(0),
            connect_us: Some(9),
            ..known
        };
        assert_eq!(decoded_longer(&detailed).expect("a sample").details.as_deref(), Some(&known));
    }

    #[test]
    fn flows_of_a_socket_differ_by_tuple_and_time() {
        let flow = |port: u16, born: u64| {
            let mut event = record();
            event.protocol = wire::Protocol::TCPTOP_UDP;
            event.remote_port = port;
            let identity = wire::Identity { cookie: 5, part: born };
            decoded_longer(&Identified { event, identity }).expect("a sample").id
        };
        assert_eq!(flow(53, 1), flow(53, 1));
        let ids = [flow(53, 1), flow(53, 2), flow(54, 1), flow(54, 2)];
        let parts: std::collections::HashSet<u64> = ids.iter().map(|id| id.part).collect();
        assert_eq!((parts.len(), ids[0].cookie), (4, 5));
    }

    #[test]
    fn nonsense_is_refused() {
        let good = record();
        assert_eq!(decode(&bytes(&good)[..80]), None, "short");
        let identified = Identified { event: good, ..Identified::default() };
        // SAFETY: Identified is Plain.
        let longer = unsafe { plain::as_bytes(&identified) };
        assert!(decode(longer).is_some());
        assert_eq!(decode(&longer[..168]), None, "between two lengths");
        for spoil in [
            |record: &mut Event| record.kind = Kind(77),
            |record: &mut Event| record.family = Family(1),
            |record: &mut Event| record.protocol = wire::Protocol(132),
            |record: &mut Event| record.state = State(10),
        ] {
            let mut bad = good;
            spoil(&mut bad);
            assert_eq!(decode(bytes(&bad)), None);
        }
    }

    #[test]
    fn the_reason_follows_the_error_and_the_last_state() {
        use CloseReason::*;
        for (last, errno, flags, reason) in [
            (TcpState::LastAck, 0, FIN_RECEIVED, Fin),
            (TcpState::Closing, 0, FIN_RECEIVED, Fin),
            (TcpState::FinWait2, 0, FIN_RECEIVED, Fin),
            (TcpState::FinWait2, 0, ORPHAN, Fin),
            (TcpState::FinWait2, 0, ORPHAN | NO_FIN_WAIT2, Abort),
            (TcpState::FinWait2, 0, 0, Abort),
            (TcpState::Established, 0, 0, Abort),
            (TcpState::CloseWait, 0, FIN_RECEIVED, Abort),
            (TcpState::SynSent, 0, 0, Unknown),
            (TcpState::SynSent, libc::ECONNREFUSED, 0, Refused),
            (TcpState::SynSent, libc::ETIMEDOUT, 0, Timeout),
            (TcpState::SynSent, libc::EHOSTUNREACH, 0, Unreachable),
            (TcpState::Established, libc::ECONNRESET, 0, Reset),
            (TcpState::CloseWait, libc::EPIPE, FIN_RECEIVED, Reset),
            (TcpState::Established, libc::ETIMEDOUT, 0, Timeout),
            (TcpState::Established, libc::ECONNABORTED, 0, Abort),
            (TcpState::Established, libc::ENOMEM, 0, Unknown),
        ] {
            assert_eq!(close_reason(last, errno, flags), reason, "{last:?} {errno}");
        }
    }
}
