//! TCP sockets with known traffic, and the kernel's own counters of them.

use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage};

use super::wait::{patience, until, until_true};

/// `struct tcp_info` of linux/tcp.h up to the fields of Linux 6.7. Fields that the running
/// kernel does not know stay zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpInfo {
    pub state: u8,
    pub ca_state: u8,
    pub retransmits: u8,
    pub probes: u8,
    pub backoff: u8,
    pub options: u8,
    pub wscale: u8,
    pub flags: u8,
    pub rto: u32,
    pub ato: u32,
    pub snd_mss: u32,
    pub rcv_mss: u32,
    pub unacked: u32,
    pub sacked: u32,
    pub lost: u32,
    pub retrans: u32,
    pub fackets: u32,
    pub last_data_sent: u32,
    pub last_ack_sent: u32,
    pub last_data_recv: u32,
    pub last_ack_recv: u32,
    pub pmtu: u32,
    pub rcv_ssthresh: u32,
    pub rtt: u32,
    pub rttvar: u32,
    pub snd_ssthresh: u32,
    pub snd_cwnd: u32,
    pub advmss: u32,
    pub reordering: u32,
    pub rcv_rtt: u32,
    pub rcv_space: u32,
    pub total_retrans: u32,
    pub pacing_rate: u64,
    pub max_pacing_rate: u64,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub segs_out: u32,
    pub segs_in: u32,
    pub notsent_bytes: u32,
    pub min_rtt: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
    pub delivery_rate: u64,
    pub busy_time: u64,
    pub rwnd_limited: u64,
    pub sndbuf_limited: u64,
    pub delivered: u32,
    pub delivered_ce: u32,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
    pub dsack_dups: u32,
    pub reord_seen: u32,
    pub rcv_ooopack: u32,
    pub snd_wnd: u32,
    pub rcv_wnd: u32,
    pub rehash: u32,
    pub total_rto: u16,
    pub total_rto_recoveries: u16,
    pub total_rto_time: u32,
}

/// `TCP_CLOSE` in tcp_states.h.
pub const CLOSE: u8 = 7;

impl TcpInfo {
    pub fn of(socket: &impl AsFd) -> TcpInfo {
        let mut info = TcpInfo::default();
        get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).expect("TCP_INFO");
        info
    }

    /// Payload put on the wire once.
    pub fn bytes_out(&self) -> u64 {
        self.bytes_sent - self.bytes_retrans
    }
}

/// A value that the kernel may fill or read: plain integers all the way down.
///
/// # Safety
/// Any bit pattern must be a valid value, and there must be no padding.
pub unsafe trait Plain: Copy {}
// SAFETY: an integer.
unsafe impl Plain for i32 {}
// SAFETY: an integer.
unsafe impl Plain for u32 {}
// SAFETY: repr(C), integers only, laid out without gaps (as in linux/tcp.h).
unsafe impl Plain for TcpInfo {}
// SAFETY: repr(C), two integers.
unsafe impl Plain for libc::linger {}
// SAFETY: two 64-bit integers.
unsafe impl Plain for libc::timeval {}

pub fn get_option<T: Plain>(
    socket: &impl AsFd,
    level: i32,
    name: i32,
    value: &mut T,
) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for `length` bytes and any bytes are a valid T.
    let result = unsafe {
        let fd = socket.as_fd().as_raw_fd();
        libc::getsockopt(fd, level, name, (value as *mut T).cast(), &mut length)
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

pub fn set_option<T: Plain>(
    socket: &impl AsFd,
    level: i32,
    name: i32,
    value: &T,
) -> io::Result<()> {
    // SAFETY: `value` is readable for its size and holds no padding.
    let result = unsafe {
        let fd = socket.as_fd().as_raw_fd();
        let length = size_of::<T>() as libc::socklen_t;
        libc::setsockopt(fd, level, name, (value as *const T).cast(), length)
    };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// An option that is an integer; the kernel must know it.
pub fn set_int(socket: &impl AsFd, level: i32, name: i32, value: i32) {
    set_option(socket, level, name, &value)
        .unwrap_or_else(|e| panic!("setsockopt {level}/{name}: {e}"));
}

/// The local and the remote end of a socket, as tcptop shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ends {
    pub local: SocketAddr,
    pub remote: SocketAddr,
}

impl Ends {
    pub fn new(local: SocketAddr, remote: SocketAddr) -> Ends {
        Ends { local: canonical(local), remote: canonical(remote) }
    }

    pub fn of(stream: &TcpStream) -> Ends {
        Ends::new(stream.local_addr().expect("bound"), stream.peer_addr().expect("connected"))
    }

    /// The same connection as its peer sees it.
    pub fn flipped(self) -> Ends {
        Ends { local: self.remote, remote: self.local }
    }
}

/// An IPv4-mapped IPv6 address as IPv4, and an IPv6 one with its scope.
fn canonical(address: SocketAddr) -> SocketAddr {
    match (address, address.ip().to_canonical()) {
        (_, IpAddr::V4(v4)) => (v4, address.port()).into(),
        (v6, _) => v6,
    }
}

/// The address families of the two ends of a connection over loopback.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
    /// IPv6 sockets at both ends, IPv4 on the wire.
    Mapped,
    /// An IPv4 client of a server that listens on `[::]`.
    Dual,
}

