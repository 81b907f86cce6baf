//! Bytes count exactly once, by every system call that can move them.

use std::io::{self, IoSlice, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process;
use std::thread;

use io_uring::{IoUring, opcode, types};
use nix::errno::Errno;
use nix::sys::socket::{Backlog, MsgFlags, SockaddrStorage, bind, recv, sendmsg};
use nix::unistd::pipe;

use crate::common::netns::Netns;
use crate::common::sock::{
    self, Ends, Family, Pair, TcpInfo, await_acked, listen, receive, receive_all, send, set_int,
    would_block,
};
use crate::common::tcptop::{Closed, QUICK, Tcptop};
use crate::common::ways::{self, file_of};

use super::{Test, left_out, sharing};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("paths::sendfile", sendfile),
        sharing("paths::splice", splice),
        sharing("paths::peek", peek),
        sharing("paths::truncated_receive", truncated_receive),
        sharing("paths::partial_sends", partial_sends),
        sharing("paths::failed_sends", failed_sends),
        sharing("paths::urgent_byte", urgent_byte),
        sharing("paths::many_small_vectors", many_small_vectors),
        sharing("paths::zero_copy_send", zero_copy_send),
        sharing("paths::zero_copy_receive", zero_copy_receive),
        sharing("paths::io_uring", io_uring),
        sharing("paths::fast_open", fast_open),
        sharing("paths::ktls", ktls),
        sharing("paths::mptcp", mptcp),
    ]
}

const MEGABYTE: u64 = 1 << 20;

/// Opens a connection, lets `traffic` move bytes, closes it, and checks that tcptop reports
/// what `traffic` returns: the bytes from the client to the server, and back.
fn moves(traffic: impl FnOnce(&Pair) -> (u64, u64)) {
    let tcptop = Tcptop::share(&QUICK);
    let pair = Pair::new(Family::V4);
    let ends = pair.ends;
    let (up, down) = traffic(&pair);
    let infos = (TcpInfo::of(&pair.client), TcpInfo::of(&pair.server));
    assert_eq!((infos.0.bytes_out(), infos.1.bytes_out()), (up, down), "the kernel agrees");
    pair.close();
    check_closed(tcptop, ends, up, down);
}

fn check_closed(tcptop: Tcptop, ends: Ends, up: u64, down: u64) {
    tcptop.wait_closed(&[ends, ends.flipped()]);
    let output = tcptop.finish();
    let totals = |closed: &Closed| (closed.bytes_in, closed.bytes_out, closed.pid);
    let pid = Some(process::id());
    assert_eq!(totals(output.the_closed(ends)), (down, up, pid), "the client's end");
    assert_eq!(totals(output.the_closed(ends.flipped())), (up, down, pid), "the server's end");
}

/// Repeats a call that moves some of the bytes until all are moved.
fn in_parts(mut bytes: u64, mut part: impl FnMut(usize) -> libc::ssize_t) {
    while bytes > 0 {
        let moved = Errno::result(part(bytes as usize)).expect("moves bytes");
        assert!(moved > 0, "{bytes} bytes left");
        bytes -= moved as u64;
    }
}

fn sendfile() {
    moves(|pair| {
        let bytes = 3 * MEGABYTE + 17;
        thread::scope(|scope| {
            scope.spawn(|| receive(&pair.server, bytes));
            assert_eq!(ways::send_file(&pair.client, bytes).expect("sendfile"), bytes);
        });
        (bytes, 0)
    });
}

fn splice_all(from: RawFd, to: RawFd, bytes: u64) {
    in_parts(bytes, |left| {
        // SAFETY: two open descriptors, no offsets.
        unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), left, 0) }
    });
}

/// splice() from a file through a pipe to a socket, and from a socket to a file.
fn splice() {
    moves(|pair| {
        let bytes = 2 * MEGABYTE + 5;
        let (source, sink) = (file_of(bytes), file_of(0));
        let (out_of, into) = pipe().expect("a pipe");
        let (out_of_too, into_too) = pipe().expect("a pipe");
        thread::scope(|scope| {
            scope.spawn(|| {
                splice_all(source.as_raw_fd(), into.as_raw_fd(), bytes);
            });
            scope.spawn(|| splice_all(out_of.as_raw_fd(), pair.client.as_raw_fd(), bytes));
            scope.spawn(|| splice_all(pair.server.as_raw_fd(), into_too.as_raw_fd(), bytes));
            splice_all(out_of_too.as_raw_fd(), sink.as_raw_fd(), bytes);
        });
        assert_eq!(sink.metadata().expect("metadata").len(), bytes);
        (bytes, 0)
    });
}

