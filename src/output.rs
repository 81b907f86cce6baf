//! The last step: the rows of an interval become bytes, and the bytes are written.
//!
//! Owns the [`Format`] trait, the [`Writer`] that brings a format and a
//! [`Destination`] together, and what the formats share. A format does not know where
//! its bytes go. A destination knows where a row ends, and nothing else about rows.
//! Everything except the destination is pure: no clock, no kernel, no terminal queries.

use std::io;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::connection::{Needs, Protocol, Sample};
use crate::loss::Loss;
use crate::names::{Names, place};
use crate::settings::{FormatName, Settings, Sort};
use crate::table::{ClosedRecord, ConnectionRecord};

pub mod columns;
pub mod csv;
pub mod destination;
pub mod fit;
pub mod grouped;
pub mod json;
pub mod lines;
pub mod schema;
pub mod style;
pub mod tame;
pub mod text;
pub mod textfile;

use columns::{Common, Row, Selection};
use csv::CsvLogger;
pub use destination::Destination;
use fit::Screen;
use grouped::{GroupRow, Keys};
use json::JsonLogger;
use lines::{LineLogger, Terminal};
use style::LineStyle;

/// The content of one interval, ready to be written.
pub struct Interval<'a> {
    /// The wall-clock time at which the interval ended. All its rows carry this time.
    pub time: DateTime<Utc>,
    /// The same moment on CLOCK_MONOTONIC, in nanoseconds. Ages are computed from it.
    pub now_ns: u64,
    /// The rows to write, filtered, ordered and cut to `--top`.
    pub rows: &'a [&'a ConnectionRecord],
    /// What ended in the interval, in the order of its end.
    pub closed: &'a [&'a ClosedRecord],
    /// The rows of groups. Where groups are asked for there are no other rows.
    pub groups: &'a [GroupRow<'a>],
    /// What was lost in the interval.
    pub lost: &'a Loss,
    /// True for the listing at start, which is not the end of an interval.
    pub listing: bool,
    /// The totals of TCP count from the opening of each connection (`--lifetime`).
    pub lifetime: bool,
    /// The name of the host.
    pub host: &'a str,
    /// Looks up the names that columns need.
    pub names: &'a mut dyn Names,
}

impl<'a> Interval<'a> {
    /// What all its rows have in common; `time` is its time as text.
    fn common<'c>(&self, time: &'c str) -> Common<'c>
    where
        'a: 'c,
    {
        Common { time, now_ns: self.now_ns, host: self.host, lifetime: self.lifetime }
    }

    /// What CSV and JSON have a row for. The listing at start is not the end of an
    /// interval: it has none for open connections.
    fn items(&self) -> impl Iterator<Item = Item<'a>> + use<'a> {
        let open = if self.listing { &[] } else { self.rows };
        let groups = if self.listing { &[] } else { self.groups };
        let open = open.iter().copied().map(Item::Open);
        let closed = self.closed.iter().copied().map(Item::Closed);
        open.chain(closed).chain(groups.iter().map(Item::Group))
    }
}

/// What a row of CSV or an object of JSON is about.
#[derive(Clone, Copy)]
enum Item<'a> {
    Open(&'a ConnectionRecord),
    Closed(&'a ClosedRecord),
    Group(&'a GroupRow<'a>),
}

impl<'a> Item<'a> {
    /// The word for it in JSON.
    fn event(self) -> &'static str {
        match self {
            Item::Open(_) => "sample",
            Item::Closed(record) => match record.closed.sample.protocol {
                Protocol::Tcp => "closed",
                Protocol::Udp => "expired",
            },
            Item::Group(_) => "group",
        }
    }

    /// Its row, with the names that `needs` asks for.
    fn row(self, common: Common<'a>, names: &'a mut dyn Names, needs: Needs) -> Row<'a> {
        match self {
            Item::Open(record) => Row::open(record, common, place(names, &record.sample, needs)),
            Item::Closed(record) => {
                let place = place(names, &record.closed.sample, needs);
                Row::closed(record, common, place)
            }
            Item::Group(group) => Row::group(group, common),
        }
    }
}

/// A format: turns intervals into text.
pub trait Format {
    /// What a file of this format looks like.
    fn document(&self) -> Document;

    /// Puts the rows of an interval on the page.
    ///
    /// # Errors
    /// When the page cannot be written to its destination.
    fn interval(&mut self, interval: Interval<'_>, page: &mut Page<'_>) -> io::Result<()>;

    /// The text after the last interval of a file. Most formats have none.
    fn footer(&self) -> String {
        String::new()
    }
}

