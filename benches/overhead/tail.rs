//! How long the slowest requests take: real servers at half of their speed, while 100,000
//! other sockets are open.
//!
//! The client has a timetable. A request that waits for a free connection is late from the
//! moment at which it was due, so a server that stops for a while is not asked less.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::idle::Sockets;
use crate::load::{Load, Run, accounted};
use crate::machine;
use crate::servers::{self, Server};

/// Connections of the client.
const CONNECTIONS: usize = 50;

/// A server, and how one talks to it.
pub struct Tail {
    server: Server,
    request: &'static [u8],
    /// The end of each answer.
    answered: &'static [u8],
    connections: Vec<TcpStream>,
    /// From one request to the next.
    period: Duration,
    _idle: Sockets,
}

impl Tail {
    /// `Err` with the reason where it is not installed. `idle`: how many other sockets.
    pub fn redis(idle: usize) -> Result<Result<Tail, String>> {
        Tail::of(servers::redis()?, idle, b"GET k\r\n", b"$-1\r\n")
    }

    /// `Err` with the reason where it is not installed. `idle`: how many other sockets.
    pub fn nginx(idle: usize) -> Result<Result<Tail, String>> {
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        Tail::of(servers::nginx()?, idle, request, b"\r\n\r\nok")
    }

    fn of(
        server: Result<Server, String>,
        idle: usize,
        request: &'static [u8],
        answered: &'static [u8],
    ) -> Result<Result<Tail, String>> {
        let server = match server {
            Ok(server) => server,
            Err(missing) => return Ok(Err(missing)),
        };
        let connections = (0..CONNECTIONS)
            .map(|_| {
                let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, server.port))?;
                stream.set_nodelay(true)?;
                Ok(stream)
            })
            .collect::<io::Result<_>>()
            .context("failed to connect")?;
        let period = Duration::ZERO;
        let idle = Sockets::open(idle)?;
        let mut tail = Tail { server, request, answered, connections, period, _idle: idle };
        // As fast as it can; then half as fast.
        let run = tail.run(Duration::from_millis(200))?;
        tail.period = run.wall * 2 / u32::try_from(run.operations)?;
        Ok(Ok(tail))
    }

    /// Sends requests by the timetable. Returns how late each answer was.
    fn drive(&self, time: Duration) -> io::Result<Vec<Duration>> {
        let mut polled: Vec<_> = self
            .connections
            .iter()
            .map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN))
            .collect();
        let mut asked: Vec<Option<Instant>> = vec![None; self.connections.len()];
        let mut free: Vec<usize> = (0..self.connections.len()).collect();
        let mut late = Vec::new();
        let mut buffer = [0; 4096];
        let start = Instant::now();
        let (mut due, end) = (start, start + time);
        loop {
            while due < end && due <= Instant::now() {
                let Some(index) = free.pop() else { break };
                (&self.connections[index]).write_all(self.request)?;
                asked[index] = Some(due);
                due = if self.period.is_zero() { Instant::now() } else { due + self.period };
            }
            if due >= end && free.len() == self.connections.len() {
                return Ok(late);
            }
            let wait = due.saturating_duration_since(Instant::now());
            let until_due = (!free.is_empty() && due < end).then(|| TimeSpec::from_duration(wait));
            ppoll(&mut polled, until_due, None)?;
            for (index, polled) in polled.iter().enumerate() {
                if !polled.any().unwrap_or(true) {
                    continue;
                }
                // All of an answer is in one segment.
                let length = (&self.connections[index]).read(&mut buffer)?;
                let Some(asked) = asked[index].take() else {
                    return Err(io::Error::other("an answer without a question"));
                };
                if !buffer[..length].ends_with(self.answered) {
                    return Err(io::Error::other("an answer that is not one"));
                }
                late.push(asked.elapsed());
                free.push(index);
            }
        }
    }
}

impl Load for Tail {
    /// Measures after a while, so that tcptop has written its listing of what was open.
    fn run(&mut self, time: Duration) -> Result<Run> {
        let cpus = machine::processors()?;
        if !self.period.is_zero() {
            self.drive(time * 3 / 2)?;
        }
        let server = self.server.cpu()?;
        let time = time * 2;
        let client = std::thread::scope(|scope| {
            let client = scope.spawn(|| accounted(cpus[0], || self.drive(time)));
            client.join().map_err(|_| anyhow!("the client panicked"))
        })?;
        let mut late = client.value;
        late.sort_unstable();
        let at = |share: f64| late[(late.len() as f64 * share) as usize];
        let operations = late.len() as u64;
        Ok(Run {
            operations,
            attempts: operations,
            wall: client.wall,
            cpu: client.cpu + self.server.cpu_since(server)?,
            tail: Some([at(0.99), at(0.999)]),
        })
    }
}
