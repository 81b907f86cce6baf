//! JSON lines: in each interval an object for each open connection, one for each
//! connection that ended, and one more if something was lost.
//!
//! Owns how a value looks in JSON; the keys are the names of
//! [`columns`](super::columns). An object for a connection has these keys:
//!
//! | key | value |
//! |---|---|
//! | `schema` | 1; increased when a key is removed or changes its meaning, not for a new key |
//! | `event` | `sample`: open; `closed`: ended, `expired`: a silent UDP flow, both with final totals; `group`: totals of a group; `lost`: counts of losses |
//! | `timestamp`, `protocol`, … | the CSV columns, those of `--wide` included, or those of `--columns` |
//!
//! Numbers are numbers, `partial` is a boolean, and a value that is not known is null;
//! so is `rtt_us` where the connection has none. The rates of `closed` are 0. A `lost`
//! object has only `schema`, `event`, `timestamp`, `host` and a count for each [`LossCause`],
//! under its name. The listing at start is not the end of an interval and has no
//! `sample` objects.

use std::io;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::columns::{Row, Selection, Value};
use super::text::{Cents, Host, Short};
use super::{Document, Format, Interval, Page, timestamp};
use crate::loss::{Loss, LossCause};

/// Increased when a key is removed or changes its meaning.
pub(super) const SCHEMA: u32 = 1;

/// Intervals as JSON lines.
pub struct JsonLogger {
    columns: Selection,
}

impl JsonLogger {
    /// Writes these columns.
    pub fn new(columns: Selection) -> JsonLogger {
        JsonLogger { columns }
    }
}

impl Format for JsonLogger {
    fn document(&self) -> Document {
        Document {
            header: String::new(),
            beginning: format!("{{\"schema\":{SCHEMA},"),
            mismatch: "it does not begin as tcptop's JSON lines do",
            quotes: false,
        }
    }

    fn interval(&mut self, interval: Interval<'_>, page: &mut Page<'_>) -> io::Result<()> {
        let time = timestamp(interval.time);
        let common = interval.common(&time);
        for item in interval.items() {
            let row = item.row(common, interval.names, self.columns.needs());
            line(&JsonRow { event: item.event(), columns: &self.columns, row: &row }, page)?;
        }
        if interval.lost.is_zero() {
            return Ok(());
        }
        line(&Lost { time: &time, host: interval.host, lost: interval.lost }, page)
    }
}

fn line(value: &impl Serialize, page: &mut Page<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *page.text(), value)?;
    page.text().push(b'\n');
    page.end_row()
}

/// The object of one connection.
pub struct JsonRow<'a> {
    /// `sample`, `closed`, `expired` or `group`.
    pub event: &'static str,
    /// The columns in their order.
    pub columns: &'a Selection,
    /// The row that the values come from.
    pub row: &'a Row<'a>,
}

impl Serialize for JsonRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let columns = self.columns.iter();
        let mut map = serializer.serialize_map(Some(columns.len() + 2))?;
        map.serialize_entry("schema", &SCHEMA)?;
        map.serialize_entry("event", self.event)?;
        for column in columns {
            map.serialize_entry(column.name, &Member(self.row.value(column)))?;
        }
        map.end()
    }
}

struct Member<'a>(Value<'a>);

impl Serialize for Member<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Unknown => serializer.serialize_none(),
            Value::Word(text) | Value::Text(text) | Value::Time(text) => {
                serializer.serialize_str(text)
            }
            Value::Name(name) => serializer.serialize_str(&name.to_text()),
            Value::Host(address) => serializer.serialize_str(&Short::of(Host(address))),
            Value::Endpoint(address) => serializer.serialize_str(&Short::of(*address)),
            Value::Moment(time) => serializer.serialize_str(&timestamp(time)),
            Value::Id(id) => serializer.serialize_str(&Short::of(id)),
            Value::Number(number) | Value::Bytes(number) | Value::Micros(number) => {
                serializer.serialize_u64(number)
            }
            // Two decimals, as in CSV.
            Value::Rate(rate) => serializer.serialize_f64(Cents(rate).whole() as f64 / 100.0),
            Value::Span(ns) => serializer.serialize_f64((ns / 1000) as f64 / 1e6),
            Value::Flag(flag) => serializer.serialize_bool(flag),
        }
    }
}

