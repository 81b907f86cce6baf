//! Many short connections, each with its own sizes and its own ending. The account is a
//! file that lists them. The two ends run in two agents.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use super::rng::Rng;
use super::sock::{self, Ends};

/// Threads at each end: the machines have two processors.
const THREADS: u32 = 2;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    ClientCloses,
    ServerCloses,
    ClientResets,
    ServerResets,
}

impl Ending {
    const ALL: [Ending; 4] =
        [Ending::ClientCloses, Ending::ServerCloses, Ending::ClientResets, Ending::ServerResets];

    /// The `end=` that tcptop should show for the client's and for the server's socket.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Ending::ClientCloses | Ending::ServerCloses => ("fin", "fin"),
            Ending::ClientResets => ("abort", "rst"),
            Ending::ServerResets => ("rst", "abort"),
        }
    }
}

/// One connection of an account.
#[derive(Debug)]
pub struct Entry {
    /// As the client sees it.
    pub ends: Ends,
    pub up: u64,
    pub down: u64,
    pub ending: Ending,
}

/// What a connection does. The client sends it to the server in its first bytes.
struct Plan {
    up: u16,
    down: u16,
    ending: u8,
}

impl Plan {
    const LENGTH: usize = 5;

    fn number(index: u32) -> Plan {
        let mut rng = Rng::new(u64::from(index));
        let up = Plan::LENGTH as u64 + rng.below(500);
        Plan { up: up as u16, down: rng.below(500) as u16, ending: rng.below(4) as u8 }
    }

    fn encode(&self) -> [u8; Plan::LENGTH] {
        let ([a, b], [c, d]) = (self.up.to_be_bytes(), self.down.to_be_bytes());
        [a, b, c, d, self.ending]
    }

    fn decode([a, b, c, d, ending]: [u8; Plan::LENGTH]) -> Plan {
        Plan { up: u16::from_be_bytes([a, b]), down: u16::from_be_bytes([c, d]), ending }
    }

    fn ending(&self) -> Ending {
        Ending::ALL[usize::from(self.ending)]
    }
}

/// Listens, and serves in the background.
pub fn serve(address: SocketAddr, connections: u32) -> io::Result<SocketAddr> {
    let listener = sock::listen_at(address);
    let address = listener.local_addr()?;
    let accepted = AtomicU32::new(0);
    thread::spawn(move || {
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while accepted.fetch_add(1, Ordering::Relaxed) < connections {
                        serve_one(&listener).expect("serve");
                    }
                });
            }
        });
    });
    Ok(address)
}

fn serve_one(listener: &TcpListener) -> io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    let mut buffer = [0; 1024];
    stream.read_exact(&mut buffer[..Plan::LENGTH])?;
    let plan = Plan::decode(std::array::from_fn(|i| buffer[i]));
    stream.read_exact(&mut buffer[Plan::LENGTH..usize::from(plan.up)])?;
    stream.write_all(&buffer[..usize::from(plan.down)])?;
    match plan.ending() {
        Ending::ClientCloses => assert_eq!(stream.read(&mut buffer)?, 0),
        Ending::ServerCloses => {}
        Ending::ClientResets => {
            let error = stream.read(&mut buffer).expect_err("a reset");
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        Ending::ServerResets => sock::reset(stream),
    }
    Ok(())
}

/// Makes the connections and writes the account.
pub fn run(server: SocketAddr, connections: u32, account: &str) -> io::Result<()> {
    let next = AtomicU32::new(0);
    let accounts: Vec<String> = thread::scope(|scope| {
        let work = || {
            let mut lines = String::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= connections {
                    return lines;
                }
                let plan = Plan::number(index);
                let local = play(server, index, &plan).expect("a connection");
                lines += &format!("{local} {server} {} {} {}\n", plan.up, plan.down, plan.ending);
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("churn")).collect()
    });
    fs::write(account, accounts.concat())
}

/// One connection, from one of many addresses so that ports do not run out.
fn play(server: SocketAddr, index: u32, plan: &Plan) -> io::Result<SocketAddr> {
    let local = match server.ip().is_loopback() {
        true => sock::loopback(2 + (index % 200) as u8),
        false => Ipv4Addr::UNSPECIFIED,
    };
    let mut stream: TcpStream = sock::unconnected_from(local, server);
    sock::connect_socket(&stream, server)?;
    let address = stream.local_addr()?;
    let mut buffer = [b'c'; 1024];
    buffer[..Plan::LENGTH].copy_from_slice(&plan.encode());
    stream.write_all(&buffer[..usize::from(plan.up)])?;
    let reply = stream.read_exact(&mut buffer[..usize::from(plan.down)]);
    match plan.ending() {
        Ending::ClientCloses => reply?,
        Ending::ServerCloses => {
            reply?;
            assert_eq!(stream.read(&mut buffer)?, 0);
        }
        Ending::ClientResets => {
            reply?;
            sock::reset(stream);
        }
        // The reset may arrive before the reply was read, so the reply may be missing. But
        // the reset must arrive before the client closes.
        Ending::ServerResets => sock::await_closed(&stream),
    }
    Ok(address)
}

/// Reads the account that [`run`] left.
pub fn read_account(text: &str) -> Vec<Entry> {
    let parse = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let address = |i: usize| words[i].parse().expect("an address");
        let number = |i: usize| words[i].parse().expect("a number");
        let ends = Ends { local: address(0), remote: address(1) };
        Entry { ends, up: number(2), down: number(3), ending: Ending::ALL[number(4) as usize] }
    };
    text.lines().map(parse).collect()
}
