//! Lines: one row per connection, for a person and for awk.
//!
//! Owns the widths, the `[CLOSED]` line, the header and the colours. The columns are those
//! of [`columns`](super::columns); [`style`](super::style) writes their values. The caller
//! decides which rows there are, their order, and whether to colour. Nothing moves the
//! cursor. On a terminal lines fit its width, and the header comes again each screenful and
//! where a column has become wider; the caller gives the function that asks for the size.
//!
//! A row has exactly 13 blank-separated fields. `[PARTIAL]`, where it applies, is a
//! 14th. The time (`-t`) comes before all of them. A `[CLOSED]` line ends with
//! `end=WHY`, followed by `[PARTIAL]` where it applies.
//!
//! `age=` is in seconds (see [`Age`](super::text::Age)). With `--raw` every number is plain:
//! bytes, bytes per second, microseconds for round-trip times, and seconds with
//! six decimals for the age.

use std::io;

use super::columns::{Column, Common, Kind, LINES, Row, Selection, Value};
use super::fit::{self, Fit, Part, Screen};
use super::style::{LineStyle, blanks, screen_width};
use super::text::{Name, OrDash, Room, Short, Text};
use super::{Document, Format, Interval, Page, timestamp};
use crate::connection::{Needs, Protocol, Sample};
use crate::names::{Names, place};
use crate::table::{ClosedRecord, ConnectionRecord};

const NEW: &[u8] = b"\x1b[32m";
const CLOSING: &[u8] = b"\x1b[31m";
const RESET: &[u8] = b"\x1b[0m";

/// Where lines are written to, if that is a terminal.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    /// Its present size; `None` where it has none.
    pub screen: fn() -> Option<Screen>,
    /// Lines give way where it is narrow. Not for columns that the user has chosen.
    pub fits: bool,
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
    terminal: Option<Terminal>,
    columns: Vec<Cell>,
    /// The first columns that never give way: the keys of groups.
    keys: usize,
    /// The columns that a `[CLOSED]` line has besides its own.
    more: Vec<&'static Column>,
    needs: Needs,
    header_due: bool,
    /// The width that lines must fit into.
    room: Option<usize>,
    /// How the rows are written at present.
    fit: Fit,
    /// True once a row was marked `[PARTIAL]`: such rows are wider.
    marked: bool,
    /// Lines since the last header, this one included.
    since_header: usize,
    /// Lines since the widths were learnt.
    since_learnt: usize,
}

/// A column and its present width, so that its values stand below each other. All widths
/// grow when a value is wider. They never shrink, except on a terminal with each screenful.
/// There a header comes with each growth.
struct Cell {
    column: &'static Column,
    /// The part of a row that it is; `None` where it never gives way.
    part: Option<Part>,
    width: usize,
    /// Without room for values that were not there yet.
    tight: usize,
    /// The same with brief sizes.
    brief: usize,
    /// The width that it had in the last header.
    headed: usize,
}