/// The format that the settings ask for. `color` says whether lines are coloured; `screen`
/// asks for the size of the terminal that they are written to, if it is one.
pub fn format(
    settings: &Settings,
    color: bool,
    screen: Option<fn() -> Option<Screen>>,
) -> Box<dyn Format + Send> {
    let output = &settings.output;
    let columns = selection(settings);
    match output.format() {
        FormatName::Lines => {
            let style = LineStyle {
                raw: output.raw,
                bits: output.bits,
                timestamp: output.timestamp,
                color,
                brief: false,
            };
            let fits = output.columns.is_none();
            let terminal = screen.map(|screen| Terminal { screen, fits });
            let keys = settings.groups.by.len();
            let ordered = settings.rows.sort.columns();
            Box::new(LineLogger::new(style, columns).on(terminal, keys, &ordered))
        }
        FormatName::Csv => Box::new(CsvLogger::new(columns)),
        FormatName::Json => Box::new(JsonLogger::new(columns)),
    }
}

/// The columns that the settings ask for.
fn selection(settings: &Settings) -> Selection {
    if !settings.groups.by.is_empty() {
        return grouped::selection(settings);
    }
    let output = &settings.output;
    let usual = match output.format() {
        FormatName::Lines => Selection::lines(),
        FormatName::Csv => Selection::csv(output.wide),
        FormatName::Json => Selection::csv(true),
    };
    match &output.columns {
        Some(list) => usual.asked(list),
        None => usual,
    }
}

/// What must be read or looked up for the columns, the filters, the order and the groups.
pub fn needs(settings: &Settings) -> Needs {
    let order = match &settings.rows.sort {
        Sort::Column(name) => columns::column(name).map(|column| column.needs),
        _ => None,
    };
    let groups = Keys::new(&settings.groups.by).needs();
    selection(settings).needs() | order.unwrap_or_default() | groups | settings.query.needs()
}

/// What a file of a format looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// The text at the beginning of a file or stream; empty for none.
    pub header: String,
    /// The bytes with which every file of this format begins. A file that begins with
    /// other bytes is not continued.
    pub beginning: String,
    /// The reason that the user is given when a file has another beginning.
    pub mismatch: &'static str,
    /// True where a newline between double quotes is part of a value, not a row's end.
    pub quotes: bool,
}

/// The buffer that a format fills, and the destination that the buffer is written to.
pub struct Page<'a> {
    text: &'a mut Vec<u8>,
    destination: &'a mut Destination,
}

/// The size of a pipe's buffer. The kernel would split a longer write there anyway, so
/// a long interval is written in pieces of this size and needs no more memory.
const CHUNK: usize = 64 * 1024;

impl Page<'_> {
    /// The buffer to append the next row to. Earlier rows may still be in it.
    pub fn text(&mut self) -> &mut Vec<u8> {
        self.text
    }

    /// Marks the end of a row. Writes the buffer once it is full.
    ///
    /// # Errors
    /// When the buffer was full and writing it failed.
    pub fn end_row(&mut self) -> io::Result<()> {
        if self.text.len() < CHUNK { Ok(()) } else { self.write() }
    }

    fn write(&mut self) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let result = self.destination.write(self.text);
        self.text.clear();
        result
    }
}

/// A format and the destination of its bytes. One call writes and flushes one interval.
pub struct Writer {
    format: Box<dyn Format + Send>,
    destination: Destination,
    text: Vec<u8>,
}

impl Writer {
    /// Writes nothing yet.
    pub fn new(format: Box<dyn Format + Send>, destination: Destination) -> Writer {
        Writer { format, destination, text: Vec::new() }
    }

    /// Writes an interval.
    ///
    /// # Errors
    /// Errors of the destination; `BrokenPipe` means that the reader of a stream
    /// went away.
    pub fn interval(&mut self, interval: Interval<'_>) -> io::Result<()> {
        self.destination.begin()?;
        self.text.clear();
        let mut page = Page { text: &mut self.text, destination: &mut self.destination };
        self.format.interval(interval, &mut page)?;
        page.write()?;
        release(&mut self.text);
        Ok(())
    }

    /// Ends the file that was moved away and opens the path again (on SIGHUP). Does
    /// nothing for a stream.
    ///
    /// # Errors
    /// Errors of opening and writing.
    pub fn reopen(&mut self) -> io::Result<()> {
        if self.destination.is_in_place() {
            return Ok(());
        }
        self.end()?;
        self.destination.reopen()
    }

