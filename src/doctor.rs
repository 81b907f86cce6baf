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

use anyhow::{Context, Result};
use caps::Capability;
use crossbeam_channel::Receiver;
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use serde::Serialize;

use crate::collector::linux::{CHANNEL, LinuxCollector, Schedule};
use crate::collector::{Batch, CollectorEvent, NetworkCollector};
use crate::connection::{Closed, Counters, Protocol, Sample};
use crate::plan::{Choice, Provider, Signal};
use crate::privileges;

/// Bytes that the exchange sends each way: nothing else on the host is likely to.
const TO_SERVER: usize = 12_345;
const TO_CLIENT: usize = 54_321;
/// Bytes and datagrams of the UDP exchange.
const DATAGRAM: usize = 1_111;
const DATAGRAMS: u64 = 7;

/// How long an expected report may take: on a slow machine seconds until all is attached.
const PATIENCE: Duration = Duration::from_secs(20);

/// The whole finding.
#[derive(Debug, Serialize)]
pub struct Report {
    schema: u32,
    host: Vec<Fact>,
    signals: Vec<Finding>,
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
    /// `ok`, or what was seen instead.
    seen: String,
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
struct Refused {
    provider: &'static str,
    reason: String,
}

impl Report {
    /// True where every signal has a provider that fires.
    pub fn all_work(&self) -> bool {
        self.signals.iter().all(|finding| finding.works)
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
/// Where TCP cannot be served at all, or the exchange cannot be made.
pub fn examine(without: Vec<Provider>, verbose: bool, notice: fn(&str)) -> Result<Report> {
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
        notice,
        plan: Some(told),
    };
    let collecting = thread::Builder::new()
        .name("collector".into())
        .spawn(move || collector.run(batches))
        .context("failed to start a thread")?;
    let mut seen = Seen { received, ..Seen::new() };
    if !seen.wait(|seen| seen.listed) {
        // It ended before it began: its error says why.
        drop(running);
        return match collecting.join() {
            Ok(Err(error)) => Err(error),
            _ => Err(anyhow::anyhow!("the collector told nothing within {PATIENCE:?}")),
        };
    }
    let plan = plan.recv().context("the collector told no plan")?;
    let verdicts = exchange(&mut seen);
    drop(running);
    seen.ignore_the_rest();
    let _ = collecting.join();
    let verdicts = verdicts?;
    let signals = Signal::ALL.into_iter().map(|signal| finding(signal, &plan, &verdicts)).collect();
    Ok(Report { schema: 1, host, signals })
}

fn finding(signal: Signal, plan: &[Choice], verdicts: &HashMap<Signal, String>) -> Finding {
    let choice = plan.iter().find(|choice| choice.signal == signal);
    let provider = match choice {
        Some(choice) => choice.provider,
        None => signal.providers().first().copied(),
    };
    let verdict = verdicts.get(&signal).map_or("nothing", String::as_str);
    let works = provider.is_some() && verdict.is_empty();
    Finding {
        signal: signal.name(),
        provider: provider.map(Provider::name),
        works,
        seen: match (works, provider) {
            (true, _) => "ok".to_owned(),
            (false, None) => match signal {
                Signal::Udp => "no UDP rows".to_owned(),
                _ => "no such columns".to_owned(),
            },
            (false, Some(_)) => format!("FAILED: {verdict}"),
        },
        refused: choice
            .into_iter()
            .flat_map(|choice| &choice.refused)
            .map(|(provider, reason)| Refused { provider: provider.name(), reason: reason.clone() })
            .collect(),
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
    let cgroup = crate::names::cgroup_root()
        .map_or_else(|| "not mounted".to_owned(), |path| path.display().to_string());
    vec![
        Fact { name: "kernel", value: format!("{kernel} {}", std::env::consts::ARCH) },
        Fact { name: "type information", value: types },
        Fact {
            name: "lockdown",
            value: privileges::lockdown()
                .unwrap_or_else(|| "unknown (/sys/kernel/security/lockdown)".into()),
        },
        Fact { name: "capabilities", value: capabilities.join(" ") },
        Fact { name: "cgroup v2", value: cgroup },
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
    fn new() -> Seen {
        Seen {
            received: crossbeam_channel::never(),
            listed: false,
            open: Vec::new(),
            closed: Vec::new(),
        }
    }

    /// Listens until `enough`, for as long as patience lasts.
    fn wait(&mut self, enough: impl Fn(&Seen) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
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

    fn open(&self, protocol: Protocol, local: SocketAddr, remote: SocketAddr) -> Option<&Sample> {
        self.open.iter().find(|sample| {
            (sample.protocol, sample.local, sample.remote) == (protocol, local, remote)
        })
    }

    fn closed(&self, local: SocketAddr, remote: SocketAddr) -> Option<&Closed> {
        self.closed
            .iter()
            .find(|closed| (closed.sample.local, closed.sample.remote) == (local, remote))
    }

    /// The collector may wait for room in the channel: it is to end.
    fn ignore_the_rest(&mut self) {
        self.received = crossbeam_channel::never();
    }
}

/// Per signal what was seen instead of what was done; empty where that is the same.
fn exchange(seen: &mut Seen) -> Result<HashMap<Signal, String>> {
    let mut verdicts: HashMap<Signal, String> =
        Signal::ALL.into_iter().map(|signal| (signal, String::new())).collect();
    let mut note = |signal: Signal, words: String| {
        let verdict = verdicts.entry(signal).or_default();
        if !words.is_empty() {
            let comma = if verdict.is_empty() { "" } else { ", " };
            verdict.push_str(comma);
            verdict.push_str(&words);
        }
    };
    for (version, address) in loopbacks() {
        let tcp = Tcp::exchange(address)
            .with_context(|| format!("failed to make a TCP connection over {address}"))?;
        note(Signal::Counters, tcp.counters(seen, version));
        note(Signal::Owner, tcp.owner(seen, version)?);
        note(Signal::Lifecycle, tcp.close(seen, version)?);
        note(Signal::Udp, udp(seen, address, version)?);
    }
    Ok(verdicts)
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
}

impl Tcp {
    fn exchange(address: impl ToSocketAddrs) -> io::Result<Tcp> {
        let listener = TcpListener::bind(address)?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let (mut server, client_address) = listener.accept()?;
        let server_address = server.local_addr()?;
        // Less than a socket buffer: neither side waits for the other.
        client.write_all(&[1; TO_SERVER])?;
        server.read_exact(&mut [0; TO_SERVER])?;
        server.write_all(&[2; TO_CLIENT])?;
        client.read_exact(&mut [0; TO_CLIENT])?;
        Ok(Tcp { client, server, client_address, server_address })
    }

    fn ends(&self) -> [(SocketAddr, SocketAddr, u64, u64); 2] {
        let (client, server) = (self.client_address, self.server_address);
        let (to_server, to_client) = (TO_SERVER as u64, TO_CLIENT as u64);
        [(client, server, to_client, to_server), (server, client, to_server, to_client)]
    }

    fn counters(&self, seen: &mut Seen, version: &str) -> String {
        let exact = |seen: &Seen| {
            self.ends().iter().all(|&(local, remote, bytes_in, bytes_out)| {
                seen.open(Protocol::Tcp, local, remote)
                    .is_some_and(|sample| is(sample.counters, bytes_in, bytes_out))
            })
        };
        if seen.wait(exact) {
            return String::new();
        }
        let (local, remote, ..) = self.ends()[0];
        let sample = seen.open(Protocol::Tcp, local, remote);
        format!("{version}: {}", told(sample.map(|sample| sample.counters)))
    }

    /// Another process uses the server's end: it must be shown for it.
    fn owner(&self, seen: &mut Seen, version: &str) -> Result<String> {
        let worker = Worker::start(&self.server)?;
        let (local, remote) = (self.server_address, self.client_address);
        let owner =
            |seen: &Seen| seen.open(Protocol::Tcp, local, remote).and_then(|sample| sample.owner);
        let expected = worker.child.id();
        if seen.wait(|seen| owner(seen).is_some_and(|owner| owner.pid == expected)) {
            return Ok(String::new());
        }
        let pid = owner(seen).map_or("nobody".to_owned(), |owner| format!("PID {}", owner.pid));
        Ok(format!("{version}: {pid} instead of {expected}"))
    }

    fn close(mut self, seen: &mut Seen, version: &str) -> Result<String> {
        let ends = self.ends();
        // The worker's byte.
        self.client.read_exact(&mut [0; 1]).context("the other process sent nothing")?;
        self.client.shutdown(Shutdown::Both).context("failed to close a connection")?;
        drop(self);
        let exact = |seen: &Seen| {
            ends.iter().all(|&(local, remote, bytes_in, bytes_out)| {
                let (more_in, more_out) = if local == ends[0].0 { (1, 0) } else { (0, 1) };
                seen.closed(local, remote).is_some_and(|closed| {
                    is(closed.sample.counters, bytes_in + more_in, bytes_out + more_out)
                })
            })
        };
        if seen.wait(exact) {
            return Ok(String::new());
        }
        let (local, remote, ..) = ends[0];
        let closed = seen.closed(local, remote);
        Ok(format!("{version}: {}", told(closed.map(|closed| closed.sample.counters))))
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

fn udp(seen: &mut Seen, address: SocketAddr, version: &str) -> Result<String> {
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
    let exact = |sample: Option<&Sample>, counters: Counters| {
        sample.is_some_and(|sample| sample.counters == counters)
    };
    let sent = Counters { bytes_in: 0, bytes_out: bytes, packets_in: 0, packets_out: DATAGRAMS };
    let received =
        Counters { bytes_in: bytes, bytes_out: 0, packets_in: DATAGRAMS, packets_out: 0 };
    let all = |seen: &Seen| {
        exact(seen.open(Protocol::Udp, local, remote), sent)
            && exact(seen.open(Protocol::Udp, remote, local), received)
    };
    if seen.wait(all) {
        return Ok(String::new());
    }
    let sender = seen.open(Protocol::Udp, local, remote);
    Ok(format!("{version}: {}", told(sender.map(|sample| sample.counters))))
}

fn is(counters: Counters, bytes_in: u64, bytes_out: u64) -> bool {
    (counters.bytes_in, counters.bytes_out) == (bytes_in, bytes_out)
}

fn told(counters: Option<Counters>) -> String {
    match counters {
        None => "nothing".to_owned(),
        Some(counters) => format!("in={} out={}", counters.bytes_in, counters.bytes_out),
    }
}
