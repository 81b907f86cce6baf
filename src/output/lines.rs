//! Lines: one row per connection, for a person and for awk.
//!
//! Owns the columns, their widths, the `[CLOSED]` line and colours. Which rows
//! there are, and in which order, was decided before; whether to colour is
//! told, never asked of a terminal. Nothing moves the cursor.
//!
//! A row has exactly 13 blank-separated fields, and `[PARTIAL]` where it
//! applies as a 14th; a time (`-t`) comes before all of them. A `[CLOSED]` line
//! ends with `end=WHY`, and there too with `[PARTIAL]` where it applies.
//!
//! `age=` is in seconds (see [`Age`]). With `--raw` every number is plain:
//! bytes, bytes per second, microseconds for round-trip times, and seconds with
//! six decimals for the age.

use std::io::{self, Write};

use unicode_width::UnicodeWidthStr;

use super::text::{Age, Name, OrDash, Rate, RawAge, Room, Rtt, Size, Text, whole};
use super::{Interval, Sink, timestamp};
use crate::connection::{Closed, Owner, Sample};
use crate::table::ConnectionRecord;

/// A column: its title, whether it holds numbers (aligned right), and the
/// width it has at least. Addresses have room for any IPv4 one, names for any.
const COLUMNS: [(&str, bool, usize); 13] = [
    ("PROTO", false, 5),
    ("LOCAL", false, 21),
    ("REMOTE", false, 21),
    ("PID", true, 7),
    ("PROCESS", false, 15),
    ("STATE", false, 11),
    ("BYTES_IN", true, 13),
    ("BYTES_OUT", true, 13),
    ("PKTS_IN", true, 8),
    ("PKTS_OUT", true, 8),
    ("RTT", true, 7),
    ("RATE_IN", true, 10),
    ("RATE_OUT", true, 10),
];

const NEW: &[u8] = b"\x1b[32m";
const CLOSING: &[u8] = b"\x1b[31m";
const RESET: &[u8] = b"\x1b[0m";

/// How lines look.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineStyle {
    /// Plain integers instead of readable units (`--raw`).
    pub raw: bool,
    /// The interval's time first on every line (`-t`).
    pub timestamp: bool,
    /// Totals of TCP are since the connections opened, so none of those is marked
    /// `[PARTIAL]`.
    pub lifetime: bool,
    /// New rows green, closing ones red.
    pub color: bool,
}

impl LineStyle {
    fn size(self, bytes: u64, out: &mut Vec<u8>) {
        if self.raw { bytes.write(out) } else { Size(bytes).write(out) }
    }

    fn rtt(self, us: Option<u32>, out: &mut Vec<u8>) {
        if self.raw { OrDash(us).write(out) } else { Rtt(us).write(out) }
    }

    fn rate(self, rate: f64, out: &mut Vec<u8>) {
        if self.raw { whole(rate).write(out) } else { Rate(rate).write(out) }
    }
}

/// Writes intervals as lines.
#[derive(Debug)]
pub struct Lines<W> {
    out: W,
    style: LineStyle,
    /// Columns grow for what is wider and never shrink.
    widths: [usize; COLUMNS.len()],
    header_due: bool,
    /// The interval's bytes; written at once.
    buffer: Vec<u8>,
    /// The time of the interval and a blank, or nothing.
    time: String,
}

impl<W: Write> Lines<W> {
    /// Lines into `out`; the header comes with the first interval.
    pub fn new(out: W, style: LineStyle) -> Lines<W> {
        Lines {
            out,
            style,
            widths: COLUMNS.map(|(_, _, least)| least),
            header_due: true,
            buffer: Vec::new(),
            time: String::new(),
        }
    }

    fn header(&mut self) {
        if self.style.timestamp {
            self.buffer.put(b"TIME                     ");
        }
        let mut cells = Cells::new(&mut self.widths, &mut self.buffer);
        for (title, _, _) in COLUMNS {
            cells.value(title);
        }
        self.buffer.push(b'\n');
    }

    fn row(&mut self, row: &ConnectionRecord, listing: bool) {
        // The listing at start finds everything for the first time.
        let color = self.style.color && row.is_new && !listing;
        self.begin(if color { NEW } else { b"" });
        Cells::new(&mut self.widths, &mut self.buffer).fill(row, self.style);
        self.end(&row.sample, color);
    }

