//! No row stays for ever: what ends on an unusual way has a `[CLOSED]` line too.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process;
use std::thread;
use std::time::Duration;

use crate::common::netns::Netns;
use crate::common::sock::{
    self, Ends, Family, Let, Pair, TcpInfo, filter_incoming, listen, loopback, set_int,
    start_connecting, unconnected,
};
use crate::common::tcptop::{QUICK, Tcptop};

use super::{Test, left_out, long, sharing, test};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("ghosts::simultaneous_open_reset", || simultaneous_open(sock::reset)),
        sharing("ghosts::simultaneous_open_dissolved", || {
            simultaneous_open(|socket| {
                sock::disconnect(&socket);
                drop(socket);
            });
        }),
        sharing("ghosts::fast_open_child", || fast_open_child(Tcptop::share(&QUICK), true)),
        test("ghosts::fast_open_child_between_samples", || {
            let rarely = ["--tcp", "--raw", "--interval", "3600"];
            fast_open_child(Tcptop::start(&rarely), false);
        }),
        test("ghosts::the_full_pass_ends_nothing_that_lives", full_pass),
    ]
}

/// Two ends send a SYN to each other at the same time (RFC 9293, section 3.5). One of them
/// stays in SYN_RECV, since nothing after the other one's SYN reaches it, and is given up
/// there.
fn simultaneous_open(give_up: impl FnOnce(TcpStream)) {
    let tcptop = Tcptop::share(&QUICK);
    let any = SocketAddr::from((loopback(1), 0));
    let [one, other] = [(); 2].map(|()| {
        let socket = unconnected(any, Some(any));
        filter_incoming(&socket, Let::Nothing);
        let address = socket.local_addr().expect("bound");
        (socket, address)
    });
    let ends = Ends::new(one.1, other.1);
    start_connecting(&one.0, other.1);
    filter_incoming(&one.0, Let::Beginnings);
    start_connecting(&other.0, one.1);
    let row = tcptop.wait_row("row of the open end", ends, |row| row.state == "SYN_RECV");
    assert_eq!(row.pid, Some(process::id()));
    give_up(one.0);
    tcptop.wait_closed(&[ends]);
    drop(other);
    tcptop.wait_closed(&[ends.flipped()]);
    let output = tcptop.finish();
    let closed = output.the_closed(ends);
    // RFC 9293 wants a reset from this host in that state.
    assert_eq!((closed.bytes_in, closed.bytes_out, &*closed.end), (0, 0, "abort"), "{closed:#?}");
    output.the_closed(ends.flipped());
}

/// With Fast Open a server sends before the handshake ends. It gives up before the last ACK.
fn fast_open_child(tcptop: Tcptop, sampled: bool) {
    const BYTES: u64 = 5000;
    let netns = Netns::new();
    // Client and server; the server needs no cookie, the client asks for one. So the SYN has
    // no data, and the kernel makes a connection of it at once.
    netns.sysctl("net/ipv4/tcp_fastopen", "515");
    let (client, server) = netns.run(|| {
        let (listener, remote) = listen(Family::V4);
        set_int(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16);
        let client = unconnected(remote, Some((Ipv4Addr::LOCALHOST, 0).into()));
        filter_incoming(&client, Let::Nothing);
        set_int(&client, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1);
        start_connecting(&client, remote);
        let (server, _) = listener.accept().expect("accept");
        (client, server)
    });
    let ends = Ends::of(&server);
    sock::send(&server, BYTES);
    let info = TcpInfo::of(&server);
    assert_eq!((info.state, info.bytes_out()), (3, BYTES), "SYN_RECV: {info:#?}");
    if sampled {
        tcptop.wait_row("row of the bytes", ends, |row| row.bytes_out == BYTES);
    }
    sock::reset(server);
    if sampled {
        tcptop.wait_closed(&[ends]);
    }
    drop(client);
    let output = tcptop.finish();
    let closed = output.the_closed(ends);
    assert_eq!((closed.bytes_in, closed.bytes_out), (0, BYTES), "{closed:#?}");
    assert_eq!((&*closed.end, closed.pid), ("abort", Some(process::id())), "{closed:#?}");
}

/// Within each minute every socket is sampled, and connections without a sample are ended.
/// Idle ones, older and younger than tcptop, must survive that.
fn full_pass() {
    let minutes = long(0, 4);
    if minutes == 0 {
        return left_out("ghosts::full_pass", "it takes minutes: set TCPTOP_TEST_LONG");
    }
    let older: Vec<Pair> = (0..100).map(|_| Pair::new(Family::V4)).collect();
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "1"]);
    let younger: Vec<Pair> = (0..100).map(|_| Pair::new(Family::V6)).collect();
    // Nothing can be waited for: what must not happen has this long to happen.
    thread::sleep(Duration::from_secs(60 * minutes));
    let all: Vec<Ends> = older.iter().chain(&younger).map(|pair| pair.ends).collect();
    let ended: Vec<Ends> = all
        .iter()
        .copied()
        .filter(|&ends| tcptop.look(|output| output.closed_of(ends).next().is_some()))
        .collect();
    assert!(ended.is_empty(), "{ended:?}");
    older.into_iter().chain(younger).for_each(Pair::close);
    tcptop.wait_closed(&all);
    tcptop.finish();
}
