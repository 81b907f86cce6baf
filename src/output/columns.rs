//! The columns: every value that a row can have is described here, and only here.
//!
//! Owns the table [`COLUMNS`]: a value's name, unit, type and source, the sentence that
//! explains it, and how it is taken from a row. The header and rows of CSV, JSON, the
//! rows of lines, the manual page and the tables of the documentation are all made from it. Knows
//! nothing about files, quoting or colours. To add a column, add an entry here.

use std::net::SocketAddr;

use chrono::{DateTime, Utc};

use super::grouped::{self, GroupRow};
use crate::connection::{Details, Identity, KernelName, Needs, Protocol, Sample};
use crate::names::Place;
use crate::settings::ColumnList;
use crate::table::{ClosedRecord, ConnectionRecord, LimitedBy};
use crate::view::Key;

/// One value and its meaning. Each format writes it in its own way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Not known, or the connection has none.
    Unknown,
    /// A fixed word of tcptop, such as a state.
    Word(&'static str),
    /// Text that comes from the host and may contain any character.
    Text(&'a str),
    /// The name of a process, which need not be UTF-8.
    Name(&'a KernelName),
    /// The time of the interval (RFC 3339), as text.
    Time(&'a str),
    /// Another time. Formats write it as RFC 3339.
    Moment(DateTime<Utc>),
    /// The identity of a connection.
    Id(Identity),
    /// An address without its port.
    Host(&'a SocketAddr),
    /// An address with its port.
    Endpoint(&'a SocketAddr),
    /// A count or an id.
    Number(u64),
    /// Bytes.
    Bytes(u64),
    /// Bytes per second.
    Rate(f64),
    /// Microseconds.
    Micros(u64),
    /// A time span in nanoseconds. Formats write it in seconds.
    Span(u64),
    /// Yes or no.
    Flag(bool),
}

impl Value<'_> {
    /// A number; unknown for `None`.
    fn number(number: Option<impl Into<u64>>) -> Self {
        number.map_or(Value::Unknown, |number| Value::Number(number.into()))
    }

    /// Microseconds; unknown for `None`.
    fn micros(us: Option<u32>) -> Self {
        us.map_or(Value::Unknown, |us| Value::Micros(us.into()))
    }

    /// What rows are ordered by in `--sort`; `None` where the value is not known.
    pub fn key(&self) -> Option<Key> {
        let number = |number: u64| Some(Key::Number(number as f64));
        match *self {
            Value::Unknown => None,
            Value::Word(text) | Value::Text(text) | Value::Time(text) => {
                Some(Key::Text(text.to_owned()))
            }
            Value::Name(name) => Some(Key::Text(name.to_text().into_owned())),
            // The oldest first, as in an order of texts.
            Value::Moment(time) => Some(Key::Number(-(time.timestamp_micros() as f64))),
            Value::Id(id) => Some(Key::Text(format!("{:016x}{:016x}", id.cookie, id.part))),
            Value::Host(address) => Some(Key::Address(SocketAddr::new(address.ip(), 0))),
            Value::Endpoint(address) => Some(Key::Address(*address)),
            Value::Number(value)
            | Value::Bytes(value)
            | Value::Micros(value)
            | Value::Span(value) => number(value),
            Value::Rate(rate) => Some(Key::Number(rate)),
            Value::Flag(flag) => number(flag.into()),
        }
    }

    /// Text that comes from the host; unknown for `None`.
    fn text<'a>(text: Option<&'a str>) -> Value<'a> {
        text.map_or(Value::Unknown, Value::Text)
    }
}

/// The type of a column for readers of CSV and JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A number.
    Number,
    /// A boolean.
    Flag,
}

impl Kind {
    /// The name of the type in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Text => "string",
            Kind::Number => "number",
            Kind::Flag => "boolean",
        }
    }
}

/// The formats that have a column by default. The columns of lines are in their own
/// list, [`LINES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usual {
    /// CSV and JSON.
    Always,
    /// CSV with `--wide`, and JSON.
    Wide,
    /// None: it is there where `--columns` asks for it.
    Asked,
    /// The rows of groups.
    Grouped,
}

/// Everything that is known about a row. The columns take their values from it.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The time of the interval (RFC 3339).
    pub time: &'a str,
    /// The name of the host.
    pub host: &'a str,
    /// The newest sample of the connection.
    pub sample: &'a Sample,
    /// The state, `UDP`, or `CLOSED` in a final row.
    pub state: &'static str,
    /// Bytes per second received in this interval.
    pub rate_in: f64,
    /// Bytes per second sent in this interval.
    pub rate_out: f64,
    /// How long the connection has lasted, in nanoseconds; in a final row until its end.
    /// `None` where it is older than tcptop.
    pub age_ns: Option<u64>,
    /// When the connection began, in nanoseconds since 1970 (UTC); `None` where it is older
    /// than tcptop.
    pub started_ns: Option<i64>,
    /// True where the totals do not include what was moved before tcptop started.
    pub partial: bool,
    /// Why the connection ended; `None` where it is open, or the reason is not known.
    pub end: Option<&'static str>,
    /// What kept this end from sending more in this interval; `None` where not known.
    pub limited_by: Option<LimitedBy>,
    /// The names that the columns need.
    pub place: Place<'a>,
    /// The group, in the row of one. `sample` has its totals then.
    pub group: Option<&'a GroupRow<'a>>,
}