fn peek() {
    moves(|pair| {
        send(&pair.client, 5000);
        sock::await_received(&pair.server, 5000);
        let mut buffer = [0; 8192];
        for _ in 0..10 {
            assert_eq!(pair.server.peek(&mut buffer).expect("peek"), 5000);
        }
        receive(&pair.server, 5000);
        (5000, 0)
    });
}

/// Bytes that MSG_TRUNC throws away unread count as received.
fn truncated_receive() {
    moves(|pair| {
        send(&pair.client, 9000);
        sock::await_received(&pair.server, 9000);
        // SAFETY: MSG_TRUNC on TCP writes nothing, so no buffer is needed.
        let got = unsafe {
            libc::recv(pair.server.as_raw_fd(), std::ptr::null_mut(), 9000, libc::MSG_TRUNC)
        };
        assert_eq!(got, 9000);
        (9000, 0)
    });
}

/// Non-blocking sends into a small buffer, which accepts parts of them or nothing.
fn partial_sends() {
    moves(|pair| {
        set_int(&pair.client, libc::SOL_SOCKET, libc::SO_SNDBUF, 8192);
        pair.client.set_nonblocking(true).expect("nonblocking");
        let request = vec![b'p'; 300_000];
        let (mut accepted, mut refusals, mut partial) = (0, 0, 0);
        thread::scope(|scope| {
            // Nobody reads until the sender has been refused.
            let mut reader = None;
            while accepted < 4 * MEGABYTE {
                match (&pair.client).write(&request) {
                    Ok(part) => {
                        accepted += part as u64;
                        partial += u32::from(part < request.len());
                    }
                    Err(error) if would_block(&error) => {
                        refusals += 1;
                        reader.get_or_insert_with(|| scope.spawn(|| receive_all(&pair.server)));
                        thread::yield_now();
                    }
                    Err(error) => panic!("send: {error}"),
                }
            }
            pair.client.set_nonblocking(false).expect("blocking");
            pair.client.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(reader.map(|reader| reader.join().expect("reader")), Some(accepted));
        });
        assert!(refusals > 0 && partial > 0, "{refusals} refusals, {partial} partial sends");
        (accepted, 0)
    });
}

/// A failed send moves nothing: with a full buffer, and after the end of the connection.
fn failed_sends() {
    moves(|pair| {
        send(&pair.client, 100);
        pair.client.shutdown(Shutdown::Write).expect("shutdown");
        for _ in 0..10 {
            let error = (&pair.client).write(&[0; 5000]).expect_err("after the FIN");
            assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        }
        receive(&pair.server, 100);
        (100, 0)
    });
}

fn urgent_byte() {
    moves(|pair| {
        send(&pair.client, 10);
        // SAFETY: one byte is readable.
        let sent =
            unsafe { libc::send(pair.client.as_raw_fd(), b"!".as_ptr().cast(), 1, libc::MSG_OOB) };
        assert_eq!(sent, 1);
        send(&pair.client, 20);
        set_int(&pair.server, libc::SOL_SOCKET, libc::SO_OOBINLINE, 1);
        receive(&pair.server, 31);
        (31, 0)
    });
}

/// writev of many parts, corked into few segments.
fn many_small_vectors() {
    moves(|pair| {
        set_int(&pair.client, libc::IPPROTO_TCP, libc::TCP_CORK, 1);
        let parts: Vec<IoSlice<'_>> =
            (1..=100).map(|length| IoSlice::new(&[b'v'; 100][..length])).collect();
        for _ in 0..20 {
            assert_eq!((&pair.client).write_vectored(&parts).expect("writev"), 5050);
        }
        set_int(&pair.client, libc::IPPROTO_TCP, libc::TCP_CORK, 0);
        receive(&pair.server, 20 * 5050);
        send(&pair.server, 1);
        receive(&pair.client, 1);
        (20 * 5050, 1)
    });
}

fn zero_copy_send() {
    moves(|pair| {
        set_int(&pair.client, libc::SOL_SOCKET, libc::SO_ZEROCOPY, 1);
        let data = vec![b'z'; 100_000];
        let flags = MsgFlags::from_bits_retain(libc::MSG_ZEROCOPY);
        let mut total = 0;
        thread::scope(|scope| {
            let reader = scope.spawn(|| receive_all(&pair.server));
            for _ in 0..30 {
                let parts = [IoSlice::new(&data)];
                let sent = sendmsg::<()>(pair.client.as_raw_fd(), &parts, &[], flags, None);
                total += sent.expect("zero-copy send") as u64;
            }
            pair.client.shutdown(Shutdown::Write).expect("shutdown");
            assert_eq!(reader.join().expect("reader"), total);
        });
        // The completions arrive in the error queue; reading them moves no byte.
        let mut none = [0; 0];
        let completions = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        recv(pair.client.as_raw_fd(), &mut none, completions).expect("a completion");
        (total, 0)
    });
}