impl Family {
    pub const ALL: [Family; 4] = [Family::V4, Family::V6, Family::Mapped, Family::Dual];

    fn listen_at(self) -> SocketAddr {
        match self {
            Family::V4 => (loopback(1), 0).into(),
            Family::V6 => (Ipv6Addr::LOCALHOST, 0).into(),
            Family::Mapped | Family::Dual => (Ipv6Addr::UNSPECIFIED, 0).into(),
        }
    }

    fn reach(self, listener: SocketAddr) -> SocketAddr {
        match self {
            Family::V4 | Family::V6 => listener,
            Family::Mapped => (loopback(1).to_ipv6_mapped(), listener.port()).into(),
            Family::Dual => (loopback(1), listener.port()).into(),
        }
    }
}

/// A loopback address that only this test process uses, so that two test runs on one
/// machine do not meet.
pub fn loopback(last: u8) -> Ipv4Addr {
    let pid = process::id();
    Ipv4Addr::new(127, 64 + (pid >> 8) as u8 % 64, pid as u8, last)
}

/// A listener whose `accept` has a timeout, and an address that reaches it.
pub fn listen(family: Family) -> (TcpListener, SocketAddr) {
    let listener = listen_at(family.listen_at());
    let address = family.reach(listener.local_addr().expect("bound"));
    (listener, address)
}

pub fn listen_at(address: SocketAddr) -> TcpListener {
    let listener =
        TcpListener::bind(address).unwrap_or_else(|e| panic!("listen at {address}: {e}"));
    bounded(&listener);
    listener
}

/// [`listen_at`] an address at which others may listen as well (SO_REUSEPORT).
pub fn listen_shared(address: SocketAddr) -> TcpListener {
    let socket = unconnected(address, None);
    set_int(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
    bind(&socket, address);
    let socket = OwnedFd::from(socket);
    socket::listen(&socket, socket::Backlog::MAXCONN).expect("listen");
    TcpListener::from(socket)
}

/// Gives every blocking call on the socket a timeout. (MPTCP has none before Linux 5.17.)
pub fn bounded(socket: &impl AsFd) {
    let time = libc::timeval { tv_sec: patience().as_secs() as i64, tv_usec: 0 };
    for option in [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO] {
        let result = set_option(socket, libc::SOL_SOCKET, option, &time);
        let mut protocol: libc::c_int = 0;
        get_option(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL, &mut protocol)
            .expect("SO_PROTOCOL");
        let lacking = protocol == libc::IPPROTO_MPTCP
            && result.as_ref().is_err_and(|error| {
                [Some(libc::ENOPROTOOPT), Some(libc::EOPNOTSUPP)].contains(&error.raw_os_error())
            });
        assert!(result.is_ok() || lacking, "socket timeout: {result:?}");
    }
}

/// A connection with both its ends in this process.
pub struct Pair {
    pub client: TcpStream,
    pub server: TcpStream,
    /// As the client sees it.
    pub ends: Ends,
}

impl Pair {
    pub fn new(family: Family) -> Pair {
        let (listener, address) = listen(family);
        let client = connect(address);
        Pair::accept(&listener, client)
    }

    /// From a client that is connecting or connected to this listener.
    pub fn accept(listener: &TcpListener, client: TcpStream) -> Pair {
        let (server, _) = listener.accept().expect("accept");
        bounded(&server);
        let ends = Ends::of(&client);
        assert_eq!(ends.flipped(), Ends::of(&server), "the listener is this test's own");
        Pair { client, server, ends }
    }

    /// Moves bytes both ways at once and reads them all.
    pub fn exchange(&self, client_to_server: u64, server_to_client: u64) {
        exchange(&self.client, &self.server, client_to_server, server_to_client);
    }

    /// Ends with a FIN from the client, then one from the server.
    pub fn close(self) {
        drop(self.client);
        assert_eq!(receive_all(&self.server), 0, "bytes left");
    }
}

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream =
        TcpStream::connect(address).unwrap_or_else(|e| panic!("connect to {address}: {e}"));
    bounded(&stream);
    stream
}