impl LineLogger {
    /// The header is written with the first interval.
    pub fn new(style: LineStyle, columns: Selection) -> LineLogger {
        let told = |name| LINES.contains(&name) || TOLD_AT_THE_END.contains(&name);
        let cell = |column: &'static Column| {
            let title = column.title.len();
            let part = Part::of_column(column.name);
            Cell { column, part, width: column.width, tight: title, brief: title, headed: 0 }
        };
        LineLogger {
            style,
            terminal: None,
            columns: columns.iter().map(cell).collect(),
            keys: 0,
            more: columns.iter().filter(|column| !told(column.name)).collect(),
            needs: columns.needs(),
            header_due: true,
            room: None,
            fit: Fit::WHOLE,
            marked: false,
            since_header: 0,
            since_learnt: 0,
        }
    }

    /// For a terminal. The first `keys` columns stay where it is narrow, and those that rows
    /// are `ordered` by.
    #[must_use]
    pub fn on(self, terminal: Option<Terminal>, keys: usize, ordered: &[&str]) -> LineLogger {
        let mut columns = self.columns;
        for cell in columns.iter_mut().filter(|cell| ordered.contains(&cell.column.name)) {
            cell.part = None;
        }
        LineLogger { terminal, keys, columns, ..self }
    }

    fn header(&mut self, out: &mut Vec<u8>) {
        let begin = out.len();
        if self.style.timestamp {
            let width = if self.fit.lacks(Part::Date) { CLOCK.len() } else { TIME_WIDTH };
            out.put(b"TIME");
            blanks(width + 1 - 4, out);
        }
        self.cells(|cell| Value::Word(cell.column.title), out);
        self.cut(begin, false, self.fit, out);
        out.push(b'\n');
        self.since_header = 1;
        for cell in &mut self.columns {
            cell.headed = cell.present(self.fit);
        }
    }

    /// Writes the header where the next line is the first one, or the one above which no
    /// header can be seen.
    fn header_if_due(&mut self, screenful: usize, out: &mut Vec<u8>) {
        if std::mem::take(&mut self.header_due) || self.since_header >= screenful {
            self.header(out);
        }
        self.count_line();
    }

    fn count_line(&mut self) {
        self.since_header = self.since_header.saturating_add(1);
        self.since_learnt = self.since_learnt.saturating_add(1);
    }

    fn row(&mut self, row: &Row<'_>, color: bool, out: &mut Vec<u8>) {
        out.put(if color { NEW } else { b"" });
        let begin = out.len();
        self.time(row, self.fit, out);
        self.cells(|cell| row.value(cell.column), out);
        self.cut(begin, row.partial, self.fit, out);
        self.end(row, color, self.fit, out);
    }

    /// Appends the value of each column that is shown.
    fn cells<'v>(&mut self, value: impl Fn(&Cell) -> Value<'v>, out: &mut Vec<u8>) {
        let LineLogger { fit, keys, .. } = *self;
        let style = LineStyle { brief: fit.lacks(Part::Exact), ..self.style };
        let begin = out.len();
        for (position, cell) in self.columns.iter_mut().enumerate() {
            if cell.is_gone(fit, position < keys) {
                continue;
            }
            if out.len() > begin {
                out.push(b' ');
            }
            cell.put(value(cell), style, fit, out);
        }
    }

    fn closed(&self, row: &Row<'_>, fit: Fit, out: &mut Vec<u8>) {
        let Sample { protocol, local, remote, counters, .. } = row.sample;
        let style = LineStyle { brief: fit.lacks(Part::Exact), ..self.style };
        self.time(row, fit, out);
        let owner = row.sample.owner.as_ref();
        out.put(b"[CLOSED] ");
        if !fit.lacks(Part::Protocol) {
            protocol.name().write(out);
            out.put(b" ");
        }
        limited(local, fit, true, out);
        out.put(b" -> ");
        limited(remote, fit, true, out);
        out.put(b" (");
        limited(&Name(owner.map(|owner| &owner.name)), fit, false, out);
        if !fit.lacks(Part::Pid) {
            out.put(if fit.lacks(Part::Label) { b", " } else { b", PID " });
            OrDash(owner.map(|owner| owner.pid)).write(out);
        }
        out.put(b")");
        if !fit.lacks(Part::Moved) {
            out.put(b" in=");
            style.size(counters.bytes_in, out);
            out.put(b" out=");
            style.size(counters.bytes_out, out);
        }
        if !fit.lacks(Part::Packets) {
            out.put(b" pkts_in=");
            counters.packets_in.write(out);
            out.put(b" pkts_out=");
            counters.packets_out.write(out);
        }
        if !fit.lacks(Part::Rtt) {
            out.put(b" rtt=");
            style.rtt(row.sample.rtt_us.map(u64::from), out);
        }
        if !fit.lacks(Part::Retransmits) {
            out.put(b" retrans=");
            row.sample.retransmits.write(out);
        }
        if !fit.lacks(Part::Age) {
            out.put(b" age=");
            style.age(row.age_ns, out);
        }
        out.put(b" end=");
        row.end.unwrap_or("-").write(out);
        for column in &self.more {
            out.put(b" ");
            out.put(column.name.as_bytes());
            out.put(b"=");
            style.value(row.value(column), out);
        }
    }

    /// Writes a `[CLOSED]` line that fits.
    fn closed_within(&self, row: &Row<'_>, out: &mut Vec<u8>) {
        let color = self.style.color;
        out.put(if color { CLOSING } else { b"" });
        let begin = out.len();
        let fit = match self.room {
            None => Fit::WHOLE,
            Some(room) => {
                let texts = self.texts_of_closed(row, out);
                Fit::find(fit::OF_CLOSED, room, &texts, |fit| {
                    self.closed(row, fit, out);
                    let width = screen_width(&out[begin..]) + mark(row.partial, fit).len();
                    out.truncate(begin);
                    width
                })
            }
        };
        self.closed(row, fit, out);
        self.cut(begin, row.partial, fit, out);
        self.end(row, color, fit, out);
    }

    /// The widths of both addresses and of the owner's name.
    fn texts_of_closed(&self, row: &Row<'_>, out: &mut Vec<u8>) -> [usize; 3] {
        let begin = out.len();
        let Sample { local, remote, owner, .. } = row.sample;
        Name(owner.as_ref().map(|owner| &owner.name)).write(out);
        let name = screen_width(&out[begin..]);
        out.truncate(begin);
        [Short::of(*local).len(), Short::of(*remote).len(), name]
    }

    fn time(&self, row: &Row<'_>, fit: Fit, out: &mut Vec<u8>) {
        if self.style.timestamp {
            let time = match fit.lacks(Part::Date) {
                true => row.time.get(CLOCK).unwrap_or_default(),
                false => row.time,
            };
            time.write(out);
            out.put(b" ");
        }
    }

    /// Takes the end of a line away that does not fit even so, on a very narrow screen.
    fn cut(&self, begin: usize, partial: bool, fit: Fit, out: &mut Vec<u8>) {
        if let Some(room) = self.room {
            fit::cut(out, begin, room.saturating_sub(mark(partial, fit).len()), false);
        }
    }

    fn end(&self, row: &Row<'_>, color: bool, fit: Fit, out: &mut Vec<u8>) {
        out.put(mark(row.partial, fit));
        if color {
            // Before the newline: a program that takes single lines gets the reset as well.
            out.put(RESET);
        }
        out.push(b'\n');
    }

    /// Nothing of what set the widths is on the screen any more: one long address must not
    /// take other columns away for good.
    fn forget_widths(&mut self) {
        (self.marked, self.header_due, self.since_learnt) = (false, true, 0);
        for cell in &mut self.columns {
            let title = cell.column.title.len();
            (cell.width, cell.tight, cell.brief) = (cell.column.width, title, title);
        }
    }

    /// Learns the widths of a row's values.
    fn measure(&mut self, row: &Row<'_>, scratch: &mut Vec<u8>) {
        let brief = LineStyle { brief: true, ..self.style };
        self.marked |= row.partial;
        for cell in &mut self.columns {
            let value = row.value(cell.column);
            self.style.value(value, scratch);
            cell.tight = cell.tight.max(screen_width(scratch));
            cell.width = cell.width.max(cell.tight);
            scratch.clear();
            brief.value(value, scratch);
            cell.brief = cell.brief.max(screen_width(scratch));
            scratch.clear();
        }
    }

    /// Whether a column is wider than in the last header.
    fn has_grown(&self) -> bool {
        let shown = self.columns.iter().enumerate();
        let mut shown = shown.filter(|(at, cell)| !cell.is_gone(self.fit, *at < self.keys));
        shown.any(|(_, cell)| cell.present(self.fit) > cell.headed)
    }

    /// The width of a row.
    fn width(&self, fit: Fit) -> usize {
        let shown = self.columns.iter().enumerate();
        let shown = shown.filter(|(at, cell)| !cell.is_gone(fit, *at < self.keys));
        let cells: usize = shown.map(|(_, cell)| cell.present(fit) + 1).sum();
        let time = match (self.style.timestamp, fit.lacks(Part::Date)) {
            (false, _) => 0,
            (true, true) => CLOCK.len() + 1,
            (true, false) => TIME_WIDTH + 1,
        };
        (time + cells + mark(self.marked, fit).len()).saturating_sub(1)
    }

    /// Chooses what the rows have on this screen.
    fn fit_to(&mut self, room: usize) {
        let texts: Vec<usize> = self.columns.iter().filter_map(Cell::can_be_cut).collect();
        let fit = Fit::find(fit::OF_ROW, room, &texts, |fit| self.width(fit));
        // Other columns, or other places for them.
        self.header_due |= fit != self.fit;
        self.fit = fit;
    }
}

