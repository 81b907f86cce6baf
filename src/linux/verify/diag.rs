//! Asks the kernel for the `tcp_info` of every TCP connection, over `sock_diag`(7).
//!
//! Owns the netlink socket and the walk through the network namespaces: the kernel answers
//! for the namespace that the socket was made in.

use std::collections::HashMap;
use std::path::Path;
use std::{fs, io, thread};

use anyhow::{Context, Result, anyhow, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sched::{CloneFlags, setns};

use super::super::seed;
use super::inet_diag::{Answer, Family, Message};

/// The kernel's totals of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Totals {
    /// `tcpi_bytes_received`: in order, with a byte for the peer's FIN.
    pub(super) received: u64,
    /// True where the peer's FIN has come.
    pub(super) fin: bool,
    /// `tcpi_bytes_sent`, with what was sent again.
    pub(super) sent: u64,
    /// `tcpi_bytes_retrans`.
    pub(super) retransmitted: u64,
    /// `tcpi_bytes_acked`, with SYN and FIN.
    pub(super) acked: u64,
}

/// All TCP connections of the host, by the cookies of their sockets.
pub(super) struct Dump {
    /// Addresses, for messages, and totals.
    pub(super) sockets: HashMap<u64, (String, Totals)>,
    /// The namespaces that are not among them.
    pub(super) missed: Option<String>,
}

impl Dump {
    /// Asks in every network namespace that has a process or a name.
    ///
    /// # Errors
    /// Where the kernel does not answer in tcptop's own namespace.
    pub(super) fn take() -> Result<Dump> {
        let mut dump = Dump { sockets: HashMap::new(), missed: None };
        dump.add().context("failed to ask the kernel for TCP connections (sock_diag)")?;
        thread::scope(|scope| {
            let visitor = scope.spawn(|| {
                let mut others = Dump { sockets: HashMap::new(), missed: None };
                others.missed = seed::visit_others(|path| {
                    enter(path)?;
                    others.add().map_err(io::Error::other)
                });
                others
            });
            let others = visitor.join().map_err(|_| anyhow!("the look-up of sockets panicked"))?;
            dump.sockets.extend(others.sockets);
            dump.missed = others.missed.map(|where_| format!("cannot compare {where_}"));
            Ok(dump)
        })
    }

    /// Adds the connections of the namespace of this thread.
    fn add(&mut self) -> Result<()> {
        for family in [Family::V4, Family::V6] {
            self.add_family(family)?;
        }
        Ok(())
    }

    fn add_family(&mut self, family: Family) -> Result<()> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message =
            NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Message::Request(family)));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        socket.send(&bytes, 0)?;
        loop {
            let (bytes, _) = socket.recv_from_full()?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<Message>::deserialize(rest)?;
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length.max(4)..).unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(Message::Answer(answer)) => {
                        self.take_socket(&answer);
                    }
                    NetlinkPayload::Done(_) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    NetlinkPayload::Overrun(_) => bail!("the kernel's answer was cut off"),
                    _ => {}
                }
            }
        }
    }

    fn take_socket(&mut self, answer: &Answer) {
        let Answer { cookie, local, remote, totals } = answer;
        if let Some(totals) = totals {
            self.sockets.insert(*cookie, (format!("{local} -> {remote}"), *totals));
        }
    }
}

fn enter(path: &Path) -> io::Result<()> {
    setns(fs::File::open(path)?, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}
