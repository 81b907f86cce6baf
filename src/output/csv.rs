//! CSV (RFC 4180): a header, then each interval a row per open connection and
//! a final one, state `CLOSED`, per connection that ended in it.
//!
//! Owns the columns and how a value looks in one. Names are written as they
//! are: quoted where CSV needs it, and not changed for spreadsheets that take a
//! leading `=` for a formula. Rows end with a newline alone, for grep and awk.
//!
//! The listing at start ends no interval and has no rows here; connections that
//! closed by then have theirs. A final row has rates of 0.00.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;

use serde::{Serialize, Serializer};

use super::destination::LogFile;
use super::text::{Cents, RawAge};
use super::{Facts, Interval, Names, Place, Sink, host, release, short, timestamp};

/// The columns, in this order for ever.
const HEADER: &str = "timestamp,protocol,local_addr,local_port,remote_addr,remote_port,pid,\
    process_name,state,bytes_in,bytes_out,packets_in,packets_out,rate_in_bytes_sec,\
    rate_out_bytes_sec,rtt_us\n";

/// With those of `--wide`.
const WIDE_HEADER: &str = "timestamp,protocol,local_addr,local_port,remote_addr,remote_port,pid,\
    process_name,state,bytes_in,bytes_out,packets_in,packets_out,rate_in_bytes_sec,\
    rate_out_bytes_sec,rtt_us,\
    partial,retrans,min_rtt_us,age_sec,uid,ifname,netns,cgroup,container,end\n";

/// One row: the columns that are always there.
#[derive(Clone, Debug, Serialize)]
pub struct CsvRow<'a> {
    /// RFC 3339, UTC; the same for all rows of an interval.
    pub timestamp: &'a str,
    /// `TCP` or `UDP`.
    pub protocol: &'static str,
    /// Address of this host's end; the port is another column.
    #[serde(serialize_with = "host")]
    pub local_addr: SocketAddr,
    /// Its port.
    pub local_port: u16,
    /// Address of the other end; the port is another column.
    #[serde(serialize_with = "host")]
    pub remote_addr: SocketAddr,
    /// Its port.
    pub remote_port: u16,
    /// The owner; `None` (an empty cell) where it is not known.
    pub pid: Option<u32>,
    /// The owner's raw name.
    pub process_name: Option<Cow<'a, str>>,
    /// The TCP state, `UDP`, or `CLOSED` in a final row.
    pub state: &'static str,
    /// Payload bytes received.
    pub bytes_in: u64,
    /// Payload bytes sent.
    pub bytes_out: u64,
    /// Segments or datagrams received.
    pub packets_in: u64,
    /// Segments or datagrams sent.
    pub packets_out: u64,
    /// Bytes per second received in this interval; two decimals.
    #[serde(serialize_with = "two_decimals")]
    pub rate_in_bytes_sec: f64,
    /// Bytes per second sent in this interval; two decimals.
    #[serde(serialize_with = "two_decimals")]
    pub rate_out_bytes_sec: f64,
    /// Smoothed round-trip time in microseconds; `N/A` where there is none.
    #[serde(serialize_with = "or_not_available")]
    pub rtt_us: Option<u32>,
}

impl<'a> CsvRow<'a> {
    fn new(facts: &Facts<'a>, timestamp: &'a str) -> CsvRow<'a> {
        let sample = facts.sample;
        CsvRow {
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
            rate_in_bytes_sec: facts.rate_in,
            rate_out_bytes_sec: facts.rate_out,
            rtt_us: sample.rtt_us,
        }
    }
}

/// The columns that `--wide` appends; `None` is an empty cell.
#[derive(Clone, Debug, Serialize)]
struct WideCells<'a> {
    partial: bool,
    retrans: u32,
    min_rtt_us: Option<u32>,
    #[serde(serialize_with = "seconds")]
    age_sec: Option<u64>,
    uid: u32,
    ifname: Option<&'a str>,
    netns: Option<u32>,
    cgroup: Option<&'a str>,
    container: Option<&'a str>,
    end: Option<&'static str>,
}

