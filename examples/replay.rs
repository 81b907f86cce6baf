//! Turns a recorded list of events into lines, as tcptop does with the events of the
//! running kernel. Needs neither root nor Linux.
//! Run it with `cargo run --example replay --no-default-features`.

use std::io::{self, Write};

use chrono::DateTime;
use crossbeam_channel::never;
use tcptop::connection::*;
use tcptop::event::{CollectorEvent, Slices, Tick};
use tcptop::filter::Filter;
use tcptop::loss::Loss;
use tcptop::names::NoNames;
use tcptop::output::columns::Selection;
use tcptop::output::destination::open_anything;
use tcptop::output::lines::LineLogger;
use tcptop::output::style::LineStyle;
use tcptop::output::{Destination, Writer};
use tcptop::report::Reporter;
use tcptop::settings::Settings;

fn download(second: u64, bytes_in: u64) -> Sample {
    let (local, remote) = (([10, 0, 0, 1], 40000).into(), ([93, 184, 216, 34], 443).into());
    let name = KernelName::from_comm(*b"curl\0\0\0\0\0\0\0\0\0\0\0\0");
    Sample {
        state: Some(TcpState::Established),
        owner: Some(Owner { pid: 1234, name }),
        counters: Counters { bytes_in, packets_in: second, ..Counters::default() },
        rtt_us: Some(5000),
        ..Sample::new(ConnectionKey { object: 1, born_ns: 0 }, Protocol::Tcp, local, remote)
    }
}

fn tick(second: u64) -> CollectorEvent {
    let (now_ns, time) = (second * 1_000_000_000, DateTime::UNIX_EPOCH);
    CollectorEvent::Tick(Tick {
        now_ns,
        time,
        lost: Loss::default(),
        listing: second == 0,
        complete: Slices::NONE,
    })
}

fn main() -> anyhow::Result<()> {
    let (batches, receiver) = crossbeam_channel::unbounded();
    batches.send(vec![CollectorEvent::Sample(download(0, 0)), tick(0)])?;
    batches.send(vec![CollectorEvent::Sample(download(1, 2_000_000)), tick(1)])?;
    let closed = Closed {
        sample: download(2, 3_000_000),
        reason: CloseReason::Fin,
        closed_ns: 1_700_000_000,
    };
    batches.send(vec![CollectorEvent::Closed(closed), tick(2)])?;
    drop(batches);
    let lines = Box::new(LineLogger::new(LineStyle::default(), Selection::lines()));
    let reporter = Reporter {
        settings: Settings::default(),
        writer: Writer::new(lines, Destination::stream(io::stdout())),
        textfile: None,
        filter: Filter::default(),
        names: Box::new(NoNames),
        host: "replay".to_owned(),
        greeting: None,
        open: open_anything,
        say: |message| drop(writeln!(io::stderr(), "{message}")),
        reopen: never(),
    };
    let summary = reporter.run(&receiver)?;
    writeln!(io::stderr(), "{} closed, {} open", summary.closed, summary.open)?;
    Ok(())
}
