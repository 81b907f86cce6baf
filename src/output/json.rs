//! JSON lines: an object per open connection and interval, per connection that
//! ended, and per interval that lost something.
//!
//! Owns the keys, named as the CSV columns. Schema 1, told in every object:
//!
//! | key | value |
//! |---|---|
//! | `schema` | 1; grows when a key goes or changes its meaning, not for a new key |
//! | `event` | `sample`: open; `closed`: ended, final totals; `lost`: could not be kept |
//! | `timestamp` | RFC 3339, UTC, milliseconds; one for all objects of an interval |
//! | `protocol` … `end` | the CSV columns, those of `--wide` included |
//!
//! Numbers are numbers, `partial` is a boolean, and what is not known is null,
//! `rtt_us` where there is none as well. The rates of `closed` are 0. A `lost`
//! object has, after the time, a count for each [`LossCause`] by its name. The
//! listing at start ends no interval and has no `sample`s.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::SocketAddr;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::text::Cents;
use super::{Facts, Interval, Names, Place, Sink, host, release, timestamp};
use crate::loss::{Loss, LossCause};

const SCHEMA: u32 = 1;

/// Writes intervals as JSON lines.
pub struct JsonLines<W> {
    out: W,
    names: Box<dyn Names + Send>,
    lifetime: bool,
    /// The interval's bytes; written at once.
    buffer: Vec<u8>,
}

impl<W: Write> JsonLines<W> {
    /// Into `out`. With `lifetime`, totals of TCP are since the connections opened,
    /// so none of those is partial.
    pub fn new(out: W, names: Box<dyn Names + Send>, lifetime: bool) -> JsonLines<W> {
        JsonLines { out, names, lifetime, buffer: Vec::new() }
    }

    fn row(&mut self, event: &'static str, facts: &Facts<'_>, time: &str) -> io::Result<()> {
        let place = self.names.place(facts.sample);
        line(&mut self.buffer, &Row::new(event, facts, time, place))
    }
}

impl<W: Write> Sink for JsonLines<W> {
    fn interval(&mut self, interval: &Interval<'_>) -> io::Result<()> {
        self.buffer.clear();
        self.names.refresh();
        let time = timestamp(interval.time);
        for row in interval.rows.iter().filter(|_| !interval.listing) {
            self.row("sample", &Facts::open(row, interval.now_ns, self.lifetime), &time)?;
        }
        for closed in interval.closed {
            self.row("closed", &Facts::closed(closed, self.lifetime), &time)?;
        }
        if !interval.lost.is_zero() {
            line(&mut self.buffer, &Lost { time: &time, lost: interval.lost })?;
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        self.out.write_all(&self.buffer)?;
        self.out.flush()?;
        release(&mut self.buffer);
        Ok(())
    }
}

fn line(buffer: &mut Vec<u8>, value: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *buffer, value)?;
    buffer.push(b'\n');
    Ok(())
}

#[derive(Serialize)]
struct Row<'a> {
    schema: u32,
    event: &'static str,
    timestamp: &'a str,
    protocol: &'static str,
    #[serde(serialize_with = "host")]
    local_addr: SocketAddr,
    local_port: u16,
    #[serde(serialize_with = "host")]
    remote_addr: SocketAddr,
    remote_port: u16,
    pid: Option<u32>,
    process_name: Option<Cow<'a, str>>,
    state: &'static str,
    bytes_in: u64,
    bytes_out: u64,
    packets_in: u64,
    packets_out: u64,
    rate_in_bytes_sec: f64,
    rate_out_bytes_sec: f64,
    rtt_us: Option<u32>,
    partial: bool,
    retrans: u32,
    min_rtt_us: Option<u32>,
    age_sec: Option<f64>,
    uid: u32,
    ifname: Option<&'a str>,
    netns: Option<u32>,
    cgroup: Option<&'a str>,
    container: Option<&'a str>,
    end: Option<&'static str>,
}

impl<'a> Row<'a> {
    fn new(
        event: &'static str,
        facts: &Facts<'a>,
        timestamp: &'a str,
        place: Place<'a>,
    ) -> Row<'a> {
        let sample = facts.sample;
        Row {
            schema: SCHEMA,
            event,
            timestamp,
            protocol: sample.protocol.name(),
            local_addr: sample.local,
            local_port: sample.local.port(),
            remote_addr: sample.remote,
            remote_port: sample.remote.port(),
            pid: sample.owner.map(|owner| owner.pid),
            process_name: sample.owner.as_ref().map(|owner| owner.name.to_text()),
            state: facts.state,
            bytes_in: sample.counters.bytes_in,
            bytes_out: sample.counters.bytes_out,
            packets_in: sample.counters.packets_in,
            packets_out: sample.counters.packets_out,
            rate_in_bytes_sec: Cents(facts.rate_in).whole() as f64 / 100.0,
            rate_out_bytes_sec: Cents(facts.rate_out).whole() as f64 / 100.0,
            rtt_us: sample.rtt_us,
            partial: facts.partial,
            retrans: sample.retransmits,
            min_rtt_us: sample.min_rtt_us,
            age_sec: facts.age_ns.map(|ns| (ns / 1000) as f64 / 1e6),
            uid: sample.uid,
            ifname: place.interface,
            netns: facts.netns(),
            cgroup: place.cgroup,
            container: place.container,
            end: facts.end,
        }
    }
}

