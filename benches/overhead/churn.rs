//! Connection churn, and a check that tcptop reported the end of every connection.
//!
//! Connection number i goes to the i-th loopback address, so each connection can be
//! recognised in the output.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::load::{Load, Run, STOP, both, loopback, repeat};

/// Bytes that a client sends.
const PAYLOAD: usize = 100;

/// The most connections that may wait for the server: fewer than its backlog, so that no
/// SYN is ever dropped and sent again a second later.
const BEHIND: u64 = 512;

/// First part of the addresses: 127.1.0.0 and up.
const BLOCK: u8 = 1;

/// The server's port. A fixed one, so that the check of the output knows it.
const PORT: u16 = 1999;

/// Connects, sends, closes; the server reads up to the end and closes too.
pub struct Churn {
    listener: TcpListener,
    cpus: [usize; 2],
}

impl Churn {
    pub fn new(cpus: [usize; 2]) -> Result<Churn> {
        let listener =
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).context("failed to listen")?;
        // The standard library's backlog is 128.
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096)?)
            .context("failed to listen")?;
        Ok(Churn { listener, cpus })
    }
}

impl Load for Churn {
    fn run(&mut self, time: Duration) -> Result<Run> {
        let served = AtomicU64::new(0);
        let (client, server) = both(
            self.cpus,
            || {
                let connections = repeat(time, |index| {
                    while index - served.load(Ordering::Relaxed) > BEHIND {
                        thread::yield_now();
                    }
                    play(index, 0)
                })?;
                play(connections, STOP)?;
                Ok(connections + 1)
            },
            || {
                let mut buffer = [0; PAYLOAD];
                while buffer[0] != STOP {
                    let (mut stream, _) = self.listener.accept()?;
                    stream.read_exact(&mut buffer)?;
                    if stream.read(&mut [0])? != 0 {
                        return Err(ErrorKind::InvalidData.into());
                    }
                    drop(stream);
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            },
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

fn play(index: u64, first: u8) -> io::Result<()> {
    let address = SocketAddrV4::new(loopback(BLOCK, index as usize), PORT);
    let mut stream = TcpStream::connect(address)?;
    let mut payload = [0; PAYLOAD];
    payload[0] = first;
    stream.write_all(&payload)
}

/// Checks that the output of tcptop has both ends of each connection, once
/// each and with the bytes that were sent.
pub fn check(output: &Path, connections: u64) -> Result<()> {
    let text = fs::read_to_string(output).context("failed to read tcptop's output")?;
    let connections = usize::try_from(connections)?;
    let mut seen = [vec![0_u32; connections], vec![0_u32; connections]];
    for line in text.lines().filter_map(|line| line.strip_prefix("[CLOSED] TCP ")) {
        let Some((side, index)) = parse(line) else { continue };
        let expected = [" in=0B out=100B ", " in=100B out=0B "][side];
        let count = seen[side].get_mut(index);
        let count = count.with_context(|| format!("tcptop invented a connection: {line}"))?;
        *count += 1;
        if !line.contains(expected) {
            bail!("tcptop counted wrong: {line}");
        }
    }
    for (side, seen) in ["client", "server"].iter().zip(seen) {
        let lost = seen.iter().filter(|&&count| count == 0).count();
        let twice = seen.iter().filter(|&&count| count > 1).count();
        if lost + twice > 0 {
            bail!(
                "of {connections} connections tcptop lost {lost} and reported {twice} twice ({side}'s end)"
            );
        }
    }
    Ok(())
}

/// The end (0 for the client's) and the number of the connection in a line of the form
/// `LOCAL -> REMOTE (...`; `None` if the connection belongs to another load.
fn parse(line: &str) -> Option<(usize, usize)> {
    let mut words = line.split(' ');
    let local: SocketAddrV4 = words.next()?.parse().ok()?;
    let remote: SocketAddrV4 = words.nth(1)?.parse().ok()?;
    let (side, address) = match (local.port(), remote.port()) {
        (_, PORT) => (0, remote),
        (PORT, _) => (1, local),
        _ => return None,
    };
    let base = u32::from(loopback(BLOCK, 0));
    Some((side, u32::from(*address.ip()).checked_sub(base)? as usize))
}
