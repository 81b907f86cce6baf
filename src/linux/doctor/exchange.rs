//! The exchange on loopback, and what the collector told of it.
//!
//! Owns the traffic whose bytes are known, and the comparison. Judges nothing.

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

/// Bytes that the exchange sends each way: nothing else on the host is likely to.
const TO_SERVER: usize = 12_345;
const TO_CLIENT: usize = 54_321;
/// Bytes and datagrams of the UDP exchange.
const DATAGRAM: usize = 1_111;
const DATAGRAMS: u64 = 7;

/// How long an expected report may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);

/// What was seen of the exchange over one address family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Exact,
    Nothing,
    Other(String),
}

/// Per need the address families, and what was seen of each.
pub(super) type Outcomes = HashMap<Need, Vec<(&'static str, Outcome)>>;

/// What the collector has told so far.
pub(super) struct Seen {
    received: Receiver<Batch>,
    pub(super) listed: bool,
    open: Vec<Sample>,
    closed: Vec<Closed>,
}

impl Seen {
    pub(super) fn new(received: Receiver<Batch>) -> Seen {
        Seen { received, listed: false, open: Vec::new(), closed: Vec::new() }
    }

    /// Listens until `enough`, for as long as patience lasts.
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
    pub(super) fn ignore_the_rest(&mut self) {
        self.received = crossbeam_channel::never();
    }
}

/// The local and the remote end.
type Ends = (SocketAddr, SocketAddr);

/// What was seen of two ends, and what was done.
pub(super) fn compare(ends: [(Option<Counters>, Counters); 2]) -> Outcome {
    if ends.iter().all(|(seen, _)| seen.is_none()) {
        return Outcome::Nothing;
    }
    let differs = |(seen, done): &&(Option<Counters>, Counters)| *seen != Some(*done);
    match ends.iter().find(differs) {
        None => Outcome::Exact,
        Some((seen, done)) => {
            let seen = seen.map_or("nothing".to_owned(), words);
            Outcome::Other(format!("{seen} instead of {}", words(*done)))
        }
    }
}

fn words(counters: Counters) -> String {
    let Counters { bytes_in, bytes_out, packets_in, packets_out } = counters;
    match (packets_in, packets_out) {
        (0, 0) => format!("in={bytes_in} out={bytes_out}"),
        _ => format!("in={bytes_in} out={bytes_out} pkts_in={packets_in} pkts_out={packets_out}"),
    }
}

/// Does something that each need of the plan should tell of, and looks.
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

/// IPv6 can be switched off.
pub(super) fn loopbacks() -> Vec<(&'static str, SocketAddr)> {
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
