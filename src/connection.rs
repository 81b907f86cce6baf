//! The vocabulary: types for a connection and the facts about it.
//!
//! Owns the types that every stage from the collector to the output shares.
//! Pure: nothing here touches the kernel, a clock or a file.

use std::fmt;
use std::net::SocketAddr;

/// The transport protocol of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// A TCP connection (RFC 9293).
    Tcp,
    /// A UDP flow: one (local, remote) pair of addresses and ports (RFC 768).
    Udp,
}

impl Protocol {
    /// `TCP` or `UDP`, as every output format writes it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        }
    }
}

/// The address family of a row. An IPv4-mapped IPv6 address is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The state of a TCP connection, named as in RFC 9293, section 3.3.2, in the
/// spelling of Linux's `include/net/tcp_states.h`.
///
/// Listeners, TIME_WAIT and request sockets are not connections and have no
/// variant here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TcpState {
    /// The handshake is done; data flows.
    Established,
    /// A SYN was sent; this end waits for the answer.
    SynSent,
    /// A SYN arrived and was answered. A TCP Fast Open connection can have data already.
    SynRecv,
    /// This end closed; its FIN is not yet acknowledged.
    FinWait1,
    /// This end closed, and the peer has acknowledged that. The peer may still send.
    FinWait2,
    /// The peer closed; this end may still send.
    CloseWait,
    /// Both ends closed, the peer first; this end waits for the last ACK.
    LastAck,
    /// Both ends closed at the same time.
    Closing,
}

impl TcpState {
    /// All of them.
    pub const ALL: [TcpState; 8] = [
        TcpState::Established,
        TcpState::SynSent,
        TcpState::SynRecv,
        TcpState::FinWait1,
        TcpState::FinWait2,
        TcpState::CloseWait,
        TcpState::LastAck,
        TcpState::Closing,
    ];

    /// The name as the outputs write it.
    pub fn name(self) -> &'static str {
        match self {
            TcpState::Established => "ESTABLISHED",
            TcpState::SynSent => "SYN_SENT",
            TcpState::SynRecv => "SYN_RECV",
            TcpState::FinWait1 => "FIN_WAIT1",
            TcpState::FinWait2 => "FIN_WAIT2",
            TcpState::CloseWait => "CLOSE_WAIT",
            TcpState::LastAck => "LAST_ACK",
            TcpState::Closing => "CLOSING",
        }
    }
}

/// Why a TCP connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Both ends sent a FIN, or this end did and the kernel finished the connection alone.
    Fin,
    /// The peer sent a reset.
    Reset,
    /// The peer did not answer in time (SYN, data, keep-alive or `TCP_USER_TIMEOUT`).
    Timeout,
    /// The peer refused the connection.
    Refused,
    /// The peer cannot be reached: an ICMP error or the neighbour table said so.
    Unreachable,
    /// This host sent the reset.
    Abort,
    /// The kernel gave no reason.
    Unknown,
}

impl CloseReason {
    /// The word after `end=`; `None` where the reason is not known.
    pub fn name(self) -> Option<&'static str> {
        Some(match self {
            CloseReason::Fin => "fin",
            CloseReason::Reset => "rst",
            CloseReason::Timeout => "timeout",
            CloseReason::Refused => "refused",
            CloseReason::Unreachable => "unreachable",
            CloseReason::Abort => "abort",
            CloseReason::Unknown => return None,
        })
    }
}

/// A name as the kernel keeps it, of a process or of a congestion control: at most 15
/// bytes, any value but NUL.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct KernelName([u8; 16]);

impl KernelName {
    /// From `task_struct.comm` or the like: the bytes up to the first NUL count.
    pub fn from_comm(comm: [u8; 16]) -> KernelName {
        KernelName(comm)
    }

    /// The raw bytes, without the terminating NUL. They need not be UTF-8, and can
    /// contain blanks, quotes and escape codes.
    pub fn as_bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(self.0.len());
        &self.0[..end]
    }

    /// As text, with U+FFFD for each byte sequence that is not UTF-8.
    pub fn to_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(self.as_bytes())
    }
}

