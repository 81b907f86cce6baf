//! Open sockets that do nothing. Both ends of a connection are on this host, so a connection
//! is two sockets, as tcptop lists them.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};

use anyhow::{Context, Result, bail};

use crate::machine;
use crate::reexec;
use crate::role::Role;

/// Sockets in a process, at most.
const GROUP: usize = 18_000;

/// The ports of the groups, below the ephemeral ones.
const PORT: u16 = 1025;

/// Idle sockets, in as many processes as it takes.
pub struct Sockets(Vec<Role>);

impl Sockets {
    pub fn open(count: usize) -> Result<Sockets> {
        let mut roles = Vec::new();
        let mut left = count;
        while left > 0 {
            let group = left.min(GROUP);
            let port = PORT + u16::try_from(roles.len())?;
            roles.push(Role::start(&["idle", &port.to_string(), &group.to_string()])?);
            left -= group;
        }
        Ok(Sockets(roles))
    }

    pub fn close(self) -> Result<()> {
        self.0.into_iter().try_for_each(Role::end)
    }
}

/// The role that keeps idle sockets.
pub fn play(port: u16, sockets: usize) -> Result<()> {
    let _open = connections(port, sockets)?;
    reexec::say("ready")?;
    reexec::serve(|_| bail!("nothing to ask"))
}

/// This many sockets: both ends of half as many connections. They end with a reset, so that
/// a million of them can go away without waiting for each other.
pub fn connections(port: u16, sockets: usize) -> Result<Vec<(TcpStream, TcpStream)>> {
    machine::limit_descriptors()?;
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let listener = TcpListener::bind(address).context("failed to listen")?;
    (0..sockets / 2)
        .map(|_| {
            let client = TcpStream::connect(address).context("failed to connect")?;
            let (server, _) = listener.accept().context("failed to accept")?;
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(&client, nix::sys::socket::sockopt::Linger, &linger)
                .context("failed to set SO_LINGER")?;
            Ok((client, server))
        })
        .collect()
}
