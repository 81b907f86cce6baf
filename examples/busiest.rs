//! The ten processes that moved the most bytes, once a second for ten seconds: collects on
//! this host, and writes a format of its own instead of tcptop's.
//! Run it as root: `cargo build --example busiest && sudo target/debug/examples/busiest`.

use std::io::{self, Write, stdout};
use std::time::Duration;

use crossbeam_channel::never;
use tcptop::groups::KeyValue;
use tcptop::linux::{Host, say};
use tcptop::output::destination::open_anything;
use tcptop::output::{self, Destination, Document, Format, Interval, Page, Writer};
use tcptop::report::Reporter;
use tcptop::settings::{Settings, Sort};

struct Busiest;

impl Format for Busiest {
    fn document(&self) -> Document {
        Document::default()
    }

    fn interval(&mut self, interval: Interval<'_>, page: &mut Page<'_>) -> io::Result<()> {
        writeln!(page.text(), "--- {} ({} lost)", interval.time, interval.lost)?;
        for row in interval.groups {
            let name = match row.group.key.as_deref() {
                Some([KeyValue::Text(name), KeyValue::Number(pid)]) => format!("{name}, {pid}"),
                Some(_) => "not known".to_owned(),
                None => "all others".to_owned(),
            };
            let (bytes, rate) = (row.group.totals.counters.bytes(), row.group.rate());
            writeln!(page.text(), "{bytes:>15} bytes {rate:>13.0} bytes/s  {name}")?;
            page.end_row()?;
        }
        Ok(())
    }
}

fn main() -> anyhow::Result<()> {
    let mut settings = Settings::default();
    settings.groups.by = vec!["process".to_owned(), "pid".to_owned()];
    (settings.rows.sort, settings.rows.top, settings.rows.all) = (Sort::Bytes, Some(10), true);
    settings.times.duration = Some(Duration::from_secs(10));
    let mut host = Host::new(settings.clone(), output::needs(&settings), say)?;
    host.take_user()?;
    host.check_kernel()?;
    let reporter = Reporter {
        writer: Writer::new(Box::new(Busiest), Destination::stream(stdout())),
        textfile: None,
        filter: host.filter()?,
        names: host.names(),
        host: host.name(),
        greeting: None,
        open: open_anything,
        say,
        reopen: never(),
        settings,
    };
    host.stream(reporter)?;
    Ok(())
}