/// Where the hours, minutes and seconds stand in a time (RFC 3339).
const CLOCK: std::ops::Range<usize> = 11..19;

/// The width of a time (RFC 3339, milliseconds).
const TIME_WIDTH: usize = 24;

/// What follows a row of a connection that is older than tcptop.
fn mark(partial: bool, fit: Fit) -> &'static [u8] {
    match (partial, fit.lacks(Part::Mark)) {
        (false, _) => b"",
        (true, false) => b" [PARTIAL]",
        (true, true) => b" *",
    }
}

/// Appends a text that may have to be cut.
fn limited(text: &impl Text, fit: Fit, is_address: bool, out: &mut Vec<u8>) {
    let begin = out.len();
    text.write(out);
    if fit.most < usize::MAX {
        fit::cut(out, begin, fit.most, is_address);
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
        let screen = self.terminal.and_then(|terminal| (terminal.screen)());
        let fits = self.terminal.is_some_and(|terminal| terminal.fits);
        self.room = screen.filter(|_| fits).map(|screen| screen.columns);
        // The header and the rows below it fill the screen together.
        let screenful = screen.map_or(usize::MAX, |screen| screen.rows.max(LOW));
        let some = !interval.rows.is_empty() || !interval.groups.is_empty();
        if self.room.is_some() && some && self.since_learnt >= screenful {
            self.forget_widths();
        }
        if self.header_due || screen.is_some() {
            // Writes the rows once and drops them, to learn the widths for the header.
            for record in interval.rows {
                self.measure(&open(record, common, names, needs), page.text());
            }
            for group in interval.groups {
                self.measure(&Row::group(group, common), page.text());
            }
        }
        if let Some(room) = self.room {
            self.fit_to(room);
        }
        // On a terminal rows stand below a header of their width.
        self.header_due |= screen.is_some() && self.has_grown();
        if !some && self.since_header == 0 {
            // The first header does not wait for a row.
            self.header_due = false;
            self.header(page.text());
        }
        for record in interval.rows {
            // In the listing at start every connection is new, so none is coloured.
            let color = self.style.color && record.is_new && !interval.listing;
            self.header_if_due(screenful, page.text());
            self.row(&open(record, common, names, needs), color, page.text());
            page.end_row()?;
        }
        for group in interval.groups {
            self.header_if_due(screenful, page.text());
            self.row(&Row::group(group, common), false, page.text());
            page.end_row()?;
        }
        // A UDP flow that is forgotten has no line.
        let is_tcp = |record: &&&ClosedRecord| record.closed.sample.protocol == Protocol::Tcp;
        for record in interval.closed.iter().filter(is_tcp) {
            let place = place(names, &record.closed.sample, needs);
            self.closed_within(&Row::closed(record, common, place), page.text());
            self.count_line();
            page.end_row()?;
        }
        Ok(())
    }
}

