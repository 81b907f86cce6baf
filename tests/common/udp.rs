//! UDP sockets with known traffic, and the totals that their flows should show.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::ops::AddAssign;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    self, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrStorage, recvmsg,
    sendmsg,
};

use super::sock::{self, Ends, Family, Plain, set_int, set_option};
use super::tcptop::{Output, Row, Tcptop};

/// The largest payload of a datagram over IPv4.
pub const LARGEST: usize = 65_507;

/// The arguments of most tests: exact numbers, short intervals, and no flow is forgotten.
pub const QUICK: [&str; 6] = ["--udp", "--raw", "--interval", "0.1", "--udp-timeout", "300"];

static PAYLOAD: [u8; 65_536] = [b'u'; 65_536];

/// Bytes and datagrams in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub packets_in: u64,
    pub packets_out: u64,
}

impl Totals {
    pub fn received(bytes: u64, packets: u64) -> Totals {
        Totals { bytes_in: bytes, packets_in: packets, ..Totals::default() }
    }

    pub fn sent(bytes: u64, packets: u64) -> Totals {
        Totals { bytes_out: bytes, packets_out: packets, ..Totals::default() }
    }

    pub fn of(row: &Row) -> Totals {
        Totals {
            bytes_in: row.bytes_in,
            bytes_out: row.bytes_out,
            packets_in: row.packets_in,
            packets_out: row.packets_out,
        }
    }

    /// The same traffic as the peer counts it.
    pub fn flipped(self) -> Totals {
        Totals {
            bytes_in: self.bytes_out,
            bytes_out: self.bytes_in,
            packets_in: self.packets_out,
            packets_out: self.packets_in,
        }
    }
}

impl AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.packets_in += other.packets_in;
        self.packets_out += other.packets_out;
    }
}

/// Waits until the flow's row has these totals. Returns the row.
pub fn wait_totals(tcptop: &Tcptop, ends: Ends, totals: Totals) -> Row {
    tcptop.wait_row(&format!("row of {ends:?} with {totals:?}"), ends, |row| {
        Totals::of(row) == totals
    })
}

/// Checks the rows of one flow: its totals never decrease, the last ones are these, and its
/// owner is this process. If it only receives, the first rows may lack the owner, since
/// tcptop may have to look it up.
pub fn check_flow(output: &Output, ends: Ends, totals: Totals, pid: u32) {
    let rows: Vec<&Row> = output.rows_of(ends).collect();
    let context = format!("{ends:?}, expected {totals:?}: {rows:#?}");
    assert_eq!(rows.last().map(|row| Totals::of(row)), Some(totals), "{context}");
    for row in &rows {
        assert_eq!((&*row.state, &*row.rtt, row.partial), ("UDP", "-", false), "{context}");
        let owned = row.pid == Some(pid) || (row.pid.is_none() && row.packets_out == 0);
        assert!(owned, "{context}");
    }
    let steps_back = |two: &[&Row]| {
        let (before, after) = (Totals::of(two[0]), Totals::of(two[1]));
        after.packets_in < before.packets_in
            || after.packets_out < before.packets_out
            || after.bytes_in < before.bytes_in
            || after.bytes_out < before.bytes_out
    };
    assert!(!rows.windows(2).any(steps_back), "{context}");
}

/// A socket bound to this address; its calls have a timeout.
pub fn bind(local: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(local).unwrap_or_else(|e| panic!("bind to {local}: {e}"));
    sock::bounded(&socket);
    socket
}

/// [`bind`] to an address that others may bind to as well (SO_REUSEPORT).
pub fn bind_shared(local: SocketAddr) -> UdpSocket {
    let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .expect("a UDP socket");
    set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1);
    set_int(&fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(local))
        .unwrap_or_else(|e| panic!("bind to {local}: {e}"));
    sock::bounded(&fd);
    UdpSocket::from(fd)
}

/// The loopback address for a socket of this family.
fn own_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
        Family::Mapped | Family::Dual => Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(),
    }
}

/// The wildcard address for a socket of this family.
fn wildcard(family: Family) -> SocketAddr {
    match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED, 0).into(),
        Family::V6 | Family::Mapped | Family::Dual => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

// SAFETY: three 32-bit integers.
unsafe impl Plain for libc::ip_mreqn {}
// SAFETY: 16 bytes and an integer, without gaps.
unsafe impl Plain for libc::ipv6_mreq {}

/// Joins the multicast group on the device with this index.
pub fn join(socket: &UdpSocket, group: IpAddr, device: u32) {
    let result = match group {
        IpAddr::V4(group) => {
            let request = libc::ip_mreqn {
                imr_multiaddr: libc::in_addr { s_addr: u32::from(group).to_be() },
                imr_address: libc::in_addr { s_addr: 0 },
                imr_ifindex: device as i32,
            };
            set_option(socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &request)
        }
        IpAddr::V6(group) => socket.join_multicast_v6(&group, device),
    };
    result.unwrap_or_else(|e| panic!("join {group}: {e}"));
}

/// Sends datagrams of this size.
pub fn send_to(socket: &UdpSocket, remote: SocketAddr, bytes: usize, count: u32) {
    for _ in 0..count {
        let sent = socket.send_to(&PAYLOAD[..bytes], remote);
        assert_eq!(sent.unwrap_or_else(|e| panic!("send to {remote}: {e}")), bytes);
    }
}

