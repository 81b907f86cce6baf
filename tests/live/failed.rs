//! Connects that fail, connections that break, sockets used again.

use std::net::{SocketAddr, TcpStream};
use std::process;

use crate::common::netns::{self, Netns, ip};
use crate::common::sock::{
    self, Ends, Family, Let, Pair, TcpInfo, await_closed, connect_error, connect_socket,
    disconnect, filter_incoming, let_all_in, listen, set_int, start_connecting, unconnected,
};
use crate::common::tcptop::{Closed, QUICK, Tcptop};

use super::{Test, left_out, sharing};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("failed::refused", refused),
        sharing("failed::connect_timeout", connect_timeout),
        sharing("failed::unreachable", unreachable),
        sharing("failed::unreachable_by_icmp", unreachable_by_icmp),
        sharing("failed::gave_up_connecting", gave_up_connecting),
        sharing("failed::timeout_while_open", timeout_while_open),
        sharing("failed::keepalive_timeout", keepalive_timeout),
        sharing("failed::destroyed", destroyed),
        sharing("failed::listener_closed", listener_closed),
        sharing("failed::socket_used_again", socket_used_again),
        sharing("failed::disconnected_and_used_again", disconnected_and_used_again),
    ]
}

/// An address at which nobody listens.
fn closed_port(family: Family) -> SocketAddr {
    listen(family).1
}

/// Starts to connect. Returns the two addresses.
fn begin(remote: SocketAddr) -> (TcpStream, Ends) {
    // Bound, so that the port is still known after the failure.
    let socket = unconnected(remote, Some(SocketAddr::new(remote.ip(), 0)));
    let local = socket.local_addr().expect("bound");
    start_connecting(&socket, remote);
    (socket, Ends::new(local, remote))
}

/// Compares the report of a failed connect with the socket's own error and `TCP_INFO`.
fn check_failed(closed: &Closed, info: &TcpInfo, end: &str) {
    assert_eq!(closed.end, end, "{closed:#?}");
    assert_eq!((closed.bytes_in, closed.bytes_out), (0, 0), "{closed:#?}");
    let packets = (u64::from(info.segs_in), u64::from(info.segs_out));
    assert_eq!((closed.packets_in, closed.packets_out), packets, "{closed:#?}\n{info:#?}");
    assert_eq!(closed.retrans, u64::from(info.total_retrans), "{closed:#?}\n{info:#?}");
    assert_eq!(closed.pid, Some(process::id()), "{closed:#?}");
}

fn refused() {
    let tcptop = Tcptop::share(&QUICK);
    let attempts: Vec<_> = Family::ALL
        .into_iter()
        .map(|family| {
            let (socket, ends) = begin(closed_port(family));
            // Reading SO_ERROR clears the error, and the test may read it before the
            // kernel has closed the socket.
            tcptop.wait_closed(&[ends]);
            assert_eq!(connect_error(&socket), libc::ECONNREFUSED);
            (ends, TcpInfo::of(&socket))
        })
        .collect();
    // A blocking connect leaves no time to look at the socket.
    let blocking = closed_port(Family::V4);
    TcpStream::connect(blocking).expect_err("nobody listens");
    let is_blocking = |closed: &&Closed| closed.ends.remote == blocking;
    tcptop.wait_closed(&attempts.iter().map(|(ends, _)| *ends).collect::<Vec<_>>());
    let output = tcptop.finish();
    for (ends, info) in &attempts {
        check_failed(output.the_closed(*ends), info, "refused");
        assert_eq!(output.rows_of(*ends).filter(|row| row.state != "SYN_SENT").count(), 0);
    }
    let found: Vec<_> = output.closed.iter().filter(is_blocking).collect();
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!((&*found[0].end, found[0].pid), ("refused", Some(process::id())));
}

fn connect_timeout() {
    let tcptop = Tcptop::share(&QUICK);
    let (listener, remote) = listen(Family::V4);
    filter_incoming(&listener, Let::Nothing);
    let socket = unconnected(remote, Some(SocketAddr::new(remote.ip(), 0)));
    set_int(&socket, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 1);
    start_connecting(&socket, remote);
    let ends = Ends::new(socket.local_addr().expect("bound"), remote);
    tcptop.wait_row("row of the attempt", ends, |row| row.state == "SYN_SENT");
    tcptop.wait_closed(&[ends]);
    assert_eq!(connect_error(&socket), libc::ETIMEDOUT);
    let info = TcpInfo::of(&socket);
    assert!(info.segs_out >= 2, "the SYN, and again");
    check_failed(tcptop.finish().the_closed(ends), &info, "timeout");
}

