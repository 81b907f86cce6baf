//! CSV (RFC 4180): a header, then in each interval a row for each open connection and
//! a final row, with state `CLOSED`, for each connection that ended in it.
//!
//! Owns how a value looks in a cell; the columns are those of
//! [`columns`](super::columns). Names are quoted where CSV needs it and otherwise
//! written unchanged, even where a spreadsheet would take a leading `=` for a formula.
//! Rows end with a newline and no carriage return, for grep and awk.
//!
//! The listing at start is not the end of an interval and has no rows for open
//! connections. Connections that closed before the listing have their final rows.

use std::io;

use super::columns::{Row, Selection, Value};
use super::text::{Cents, Host, RawAge, Short};
use super::{Document, Format, Interval, Page, timestamp};

/// The number of rows that are put on the page before it is checked for being full.
const ROWS: usize = 256;

/// Intervals as CSV.
pub struct CsvLogger {
    columns: Selection,
}

impl CsvLogger {
    /// Writes these columns.
    pub fn new(columns: Selection) -> CsvLogger {
        CsvLogger { columns }
    }

    fn header(&self) -> String {
        let names: Vec<&str> = self.columns.iter().map(|column| column.name).collect();
        names.join(",") + "\n"
    }
}

impl Format for CsvLogger {
    fn document(&self) -> Document {
        Document {
            header: self.header(),
            beginning: self.header(),
            mismatch: "it does not begin with the header of this CSV (made by something else, or \
                    with other columns)",
            quotes: true,
        }
    }

    fn interval(&mut self, interval: Interval<'_>, page: &mut Page<'_>) -> io::Result<()> {
        let time = timestamp(interval.time);
        let common = interval.common(&time);
        let mut items = interval.items().peekable();
        while items.peek().is_some() {
            let mut csv = ::csv::WriterBuilder::new().has_headers(false).from_writer(page.text());
            for item in items.by_ref().take(ROWS) {
                let row = item.row(common, interval.names, self.columns.needs());
                CsvRow { columns: &self.columns, row: &row }
                    .write(&mut csv)
                    .map_err(io::Error::other)?;
            }
            csv.flush()?;
            drop(csv);
            page.end_row()?;
        }
        Ok(())
    }
}

/// One row of CSV.
pub struct CsvRow<'a> {
    /// The columns in their order.
    pub columns: &'a Selection,
    /// The row that the values come from.
    pub row: &'a Row<'a>,
}

impl CsvRow<'_> {
    /// Writes the row, with quotes where CSV needs them.
    ///
    /// # Errors
    /// Errors of the writer that `csv` writes to.
    pub fn write(&self, csv: &mut ::csv::Writer<impl io::Write>) -> ::csv::Result<()> {
        for column in self.columns.iter() {
            match self.row.value(column) {
                Value::Unknown => csv.write_field(column.unknown),
                Value::Word(text) | Value::Text(text) | Value::Time(text) => csv.write_field(text),
                Value::Name(name) => csv.write_field(&*name.to_text()),
                Value::Host(address) => csv.write_field(Short::of(Host(address))),
                Value::Endpoint(address) => csv.write_field(Short::of(*address)),
                Value::Moment(time) => csv.write_field(timestamp(time)),
                Value::Id(id) => csv.write_field(Short::of(id)),
                Value::Number(number) | Value::Bytes(number) | Value::Micros(number) => {
                    csv.write_field(itoa::Buffer::new().format(number))
                }
                Value::Rate(rate) => csv.write_field(Short::of(Cents(rate))),
                Value::Span(ns) => csv.write_field(Short::of(RawAge(Some(ns)))),
                Value::Flag(flag) => csv.write_field(if flag { "true" } else { "false" }),
            }?;
        }
        // Writes no further field and ends the record.
        csv.write_record(None::<&[u8]>)
    }
}

