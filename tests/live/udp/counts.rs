//! Every datagram counts once, with all of its bytes, by every call that can send or
//! receive it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::process;

use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

use crate::common::rng::Rng;
use crate::common::sock::{self, Ends, Family, set_int};
use crate::common::tcptop::Tcptop;
use crate::common::udp::{self, Duo, LARGEST, QUICK, Totals, check_flow, wait_totals};
use crate::common::wait::until_true;
use crate::live::{Test, sharing};

use super::{Link, Provider, check_duos, roomy, wait_duos};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("udp::hundred_thousand_datagrams", hundred_thousand_datagrams),
        sharing("udp::every_size", every_size),
        sharing("udp::segmented_sends", segmented_sends),
        sharing("udp::corked_sends", corked_sends),
        sharing("udp::peeking", peeking),
        sharing("udp::truncated_receives", truncated_receives),
        sharing("udp::over_a_small_mtu", over_a_small_mtu),
        sharing("udp::nobody_listens", nobody_listens),
        sharing("udp::own_peer", own_peer),
        sharing("udp::raw_sockets_are_no_flows", raw_sockets_are_no_flows),
        sharing("udp::overflow", overflow),
    ]
}

const UDP_GRO: i32 = 104;

/// Connected and unconnected, all families, both directions, mixed sizes.
fn hundred_thousand_datagrams() {
    let tcptop = Tcptop::share(&QUICK);
    let mut duos: Vec<Duo> = [true, false]
        .iter()
        .flat_map(|&connected| Family::ALL.map(|family| Duo::new(family, connected)))
        .collect();
    let mut rng = Rng::new(0x7c97_0003);
    let mut left = 100_000;
    while left > 0 {
        let duo = &mut duos[rng.below(8) as usize];
        let count = (1 + rng.below(32)).min(left) as u32;
        left -= u64::from(count);
        let size = rng.pick(&[0, 1, 12, 64, 300, 1200, 1472, 1473]);
        if rng.below(2) == 0 { duo.send(size, count) } else { duo.answer(size, count) }
    }
    let total: u64 = duos.iter().map(|duo| duo.totals.packets_in + duo.totals.packets_out).sum();
    assert_eq!(total, 100_000);
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

/// Datagrams from an empty one to the largest possible one.
fn every_size() {
    let tcptop = Tcptop::share(&QUICK);
    let mut duos: Vec<Duo> = [true, false]
        .iter()
        .flat_map(|&connected| Family::ALL.map(|family| Duo::new(family, connected)))
        .collect();
    for duo in &mut duos {
        for size in [0, 1, 2, 63, 64, 65, 511, 1500, 4096, 8191, 16_384, 40_000, 65_506, LARGEST] {
            duo.send(size, 1);
            duo.answer(size, 1);
        }
    }
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

/// UDP_SEGMENT sends of 1 to 64 segments, the last one shorter or not, received
/// one by one and in batches.
fn segmented_sends() {
    let tcptop = Tcptop::share(&QUICK);
    let mut duos = Vec::new();
    let mut batches = 0;
    for family in [Family::V4, Family::V6, Family::Mapped] {
        for gro in [false, true] {
            let mut duo = Duo::new(family, true);
            roomy(&duo.other);
            set_int(&duo.other, libc::SOL_UDP, UDP_GRO, i32::from(gro));
            for segments in 1..=64u64 {
                for (size, last) in [(1000, 1000), (1000, 1), (700, 699), (1, 1)] {
                    let bytes = size * (segments - 1) + last;
                    udp::send_segments(&duo.one, bytes as usize, size as u16).expect("UDP_SEGMENT");
                    let calls = udp::receive_bytes(&duo.other, bytes);
                    assert!(gro || calls == segments, "{calls} of {segments}");
                    batches += u64::from(calls < segments);
                    duo.totals += Totals::sent(bytes, segments);
                }
            }
            duos.push(duo);
        }
    }
    assert!(batches > 0, "no batch was received as one");
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

/// Several sends (corked) make one datagram.
fn corked_sends() {
    let tcptop = Tcptop::share(&QUICK);
    let mut duos: Vec<Duo> = Family::ALL.map(|family| Duo::new(family, true)).into();
    for duo in &mut duos {
        for piece in [1, 100, 20_000] {
            udp::send_part(&duo.one, piece);
            udp::send_part(&duo.one, piece);
            udp::send(&duo.one, piece);
            assert_eq!(udp::receive(&duo.other, 1), 3 * piece as u64);
            duo.totals += Totals::sent(3 * piece as u64, 1);
            set_int(&duo.one, libc::SOL_UDP, libc::UDP_CORK, 1);
            for _ in 0..3 {
                udp::send(&duo.one, piece);
            }
            set_int(&duo.one, libc::SOL_UDP, libc::UDP_CORK, 0);
            assert_eq!(udp::receive(&duo.other, 1), 3 * piece as u64);
            duo.totals += Totals::sent(3 * piece as u64, 1);
        }
        // A corked datagram that is never sent.
        udp::send_part(&duo.one, 5000);
    }
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

/// A peek is not a receive, even if there is no datagram.
fn peeking() {
    let tcptop = Tcptop::share(&QUICK);
    let mut duos: Vec<Duo> = Family::ALL.map(|family| Duo::new(family, false)).into();
    for duo in &mut duos {
        let to = duo.ends.remote;
        let to = if duo.one.local_addr().expect("bound").is_ipv4() || to.is_ipv6() {
            to
        } else {
            let IpAddr::V4(v4) = to.ip() else { unreachable!("canonical") };
            SocketAddr::new(v4.to_ipv6_mapped().into(), to.port())
        };
        for size in [0, 1, 1000, LARGEST] {
            udp::send_to(&duo.one, to, size, 1);
            for room in [0, 1, 65_536] {
                udp::peek(&duo.other, room);
                udp::peek(&duo.other, room);
            }
            assert_eq!(udp::receive(&duo.other, 1), size as u64);
            duo.totals += Totals::sent(size as u64, 1);
        }
    }
    wait_duos(&tcptop, &duos);
    check_duos(&tcptop.finish(), &duos);
}

/// The reader's buffer is smaller than the datagram: the whole datagram counts.
fn truncated_receives() {
    let tcptop = Tcptop::share(&QUICK);
    let mut duo = Duo::new(Family::V4, true);
    for room in [0, 1, 999] {
        udp::send(&duo.one, 1000);
        let mut buffer = vec![0; room];
        assert_eq!(duo.other.recv(&mut buffer).expect("a datagram"), room);
        duo.totals += Totals::sent(1000, 1);
    }
    wait_duos(&tcptop, std::slice::from_ref(&duo));
    check_duos(&tcptop.finish(), &[duo]);
}

/// Datagrams that IP fragments, or that software segments, still count as whole datagrams.
fn over_a_small_mtu() {
    let tcptop = Tcptop::share(&QUICK);
    for (here, there) in [("10.86.0.1", "10.86.0.2"), ("fd86::1", "fd86::2")] {
        let link = Link::new(here, there);
        let (one, other, ends) = link.pair();
        roomy(&other);
        let mut totals = Totals::default();
        for size in [1000, 1473, 5000, 30_000, LARGEST] {
            // The first one may wait until the neighbour's address is resolved.
            udp::send(&one, size);
            assert_eq!(udp::receive(&other, 1), size as u64);
            totals += Totals::sent(size as u64, 1);
        }
        for gro in [0, 1] {
            set_int(&other, libc::SOL_UDP, UDP_GRO, gro);
            for segments in [2, 7, 45] {
                udp::send_segments(&one, 1400 * segments - 5, 1400).expect("UDP_SEGMENT");
                udp::receive_bytes(&other, 1400 * segments as u64 - 5);
                totals += Totals::sent(1400 * segments as u64 - 5, segments as u64);
            }
        }
        wait_totals(&tcptop, ends, totals);
        wait_totals(&tcptop, ends.flipped(), totals.flipped());
    }
    tcptop.finish();
}

/// A sent datagram counts, even if it is dropped or refused later.
fn nobody_listens() {
    let tcptop = Tcptop::share(&QUICK);
    let closed = udp::bind((sock::loopback(1), 0).into()).local_addr().expect("bound");
    let socket = udp::bind((sock::loopback(2), 0).into());
    socket.connect(closed).expect("connect");
    udp::send(&socket, 77);
    let refused = socket.recv(&mut [0; 1]).expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    let ends = Ends::new(socket.local_addr().expect("bound"), closed);
    wait_totals(&tcptop, ends, Totals::sent(77, 1));
    let output = tcptop.finish();
    check_flow(&output, ends, Totals::sent(77, 1), process::id());
    assert_eq!(output.rows_of(ends.flipped()).count(), 0, "there is no such socket");
}

/// A socket that sends to itself has one flow, with both directions.
fn own_peer() {
    let tcptop = Tcptop::share(&QUICK);
    let socket = udp::bind((sock::loopback(1), 0).into());
    let own = socket.local_addr().expect("bound");
    udp::send_to(&socket, own, 300, 4);
    assert_eq!(udp::receive(&socket, 4), 1200);
    let totals = Totals { bytes_in: 1200, bytes_out: 1200, packets_in: 4, packets_out: 4 };
    wait_totals(&tcptop, Ends::new(own, own), totals);
    check_flow(&tcptop.finish(), Ends::new(own, own), totals, process::id());
}

/// A raw socket gets a copy of every datagram and sends packets of its own: these do not
/// count.
fn raw_sockets_are_no_flows() {
    let tcptop = Tcptop::share(&QUICK);
    let raw = socket::socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Udp,
    )
    .expect("a raw socket");
    sock::bounded(&raw);
    let mut duo = Duo::new(Family::V4, true);
    duo.send(10, 5);
    duo.answer(20, 5);
    let mut buffer = [0; 2048];
    let port = duo.ends.local.port().to_be_bytes();
    for _ in 0..10 {
        // The raw socket also gets datagrams of other sockets.
        until_true("the copy of a datagram", || {
            socket::recv(raw.as_raw_fd(), &mut buffer, MsgFlags::empty()).expect("a packet");
            buffer[20..22] == port || buffer[22..24] == port
        });
    }
    wait_duos(&tcptop, std::slice::from_ref(&duo));
    let totals = duo.expected();
    let output = tcptop.finish();
    for (ends, _) in totals {
        let seen = output.rows_of(ends).filter(|row| Totals::of(row) == Totals::default()).count();
        assert_eq!(seen, 0);
        let last: Vec<_> = output.rows_of(ends).map(Totals::of).collect();
        assert!(last.windows(2).all(|two| two[0].packets_in <= two[1].packets_in), "{last:?}");
    }
    check_duos(&output, &[duo]);
}

/// A receive buffer overflows: the sender's flow has all datagrams; the receiver's flow has
/// those that arrived (cgroup_skb) or those that the process got (fentry).
fn overflow() {
    let tcptop = Tcptop::share(&QUICK);
    let provider = Provider::of(&tcptop);
    let duo = Duo::new(Family::V4, true);
    set_int(&duo.other, libc::SOL_SOCKET, libc::SO_RCVBUF, 4096);
    for _ in 0..1000 {
        udp::send(&duo.one, 500);
    }
    let (got, bytes) = udp::drain(&duo.other);
    assert!((1..1000).contains(&got), "{got} of 1000");
    assert_eq!(bytes, 500 * got);
    wait_totals(&tcptop, duo.ends, Totals::sent(500_000, 1000));
    let expected = match provider {
        Provider::CgroupSkb => Totals::received(500_000, 1000),
        Provider::Entry => Totals::received(bytes, got),
    };
    wait_totals(&tcptop, duo.ends.flipped(), expected);
    let output = tcptop.finish();
    check_flow(&output, duo.ends, Totals::sent(500_000, 1000), process::id());
    assert_eq!(output.last_row(duo.ends.flipped()).map(Totals::of), Some(expected));
}
