//! `--doctor`: which hook serves each signal here, and the proof that it fires.
//!
//! Owns the loopback exchange and its verdicts. An attached hook is not yet a
//! working one, so every signal is judged by what the collector reports of
//! traffic whose bytes this module has sent itself.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{
    Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket,
};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow};
use caps::Capability;
use crossbeam_channel::Receiver;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde::Serialize;

use crate::collector::linux::{CHANNEL, LinuxCollector, Schedule};
use crate::collector::{Batch, CollectorEvent, NetworkCollector};
use crate::connection::{Closed, Counters, Protocol, Sample};
use crate::plan::{Plan, Provider, Signal};
use crate::{names, privileges};

/// Bytes that the exchange sends each way: nothing else on the host is likely to.
const TO_SERVER: usize = 12_345;
const TO_CLIENT: usize = 54_321;
/// Bytes and datagrams of the UDP exchange.
const DATAGRAM: usize = 1_111;
const DATAGRAMS: u64 = 7;

/// How long it may take until everything is attached.
const START: Duration = Duration::from_secs(60);

/// How long an expected report may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The whole finding.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    host: Vec<Fact>,
    signals: Vec<Finding>,
    /// Why nothing could be attached.
    #[serde(skip)]
    failure: Option<Error>,
}

#[derive(Debug, Serialize)]
struct Fact {
    name: &'static str,
    value: String,
}

#[derive(Debug, Serialize)]
struct Finding {
    signal: &'static str,
    provider: Option<&'static str>,
    /// Whether the loopback exchange was seen as it was.
    works: bool,
    verdict: Verdict,
    /// The verdict in words.
    seen: String,
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    provider: &'static str,
    reason: String,
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// What was done was seen, to the byte.
    Works,
    /// Attached, and nothing was seen.
    Silent,
    /// Attached, and something else was seen.
    Wrong,
    /// It has a provider, but TCP needs another signal too, which has none.
    Untried,
    /// Nothing serves it.
    Missing,
}

/// What was seen of the exchange over one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Exact,
    Nothing,
    Other(String),
}

