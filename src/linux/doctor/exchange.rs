//! The exchange on loopback, and what the collector reported about it.
//!
//! Owns the traffic, whose number of bytes is known, and the comparison of that number
//! with the collector's. The verdicts are those of the parent module.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{
    Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket,
};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use crossbeam_channel::Receiver;

use super::super::plan::{Need, Plan};
use crate::connection::{Closed, Counters, Protocol, Sample};
use crate::event::{Batch, CollectorEvent};

/// The bytes that the exchange sends each way. Other programs are unlikely to send
/// exactly as many.
const TO_SERVER: usize = 12_345;
const TO_CLIENT: usize = 54_321;
/// The bytes of a datagram, and the number of datagrams, in the UDP exchange.
const DATAGRAM: usize = 1_111;
const DATAGRAMS: u64 = 7;

/// How long to wait for an expected report, where the collector is on time.
const PATIENCE: Duration = Duration::from_secs(3);

/// In how many intervals of the collector a report must come. A host that is busy takes longer
/// for them than [`PATIENCE`].
const INTERVALS: u32 = 10;

/// How long to wait for anything.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// What the collector reported about the exchange over one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Exact,
    Nothing,
    Other(String),
}

/// For each need, the address families and the outcome of each.
pub(super) type Outcomes = HashMap<Need, Vec<(&'static str, Outcome)>>;

/// What the collector has reported so far.
pub(super) struct Seen {
    received: Receiver<Batch>,
    pub(super) listed: bool,
    patience: Duration,
    intervals: u32,
    open: Vec<Sample>,
    closed: Vec<Closed>,
}

impl Seen {
    pub(super) fn new(received: Receiver<Batch>) -> Seen {
        let (open, closed) = (Vec::new(), Vec::new());
        Seen { received, listed: false, patience: PATIENCE, intervals: 0, open, closed }
    }

    /// Takes reports until `enough` is true, but no longer than `patience`. Returns
    /// whether it is.
    pub(super) fn wait(&mut self, patience: Duration, enough: impl Fn(&Seen) -> bool) -> bool {
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
                    CollectorEvent::Expired(_)
                    | CollectorEvent::CgroupMade { .. }
                    | CollectorEvent::Untracked { .. } => {}
                    CollectorEvent::Tick(tick) => {
                        self.listed |= tick.listing;
                        self.intervals += 1;
                    }
                }
            }
        }
        true
    }

    /// Takes reports until `enough` is true, but no longer than a hook that fires may take.
    fn wait_for_hook(&mut self, enough: impl Fn(&Seen) -> bool) {
        let last = self.intervals + INTERVALS;
        if !self.wait(self.patience, &enough) {
            self.wait(LONGEST, |seen| seen.intervals >= last || enough(seen));
        }
    }

    fn open(&self, protocol: Protocol, ends: Ends) -> Option<&Sample> {
        self.open.iter().find(|sample| {
            (sample.protocol, sample.local, sample.remote) == (protocol, ends.0, ends.1)
        })
    }

    fn closed(&self, ends: Ends) -> Option<&Closed> {
        self.closed.iter().find(|closed| (closed.sample.local, closed.sample.remote) == ends)
    }

    /// Waits for the reports about both ends of an exchange to be exact, and returns the
    /// outcome.
    fn outcome(
        &mut self,
        look: impl Fn(&Seen, Ends) -> Option<Counters>,
        done: &[(Ends, Counters); 2],
    ) -> Outcome {
        let compare = |seen: &Seen| compare(done.map(|(ends, done)| (look(seen, ends), done)));
        self.wait_for_hook(|seen| compare(seen) == Outcome::Exact);
        compare(self)
    }

    /// Drops the receiver. The collector may be waiting for room in the channel, and can
    /// then end.
    pub(super) fn ignore_the_rest(&mut self) {
        self.received = crossbeam_channel::never();
    }
}

/// The local and the remote address.
type Ends = (SocketAddr, SocketAddr);

/// Compares, for two ends, what was reported with what was done.
pub(super) fn compare(ends: [(Option<Counters>, Counters); 2]) -> Outcome {
    if ends.iter().all(|(seen, _)| seen.is_none()) {
        return Outcome::Nothing;
    }
    let differs = |(seen, done): &&(Option<Counters>, Counters)| *seen != Some(*done);
    match ends.iter().find(differs) {
        None => Outcome::Exact,
        Some((seen, done)) => {
            let seen = seen.map_or("nothing".to_owned(), describe);
            Outcome::Other(format!("{seen} instead of {}", describe(*done)))
        }
    }
}