/// What all rows of an interval have in common.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a> {
    /// The time of the interval (RFC 3339).
    pub time: &'a str,
    /// The same moment on CLOCK_MONOTONIC, in nanoseconds.
    pub now_ns: u64,
    /// The name of the host.
    pub host: &'a str,
    /// The totals of TCP count from the opening of each connection (`--lifetime`).
    pub lifetime: bool,
}

impl<'a> Row<'a> {
    /// The row of an open connection.
    pub fn open(record: &'a ConnectionRecord, common: Common<'a>, place: Place<'a>) -> Row<'a> {
        let sample = &record.sample;
        Row {
            time: common.time,
            host: common.host,
            sample,
            state: super::state_name(sample),
            rate_in: record.rate_in,
            rate_out: record.rate_out,
            age_ns: (!sample.partial).then(|| common.now_ns.saturating_sub(sample.key.born_ns)),
            started_ns: record.started_ns,
            partial: sample.lacks_past(common.lifetime),
            end: None,
            limited_by: record.limited_by(),
            place,
            group: None,
        }
    }

    /// The final row of a connection.
    pub fn closed(record: &'a ClosedRecord, common: Common<'a>, place: Place<'a>) -> Row<'a> {
        let closed = &record.closed;
        let sample = &closed.sample;
        Row {
            time: common.time,
            host: common.host,
            sample,
            state: match sample.protocol {
                Protocol::Tcp => "CLOSED",
                Protocol::Udp => "EXPIRED",
            },
            rate_in: 0.0,
            rate_out: 0.0,
            age_ns: closed.age_ns(),
            started_ns: record.started_ns,
            partial: sample.lacks_past(common.lifetime),
            end: closed.reason.name(),
            limited_by: record.limited_by,
            place,
            group: None,
        }
    }

    /// The row that a connection which closed would have if it were still open in its last
    /// state.
    pub fn last(record: &'a ClosedRecord, common: Common<'a>, place: Place<'a>) -> Row<'a> {
        Row {
            state: super::state_name(&record.closed.sample),
            ..Row::closed(record, common, place)
        }
    }

    /// The row of a group.
    pub fn group(group: &'a GroupRow<'a>, common: Common<'a>) -> Row<'a> {
        Row {
            time: common.time,
            host: common.host,
            sample: &group.sample,
            state: "",
            rate_in: group.group.rate_in,
            rate_out: group.group.rate_out,
            age_ns: None,
            started_ns: None,
            partial: false,
            end: None,
            limited_by: None,
            place: Place::default(),
            group: Some(group),
        }
    }

    /// Its value in a column.
    pub fn value(&self, column: &Column) -> Value<'a> {
        match self.group {
            None => (column.value)(self),
            Some(group) => group.own(column.name).unwrap_or_else(|| (column.value)(self)),
        }
    }

    /// A value that only a longer record has; unknown where it has none.
    pub fn detail<T>(
        &self,
        of: impl FnOnce(&Details) -> Option<T>,
        value: impl FnOnce(T) -> Value<'a>,
    ) -> Value<'a> {
        self.sample.details.as_deref().and_then(of).map_or(Value::Unknown, value)
    }
}

/// A column.
pub struct Column {
    /// Its name in CSV and JSON.
    pub name: &'static str,
    /// Its title in lines.
    pub title: &'static str,
    /// Its smallest width in lines, in characters: usual values stand below the title. 0 for
    /// that of the title.
    pub width: usize,
    /// Its type.
    pub kind: Kind,
    /// Its unit; empty where it has none.
    pub unit: &'static str,
    /// The formats that have it by default.
    pub usual: Usual,
    /// The text that CSV writes where the value is not known.
    pub unknown: &'static str,
    /// Where the value comes from.
    pub source: &'static str,
    /// The sentence that explains it in the manual page and the documentation.
    pub about: &'static str,
    /// What must be read or looked up for it.
    pub needs: Needs,
    /// Its value in a row.
    pub value: for<'a> fn(&Row<'a>) -> Value<'a>,
}

impl Column {
    /// Its unit, or its type where it has none.
    fn unit_name(&self) -> &'static str {
        match (self.unit, self.kind) {
            ("", Kind::Text) => "text",
            ("", Kind::Number) => "number",
            ("", Kind::Flag) => "true/false",
            (unit, _) => unit,
        }
    }
}

/// The values that most columns have in common.
pub(super) const COLUMN: Column = Column {
    name: "",
    title: "",
    width: 0,
    kind: Kind::Text,
    unit: "",
    usual: Usual::Always,
    unknown: "",
    source: "",
    about: "",
    needs: Needs::empty(),
    value: |_| Value::Unknown,
};