/// Per signal the address families, and what was seen of each.
type Outcomes = HashMap<Signal, Vec<(&'static str, Outcome)>>;

impl Report {
    /// True where every signal has a provider that fires.
    pub fn all_work(&self) -> bool {
        self.signals.iter().all(|finding| finding.works)
    }

    /// Why nothing could be attached, if that is so.
    pub fn failure(self) -> Option<Error> {
        self.failure
    }

    /// Writes it for people, or as one JSON object.
    ///
    /// # Errors
    /// Those of writing.
    pub fn write(&self, json: bool, out: &mut impl Write) -> io::Result<()> {
        if json {
            serde_json::to_writer(&mut *out, self)?;
            return writeln!(out);
        }
        for fact in &self.host {
            writeln!(out, "{:<18} {}", fact.name, fact.value)?;
        }
        writeln!(out)?;
        for finding in &self.signals {
            let provider = finding.provider.unwrap_or("none");
            writeln!(out, "{:<18} {provider:<28} {}", finding.signal, finding.seen)?;
            for refused in &finding.refused {
                writeln!(out, "{:<18} not {}: {}", "", refused.provider, refused.reason)?;
            }
        }
        Ok(())
    }
}

/// Examines this host.
///
/// # Errors
/// Where the exchange cannot be made.
pub fn examine(without: Vec<Provider>, verbose: bool) -> Result<Report> {
    let (stop, running) = pipe2(OFlag::O_CLOEXEC).context("failed to make a pipe")?;
    let (batches, received) = crossbeam_channel::bounded(CHANNEL);
    let (told, plan) = crossbeam_channel::bounded(1);
    let host = host();
    let mut collector = LinuxCollector {
        schedule: Schedule {
            interval: Duration::from_millis(50),
            count: None,
            duration: None,
            stop,
        },
        lifetime: false,
        tcp: true,
        udp: true,
        family: None,
        ports: Vec::new(),
        udp_flows: 1024,
        udp_timeout: PATIENCE * 4,
        without,
        verbose,
        // The report says it.
        notice: |_| {},
        plan: Some(told),
    };
    let collecting = thread::Builder::new()
        .name("collector".into())
        .spawn(move || collector.run(batches))
        .context("failed to start a thread")?;
    let plan = plan.recv().unwrap_or_default();
    let mut seen = Seen::new(received);
    let (outcomes, failure) = if seen.wait(START, |seen| seen.listed) {
        let outcomes = exchange(&mut seen, &plan);
        drop(running);
        seen.ignore_the_rest();
        let _ = collecting.join();
        (outcomes?, None)
    } else {
        // It ended before it began: its error says why.
        drop(running);
        seen.ignore_the_rest();
        let failure = match collecting.join() {
            Ok(Err(error)) => error,
            _ => anyhow!("the collector told nothing within {START:?}"),
        };
        (Outcomes::new(), Some(failure))
    };
    let signals = Signal::ALL.map(|signal| finding(signal, &plan, &outcomes)).into();
    Ok(Report { schema: 1, host, signals, failure })
}

fn finding(signal: Signal, plan: &Plan, outcomes: &Outcomes) -> Finding {
    let choice = plan.choices.iter().find(|choice| choice.signal == signal);
    let provider = choice.and_then(|choice| choice.provider);
    let outcomes = outcomes.get(&signal).map_or(&[][..], Vec::as_slice);
    let (verdict, seen) = match provider {
        None => (Verdict::Missing, format!("cannot show {}", signal.fills())),
        Some(_) if outcomes.is_empty() => {
            (Verdict::Untried, format!("not proved, since {} cannot be shown", signal.fills()))
        }
        Some(_) => judge(outcomes),
    };
    Finding {
        signal: signal.name(),
        provider: provider.map(Provider::name),
        works: verdict == Verdict::Works,
        verdict,
        seen,
        refused: choice
            .into_iter()
            .flat_map(|choice| &choice.refused)
            .map(|(provider, reason)| Refused { provider: provider.name(), reason: reason.clone() })
            .collect(),
    }
}

/// A hook that fires, but not always, counts wrong; one that never does is silent.
fn judge(outcomes: &[(&'static str, Outcome)]) -> (Verdict, String) {
    let mut silent = Vec::new();
    let mut wrong = Vec::new();
    for (version, outcome) in outcomes {
        match outcome {
            Outcome::Exact => {}
            Outcome::Nothing => silent.push(*version),
            Outcome::Other(words) => wrong.push(format!("{version}: {words}")),
        }
    }
    if !wrong.is_empty() {
        (Verdict::Wrong, format!("FAILED: attached, but tells {}", wrong.join(", ")))
    } else if !silent.is_empty() {
        (Verdict::Silent, format!("FAILED: attached, but does not fire ({})", silent.join(", ")))
    } else {
        (Verdict::Works, "ok".to_owned())
    }
}

/// What the host says of itself.
fn host() -> Vec<Fact> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let capabilities: Vec<String> = [
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
        Capability::CAP_NET_ADMIN,
        Capability::CAP_SYS_ADMIN,
    ]
    .into_iter()
    .filter(|&capability| privileges::has(capability))
    .map(|capability| capability.to_string())
    .collect();
    let types = fs::metadata(privileges::KERNEL_TYPES).map_or_else(
        |_| format!("none ({})", privileges::KERNEL_TYPES),
        |_| privileges::KERNEL_TYPES.to_owned(),
    );
    let unprivileged = match read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => "allowed",
        Some(_) => "off: reading maps needs CAP_BPF",
        None => "unknown",
    };
    let cgroup = names::cgroup_root()
        .map_or_else(|| "not mounted".to_owned(), |path| path.display().to_string());
    let part = if names::cgroup_part().is_some() { " (not its root)" } else { "" };
    vec![
        Fact { name: "kernel", value: format!("{kernel} {}", std::env::consts::ARCH) },
        Fact { name: "type information", value: types },
        Fact {
            name: "lockdown",
            value: privileges::lockdown()
                .unwrap_or_else(|| "unknown (/sys/kernel/security/lockdown)".into()),
        },
        Fact { name: "capabilities", value: capabilities.join(" ") },
        Fact { name: "cgroup v2", value: cgroup + part },
        Fact { name: "unprivileged BPF", value: unprivileged.to_owned() },
    ]
}

/// What the collector has told so far.
struct Seen {
    received: Receiver<Batch>,
    listed: bool,
    open: Vec<Sample>,
    closed: Vec<Closed>,
}

impl Seen {
    fn new(received: Receiver<Batch>) -> Seen {
        Seen { received, listed: false, open: Vec::new(), closed: Vec::new() }
    }

    /// Listens until `enough`, for as long as patience lasts.
    fn wait(&mut self, patience: Duration, enough: impl Fn(&Seen) -> bool) -> bool {
        let deadline = Instant::now() + patience;
        while !enough(self) {
            let Ok(batch) = self.received.recv_deadline(deadline) else { return false };
            for event in batch {
                match event {
                    CollectorEvent::Sample(sample) => {
                        self.open.retain(|known| known.key != sample.key);
                        self.open.push(sample);
                    }
                    CollectorEvent::Closed(closed) => self.closed.push(closed),
                    CollectorEvent::Expired(_) => {}
                    CollectorEvent::Tick(tick) => self.listed |= tick.listing,
                }
            }
        }
        true
    }

    fn open(&self, protocol: Protocol, ends: Ends) -> Option<&Sample> {
        self.open.iter().find(|sample| {
            (sample.protocol, sample.local, sample.remote) == (protocol, ends.0, ends.1)
        })
    }

    fn closed(&self, ends: Ends) -> Option<&Closed> {
        self.closed.iter().find(|closed| (closed.sample.local, closed.sample.remote) == ends)
    }

    /// What was seen of both ends of an exchange, as soon as that is what was done.
    fn outcome(
        &mut self,
        look: impl Fn(&Seen, Ends) -> Option<Counters>,
        done: &[(Ends, Counters); 2],
    ) -> Outcome {
        let compare = |seen: &Seen| compare(done.map(|(ends, done)| (look(seen, ends), done)));
        self.wait(PATIENCE, |seen| compare(seen) == Outcome::Exact);
        compare(self)
    }

    /// The collector may wait for room in the channel: it is to end.
    fn ignore_the_rest(&mut self) {
        self.received = crossbeam_channel::never();
    }
}

/// The local and the remote end.
type Ends = (SocketAddr, SocketAddr);

/// What was seen of two ends, and what was done.
fn compare(ends: [(Option<Counters>, Counters); 2]) -> Outcome {
    if ends.iter().all(|(seen, _)| seen.is_none()) {
        return Outcome::Nothing;
    }
    let differs = |(seen, done): &&(Option<Counters>, Counters)| *seen != Some(*done);
    match ends.iter().find(differs) {
        None => Outcome::Exact,
        Some((seen, done)) => {
            let seen = seen.map_or("nothing".to_owned(), told);
            Outcome::Other(format!("{seen} instead of {}", told(*done)))
        }
    }
}

fn told(counters: Counters) -> String {
    let Counters { bytes_in, bytes_out, packets_in, packets_out } = counters;
    match (packets_in, packets_out) {
        (0, 0) => format!("in={bytes_in} out={bytes_out}"),
        _ => format!("in={bytes_in} out={bytes_out} pkts_in={packets_in} pkts_out={packets_out}"),
    }
}

/// Does something that each signal of the plan should tell of, and looks.
fn exchange(seen: &mut Seen, plan: &Plan) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    for (version, address) in loopbacks() {
        let mut note = |signal: Signal, outcome| {
            outcomes.entry(signal).or_default().push((version, outcome));
        };
        if plan.shows(Protocol::Tcp) {
            let mut tcp = Tcp::exchange(address)
                .with_context(|| format!("failed to make a TCP connection over {address}"))?;
            note(Signal::Counters, tcp.counters(seen));
            if plan.provider(Signal::Owner).is_some() {
                note(Signal::Owner, tcp.owner(seen)?);
            }
            note(Signal::Lifecycle, tcp.close(seen)?);
        }
        if plan.shows(Protocol::Udp) {
            note(Signal::Udp, udp(seen, address)?);
        }
    }
    Ok(outcomes)
}