fn describe(counters: Counters) -> String {
    let Counters { bytes_in, bytes_out, packets_in, packets_out } = counters;
    match (packets_in, packets_out) {
        (0, 0) => format!("in={bytes_in} out={bytes_out}"),
        _ => format!("in={bytes_in} out={bytes_out} pkts_in={packets_in} pkts_out={packets_out}"),
    }
}

/// For each need of the plan, makes traffic that the need should report, and waits for
/// the report.
pub(super) fn make(seen: &mut Seen, plan: &Plan) -> Result<Outcomes> {
    let mut outcomes = Outcomes::new();
    for (version, address) in loopbacks() {
        let mut note = |need: Need, outcome| {
            outcomes.entry(need).or_default().push((version, outcome));
        };
        if plan.shows(Protocol::Tcp) {
            let mut tcp = Tcp::exchange(address)
                .with_context(|| format!("failed to make a TCP connection over {address}"))?;
            note(Need::Counters, tcp.counters(seen));
            if plan.provider(Need::Owner).is_some() {
                note(Need::Owner, tcp.owner(seen)?);
            }
            note(Need::Lifecycle, tcp.close(seen)?);
        }
        if plan.shows(Protocol::Udp) {
            note(Need::Udp, udp(seen, address)?);
        }
    }
    Ok(outcomes)
}

/// The loopback addresses of this host. IPv6 can be switched off.
pub(super) fn loopbacks() -> Vec<(&'static str, SocketAddr)> {
    let all = [
        ("IPv4", SocketAddr::from((Ipv4Addr::LOCALHOST, 0))),
        ("IPv6", SocketAddr::from((Ipv6Addr::LOCALHOST, 0))),
    ];
    all.into_iter().filter(|(_, address)| TcpListener::bind(address).is_ok()).collect()
}

/// A connection with both ends in this process, over which the known bytes were sent.
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
        client.set_read_timeout(Some(LONGEST))?;
        let server_address = server.local_addr()?;
        // Fits into a socket buffer, so neither side waits for the other.
        client.write_all(&[1; TO_SERVER])?;
        server.read_exact(&mut [0; TO_SERVER])?;
        server.write_all(&[2; TO_CLIENT])?;
        client.read_exact(&mut [0; TO_CLIENT])?;
        Ok(Tcp { client, server, client_address, server_address, more: 0 })
    }

    /// Both ends, and the bytes that they sent and received.
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

    /// Lets another process use the server's end: it must then be shown as the owner.
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
        seen.wait_for_hook(|seen| owner(seen) == Some(expected));
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

/// The byte counters alone: TCP's packets depend on how it divides the bytes.
fn bytes_of(sample: &Sample) -> Counters {
    Counters { packets_in: 0, packets_out: 0, ..sample.counters }
}

/// `opener` made the connection and did not use it later. If it is still shown as the
/// owner, the hook did not see the process that uses the connection.
fn judge_owner(seen: Option<u32>, expected: u32, opener: u32) -> Outcome {
    match seen {
        Some(pid) if pid == expected => Outcome::Exact,
        Some(pid) if pid != opener => Outcome::Other(format!("PID {pid} instead of {expected}")),
        _ => Outcome::Nothing,
    }
}

/// Another process, which sends one byte over a connection and is killed when dropped.
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
    use crate::event::{Slices, Tick};
    use crate::loss::Loss;
    use crate::output::fixtures::tcp;
    use std::thread;

    /// A report may be late where the intervals are; where they are not, it never comes.
    #[test]
    fn a_busy_host_is_waited_for() {
        let tick = || {
            CollectorEvent::Tick(Tick {
                now_ns: 0,
                time: chrono::DateTime::UNIX_EPOCH,
                lost: Loss::default(),
                listing: false,
                complete: Slices::default(),
            })
        };
        let sample = tcp();
        let ends = (sample.local, sample.remote);
        let (sender, received) = crossbeam_channel::unbounded();
        let mut seen = Seen { patience: Duration::ZERO, ..Seen::new(received) };
        let is_seen = |seen: &Seen| seen.open(Protocol::Tcp, ends).is_some();
        for _ in 0..INTERVALS {
            sender.send(vec![tick()]).unwrap();
        }
        seen.wait_for_hook(is_seen);
        assert_eq!((is_seen(&seen), seen.intervals), (false, INTERVALS));

        let late = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            sender.send(vec![tick()]).unwrap();
            sender.send(vec![CollectorEvent::Sample(sample)]).unwrap();
            sender
        });
        seen.wait_for_hook(is_seen);
        assert!(is_seen(&seen));
        late.join().unwrap();
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
}