/// Every column, in the order of CSV and JSON. Users rely on this order: new columns are
/// added at the end.
pub static COLUMNS: &[Column] = &[
    Column {
        name: "timestamp",
        title: "TIME",
        width: 24,
        source: "the clock of the host",
        about: "The time of the interval, or of a part of a long one, the same for all its rows: RFC 3339, UTC.",
        value: |row| Value::Time(row.time),
        ..COLUMN
    },
    Column {
        name: "protocol",
        title: "PROTO",
        width: 5,
        source: "sock.sk_protocol",
        about: "TCP or UDP.",
        value: |row| Value::Word(row.sample.protocol.name()),
        ..COLUMN
    },
    Column {
        name: "local_addr",
        title: "LOCAL_ADDR",
        width: 15,
        source: "the socket (UDP: the packet)",
        about: "Address of this host's end. An IPv4-mapped IPv6 address is shown as IPv4; a \
                link-local address is followed by its scope: fe80::1%2.",
        value: |row| Value::Host(&row.sample.local),
        ..COLUMN
    },
    Column {
        name: "local_port",
        title: "LOCAL_PORT",
        kind: Kind::Number,
        source: "the socket (UDP: the packet)",
        about: "Port of this host's end.",
        value: |row| Value::Number(row.sample.local.port().into()),
        ..COLUMN
    },
    Column {
        name: "remote_addr",
        title: "REMOTE_ADDR",
        width: 15,
        source: "the socket (UDP: the packet)",
        about: "Address of the other end.",
        value: |row| Value::Host(&row.sample.remote),
        ..COLUMN
    },
    Column {
        name: "remote_port",
        title: "REMOTE_PORT",
        kind: Kind::Number,
        source: "the socket (UDP: the packet)",
        about: "Port of the other end.",
        value: |row| Value::Number(row.sample.remote.port().into()),
        ..COLUMN
    },
    Column {
        name: "pid",
        title: "PID",
        width: 7,
        kind: Kind::Number,
        source: "task_struct.tgid",
        about: "The process that last connected, accepted, sent or received on the socket; \
                until then, a process that has the socket open.",
        value: |row| Value::number(row.sample.owner.map(|owner| owner.pid)),
        ..COLUMN
    },
    Column {
        name: "process_name",
        title: "PROCESS",
        width: 15,
        source: "task_struct.comm of the thread-group leader",
        about: "The name of that process, at most 15 bytes, as the kernel keeps it.",
        value: |row| {
            row.sample.owner.as_ref().map_or(Value::Unknown, |owner| Value::Name(&owner.name))
        },
        ..COLUMN
    },
    Column {
        name: "state",
        title: "STATE",
        width: 11,
        source: "sock.skc_state",
        about: "ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK or \
                CLOSING; UDP for UDP. CSV and JSON have CLOSED in a connection's last row, and \
                EXPIRED in the last row of a UDP flow.",
        value: |row| Value::Word(row.state),
        ..COLUMN
    },
    Column {
        name: "bytes_in",
        title: "BYTES_IN",
        width: 18,
        kind: Kind::Number,
        unit: "bytes",
        source: "tcp_sock.bytes_received without the FIN (UDP: payload of datagrams)",
        about: "Payload received in order.",
        value: |row| Value::Bytes(row.sample.counters.bytes_in),
        ..COLUMN
    },
    Column {
        name: "bytes_out",
        title: "BYTES_OUT",
        width: 18,
        kind: Kind::Number,
        unit: "bytes",
        source: "tcp_sock.bytes_sent - bytes_retrans (UDP: payload of datagrams)",
        about: "Payload sent. What TCP sends again is not counted again.",
        value: |row| Value::Bytes(row.sample.counters.bytes_out),
        ..COLUMN
    },
    Column {
        name: "packets_in",
        title: "PKTS_IN",
        width: 8,
        kind: Kind::Number,
        source: "tcp_sock.segs_in (UDP: datagrams)",
        about: "TCP segments received, pure acknowledgements included; UDP datagrams.",
        value: |row| Value::Number(row.sample.counters.packets_in),
        ..COLUMN
    },
    Column {
        name: "packets_out",
        title: "PKTS_OUT",
        width: 8,
        kind: Kind::Number,
        source: "tcp_sock.segs_out (UDP: datagrams)",
        about: "TCP segments sent, pure acknowledgements included; UDP datagrams.",
        value: |row| Value::Number(row.sample.counters.packets_out),
        ..COLUMN
    },
    Column {
        name: "rate_in_bytes_sec",
        title: "RATE_IN",
        width: 10,
        kind: Kind::Number,
        unit: "bytes/s",
        source: "bytes_in",
        about: "Bytes received in this interval, divided by its measured length.",
        value: |row| Value::Rate(row.rate_in),
        ..COLUMN
    },
    Column {
        name: "rate_out_bytes_sec",
        title: "RATE_OUT",
        width: 10,
        kind: Kind::Number,
        unit: "bytes/s",
        source: "bytes_out",
        about: "Bytes sent in this interval, divided by its measured length.",
        value: |row| Value::Rate(row.rate_out),
        ..COLUMN
    },
    Column {
        name: "rtt_us",
        title: "RTT",
        width: 7,
        kind: Kind::Number,
        unit: "us",
        unknown: "N/A",
        source: "tcp_sock.srtt_us / 8",
        about: "The kernel's smoothed round-trip time (RFC 6298). UDP has none, and TCP has \
                none before the first measurement.",
        value: |row| Value::micros(row.sample.rtt_us),
        ..COLUMN
    },
    Column {
        name: "partial",
        title: "PARTIAL",
        kind: Kind::Flag,
        usual: Usual::Wide,
        source: "tcptop",
        about: "Whether the connection is older than tcptop and was counted from tcptop's start.",
        value: |row| Value::Flag(row.partial),
        ..COLUMN
    },
    Column {
        name: "retrans",
        title: "RETRANS",
        kind: Kind::Number,
        usual: Usual::Wide,
        source: "tcp_sock.total_retrans",
        about: "Segments that were sent again.",
        value: |row| Value::Number(row.sample.retransmits.into()),
        ..COLUMN
    },
    Column {
        name: "min_rtt_us",
        title: "MIN_RTT",
        kind: Kind::Number,
        unit: "us",
        usual: Usual::Wide,
        source: "tcp_sock.rtt_min",
        about: "The kernel's minimum round-trip time.",
        value: |row| Value::micros(row.sample.min_rtt_us),
        ..COLUMN
    },
    Column {
        name: "age_sec",
        title: "AGE",
        width: 11,
        kind: Kind::Number,
        unit: "s",
        usual: Usual::Wide,
        source: "CLOCK_MONOTONIC",
        about: "Seconds since the connection began; unknown for one that is older than tcptop.",
        value: |row| row.age_ns.map_or(Value::Unknown, Value::Span),
        ..COLUMN
    },
    Column {
        name: "uid",
        title: "UID",
        width: 5,
        kind: Kind::Number,
        usual: Usual::Wide,
        source: "sock.sk_uid",
        about: "User id of the socket's creator.",
        value: |row| Value::Number(row.sample.uid.into()),
        ..COLUMN
    },
    Column {
        name: "ifname",
        title: "IFNAME",
        width: 15,
        usual: Usual::Wide,
        source: "the bound device, or that of the route",
        about: "Name of the device; known only in tcptop's own network namespace.",
        needs: Needs::INTERFACE,
        value: |row| Value::text(row.place.interface),
        ..COLUMN
    },
    Column {
        name: "netns",
        title: "NETNS",
        width: 10,
        kind: Kind::Number,
        usual: Usual::Wide,
        source: "net.ns.inum",
        about: "Inode number of the network namespace, as in /proc/PID/ns/net.",
        value: |row| Value::number(Some(row.sample.netns).filter(|&inode| inode != 0)),
        ..COLUMN
    },
    Column {
        name: "cgroup",
        title: "CGROUP",
        usual: Usual::Wide,
        source: "sock.sk_cgrp_data",
        about: "Path of the cgroup below the cgroup v2 mount.",
        needs: Needs::CGROUP,
        value: |row| Value::text(row.place.cgroup),
        ..COLUMN
    },
    Column {
        name: "container",
        title: "CONTAINER",
        usual: Usual::Wide,
        source: "cgroup",
        about: "Id of the container in that path (Docker, containerd, CRI-O, Podman).",
        needs: Needs::CONTAINER,
        value: |row| Value::text(row.place.container),
        ..COLUMN
    },
    Column {
        name: "end",
        title: "END",
        width: 11,
        usual: Usual::Wide,
        source: "sock.sk_err and the last state",
        about: "Why the connection ended, in a final row: fin, rst, abort, timeout, refused or \
                unreachable.",
        value: |row| row.end.map_or(Value::Unknown, Value::Word),
        ..COLUMN
    },
    Column {
        name: "conn_id",
        title: "CONN_ID",
        width: 15,
        usual: Usual::Wide,
        source: "sock.skc_cookie and the first sequence number (UDP: the addresses)",
        about: "Given to one connection or flow only, until the next boot, and the same in all \
                its rows and in two tcptops that run at once.",
        needs: Needs::IDENTITY,
        value: |row| match row.sample.id {
            Identity { cookie: 0, .. } => Value::Unknown,
            id => Value::Id(id),
        },
        ..COLUMN
    },
    Column {
        name: "started",
        title: "STARTED",
        width: 24,
        usual: Usual::Wide,
        source: "the clock of the host",
        about: "When the connection began: RFC 3339, UTC; unknown for one that is older than \
                tcptop.",
        value: |row| {
            row.started_ns
                .map_or(Value::Unknown, |ns| Value::Moment(DateTime::from_timestamp_nanos(ns)))
        },
        ..COLUMN
    },
    Column {
        name: "host",
        title: "HOST",
        usual: Usual::Wide,
        source: "--host, or the name of the host",
        about: "Name of this host, for those who join the rows of several.",
        value: |row| Value::Text(row.host),
        ..COLUMN
    },
    Column {
        name: "local",
        title: "LOCAL",
        width: 21,
        usual: Usual::Asked,
        source: "local_addr, local_port",
        about: "Address and port of this host's end: 10.0.0.1:443, [2001:db8::1]:443.",
        value: |row| Value::Endpoint(&row.sample.local),
        ..COLUMN
    },
    Column {
        name: "remote",
        title: "REMOTE",
        width: 21,
        usual: Usual::Asked,
        source: "remote_addr, remote_port",
        about: "Address and port of the other end.",
        value: |row| Value::Endpoint(&row.sample.remote),
        ..COLUMN
    },
    Column {
        name: "connect_us",
        title: "CONNECT",
        kind: Kind::Number,
        unit: "us",
        usual: Usual::Asked,
        source: "CLOCK_MONOTONIC (who accepts: the first RTT)",
        about: "How long the handshake took: from the first SYN to ESTABLISHED, or to its failure. \
                At the end that accepts it begins with the SYN-ACK. Unknown where tcptop did not \
                see the handshake; before Linux 6.7 also at the end that accepts, if that had to \
                send the SYN-ACK again.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.connect_us, |us| Value::Micros(us.into())),
        ..COLUMN
    },
    Column {
        name: "syn_retrans",
        title: "SYN_RETRANS",
        kind: Kind::Number,
        usual: Usual::Asked,
        source: "tcp_sock.total_retrans at ESTABLISHED",
        about: "SYNs, or SYN-ACKs, that were sent again. Unknown where tcptop did not see the \
                handshake.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.syn_retrans, |value| Value::Number(value.into())),
        ..COLUMN
    },
    Column {
        name: "cwnd",
        title: "CWND",
        width: 5,
        kind: Kind::Number,
        unit: "segments",
        usual: Usual::Asked,
        source: "tcp_sock.snd_cwnd",
        about: "Congestion window: how many segments may be on their way.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.cwnd, |value| Value::Number(value.into())),
        ..COLUMN
    },
    Column {
        name: "ssthresh",
        title: "SSTHRESH",
        kind: Kind::Number,
        unit: "segments",
        usual: Usual::Asked,
        source: "tcp_sock.snd_ssthresh",
        about: "Below this congestion window, slow start makes it grow fast; unknown before the \
                first loss.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.ssthresh, |value| Value::Number(value.into())),
        ..COLUMN
    },
    Column {
        name: "mss",
        title: "MSS",
        width: 12,
        kind: Kind::Number,
        unit: "bytes",
        usual: Usual::Asked,
        source: "tcp_sock.mss_cache",
        about: "Payload of the largest segment that can be sent.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.mss, |bytes| Value::Bytes(bytes.into())),
        ..COLUMN
    },
    Column {
        name: "rttvar_us",
        title: "RTTVAR",
        width: 7,
        kind: Kind::Number,
        unit: "us",
        usual: Usual::Asked,
        source: "tcp_sock.mdev_us / 4",
        about: "Mean deviation of the round-trip time.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.rttvar_us, |us| Value::Micros(us.into())),
        ..COLUMN
    },
    Column {
        name: "rcv_rtt_us",
        title: "RCV_RTT",
        kind: Kind::Number,
        unit: "us",
        usual: Usual::Asked,
        source: "tcp_sock.rcv_rtt_est.rtt_us / 8",
        about: "Round-trip time as the receiver estimates it.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.rcv_rtt_us, |us| Value::Micros(us.into())),
        ..COLUMN
    },
    Column {
        name: "delivery_rate",
        title: "DELIVERY_RATE",
        kind: Kind::Number,
        unit: "bytes/s",
        usual: Usual::Asked,
        source: "tcp_sock.rate_delivered * mss_cache / rate_interval_us",
        about: "How fast the peer got the latest data, as the kernel measured it.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.delivery_rate, |rate| Value::Rate(rate as f64)),
        ..COLUMN
    },
    Column {
        name: "pacing_rate",
        title: "PACING_RATE",
        kind: Kind::Number,
        unit: "bytes/s",
        usual: Usual::Asked,
        source: "sock.sk_pacing_rate",
        about: "The rate at which the kernel means to send; unknown where there is no limit.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.pacing_rate, |rate| Value::Rate(rate as f64)),
        ..COLUMN
    },
    Column {
        name: "unacked",
        title: "UNACKED",
        kind: Kind::Number,
        unit: "segments",
        usual: Usual::Asked,
        source: "tcp_sock.packets_out",
        about: "Segments that are sent and not yet acknowledged.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.unacked, |value| Value::Number(value.into())),
        ..COLUMN
    },
    Column {
        name: "lost",
        title: "LOST",
        width: 5,
        kind: Kind::Number,
        unit: "segments",
        usual: Usual::Asked,
        source: "tcp_sock.lost_out",
        about: "How many of the unacked segments the kernel takes for lost.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.lost, |value| Value::Number(value.into())),
        ..COLUMN
    },
    Column {
        name: "reordering",
        title: "REORDERING",
        kind: Kind::Number,
        unit: "segments",
        usual: Usual::Asked,
        source: "tcp_sock.reordering",
        about: "How far segments may come out of order before the kernel takes one for lost.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.reordering, |value| Value::Number(value.into())),
        ..COLUMN
    },
    Column {
        name: "bytes_retrans",
        title: "BYTES_RETRANS",
        width: 18,
        kind: Kind::Number,
        unit: "bytes",
        usual: Usual::Asked,
        source: "tcp_sock.bytes_retrans",
        about: "Payload that was sent again, in the whole life of the connection.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.bytes_retrans, Value::Bytes),
        ..COLUMN
    },
    Column {
        name: "dsack_dups",
        title: "DSACK_DUPS",
        kind: Kind::Number,
        usual: Usual::Asked,
        source: "tcp_sock.dsack_dups",
        about: "Segments that the peer says it got twice, in the whole life of the connection.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.dsack_dups, |value| Value::Number(value.into())),
        ..COLUMN
    },
    Column {
        name: "rcv_ooo",
        title: "RCV_OOO",
        kind: Kind::Number,
        usual: Usual::Asked,
        source: "tcp_sock.rcv_ooopack",
        about: "Segments that came out of order, in the whole life of the connection.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.rcv_ooo, |value| Value::Number(value.into())),
        ..COLUMN
    },
    Column {
        name: "notsent",
        title: "NOTSENT",
        width: 15,
        kind: Kind::Number,
        unit: "bytes",
        usual: Usual::Asked,
        source: "tcp_sock.write_seq - snd_nxt",
        about: "Data in the send buffer that was not sent yet.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.notsent, |bytes| Value::Bytes(bytes.into())),
        ..COLUMN
    },
    Column {
        name: "send_queue",
        title: "SEND_QUEUE",
        width: 15,
        kind: Kind::Number,
        unit: "bytes",
        usual: Usual::Asked,
        source: "tcp_sock.write_seq - snd_una",
        about: "Data in the send buffer that is not acknowledged yet, a SYN and a FIN counted as \
                a byte (Send-Q of ss).",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.send_queue, |bytes| Value::Bytes(bytes.into())),
        ..COLUMN
    },
    Column {
        name: "recv_queue",
        title: "RECV_QUEUE",
        width: 15,
        kind: Kind::Number,
        unit: "bytes",
        usual: Usual::Asked,
        source: "tcp_sock.rcv_nxt - copied_seq",
        about: "Data that came in and the process has not read yet, a FIN counted as a byte \
                (Recv-Q of ss).",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.recv_queue, |bytes| Value::Bytes(bytes.into())),
        ..COLUMN
    },
    Column {
        name: "busy_us",
        title: "BUSY",
        width: 7,
        kind: Kind::Number,
        unit: "us",
        usual: Usual::Asked,
        source: "tcp_sock.chrono_stat",
        about: "How long there was something to send or to be acknowledged, in the whole life of \
                the socket. The kernel measures it, and the next two, in its clock ticks \
                (jiffies).",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.busy_us, Value::Micros),
        ..COLUMN
    },
    Column {
        name: "rwnd_limited_us",
        title: "RWND_LIMITED",
        kind: Kind::Number,
        unit: "us",
        usual: Usual::Asked,
        source: "tcp_sock.chrono_stat",
        about: "For how much of busy_us the receive window of the peer kept this end from \
                sending.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.rwnd_limited_us, Value::Micros),
        ..COLUMN
    },
    Column {
        name: "sndbuf_limited_us",
        title: "SNDBUF_LIMITED",
        kind: Kind::Number,
        unit: "us",
        usual: Usual::Asked,
        source: "tcp_sock.chrono_stat",
        about: "For how much of busy_us the send buffer was too small.",
        needs: Needs::DETAILS,
        value: |row| row.detail(|details| details.sndbuf_limited_us, Value::Micros),
        ..COLUMN
    },
    Column {
        name: "limited_by",
        title: "LIMITED_BY",
        usual: Usual::Asked,
        source: "busy_us, rwnd_limited_us, sndbuf_limited_us",
        about: "What kept this end from sending more for the longest part of this interval: app \
                (the process had nothing to send), cwnd (the network), rwnd (the reader) or \
                sndbuf (the send buffer).",
        needs: Needs::DETAILS,
        value: |row| row.limited_by.map_or(Value::Unknown, |by| Value::Word(by.name())),
        ..COLUMN
    },
    Column {
        name: "congestion",
        title: "CONGESTION",
        usual: Usual::Asked,
        source: "inet_connection_sock.icsk_ca_ops",
        about: "Algorithm of congestion control.",
        needs: Needs::DETAILS,
        value: |row| {
            let details = row.sample.details.as_deref();
            details
                .and_then(|details| details.congestion.as_ref())
                .map_or(Value::Unknown, Value::Name)
        },
        ..COLUMN
    },
    Column {
        name: "drops",
        title: "DROPS",
        kind: Kind::Number,
        usual: Usual::Asked,
        source: "sock.sk_drops",
        about: "Packets that the socket dropped in its whole life, such as datagrams for which \
                its buffer was full. All flows of a UDP socket have the same number.",
        needs: Needs::DROPS,
        value: |row| row.detail(|details| details.drops, Value::Number),
        ..COLUMN
    },
    Column {
        name: "exe",
        title: "EXE",
        usual: Usual::Asked,
        source: "exe in /proc/PID",
        about: "Path of the owner's program, as the kernel writes it. tcptop reads it at the end of \
                the interval; it is unknown where the owner has ended by then, or has taken \
                another name.",
        needs: Needs::EXE,
        value: |row| Value::text(row.place.exe),
        ..COLUMN
    },
    Column {
        name: "user",
        title: "USER",
        width: 8,
        usual: Usual::Asked,
        source: "uid, and the host's user database",
        about: "Name of the user who made the socket.",
        needs: Needs::USER,
        value: |row| Value::text(row.place.user),
        ..COLUMN
    },
    Column {
        name: "unit",
        title: "UNIT",
        usual: Usual::Asked,
        source: "cgroup, by systemd's rule",
        about: "systemd's unit of the cgroup; for a user's own units it is user@UID.service.",
        needs: Needs::UNIT,
        value: |row| Value::text(row.place.unit),
        ..COLUMN
    },
    Column {
        name: "container_name",
        title: "CONTAINER_NAME",
        usual: Usual::Asked,
        source: "container, and files of Docker, containerd, CRI-O, Podman",
        about: "Name of the container; in Kubernetes its name in the pod.",
        needs: Needs::CONTAINER_NAME,
        value: |row| Value::text(row.place.container_name),
        ..COLUMN
    },
    Column {
        name: "pod",
        title: "POD",
        usual: Usual::Asked,
        source: "container, and files of Docker, containerd, CRI-O, the kubelet",
        about: "Kubernetes: namespace/name of the pod.",
        needs: Needs::POD,
        value: |row| Value::text(row.place.pod),
        ..COLUMN
    },
];

