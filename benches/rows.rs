//! What it costs to write a row: the table's tick, and each format into memory; to count a
//! connection for its group instead; and what one costs that began and ended within an
//! interval, from its event to its line. Needs no kernel and no root:
//! `cargo bench --bench rows`. Prints the median and the minimum of all rounds, in
//! nanoseconds per row.

#![allow(missing_docs, clippy::print_stdout, clippy::unwrap_used)]

use std::io;
use std::time::Instant;

use chrono::DateTime;
use clap::ValueEnum;
use tcptop::connection::{
    CloseReason, Closed, ConnectionKey, Counters, KernelName, Needs, Owner, Protocol, Sample,
    TcpState,
};
use tcptop::event::{Batch, CollectorEvent};
use tcptop::groups::Groups;
use tcptop::loss::Loss;
use tcptop::names::{Names, Place};
use tcptop::output::columns::{Common, Row};
use tcptop::output::grouped::Keys;
use tcptop::output::{Destination, Format, Interval, Writer};
use tcptop::settings::{FormatName, Settings};
use tcptop::table::{ClosedRecord, ConnectionRecord, ConnectionTable};

const ROWS: u64 = 10_000;
const ROUNDS: usize = 60;

/// Fixed names, so that looking up the host's names is not measured.
struct FixedNames;

impl Names for FixedNames {
    fn refresh(&mut self) {}
    fn cgroup_made(&mut self, _: u64, _: &str) {}
    fn place(&mut self, _: &Sample, _: Needs) -> Place<'_> {
        Place {
            interface: Some("eth0"),
            cgroup: Some("/system.slice/nginx.service"),
            ..Place::default()
        }
    }
}

/// The `number`th connection of a server, half of them over IPv6, of all sizes.
fn sample(number: u64) -> Sample {
    let bytes = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (number % 60);
    let remote = match number % 2 {
        0 => ([10, 0, (number >> 8) as u8, number as u8], 40_000).into(),
        _ => ([0x2001, 0xdb8, 0, 0, 0, 0, (number >> 8) as u16, number as u16], 40_000).into(),
    };
    let key = ConnectionKey { object: number + 1, born_ns: 1_000_000_000 + number };
    Sample {
        state: Some(TcpState::Established),
        owner: Some(Owner {
            pid: 1234,
            name: KernelName::from_comm(*b"nginx\0\0\0\0\0\0\0\0\0\0\0"),
        }),
        counters: Counters {
            bytes_in: bytes,
            bytes_out: bytes / 3,
            packets_in: bytes / 1000,
            packets_out: bytes / 3000,
        },
        rtt_us: Some(number as u32 % 200_000),
        min_rtt_us: Some(number as u32 % 100_000),
        retransmits: 3,
        uid: 33,
        ifindex: 2,
        netns: 4_026_531_840,
        cgroup: 77,
        ..Sample::new(key, Protocol::Tcp, ([192, 168, 0, 1], 443).into(), remote)
    }
}

/// Every format, and CSV with --wide.
fn formats() -> Vec<(String, Box<dyn Format + Send>)> {
    let mut all: Vec<Settings> = FormatName::value_variants()
        .iter()
        .map(|&format| {
            let mut settings = Settings::default();
            settings.output.asked_format = Some(format);
            settings
        })
        .collect();
    let mut wide = Settings::default();
    (wide.output.asked_format, wide.output.wide) = (Some(FormatName::Csv), true);
    all.push(wide);
    let name = |output: &tcptop::settings::Output| match output.wide {
        true => output.format().name() + " --wide",
        false => output.format().name(),
    };
    let format = |settings: &Settings| tcptop::output::format(settings, false, None);
    all.iter().map(|settings| (name(&settings.output), format(settings))).collect()
}

fn report(what: &str, mut rounds: Vec<f64>) {
    rounds.sort_by(f64::total_cmp);
    println!("{what:<14} {:7.1} {:7.1}", rounds[rounds.len() / 2], rounds[0]);
}

fn timed(run: impl FnOnce()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_nanos() as f64 / ROWS as f64
}

/// Writes an interval with these rows, and takes the time.
fn write(
    writer: &mut Writer,
    now_ns: u64,
    rows: &[&ConnectionRecord],
    closed: &[&ClosedRecord],
) -> f64 {
    let interval = Interval {
        time: DateTime::UNIX_EPOCH,
        now_ns,
        rows,
        closed,
        groups: &[],
        lost: &Loss::default(),
        listing: false,
        lifetime: false,
        host: "alpha",
        names: &mut FixedNames,
    };
    timed(|| writer.interval(interval).unwrap())
}

/// Ends of connections that no tick has seen.
fn short(round: u64) -> Vec<Closed> {
    let end = |number| {
        let mut sample = sample(number);
        sample.key.born_ns += round * 1_000_000_000;
        let closed_ns = sample.key.born_ns + 70_000;
        Closed { sample, reason: CloseReason::Fin, closed_ns }
    };
    (0..ROWS).map(end).collect()
}

