//! The rows of groups (`--by`): their columns, and how a connection gets its group.
//!
//! Owns the columns that only groups have, the keys that have a name of their own, and
//! the row of one group. The totals are those of [`groups`](crate::groups).

use std::cmp::Ordering;

use super::columns::{COLUMN, COLUMNS, Column, Kind, Row, Selection, Usual, Value};
use super::text::{Host, Short};
use crate::connection::{ConnectionKey, Needs, Protocol, Sample};
use crate::groups::{Group, KeyValue, OTHER};
use crate::settings::{FormatName, Settings, Sort};
use crate::view;

/// The keys whose names are not those of columns.
static KEYS: &[Column] = &[
    Column {
        name: "process",
        title: "PROCESS",
        width: 15,
        usual: Usual::Grouped,
        source: "process_name",
        about: "The name of the process.",
        value: |row| {
            row.sample.owner.as_ref().map_or(Value::Unknown, |owner| Value::Name(&owner.name))
        },
        ..COLUMN
    },
    Column {
        name: "remote",
        title: "REMOTE",
        width: 15,
        usual: Usual::Grouped,
        source: "remote_addr",
        about: "Address of the other end.",
        value: |row| Value::Host(&row.sample.remote),
        ..COLUMN
    },
    Column {
        name: "local",
        title: "LOCAL",
        width: 15,
        usual: Usual::Grouped,
        source: "local_addr",
        about: "Address of this host's end.",
        value: |row| Value::Host(&row.sample.local),
        ..COLUMN
    },
    Column {
        name: "interface",
        title: "INTERFACE",
        width: 15,
        usual: Usual::Grouped,
        source: "ifname",
        about: "Name of the device; known only in tcptop's own network namespace.",
        needs: Needs::INTERFACE,
        value: |row| row.place.interface.map_or(Value::Unknown, Value::Text),
        ..COLUMN
    },
];

/// The columns that only groups have.
pub static GROUPED: &[Column] = &[
    Column {
        name: "connections",
        title: "CONNS",
        width: 6,
        kind: Kind::Number,
        usual: Usual::Grouped,
        source: "tcptop",
        about: "Connections and flows that are open now.",
        value: |row| row.group.map_or(Value::Unknown, |of| Value::Number(of.group.connections)),
        ..COLUMN
    },
    Column {
        name: "opened",
        title: "OPENED",
        width: 6,
        kind: Kind::Number,
        usual: Usual::Grouped,
        source: "tcptop",
        about: "Those that began since tcptop did.",
        value: |row| row.group.map_or(Value::Unknown, |of| Value::Number(of.group.totals.opened)),
        ..COLUMN
    },
    Column {
        name: "closed",
        title: "CLOSED",
        width: 6,
        kind: Kind::Number,
        usual: Usual::Grouped,
        source: "tcptop",
        about: "Those that ended; of UDP, those that were forgotten.",
        value: |row| row.group.map_or(Value::Unknown, |of| Value::Number(of.group.totals.closed)),
        ..COLUMN
    },
    Column {
        name: "failed",
        title: "FAILED",
        width: 6,
        kind: Kind::Number,
        usual: Usual::Grouped,
        source: "end",
        about: "How many of the closed ended as refused, timeout, unreachable or rst.",
        value: |row| row.group.map_or(Value::Unknown, |of| Value::Number(of.group.totals.failed)),
        ..COLUMN
    },
    Column {
        name: "rate_in",
        title: "RATE_IN",
        width: 10,
        kind: Kind::Number,
        unit: "bytes/s",
        usual: Usual::Grouped,
        source: "bytes_in",
        about: "Bytes received in this interval, divided by its measured length.",
        value: |row| Value::Rate(row.rate_in),
        ..COLUMN
    },
    Column {
        name: "rate_out",
        title: "RATE_OUT",
        width: 10,
        kind: Kind::Number,
        unit: "bytes/s",
        usual: Usual::Grouped,
        source: "bytes_out",
        about: "Bytes sent in this interval, divided by its measured length.",
        value: |row| Value::Rate(row.rate_out),
        ..COLUMN
    },
];

/// The columns of a group after its keys.
pub const TOTALS: [&str; 12] = [
    "connections",
    "opened",
    "closed",
    "failed",
    "bytes_in",
    "bytes_out",
    "packets_in",
    "packets_out",
    "retrans",
    "rate_in",
    "rate_out",
    "rtt_us",
];

/// The columns of [`TOTALS`].
pub fn totals() -> impl Iterator<Item = &'static Column> + Clone {
    TOTALS.into_iter().filter_map(column)
}

/// The columns that only groups have: keys and totals.
pub(super) fn own() -> impl Iterator<Item = &'static Column> {
    KEYS.iter().chain(totals())
}

/// The columns of numbers that can be keys.
const NUMBERS: [&str; 5] = ["pid", "local_port", "remote_port", "netns", "uid"];

/// The names of all keys.
pub fn key_names() -> impl Iterator<Item = &'static str> {
    let is_key = |column: &&Column| {
        let named = KEYS.iter().any(|key| key.name == column.name);
        let text = column.kind == Kind::Text && column.name != "timestamp";
        !named && (text || NUMBERS.contains(&column.name))
    };
    KEYS.iter().chain(COLUMNS.iter().filter(is_key)).map(|column| column.name)
}

/// The name that the column of connections has for a key with a name of its own.
pub fn column_of_key(name: &str) -> Option<&'static str> {
    KEYS.iter().find(|key| key.name == name).map(|key| key.source)
}

/// The column of a key.
fn key(name: &str) -> Option<&'static Column> {
    let known = key_names().any(|key| key == name);
    KEYS.iter().chain(COLUMNS).find(|column| known && column.name == name)
}