/// The columns of lines, by their names.
pub const LINES: [&str; 13] = [
    "protocol",
    "local",
    "remote",
    "pid",
    "process_name",
    "state",
    "bytes_in",
    "bytes_out",
    "packets_in",
    "packets_out",
    "rtt_us",
    "rate_in_bytes_sec",
    "rate_out_bytes_sec",
];

/// Some columns in an order, and what they need.
#[derive(Clone)]
pub struct Selection {
    columns: Vec<&'static Column>,
    needs: Needs,
}

impl Selection {
    pub(super) fn new(columns: Vec<&'static Column>) -> Selection {
        let needs = columns.iter().fold(Needs::empty(), |all, column| all | column.needs);
        Selection { columns, needs }
    }

    /// The columns with these names. A name that no column has is passed over.
    pub fn named<'n>(names: impl IntoIterator<Item = &'n str>) -> Selection {
        Selection::new(names.into_iter().filter_map(column).collect())
    }

    /// The columns of lines.
    pub fn lines() -> Selection {
        Selection::named(LINES)
    }

    /// The columns of CSV, with or without `--wide`.
    pub fn csv(wide: bool) -> Selection {
        let asked = |column: &&Column| match column.usual {
            Usual::Always => true,
            Usual::Wide => wide,
            Usual::Asked | Usual::Grouped => false,
        };
        Selection::new(COLUMNS.iter().filter(asked).collect())
    }

    /// The columns that `--columns` asks for, where these are the format's own.
    pub fn asked(self, list: &ColumnList) -> Selection {
        self.asked_of(list, column)
    }

    /// The same where `find` knows the columns.
    pub(super) fn asked_of(
        self,
        list: &ColumnList,
        find: impl Fn(&str) -> Option<&'static Column>,
    ) -> Selection {
        let mut columns = if list.add { self.columns } else { Vec::new() };
        for column in list.names.iter().filter_map(|name| find(name)) {
            if !columns.iter().any(|known| known.name == column.name) {
                columns.push(column);
            }
        }
        Selection::new(columns)
    }

    /// The columns in their order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'static Column> + '_ {
        self.columns.iter().copied()
    }

    /// What must be read or looked up for them.
    pub fn needs(&self) -> Needs {
        self.needs
    }
}