struct Lost<'a> {
    time: &'a str,
    host: &'a str,
    lost: &'a Loss,
}

impl Serialize for Lost<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schema", &SCHEMA)?;
        map.serialize_entry("event", "lost")?;
        map.serialize_entry("timestamp", self.time)?;
        map.serialize_entry("host", self.host)?;
        for cause in LossCause::ALL {
            map.serialize_entry(cause.name(), &self.lost[cause])?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{
        closed, first_columns, interval, name, record, tcp, udp, written,
    };
    use super::*;
    use crate::connection::{CloseReason, Owner};
    use serde_json::Value;

    fn write(interval: Interval<'_>) -> String {
        written(JsonLogger::new(first_columns(26)), [interval])
    }

    #[test]
    fn an_object_a_line() {
        let mut odd = udp();
        odd.owner = Some(Owner { pid: 9, name: name("a \"b\"\n\u{1b}[31m") });
        odd.netns = 0;
        let mut unknown = tcp();
        unknown.owner = None;
        unknown.partial = true;
        let rows = [record(tcp(), 1536.456, 0.0), record(odd, 0.0, 0.004)];
        let rows: Vec<_> = rows.iter().collect();
        let mut lost = Loss::default();
        lost[LossCause::RingFull] = 2;
        let ended = [closed(unknown, CloseReason::Abort, 5)];
        let text = write(Interval { lost: &lost, ..interval(&rows, &ended) });
        assert_eq!(
            text,
            r#"{"schema":1,"event":"sample","timestamp":"2026-03-04T05:06:07.089Z","protocol":"TCP","local_addr":"10.0.0.1","local_port":12345,"remote_addr":"93.184.216.34","remote_port":443,"pid":1234,"process_name":"curl","state":"ESTABLISHED","bytes_in":1258291,"bytes_out":340,"packets_in":900,"packets_out":12,"rate_in_bytes_sec":1536.46,"rate_out_bytes_sec":0.0,"rtt_us":5000,"partial":false,"retrans":3,"min_rtt_us":4321,"age_sec":10.5,"uid":1000,"ifname":"eth0","netns":4026531840,"cgroup":"/docker/a,b","container":"0123","end":null}
{"schema":1,"event":"sample","timestamp":"2026-03-04T05:06:07.089Z","protocol":"UDP","local_addr":"2001:db8::1","local_port":5353,"remote_addr":"fe80::1%2","remote_port":5353,"pid":9,"process_name":"a \"b\"\n\u001b[31m","state":"UDP","bytes_in":2048,"bytes_out":0,"packets_in":2,"packets_out":0,"rate_in_bytes_sec":0.0,"rate_out_bytes_sec":0.0,"rtt_us":null,"partial":false,"retrans":0,"min_rtt_us":null,"age_sec":9.5,"uid":1000,"ifname":null,"netns":null,"cgroup":null,"container":null,"end":null}
{"schema":1,"event":"closed","timestamp":"2026-03-04T05:06:07.089Z","protocol":"TCP","local_addr":"10.0.0.1","local_port":12345,"remote_addr":"93.184.216.34","remote_port":443,"pid":null,"process_name":null,"state":"CLOSED","bytes_in":1258291,"bytes_out":340,"packets_in":900,"packets_out":12,"rate_in_bytes_sec":0.0,"rate_out_bytes_sec":0.0,"rtt_us":5000,"partial":true,"retrans":3,"min_rtt_us":4321,"age_sec":null,"uid":1000,"ifname":"eth0","netns":4026531840,"cgroup":"/docker/a,b","container":"0123","end":"abort"}
{"schema":1,"event":"lost","timestamp":"2026-03-04T05:06:07.089Z","host":"alpha","ring_full":2,"storage_full":0,"channel_full":0,"malformed":0,"flow_table_datagrams":0,"flow_table_bytes":0,"receiver_table_full":0,"skipped":0,"state_skipped":0,"unreadable":0,"cgroups":0}
"#
        );
        for line in text.lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn silence_writes_nothing_and_the_listing_no_samples() {
        assert_eq!(write(interval(&[], &[])), "");
        let row = record(tcp(), 0.0, 0.0);
        let rows = [&row];
        assert_eq!(write(Interval { listing: true, ..interval(&rows, &[]) }), "");
    }
}