impl<'a> WideCells<'a> {
    fn new(facts: &Facts<'_>, place: Place<'a>) -> WideCells<'a> {
        WideCells {
            partial: facts.partial,
            retrans: facts.sample.retransmits,
            min_rtt_us: facts.sample.min_rtt_us,
            age_sec: facts.age_ns,
            uid: facts.sample.uid,
            ifname: place.interface,
            netns: facts.netns(),
            cgroup: place.cgroup,
            container: place.container,
            end: facts.end,
        }
    }
}

/// Which columns there are, and how to fill them.
#[derive(Default)]
pub struct CsvStyle {
    /// Where the names of the wide columns come from; `None` for the 16 columns.
    pub wide: Option<Box<dyn Names + Send>>,
    /// Totals of TCP are since the connections opened, so none of those is partial.
    pub lifetime: bool,
}

enum Destination {
    File(LogFile),
    Stream { out: Box<dyn Write + Send>, header: Option<&'static str> },
}

/// Writes intervals as CSV, into a file or a stream.
pub struct CsvLogger {
    destination: Destination,
    style: CsvStyle,
    /// The rows of the interval; written at once.
    buffer: Vec<u8>,
}

impl CsvLogger {
    /// Into the file at `path`, which the first write (or [`begin`]) empties.
    ///
    /// # Errors
    /// Where it cannot be opened for writing; the message names the path.
    ///
    /// [`begin`]: CsvLogger::begin
    pub fn new(path: &Path, style: CsvStyle) -> io::Result<CsvLogger> {
        CsvLogger::open(path, style, false)
    }

    /// Behind what is in the file at `path`. The header is written where the
    /// file is empty, and a last row that is not whole is cut off.
    ///
    /// # Errors
    /// As for [`new`](CsvLogger::new), and where the file has another header.
    pub fn append(path: &Path, style: CsvStyle) -> io::Result<CsvLogger> {
        CsvLogger::open(path, style, true)
    }

    fn open(path: &Path, style: CsvStyle, append: bool) -> io::Result<CsvLogger> {
        let file = LogFile::open(path, header(&style), append)?;
        Ok(CsvLogger { destination: Destination::File(file), style, buffer: Vec::new() })
    }

    /// Into `out`, such as the standard output.
    pub fn stream(out: Box<dyn Write + Send>, style: CsvStyle) -> CsvLogger {
        let header = Some(header(&style));
        CsvLogger { destination: Destination::Stream { out, header }, style, buffer: Vec::new() }
    }

    /// Writes what comes before the first row: to be called once everything
    /// else is ready. Without it, the first interval does it.
    ///
    /// # Errors
    /// Those of writing.
    pub fn begin(&mut self) -> io::Result<()> {
        match &mut self.destination {
            Destination::File(file) => file.begin(),
            Destination::Stream { out, header } => match header.take() {
                Some(header) => out.write_all(header.as_bytes()).and_then(|()| out.flush()),
                None => Ok(()),
            },
        }
    }

    /// Opens the file again (on SIGHUP), and goes on at its end. For a stream
    /// there is nothing to do.
    ///
    /// # Errors
    /// As for [`append`](CsvLogger::append).
    pub fn reopen(&mut self) -> io::Result<()> {
        match &mut self.destination {
            Destination::File(file) => file.reopen(),
            Destination::Stream { .. } => Ok(()),
        }
    }

    /// The length, in bytes, of the unfinished row that an earlier run left at
    /// the end of the file, and that is cut off; 0 for none.
    pub fn repaired(&self) -> u64 {
        match &self.destination {
            Destination::File(file) => file.repaired(),
            Destination::Stream { .. } => 0,
        }
    }

