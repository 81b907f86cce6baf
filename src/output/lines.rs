//! Lines: one row per connection, for a person and for awk.
//!
//! Owns how a value looks in a row, the widths, the `[CLOSED]` line and the colours. The
//! columns are those of [`columns`](super::columns). The caller decides which rows there
//! are, their order, and whether to colour; nothing here asks a terminal. Nothing moves
//! the cursor.
//!
//! A row has exactly 13 blank-separated fields. `[PARTIAL]`, where it applies, is a
//! 14th. The time (`-t`) comes before all of them. A `[CLOSED]` line ends with
//! `end=WHY`, followed by `[PARTIAL]` where it applies.
//!
//! `age=` is in seconds (see [`Age`]). With `--raw` every number is plain:
//! bytes, bytes per second, microseconds for round-trip times, and seconds with
//! six decimals for the age.

use std::io;

use unicode_width::UnicodeWidthStr;

use super::columns::{Column, Common, Kind, LINES, Row, Selection, Value};
use super::text::{
    Age, Bits, Field, Host, Name, OrDash, Rate, RawAge, Room, Rtt, Short, Size, Text, whole,
};
use super::{Document, Format, Interval, Page, timestamp};
use crate::connection::{Needs, Protocol, Sample};
use crate::names::{Names, place};
use crate::table::{ClosedRecord, ConnectionRecord};

const NEW: &[u8] = b"\x1b[32m";
const CLOSING: &[u8] = b"\x1b[31m";
const RESET: &[u8] = b"\x1b[0m";

/// How lines look.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineStyle {
    /// Plain integers instead of readable units (`--raw`).
    pub raw: bool,
    /// Rates in bits instead of bytes per second (`--bits`).
    pub bits: bool,
    /// The interval's time first on every line (`-t`).
    pub timestamp: bool,
    /// Colour the rows of new connections green and `[CLOSED]` lines red.
    pub color: bool,
}

impl LineStyle {
    /// Appends a value as one field.
    #[inline]
    fn value(self, value: Value<'_>, out: &mut impl Room) {
        match value {
            Value::Unknown => out.put(b"-"),
            Value::Word(text) | Value::Time(text) => text.write(out),
            Value::Text(text) => Field(text.as_bytes()).write(out),
            Value::Moment(time) => timestamp(time).as_str().write(out),
            Value::Id(id) => id.write(out),
            Value::Name(name) => Field(name.as_bytes()).write(out),
            Value::Host(address) => Host(address).write(out),
            Value::Endpoint(address) => address.write(out),
            Value::Number(number) => number.write(out),
            Value::Bytes(bytes) => self.size(bytes, out),
            Value::Rate(rate) => self.rate(rate, out),
            Value::Micros(us) => self.rtt(Some(us), out),
            Value::Span(ns) => self.age(Some(ns), out),
            Value::Flag(flag) => if flag { "true" } else { "false" }.write(out),
        }
    }

    fn rate(self, rate: f64, out: &mut impl Room) {
        match (self.raw, self.bits) {
            (false, false) => Rate(rate).write(out),
            (false, true) => Bits(rate).write(out),
            (true, false) => whole(rate).write(out),
            (true, true) => Bits(rate).whole().write(out),
        }
    }

    fn size(self, bytes: u64, out: &mut impl Room) {
        if self.raw { bytes.write(out) } else { Size(bytes).write(out) }
    }

    fn rtt(self, us: Option<u64>, out: &mut impl Room) {
        if self.raw { OrDash(us).write(out) } else { Rtt(us).write(out) }
    }

    fn age(self, ns: Option<u64>, out: &mut impl Room) {
        if self.raw { RawAge(ns).write(out) } else { Age(ns).write(out) }
    }
}

/// The number of screen columns that `text` takes; a wide character takes two.
fn screen_width(text: &[u8]) -> usize {
    match text.is_ascii() {
        true => text.len(),
        false => std::str::from_utf8(text).map_or(text.len(), UnicodeWidthStr::width),
    }
}

/// The columns whose values every `[CLOSED]` line has, besides [`LINES`].
const TOLD_AT_THE_END: [&str; 9] = [
    "local_addr",
    "local_port",
    "remote_addr",
    "remote_port",
    "retrans",
    "age_sec",
    "end",
    "partial",
    "timestamp",
];

/// Intervals as lines.
pub struct LineLogger {
    style: LineStyle,
    columns: Vec<Cell>,
    /// The columns that a `[CLOSED]` line has besides its own.
    more: Vec<&'static Column>,
    needs: Needs,
    header_due: bool,
}