/// The column with this name.
pub fn column(name: &str) -> Option<&'static Column> {
    COLUMNS.iter().find(|column| column.name == name)
}

/// All columns for people: name, unit, what each is and what it is taken from; then those of
/// groups and the keys that groups can have. What does not fit into a line of 80 characters
/// goes on in the next ones, which begin with blanks.
pub fn list() -> String {
    let keys = grouped::key_names().collect::<Vec<_>>().join(", ");
    format!(
        "{}\n{}\nKEYS OF --by, which are the first columns of groups:\n {}\n",
        table("WHAT IT IS, AND FROM WHAT", COLUMNS.iter()),
        table("COLUMNS OF GROUPS (--by KEYS)", grouped::totals()),
        wrapped(&keys, 2),
    )
}

/// Columns for people, below the `title` of what is said about them.
fn table(title: &str, columns: impl Iterator<Item = &'static Column> + Clone) -> String {
    let length = |text: fn(&Column) -> &str| {
        columns.clone().map(|column| text(column).len()).max().unwrap_or_default()
    };
    let (name, unit) = (length(|column| column.name), length(Column::unit_name));
    let margin = name + 2 + unit + 2;
    let mut text = format!("{:name$}  {:unit$}  {title}\n", "NAME", "UNIT");
    for column in columns {
        let about = format!("{} From {}.", column.about, column.source);
        text += &format!("{:name$}  {:unit$} ", column.name, column.unit_name());
        text += &wrapped(&about, margin);
        text.push('\n');
    }
    text
}