    fn closed(&mut self, closed: &Closed) {
        let Sample { protocol, local, remote, counters, .. } = closed.sample;
        self.begin(if self.style.color { CLOSING } else { b"" });
        let owner = closed.sample.owner.as_ref();
        let (rtt, age) = (closed.sample.rtt_us, closed.age_ns());
        let out = &mut self.buffer;
        out.put(b"[CLOSED] ");
        protocol.name().write(out);
        out.put(b" ");
        local.write(out);
        out.put(b" -> ");
        remote.write(out);
        out.put(b" (");
        Name(owner.map(|owner| &owner.name)).write(out);
        out.put(b", PID ");
        pid(owner).write(out);
        out.put(b") in=");
        self.style.size(counters.bytes_in, out);
        out.put(b" out=");
        self.style.size(counters.bytes_out, out);
        out.put(b" pkts_in=");
        counters.packets_in.write(out);
        out.put(b" pkts_out=");
        counters.packets_out.write(out);
        out.put(b" rtt=");
        self.style.rtt(rtt, out);
        out.put(b" retrans=");
        closed.sample.retransmits.write(out);
        out.put(b" age=");
        if self.style.raw {
            RawAge(age).write(out);
        } else {
            Age(age).write(out);
        }
        out.put(b" end=");
        closed.reason.name().unwrap_or("-").write(out);
        self.end(&closed.sample, self.style.color);
    }

    fn begin(&mut self, color: &[u8]) {
        self.buffer.extend_from_slice(color);
        self.buffer.extend_from_slice(self.time.as_bytes());
    }

    fn end(&mut self, sample: &Sample, color: bool) {
        if sample.lacks_past(self.style.lifetime) {
            self.buffer.extend_from_slice(b" [PARTIAL]");
        }
        if color {
            // Before the newline, so that a cut line leaves no colour behind.
            self.buffer.extend_from_slice(RESET);
        }
        self.buffer.push(b'\n');
    }
}

/// As much as a pipe holds: a longer interval would be cut there anyway, and
/// takes no memory this way.
const CHUNK: usize = 64 * 1024;

impl<W: Write> Lines<W> {
    /// Writes what is there, if it is at least so much.
    fn write_from(&mut self, least: usize) -> io::Result<()> {
        if self.buffer.len() < least {
            return Ok(());
        }
        self.out.write_all(&self.buffer)?;
        self.out.flush()?;
        self.buffer.clear();
        Ok(())
    }
}

impl<W: Write> Sink for Lines<W> {
    fn interval(&mut self, interval: &Interval<'_>) -> io::Result<()> {
        self.buffer.clear();
        if self.style.timestamp {
            self.time = timestamp(interval.time);
            self.time.push(' ');
        }
        if std::mem::take(&mut self.header_due) {
            // The header stands over columns that fit the first rows.
            for row in interval.rows {
                Cells::new(&mut self.widths, &mut self.buffer).fill(row, self.style);
                self.buffer.clear();
            }
            self.header();
        }
        for row in interval.rows {
            self.row(row, interval.listing);
            self.write_from(CHUNK)?;
        }
        for closed in interval.closed {
            self.closed(closed);
            self.write_from(CHUNK)?;
        }
        self.write_from(1)
    }
}

/// Puts the cells of a row into their columns, one after the other.
struct Cells<'a> {
    widths: &'a mut [usize; COLUMNS.len()],
    out: &'a mut Vec<u8>,
    column: usize,
}

impl<'a> Cells<'a> {
    fn new(widths: &'a mut [usize; COLUMNS.len()], out: &'a mut Vec<u8>) -> Cells<'a> {
        Cells { widths, out, column: 0 }
    }

    /// The cell that `append` appends, which is ASCII.
    fn cell(&mut self, append: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.begin();
        append(self.out);
        self.end(begin, self.out.len() - begin);
    }

    fn value(&mut self, value: impl Text) {
        self.cell(|out| value.write(out));
    }

    /// A cell whose characters can take more columns of the screen than one each.
    fn name(&mut self, name: Name<'_>) {
        let begin = self.begin();
        name.write(self.out);
        let cell = &self.out[begin..];
        let width = match cell.is_ascii() {
            true => cell.len(),
            false => std::str::from_utf8(cell).map_or(cell.len(), |text| text.width()),
        };
        self.end(begin, width);
    }

    fn begin(&mut self) -> usize {
        if self.column > 0 {
            self.out.push(b' ');
        }
        self.out.len()
    }

    fn end(&mut self, begin: usize, width: usize) {
        let (_, number, _) = COLUMNS[self.column];
        let column = &mut self.widths[self.column];
        *column = width.max(*column);
        let padding = *column - width;
        let end = self.out.len();
        self.out.resize(end + padding, b' ');
        if number {
            self.out.copy_within(begin..end, begin + padding);
            self.out[begin..begin + padding].fill(b' ');
        }
        self.column += 1;
    }

    fn fill(mut self, row: &ConnectionRecord, style: LineStyle) {
        let sample = &row.sample;
        let counters = &sample.counters;
        let owner = sample.owner.as_ref();
        self.value(sample.protocol.name());
        self.value(sample.local);
        self.value(sample.remote);
        self.value(pid(owner));
        self.name(Name(owner.map(|owner| &owner.name)));
        self.value(super::state_name(sample));
        self.cell(|out| style.size(counters.bytes_in, out));
        self.cell(|out| style.size(counters.bytes_out, out));
        self.value(counters.packets_in);
        self.value(counters.packets_out);
        self.cell(|out| style.rtt(sample.rtt_us, out));
        self.cell(|out| style.rate(row.rate_in, out));
        self.cell(|out| style.rate(row.rate_out, out));
    }
}