/// A screen with fewer lines is treated as if it had this many: it would have more headers
/// than rows.
const LOW: usize = 6;

fn open<'a>(
    record: &'a ConnectionRecord,
    common: Common<'a>,
    names: &'a mut dyn Names,
    needs: Needs,
) -> Row<'a> {
    Row::open(record, common, place(names, &record.sample, needs))
}

impl Cell {
    /// Whether the column has given way.
    fn is_gone(&self, fit: Fit, is_key: bool) -> bool {
        !is_key && self.part.is_some_and(|part| fit.lacks(part))
    }

    /// The width with a fit.
    fn present(&self, fit: Fit) -> usize {
        let width = match (fit.lacks(Part::Padding), fit.lacks(Part::Exact)) {
            (false, _) => return self.width,
            (true, false) => self.tight,
            (true, true) => self.brief,
        };
        if self.can_be_cut().is_some() { width.min(fit.most) } else { width }
    }

    /// The width of values that are cut where even the last column does not fit; `None` for
    /// numbers, and for columns that give way as a whole.
    fn can_be_cut(&self) -> Option<usize> {
        (self.column.kind != Kind::Number && self.part.is_none()).then_some(self.tight)
    }

    /// Appends a value and pads it to the width of its column: numbers on the left, all
    /// other values on the right.
    fn put(&mut self, value: Value<'_>, style: LineStyle, fit: Fit, out: &mut Vec<u8>) {
        let room = self.present(fit);
        let width = if self.column.kind == Kind::Number {
            let mut text = Short::default();
            style.value(value, &mut text);
            blanks(room.saturating_sub(text.len()), out);
            out.put(text.as_ref());
            text.len()
        } else {
            let begin = out.len();
            style.value(value, out);
            if fit.most < usize::MAX {
                fit::cut(out, begin, fit.most, matches!(value, Value::Endpoint(_)));
            }
            let width = screen_width(&out[begin..]);
            blanks(room.saturating_sub(width), out);
            width
        };
        self.width = self.width.max(width);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Shared, closed, interval, name, record, tcp, udp, written};
    use super::super::{Destination, Writer};
    use super::*;
    use crate::connection::{CloseReason, Counters, KernelName, Owner};
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr;

