//! The filters: which connections to show, as the user typed it.
//!
//! Owns [`Query`] and the parsers of its values. What needs a look at the host (devices,
//! users, processes) stays text here; [`filter`](crate::filter) decides about connections.

use std::net::IpAddr;

use clap::Args;
use ipnet::{IpNet, Ipv4Net};

use super::choice::{Choice, choice};
use crate::connection::{Family, Needs, Protocol, TcpState};

/// Which connections to show. An option that is not given lets every connection pass.
/// Every option that is given must match; one with several values matches with any of its
/// plain values, if none of its negated ones matches (see
/// [`admits`](super::choice::admits)).
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
#[command(next_help_heading = "Filters")]
pub struct Query {
    /// Only this port, at either end
    ///
    /// Every filter with a value can be repeated: any of its values. A value after
    /// '!' leaves out what matches it: --port '!22' shows what has port 22 at neither
    /// end. Of several different filters, all must hold.
    #[arg(long = "port", value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = choice(port))]
    pub ports: Vec<Choice<u16>>,

    /// Only what this process owns
    ///
    /// The owner is the process that last connected, accepted, sent or received
    /// on the socket.
    #[arg(long = "pid", value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = choice(pid))]
    pub pids: Vec<Choice<u32>>,

    /// Only owners with NAME in their name
    ///
    /// Upper and lower case differ. The kernel keeps the first 15 bytes of a
    /// process's name.
    #[arg(long = "process", value_name = "NAME", value_parser = choice(process))]
    pub processes: Vec<Choice<String>>,

    /// Only what goes through this device
    ///
    /// The device that the socket is bound to or, without that, the one its
    /// route uses.
    #[arg(short = 'i', long = "interface", value_name = "IF")]
    #[arg(value_parser = choice(interface))]
    pub interfaces: Vec<Choice<String>>,

    /// Only local addresses in CIDR
    ///
    /// Such as 10.0.0.0/8 or 2001:db8::/32. An address alone means itself. An
    /// IPv4-mapped IPv6 address is IPv4.
    #[arg(long = "local", value_name = "CIDR", value_parser = choice(network))]
    pub local: Vec<Choice<IpNet>>,

    /// Only remote addresses in CIDR
    #[arg(long = "remote", value_name = "CIDR", value_parser = choice(network))]
    pub remote: Vec<Choice<IpNet>>,

    /// Only sockets that this user made
    ///
    /// A name or a number. The name is looked up once, at the start.
    #[arg(long = "user", value_name = "NAME", value_parser = choice(user))]
    pub users: Vec<Choice<String>>,

    /// Only connections in this state
    ///
    /// As in the column STATE, in upper or lower case; UDP for UDP. A connection
    /// that ends is judged by its last state: --state syn_sent also shows those that
    /// fail to connect, as they end.
    #[arg(long = "state", value_name = "STATE", value_parser = choice(state))]
    pub states: Vec<Choice<State>>,

    /// Only sockets of this cgroup and of those below it
    ///
    /// The path as in the column cgroup: it begins with / and is below the mount of
    /// cgroup v2.
    #[arg(long = "cgroup", value_name = "PATH", value_parser = choice(cgroup))]
    pub cgroups: Vec<Choice<String>>,

    /// Only sockets of this container
    ///
    /// Its id, the first 12 or more digits of its id, or its name.
    #[arg(long = "container", value_name = "ID-OR-NAME", value_parser = choice(container))]
    pub containers: Vec<Choice<String>>,

    /// Only sockets of this unit of systemd
    ///
    /// Without a suffix it is a service: --unit ssh is --unit ssh.service.
    #[arg(long = "unit", value_name = "NAME", value_parser = choice(unit))]
    pub units: Vec<Choice<String>>,

    /// Only TCP
    #[arg(long)]
    pub tcp: bool,

    /// Only UDP
    #[arg(long)]
    pub udp: bool,

    /// Only IPv4, IPv4-mapped IPv6 addresses included
    #[arg(short = '4')]
    pub ipv4: bool,

    /// Only IPv6
    #[arg(short = '6')]
    pub ipv6: bool,
}

