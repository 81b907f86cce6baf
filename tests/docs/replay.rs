//! tcptop without a kernel: takes its arguments, and reports a recorded run through the
//! library, as `examples/replay.rs` does. So options are parsed, rows filtered, grouped and
//! written as by the real command; only the traffic is invented.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use crossbeam_channel::never;
use tcptop::cli::{self, Task};
use tcptop::connection::*;
use tcptop::event::{CollectorEvent, Slices, Tick};
use tcptop::filter::{Filter, Known};
use tcptop::loss::Loss;
use tcptop::names::{Names, Place};
use tcptop::output::destination::open_anything;
use tcptop::output::textfile::Textfile;
use tcptop::output::{self, Destination, Writer, columns};
use tcptop::report::Reporter;
use tcptop::settings::{Choice, Settings};

/// The most intervals that are recorded.
const INTERVALS: u64 = 4;

pub fn run(arguments: &[String]) -> ExitCode {
    let arguments = std::iter::once("tcptop").chain(arguments.iter().map(String::as_str));
    match cli::parse(arguments) {
        Err(error) => error.exit(),
        Ok(Task::Columns) => print!("{}", columns::list()),
        Ok(Task::Generate(what)) => print!("{}", String::from_utf8_lossy(&what.text())),
        // These examine the kernel: the live tests doctor:: and verify:: run them.
        Ok(Task::Doctor(_) | Task::Verify(_)) => println!("accepted"),
        Ok(Task::Stream(settings)) => match stream(*settings) {
            Ok(()) => {}
            Err(error) => {
                eprintln!("tcptop: error: {error:#}");
                return ExitCode::FAILURE;
            }
        },
    }
    ExitCode::SUCCESS
}

fn stream(settings: Settings) -> anyhow::Result<()> {
    let format = output::format(&settings, false, None);
    let document = format.document();
    let destination = match &settings.output.log {
        None if settings.prints_nothing() => Destination::stream(std::io::sink()),
        None => Destination::stream_of(std::io::stdout(), document),
        Some(log) => {
            Destination::file(&here(log)?, settings.output.append, document, open_anything)?
        }
    };
    let textfile = settings.groups.textfile.as_ref();
    let textfile = textfile
        .map(|path| Textfile::new(&here(path)?, &settings.groups.by, |path, write| write(path)))
        .transpose()?;
    let (batches, receiver) = crossbeam_channel::unbounded();
    let intervals = settings.times.intervals().unwrap_or(INTERVALS).min(INTERVALS);
    for number in 0..=intervals {
        batches.send(interval(number, settings.times.interval.as_nanos() as u64))?;
    }
    drop(batches);
    let reporter = Reporter {
        writer: Writer::new(format, destination),
        textfile,
        filter: filter(&settings),
        names: Box::new(Surroundings),
        host: "replay".to_owned(),
        greeting: None,
        open: open_anything,
        say: |message| eprintln!("{message}"),
        reopen: never(),
        settings,
    };
    reporter.run(&receiver)?;
    Ok(())
}

/// A path below the present directory instead of an absolute one.
fn here(path: &Path) -> anyhow::Result<PathBuf> {
    let path = Path::new(".").join(path.strip_prefix("/").unwrap_or(path));
    path.parent().map_or(Ok(()), fs::create_dir_all)?;
    Ok(path)
}

/// Users and devices of the record.
const USERS: [(&str, u32); 2] = [("root", 0), ("www-data", 33)];
const DEVICE: (&str, u32) = ("eth0", 2);
const NETNS: u32 = 4_026_531_840;

fn filter(settings: &Settings) -> Filter {
    let query = &settings.query;
    let numbers = |names: &[Choice<String>], known: &[(&str, u32)]| {
        let number = |name: &str| known.iter().find(|(n, _)| *n == name).map_or(u32::MAX, |k| k.1);
        names.iter().map(|c| Choice { value: number(&c.value), not: c.not }).collect()
    };
    let users = numbers(&query.users, &USERS);
    let interfaces = numbers(&query.interfaces, &[DEVICE]);
    Filter::new(query.clone(), Known { interfaces, netns: NETNS, users })
}

struct Surroundings;

impl Names for Surroundings {
    fn refresh(&mut self) {}
    fn cgroup_made(&mut self, _: u64, _: &str) {}
    fn place(&mut self, sample: &Sample, _: Needs) -> Place<'_> {
        let web = sample.uid == 33;
        Place {
            interface: Some(DEVICE.0),
            cgroup: Some("/system.slice/web.scope"),
            container: web.then_some("3f5c8e0a"),
            container_name: web.then_some("web"),
            unit: Some("web.scope"),
            exe: Some("/usr/sbin/nginx"),
            user: USERS.iter().find(|(_, uid)| *uid == sample.uid).map(|(name, _)| *name),
            pod: web.then_some("shop/web-0"),
        }
    }
}