impl fmt::Debug for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_text())
    }
}

/// The process that last connected, accepted, sent or received on a socket. Until one
/// has done so: a process that has the socket open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Thread-group id, as seen from the initial PID namespace. Never 0.
    pub pid: u32,
    /// Name of the thread-group leader.
    pub name: KernelName,
}

/// Identifies a connection. Two connections have different keys even where their
/// addresses and ports are the same: when a port is used again, in two network
/// namespaces, or when both ends are on this host.
///
/// Opaque: the collector makes it, and all other code only compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    /// Identifies the socket (TCP) or the flow (UDP) at one moment.
    pub object: u64,
    /// When tcptop first saw this use of it, in nanoseconds of CLOCK_MONOTONIC.
    pub born_ns: u64,
}

/// Payload bytes and packets each way since tcptop first saw the connection
/// (or, with `--lifetime`, since it opened).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Counters {
    /// Payload received in order. FIN and SYN do not count.
    pub bytes_in: u64,
    /// Payload put on the wire once: retransmissions do not count.
    pub bytes_out: u64,
    /// TCP segments (pure ACKs included) or UDP datagrams received.
    pub packets_in: u64,
    /// TCP segments (pure ACKs and retransmissions included) or UDP datagrams sent.
    pub packets_out: u64,
}

impl Counters {
    /// Bytes of both directions.
    pub fn bytes(&self) -> u64 {
        self.bytes_in.saturating_add(self.bytes_out)
    }
}

/// Tells a connection from all others of this host until it boots again. Two tcptops that
/// run at once see the same value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Identity {
    /// The cookie of the socket (`sock.skc_cookie`), which the kernel gives to one socket
    /// only; 0 where it was not asked for.
    pub cookie: u64,
    /// Which of the connections or flows of this socket.
    pub part: u64,
}

/// What is known about a connection only where it was asked for, because it takes a longer
/// record or work of its own in the kernel. `None`: the kernel does not have it, or has
/// not measured it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // The columns of these names say what each is, and where it is from.
pub struct Details {
    pub connect_us: Option<u32>,
    pub syn_retrans: Option<u32>,
    pub cwnd: Option<u32>,
    pub ssthresh: Option<u32>,
    pub mss: Option<u32>,
    pub rttvar_us: Option<u32>,
    pub rcv_rtt_us: Option<u32>,
    pub delivery_rate: Option<u64>,
    pub pacing_rate: Option<u64>,
    pub unacked: Option<u32>,
    pub lost: Option<u32>,
    pub reordering: Option<u32>,
    pub bytes_retrans: Option<u64>,
    pub dsack_dups: Option<u32>,
    pub rcv_ooo: Option<u32>,
    pub notsent: Option<u32>,
    pub send_queue: Option<u32>,
    pub recv_queue: Option<u32>,
    pub busy_us: Option<u64>,
    pub rwnd_limited_us: Option<u64>,
    pub sndbuf_limited_us: Option<u64>,
    pub congestion: Option<KernelName>,
    pub drops: Option<u64>,
}

bitflags::bitflags! {
    /// What must be read or looked up for a column, a filter, an order or a group, beyond
    /// what every sample has. What nobody needs costs nothing.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Needs: u16 {
        /// [`Sample::id`].
        const IDENTITY = 1;
        /// [`Sample::details`] of TCP.
        const DETAILS = 1 << 1;
        /// `drops` of UDP sockets.
        const DROPS = 1 << 2;
        /// The name of the device.
        const INTERFACE = 1 << 3;
        /// The path of the cgroup.
        const CGROUP = 1 << 4;
        /// The id of the container.
        const CONTAINER = 1 << 5;
        /// The name of the container.
        const CONTAINER_NAME = 1 << 6;
        /// The pod of the container.
        const POD = 1 << 7;
        /// The unit of systemd.
        const UNIT = 1 << 8;
        /// The path of the owner's program.
        const EXE = 1 << 9;
        /// The name of the user.
        const USER = 1 << 10;
        /// Everything that follows from the path of a cgroup.
        const CGROUPS = Self::CGROUP.bits()
            | Self::CONTAINER.bits()
            | Self::CONTAINER_NAME.bits()
            | Self::POD.bits()
            | Self::UNIT.bits();
        /// Everything that [`Names`](crate::names::Names) look up.
        const NAMES = Self::INTERFACE.bits()
            | Self::CGROUPS.bits()
            | Self::EXE.bits()
            | Self::USER.bits();
    }
}