/// A peer on the link that does not answer to its address.
fn unreachable() {
    let (near, far) = (Netns::new(), Netns::new());
    near.join([10, 83, 0, 1].into(), &far, [10, 83, 0, 2].into());
    near.sysctl("net/ipv4/neigh/veth0/mcast_solicit", "1");
    near.sysctl("net/ipv4/neigh/veth0/retrans_time_ms", "50");
    let tcptop = Tcptop::share(&QUICK);
    let remote = ([10, 83, 0, 77], 80).into();
    let (socket, ends) = near.run(|| {
        let socket = unconnected(remote, Some(([10, 83, 0, 1], 0).into()));
        let ends = Ends::new(socket.local_addr().expect("bound"), remote);
        start_connecting(&socket, remote);
        (socket, ends)
    });
    tcptop.wait_closed(&[ends]);
    assert_eq!(connect_error(&socket), libc::EHOSTUNREACH);
    check_failed(tcptop.finish().the_closed(ends), &TcpInfo::of(&socket), "unreachable");
}

/// A router answers that it has no route.
fn unreachable_by_icmp() {
    let (near, router) = (Netns::new(), Netns::new());
    near.join([10, 87, 0, 1].into(), &router, [10, 87, 0, 2].into());
    router.sysctl("net/ipv4/ip_forward", "1");
    near.run(|| ip("route add default via 10.87.0.2"));
    let tcptop = Tcptop::share(&QUICK);
    let remote = ([10, 88, 0, 1], 80).into();
    let (socket, ends) = near.run(|| {
        let socket = unconnected(remote, Some(([10, 87, 0, 1], 0).into()));
        let ends = Ends::new(socket.local_addr().expect("bound"), remote);
        start_connecting(&socket, remote);
        (socket, ends)
    });
    tcptop.wait_closed(&[ends]);
    assert_eq!(connect_error(&socket), libc::ENETUNREACH);
    check_failed(tcptop.finish().the_closed(ends), &TcpInfo::of(&socket), "unreachable");
}

/// A process gives up its own connect, without any packet from the peer.
fn gave_up_connecting() {
    let tcptop = Tcptop::share(&QUICK);
    let (listener, remote) = listen(Family::V4);
    filter_incoming(&listener, Let::Nothing);
    let (socket, ends) = begin(remote);
    tcptop.wait_row("row of the attempt", ends, |row| row.state == "SYN_SENT");
    let info = TcpInfo::of(&socket);
    drop(socket);
    tcptop.wait_closed(&[ends]);
    let output = tcptop.finish();
    let closed = output.the_closed(ends);
    assert_eq!((closed.bytes_in, closed.bytes_out, closed.pid), (0, 0, Some(process::id())));
    assert!(closed.packets_out >= u64::from(info.segs_out));
    // No packet has shown how the connect would end, so `end=` is unknown.
    assert_eq!(closed.end, "-", "{closed:#?}");
}

/// The peer goes silent in the middle of a transfer.
fn timeout_while_open() {
    let tcptop = Tcptop::share(&QUICK);
    let pair = Pair::new(Family::V4);
    set_int(&pair.client, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 300);
    pair.exchange(10_000, 20_000);
    filter_incoming(&pair.server, Let::Nothing);
    sock::send(&pair.client, 5000);
    await_closed(&pair.client);
    let info = TcpInfo::of(&pair.client);
    assert!(info.bytes_retrans >= 5000, "it tried again");
    tcptop.wait_closed(&[pair.ends]);
    // The peer notices when it sends something.
    let_all_in(&pair.server);
    sock::send(&pair.server, 7);
    await_closed(&pair.server);
    tcptop.wait_closed(&[pair.ends.flipped()]);
    let output = tcptop.finish();
    let closed = output.the_closed(pair.ends);
    assert_eq!(closed.end, "timeout");
    assert_eq!((closed.bytes_in, closed.bytes_out), (20_000, 15_000));
    assert_eq!(closed.packets_out, u64::from(info.segs_out));
    assert_eq!(closed.packets_in, u64::from(info.segs_in));
    assert_eq!(closed.retrans, u64::from(info.total_retrans));
    let closed = output.the_closed(pair.ends.flipped());
    assert_eq!(closed.end, "rst");
    assert_eq!((closed.bytes_in, closed.bytes_out), (10_000, 20_007));
}