fn ends() {
    let mut settings = Settings::default();
    settings.output.asked_format = Some(FormatName::Lines);
    let format = tcptop::output::format(&settings, false, None);
    let mut writer = Writer::new(format, Destination::stream(io::sink()));
    let mut table = ConnectionTable::new(false);
    let (mut taking, mut ticking, mut writing) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS as u64 {
        let ends: Vec<_> = short(round).into_iter().map(CollectorEvent::Closed).collect();
        // In batches, as the collector sends them.
        let batches: Vec<Batch> = ends.chunks(256).map(<[_]>::to_vec).collect();
        let now_ns = 2_000_000_000 + round * 1_000_000_000;
        taking.push(timed(|| {
            for event in batches.into_iter().flatten() {
                table.update(event);
            }
        }));
        ticking.push(timed(|| table.tick(now_ns, DateTime::UNIX_EPOCH)));
        let closed: Vec<_> = table.closed().iter().collect();
        assert_eq!(closed.len() as u64, ROWS);
        writing.push(write(&mut writer, now_ns, &[], &closed));
    }
    report("end: taken", taking);
    report("end: ticked", ticking);
    report("end: line", writing);
}

/// Both threads as they are, with records instead of a kernel.
#[cfg(feature = "bench-reference")]
fn whole() {
    use tcptop::event::Tick;
    use tcptop::filter::Filter;
    use tcptop::linux::measured::{Collector, Records};
    use tcptop::report::Reporter;

    const INTERVALS: u64 = 20;
    // Of the thread that asks.
    let processor_ns = || {
        let clock = nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID;
        let time = nix::time::clock_gettime(clock).unwrap();
        time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64
    };
    let a_row = |ns: f64| ns / (INTERVALS * ROWS) as f64;
    let (mut collecting, mut reporting) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        let (sender, receiver) = crossbeam_channel::bounded(Collector::CHANNEL);
        let reporter = std::thread::spawn(move || {
            let format = tcptop::output::format(&Settings::default(), false, None);
            let reporter = Reporter {
                settings: Settings::default(),
                writer: Writer::new(format, Destination::stream(io::sink())),
                textfile: None,
                filter: Filter::default(),
                names: Box::new(FixedNames),
                host: "alpha".to_owned(),
                greeting: None,
                open: |path, _| std::fs::File::create(path),
                say: |_| {},
                reopen: crossbeam_channel::never(),
            };
            let summary = reporter.run(&receiver).unwrap();
            assert_eq!((summary.closed, summary.lost.is_zero()), (INTERVALS * ROWS, true));
            a_row(processor_ns())
        });
        let collector = Collector::new(sender);
        let mut ns = 0.0;
        for round in 0..INTERVALS {
            let records = Records::new(&short(round));
            let tick = Tick {
                now_ns: 2_000_000_000 + round * 1_000_000_000,
                time: DateTime::UNIX_EPOCH,
                lost: Loss::default(),
                listing: false,
                complete: tcptop::event::Slices::NONE,
            };
            let start = processor_ns();
            assert!(collector.interval(&records, tick));
            ns += processor_ns() - start;
        }
        drop(collector);
        collecting.push(a_row(ns));
        reporting.push(reporter.join().unwrap());
    }
    report("end: collector", collecting);
    report("end: reporter", reporting);
}

fn main() {
    println!("{:<14} {:>7} {:>7}  ns a row", "", "median", "least");
    let mut table = ConnectionTable::new(false);
    let mut now_ns = 10_000_000_000;
    let mut ticks = Vec::new();
    for round in 0..ROUNDS as u64 {
        let samples: Vec<Sample> = (0..ROWS)
            .map(|number| {
                let mut sample = sample(number);
                sample.counters.bytes_in += round * 1000;
                sample
            })
            .collect();
        now_ns += 1_000_000_000;
        ticks.push(timed(|| {
            table.seed(samples);
            table.tick(now_ns, DateTime::UNIX_EPOCH);
        }));
    }
    report("table", ticks);
    ends();
    #[cfg(feature = "bench-reference")]
    whole();
    let rows: Vec<_> = table.changed().collect();
    assert_eq!(rows.len() as u64, ROWS);
    for (name, format) in formats() {
        let mut writer = Writer::new(format, Destination::stream(io::sink()));
        let rounds = (0..ROUNDS).map(|_| write(&mut writer, now_ns, &rows, &[]));
        report(&name, rounds.collect());
    }
    for by in ["process", "remote"] {
        let keys = Keys::new(&[by.to_owned()]);
        let mut groups = Groups::new(65_536, false);
        let common = Common { time: "", now_ns, host: "alpha", lifetime: false };
        let mut key = Vec::new();
        let rounds = (0..ROUNDS as u64).map(|round| {
            let mut rows: Vec<_> = rows.iter().map(|&row| row.clone()).collect();
            rows.iter_mut().for_each(|row| row.sample.counters.bytes_in += round * 1000);
            timed(|| {
                for row in &rows {
                    keys.of(&Row::open(row, common, Place::default()), &mut key);
                    groups.open(&row.sample, &key);
                }
                groups.end_interval(now_ns + round);
            })
        });
        report(&format!("--by {by}"), rounds.collect());
    }
}