    /// Writes the rows of an interval, all at once.
    ///
    /// # Errors
    /// Where not all could be written. A regular file is cut back to its last
    /// whole row first. For a file the message names it and the reason; for a
    /// stream `BrokenPipe` means that the reader went away.
    pub fn write_snapshot(&mut self, interval: &Interval<'_>) -> io::Result<()> {
        self.begin()?;
        self.buffer.clear();
        let time = timestamp(interval.time);
        let mut rows = Rows {
            csv: ::csv::WriterBuilder::new().has_headers(false).from_writer(&mut self.buffer),
            time: &time,
            wide: self.style.wide.as_deref_mut(),
        };
        if let Some(names) = &mut rows.wide {
            names.refresh();
        }
        let lifetime = self.style.lifetime;
        for row in interval.rows.iter().filter(|_| !interval.listing) {
            rows.push(&Facts::open(row, interval.now_ns, lifetime))?;
        }
        for closed in interval.closed {
            rows.push(&Facts::closed(closed, lifetime))?;
        }
        rows.csv.flush()?;
        drop(rows);
        if self.buffer.is_empty() {
            return Ok(());
        }
        match &mut self.destination {
            Destination::File(file) => file.write(&self.buffer)?,
            Destination::Stream { out, .. } => {
                out.write_all(&self.buffer)?;
                out.flush()?;
            }
        }
        release(&mut self.buffer);
        Ok(())
    }
}

impl Sink for CsvLogger {
    fn interval(&mut self, interval: &Interval<'_>) -> io::Result<()> {
        self.write_snapshot(interval)
    }

    fn reopen(&mut self) -> io::Result<()> {
        CsvLogger::reopen(self)
    }
}

struct Rows<'a> {
    csv: ::csv::Writer<&'a mut Vec<u8>>,
    time: &'a str,
    wide: Option<&'a mut (dyn Names + Send + 'static)>,
}

impl Rows<'_> {
    fn push(&mut self, facts: &Facts<'_>) -> io::Result<()> {
        let row = CsvRow::new(facts, self.time);
        match &mut self.wide {
            Some(names) => {
                let place = names.place(facts.sample);
                self.csv.serialize((row, WideCells::new(facts, place)))
            }
            None => self.csv.serialize(row),
        }
        .map_err(io::Error::other)
    }
}

fn header(style: &CsvStyle) -> &'static str {
    if style.wide.is_some() { WIDE_HEADER } else { HEADER }
}

fn two_decimals<S: Serializer>(rate: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    short(serializer, Cents(*rate))
}

fn or_not_available<S: Serializer>(us: &Option<u32>, serializer: S) -> Result<S::Ok, S::Error> {
    match us {
        Some(us) => serializer.serialize_u32(*us),
        None => serializer.serialize_str("N/A"),
    }
}

fn seconds<S: Serializer>(age_ns: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    match age_ns {
        Some(_) => short(serializer, RawAge(*age_ns)),
        None => serializer.serialize_none(),
    }
}

