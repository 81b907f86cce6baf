//! Network namespaces that live as long as their value.

use std::fs::{self, File};
use std::net::{IpAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{self, Command};
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use super::sock::{self, Pair, listen_at, unconnected};
use super::wait::until_true;

/// A network namespace. Only a descriptor keeps it alive, no file.
pub struct Netns(File);

impl Netns {
    /// With its loopback device up.
    pub fn new() -> Netns {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("unshare");
            ip("link set lo up");
            File::open("/proc/thread-self/ns/net").expect("/proc is mounted")
        };
        Netns(thread::scope(|scope| scope.spawn(make).join().expect("a new namespace")))
    }

    /// Runs `work` on a thread in this namespace. The sockets and processes that `work`
    /// makes stay in the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter();
            work()
        };
        thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A path to it, as long as it lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd()).into()
    }

    /// Moves the calling thread into the namespace for good.
    pub fn enter(&self) {
        setns(&self.0, CloneFlags::CLONE_NEWNET).expect("setns");
    }

    /// Joins two namespaces with a veth pair, `veth0` at both ends.
    pub fn join(&self, address: IpAddr, other: &Netns, other_address: IpAddr) {
        self.join_by("veth0", address, other, other_address);
    }

    /// The same with another name of the device at this end.
    pub fn join_by(&self, device: &str, address: IpAddr, other: &Netns, other_address: IpAddr) {
        let target = other.path();
        let target = target.display();
        self.run(|| ip(&format!("link add {device} type veth peer name veth0 netns {target}")));
        for (netns, device, address) in [(self, device, address), (other, "veth0", other_address)] {
            let (prefix, nodad) = if address.is_ipv4() { (24, "") } else { (64, "nodad") };
            netns.run(|| {
                if address.is_ipv6() {
                    fs::write(format!("/proc/sys/net/ipv6/conf/{device}/accept_dad"), "0")
                        .expect("accept_dad");
                }
                ip(&format!("address add {address}/{prefix} dev {device} {nodad}"));
                ip(&format!("link set {device} up"));
            });
        }
        // The link may need a second to come up; until then packets are dropped.
        for (netns, device) in [(self, device), (other, "veth0")] {
            netns.run(|| {
                until_true("the link to be up", || {
                    run("ip", &format!("link show dev {device}"))
                        .is_ok_and(|text| text.contains("state UP"))
                });
            });
        }
    }

    /// Sets a sysctl of the namespace (a path below /proc/sys).
    pub fn sysctl(&self, path: &str, value: &str) {
        self.run(|| {
            fs::write(format!("/proc/sys/{path}"), value).unwrap_or_else(|e| panic!("{path}: {e}"))
        });
    }
}

/// Two namespaces. netem delays or drops the packets on their link, both ways.
pub struct BadLink {
    pub near: Netns,
    pub far: Netns,
    pub listener: TcpListener,
}

impl BadLink {
    /// The kernel's error if it has no netem.
    pub fn new(netem: &str) -> Result<BadLink, String> {
        let (near, far) = (Netns::new(), Netns::new());
        near.join([10, 86, 0, 1].into(), &far, [10, 86, 0, 2].into());
        let listener = far.run(|| listen_at(([10, 86, 0, 2], 0).into()));
        let link = BadLink { near, far, listener };
        for netns in [&link.near, &link.far] {
            // netem treats what the device would cut into segments as one packet.
            netns.run(|| ip("link set dev veth0 gso_max_segs 1"));
            netns.run(|| run("tc", &format!("qdisc add dev veth0 root netem {netem}")))?;
        }
        Ok(link)
    }

    pub fn connect(&self) -> Pair {
        let server = self.listener.local_addr().expect("bound");
        let client = self.near.run(|| {
            let client = unconnected(server, None);
            sock::connect_socket(&client, server).expect("connect");
            client
        });
        Pair::accept(&self.listener, client)
    }

    /// Makes the link a good one. For what is sent once only, as a reset is.
    pub fn mend(&self) {
        for netns in [&self.near, &self.far] {
            netns.run(|| run("tc", "qdisc del dev veth0 root")).expect("tc");
        }
    }
}

/// Runs iproute2 in the namespace of the calling thread.
pub fn ip(arguments: &str) {
    assert!(run("ip", arguments).is_ok(), "ip {arguments}");
}

/// Runs a command whose arguments hold no blanks. Returns its stdout, or its stderr if it
/// failed.
pub fn run(program: &str, arguments: &str) -> Result<String, String> {
    let output = Command::new(program).args(arguments.split_ascii_whitespace()).output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}