#[cfg(test)]
mod tests {
    use super::super::destination::open_anything;
    use super::super::fixtures::{
        closed, first_columns, interval, name, record, tcp, udp, written,
    };
    use super::super::{Destination, Writer};
    use super::*;
    use crate::connection::{CloseReason, Counters, KernelName, Owner};
    use crate::table::{ClosedRecord, ConnectionRecord};
    use proptest::prelude::*;
    use std::fs;

    fn csv(wide: bool) -> CsvLogger {
        CsvLogger::new(first_columns(if wide { 26 } else { 16 }))
    }

    /// The header and what is written after it.
    fn write(format: CsvLogger, rows: &[ConnectionRecord], ended: &[ClosedRecord]) -> String {
        let rows: Vec<_> = rows.iter().collect();
        format.header() + &written(format, [interval(&rows, ended)])
    }

    #[test]
    fn sixteen_columns() {
        let mut odd = tcp();
        odd.owner = Some(Owner { pid: 8, name: name("a \"b\",\nc") });
        let mut unknown = tcp();
        unknown.owner = None;
        let rows = [
            record(tcp(), 1536.456, 0.0),
            record(udp(), 0.005, 1e9),
            record(odd, 0.0, 0.0),
            record(unknown, 0.0, 0.0),
        ];
        assert_eq!(
            write(csv(false), &rows, &[closed(tcp(), CloseReason::Fin, 5)]),
            "\
timestamp,protocol,local_addr,local_port,remote_addr,remote_port,pid,process_name,state,bytes_in,bytes_out,packets_in,packets_out,rate_in_bytes_sec,rate_out_bytes_sec,rtt_us
2026-03-04T05:06:07.089Z,TCP,10.0.0.1,12345,93.184.216.34,443,1234,curl,ESTABLISHED,1258291,340,900,12,1536.46,0.00,5000
2026-03-04T05:06:07.089Z,UDP,2001:db8::1,5353,fe80::1%2,5353,99,my resolver,UDP,2048,0,2,0,0.01,1000000000.00,N/A
2026-03-04T05:06:07.089Z,TCP,10.0.0.1,12345,93.184.216.34,443,8,\"a \"\"b\"\",\nc\",ESTABLISHED,1258291,340,900,12,0.00,0.00,5000
2026-03-04T05:06:07.089Z,TCP,10.0.0.1,12345,93.184.216.34,443,,,ESTABLISHED,1258291,340,900,12,0.00,0.00,5000
2026-03-04T05:06:07.089Z,TCP,10.0.0.1,12345,93.184.216.34,443,1234,curl,CLOSED,1258291,340,900,12,0.00,0.00,5000
"
        );
    }

    #[test]
    fn ten_more_when_wide() {
        let mut old = tcp();
        old.partial = true;
        old.min_rtt_us = None;
        let rows =
            [record(tcp(), 0.0, 0.0), record(old.clone(), 0.0, 0.0), record(udp(), 0.0, 0.0)];
        let ended = [
            closed(tcp(), CloseReason::Reset, 312_400),
            closed(old.clone(), CloseReason::Unknown, 312_400),
        ];
        let text = write(csv(true), &rows, &ended);
        let columns: Vec<_> =
            text.lines().map(|line| line.splitn(17, ',').nth(16).unwrap_or_default()).collect();
        assert_eq!(
            columns,
            [
                "partial,retrans,min_rtt_us,age_sec,uid,ifname,netns,cgroup,container,end",
                "false,3,4321,10.500000,1000,eth0,4026531840,\"/docker/a,b\",0123,",
                "true,3,,,1000,eth0,4026531840,\"/docker/a,b\",0123,",
                "false,0,,9.500000,1000,,4026531840,,,",
                "false,3,4321,0.000312,1000,eth0,4026531840,\"/docker/a,b\",0123,rst",
                "true,3,,,1000,eth0,4026531840,\"/docker/a,b\",0123,",
            ]
        );
        let row = record(old, 0.0, 0.0);
        let rows = [&row];
        let lifetime = Interval { lifetime: true, ..interval(&rows, &[]) };
        let lifetime = written(csv(true), [lifetime]);
        assert!(lifetime.contains(",false,3,,,1000,"), "{lifetime}");
    }

