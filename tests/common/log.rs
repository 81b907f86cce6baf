//! A strict parser for tcptop's CSV: exactly one header, and only complete rows.

use std::fs;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, FixedOffset};

use super::columns::{COLUMNS, USUAL, names};
use super::sock::Ends;
use super::wait::until;

#[derive(Clone, Debug)]
pub struct LogRow {
    pub time: DateTime<FixedOffset>,
    pub protocol: String,
    pub ends: Ends,
    pub pid: Option<u32>,
    pub process: String,
    pub state: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub rate_in: f64,
    pub rate_out: f64,
    pub rtt: Option<u64>,
    /// The columns of `--wide`.
    pub wide: Vec<String>,
}

impl LogRow {
    pub fn is_final(&self) -> bool {
        self.state == "CLOSED" || self.state == "EXPIRED"
    }

    fn parse(fields: &csv::StringRecord) -> LogRow {
        let text = |column: usize| fields[column].to_owned();
        let number = |column: usize| {
            fields[column].parse().unwrap_or_else(|e| panic!("column {column}: {e}: {fields:?}"))
        };
        let rate = |column: usize| {
            let decimals = fields[column].rsplit_once('.').map(|(_, decimals)| decimals.len());
            assert_eq!(decimals, Some(2), "{fields:?}");
            fields[column].parse().expect("a rate")
        };
        let address = |column: usize| {
            let (host, port) = (&fields[column], &fields[column + 1]);
            let text = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
            format!("{text}:{port}").parse().unwrap_or_else(|e| panic!("{e}: {fields:?}"))
        };
        assert!(fields[0].ends_with('Z'), "UTC: {fields:?}");
        let row = LogRow {
            time: DateTime::parse_from_rfc3339(&fields[0]).expect("RFC 3339"),
            protocol: text(1),
            ends: Ends::new(address(2), address(4)),
            pid: (!fields[6].is_empty()).then(|| fields[6].parse().expect("a PID")),
            process: text(7),
            state: text(8),
            bytes_in: number(9),
            bytes_out: number(10),
            packets_in: number(11),
            packets_out: number(12),
            rate_in: rate(13),
            rate_out: rate(14),
            rtt: (&fields[15] != "N/A").then(|| number(15)),
            wide: fields.iter().skip(16).map(str::to_owned).collect(),
        };
        assert!(["TCP", "UDP"].contains(&&*row.protocol), "{row:?}");
        assert_eq!(row.protocol == "UDP", ["UDP", "EXPIRED"].contains(&&*row.state), "{row:?}");
        assert_ne!(row.pid, Some(0), "{row:?}");
        if row.is_final() {
            assert_eq!((row.rate_in, row.rate_out), (0.0, 0.0), "{row:?}");
        }
        row
    }
}

/// The part up to the end of the last complete row. (A quoted name may contain a newline.)
pub fn whole_rows(bytes: &[u8]) -> Option<&[u8]> {
    let (mut quoted, mut whole) = (false, None);
    for (position, byte) in bytes.iter().enumerate() {
        match byte {
            b'"' => quoted = !quoted,
            b'\n' if !quoted => whole = Some(position + 1),
            _ => {}
        }
    }
    whole.map(|whole| &bytes[..whole])
}

#[derive(Clone, Debug, Default)]
pub struct Log {
    pub rows: Vec<LogRow>,
}

impl Log {
    /// Reads a file that nobody writes to any more.
    pub fn read(path: &Path) -> Log {
        Log::parse(&fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
    }

    /// Reads the file again and again, while tcptop writes it, until `probe` has an answer.
    /// (The newest interval may be incomplete.)
    pub fn wait<T>(path: &Path, what: &str, mut probe: impl FnMut(&Log) -> Option<T>) -> T {
        until(what, || {
            let bytes = fs::read(path).unwrap_or_default();
            probe(&Log::parse(whole_rows(&bytes)?))
        })
    }

    /// Waits for the final rows of all of these.
    pub fn wait_finals(path: &Path, all: &[Ends]) {
        Log::wait(path, "final rows", |log| {
            all.iter().all(|&ends| log.finals_of(ends).next().is_some()).then_some(())
        });
    }

    pub fn of_lines(lines: &[String]) -> Log {
        Log::parse((lines.join("\n") + "\n").as_bytes())
    }

    pub fn parse(bytes: &[u8]) -> Log {
        assert_eq!(bytes.last(), Some(&b'\n'), "ends within a row");
        let mut reader = csv::Reader::from_reader(bytes);
        let header: Vec<&str> = reader.headers().expect("a header").iter().collect();
        assert!(header == names(USUAL) || header == names(COLUMNS.len()), "{header:?}");
        let rows: Vec<LogRow> =
            reader.records().map(|fields| LogRow::parse(&fields.expect("a row"))).collect();
        assert!(rows.is_sorted_by_key(|row| row.time), "times step back");
        Log { rows }
    }

    /// The times of the intervals: all rows of an interval share one.
    pub fn times(&self) -> Vec<DateTime<FixedOffset>> {
        let mut times: Vec<_> = self.rows.iter().map(|row| row.time).collect();
        times.dedup();
        times
    }

    pub fn rows_of(&self, ends: Ends) -> impl DoubleEndedIterator<Item = &LogRow> {
        self.rows.iter().filter(move |row| row.ends == ends)
    }

    pub fn open_rows_of(&self, ends: Ends) -> Vec<&LogRow> {
        self.rows_of(ends).filter(|row| !row.is_final()).collect()
    }

    pub fn finals_of(&self, ends: Ends) -> impl DoubleEndedIterator<Item = &LogRow> {
        self.rows_of(ends).filter(|row| row.is_final())
    }

    /// What one connection moved, in and out, by its last row.
    pub fn totals(&self, ends: Ends) -> (u64, u64) {
        assert!(self.finals_of(ends).count() <= 1, "several final rows of {ends:?}");
        let row = self.rows_of(ends).next_back();
        let row = row.unwrap_or_else(|| panic!("no row of {ends:?}"));
        (row.bytes_in, row.bytes_out)
    }
}

/// Checks that a connection has a row in each interval: the bytes since the row before are
/// the rate times the time between the two rows, so no row is missing in between.
pub fn check_continuous(rows: &[&LogRow]) {
    assert!(rows.len() > 1, "{rows:#?}");
    for two in rows.windows(2) {
        // On a busy machine two short intervals can end in the same millisecond.
        let moved = (two[0].bytes_in, two[0].bytes_out) != (two[1].bytes_in, two[1].bytes_out);
        assert!(two[0].time < two[1].time || moved, "two in one interval: {two:#?}");
        let seconds = (two[1].time - two[0].time).to_std().expect("forwards").as_secs_f64();
        for (bytes, rate) in [
            (two[1].bytes_in - two[0].bytes_in, two[1].rate_in),
            (two[1].bytes_out - two[0].bytes_out, two[1].rate_out),
        ] {
            // The row's time comes from two clocks that are read one after the other.
            let slack = Duration::from_millis(15).as_secs_f64() * rate + 1.0;
            assert!((bytes as f64 - rate * seconds).abs() <= slack, "{two:#?}");
        }
    }
}
