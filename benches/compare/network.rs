//! Three network namespaces: `near`, where the tools run and which they take for the host;
//! `far`, another host; `inside`, a container whose packets `near` forwards.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::{Context, Result};

use crate::common::netns::{Netns, ip, run};
use crate::results::Bytes;

pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 87, 0, 2);
pub const INSIDE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);

/// The device of `near` on which all packets to and from `far` are.
pub const DEVICE: &str = "veth0";

/// The speed of the link between `near` and `far`.
const PACE: &str = "qdisc add dev veth0 root handle 1: tbf rate 200mbit burst 32kb latency 200ms";

pub struct Network {
    pub far: Netns,
    pub inside: Netns,
    /// Whether the kernel limits the speed of the link.
    pub is_paced: bool,
}

impl Network {
    /// Makes the namespaces. The calling thread, and what it starts, is in `near` afterwards.
    pub fn new() -> Network {
        let [near, far, inside] = [Netns::new(), Netns::new(), Netns::new()];
        for netns in [&near, &far, &inside] {
            // No packets but those of the loads.
            netns.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
            netns.sysctl("net/ipv6/conf/default/disable_ipv6", "1");
            netns.sysctl("net/ipv4/ip_local_port_range", "2048 65001");
            // A kernel that forgets connections in TIME_WAIT answers their peers with a reset.
            netns.sysctl("net/ipv4/tcp_max_tw_buckets", "262144");
        }
        near.join_by(DEVICE, NEAR.into(), &far, FAR.into());
        near.join_by("veth1", GATEWAY.into(), &inside, INSIDE.into());
        near.sysctl("net/ipv4/ip_forward", "1");
        inside.run(|| ip(&format!("route add default via {GATEWAY}")));
        far.run(|| ip(&format!("route add {INSIDE} via {NEAR}")));
        // An unlimited link would make bursts of gigabytes a second, and packets of 64 KiB.
        let paced = [&near, &far].map(|netns| netns.run(|| run("tc", PACE)));
        near.enter();
        Network { far, inside, is_paced: paced.iter().all(Result::is_ok) }
    }

    /// Loses and delays what `far` sends; false if the kernel has no netem.
    pub fn spoil(&self) -> bool {
        let place = if self.is_paced { "parent 1:1" } else { "root" };
        let command = format!("qdisc add dev veth0 {place} netem loss 1% delay 2ms");
        self.far.run(|| run("tc", &command).is_ok())
    }
}

/// Whether a socket with this address is on what a tool takes for the host.
pub fn is_here(address: IpAddr) -> bool {
    [NEAR, INSIDE].iter().any(|here| *here == address)
}

/// Sends a packet that belongs to no load.
pub fn send_one() -> Result<()> {
    let socket = UdpSocket::bind((NEAR, 0)).context("failed to make a socket")?;
    socket.send_to(b"x", (FAR, 9)).map(drop).context("failed to send")
}

/// The bytes of all packets on the device so far, headers included.
pub fn on_the_wire() -> Result<Bytes> {
    let text = fs::read_to_string("/proc/thread-self/net/dev").context("no list of devices")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix(DEVICE)?.strip_prefix(':'));
    let words: Vec<&str> = line.context("the device is gone")?.split_ascii_whitespace().collect();
    let [received, _, _, _, _, _, _, _, sent, ..] = words[..] else {
        anyhow::bail!("failed to parse /proc/net/dev");
    };
    Ok(Bytes { received: received.parse()?, sent: sent.parse()? })
}