    /// Writes the footer of the format. No interval may follow.
    ///
    /// # Errors
    /// Errors of writing.
    pub fn end(&mut self) -> io::Result<()> {
        let footer = self.format.footer();
        if footer.is_empty() { Ok(()) } else { self.destination.write(footer.as_bytes()) }
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-03-04T05:06:07.089Z`.
fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The text of the state column. A UDP flow has no state and shows `UDP`.
fn state_name(sample: &Sample) -> &'static str {
    match sample.state {
        Some(state) => state.name(),
        None => sample.protocol.name(),
    }
}

/// Shrinks a buffer that a burst has made far larger than an interval needs.
fn release(buffer: &mut Vec<u8>) {
    if buffer.capacity() > CHUNK.max(buffer.len().saturating_mul(8)) {
        buffer.shrink_to(CHUNK.max(buffer.len().saturating_mul(2)));
    }
}

#[cfg(test)]
pub(crate) mod fixtures {
    //! Connections that the formats' tests write.

    use super::*;
    use crate::connection::{
        CloseReason, Closed, ConnectionKey, Counters, KernelName, Owner, TcpState,
    };
    use crate::names::Place;
    use crate::table::ConnectionTable;

    pub(crate) fn name(text: &str) -> KernelName {
        let mut comm = [0; 16];
        comm[..text.len()].copy_from_slice(text.as_bytes());
        KernelName::from_comm(comm)
    }

    /// The columns that CSV and JSON began with: the goldens are of these, so that
    /// they stay when columns are added.
    pub(crate) fn first_columns(count: usize) -> Selection {
        const NAMES: [&str; 26] = [
            "timestamp",
            "protocol",
            "local_addr",
            "local_port",
            "remote_addr",
            "remote_port",
            "pid",
            "process_name",
            "state",
            "bytes_in",
            "bytes_out",
            "packets_in",
            "packets_out",
            "rate_in_bytes_sec",
            "rate_out_bytes_sec",
            "rtt_us",
            "partial",
            "retrans",
            "min_rtt_us",
            "age_sec",
            "uid",
            "ifname",
            "netns",
            "cgroup",
            "container",
            "end",
        ];
        Selection::named(NAMES.into_iter().take(count))
    }

    /// Names that need no host.
    pub(crate) struct Known;

    impl Names for Known {
        fn refresh(&mut self) {}
        fn cgroup_made(&mut self, _: u64, _: &str) {}
        fn place(&mut self, sample: &Sample, _: Needs) -> Place<'_> {
            match sample.ifindex {
                0 => Place::default(),
                _ => Place {
                    interface: Some("eth0"),
                    cgroup: Some("/docker/a,b"),
                    container: Some("0123"),
                    ..Place::default()
                },
            }
        }
    }

    pub(crate) fn tcp() -> Sample {
        let key = ConnectionKey { object: 1, born_ns: 1_000_000_000 };
        let (local, remote) = (([10, 0, 0, 1], 12345).into(), ([93, 184, 216, 34], 443).into());
        Sample {
            state: Some(TcpState::Established),
            owner: Some(Owner { pid: 1234, name: name("curl") }),
            counters: Counters {
                bytes_in: 1_258_291,
                bytes_out: 340,
                packets_in: 900,
                packets_out: 12,
            },
            rtt_us: Some(5000),
            min_rtt_us: Some(4321),
            retransmits: 3,
            uid: 1000,
            ifindex: 2,
            netns: 4_026_531_840,
            cgroup: 77,
            ..Sample::new(key, Protocol::Tcp, local, remote)
        }
    }

    pub(crate) fn udp() -> Sample {
        let key = ConnectionKey { object: 2, born_ns: 2_000_000_000 };
        let local = "[2001:db8::1]:5353".parse().unwrap();
        let remote = "[fe80::1%2]:5353".parse().unwrap();
        Sample {
            owner: Some(Owner { pid: 99, name: name("my resolver") }),
            counters: Counters { bytes_in: 2048, bytes_out: 0, packets_in: 2, packets_out: 0 },
            uid: 1000,
            netns: 4_026_531_840,
            ..Sample::new(key, Protocol::Udp, local, remote)
        }
    }

    pub(crate) fn record(sample: Sample, rate_in: f64, rate_out: f64) -> ConnectionRecord {
        let mut table = ConnectionTable::new(false);
        table.seed([sample]);
        let mut record = table.all().next().unwrap().clone();
        record.rate_in = rate_in;
        record.rate_out = rate_out;
        record
    }

    pub(crate) fn closed(sample: Sample, reason: CloseReason, age_ns: u64) -> ClosedRecord {
        let closed_ns = sample.key.born_ns + age_ns;
        let started: DateTime<Utc> = "2026-03-04T05:06:01Z".parse().unwrap();
        let started_ns = started.timestamp_nanos_opt();
        ClosedRecord { closed: Closed { sample, reason, closed_ns }, started_ns, limited_by: None }
    }

    /// The text that a format writes into a stream, interval by interval.
    pub(crate) fn written<'a>(
        format: impl Format + Send + 'static,
        intervals: impl IntoIterator<Item = Interval<'a>>,
    ) -> String {
        let out = Shared::default();
        let mut writer = Writer::new(Box::new(format), Destination::stream(out.clone()));
        for interval in intervals {
            writer.interval(interval).unwrap();
        }
        out.text()
    }

    /// A writer whose calls a test can look at afterwards.
    #[derive(Clone, Default)]
    pub(crate) struct Shared(std::sync::Arc<std::sync::Mutex<Calls>>);

    /// What was written with each call, and how often it was flushed.
    #[derive(Default)]
    pub(crate) struct Calls {
        pub(crate) writes: Vec<Vec<u8>>,
        pub(crate) flushes: usize,
    }

    impl Shared {
        pub(crate) fn calls(&self) -> std::sync::MutexGuard<'_, Calls> {
            self.0.lock().unwrap()
        }

        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.calls().writes.concat()).unwrap()
        }
    }

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls().writes.push(bytes.to_vec());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            self.calls().flushes += 1;
            Ok(())
        }
    }

    pub(crate) fn interval<'a>(
        rows: &'a [&'a ConnectionRecord],
        closed: &'a [ClosedRecord],
    ) -> Interval<'a> {
        static NOTHING: std::sync::OnceLock<Loss> = std::sync::OnceLock::new();
        let closed: Vec<_> = closed.iter().collect();
        Interval {
            time: "2026-03-04T05:06:07.089123Z".parse().unwrap(),
            now_ns: 11_500_000_000,
            rows,
            closed: Vec::leak(closed),
            groups: &[],
            lost: NOTHING.get_or_init(Loss::default),
            listing: false,
            lifetime: false,
            host: "alpha",
            names: Box::leak(Box::new(Known)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::destination::open_anything;
    use super::fixtures::{Shared, interval, record, tcp};
    use super::*;

    /// A format with everything that a format can have.
    struct Sentences;

    impl Format for Sentences {
        fn document(&self) -> Document {
            Document {
                header: "begin\n".into(),
                beginning: "begin\n".into(),
                ..Document::default()
            }
        }

        fn interval(&mut self, interval: Interval<'_>, page: &mut Page<'_>) -> io::Result<()> {
            for row in interval.rows {
                page.text().extend(format!("{}\n", row.sample.local).bytes());
                page.end_row()?;
            }
            Ok(())
        }

        fn footer(&self) -> String {
            "end\n".into()
        }
    }

    #[test]
    fn a_stream_begins_and_ends_once() {
        let out = Shared::default();
        let document = Sentences.document();
        let mut writer =
            Writer::new(Box::new(Sentences), Destination::stream_of(out.clone(), document));
        let row = record(tcp(), 0.0, 0.0);
        for _ in 0..2 {
            writer.interval(interval(&[&row], &[])).unwrap();
            writer.reopen().unwrap();
        }
        writer.end().unwrap();
        assert_eq!(out.text(), "begin\n10.0.0.1:12345\n10.0.0.1:12345\nend\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_ended_and_the_next_one_begun() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let file = Destination::file(&path, false, Sentences.document(), open_anything).unwrap();
        let mut writer = Writer::new(Box::new(Sentences), file);
        let row = record(tcp(), 0.0, 0.0);
        writer.interval(interval(&[&row], &[])).unwrap();
        let moved = directory.path().join("log.1");
        std::fs::rename(&path, &moved).unwrap();
        writer.reopen().unwrap();
        writer.end().unwrap();
        assert_eq!(std::fs::read_to_string(moved).unwrap(), "begin\n10.0.0.1:12345\nend\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "begin\nend\n");
    }

    #[test]
    fn a_long_interval_is_written_in_pieces_of_whole_rows() {
        let out = Shared::default();
        let mut writer = Writer::new(Box::new(Sentences), Destination::stream(out.clone()));
        let row = record(tcp(), 0.0, 0.0);
        let rows = vec![&row; 3 * CHUNK / 15];
        writer.interval(interval(&rows, &[])).unwrap();
        let calls = out.calls();
        assert!((3..=4).contains(&calls.writes.len()), "{}", calls.writes.len());
        assert!(calls.writes.iter().all(|piece| piece.ends_with(b"\n")));
        assert!(writer.text.capacity() < 2 * CHUNK);
    }
}
