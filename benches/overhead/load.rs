//! What the loads have in common: the trait, the result of a run, and two threads.
//!
//! A load keeps its sockets from run to run, so that the two runs of a pair differ only in
//! the subject. Its two ends are two pinned threads, whose CPU time is measured separately.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::process;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};

use crate::machine::{self, Cpu};

/// Bytes of a small message.
pub const SMALL: usize = 64;

/// The first byte of a message that ends a run.
pub const STOP: u8 = 1;

/// The number of connections or peers in the loads with many of them.
pub const MANY: usize = 1_000;

/// One run of a load.
#[derive(Clone, Copy, Debug, Default)]
pub struct Run {
    /// Completed operations.
    pub operations: u64,
    /// Attempted operations: all datagrams sent, also those that found no room.
    pub attempts: u64,
    pub wall: Duration,
    /// CPU time of the generators' threads, without those that poll.
    pub cpu: Cpu,
    /// How late the slowest hundredth and the slowest thousandth of the operations were at
    /// least, if that was measured.
    pub tail: Option<[Duration; 2]>,
}

impl Run {
    pub fn per_second(&self) -> f64 {
        self.operations as f64 / self.wall.as_secs_f64()
    }

    /// Nanoseconds per operation.
    pub fn per_operation(&self, time: Duration) -> f64 {
        time.as_nanos() as f64 / self.operations as f64
    }

    /// The run as a line, to send from one process to another.
    pub fn encode(&self) -> String {
        let nanoseconds = |time: Duration| time.as_nanos() as u64;
        let (user, system) = (nanoseconds(self.cpu.user), nanoseconds(self.cpu.system));
        format!("{} {} {} {user} {system}", self.operations, self.attempts, nanoseconds(self.wall))
    }

    /// Parses such a line.
    pub fn decode(line: &str) -> Option<Run> {
        let numbers: Vec<u64> = line.split(' ').map_while(|word| word.parse().ok()).collect();
        let [operations, attempts, wall, user, system] = numbers[..] else { return None };
        let [wall, user, system] = [wall, user, system].map(Duration::from_nanos);
        Some(Run { operations, attempts, wall, cpu: Cpu { user, system }, tail: None })
    }
}

/// Something that can be run again and again.
pub trait Load {
    /// Runs for about this time.
    fn run(&mut self, time: Duration) -> Result<Run>;
}

/// What a thread did, and the time that it took.
pub struct Side<T> {
    pub value: T,
    pub wall: Duration,
    pub cpu: Cpu,
}

/// Runs both ends of a load, each on its processor.
pub fn both<A: Send, B: Send>(
    cpus: [usize; 2],
    client: impl FnOnce() -> io::Result<A> + Send,
    server: impl FnOnce() -> io::Result<B> + Send,
) -> Result<(Side<A>, Side<B>)> {
    thread::scope(|scope| {
        let server = scope.spawn(move || accounted(cpus[1], server));
        let client = scope.spawn(move || accounted(cpus[0], client));
        let client = client.join().map_err(|_| anyhow!("the client panicked"))?;
        Ok((client, server.join().map_err(|_| anyhow!("the server panicked"))?))
    })
}

/// Does a thread's work on its processor. Where that fails, the whole load does.
pub fn accounted<T>(cpu: usize, work: impl FnOnce() -> io::Result<T>) -> Side<T> {
    let accounted = || {
        machine::pin(cpu)?;
        let (start, before) = (Instant::now(), Cpu::of_thread()?);
        let value = work()?;
        Ok(Side { value, wall: start.elapsed(), cpu: Cpu::of_thread()?.since(before) })
    };
    accounted().unwrap_or_else(|error: io::Error| {
        // End the process: the other end would wait for this one for ever.
        eprintln!("overhead: error: a load failed: {error}");
        process::exit(1)
    })
}

/// Repeats `operation` until the time is over. Returns the number of repetitions. Reads the
/// clock only every sixteenth time.
pub fn repeat(time: Duration, mut operation: impl FnMut(u64) -> io::Result<()>) -> io::Result<u64> {
    let end = Instant::now() + time;
    let mut count = 0;
    while count % 16 != 0 || Instant::now() < end {
        operation(count)?;
        count += 1;
    }
    Ok(count)
}

/// The i-th of many addresses of the loopback device, from 127.BLOCK.0.0 on.
pub fn loopback(block: u8, index: usize) -> Ipv4Addr {
    let [_, b, c, d] = (index as u32).to_be_bytes();
    Ipv4Addr::new(127, block + b, c, d)
}

/// Both ends of a new connection to one of the listener's addresses.
pub fn connect(listener: &TcpListener, address: Ipv4Addr) -> Result<(TcpStream, TcpStream)> {
    let port = listener.local_addr().context("a listener has an address")?.port();
    let client =
        TcpStream::connect(SocketAddrV4::new(address, port)).context("failed to connect")?;
    let (server, _) = listener.accept().context("failed to accept")?;
    client.set_nodelay(true).and(server.set_nodelay(true)).context("failed to set TCP_NODELAY")?;
    Ok((client, server))
}

pub fn listen() -> Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).context("failed to listen")
}
