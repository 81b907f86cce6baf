//! Sockets whose bytes or state do not come the usual way: sockmap, TCP_REPAIR, listeners
//! that share a port.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libbpf_rs::libbpf_sys::{
    self, BPF_F_INGRESS, BPF_MAP_TYPE_SOCKMAP, BPF_PROG_TYPE_SK_MSG, BPF_PROG_TYPE_SK_SKB,
    BPF_SK_MSG_VERDICT, BPF_SK_SKB_STREAM_VERDICT,
};

use crate::common::agent::Agent;
use crate::common::netns::Netns;
use crate::common::sock::{
    self, Ends, Family, Pair, TcpInfo, await_acked, connect_socket, get_option, receive, send,
    set_int, set_option, unconnected,
};
use crate::common::tcptop::{QUICK, Tcptop};

use super::super::{Test, sharing};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("faults::sockmap_received_then_sent", || sockmap(Way::ReceivedThenSent)),
        sharing("faults::sockmap_received_elsewhere", || sockmap(Way::ReceivedElsewhere)),
        sharing("faults::sockmap_sent_elsewhere", || sockmap(Way::SentElsewhere)),
        sharing("faults::sockmap_past_tcp", || sockmap(Way::PastTcp)),
        sharing("faults::repair", repair),
        sharing("faults::reuseport_listeners", reuseport_listeners),
    ]
}

/// Where a program in a sockmap moves what a socket receives (`sk_skb`) or what a process
/// sends on it (`sk_msg`).
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// What one socket receives, another one sends.
    ReceivedThenSent,
    /// What one socket receives, a process reads from another one.
    ReceivedElsewhere,
    /// What is sent on one socket leaves by another one.
    SentElsewhere,
    /// What is sent on one socket, a process reads from another one.
    PastTcp,
}