/// IPv6 can be switched off.
fn loopbacks() -> Vec<(&'static str, SocketAddr)> {
    let all = [
        ("IPv4", SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        ("IPv6", SocketAddr::from((Ipv6Addr::LOCALHOST, 0))),
    ];
    all.into_iter().filter(|(_, address)| TcpListener::bind(address).is_ok()).collect()
}

/// A connection with both ends here, over which the known bytes went.
struct Tcp {
    client: TcpStream,
    server: TcpStream,
    client_address: SocketAddr,
    server_address: SocketAddr,
    /// Bytes that the other process has sent to the client.
    more: u64,
}

impl Tcp {
    fn exchange(address: impl ToSocketAddrs) -> io::Result<Tcp> {
        let listener = TcpListener::bind(address)?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, client_address) = listener.accept()?;
        client.set_read_timeout(Some(PATIENCE))?;
        let server_address = server.local_addr()?;
        // Less than a socket buffer: neither side waits for the other.
        client.write_all(&[1; TO_SERVER])?;
        server.read_exact(&mut [0; TO_SERVER])?;
        server.write_all(&[2; TO_CLIENT])?;
        client.read_exact(&mut [0; TO_CLIENT])?;
        Ok(Tcp { client, server, client_address, server_address, more: 0 })
    }

    /// Both ends, and what went over them.
    fn done(&self) -> [(Ends, Counters); 2] {
        let (client, server) = (self.client_address, self.server_address);
        let (up, down) = (TO_SERVER as u64, TO_CLIENT as u64 + self.more);
        let bytes = |bytes_in, bytes_out| Counters { bytes_in, bytes_out, ..Counters::default() };
        [((client, server), bytes(down, up)), ((server, client), bytes(up, down))]
    }

    fn counters(&self, seen: &mut Seen) -> Outcome {
        let look = |seen: &Seen, ends| Some(bytes_of(seen.open(Protocol::Tcp, ends)?));
        seen.outcome(look, &self.done())
    }

    /// Another process uses the server's end: it must be shown for it.
    fn owner(&mut self, seen: &mut Seen) -> Result<Outcome> {
        let worker = Worker::start(&self.server)?;
        let byte = self.client.read_exact(&mut [0; 1]);
        byte.context("/bin/sh, started to use a connection, sent nothing")?;
        self.more += 1;
        let expected = worker.child.id();
        let owner = |seen: &Seen| {
            let sample = seen.open(Protocol::Tcp, (self.server_address, self.client_address))?;
            Some(sample.owner?.pid)
        };
        seen.wait(PATIENCE, |seen| owner(seen) == Some(expected));
        Ok(judge_owner(owner(seen), expected, std::process::id()))
    }

    fn close(self, seen: &mut Seen) -> Result<Outcome> {
        let done = self.done();
        self.client.shutdown(Shutdown::Both).context("failed to close a connection")?;
        drop(self);
        let look = |seen: &Seen, ends| Some(bytes_of(&seen.closed(ends)?.sample));
        Ok(seen.outcome(look, &done))
    }
}