    const PLAIN: LineStyle =
        LineStyle { raw: false, bits: false, timestamp: false, color: false, brief: false };

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
PROTO LOCAL                 REMOTE                    PID PROCESS         STATE                 BYTES_IN          BYTES_OUT  PKTS_IN PKTS_OUT     RTT    RATE_IN   RATE_OUT
TCP   10.0.0.1:12345        93.184.216.34:443        1234 curl            ESTABLISHED      1258291(1.2M)               340B      900       12   5.0ms    1.5KB/s       0B/s
UDP   [2001:db8::1]:5353    [fe80::1%2]:5353           99 my_resolver     UDP                 2048(2.0K)                 0B        2        0       -       0B/s    1.2MB/s
TCP   10.0.0.1:12345        93.184.216.34:443           - -               ESTABLISHED                 0B                 0B        0        0   5.0ms       0B/s       0B/s [PARTIAL]
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
TIME                     PROTO LOCAL                 REMOTE                    PID PROCESS         STATE                 BYTES_IN          BYTES_OUT  PKTS_IN PKTS_OUT     RTT    RATE_IN   RATE_OUT
2026-03-04T05:06:07.089Z TCP   10.0.0.1:12345        93.184.216.34:443        1234 curl            ESTABLISHED            1258291                340      900       12    5000       1536          0
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
REMOTE                RETRANS   UID TIME                     STARTED                 
93.184.216.34:443           3  1000 2026-03-04T05:06:07.089Z -                       
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

    thread_local! {
        /// The terminal of a test.
        static SCREEN: std::cell::Cell<Screen> = const { std::cell::Cell::new(Screen { columns: 80, rows: 24 }) };
    }

    fn screen() -> Option<Screen> {
        Some(SCREEN.get())
    }

    /// On a terminal of this size.
    fn on_screen(style: LineStyle, columns: usize, rows: usize) -> LineLogger {
        SCREEN.set(Screen { columns, rows });
        logger(style).on(Some(Terminal { screen, fits: true }), 0, &[])
    }