/// The events of an interval; number 0 is the listing at start.
fn interval(number: u64, length_ns: u64) -> Vec<CollectorEvent> {
    const BEGIN: u64 = 1_000_000_000_000;
    let now_ns = BEGIN + number * length_ns;
    let megabytes = number * 3_000_000 * length_ns.max(1_000_000_000) / 1_000_000_000;
    let tcp = |object, pid, name, local, remote, bytes_in, bytes_out| {
        let ends = (end(local), end(remote));
        connection(object, BEGIN, pid, name, Protocol::Tcp, ends, bytes_in, bytes_out)
    };
    let served = |object, remote, bytes_out| {
        let sample = tcp(object, 1234, "nginx", "10.0.0.1:443", remote, 4000, bytes_out);
        Sample { uid: 33, partial: true, ..sample }
    };
    let mut events = vec![
        CollectorEvent::Sample(served(1, "203.0.113.9:51514", megabytes)),
        CollectorEvent::Sample(served(2, "[2001:db8::7]:40000", megabytes / 10)),
        CollectorEvent::Sample(tcp(3, 700, "sshd", "10.0.0.1:22", "192.0.2.5:50022", 1000, 5000)),
    ];
    let closed =
        |sample, reason| CollectorEvent::Closed(Closed { sample, reason, closed_ns: now_ns });
    if number >= 1 {
        let query = (end("10.0.0.1:43635"), end("192.0.2.53:53"));
        let flow = connection(4, BEGIN, 5956, "dig", Protocol::Udp, query, 45, 52);
        let ended =
            Closed { sample: flow.clone(), reason: CloseReason::Unknown, closed_ns: now_ns };
        events.push(match number {
            1 => CollectorEvent::Sample(flow),
            _ => CollectorEvent::Expired(ended),
        });
        let download = tcp(5, 5948, "curl", "10.0.0.1:48462", "198.51.100.7:80", 2 * megabytes, 86);
        events.push(CollectorEvent::Sample(download));
        let (first, second) = (10 * number, 10 * number + 1);
        let short = tcp(first, 1234, "nginx", "10.0.0.1:443", "203.0.113.66:6666", 700, 90_000);
        events.push(closed(short, CloseReason::Reset));
        let refused = tcp(second, 5960, "curl", "10.0.0.1:48470", "203.0.113.80:8443", 0, 0);
        let refused = Sample { state: Some(TcpState::SynSent), ..refused };
        events.push(closed(refused, CloseReason::Refused));
    }
    let time: DateTime<Utc> =
        DateTime::from_timestamp_nanos(1_795_309_200_000_000_000 + now_ns as i64);
    events.push(CollectorEvent::Tick(Tick {
        now_ns,
        time,
        lost: Loss::default(),
        listing: number == 0,
        complete: Slices::NONE,
    }));
    events
}

fn end(text: &str) -> std::net::SocketAddr {
    text.parse().expect("an address")
}

#[allow(clippy::too_many_arguments)] // One line of the record.
fn connection(
    object: u64,
    born_ns: u64,
    pid: u32,
    name: &str,
    protocol: Protocol,
    (local, remote): (std::net::SocketAddr, std::net::SocketAddr),
    bytes_in: u64,
    bytes_out: u64,
) -> Sample {
    let mut comm = [0; 16];
    comm[..name.len()].copy_from_slice(name.as_bytes());
    let packets = |bytes: u64| bytes.div_ceil(1448);
    let is_tcp = protocol == Protocol::Tcp;
    let details = Details { cwnd: Some(10), connect_us: Some(800), ..Details::default() };
    Sample {
        state: is_tcp.then_some(TcpState::Established),
        owner: Some(Owner { pid, name: KernelName::from_comm(comm) }),
        counters: Counters {
            bytes_in,
            bytes_out,
            packets_in: packets(bytes_in),
            packets_out: packets(bytes_out),
        },
        rtt_us: is_tcp.then_some(12_000),
        ifindex: DEVICE.1,
        netns: NETNS,
        id: Identity { cookie: object, part: 0 },
        details: Some(Box::new(details)),
        ..Sample::new(ConnectionKey { object, born_ns }, protocol, local, remote)
    }
}