fn made(fd: libc::c_int, what: &str) -> OwnedFd {
    assert!(fd >= 0, "{what}: {}", io::Error::from_raw_os_error(-fd));
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A sockmap with one place.
fn sockmap_of_one() -> OwnedFd {
    // SAFETY: the name is NUL-terminated; without options.
    let map = unsafe {
        let name = c"faults".as_ptr();
        libbpf_sys::bpf_map_create(BPF_MAP_TYPE_SOCKMAP, name, 4, 4, 1, ptr::null())
    };
    made(map, "sockmap")
}

/// Puts the socket into the map's place.
fn fill(map: &OwnedFd, socket: &TcpStream) {
    let (key, value) = (0_u32, socket.as_raw_fd() as u32);
    // SAFETY: the kernel reads a key and a value of four bytes each.
    let result = unsafe {
        libbpf_sys::bpf_map_update_elem(
            map.as_raw_fd(),
            (&raw const key).cast(),
            (&raw const value).cast(),
            0,
        )
    };
    assert_eq!(result, 0, "a socket into a sockmap: {}", io::Error::last_os_error());
}

/// Takes the socket out of the map: it is an ordinary one again.
fn clear(map: &OwnedFd) {
    let key = 0_u32;
    // SAFETY: the kernel reads a key of four bytes.
    let result =
        unsafe { libbpf_sys::bpf_map_delete_elem(map.as_raw_fd(), (&raw const key).cast()) };
    assert_eq!(result, 0, "a socket out of a sockmap: {}", io::Error::last_os_error());
}

/// A map of one socket, with a program that moves all of its bytes to the socket in the other
/// map.
fn redirecting(from: &TcpStream, way: Way, target: &OwnedFd) -> OwnedFd {
    /// `bpf_sk_redirect_map` and `bpf_msg_redirect_map` (linux/bpf.h).
    const HELPERS: [u64; 2] = [52, 60];
    let sends = matches!(way, Way::SentElsewhere | Way::PastTcp);
    let flags = match way {
        Way::ReceivedElsewhere | Way::PastTcp => u64::from(BPF_F_INGRESS),
        Way::ReceivedThenSent | Way::SentElsewhere => 0,
    };
    let map = target.as_raw_fd() as u64;
    // struct bpf_insn as an integer: code, dst and src, off, imm.
    let program: [u64; 6] = [
        0x18 | 0x12 << 8 | map << 32,             // r2 = the map
        0,                                        // (its upper half)
        0xb7 | 0x03 << 8,                         // r3 = 0
        0xb7 | 0x04 << 8 | flags << 32,           // r4 = flags
        0x85 | HELPERS[usize::from(sends)] << 32, // r0 = helper(r1, r2, r3, r4)
        0x95,                                     // return r0
    ];
    let (kind, hook) = match sends {
        true => (BPF_PROG_TYPE_SK_MSG, BPF_SK_MSG_VERDICT),
        false => (BPF_PROG_TYPE_SK_SKB, BPF_SK_SKB_STREAM_VERDICT),
    };
    // SAFETY: the names are NUL-terminated, a program is an array of eight bytes each.
    let loaded = unsafe {
        libbpf_sys::bpf_prog_load(
            kind,
            c"faults".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr().cast(),
            program.len() as u64,
            ptr::null_mut(),
        )
    };
    let loaded = made(loaded, "a program");
    let map = sockmap_of_one();
    // SAFETY: integers only.
    let result =
        unsafe { libbpf_sys::bpf_prog_attach(loaded.as_raw_fd(), map.as_raw_fd(), hook, 0) };
    assert_eq!(result, 0, "attach: {}", io::Error::last_os_error());
    fill(&map, from);
    map
}

/// Bytes in and out.
type Moved = (u64, u64);

/// tcptop shows what TCP counts in each socket: what a program moves without TCP is in none.
fn sockmap(way: Way) {
    const BYTES: u64 = 100_000;
    let tcptop = Tcptop::share(&QUICK);
    let (first, second) = (Pair::new(Family::V4), Pair::new(Family::V4));
    let target = sockmap_of_one();
    fill(&target, &second.client);
    let source = redirecting(&first.server, way, &target);
    let (mut client, mut server) = ((0, 0), (0, 0));
    let (mut other_client, mut other_server) = ((0, 0), (0, 0));
    match way {
        Way::ReceivedThenSent => {
            send(&first.client, BYTES);
            receive(&second.server, BYTES);
            (client.1, server.0) = (BYTES, BYTES);
            (other_client.1, other_server.0) = (BYTES, BYTES);
        }
        Way::ReceivedElsewhere => {
            send(&first.client, BYTES);
            receive(&second.client, BYTES);
            (client.1, server.0) = (BYTES, BYTES);
        }
        Way::SentElsewhere => {
            send(&first.server, BYTES);
            receive(&second.server, BYTES);
            (other_client.1, other_server.0) = (BYTES, BYTES);
        }
        Way::PastTcp => {
            send(&first.server, BYTES);
            receive(&second.client, BYTES);
        }
    }
    let sockets = [&first.client, &first.server, &second.client, &second.server];
    let mut moved: [Moved; 4] = [client, server, other_client, other_server];
    await_acked(&first.client);
    await_acked(&second.client);
    for (socket, moved) in sockets.into_iter().zip(&moved) {
        let info = TcpInfo::of(socket);
        assert_eq!((info.bytes_received, info.bytes_out()), *moved, "TCP's own counters");
        tcptop.wait_row("row of what TCP moved", Ends::of(socket), |row| {
            (row.bytes_in, row.bytes_out) == *moved
        });
    }
    // They are exact afterwards, too.
    clear(&source);
    clear(&target);
    first.exchange(11, 22);
    second.exchange(33, 44);
    for (moved, (bytes_in, bytes_out)) in
        moved.iter_mut().zip([(22, 11), (11, 22), (44, 33), (33, 44)])
    {
        moved.0 += bytes_in;
        moved.1 += bytes_out;
    }
    let all = sockets.map(Ends::of);
    first.close();
    second.close();
    tcptop.wait_closed(&all);
    let output = tcptop.finish();
    for (ends, moved) in all.into_iter().zip(moved) {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), moved, "{closed:?}");
        assert_eq!(closed.end, "fin", "{closed:?}");
    }
}

fn set_repair(socket: &TcpStream, on: bool) {
    set_int(socket, libc::IPPROTO_TCP, libc::TCP_REPAIR, i32::from(on));
}

/// The queues of linux/tcp.h (`TCP_RECV_QUEUE`, `TCP_SEND_QUEUE`).
const QUEUES: [i32; 2] = [1, 2];

