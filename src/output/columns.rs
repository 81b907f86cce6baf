//! The columns: every value that a row can have is described here, and only here.
//!
//! Owns the table [`COLUMNS`]: a value's name, unit, type and source, the sentence that
//! explains it, and how it is taken from a row. The header and rows of CSV, JSON, the
//! rows of lines, the manual page and README's tables are all made from it. Knows
//! nothing about files, quoting or colours. To add a column, add an entry here.

use std::net::SocketAddr;

use chrono::{DateTime, Utc};

use crate::connection::{Details, Identity, KernelName, Needs, Protocol, Sample};
use crate::names::Place;
use crate::settings::ColumnList;
use crate::table::{ClosedRecord, ConnectionRecord};
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
    /// When the connection began; `None` where it is older than tcptop.
    pub started: Option<DateTime<Utc>>,
    /// True where the totals do not include what was moved before tcptop started.
    pub partial: bool,
    /// Why the connection ended; `None` where it is open, or the reason is not known.
    pub end: Option<&'static str>,
    /// The names that the columns need.
    pub place: Place<'a>,
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
            started: record.started,
            partial: sample.lacks_past(common.lifetime),
            end: None,
            place,
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
            started: record.started,
            partial: sample.lacks_past(common.lifetime),
            end: closed.reason.name(),
            place,
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
    /// Its smallest width in lines, in characters.
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
    /// The sentence that explains it in the manual page and README.
    pub about: &'static str,
    /// What must be read or looked up for it.
    pub needs: Needs,
    /// Its value in a row.
    pub value: for<'r> fn(&Row<'r>) -> Value<'r>,
}

impl Column {
    /// Its unit, or its type where it has none.
    fn unit_name(&self) -> &'static str {
        match (self.unit, self.kind) {
            ("", Kind::Text) => "text",
            ("", Kind::Number) => "count",
            ("", Kind::Flag) => "true/false",
            (unit, _) => unit,
        }
    }
}

/// The values that most columns have in common.
const COLUMN: Column = Column {
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
        source: "the clock of the host",
        about: "The interval's time, the same for all its rows: RFC 3339, UTC.",
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
        width: 13,
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
        width: 13,
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
        usual: Usual::Wide,
        source: "the clock of the host",
        about: "When the connection began: RFC 3339, UTC; unknown for one that is older than \
                tcptop.",
        value: |row| row.started.map_or(Value::Unknown, Value::Moment),
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
        name: "exe",
        title: "EXE",
        usual: Usual::Asked,
        source: "/proc/PID/exe",
        about: "Path of the owner's program, as the kernel writes it; unknown where the owner \
                ended before tcptop looked, at the end of the interval.",
        needs: Needs::EXE,
        value: |row| Value::text(row.place.exe),
        ..COLUMN
    },
    Column {
        name: "user",
        title: "USER",
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
    fn new(columns: Vec<&'static Column>) -> Selection {
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
            Usual::Asked => false,
        };
        Selection::new(COLUMNS.iter().filter(asked).collect())
    }

    /// The columns that `--columns` asks for, where these are the format's own.
    pub fn asked(self, list: &ColumnList) -> Selection {
        let names = list.names.iter().map(String::as_str);
        if !list.add {
            return Selection::named(names);
        }
        let mut columns = self.columns;
        for column in names.filter_map(column) {
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

/// All columns for people: name, unit, source, and what each is.
pub fn list() -> String {
    let length = |text: fn(&Column) -> &str| {
        COLUMNS.iter().map(|column| text(column).len()).max().unwrap_or_default()
    };
    let (name, unit) = (length(|column| column.name), length(Column::unit_name));
    let source = length(|column| column.source);
    let mut text = format!("{:name$}  {:unit$}  {:source$}  ABOUT\n", "NAME", "UNIT", "SOURCE");
    for column in COLUMNS {
        let unit_name = column.unit_name();
        text += &format!(
            "{:name$}  {unit_name:unit$}  {:source$}  {}\n",
            column.name, column.source, column.about
        );
    }
    text
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