/// An unconnected TCP socket, bound to `local` if given.
pub fn unconnected(remote: SocketAddr, local: Option<SocketAddr>) -> TcpStream {
    let family = if remote.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd: OwnedFd =
        socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("socket");
    bounded(&fd);
    if let Some(local) = local {
        set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
        bind(&fd, local);
    }
    TcpStream::from(fd)
}

pub fn bind(socket: &impl AsFd, local: SocketAddr) {
    socket::bind(socket.as_fd().as_raw_fd(), &SockaddrStorage::from(local))
        .unwrap_or_else(|e| panic!("bind to {local}: {e}"));
}

/// A TCP socket with this local address. The kernel chooses its port when it connects, so
/// that each port can be used once for each peer.
pub fn unconnected_from(local: Ipv4Addr, remote: SocketAddr) -> TcpStream {
    let socket = unconnected(remote, None);
    set_int(&socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1);
    bind(&socket, (local, 0).into());
    socket
}

/// Connects a socket of [`unconnected`].
pub fn connect_socket(socket: &TcpStream, remote: SocketAddr) -> io::Result<()> {
    Ok(socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(remote))?)
}

/// connect() with AF_UNSPEC: the socket is no connection any more, and can become another.
pub fn disconnect(socket: &TcpStream) {
    let unspecified =
        libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: the address is readable for its size.
    let result = unsafe {
        let length = mem::size_of::<libc::sockaddr>() as libc::socklen_t;
        libc::connect(socket.as_raw_fd(), &raw const unspecified, length)
    };
    Errno::result(result).expect("disconnect");
}

/// Starts to connect and does not wait for the outcome.
pub fn start_connecting(socket: &TcpStream, remote: SocketAddr) {
    socket.set_nonblocking(true).expect("nonblocking");
    let result = connect_socket(socket, remote);
    let error = result.expect_err("a connect that takes time");
    assert_eq!(error.raw_os_error(), Some(libc::EINPROGRESS), "connect to {remote}");
}

/// The outcome of [`start_connecting`] on a connect that must fail.
pub fn connect_error(socket: &TcpStream) -> i32 {
    until("the connect to fail", || {
        socket.take_error().expect("SO_ERROR").and_then(|e| e.raw_os_error())
    })
}

static PATTERN: [u8; 65536] = [b'x'; 65536];

pub fn send(mut stream: &TcpStream, bytes: u64) {
    let mut left = bytes;
    while left > 0 {
        let part = left.min(PATTERN.len() as u64) as usize;
        stream.write_all(&PATTERN[..part]).expect("send");
        left -= part as u64;
    }
}

pub fn receive(stream: &TcpStream, bytes: u64) {
    let got = io::copy(&mut stream.take(bytes), &mut io::sink()).expect("receive");
    assert_eq!(got, bytes, "the stream ended early");
}

/// Reads to the end of the stream.
pub fn receive_all(mut stream: &TcpStream) -> u64 {
    io::copy(&mut stream, &mut io::sink()).expect("receive to the end")
}

pub fn exchange(a: &TcpStream, b: &TcpStream, a_to_b: u64, b_to_a: u64) {
    thread::scope(|scope| {
        scope.spawn(|| send(a, a_to_b));
        scope.spawn(|| send(b, b_to_a));
        scope.spawn(|| receive(a, b_to_a));
        receive(b, a_to_b);
    });
}

/// A flow from the client of a pair to its server, in equal parts. It ends when it is
/// stopped or when the test fails.
pub struct Stream {
    running: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Part>>>,
}

