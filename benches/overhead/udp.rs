//! UDP: a flood over a connected socket, one to many peers, a server's answers.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::load::{Load, MANY, Run, SMALL, STOP, both, loopback, repeat};

/// Receive buffer: room for datagrams that come while the receiver is off its processor.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;

/// The time between two polls of the sockets, in which about ten datagrams arrive.
const REST: Duration = Duration::from_micros(30);

/// A receiver that has waited this long checks whether the sender has ended.
const END: Duration = Duration::from_millis(20);

/// First part of the peers' addresses: 127.2.0.0 and up.
const BLOCK: u8 = 2;

/// The number of sockets that receive for the peers, each with its own port: peers differ in
/// address or port.
const RECEIVERS: usize = 250;

/// Sends datagrams as fast as possible. Only datagrams that arrive count as operations. The
/// CPU time is the sender's, which includes the kernel's receiving side.
pub struct Flood {
    sender: UdpSocket,
    receivers: Vec<UdpSocket>,
    /// The peers, to send to in turn; empty if the socket is connected.
    peers: Vec<SocketAddr>,
    cpus: [usize; 2],
    /// If true, the receiver polls and sleeps in between, so that it finds several datagrams
    /// at a time and the sender never has to wake it up. Otherwise it waits in its system
    /// call, as most programs do.
    polled: bool,
}

impl Flood {
    pub fn connected(cpus: [usize; 2], polled: bool) -> Result<Flood> {
        let (sender, receiver) = (bind(Ipv4Addr::LOCALHOST)?, bind(Ipv4Addr::LOCALHOST)?);
        sender.connect(receiver.local_addr()?).context("failed to connect")?;
        receiver.connect(sender.local_addr()?).context("failed to connect")?;
        Flood { sender, receivers: vec![receiver], peers: Vec::new(), cpus, polled }.prepared()
    }

    /// From one unconnected socket to a thousand peers in turn.
    pub fn unconnected(cpus: [usize; 2]) -> Result<Flood> {
        let sender = bind(Ipv4Addr::UNSPECIFIED)?;
        let receivers =
            (0..RECEIVERS).map(|_| bind(Ipv4Addr::UNSPECIFIED)).collect::<Result<Vec<_>>>()?;
        let peers = (0..MANY)
            .map(|index| {
                let port = receivers[index % RECEIVERS].local_addr()?.port();
                Ok(SocketAddrV4::new(loopback(BLOCK, 1 + index / RECEIVERS), port).into())
            })
            .collect::<Result<_>>()?;
        Flood { sender, receivers, peers, cpus, polled: true }.prepared()
    }

    fn prepared(self) -> Result<Flood> {
        for receiver in &self.receivers {
            if self.polled {
                receiver.set_nonblocking(true).context("failed to set O_NONBLOCK")?;
            } else {
                receiver.set_read_timeout(Some(END)).context("failed to set SO_RCVTIMEO")?;
            }
            enlarge(receiver).context("failed to set SO_RCVBUFFORCE")?;
        }
        Ok(self)
    }

    fn receive(&self, over: &AtomicBool) -> io::Result<u64> {
        let mut buffer = [0; SMALL];
        let mut count = 0;
        loop {
            // Checked before the sockets are read: if the sender has ended, all of its
            // datagrams are there.
            let last = over.load(Ordering::Acquire);
            for receiver in &self.receivers {
                loop {
                    match receiver.recv(&mut buffer) {
                        Ok(_) => count += 1,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    }
                }
            }
            if last {
                return Ok(count);
            }
            let looked = Instant::now();
            while self.polled && looked.elapsed() < REST {
                std::hint::spin_loop();
            }
        }
    }
}

impl Load for Flood {
    fn run(&mut self, time: Duration) -> Result<Run> {
        let over = AtomicBool::new(false);
        let flood = &*self;
        let (sender, receiver) = both(
            self.cpus,
            || {
                let message = [0; SMALL];
                let sent = if flood.peers.is_empty() {
                    repeat(time, |_| flood.sender.send(&message).map(drop))
                } else {
                    repeat(time, |count| {
                        let peer = flood.peers[count as usize % MANY];
                        flood.sender.send_to(&message, peer).map(drop)
                    })
                };
                over.store(true, Ordering::Release);
                sent
            },
            || flood.receive(&over),
        )?;
        Ok(Run {
            operations: receiver.value,
            attempts: sender.value,
            wall: sender.wall,
            cpu: sender.cpu,
            ..Run::default()
        })
    }
}

/// One unconnected socket answers a thousand others, as a name server does.
pub struct Answer {
    clients: Vec<UdpSocket>,
    server: UdpSocket,
    cpus: [usize; 2],
}

/// The most questions on their way at a time: so many fit into the server's receive buffer.
const WINDOW: usize = 50;

impl Answer {
    pub fn new(cpus: [usize; 2]) -> Result<Answer> {
        let server = bind(Ipv4Addr::UNSPECIFIED)?;
        enlarge(&server).context("failed to set SO_RCVBUFFORCE")?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, server.local_addr()?.port());
        let clients = (0..MANY)
            .map(|_| {
                let client = bind(Ipv4Addr::LOCALHOST)?;
                client.connect(address).context("failed to connect")?;
                // With a timeout, a lost datagram is an error, not an endless run.
                client.set_read_timeout(Some(Duration::from_secs(5)))?;
                Ok(client)
            })
            .collect::<Result<_>>()?;
        Ok(Answer { clients, server, cpus })
    }
}

impl Load for Answer {
    fn run(&mut self, time: Duration) -> Result<Run> {
        let (clients, server) = (&self.clients, &self.server);
        let (client, server) = both(
            self.cpus,
            || {
                let ask = |message: [u8; SMALL], sockets: &[UdpSocket]| {
                    let mut answer = [0; SMALL];
                    for socket in sockets {
                        socket.send(&message)?;
                    }
                    sockets.iter().try_for_each(|socket| socket.recv(&mut answer).map(drop))
                };
                let rounds = repeat(time, |round| {
                    let first = round as usize * WINDOW % MANY;
                    ask([0; SMALL], &clients[first..first + WINDOW])
                })?;
                ask([STOP; SMALL], &clients[..1])?;
                Ok(rounds * WINDOW as u64)
            },
            || {
                let mut message = [0; SMALL];
                while message[0] != STOP {
                    let (length, client) = server.recv_from(&mut message)?;
                    server.send_to(&message[..length], client)?;
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

fn bind(address: Ipv4Addr) -> Result<UdpSocket> {
    UdpSocket::bind((address, 0)).context("failed to make a UDP socket")
}

fn enlarge(socket: &UdpSocket) -> io::Result<()> {
    let size = RECEIVE_BUFFER;
    // SAFETY: the pointer is to an int, which the option takes.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const size).cast(),
            size_of_val(&size) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