/// The names of all columns.
#[cfg(test)]
pub(super) fn columns() -> impl Iterator<Item = &'static str> {
    WIDE_HEADER.trim_end().split(',')
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::{Known, closed, interval, name, record, tcp, udp};
    use super::*;
    use crate::connection::{CloseReason, Closed, Counters, Owner, ProcessName};
    use crate::table::ConnectionRecord;
    use proptest::prelude::*;
    use std::fs;

    fn wide() -> CsvStyle {
        CsvStyle { wide: Some(Box::new(Known)), lifetime: false }
    }

    fn write(style: CsvStyle, rows: &[ConnectionRecord], ended: &[Closed]) -> String {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.csv");
        let rows: Vec<_> = rows.iter().collect();
        let mut logger = CsvLogger::new(&path, style).unwrap();
        logger.write_snapshot(&interval(&rows, ended)).unwrap();
        fs::read_to_string(path).unwrap()
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
            write(CsvStyle::default(), &rows, &[closed(tcp(), CloseReason::Fin, 5)]),
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
        let rows = [record(tcp(), 0.0, 0.0), record(old, 0.0, 0.0), record(udp(), 0.0, 0.0)];
        let ended = [
            closed(tcp(), CloseReason::Reset, 312_400),
            closed(old, CloseReason::Unknown, 312_400),
        ];
        let text = write(wide(), &rows, &ended);
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
        let lifetime = write(CsvStyle { lifetime: true, ..wide() }, &[record(old, 0.0, 0.0)], &[]);
        assert!(lifetime.contains(",false,3,,,1000,"), "{lifetime}");
    }

    #[test]
    fn the_header_names_what_the_rows_hold() {
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        let (sample, row) = (tcp(), record(tcp(), 0.0, 0.0));
        let facts = Facts::open(&row, 0, false);
        writer.serialize(CsvRow::new(&facts, "")).unwrap();
        let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        assert_eq!(text.split_inclusive('\n').next(), Some(HEADER));
        let mut writer = ::csv::Writer::from_writer(Vec::new());
        writer.serialize(WideCells::new(&facts, Known.place(&sample))).unwrap();
        let text = String::from_utf8(writer.into_inner().unwrap()).unwrap();
        assert_eq!(
            format!("{},{}", HEADER.trim_end(), text.lines().next().unwrap_or_default()),
            WIDE_HEADER.trim_end()
        );
    }

    #[test]
    fn the_listing_is_no_interval() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.csv");
        let mut logger = CsvLogger::new(&path, CsvStyle::default()).unwrap();
        let row = record(tcp(), 0.0, 0.0);
        let (rows, ended) = ([&row], [closed(tcp(), CloseReason::Fin, 5)]);
        let listing = Interval { listing: true, ..interval(&rows, &ended) };
        logger.write_snapshot(&listing).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains(",CLOSED,"), "the end of a connection is told nowhere else");
    }

    #[test]
    fn append_reopen_and_the_standard_output() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.csv");
        let row = record(tcp(), 0.0, 0.0);
        for _ in 0..2 {
            let mut logger = CsvLogger::append(&path, CsvStyle::default()).unwrap();
            logger.begin().unwrap();
            logger.write_snapshot(&interval(&[&row], &[])).unwrap();
            logger.reopen().unwrap();
            logger.write_snapshot(&interval(&[&row], &[])).unwrap();
            assert_eq!(logger.repaired(), 0);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!((text.lines().count(), text.matches("timestamp").count()), (5, 1));
        let error = CsvLogger::append(&path, wide()).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("--wide")));

        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut logger = CsvLogger::stream(Box::new(fs::File::from(writer)), CsvStyle::default());
        logger.interval(&interval(&[&row], &[])).unwrap();
        drop(reader);
        let error = logger.interval(&interval(&[&row], &[])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "a quiet end of a pipeline");
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
            sample.owner = Some(Owner { pid, name: ProcessName::from_comm(comm) });
            sample.counters = Counters { bytes_in, bytes_out, packets_in, packets_out };
            sample.rtt_us = rtt_us;
            let text = write(wide(), &[record(sample, rates[0], rates[1])], &[]);
            let mut reader = ::csv::Reader::from_reader(text.as_bytes());
            let rows: Vec<_> = reader.records().collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(rows.len(), 1);
            let row = &rows[0];
            prop_assert_eq!(row.len(), 26);
            prop_assert_eq!(row[2].parse(), Ok(sample.local.ip()));
            prop_assert_eq!(row[3].parse(), Ok(sample.local.port()));
            prop_assert_eq!(row[6].parse(), Ok(pid));
            let name = ProcessName::from_comm(comm).to_text().into_owned();
            prop_assert_eq!(&row[7], name);
            for (column, number) in (9..13).zip(numbers) {
                prop_assert_eq!(row[column].parse(), Ok(number));
            }
            for (column, rate) in (13..15).zip(rates) {
                // Half a cent, and the steps between numbers of this size.
                prop_assert!((row[column].parse::<f64>().unwrap() - rate).abs() < 0.0055);
                prop_assert_eq!(row[column].rfind('.'), Some(row[column].len() - 3));
            }
            prop_assert_eq!(&row[15], rtt_us.map_or("N/A".to_owned(), |us| us.to_string()));
        }
    }
}