/// A process is moved, as CRIU does it: its connection is frozen and closed without a packet,
/// and made again with the same state, also without one. The peer notices nothing.
fn repair() {
    let tcptop = Tcptop::share(&QUICK);
    // Nobody else takes the port there.
    let netns = Netns::new();
    let pair = netns.run(|| Pair::new(Family::V4));
    pair.exchange(1000, 2000);
    await_acked(&pair.client);
    await_acked(&pair.server);
    let ends = pair.ends;
    tcptop.wait_row("row", ends, |row| row.bytes_in == 2000);
    set_repair(&pair.client, true);
    let sequences = QUEUES.map(|queue| {
        set_int(&pair.client, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue);
        let mut sequence = 0_u32;
        get_option(&pair.client, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, &mut sequence)
            .expect("TCP_QUEUE_SEQ");
        sequence
    });
    drop(pair.client);
    tcptop.wait_closed(&[ends]);
    let again = netns.run(|| unconnected(ends.remote, None));
    set_repair(&again, true);
    set_int(&again, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    for (queue, sequence) in QUEUES.into_iter().zip(sequences) {
        set_int(&again, libc::IPPROTO_TCP, libc::TCP_REPAIR_QUEUE, queue);
        set_option(&again, libc::IPPROTO_TCP, libc::TCP_QUEUE_SEQ, &sequence)
            .expect("TCP_QUEUE_SEQ");
    }
    sock::bind(&again, ends.local);
    connect_socket(&again, ends.remote).expect("connect");
    // Nothing was sent, and it is open.
    tcptop.wait_row("row of the new socket", ends, |row| {
        row.state == "ESTABLISHED" && (row.bytes_in, row.bytes_out) == (0, 0)
    });
    set_repair(&again, false);
    let pair = Pair { client: again, server: pair.server, ends };
    pair.exchange(30, 40);
    pair.close();
    tcptop.wait_closed(&[ends.flipped()]);
    tcptop.wait("both ends of the client", |output| {
        (output.closed_of(ends).count() == 2).then_some(())
    });
    let output = tcptop.finish();
    let clients: Vec<_> = output
        .closed_of(ends)
        .map(|closed| (closed.bytes_in, closed.bytes_out, &*closed.end))
        .collect();
    // For the kernel, too, this host aborted the first one (ECONNABORTED in tcp_disconnect()).
    assert_eq!(clients, [(2000, 1000, "abort"), (40, 30, "fin")]);
    let server = output.the_closed(ends.flipped());
    assert_eq!((server.bytes_in, server.bytes_out, &*server.end), (1030, 2040, "fin"));
}

/// Two processes listen at one port (SO_REUSEPORT). Each connection belongs to the one that
/// accepts it, also if the other one's listener had it in its queue and was closed
/// (`net.ipv4.tcp_migrate_req`).
fn reuseport_listeners() {
    const CLIENTS: usize = 30;
    let netns = Netns::new();
    netns.sysctl("net/ipv4/tcp_migrate_req", "1");
    let mut servers = netns.run(|| ["listener-one", "listener-two"].map(Agent::new));
    let tcptop = Tcptop::share(&QUICK);
    let (one, address) = servers[0].listen_shared(([127, 0, 0, 1], 0).into());
    let (two, _) = servers[1].listen_shared(address);
    let listeners = [one, two];
    let connect = || -> Vec<TcpStream> {
        netns.run(|| (0..CLIENTS).map(|_| sock::connect(address)).collect())
    };
    let mut expected = Vec::new();
    let clients = connect();
    for (server, listener) in servers.iter_mut().zip(listeners) {
        let accepted = server.accept_waiting(listener);
        assert!((1..CLIENTS).contains(&accepted.len()), "{}", accepted.len());
        for socket in accepted {
            let bytes = 1 + expected.len() as u64;
            server.send(socket, bytes);
            expected.push((socket.ends, bytes, server.pid));
        }
    }
    assert_eq!(expected.len(), CLIENTS, "every one was accepted");
    let later = connect();
    servers[0].close_listener(one);
    let moved = servers[1].accept_waiting(two);
    assert_eq!(moved.len(), CLIENTS, "those of the closed listener, too");
    for socket in moved {
        let bytes = 1 + expected.len() as u64;
        servers[1].send(socket, bytes);
        expected.push((socket.ends, bytes, servers[1].pid));
    }
    for &(ends, bytes, pid) in &expected {
        tcptop.wait_row("row of the one that accepted", ends, |row| {
            (row.bytes_out, row.pid) == (bytes, Some(pid))
        });
    }
    drop((clients, later, servers));
    let all: Vec<Ends> = expected.iter().map(|&(ends, ..)| ends).collect();
    tcptop.wait_closed(&all);
    let output = tcptop.finish();
    for (ends, bytes, pid) in expected {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out, closed.pid), (0, bytes, Some(pid)));
    }
}