/// What the kernel reported about one connection at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Identifies the connection.
    pub key: ConnectionKey,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Address and port of this host's socket. An IPv4-mapped IPv6 address is IPv4 here.
    pub local: SocketAddr,
    /// Address and port of the peer.
    pub remote: SocketAddr,
    /// `None` for UDP.
    pub state: Option<TcpState>,
    /// `None` where no process is known.
    pub owner: Option<Owner>,
    /// Totals.
    pub counters: Counters,
    /// Smoothed round-trip time in microseconds (`tcp_sock.srtt_us / 8`, RFC 6298);
    /// `None` for UDP and before the first measurement.
    pub rtt_us: Option<u32>,
    /// Minimum round-trip time of the kernel's window (`tcp_sock.rtt_min`), in microseconds.
    pub min_rtt_us: Option<u32>,
    /// Retransmitted segments (`tcp_sock.total_retrans`).
    pub retransmits: u32,
    /// True where the connection is older than tcptop. Its counters may still be
    /// complete: see [`lacks_past`](Sample::lacks_past).
    pub partial: bool,
    /// User id of the socket's creator, in the initial user namespace.
    pub uid: u32,
    /// Index of the device that the socket is bound to or, without that, the device of
    /// its route. Valid in the socket's network namespace; 0 for none.
    pub ifindex: u32,
    /// Inode number of the network namespace, as in `/proc/PID/ns/net`.
    pub netns: u32,
    /// Id of the socket's cgroup v2 (the inode number of its directory); 0 where unknown.
    pub cgroup: u64,
    /// The same in every sample of the connection, where [`Needs::IDENTITY`] was asked for.
    pub id: Identity,
    /// `None` unless [`Needs::DETAILS`] or [`Needs::DROPS`] was asked for.
    pub details: Option<Box<Details>>,
}

impl Sample {
    /// A connection of which nothing else is known, and which has moved nothing.
    pub fn new(
        key: ConnectionKey,
        protocol: Protocol,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Sample {
        Sample {
            key,
            protocol,
            local,
            remote,
            state: None,
            owner: None,
            counters: Counters::default(),
            rtt_us: None,
            min_rtt_us: None,
            retransmits: 0,
            partial: false,
            uid: 0,
            ifindex: 0,
            netns: 0,
            cgroup: 0,
            id: Identity::default(),
            details: None,
        }
    }

    /// True where the totals do not include what the connection moved before tcptop
    /// started. With `lifetime`, the totals of TCP always include it, because the kernel
    /// has counted since the connection opened. Nobody has counted for a UDP flow.
    pub fn lacks_past(&self, lifetime: bool) -> bool {
        self.partial && !(lifetime && self.protocol == Protocol::Tcp)
    }
}

/// A TCP connection that ended, or a UDP flow that was silent for `--udp-timeout` and is
/// forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// Final totals. `state` is the last one before CLOSE.
    pub sample: Sample,
    /// Why it ended; [`Unknown`](CloseReason::Unknown) for UDP.
    pub reason: CloseReason,
    /// When it ended, in nanoseconds of CLOCK_MONOTONIC. For UDP: when it was
    /// forgotten.
    pub closed_ns: u64,
}

impl Closed {
    /// How long the connection lasted; `None` where it is older than tcptop.
    pub fn age_ns(&self) -> Option<u64> {
        (!self.sample.partial).then(|| self.closed_ns.saturating_sub(self.sample.key.born_ns))
    }
}