/// The names of the columns that a row of these groups can have.
pub fn column_names(by: &[String]) -> impl Iterator<Item = &str> {
    by.iter().map(String::as_str).chain(TOTALS).chain(["timestamp", "host"])
}

fn column(name: &str) -> Option<&'static Column> {
    KEYS.iter().chain(GROUPED).chain(COLUMNS).find(|column| column.name == name)
}

/// The columns that the settings ask for.
pub(super) fn selection(settings: &Settings) -> Selection {
    let time = (settings.output.format() != FormatName::Lines).then_some("timestamp");
    let own = time.into_iter().chain(settings.groups.by.iter().map(String::as_str)).chain(TOTALS);
    let usual = Selection::new(own.filter_map(column).collect());
    match &settings.output.columns {
        Some(list) => usual.asked_of(list, column),
        None => usual,
    }
}

/// The keys of `--by`.
pub struct Keys {
    columns: Vec<&'static Column>,
}

impl Keys {
    /// The keys with these names; one that does not exist is passed over.
    pub fn new(by: &[String]) -> Keys {
        Keys { columns: by.iter().filter_map(|name| key(name)).collect() }
    }

    /// What must be read or looked up for them.
    pub fn needs(&self) -> Needs {
        self.columns.iter().fold(Needs::empty(), |all, column| all | column.needs)
    }

    /// What a connection has under them, put into `key`.
    pub fn of(&self, row: &Row<'_>, key: &mut Vec<KeyValue>) {
        key.clear();
        key.extend(self.columns.iter().map(|column| (column.value)(row).into()));
    }
}

impl From<Value<'_>> for KeyValue {
    fn from(value: Value<'_>) -> KeyValue {
        let text = |text: &str| KeyValue::Text(text.into());
        match value {
            Value::Unknown => KeyValue::None,
            Value::Word(word) => text(word),
            Value::Text(value) | Value::Time(value) => text(value),
            Value::Name(name) => text(&name.to_text()),
            Value::Moment(time) => text(&super::timestamp(time)),
            Value::Id(id) => text(&Short::of(id)),
            Value::Host(address) => text(&Short::of(Host(address))),
            Value::Endpoint(address) => text(&Short::of(*address)),
            Value::Number(number) | Value::Bytes(number) | Value::Micros(number) => {
                KeyValue::Number(number)
            }
            Value::Rate(rate) => KeyValue::Number(super::text::whole(rate)),
            Value::Span(ns) => KeyValue::Number(ns),
            Value::Flag(flag) => text(if flag { "true" } else { "false" }),
        }
    }
}

/// The row of a group.
#[derive(Debug)]
pub struct GroupRow<'a> {
    /// The group.
    pub group: &'a Group,
    names: &'a [String],
    /// Its totals, in the place where the columns look for them.
    pub(super) sample: Sample,
}

impl<'a> GroupRow<'a> {
    /// The row of a group under the keys `names`.
    pub fn new(group: &'a Group, names: &'a [String]) -> GroupRow<'a> {
        let (nothing, nowhere) =
            (ConnectionKey { object: 0, born_ns: 0 }, ([0, 0, 0, 0], 0).into());
        let sample = Sample {
            counters: group.totals.counters,
            rtt_us: group.rtt_us,
            ..Sample::new(nothing, Protocol::Tcp, nowhere, nowhere)
        };
        GroupRow { group, names, sample }
    }

    /// The values that a group does not have in its sample: those of its keys.
    pub(super) fn own(&self, column: &str) -> Option<Value<'_>> {
        if column == "retrans" {
            return Some(Value::Number(self.group.totals.retransmits));
        }
        let position = self.names.iter().position(|name| name == column)?;
        let Some(key) = &self.group.key else { return Some(Value::Word(OTHER)) };
        Some(match key.get(position)? {
            KeyValue::None => Value::Unknown,
            KeyValue::Text(text) => Value::Text(text),
            KeyValue::Number(number) => Value::Number(*number),
        })
    }
}

/// Orders groups as `--sort` asks and keeps the first `top` of them. Returns those that
/// it did not keep.
pub fn arrange<'g>(groups: &mut Vec<&'g Group>, settings: &Settings) -> Vec<&'g Group> {
    let names = &settings.groups.by;
    let order = match &settings.rows.sort {
        Sort::Column(name) => column(name),
        _ => None,
    };
    let common = super::columns::Common { time: "", now_ns: 0, host: "", lifetime: false };
    let key = |group: &'g Group| match (&settings.rows.sort, order) {
        (Sort::Bytes, _) => Some(view::Key::Number(group.totals.counters.bytes() as f64)),
        (Sort::Rtt, _) => group.rtt_us.map(|us| view::Key::Number(us.into())),
        (_, Some(column)) => Row::group(&GroupRow::new(group, names), common).value(column).key(),
        _ => Some(view::Key::Number(group.rate())),
    };
    let mut keyed: Vec<_> = groups.drain(..).map(|group| (key(group), group)).collect();
    let compare = |a: &(Option<view::Key>, &Group), b: &(Option<view::Key>, &Group)| -> Ordering {
        // The group of all others is the last one.
        let other = a.1.key.is_none().cmp(&b.1.key.is_none());
        let order = other.then_with(|| view::compare_keys(&a.0, &b.0));
        order.then_with(|| a.1.key.cmp(&b.1.key))
    };
    let rest = view::keep(&mut keyed, settings.rows.top, compare);
    groups.extend(keyed.iter().map(|&(_, group)| group));
    rest.into_iter().map(|(_, group)| group).collect()
}