impl Query {
    /// The only protocol that was asked for; `None` for both.
    pub fn protocol(&self) -> Option<Protocol> {
        match (self.tcp, self.udp) {
            (true, false) => Some(Protocol::Tcp),
            (false, true) => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// Whether connections of this protocol are asked for.
    pub fn wants(&self, protocol: Protocol) -> bool {
        self.protocol().is_none_or(|only| only == protocol)
    }

    /// The names that must be looked up to decide about a connection.
    pub fn needs(&self) -> Needs {
        let container = if self.containers.iter().all(|choice| is_whole_id(&choice.value)) {
            Needs::CONTAINER
        } else {
            Needs::CONTAINER | Needs::CONTAINER_NAME
        };
        let asked = [
            (self.cgroups.is_empty(), Needs::CGROUP),
            (self.containers.is_empty(), container),
            (self.units.is_empty(), Needs::UNIT),
        ];
        asked.into_iter().filter(|(none, _)| !none).fold(Needs::empty(), |all, (_, one)| all | one)
    }

    /// The units and containers that were asked for, as options. Whether they exist is not
    /// known before one has a connection.
    pub fn units_and_containers(&self) -> Vec<String> {
        let named = |option: &'static str, choices: &[Choice<String>]| {
            let plain = choices.iter().filter(|choice| !choice.not);
            plain.map(|choice| format!("{option} {}", choice.value)).collect::<Vec<_>>()
        };
        [named("--unit", &self.units), named("--container", &self.containers)].concat()
    }

    /// The only address family that was asked for; `None` for both.
    pub fn family(&self) -> Option<Family> {
        match (self.ipv4, self.ipv6) {
            (true, false) => Some(Family::V4),
            (false, true) => Some(Family::V6),
            _ => None,
        }
    }
}

/// What the column `STATE` can show of an open connection: the state of TCP; `None` is UDP.
pub type State = Option<TcpState>;

/// `PID_MAX_LIMIT` of 64-bit kernels (include/linux/threads.h).
const MAX_PID: u32 = 4 * 1024 * 1024;

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|&port| port > 0).ok_or_else(|| {
        "a port is a number from 1 to 65535; for several, repeat the option: --port 80 --port 443"
            .to_owned()
    })
}

fn pid(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|pid| (1..=MAX_PID).contains(pid)).ok_or_else(|| {
        format!("a PID is a number from 1 to {MAX_PID}; for several, repeat the option")
    })
}

fn process(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("the empty text is part of every name; leave the option out to see all processes"
            .to_owned()),
        1..=15 => Ok(text.to_owned()),
        _ => Err("never found: the kernel keeps only the first 15 bytes of a name".to_owned()),
    }
}

fn interface(text: &str) -> Result<String, String> {
    // IFNAMSIZ (include/uapi/linux/if.h) is 16, with the terminating NUL.
    let fits = (1..=15).contains(&text.len())
        && !text.contains(|character: char| character == '/' || character.is_whitespace());
    match fits {
        true => Ok(text.to_owned()),
        false => Err("no device can be called that (1 to 15 bytes, no blank, no /)".to_owned()),
    }
}

/// A prefix without the bits after it. Connections show IPv4-mapped addresses as IPv4, so
/// a prefix of IPv4-mapped addresses is one of IPv4.
fn network(text: &str) -> Result<IpNet, String> {
    let alone = |_| text.parse::<IpAddr>().map(IpNet::from);
    let network: IpNet = text.parse().or_else(alone).map_err(|_| {
        "not an address or a prefix, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32".to_owned()
    })?;
    let mapped = match network {
        IpNet::V6(network) if network.prefix_len() >= 96 => network
            .addr()
            .to_ipv4_mapped()
            .and_then(|address| Ipv4Net::new(address, network.prefix_len() - 96).ok()),
        _ => None,
    };
    Ok(mapped.map_or(network, IpNet::V4).trunc())
}