/// A column and its present width, so that its values stand below each other.
struct Cell {
    column: &'static Column,
    /// Grows when a value is wider, and never shrinks.
    width: usize,
}

impl LineLogger {
    /// The header is written with the first interval.
    pub fn new(style: LineStyle, columns: Selection) -> LineLogger {
        let told = |name| LINES.contains(&name) || TOLD_AT_THE_END.contains(&name);
        LineLogger {
            style,
            columns: columns.iter().map(|column| Cell { column, width: column.width }).collect(),
            more: columns.iter().filter(|column| !told(column.name)).collect(),
            needs: columns.needs(),
            header_due: true,
        }
    }

    fn header(&mut self, out: &mut Vec<u8>) {
        if self.style.timestamp {
            out.put(b"TIME                     ");
        }
        for (position, cell) in self.columns.iter_mut().enumerate() {
            cell.put(position, Value::Word(cell.column.title), self.style, out);
        }
        out.push(b'\n');
    }

    fn row(&mut self, row: &Row<'_>, color: bool, out: &mut Vec<u8>) {
        self.begin(row, if color { NEW } else { b"" }, out);
        self.cells(row, out);
        self.end(row, color, out);
    }

    fn cells(&mut self, row: &Row<'_>, out: &mut Vec<u8>) {
        for (position, cell) in self.columns.iter_mut().enumerate() {
            cell.put(position, row.value(cell.column), self.style, out);
        }
    }

    fn closed(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        let Sample { protocol, local, remote, counters, .. } = row.sample;
        let style = self.style;
        self.begin(row, if style.color { CLOSING } else { b"" }, out);
        let owner = row.sample.owner.as_ref();
        out.put(b"[CLOSED] ");
        protocol.name().write(out);
        out.put(b" ");
        local.write(out);
        out.put(b" -> ");
        remote.write(out);
        out.put(b" (");
        Name(owner.map(|owner| &owner.name)).write(out);
        out.put(b", PID ");
        OrDash(owner.map(|owner| owner.pid)).write(out);
        out.put(b") in=");
        style.size(counters.bytes_in, out);
        out.put(b" out=");
        style.size(counters.bytes_out, out);
        out.put(b" pkts_in=");
        counters.packets_in.write(out);
        out.put(b" pkts_out=");
        counters.packets_out.write(out);
        out.put(b" rtt=");
        style.rtt(row.sample.rtt_us.map(u64::from), out);
        out.put(b" retrans=");
        row.sample.retransmits.write(out);
        out.put(b" age=");
        style.age(row.age_ns, out);
        out.put(b" end=");
        row.end.unwrap_or("-").write(out);
        for column in &self.more {
            out.put(b" ");
            out.put(column.name.as_bytes());
            out.put(b"=");
            style.value(row.value(column), out);
        }
        self.end(row, style.color, out);
    }

    fn begin(&self, row: &Row<'_>, color: &[u8], out: &mut Vec<u8>) {
        out.put(color);
        if self.style.timestamp {
            row.time.write(out);
            out.put(b" ");
        }
    }

    fn end(&self, row: &Row<'_>, color: bool, out: &mut Vec<u8>) {
        if row.partial {
            out.put(b" [PARTIAL]");
        }
        if color {
            // Before the newline: a program that takes single lines gets the reset as well.
            out.put(RESET);
        }
        out.push(b'\n');
    }
}

impl Format for LineLogger {
    fn document(&self) -> Document {
        // The header is as wide as the first rows need, so it is written with them.
        Document::default()
    }

    fn interval(&mut self, interval: Interval<'_>, page: &mut Page<'_>) -> io::Result<()> {
        let time = timestamp(interval.time);
        let (common, needs) = (interval.common(&time), self.needs);
        let names = interval.names;
        if std::mem::take(&mut self.header_due) {
            // Writes the rows once and drops them, to learn the widths for the header.
            for record in interval.rows {
                self.cells(&open(record, common, names, needs), page.text());
                page.text().clear();
            }
            for group in interval.groups {
                self.cells(&Row::group(group, common), page.text());
                page.text().clear();
            }
            self.header(page.text());
        }
        for record in interval.rows {
            // In the listing at start every connection is new, so none is coloured.
            let color = self.style.color && record.is_new && !interval.listing;
            self.row(&open(record, common, names, needs), color, page.text());
            page.end_row()?;
        }
        for group in interval.groups {
            self.row(&Row::group(group, common), false, page.text());
            page.end_row()?;
        }
        // A UDP flow that is forgotten has no line.
        let is_tcp = |record: &&&ClosedRecord| record.closed.sample.protocol == Protocol::Tcp;
        for record in interval.closed.iter().filter(is_tcp) {
            let place = place(names, &record.closed.sample, needs);
            self.closed(&Row::closed(record, common, place), page.text());
            page.end_row()?;
        }
        Ok(())
    }
}