/// A part of a [`Stream`]: the time before its first byte was sent, the time after its last
/// byte was received, and the total so far.
pub struct Part {
    pub began: Instant,
    pub ended: Instant,
    pub total: u64,
}

impl Stream {
    /// Moves a part (no more than the socket buffers hold) at once and in each `period`.
    pub fn start(pair: &Pair, part: u64, period: Duration) -> Stream {
        let [from, to] =
            [&pair.client, &pair.server].map(|stream| stream.try_clone().expect("dup"));
        let running = Arc::new(AtomicBool::new(true));
        let go_on = Arc::clone(&running);
        let thread = thread::spawn(move || {
            let mut log: Vec<Part> = Vec::new();
            let start = Instant::now();
            while go_on.load(Ordering::Relaxed) {
                let began = Instant::now();
                send(&from, part);
                receive(&to, part);
                let total = part * (log.len() as u64 + 1);
                log.push(Part { began, ended: Instant::now(), total });
                let next = start + period * log.len() as u32;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            log
        });
        Stream { running, thread: Some(thread) }
    }

    /// Ends the flow after everything was received. Returns its parts.
    pub fn stop(mut self) -> Vec<Part> {
        self.halt().expect("it runs").expect("the flow")
    }

    fn halt(&mut self) -> Option<thread::Result<Vec<Part>>> {
        self.running.store(false, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The test has failed already.
        let _ = self.halt();
    }
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    set_option(&stream, libc::SOL_SOCKET, libc::SO_LINGER, &linger).expect("SO_LINGER");
}

/// Waits until the kernel has closed the connection of an open socket.
pub fn await_closed(stream: &TcpStream) {
    until_true("the connection to be closed", || TcpInfo::of(stream).state == CLOSE);
}

/// Waits until all sent bytes are acknowledged.
pub fn await_acked(stream: &TcpStream) {
    until_true("the last acknowledgement", || {
        let info = TcpInfo::of(stream);
        info.unacked == 0 && info.notsent_bytes == 0
    });
}

/// Waits until the kernel has received this many bytes, read or not.
pub fn await_received(stream: &TcpStream, bytes: u64) {
    until_true("the bytes to arrive", || TcpInfo::of(stream).bytes_received == bytes);
}

/// Which arriving segments a socket accepts.
pub enum Let {
    Nothing,
    /// Only a SYN that is not an answer to a SYN.
    Beginnings,
    /// This share of the segments, at random.
    Percent(u32),
}

/// Loses arriving segments before TCP sees them (a socket filter that rejects).
/// On a listener it loses SYNs.
pub fn filter_incoming(socket: &impl AsFd, what: Let) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let accept = statement(libc::BPF_RET | libc::BPF_K, u32::MAX);
    let reject = statement(libc::BPF_RET | libc::BPF_K, 0);
    let mut program = match what {
        Let::Nothing => vec![reject],
        Let::Beginnings => {
            let mut choice = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0x02);
            choice.jf = 1;
            vec![
                // The filter sees the segment from its TCP header on; byte 13 has the flags.
                statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 13),
                // SYN and ACK
                statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0x12),
                choice,
                accept,
                reject,
            ]
        }
        Let::Percent(share) => {
            let random = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM) as u32;
            let bound = (u64::from(share) * u64::from(u32::MAX) / 100) as u32;
            let mut choice = statement(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, bound);
            choice.jf = 1;
            vec![
                statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, random),
                choice,
                reject,
                accept,
            ]
        }
    };
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the option takes a sock_fprog, whose filter lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            mem::size_of_val(&program) as libc::socklen_t,
        )
    };
    Errno::result(result).expect("SO_ATTACH_FILTER");
}

/// Undoes [`filter_incoming`].
pub fn let_all_in(socket: &impl AsFd) {
    set_int(socket, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0);
}

/// Whether the error only means that a non-blocking call would have blocked.
pub fn would_block(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

/// How many bytes a read would return at once.
pub fn readable_bytes(pipe: &impl AsFd) -> usize {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes one int.
    let result = unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) };
    Errno::result(result).expect("FIONREAD");
    bytes as usize
}

/// Raises the limit of open files of this process to its hard limit.
pub fn raise_file_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes, then reads, the structure.
    let result = unsafe {
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit)
    };
    Errno::result(result).expect("RLIMIT_NOFILE");
}
