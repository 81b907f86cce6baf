//! UDP flows: datagrams and bytes at both ends, owners, the life of a flow.
//!
//! Two providers can count datagrams; tcptop's own descriptors show which one does. Their
//! counts differ if a receive buffer overflows.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::process;

use crate::common::netns::Netns;
use crate::common::sock::{Ends, set_int};
use crate::common::tcptop::{Output, Row, Tcptop};
use crate::common::udp::{self, Duo, check_flow, wait_totals};

use super::Test;

mod addresses;
mod counts;
mod lives;
mod losses;
mod options;
mod oracles;
mod owners;

pub fn tests() -> Vec<Test> {
    let rooms = [
        counts::tests(),
        addresses::tests(),
        owners::tests(),
        lives::tests(),
        losses::tests(),
        oracles::tests(),
        options::tests(),
    ];
    rooms.into_iter().flatten().collect()
}

/// The provider that counts the datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Counts datagrams that arrive at the socket.
    CgroupSkb,
    /// Counts datagrams that a process takes from the socket.
    Entry,
}

impl Provider {
    /// The provider that this tcptop has attached.
    pub fn of(tcptop: &Tcptop) -> Provider {
        if tcptop.has_link("cgroup") { Provider::CgroupSkb } else { Provider::Entry }
    }
}

/// Whether tcptop learns which process receives on a socket. With cgroup_skb it needs a
/// tracepoint for that (Linux 6.3); without the tracepoint it looks up who holds the socket.
pub fn sees_receivers(tcptop: &Tcptop) -> bool {
    Provider::of(tcptop) == Provider::Entry || tcptop.has_tracepoint("sock_recv_length")
}

/// The rows of sockets with these local ports and any address.
fn of_ports<'a>(output: &'a Output, ports: &'a [u16]) -> impl Iterator<Item = &'a Row> {
    output.rows.iter().filter(|row| ports.contains(&row.ends.local.port()))
}

/// Checks that both flows of each pair are exact and belong to this process, and that there
/// are no other flows.
pub fn check_duos(output: &Output, duos: &[Duo]) {
    for duo in duos {
        for (ends, totals) in duo.expected() {
            check_flow(output, ends, totals, process::id());
        }
    }
    let expected: BTreeSet<Ends> =
        duos.iter().flat_map(|duo| [duo.ends, duo.ends.flipped()]).collect();
    let ports: Vec<u16> = expected.iter().map(|ends| ends.local.port()).collect();
    let other = of_ports(output, &ports).find(|row| !expected.contains(&row.ends));
    assert_eq!(other, None, "0.0.0.0, or one flow twice");
}

pub fn wait_duos(tcptop: &Tcptop, duos: &[Duo]) {
    for (ends, totals) in duos.iter().flat_map(Duo::expected) {
        wait_totals(tcptop, ends, totals);
    }
}

/// A receive buffer for a whole batch: each datagram takes 2 KiB or more.
pub fn roomy(socket: &UdpSocket) {
    set_int(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 16 << 20);
}

/// Two namespaces with a link between them, and sockets at both ends of it.
pub struct Link {
    pub here: Netns,
    pub there: Netns,
    pub addresses: [IpAddr; 2],
}

impl Link {
    pub fn new(here: &str, there: &str) -> Link {
        let addresses = [here, there].map(|text| text.parse().expect("an address"));
        let link = Link { here: Netns::new(), there: Netns::new(), addresses };
        link.here.join(addresses[0], &link.there, addresses[1]);
        link
    }

    /// The index of the link's device.
    pub fn device(netns: &Netns) -> u32 {
        netns.run(|| {
            let text = fs::read_to_string("/proc/thread-self/net/dev_snmp6/veth0");
            let text = text.expect("the device has IPv6");
            let line = text.lines().find(|line| line.starts_with("ifIndex")).expect("ifIndex");
            line.split_ascii_whitespace().nth(1).and_then(|text| text.parse().ok()).expect("number")
        })
    }

    /// A connected socket here and the one it is connected to.
    pub fn pair(&self) -> (UdpSocket, UdpSocket, Ends) {
        let [here, there] = self.addresses;
        let other = self.there.run(|| udp::bind((there, 0).into()));
        let to = other.local_addr().expect("bound");
        let one = self.here.run(|| {
            let socket = udp::bind((here, 0).into());
            socket.connect(to).expect("connect");
            socket
        });
        let ends = Ends::new(one.local_addr().expect("bound"), to);
        (one, other, ends)
    }
}