fn open<'a>(
    record: &'a ConnectionRecord,
    common: Common<'a>,
    names: &'a mut dyn Names,
    needs: Needs,
) -> Row<'a> {
    Row::open(record, common, place(names, &record.sample, needs))
}

impl Cell {
    /// Appends a value and pads it to the width of its column: numbers on the left, all
    /// other values on the right.
    fn put(&mut self, position: usize, value: Value<'_>, style: LineStyle, out: &mut Vec<u8>) {
        if position > 0 {
            out.push(b' ');
        }
        if self.column.kind == Kind::Number {
            let mut text = Short::default();
            style.value(value, &mut text);
            self.width = self.width.max(text.len());
            blanks(self.width - text.len(), out);
            out.put(text.as_ref());
        } else {
            let begin = out.len();
            style.value(value, out);
            let width = screen_width(&out[begin..]);
            self.width = self.width.max(width);
            blanks(self.width - width, out);
        }
    }
}

fn blanks(mut count: usize, out: &mut Vec<u8>) {
    const BLANKS: [u8; 32] = [b' '; 32];
    while count > 0 {
        let some = count.min(BLANKS.len());
        out.put(&BLANKS[..some]);
        count -= some;
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Shared, closed, interval, name, record, tcp, udp, written};
    use super::super::{Destination, Writer};
    use super::*;
    use crate::connection::{CloseReason, Counters, KernelName, Owner};
    use proptest::prelude::*;

    const PLAIN: LineStyle = LineStyle { raw: false, bits: false, timestamp: false, color: false };

    fn logger(style: LineStyle) -> LineLogger {
        LineLogger::new(style, Selection::lines())
    }

    fn write(style: LineStyle, rows: &[ConnectionRecord], ended: &[ClosedRecord]) -> String {
        let rows: Vec<_> = rows.iter().collect();
        written(logger(style), [interval(&rows, ended)])
    }

    #[test]
    fn rows_stand_under_the_header() {
        let mut old = tcp();
        old.partial = true;
        old.owner = None;
        old.counters = Counters::default();
        let rows =
            [record(tcp(), 1536.0, 0.4), record(udp(), 0.0, 1_258_291.2), record(old, 0.0, 0.0)];
        assert_eq!(
            write(PLAIN, &rows, &[]),
            "\
PROTO LOCAL                 REMOTE                    PID PROCESS         STATE            BYTES_IN     BYTES_OUT  PKTS_IN PKTS_OUT     RTT    RATE_IN   RATE_OUT
TCP   10.0.0.1:12345        93.184.216.34:443        1234 curl            ESTABLISHED 1258291(1.2M)          340B      900       12   5.0ms    1.5KB/s       0B/s
UDP   [2001:db8::1]:5353    [fe80::1%2]:5353           99 my_resolver     UDP            2048(2.0K)            0B        2        0       -       0B/s    1.2MB/s
TCP   10.0.0.1:12345        93.184.216.34:443           - -               ESTABLISHED            0B            0B        0        0   5.0ms       0B/s       0B/s [PARTIAL]
"
        );
    }

    #[test]
    fn a_close_is_written_to_the_letter() {
        let fin = closed(tcp(), CloseReason::Fin, 12_345_600_000);
        let mut old = tcp();
        old.partial = true;
        old.owner = None;
        old.rtt_us = None;
        let old = closed(old, CloseReason::Unknown, 1);
        let text = write(PLAIN, &[], &[fin, old]);
        assert_eq!(
            text.split_once('\n').unwrap().1,
            "\
[CLOSED] TCP 10.0.0.1:12345 -> 93.184.216.34:443 (curl, PID 1234) in=1258291(1.2M) out=340B pkts_in=900 pkts_out=12 rtt=5.0ms retrans=3 age=12.346s end=fin
[CLOSED] TCP 10.0.0.1:12345 -> 93.184.216.34:443 (-, PID -) in=1258291(1.2M) out=340B pkts_in=900 pkts_out=12 rtt=- retrans=3 age=- end=- [PARTIAL]
"
        );
    }

    #[test]
    fn raw_is_plain_integers_and_time_comes_first_on_every_line() {
        let style = LineStyle { raw: true, timestamp: true, ..PLAIN };
        let fin = closed(tcp(), CloseReason::Abort, 312_400);
        assert_eq!(
            write(style, &[record(tcp(), 1536.4, 0.0)], &[fin]),
            "\
TIME                     PROTO LOCAL                 REMOTE                    PID PROCESS         STATE            BYTES_IN     BYTES_OUT  PKTS_IN PKTS_OUT     RTT    RATE_IN   RATE_OUT
2026-03-04T05:06:07.089Z TCP   10.0.0.1:12345        93.184.216.34:443        1234 curl            ESTABLISHED       1258291           340      900       12    5000       1536          0
2026-03-04T05:06:07.089Z [CLOSED] TCP 10.0.0.1:12345 -> 93.184.216.34:443 (curl, PID 1234) in=1258291 out=340 pkts_in=900 pkts_out=12 rtt=5000 retrans=3 age=0.000312 end=abort
"
        );
    }

    #[test]
    fn rates_in_bits() {
        let rows = [record(tcp(), 1536.0, 2e6)];
        let rates = |raw| {
            let text = write(LineStyle { raw, bits: true, ..PLAIN }, &rows, &[]);
            let fields: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
            (fields[13 + 11].clone(), fields[13 + 12].clone())
        };
        assert_eq!(rates(false), ("12.3Kb/s".to_owned(), "16.0Mb/s".to_owned()));
        assert_eq!(rates(true), ("12288".to_owned(), "16000000".to_owned()));
    }

    #[test]
    fn lifetime_totals_lack_nothing_and_carry_no_mark() {
        let mut old = tcp();
        old.partial = true;
        let (row, ended) = (record(old.clone(), 0.0, 0.0), [closed(old, CloseReason::Fin, 1)]);
        let rows = [&row];
        let interval = Interval { lifetime: true, ..interval(&rows, &ended) };
        let text = written(logger(PLAIN), [interval]);
        assert!(!text.contains("PARTIAL"), "{text}");
    }

    #[test]
    fn colours_cover_whole_lines_of_what_is_new_or_closing() {
        let style = LineStyle { color: true, timestamp: true, ..PLAIN };
        let mut known = record(tcp(), 0.0, 0.0);
        known.is_new = false;
        let text =
            write(style, &[record(tcp(), 0.0, 0.0), known], &[closed(tcp(), CloseReason::Fin, 1)]);
        let lines: Vec<_> = text.lines().collect();
        assert!(!lines[0].contains('\x1b'));
        assert!(lines[1].starts_with("\x1b[32m2026-") && lines[1].ends_with("B/s\x1b[0m"));
        assert!(!lines[2].contains('\x1b'));
        assert!(lines[3].starts_with("\x1b[31m2026-") && lines[3].ends_with("end=fin\x1b[0m"));

        let row = record(tcp(), 0.0, 0.0);
        let rows = [&row];
        let listing = Interval { listing: true, ..interval(&rows, &[]) };
        let text = written(logger(style), [listing]);
        assert!(!text.contains('\x1b'), "nothing in the listing at start is new");
    }

    #[test]
    fn an_interval_is_one_write_and_a_silent_one_is_none() {
        let out = Shared::default();
        let stream = Destination::stream(out.clone());
        let mut lines = Writer::new(Box::new(logger(PLAIN)), stream);
        lines.interval(interval(&[], &[])).unwrap();
        lines.interval(interval(&[], &[])).unwrap();
        let row = record(tcp(), 0.0, 0.0);
        lines.interval(interval(&[&row, &row], &[closed(tcp(), CloseReason::Fin, 1)])).unwrap();
        let calls = out.calls();
        assert_eq!((calls.writes.len(), calls.flushes), (2, 2));
        assert!(calls.writes[0].starts_with(b"PROTO "), "the header does not wait for a row");
        assert_eq!(calls.writes[1].iter().filter(|&&byte| byte == b'\n').count(), 3);
    }

    #[test]
    fn columns_grow_for_all_that_follows_and_never_shrink() {
        let mut long = tcp();
        long.local = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
        let (short, long) = (record(tcp(), 0.0, 0.0), record(long, 0.0, 0.0));
        let text = write(PLAIN, &[short.clone(), long.clone()], &[]);
        let at = |line: &str| line.find(" 93.184").map(|at| at + 1);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].find("REMOTE"), Some(53), "the first listing sets the widths");
        assert_eq!((at(lines[1]), at(lines[2])), (Some(53), Some(53)));

        let rows = [[&short], [&long], [&short]];
        let intervals = [0, 1, 2].map(|at| interval(&rows[at], &[]));
        let text = written(logger(PLAIN), intervals);
        let starts: Vec<_> = text.lines().skip(1).map(at).collect();
        assert_eq!(starts, [Some(28), Some(53), Some(53)]);
    }

    #[test]
    fn chosen_columns_also_in_the_line_of_a_close() {
        let columns = Selection::named(["remote", "retrans", "uid", "timestamp", "started"]);
        let row = record(tcp(), 0.0, 0.0);
        let ended = [closed(tcp(), CloseReason::Fin, 5)];
        let text = written(LineLogger::new(PLAIN, columns), [interval(&[&row], &ended)]);
        assert_eq!(
            text,
            "\
REMOTE                RETRANS  UID TIME                     STARTED
93.184.216.34:443           3 1000 2026-03-04T05:06:07.089Z -      
[CLOSED] TCP 10.0.0.1:12345 -> 93.184.216.34:443 (curl, PID 1234) in=1258291(1.2M) out=340B pkts_in=900 pkts_out=12 rtt=5.0ms retrans=3 age=0.000s end=fin uid=1000 started=2026-03-04T05:06:01.000Z
"
        );
    }

    #[test]
    fn wide_characters_take_two_columns() {
        let mut wide = tcp();
        wide.owner = Some(Owner { pid: 7, name: name("日本語") });
        let text = write(PLAIN, &[record(wide, 0.0, 0.0), record(tcp(), 0.0, 0.0)], &[]);
        let ends: Vec<_> = text
            .lines()
            .skip(1)
            .map(|line| line.find("ESTABLISHED").map(|at| line[..at].width()))
            .collect();
        assert_eq!(ends[0], ends[1]);
    }

    fn samples() -> impl Strategy<Value = (Sample, [f64; 2], bool)> {
        let address = prop_oneof![
            any::<([u8; 4], u16)>().prop_map(std::net::SocketAddr::from),
            any::<([u16; 8], u16)>().prop_map(std::net::SocketAddr::from),
            any::<([u16; 8], u16, u32)>().prop_map(|(address, port, scope)| {
                std::net::SocketAddrV6::new(address.into(), port, 0, scope).into()
            }),
        ];
        let owner = proptest::option::of(any::<(u32, [u8; 16])>());
        (
            (address.clone(), address, owner),
            any::<[u64; 4]>(),
            (any::<Option<u32>>(), any::<[f64; 2]>(), any::<[bool; 3]>()),
        )
            .prop_map(|((local, remote, owner), numbers, (rtt_us, rates, flags))| {
                let mut sample = if flags[0] { tcp() } else { udp() };
                sample.local = local;
                sample.remote = remote;
                sample.owner =
                    owner.map(|(pid, comm)| Owner { pid, name: KernelName::from_comm(comm) });
                let [bytes_in, bytes_out, packets_in, packets_out] = numbers;
                sample.counters = Counters { bytes_in, bytes_out, packets_in, packets_out };
                sample.rtt_us = rtt_us;
                sample.partial = flags[1];
                (sample, rates, flags[2])
            })
    }

    proptest! {
        #[test]
        fn every_row_has_the_promised_fields((sample, rates, time) in samples(), raw: bool) {
            let style = LineStyle { raw, timestamp: time, ..PLAIN };
            let row = record(sample.clone(), rates[0], rates[1]);
            let text = write(style, &[row], &[closed(sample.clone(), CloseReason::Fin, 5)]);
            let lines: Vec<_> = text.split('\n').collect();
            let ends = usize::from(sample.protocol == Protocol::Tcp);
            prop_assert_eq!(lines.len(), 3 + ends, "header, row, close and the end: {}", text);
            // As awk splits: blanks, tabs.
            let fields = |line: &str| line.split([' ', '\t']).filter(|field| !field.is_empty()).count();
            let expected = 13 + usize::from(time);
            prop_assert_eq!(fields(lines[0]), expected);
            prop_assert_eq!(fields(lines[1]), expected + usize::from(sample.partial));
            let cells: Vec<_> = lines[1].split_whitespace().skip(usize::from(time)).collect();
            for (cell, count) in [(6, sample.counters.bytes_in), (7, sample.counters.bytes_out)] {
                let digits = cells[cell].bytes().take_while(u8::is_ascii_digit).count();
                prop_assert_eq!(cells[cell][..digits].parse(), Ok(count));
            }
            prop_assert_eq!(cells[1].parse(), Ok(sample.local));
            prop_assert_eq!(cells[2].parse(), Ok(sample.remote));
            prop_assert_eq!(cells.get(13).copied(), sample.partial.then_some("[PARTIAL]"));
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        }
    }
}