/// The words of `text`, each after a blank, in lines of at most 80 characters whose words begin
/// at `margin`. The first line is already filled up to there but for the blank.
fn wrapped(text: &str, margin: usize) -> String {
    const WIDTH: usize = 80;
    let (mut lines, mut at) = (String::new(), margin - 1);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if at + 1 + length > WIDTH {
            lines += &format!("\n{:1$}", "", margin - 1);
            at = margin - 1;
        }
        lines += &format!(" {word}");
        at += 1 + length;
    }
    lines
}

/// The names of the columns that `--wide` appends, as a list for people.
pub fn wide_names() -> String {
    let wide = COLUMNS.iter().filter(|column| column.usual == Usual::Wide);
    wide.map(|column| column.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{closed, record, tcp};
    use super::*;
    use crate::connection::CloseReason;

    #[test]
    fn every_entry_is_complete_and_named_once() {
        for (position, column) in COLUMNS.iter().enumerate() {
            let name = column.name;
            assert!(!name.is_empty() && !column.title.is_empty(), "{position}");
            assert!(column.about.ends_with('.') && !column.source.is_empty(), "{name}");
            assert!(column.title.len() <= column.width || column.width == 0, "{name}");
            let same =
                COLUMNS.iter().filter(|other| other.name == name || other.title == column.title);
            assert_eq!(same.count(), 1, "{name}");
        }
        assert_eq!(Selection::lines().iter().len(), LINES.len());
    }

    /// A value has the type that its column declares, or is unknown.
    #[test]
    fn values_are_of_their_kind() {
        let row = record(tcp(), 1.0, 2.0);
        let closed = closed(tcp(), CloseReason::Fin, 5);
        let common = Common { time: "now", now_ns: 9, host: "here", lifetime: false };
        let place = Place::default();
        let rows = [Row::open(&row, common, place), Row::closed(&closed, common, place)];
        for column in COLUMNS {
            for row in &rows {
                let kind = match (column.value)(row) {
                    Value::Unknown => continue,
                    Value::Flag(_) => Kind::Flag,
                    Value::Number(_)
                    | Value::Bytes(_)
                    | Value::Rate(_)
                    | Value::Micros(_)
                    | Value::Span(_) => Kind::Number,
                    Value::Word(_)
                    | Value::Text(_)
                    | Value::Name(_)
                    | Value::Time(_)
                    | Value::Moment(_)
                    | Value::Id(_)
                    | Value::Host(_)
                    | Value::Endpoint(_) => Kind::Text,
                };
                assert_eq!(kind, column.kind, "{}", column.name);
            }
        }
    }

    /// What can be typed is in the list: the columns of groups and their keys as well.
    #[test]
    fn the_list_has_a_section_for_groups() {
        let list = list();
        assert!(list.lines().all(|line| line.len() <= 80), "{list}");
        let sections: Vec<&str> = list.split("\n\n").collect();
        let [columns, totals, keys] = sections[..] else { panic!("{list}") };
        let names = |table: &str| -> Vec<String> {
            let lines = table.lines().skip(1).filter(|line| !line.starts_with(' '));
            lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
        };
        assert_eq!(names(columns), COLUMNS.iter().map(|of| of.name).collect::<Vec<_>>());
        assert_eq!(names(totals), grouped::TOTALS);
        let (title, keys) = keys.split_once(":\n").unwrap();
        assert!(title.starts_with("KEYS OF --by"), "{title}");
        let keys: Vec<&str> = keys.split(',').map(str::trim).collect();
        assert_eq!(keys, grouped::key_names().collect::<Vec<_>>());
        assert!(keys.contains(&"process") && keys.contains(&"pid") && keys.contains(&"unit"));
    }

    /// The header comes once, so columns have room for values that come later.
    #[test]
    fn usual_values_have_room() {
        let details = Details {
            connect_us: Some(0),
            rttvar_us: Some(0),
            rcv_rtt_us: Some(0),
            delivery_rate: Some(0),
            pacing_rate: Some(0),
            bytes_retrans: Some(0),
            notsent: Some(0),
            send_queue: Some(0),
            recv_queue: Some(0),
            busy_us: Some(0),
            rwnd_limited_us: Some(0),
            sndbuf_limited_us: Some(0),
            ..Details::default()
        };
        let row = record(Sample { details: Some(Box::new(details)), ..tcp() }, 1.0, 2.0);
        let common = Common { time: "now", now_ns: 9, host: "here", lifetime: false };
        let row = Row::open(&row, common, Place::default());
        let mut seen = 0;
        for column in COLUMNS {
            let usual = match (column.value)(&row) {
                Value::Bytes(_) if column.name.starts_with("bytes") => "99999999999(93.1G)",
                Value::Bytes(_) => "16777216(16.0M)",
                Value::Rate(_) => "1023.9KB/s",
                Value::Micros(_) => "999.9ms",
                Value::Span(_) => "604800.000s",
                Value::Time(_) | Value::Moment(_) => "2026-03-04T05:06:07.089Z",
                Value::Host(_) => "255.255.255.255",
                Value::Endpoint(_) => "255.255.255.255:65535",
                _ => continue,
            };
            let room = column.width.max(column.title.len());
            assert!(room >= usual.len(), "{}: {usual} does not fit {room}", column.name);
            seen += 1;
        }
        assert!(seen > 20, "{seen}");
    }

    #[test]
    fn what_is_not_asked_for_is_not_needed() {
        assert_eq!(Selection::lines().needs(), Needs::empty());
        assert_eq!(Selection::csv(false).needs(), Needs::empty());
        let wide = Needs::IDENTITY | Needs::INTERFACE | Needs::CGROUP | Needs::CONTAINER;
        assert_eq!(Selection::csv(true).needs(), wide);
    }

    #[test]
    fn a_list_chooses_or_adds() {
        let names = |list: &str, own: Selection| -> Vec<&str> {
            let list = list.parse().expect("a list");
            own.asked(&list).iter().map(|column| column.name).collect()
        };
        assert_eq!(names("pid,local", Selection::lines()), ["pid", "local"]);
        assert_eq!(names("+pid,host", Selection::lines())[12..], ["rate_out_bytes_sec", "host"]);
    }
}