fn user(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("a user has a name or a number".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// Also takes the spelling of ss(8): `syn-sent`, `fin-wait-1`.
fn state(text: &str) -> Result<State, String> {
    let plain = |text: &str| text.replace(['-', '_'], "").to_ascii_uppercase();
    let wanted = plain(text);
    if wanted == Protocol::Udp.name() {
        return Ok(None);
    }
    let found = TcpState::ALL.into_iter().find(|state| plain(state.name()) == wanted);
    found.map(Some).ok_or_else(|| {
        let names = TcpState::ALL.map(TcpState::name).join(", ");
        format!("not a state; there are {names} and UDP")
    })
}

/// Without a slash at the end. Empty for the root.
fn cgroup(text: &str) -> Result<String, String> {
    match text.starts_with('/') {
        true => Ok(text.trim_end_matches('/').to_owned()),
        false => Err("a path as in the column cgroup begins with /".to_owned()),
    }
}

fn container(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("a container has an id or a name".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// An id of a container in full, which no name of a container looks like.
fn is_whole_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// With the suffix `.service` where it has none, as systemctl(1) completes names.
fn unit(text: &str) -> Result<String, String> {
    /// Kinds of units (systemd.unit(5)).
    const SUFFIXES: [&str; 11] = [
        ".service",
        ".scope",
        ".slice",
        ".socket",
        ".mount",
        ".swap",
        ".target",
        ".timer",
        ".path",
        ".device",
        ".automount",
    ];
    match text {
        "" => Err("a unit has a name".to_owned()),
        _ if SUFFIXES.iter().any(|suffix| text.ends_with(suffix)) => Ok(text.to_owned()),
        _ => Ok(format!("{text}.service")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_and_prefixes() {
        for (text, expected) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::7", "2001:db8::7/128"),
            ("2001:db8::7/32", "2001:db8::/32"),
            ("::/0", "::/0"),
            ("::ffff:10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.1.2.3/104", "10.0.0.0/8"),
            ("::ffff:10.1.2.3/96", "0.0.0.0/0"),
            ("::ffff:0:0/95", "::fffe:0:0/95"),
        ] {
            assert_eq!(network(text).map(|network| network.to_string()), Ok(expected.to_owned()));
        }
        for text in ["", "10", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "localhost", "1.2.3.4/"] {
            let error = network(text).expect_err(text);
            assert!(error.starts_with("not an address or a prefix"), "{text}: {error}");
        }
    }

    #[test]
    fn states_in_any_spelling() {
        for known in TcpState::ALL {
            assert_eq!(state(known.name()), Ok(Some(known)));
            assert_eq!(state(&known.name().to_lowercase()), Ok(Some(known)));
        }
        assert_eq!(state("fin-wait-1"), Ok(Some(TcpState::FinWait1)));
        assert_eq!((state("UDP"), state("udp")), (Ok(None), Ok(None)));
        for text in ["", "LISTEN", "CLOSED", "ESTAB"] {
            let error = state(text).expect_err(text);
            assert!(error.contains("ESTABLISHED, SYN_SENT, ") && error.ends_with(" and UDP"));
        }
    }

    #[test]
    fn paths_units_and_numbers() {
        assert_eq!(cgroup("/a/b/"), Ok("/a/b".to_owned()));
        assert_eq!(cgroup("/"), Ok(String::new()));
        assert!(cgroup("a/b").is_err() && cgroup("").is_err());
        assert_eq!(unit("ssh"), Ok("ssh.service".to_owned()));
        assert_eq!(unit("org.example.app"), Ok("org.example.app.service".to_owned()));
        assert_eq!(unit("user.slice"), Ok("user.slice".to_owned()));
        assert_eq!((port("65535"), pid("4194304")), (Ok(65535), Ok(4_194_304)));
        assert!(["http", "80,443", "0", "65536", "-1", ""].into_iter().all(|t| port(t).is_err()));
        assert!(["0", "4194305", "sshd", "1,2"].into_iter().all(|text| pid(text).is_err()));
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_makes_a_parser_fail(text in ".{0,40}") {
            let _ = (port(&text), pid(&text), process(&text), interface(&text));
            let _ = (user(&text), container(&text), unit(&text), cgroup(&text), state(&text));
            if let Ok(network) = network(&text) {
                prop_assert_eq!(network, network.trunc());
                prop_assert_eq!(super::network(&network.to_string()), Ok(network));
            }
        }
    }
}