    /// The rows and the line of a close of some connections, between these two hosts.
    fn conversation(local: &str, remote: &str) -> (Vec<ConnectionRecord>, Vec<ClosedRecord>) {
        let at = |host: &str, port: u16| -> std::net::SocketAddr {
            std::net::SocketAddr::new(host.parse().unwrap(), port)
        };
        let mut web = tcp();
        (web.local, web.remote) = (at(local, 48462), at(remote, 443));
        let mut ssh = tcp();
        (ssh.local, ssh.remote) = (at(local, 22), at(remote, 60286));
        ssh.owner = Some(Owner { pid: 4_194_304, name: name("sshd-session") });
        ssh.partial = true;
        let mut dns = udp();
        (dns.local, dns.remote) = (at(local, 43635), at(remote, 53));
        let ended = [(web.clone(), CloseReason::Fin), (ssh.clone(), CloseReason::Unreachable)];
        let ended = ended.map(|(sample, reason)| closed(sample, reason, 12_345_600_000));
        let rows =
            [record(web, 1_258_291.2, 340.0), record(ssh, 0.0, 1536.0), record(dns, 45.0, 52.0)];
        (rows.to_vec(), ended.to_vec())
    }

    /// What people see at usual widths. `BLESS=1 cargo test` writes the present text.
    #[test]
    fn lines_fit_usual_terminals() {
        for (family, local, remote) in [
            ("ipv4", "192.168.178.23", "93.184.216.34"),
            ("ipv6", "2003:e1:bf0a:1200:5054:ff:fe12:3456", "2a00:1450:4001:82a::200e"),
        ] {
            let (records, ended) = conversation(local, remote);
            let rows: Vec<_> = records.iter().collect();
            let mut seen = String::new();
            for width in [80, 100, 120, 160, 200] {
                let lines = written(on_screen(PLAIN, width, 24), [interval(&rows, &ended)]);
                assert!(lines.lines().all(|line| line.width() <= width), "{width}: {lines}");
                seen += &format!("{width:-<width$}\n{lines}");
            }
            let path = format!("{}/src/output/lines/{family}.txt", env!("CARGO_MANIFEST_DIR"));
            if std::env::var_os("BLESS").is_some() {
                std::fs::write(&path, &seen).unwrap();
            }
            assert_eq!(seen, std::fs::read_to_string(&path).unwrap(), "{path}");
        }
    }

    #[test]
    fn what_fits_comes_back() {
        let (records, _) = conversation("10.0.0.1", "10.0.0.2");
        let rows: Vec<_> = records.iter().collect();
        let header = |columns| {
            let text = written(on_screen(PLAIN, columns, 24), [interval(&rows, &[])]);
            assert!(text.lines().all(|line| line.width() <= columns), "{text}");
            let titles: Vec<_> = text.lines().next().unwrap_or_default().split(' ').collect();
            titles.into_iter().filter(|title| !title.is_empty()).collect::<Vec<_>>().join(" ")
        };
        // Bytes had to go, and left room for what went before them.
        assert_eq!(header(81), "PROTO LOCAL REMOTE PID PROCESS RTT RATE_IN RATE_OUT");
        assert_eq!(header(80), "PROTO LOCAL REMOTE PID PROCESS RATE_IN RATE_OUT");
        assert_eq!(header(74), "LOCAL REMOTE PID PROCESS RATE_IN RATE_OUT");
        // What went before them left them room.
        assert_eq!(header(88), "LOCAL REMOTE PID PROCESS BYTES_IN BYTES_OUT RATE_IN RATE_OUT");
    }

    #[test]
    fn closed_lines_keep_addresses_longest() {
        let closed = |local: &str, remote: &str, columns| {
            let (_, ended) = conversation(local, remote);
            let text = written(on_screen(PLAIN, columns, 24), [interval(&[], &ended[..1])]);
            text.lines().find(|line| line.contains("[CLOSED]")).expect("a line").to_owned()
        };
        let long = ["127.100.110.123", "127.100.124.196"];
        let line = closed(long[0], long[1], 80);
        assert!(line.width() <= 80 && long.iter().all(|ip| line.contains(ip)), "{line}");
        assert!(line.contains("end=") && !line.contains("in="), "{line}");
        assert!(closed("10.0.0.1", "10.0.0.2", 80).contains("in="));
        // Of IPv6 enough stays, and the bytes.
        let line = closed("2001:db8:1111:2222:3333:4444:5555:6666", "2001:db8::1", 90);
        assert!(line.width() <= 90 && line.contains("in=") && line.contains('~'), "{line}");
    }