/// TCP's packets depend on how the bytes were cut.
fn bytes_of(sample: &Sample) -> Counters {
    Counters { packets_in: 0, packets_out: 0, ..sample.counters }
}

/// `opener` made the connection and then left it alone: where it is still shown,
/// the hook saw nothing of who uses it.
fn judge_owner(seen: Option<u32>, expected: u32, opener: u32) -> Outcome {
    match seen {
        Some(pid) if pid == expected => Outcome::Exact,
        Some(pid) if pid != opener => Outcome::Other(format!("PID {pid} instead of {expected}")),
        _ => Outcome::Nothing,
    }
}

/// A process of its own that sends one byte over a connection and lives until dropped.
struct Worker {
    child: Child,
}

impl Worker {
    fn start(connection: &TcpStream) -> Result<Worker> {
        let socket = std::os::fd::OwnedFd::from(connection.try_clone()?);
        let child = Command::new("/bin/sh")
            .args(["-c", "printf x; read line"])
            .stdin(Stdio::piped())
            .stdout(socket)
            .spawn()
            .context("failed to start /bin/sh")?;
        Ok(Worker { child })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn udp(seen: &mut Seen, address: SocketAddr) -> Result<Outcome> {
    let failed = || format!("failed to exchange datagrams over {address}");
    let server = UdpSocket::bind(address).with_context(failed)?;
    let client = UdpSocket::bind(address).with_context(failed)?;
    let (local, remote) =
        (client.local_addr().with_context(failed)?, server.local_addr().with_context(failed)?);
    let mut buffer = [0; DATAGRAM];
    for _ in 0..DATAGRAMS {
        client.send_to(&buffer, remote).with_context(failed)?;
        server.recv_from(&mut buffer).with_context(failed)?;
    }
    let bytes = DATAGRAM as u64 * DATAGRAMS;
    let sent = Counters { bytes_out: bytes, packets_out: DATAGRAMS, ..Counters::default() };
    let received = Counters { bytes_in: bytes, packets_in: DATAGRAMS, ..Counters::default() };
    let look = |seen: &Seen, ends| Some(seen.open(Protocol::Udp, ends)?.counters);
    Ok(seen.outcome(look, &[((local, remote), sent), ((remote, local), received)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::choose;

    fn everything() -> Plan {
        let choices = Signal::ALL.map(|signal| choose(signal, &[], |_| Ok(())));
        Plan { choices: choices.into() }
    }

    fn findings(plan: &Plan, outcomes: &Outcomes) -> Vec<(Verdict, String)> {
        let of = |signal| finding(signal, plan, outcomes);
        Signal::ALL.map(of).into_iter().map(|finding| (finding.verdict, finding.seen)).collect()
    }

    /// Everything is attached, and the collector tells of other connections only.
    #[test]
    fn attached_is_not_working() {
        let (sender, received) = crossbeam_channel::unbounded();
        let other = crate::output::fixtures::tcp();
        sender.send(vec![CollectorEvent::Sample(other)]).unwrap();
        drop(sender);
        let plan = everything();
        let outcomes = exchange(&mut Seen::new(received), &plan).unwrap();
        let versions = loopbacks().iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let expected = format!("FAILED: attached, but does not fire ({versions})");
        for (verdict, seen) in findings(&plan, &outcomes) {
            assert_eq!((verdict, &seen), (Verdict::Silent, &expected));
        }
    }

    /// A hook that tells of everything twice is not one that is silent.
    #[test]
    fn counting_wrong_is_told_with_the_numbers() {
        let done = Counters { bytes_in: 10, bytes_out: 20, ..Counters::default() };
        let twice = Counters { bytes_in: 20, bytes_out: 40, ..Counters::default() };
        let words = |outcome| judge(&[("IPv4", Outcome::Exact), ("IPv6", outcome)]);
        assert_eq!(words(compare([(Some(done), done); 2])), (Verdict::Works, "ok".to_owned()));
        let (verdict, seen) = words(compare([(Some(done), done), (Some(twice), done)]));
        assert_eq!(verdict, Verdict::Wrong);
        assert_eq!(seen, "FAILED: attached, but tells IPv6: in=20 out=40 instead of in=10 out=20");
        let (verdict, seen) = words(compare([(None, done), (Some(done), done)]));
        assert_eq!(verdict, Verdict::Wrong);
        assert!(seen.ends_with("IPv6: nothing instead of in=10 out=20"), "{seen}");
        let datagrams = Counters { packets_out: 7, ..done };
        let (verdict, seen) = words(compare([(Some(done), datagrams), (Some(done), done)]));
        assert_eq!(verdict, Verdict::Wrong);
        assert!(seen.ends_with("of in=10 out=20 pkts_in=0 pkts_out=7"), "{seen}");
        let (verdict, seen) = words(compare([(None, done), (None, done)]));
        assert_eq!(verdict, Verdict::Silent);
        assert_eq!(seen, "FAILED: attached, but does not fire (IPv6)");
    }

    #[test]
    fn an_owner_that_never_changes_is_a_silent_hook() {
        const OPENER: u32 = 10;
        const WORKER: u32 = 11;
        for (seen, outcome) in [
            (Some(WORKER), Outcome::Exact),
            (Some(OPENER), Outcome::Nothing),
            (None, Outcome::Nothing),
            (Some(12), Outcome::Other("PID 12 instead of 11".to_owned())),
        ] {
            assert_eq!(judge_owner(seen, WORKER, OPENER), outcome);
        }
    }

    #[test]
    fn without_a_provider_nothing_is_tried() {
        let plan = Plan {
            choices: Signal::ALL
                .map(|signal| choose(signal, &[Provider::StorageIterator], |_| Ok(())))
                .into(),
        };
        let outcomes = Outcomes::from([(Signal::Udp, vec![("IPv4", Outcome::Exact)])]);
        let verdicts: Vec<Verdict> =
            findings(&plan, &outcomes).into_iter().map(|(verdict, _)| verdict).collect();
        assert_eq!(
            verdicts,
            [Verdict::Untried, Verdict::Missing, Verdict::Untried, Verdict::Works]
        );
    }
}