/// `TCP_ZEROCOPY_RECEIVE` maps pages of the receive queue or points to a copy.
fn zero_copy_receive() {
    moves(|pair| {
        const WINDOW: usize = 1 << 20;
        let bytes = 2 * MEGABYTE;
        // SAFETY: a fresh mapping of a TCP socket; nothing else knows of it.
        let window = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                WINDOW,
                libc::PROT_READ,
                libc::MAP_SHARED,
                pair.server.as_raw_fd(),
                0,
            )
        };
        assert_ne!(window, libc::MAP_FAILED, "mmap of a socket");
        let mut got = 0;
        thread::scope(|scope| {
            scope.spawn(|| send(&pair.client, bytes));
            while got < bytes {
                // struct tcp_zerocopy_receive: address, length, recv_skip_hint.
                let mut request =
                    ZeroCopyReceive { address: window as u64, length: WINDOW as u32, skip: 0 };
                sock::get_option(
                    &pair.server,
                    libc::IPPROTO_TCP,
                    libc::TCP_ZEROCOPY_RECEIVE,
                    &mut request,
                )
                .expect("TCP_ZEROCOPY_RECEIVE");
                got += u64::from(request.length);
                let copy =
                    u64::from(request.skip).clamp(u64::from(request.length == 0), bytes - got);
                receive(&pair.server, copy);
                got += copy;
            }
        });
        // SAFETY: the mapping made above.
        unsafe { libc::munmap(window, WINDOW) };
        (bytes, 0)
    });
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ZeroCopyReceive {
    address: u64,
    length: u32,
    skip: u32,
}

// SAFETY: repr(C), integers only, no padding.
unsafe impl sock::Plain for ZeroCopyReceive {}

fn io_uring() {
    let mut ring = match IoUring::new(8) {
        Ok(ring) => ring,
        Err(error) => return left_out("paths::io_uring", format_args!("io_uring_setup: {error}")),
    };
    moves(|pair| {
        let data = vec![b'u'; 60_000];
        let mut buffer = vec![0; 60_000];
        let (client, server) =
            (types::Fd(pair.client.as_raw_fd()), types::Fd(pair.server.as_raw_fd()));
        for _ in 0..20 {
            let send = opcode::Send::new(client, data.as_ptr(), data.len() as u32)
                .flags(libc::MSG_WAITALL)
                .build();
            let receive = opcode::Recv::new(server, buffer.as_mut_ptr(), buffer.len() as u32)
                .flags(libc::MSG_WAITALL)
                .build();
            // SAFETY: both buffers outlive the wait below, which ends both operations.
            unsafe { ring.submission().push_multiple(&[send, receive]) }
                .expect("room in the queue");
            ring.submit_and_wait(2).expect("io_uring_enter");
            assert!(ring.completion().all(|done| done.result() == 60_000), "moved in full");
        }
        (20 * 60_000, 0)
    });
}

/// Data in the SYN, before the connection is established.
fn fast_open() {
    let netns = Netns::new();
    // Enable TCP Fast Open for client and server, without cookies.
    netns.sysctl("net/ipv4/tcp_fastopen", "1543");
    let tcptop = Tcptop::share(&QUICK);
    let (ends, reply) = netns.run(|| {
        let (listener, remote) = listen(Family::V4);
        set_int(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 16);
        let socket = sock::unconnected(remote, None);
        set_int(&socket, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1);
        sock::connect_socket(&socket, remote).expect("deferred connect");
        send(&socket, 700);
        let pair = Pair::accept(&listener, socket);
        receive(&pair.server, 700);
        // TCPI_OPT_SYN_DATA: the data did travel in the SYN.
        assert_ne!(TcpInfo::of(&pair.client).options & 32, 0, "fast open was used");
        pair.exchange(1000, 2000);
        let ends = pair.ends;
        pair.close();
        (ends, 2000)
    });
    check_closed(tcptop, ends, 1700, reply);
}