    #[test]
    fn what_rows_are_ordered_by_stays() {
        let (records, _) = conversation("192.168.178.23", "93.184.216.34");
        let rows: Vec<_> = records.iter().collect();
        let header = |ordered: &[&str]| {
            SCREEN.set(Screen { columns: 80, rows: 24 });
            let logger = logger(PLAIN).on(Some(Terminal { screen, fits: true }), 0, ordered);
            let text = written(logger, [interval(&rows, &[])]);
            assert!(text.lines().all(|line| line.width() <= 80), "{text}");
            text.lines().next().unwrap_or_default().to_owned()
        };
        assert!(!header(&[]).contains("RTT") && header(&["rtt_us"]).contains("RTT"));
        assert!(!header(&[]).contains("PKTS_IN") && header(&["packets_in"]).contains("PKTS_IN"));
    }

    #[test]
    fn wide_terminals_change_nothing() {
        let (records, ended) = conversation("10.0.0.1", "10.0.0.2");
        let rows: Vec<_> = records.iter().collect();
        let text = |logger| written(logger, [interval(&rows, &ended[..1])]);
        assert_eq!(text(on_screen(PLAIN, 181, 24)), text(logger(PLAIN)));
        assert_ne!(text(on_screen(PLAIN, 180, 24)), text(logger(PLAIN)));
        let chosen = logger(PLAIN).on(Some(Terminal { screen, fits: false }), 0, &[]);
        SCREEN.set(Screen { columns: 20, rows: 24 });
        assert_eq!(text(chosen), text(logger(PLAIN)), "chosen columns are never cut");
    }

    #[test]
    fn the_header_comes_again_each_screenful_and_with_other_columns() {
        let row = record(tcp(), 0.0, 0.0);
        let rows = vec![&row; 20];
        let headers = |text: &str| -> Vec<usize> {
            let lines = text.lines().enumerate();
            lines.filter(|(_, line)| line.contains("LOCAL")).map(|(at, _)| at).collect()
        };
        let text = written(on_screen(PLAIN, 200, 10), [interval(&rows, &[])]);
        assert_eq!(headers(&text), [0, 10, 20], "nine rows below each");
        // Lines of closes count as well.
        let ended = vec![closed(tcp(), CloseReason::Fin, 1); 9];
        let intervals = [interval(&rows[..1], &ended), interval(&rows[..1], &[])];
        assert_eq!(headers(&written(on_screen(PLAIN, 200, 10), intervals)), [0, 11]);
        let text = written(on_screen(PLAIN, 200, 0), [interval(&rows, &[])]);
        assert_eq!(headers(&text), [0, 6, 12, 18], "a terminal that is too low");
        let text = written(logger(PLAIN), [interval(&rows, &[])]);
        assert_eq!(headers(&text), [0], "a pipe");

        let out = Shared::default();
        let lines = on_screen(PLAIN, 200, 50);
        let mut lines = Writer::new(Box::new(lines), Destination::stream(out.clone()));
        for columns in [200, 200, 100, 100] {
            SCREEN.set(Screen { columns, rows: 50 });
            lines.interval(interval(&rows[..1], &[])).unwrap();
        }
        let all = String::from_utf8(out.calls().writes.concat()).unwrap();
        assert_eq!(headers(&all), [0, 3], "{all}");
    }