struct Lost<'a> {
    time: &'a str,
    lost: &'a Loss,
}

impl Serialize for Lost<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schema", &SCHEMA)?;
        map.serialize_entry("event", "lost")?;
        map.serialize_entry("timestamp", self.time)?;
        for cause in LossCause::ALL {
            map.serialize_entry(cause.name(), &self.lost[cause])?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Known, closed, interval, name, record, tcp, udp};
    use super::*;
    use crate::connection::{CloseReason, Owner};
    use serde_json::Value;

    fn write(interval: &Interval<'_>) -> String {
        let mut out = Vec::new();
        JsonLines::new(&mut out, Box::new(Known), false).interval(interval).unwrap();
        String::from_utf8(out).unwrap()
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
        let text = write(&Interval { lost: &lost, ..interval(&rows, &ended) });
        assert_eq!(
            text,
            r#"{"schema":1,"event":"sample","timestamp":"2026-03-04T05:06:07.089Z","protocol":"TCP","local_addr":"10.0.0.1","local_port":12345,"remote_addr":"93.184.216.34","remote_port":443,"pid":1234,"process_name":"curl","state":"ESTABLISHED","bytes_in":1258291,"bytes_out":340,"packets_in":900,"packets_out":12,"rate_in_bytes_sec":1536.46,"rate_out_bytes_sec":0.0,"rtt_us":5000,"partial":false,"retrans":3,"min_rtt_us":4321,"age_sec":10.5,"uid":1000,"ifname":"eth0","netns":4026531840,"cgroup":"/docker/a,b","container":"0123","end":null}
{"schema":1,"event":"sample","timestamp":"2026-03-04T05:06:07.089Z","protocol":"UDP","local_addr":"2001:db8::1","local_port":5353,"remote_addr":"fe80::1%2","remote_port":5353,"pid":9,"process_name":"a \"b\"\n\u001b[31m","state":"UDP","bytes_in":2048,"bytes_out":0,"packets_in":2,"packets_out":0,"rate_in_bytes_sec":0.0,"rate_out_bytes_sec":0.0,"rtt_us":null,"partial":false,"retrans":0,"min_rtt_us":null,"age_sec":9.5,"uid":1000,"ifname":null,"netns":null,"cgroup":null,"container":null,"end":null}
{"schema":1,"event":"closed","timestamp":"2026-03-04T05:06:07.089Z","protocol":"TCP","local_addr":"10.0.0.1","local_port":12345,"remote_addr":"93.184.216.34","remote_port":443,"pid":null,"process_name":null,"state":"CLOSED","bytes_in":1258291,"bytes_out":340,"packets_in":900,"packets_out":12,"rate_in_bytes_sec":0.0,"rate_out_bytes_sec":0.0,"rtt_us":5000,"partial":true,"retrans":3,"min_rtt_us":4321,"age_sec":null,"uid":1000,"ifname":"eth0","netns":4026531840,"cgroup":"/docker/a,b","container":"0123","end":"abort"}
{"schema":1,"event":"lost","timestamp":"2026-03-04T05:06:07.089Z","ring_full":2,"storage_full":0,"channel_full":0,"malformed":0,"flow_table_datagrams":0,"flow_table_bytes":0,"receiver_table_full":0,"skipped":0}
"#
        );
        for line in text.lines() {
            assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn the_keys_are_the_csv_columns() {
        let row = record(tcp(), 0.0, 0.0);
        let text = write(&interval(&[&row], &[]));
        let mut at = 0;
        for column in super::super::csv::columns() {
            let key = format!("\"{column}\":");
            let position = text.find(&key).unwrap_or_else(|| panic!("{column}"));
            assert!(position > at, "{column} stands elsewhere");
            at = position;
        }
    }

    #[test]
    fn silence_writes_nothing_and_the_listing_no_samples() {
        assert_eq!(write(&interval(&[], &[])), "");
        let row = record(tcp(), 0.0, 0.0);
        let rows = [&row];
        assert_eq!(write(&Interval { listing: true, ..interval(&rows, &[]) }), "");
    }
}
