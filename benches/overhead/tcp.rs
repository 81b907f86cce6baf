//! Established TCP connections: ping-pong, bulk, many with small messages.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::load::{self, Load, MANY, Run, SMALL, STOP, both, repeat};

/// A message there and one back. If both ends share a processor, a round trip takes just the
/// time of its work. If each end has its own processor, as with two hosts or two busy
/// processes, most of a round trip is waking the other end.
pub struct PingPong {
    client: TcpStream,
    server: TcpStream,
    cpus: [usize; 2],
}

impl PingPong {
    pub fn new(cpus: [usize; 2]) -> Result<PingPong> {
        let (client, server) = load::connect(&load::listen()?, Ipv4Addr::LOCALHOST)?;
        Ok(PingPong { client, server, cpus })
    }
}

impl Load for PingPong {
    fn run(&mut self, time: Duration) -> Result<Run> {
        let (client, server) = (&mut self.client, &mut self.server);
        let (client, server) = both(
            self.cpus,
            || {
                let mut answer = [0; SMALL];
                let mut trip = |first| {
                    let mut message = [0; SMALL];
                    message[0] = first;
                    client.write_all(&message)?;
                    client.read_exact(&mut answer)
                };
                let trips = repeat(time, |_| trip(0))?;
                trip(STOP)?;
                Ok(trips)
            },
            || {
                let mut message = [0; SMALL];
                while message[0] != STOP {
                    server.read_exact(&mut message)?;
                    server.write_all(&message)?;
                }
                Ok(())
            },
        )?;
        Ok(Run {
            operations: client.value,
            attempts: client.value,
            wall: client.wall,
            cpu: client.cpu + server.cpu,
            ..Run::default()
        })
    }
}

/// Writes of 128 KiB as fast as the reader takes them.
pub struct Bulk {
    client: TcpStream,
    server: TcpStream,
    cpus: [usize; 2],
}

const BULK: usize = 128 * 1024;

impl Bulk {
    pub fn new(cpus: [usize; 2]) -> Result<Bulk> {
        let (client, server) = load::connect(&load::listen()?, Ipv4Addr::LOCALHOST)?;
        Ok(Bulk { client, server, cpus })
    }
}

impl Load for Bulk {
    fn run(&mut self, time: Duration) -> Result<Run> {
        let (client, server) = (&mut self.client, &mut self.server);
        let (client, server) = both(
            self.cpus,
            || {
                let block = vec![0; BULK];
                let writes = repeat(time, |_| client.write_all(&block))?;
                client.write_all(&[STOP])?;
                Ok(writes)
            },
            || {
                let mut buffer = vec![0; 2 * BULK];
                loop {
                    match server.read(&mut buffer)? {
                        0 => return Err(ErrorKind::UnexpectedEof.into()),
                        // Everything before the last byte of the stream is 0.
                        length if buffer[length - 1] == STOP => return Ok(()),
                        _ => {}
                    }
                }
            },
        )?;
        Ok(Run {
            operations: client.value,
            attempts: client.value,
            // The reader's time: bytes that it has not read do not count as transferred.
            wall: server.wall,
            cpu: client.cpu + server.cpu,
            ..Run::default()
        })
    }
}

/// Small messages, each over the next of many connections.
pub struct Many {
    clients: Vec<TcpStream>,
    servers: Vec<TcpStream>,
    epoll: Epoll,
    /// An eventfd that makes the server look how much was sent.
    sent: EventFd,
    cpus: [usize; 2],
}

/// The number that stands for the eventfd among the events of [`Many`].
const SENT: u64 = u64::MAX;

impl Many {
    pub fn new(cpus: [usize; 2]) -> Result<Many> {
        let listener = load::listen()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("failed to make epoll")?;
        let sent =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC).context("failed: eventfd")?;
        let watch = |fd: &dyn AsFd, data| {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, data);
            epoll.add(fd.as_fd(), event).context("failed to watch a socket")
        };
        watch(&sent, SENT)?;
        let (mut clients, mut servers) = (Vec::new(), Vec::new());
        for index in 0..MANY {
            let (client, server) = load::connect(&listener, Ipv4Addr::LOCALHOST)?;
            server.set_nonblocking(true).context("failed to set O_NONBLOCK")?;
            watch(&server, index as u64)?;
            clients.push(client);
            servers.push(server);
        }
        Ok(Many { clients, servers, epoll, sent, cpus })
    }
}

impl Load for Many {
    fn run(&mut self, time: Duration) -> Result<Run> {
        let total = AtomicU64::new(u64::MAX);
        let (clients, servers, epoll, sent) =
            (&mut self.clients, &mut self.servers, &self.epoll, &self.sent);
        let (client, server) = both(
            self.cpus,
            || {
                let message = [0; SMALL];
                let count =
                    repeat(time, |count| clients[count as usize % MANY].write_all(&message))?;
                total.store(count * SMALL as u64, Ordering::Relaxed);
                sent.write(1)?;
                Ok(count)
            },
            || receive(servers, epoll, sent, &total),
        )?;
        Ok(Run {
            operations: client.value,
            attempts: client.value,
            wall: server.wall,
            cpu: client.cpu + server.cpu,
            ..Run::default()
        })
    }
}

/// Reads until it has as many bytes as the other end reports to have sent.
fn receive(
    servers: &mut [TcpStream],
    epoll: &Epoll,
    sent: &EventFd,
    total: &AtomicU64,
) -> io::Result<()> {
    let mut events = [EpollEvent::empty(); 64];
    let mut buffer = [0; 16 * 1024];
    let mut received = 0;
    while received < total.load(Ordering::Relaxed) {
        let count = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            if event.data() == SENT {
                sent.read()?;
                continue;
            }
            match servers[event.data() as usize].read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(length) => received += length as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}