fn pid(owner: Option<&Owner>) -> OrDash<u32> {
    OrDash(owner.map(|owner| owner.pid))
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{closed, interval, name, record, tcp, udp};
    use super::*;
    use crate::connection::{CloseReason, Counters, ProcessName};
    use proptest::prelude::*;

    const PLAIN: LineStyle =
        LineStyle { raw: false, timestamp: false, lifetime: false, color: false };

    fn write(style: LineStyle, rows: &[ConnectionRecord], ended: &[Closed]) -> String {
        let mut out = Vec::new();
        let rows: Vec<_> = rows.iter().collect();
        Lines::new(&mut out, style).interval(&interval(&rows, ended)).unwrap();
        String::from_utf8(out).unwrap()
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
    fn a_close_is_told_to_the_letter() {
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
    fn lifetime_totals_lack_nothing_and_carry_no_mark() {
        let mut old = tcp();
        old.partial = true;
        let style = LineStyle { lifetime: true, ..PLAIN };
        let text = write(style, &[record(old, 0.0, 0.0)], &[closed(old, CloseReason::Fin, 1)]);
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
        let mut out = Vec::new();
        let rows = [&row];
        let listing = Interval { listing: true, ..interval(&rows, &[]) };
        Lines::new(&mut out, style).interval(&listing).unwrap();
        assert!(!out.contains(&0x1b), "nothing in the listing at start is new");
    }

    /// Counts the calls, as `strace` would see them.
    #[derive(Default)]
    struct Calls(Vec<Vec<u8>>, usize);

    impl Write for &mut Calls {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.push(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            self.1 += 1;
            Ok(())
        }
    }

    #[test]
    fn an_interval_is_one_write_and_a_silent_one_is_none() {
        let mut calls = Calls::default();
        let mut lines = Lines::new(&mut calls, PLAIN);
        lines.interval(&interval(&[], &[])).unwrap();
        lines.interval(&interval(&[], &[])).unwrap();
        let row = record(tcp(), 0.0, 0.0);
        lines.interval(&interval(&[&row, &row], &[closed(tcp(), CloseReason::Fin, 1)])).unwrap();
        assert_eq!((calls.0.len(), calls.1), (2, 2));
        assert!(calls.0[0].starts_with(b"PROTO "), "the header does not wait for a row");
        assert_eq!(calls.0[1].iter().filter(|&&byte| byte == b'\n').count(), 3);
    }

    #[test]
    fn columns_grow_for_all_that_follows_and_never_shrink() {
        let mut long = tcp();
        long.local = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
        let (short, long) = (record(tcp(), 0.0, 0.0), record(long, 0.0, 0.0));
        let text = write(PLAIN, &[short, long], &[]);
        let at = |line: &str| line.find(" 93.184").map(|at| at + 1);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].find("REMOTE"), Some(53), "the first listing sets the widths");
        assert_eq!((at(lines[1]), at(lines[2])), (Some(53), Some(53)));

        let mut out = Vec::new();
        let mut lines = Lines::new(&mut out, PLAIN);
        for row in [&short, &long, &short] {
            lines.interval(&interval(&[row], &[])).unwrap();
        }
        let text = String::from_utf8(out).unwrap();
        let starts: Vec<_> = text.lines().skip(1).map(at).collect();
        assert_eq!(starts, [Some(28), Some(53), Some(53)]);
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
                    owner.map(|(pid, comm)| Owner { pid, name: ProcessName::from_comm(comm) });
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
            let row = record(sample, rates[0], rates[1]);
            let text = write(style, &[row], &[closed(sample, CloseReason::Fin, 5)]);
            let lines: Vec<_> = text.split('\n').collect();
            prop_assert_eq!(lines.len(), 4, "header, row, close and the end: {}", text);
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