    #[test]
    fn the_listing_is_no_interval() {
        let row = record(tcp(), 0.0, 0.0);
        let (rows, ended) = ([&row], [closed(tcp(), CloseReason::Fin, 5)]);
        let listing = Interval { listing: true, ..interval(&rows, &ended) };
        let text = written(csv(false), [listing]);
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(",CLOSED,"), "no later row reports the end of this connection");
    }

    #[test]
    fn files_are_continued_with_the_same_columns_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.csv");
        let row = record(tcp(), 0.0, 0.0);
        for _ in 0..2 {
            let file =
                Destination::file(&path, true, csv(false).document(), open_anything).unwrap();
            assert_eq!(file.repaired(), 0);
            let mut writer = Writer::new(Box::new(csv(false)), file);
            writer.interval(interval(&[&row], &[])).unwrap();
            writer.reopen().unwrap();
            writer.interval(interval(&[&row], &[])).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.lines().count(), text.matches("timestamp").count()), (5, 1));
        let other = Destination::file(&path, true, csv(true).document(), open_anything);
        let error = other.err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("other columns")));
    }

    #[test]
    fn a_reader_that_leaves_is_the_quiet_end_of_a_pipeline() {
        let (reader, pipe) = nix::unistd::pipe().unwrap();
        let stream = Destination::stream_of(fs::File::from(pipe), csv(false).document());
        let mut writer = Writer::new(Box::new(csv(false)), stream);
        let row = record(tcp(), 0.0, 0.0);
        writer.interval(interval(&[&row], &[])).unwrap();
        drop(reader);
        let error = writer.interval(interval(&[&row], &[])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    /// There are more rows than one piece takes, and more than the page holds.
    #[test]
    fn no_row_is_lost_between_two_pieces() {
        let row = record(tcp(), 0.0, 0.0);
        let rows = vec![&row; 5 * ROWS + 7];
        let text = written(csv(false), [interval(&rows, &[])]);
        let lines: std::collections::HashSet<&str> = text.lines().collect();
        assert_eq!((text.lines().count(), lines.len()), (rows.len(), 1));
    }

    proptest! {
        #[test]
        fn a_reader_gets_back_what_was_written(
            comm: [u8; 16], pid: u32, numbers: [u64; 4], rates in [0.0..1e12f64, 0.0..1e3],
            local: ([u16; 8], u16), rtt_us: Option<u32>,
        ) {
            let [bytes_in, bytes_out, packets_in, packets_out] = numbers;
            let mut sample = tcp();
            sample.local = local.into();
            sample.owner = Some(Owner { pid, name: KernelName::from_comm(comm) });
            sample.counters = Counters { bytes_in, bytes_out, packets_in, packets_out };
            sample.rtt_us = rtt_us;
            let text = write(csv(true), &[record(sample.clone(), rates[0], rates[1])], &[]);
            let mut reader = ::csv::Reader::from_reader(text.as_bytes());
            let rows: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(rows.len(), 1);
            let row = &rows[0];
            prop_assert_eq!(row.len(), 26);
            prop_assert_eq!(row[2].parse(), Ok(sample.local.ip()));
            prop_assert_eq!(row[3].parse(), Ok(sample.local.port()));
            prop_assert_eq!(row[6].parse(), Ok(pid));
            let name = KernelName::from_comm(comm).to_text().into_owned();
            prop_assert_eq!(&row[7], name);
            for (column, number) in (9..13).zip(numbers) {
                prop_assert_eq!(row[column].parse(), Ok(number));
            }
            for (column, rate) in (13..15).zip(rates) {
                // The rounding to two decimals, and the precision of a number of this size.
                prop_assert!((row[column].parse::<f64>().unwrap() - rate).abs() < 0.0055);
                prop_assert_eq!(row[column].rfind('.'), Some(row[column].len() - 3));
            }
            prop_assert_eq!(&row[15], rtt_us.map_or("N/A".to_owned(), |us| us.to_string()));
        }
    }
}