/// The peer goes silent while this end sends nothing either.
fn keepalive_timeout() {
    let tcptop = Tcptop::share(&QUICK);
    let pair = Pair::new(Family::V6);
    pair.exchange(1, 2);
    sock::await_acked(&pair.server);
    filter_incoming(&pair.server, Let::Nothing);
    for option in [libc::TCP_KEEPIDLE, libc::TCP_KEEPINTVL, libc::TCP_KEEPCNT] {
        set_int(&pair.client, libc::IPPROTO_TCP, option, 1);
    }
    set_int(&pair.client, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
    await_closed(&pair.client);
    tcptop.wait_closed(&[pair.ends]);
    let output = tcptop.finish();
    let closed = output.the_closed(pair.ends);
    assert_eq!((closed.bytes_in, closed.bytes_out, &*closed.end), (2, 1, "timeout"), "{closed:#?}");
}

/// An administrator destroys the socket: this host sends the reset.
fn destroyed() {
    let tcptop = Tcptop::share(&QUICK);
    let pair = Pair::new(Family::V4);
    pair.exchange(5000, 70);
    let (local, remote) = (pair.ends.local, pair.ends.remote);
    netns::run("ss", &format!("-K src {local} dst {remote}")).expect("ss");
    if TcpInfo::of(&pair.client).state != sock::CLOSE {
        tcptop.finish();
        return left_out("failed::destroyed", "this kernel cannot destroy sockets");
    }
    await_closed(&pair.server);
    tcptop.wait_closed(&[pair.ends, pair.ends.flipped()]);
    let output = tcptop.finish();
    for (ends, totals, end) in
        [(pair.ends, (70, 5000), "abort"), (pair.ends.flipped(), (5000, 70), "rst")]
    {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), totals);
        assert_eq!(closed.end, end, "{closed:#?}");
    }
}

/// A listener closes while a connection in its queue is not yet accepted.
fn listener_closed() {
    let tcptop = Tcptop::share(&QUICK);
    let (listener, address) = listen(Family::V4);
    let client = sock::connect(address);
    sock::send(&client, 600);
    sock::await_acked(&client);
    let ends = Ends::of(&client);
    drop(listener);
    await_closed(&client);
    tcptop.wait_closed(&[ends, ends.flipped()]);
    let output = tcptop.finish();
    for (ends, totals, end) in [(ends, (0, 600), "rst"), (ends.flipped(), (600, 0), "abort")] {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), totals);
        assert_eq!((&*closed.end, closed.pid), (end, Some(process::id())), "{closed:#?}");
    }
}

/// A socket whose connect failed connects again: that makes two connections.
fn socket_used_again() {
    let tcptop = Tcptop::share(&QUICK);
    let (listener, remote) = listen(Family::V4);
    let nobody = closed_port(Family::V4);
    let (socket, failed) = begin(nobody);
    assert_eq!(connect_error(&socket), libc::ECONNREFUSED);
    let info = TcpInfo::of(&socket);
    socket.set_nonblocking(false).expect("blocking");
    // The first call only reports that the previous attempt has failed.
    let error = connect_socket(&socket, remote).expect_err("the failure before");
    assert_eq!(error.raw_os_error(), Some(libc::ECONNABORTED));
    connect_socket(&socket, remote).expect("the second attempt");
    let pair = Pair::accept(&listener, socket);
    let ends = pair.ends;
    pair.exchange(3000, 4000);
    pair.close();
    tcptop.wait_closed(&[failed, ends, ends.flipped()]);
    let output = tcptop.finish();
    check_failed(output.the_closed(failed), &info, "refused");
    for (ends, bytes_in, bytes_out) in [(ends, 4000, 3000), (ends.flipped(), 3000, 4000)] {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out, &*closed.end), (bytes_in, bytes_out, "fin"));
    }
}

/// A socket is disconnected (`AF_UNSPEC`: the kernel clears its counters) and
/// connects elsewhere.
fn disconnected_and_used_again() {
    let tcptop = Tcptop::share(&QUICK);
    let first = Pair::new(Family::V4);
    first.exchange(111, 222);
    disconnect(&first.client);
    await_closed(&first.server);
    let (listener, remote) = listen(Family::V4);
    connect_socket(&first.client, remote).expect("connect again");
    let second = Pair::accept(&listener, first.client);
    let ends = second.ends;
    second.exchange(3333, 4444);
    second.close();
    tcptop.wait_closed(&[first.ends, first.ends.flipped(), ends, ends.flipped()]);
    let output = tcptop.finish();
    for (ends, bytes_in, bytes_out, end) in [
        (first.ends, 222, 111, "abort"),
        (first.ends.flipped(), 111, 222, "rst"),
        (ends, 4444, 3333, "fin"),
        (ends.flipped(), 3333, 4444, "fin"),
    ] {
        let closed = output.the_closed(ends);
        assert_eq!(
            (closed.bytes_in, closed.bytes_out, &*closed.end),
            (bytes_in, bytes_out, end),
            "{closed:#?}"
        );
    }
}