/// `struct tls12_crypto_info_aes_gcm_128` of linux/tls.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct TlsAesGcm128 {
    version: u16,
    cipher: u16,
    iv: [u8; 8],
    key: [u8; 16],
    salt: [u8; 4],
    sequence: [u8; 8],
}

// SAFETY: repr(C), integers and byte arrays without gaps (40 bytes).
unsafe impl sock::Plain for TlsAesGcm128 {}

/// With kernel TLS the ciphertext counts: it is what the connection carries.
fn ktls() {
    const SOL_TLS: i32 = 282;
    const TLS_TX: i32 = 1;
    const TLS_RX: i32 = 2;
    let upper_layer = |stream: &TcpStream| {
        // SAFETY: three bytes are readable.
        let result = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_ULP,
                b"tls".as_ptr().cast(),
                3,
            )
        };
        Errno::result(result)
    };
    if let Err(error) = upper_layer(&Pair::new(Family::V4).client) {
        return left_out("paths::ktls", format_args!("this kernel has no TLS: {error}"));
    }
    let tcptop = Tcptop::share(&QUICK);
    let pair = Pair::new(Family::V4);
    let ends = pair.ends;
    // TLS 1.2, AES-GCM-128, the same keys at both ends.
    let keys = TlsAesGcm128 {
        version: 0x0303,
        cipher: 51,
        iv: [1; 8],
        key: [2; 16],
        salt: [3; 4],
        sequence: [0; 8],
    };
    for (stream, direction) in [(&pair.client, TLS_TX), (&pair.server, TLS_RX)] {
        upper_layer(stream).expect("TCP_ULP");
        sock::set_option(stream, SOL_TLS, direction, &keys).expect("keys");
    }
    let plain = MEGABYTE + 3;
    pair.exchange(plain, 0);
    let file = file_of(plain);
    thread::scope(|scope| {
        scope.spawn(|| receive(&pair.server, plain));
        in_parts(plain, |left| {
            // SAFETY: two open descriptors; the file's own position is used.
            unsafe {
                libc::sendfile(
                    pair.client.as_raw_fd(),
                    file.as_raw_fd(),
                    std::ptr::null_mut(),
                    left,
                )
            }
        });
    });
    await_acked(&pair.client);
    let cipher = TcpInfo::of(&pair.client).bytes_out();
    assert!(cipher > 2 * plain, "records have headers and tags");
    assert_eq!(TcpInfo::of(&pair.server).bytes_received, cipher);
    sock::reset(pair.client);
    sock::await_closed(&pair.server);
    check_closed(tcptop, ends, cipher, 0);
}

/// A Multipath TCP connection appears as its subflows: TCP connections of one owner.
fn mptcp() {
    let open = || {
        let kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
        // SAFETY: no memory is involved; the descriptor is new and ours.
        unsafe {
            let fd = Errno::result(libc::socket(libc::AF_INET, kind, libc::IPPROTO_MPTCP))?;
            Ok::<_, Errno>(OwnedFd::from_raw_fd(fd))
        }
    };
    let any = SocketAddr::from((sock::loopback(1), 0));
    let (listener, client) = match (open(), open()) {
        (Ok(listener), Ok(client)) => (listener, client),
        (Err(error), _) | (_, Err(error)) => {
            return left_out("paths::mptcp", format_args!("this kernel has no MPTCP: {error}"));
        }
    };
    let tcptop = Tcptop::share(&QUICK);
    bind(listener.as_raw_fd(), &SockaddrStorage::from(any)).expect("bind");
    let listener = TcpListener::from(listener);
    nix::sys::socket::listen(&listener, Backlog::MAXCONN).expect("listen");
    sock::bounded(&listener);
    let client = TcpStream::from(client);
    sock::bounded(&client);
    sock::connect_socket(&client, listener.local_addr().expect("bound")).expect("connect");
    let pair = Pair::accept(&listener, client);
    let ends = pair.ends;
    let mut info = TcpInfo::default();
    let known = sock::get_option(&pair.client, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info);
    if let Err(error) = known {
        tcptop.finish();
        return left_out("paths::mptcp", format_args!("this MPTCP has no TCP_INFO: {error}"));
    }
    pair.exchange(MEGABYTE + 1, 12_345);
    await_acked(&pair.client);
    await_acked(&pair.server);
    // The subflow may carry more: MPTCP can send a part again as new payload of it.
    let [up, down] = [&pair.client, &pair.server].map(|end| TcpInfo::of(end).bytes_out());
    assert!(up > MEGABYTE && down >= 12_345);
    pair.close();
    check_closed(tcptop, ends, up, down);
}