/// Sends one datagram on a connected socket.
pub fn send(socket: &UdpSocket, bytes: usize) {
    assert_eq!(socket.send(&PAYLOAD[..bytes]).expect("send"), bytes);
}

/// Sends a part of a datagram (MSG_MORE).
pub fn send_part(socket: &UdpSocket, bytes: usize) {
    let flags = MsgFlags::from_bits_retain(libc::MSG_MORE);
    let sent = socket::send(socket.as_raw_fd(), &PAYLOAD[..bytes], flags);
    assert_eq!(sent.expect("send"), bytes);
}

/// Sends a batch that the kernel cuts into segments of this size (UDP_SEGMENT).
pub fn send_segments(socket: &UdpSocket, bytes: usize, segment: u16) -> io::Result<()> {
    let parts = [IoSlice::new(&PAYLOAD[..bytes])];
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let fd = socket.as_raw_fd();
    let sent = sendmsg::<SockaddrStorage>(fd, &parts, &control, MsgFlags::empty(), None)?;
    assert_eq!(sent, bytes);
    Ok(())
}

/// Receives this many datagrams, or this many batches (UDP_GRO). Returns their bytes.
pub fn receive(socket: &UdpSocket, count: u32) -> u64 {
    let mut buffer = [0; 65_536];
    (0..count).map(|_| socket.recv(&mut buffer).expect("a datagram") as u64).sum()
}

/// Receives this many datagrams and answers each with one of this size.
pub fn answer(socket: &UdpSocket, count: u32, bytes: usize) {
    let mut buffer = [0; 65_536];
    for _ in 0..count {
        let (_, from) = socket.recv_from(&mut buffer).expect("a datagram");
        send_to(socket, from, bytes, 1);
    }
}

/// Receives this many bytes in datagrams or batches. Returns the number of receives.
pub fn receive_bytes(socket: &UdpSocket, bytes: u64) -> u64 {
    let mut buffer = [0; 65_536];
    let (mut got, mut calls) = (0, 0);
    while got < bytes {
        got += socket.recv(&mut buffer).expect("a datagram") as u64;
        calls += 1;
    }
    assert_eq!(got, bytes);
    calls
}

/// Takes all waiting datagrams from the socket. Returns their number and bytes.
pub fn drain(socket: &UdpSocket) -> (u64, u64) {
    let mut buffer = vec![0; 65_536];
    let (mut count, mut bytes) = (0, 0);
    loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let fd = socket.as_raw_fd();
        match recvmsg::<SockaddrStorage>(fd, &mut parts, None, MsgFlags::MSG_DONTWAIT) {
            Ok(message) => bytes += message.bytes as u64,
            Err(nix::errno::Errno::EAGAIN) => return (count, bytes),
            Err(error) => panic!("receive: {error}"),
        }
        count += 1;
    }
}

/// Peeks at the next datagram.
pub fn peek(socket: &UdpSocket, room: usize) {
    let mut buffer = vec![0; room];
    socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_PEEK).expect("peek");
}

/// Two sockets that send to each other, and what they have sent. Each datagram is received
/// before the next ones are sent, so none is dropped.
pub struct Duo {
    pub one: UdpSocket,
    pub other: UdpSocket,
    connected: bool,
    reach_one: SocketAddr,
    reach_other: SocketAddr,
    /// As the first one sees it.
    pub ends: Ends,
    pub totals: Totals,
}

impl Duo {
    /// If `connected`, the first socket is connected. Else both are bound to all addresses.
    pub fn new(family: Family, connected: bool) -> Duo {
        let other_family = if family == Family::Dual { Family::V4 } else { family };
        let (one, other) = (bind(wildcard(family)), bind(wildcard(other_family)));
        let port = |socket: &UdpSocket| socket.local_addr().expect("bound").port();
        let reach_one = SocketAddr::new(own_address(other_family), port(&one));
        let reach_other = SocketAddr::new(own_address(family), port(&other));
        if connected {
            one.connect(reach_other).expect("connect");
        }
        let ends = Ends::new(reach_one, reach_other);
        Duo { one, other, connected, reach_one, reach_other, ends, totals: Totals::default() }
    }

    pub fn send(&mut self, bytes: usize, count: u32) {
        for _ in 0..count {
            if self.connected {
                send(&self.one, bytes);
            } else {
                send_to(&self.one, self.reach_other, bytes, 1);
            }
        }
        assert_eq!(receive(&self.other, count), bytes as u64 * u64::from(count));
        self.totals += Totals::sent(bytes as u64 * u64::from(count), u64::from(count));
    }

    pub fn answer(&mut self, bytes: usize, count: u32) {
        send_to(&self.other, self.reach_one, bytes, count);
        assert_eq!(receive(&self.one, count), bytes as u64 * u64::from(count));
        self.totals += Totals::received(bytes as u64 * u64::from(count), u64::from(count));
    }

    /// Both flows, with what each should show.
    pub fn expected(&self) -> [(Ends, Totals); 2] {
        [(self.ends, self.totals), (self.ends.flipped(), self.totals.flipped())]
    }
}