    #[test]
    fn rows_on_a_terminal_stand_below_a_header_of_their_width() {
        let mut wide = tcp();
        wide.owner = Some(Owner { pid: 4_194_304, name: name("sshd-session") });
        let (narrow, wide) = (record(tcp(), 0.0, 0.0), record(wide, 1_258_291.2, 0.0));
        let rows = [[&narrow], [&wide], [&narrow], [&wide]];
        for (columns, fits, headers) in [(150, true, 2), (250, true, 1), (20, false, 1)] {
            SCREEN.set(Screen { columns, rows: 24 });
            let lines = logger(PLAIN).on(Some(Terminal { screen, fits }), 0, &[]);
            let text = written(lines, rows.iter().map(|rows| interval(rows, &[])));
            let mut ends = 0;
            let mut seen = 0;
            for line in text.lines() {
                if let Some(at) = line.find("RATE_IN") {
                    (ends, seen) = (at + "RATE_IN".len(), seen + 1);
                } else {
                    assert!(line[..ends].ends_with("B/s"), "{columns}: {text}");
                }
            }
            assert_eq!(seen, headers, "{columns}: {text}");
        }
        let long = record(
            Sample {
                local: "[2001:db8:1111:2222:3333:4444:5555:6666]:1".parse().unwrap(),
                ..tcp()
            },
            0.0,
            0.0,
        );
        let rows = [[&narrow], [&long]];
        let chosen = logger(PLAIN).on(Some(Terminal { screen, fits: false }), 0, &[]);
        let text = written(chosen, rows.iter().map(|rows| interval(rows, &[])));
        assert_eq!(text.matches("RATE_IN").count(), 2, "also above chosen columns: {text}");
    }

    /// The header of a pipe comes once, perhaps before the first row.
    #[test]
    fn usual_rows_stand_under_an_early_header() {
        let mut busy = tcp();
        busy.local = "255.255.255.255:65535".parse().unwrap();
        busy.remote = busy.local;
        busy.owner = Some(Owner { pid: 4_194_304, name: name("a-name-of-15-by") });
        busy.counters = Counters {
            bytes_in: 99_999_999_999,
            bytes_out: 1_048_524,
            packets_in: 99_999_999,
            packets_out: 99_999_999,
        };
        busy.rtt_us = Some(999_949);
        let row = record(busy, 1_048_524.0, 1_258_291.2);
        let text = written(logger(PLAIN), [interval(&[], &[]), interval(&[&row], &[])]);
        let widths: Vec<_> = text.lines().map(UnicodeWidthStr::width).collect();
        assert_eq!(widths[0], widths[1], "{text}");
    }

    #[test]
    fn a_long_address_takes_no_column_away_for_good() {
        let mut long = tcp();
        long.local = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap();
        let (short, long) = (record(tcp(), 0.0, 0.0), record(long, 0.0, 0.0));
        let rows = [vec![&short], vec![&long], vec![&short; 8], vec![&short]];
        let text = written(on_screen(PLAIN, 110, 10), rows.iter().map(|rows| interval(rows, &[])));
        let headers: Vec<&str> = text.lines().filter(|line| line.contains("LOCAL")).collect();
        assert_eq!(headers.len(), 3, "{text}");
        assert!(headers[0] == headers[2] && headers[0] != headers[1], "{text}");
    }

    #[test]
    fn keys_of_groups_stay() {
        let columns = Selection::named(["state", "packets_in", "bytes_in"]);
        SCREEN.set(Screen { columns: 15, rows: 24 });
        let logger = |keys| {
            LineLogger::new(PLAIN, columns.clone()).on(
                Some(Terminal { screen, fits: true }),
                keys,
                &[],
            )
        };
        let row = record(tcp(), 0.0, 0.0);
        let text = |keys| written(logger(keys), [interval(&[&row], &[])]);
        assert_eq!(text(1), "STATE      \nESTABLISHED\n");
        assert_eq!(text(0), "BYTES_IN\n    1.2M\n");
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_terminal(
            samples in proptest::collection::vec(samples(), 1..5),
            columns in 1usize..250, raw: bool, bits: bool, color: bool,
        ) {
            let style = LineStyle { raw, bits, color, timestamp: samples[0].2, ..PLAIN };
            let rows: Vec<_> =
                samples.iter().map(|(sample, rates, _)| record(sample.clone(), rates[0], rates[1])).collect();
            let ended: Vec<_> =
                samples.iter().map(|(sample, ..)| closed(sample.clone(), CloseReason::Unreachable, 5)).collect();
            let rows: Vec<_> = rows.iter().collect();
            let text = written(on_screen(style, columns, 24), [interval(&rows, &ended)]);
            for line in text.lines() {
                let plain = line.replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", "");
                // A mark alone takes two.
                prop_assert!(plain.width() <= columns.max(3), "{columns}: {plain}");
            }
        }

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
