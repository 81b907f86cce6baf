//! The hook plan: which provider serves which signal, and why not a better one.
//!
//! Owns the ranking of providers and the choice between them: a pure function
//! of what was found by trying. Names no kernel version and touches no kernel.

use crate::connection::Protocol;

/// Something that tcptop has to learn from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// A TCP connection begins or ends.
    Lifecycle,
    /// What a TCP connection has moved.
    Counters,
    /// Which process uses a TCP connection.
    Owner,
    /// UDP datagrams, and who sends and receives them.
    Udp,
}

/// One way to serve a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// `tp_btf/inet_sock_set_state`.
    StateTracepoint,
    /// The iterator over the sockets that have storage.
    StorageIterator,
    /// `tp_btf/tcp_sendmsg_locked` (since Linux 6.16) and `sock_recv_length`.
    TcpSendTracepoint,
    /// `tp_btf/sock_send_length` and `sock_recv_length` (since Linux 6.3).
    SocketTracepoints,
    /// `fentry` on `tcp_sendmsg` and `tcp_recvmsg`.
    TcpEntry,
    /// The iterator over the files of all processes: who holds a socket, not
    /// who uses it.
    FileIterator,
    /// `fentry` on `ip_send_skb`, `ip6_send_skb` and `skb_consume_udp`.
    UdpEntry,
    /// `cgroup_skb` programs on the root of cgroup v2.
    CgroupSkb,
}

impl Signal {
    /// All of them, in the order of a datum's path.
    pub const ALL: [Signal; 4] = [Signal::Lifecycle, Signal::Counters, Signal::Owner, Signal::Udp];

    /// What `--doctor` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Signal::Lifecycle => "TCP lifecycle",
            Signal::Counters => "TCP counters",
            Signal::Owner => "owner",
            Signal::Udp => "UDP",
        }
    }

    /// What of the output it is for.
    pub fn fills(self) -> &'static str {
        match self {
            Signal::Lifecycle | Signal::Counters => "TCP",
            Signal::Owner => "PID and PROCESS of TCP",
            Signal::Udp => "UDP",
        }
    }

    /// The providers that can serve it, best first.
    pub fn providers(self) -> &'static [Provider] {
        match self {
            Signal::Lifecycle => &[Provider::StateTracepoint],
            Signal::Counters => &[Provider::StorageIterator],
            Signal::Owner => &[
                Provider::TcpSendTracepoint,
                Provider::SocketTracepoints,
                Provider::TcpEntry,
                Provider::FileIterator,
            ],
            Signal::Udp => &[Provider::UdpEntry, Provider::CgroupSkb],
        }
    }
}

impl Provider {
    /// All of them.
    pub const ALL: [Provider; 8] = [
        Provider::StateTracepoint,
        Provider::StorageIterator,
        Provider::TcpSendTracepoint,
        Provider::SocketTracepoints,
        Provider::TcpEntry,
        Provider::FileIterator,
        Provider::UdpEntry,
        Provider::CgroupSkb,
    ];

    /// What it hooks, as the kernel names it.
    pub fn name(self) -> &'static str {
        match self {
            Provider::StateTracepoint => "tp_btf/inet_sock_set_state",
            Provider::StorageIterator => "iter/bpf_sk_storage_map",
            Provider::TcpSendTracepoint => "tp_btf/tcp_sendmsg_locked",
            Provider::SocketTracepoints => "tp_btf/sock_send_length",
            Provider::TcpEntry => "fentry/tcp_sendmsg",
            Provider::FileIterator => "iter/task_file",
            Provider::UdpEntry => "fentry/ip_send_skb",
            Provider::CgroupSkb => "cgroup_skb",
        }
    }

    /// The provider with this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Provider> {
        Provider::ALL.into_iter().find(|provider| provider.name() == name)
    }
}

/// The provider of a signal, and the better ones that do not work here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What it is for.
    pub signal: Signal,
    /// The best one that works; `None` where none does.
    pub provider: Option<Provider>,
    /// Those ranked above it, with the reason in the kernel's own words.
    pub refused: Vec<(Provider, String)>,
}

impl Choice {
    /// Why the signal has no provider: the reason of the last one tried.
    pub fn failure(&self) -> Option<&str> {
        match self.provider {
            Some(_) => None,
            None => self.refused.last().map(|(_, reason)| reason.as_str()),
        }
    }
}

/// A choice for each signal that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order of [`Signal::ALL`].
    pub choices: Vec<Choice>,
}

impl Plan {
    /// Who serves the signal.
    pub fn provider(&self, signal: Signal) -> Option<Provider> {
        self.choices.iter().find(|choice| choice.signal == signal)?.provider
    }

    /// Whether it has this provider, for whichever signal.
    pub fn has(&self, provider: Provider) -> bool {
        self.choices.iter().any(|choice| choice.provider == Some(provider))
    }

    /// Whether the protocol has rows: those of TCP need two signals.
    pub fn shows(&self, protocol: Protocol) -> bool {
        let served = |signal| self.provider(signal).is_some();
        match protocol {
            Protocol::Tcp => served(Signal::Lifecycle) && served(Signal::Counters),
            Protocol::Udp => served(Signal::Udp),
        }
    }

    /// The choices that leave something out of the output; where a whole
    /// protocol is left out, the first reason for that.
    pub fn missing(&self) -> impl Iterator<Item = &Choice> {
        let tcp = self.shows(Protocol::Tcp);
        let mut told = Vec::new();
        self.choices.iter().filter(move |choice| {
            let fills = choice.signal.fills();
            let without_tcp = choice.signal == Signal::Owner && !tcp;
            let missing = choice.provider.is_none() && !without_tcp && !told.contains(&fills);
            if missing {
                told.push(fills);
            }
            missing
        })
    }
}

/// The best provider of `signal` that `attempt` succeeds with. None of `without`
/// is tried.
pub fn choose(
    signal: Signal,
    without: &[Provider],
    mut attempt: impl FnMut(Provider) -> Result<(), String>,
) -> Choice {
    let mut refused = Vec::new();
    for &provider in signal.providers() {
        let result = if without.contains(&provider) {
            Err("left out by --without".to_owned())
        } else {
            attempt(provider)
        };
        match result {
            Ok(()) => return Choice { signal, provider: Some(provider), refused },
            Err(reason) => refused.push((provider, reason)),
        }
    }
    Choice { signal, provider: None, refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPERM: &str = "Operation not permitted (os error 1)";
    const NO_TYPE: &str = "No such process (os error 3)";

    /// What was found by trying, on the kernels of the matrix.
    fn findings(kernel: &str) -> impl Fn(Provider) -> Result<(), String> {
        let refused: &[(Provider, &str)] = match kernel {
            "6.1" => {
                &[(Provider::TcpSendTracepoint, NO_TYPE), (Provider::SocketTracepoints, NO_TYPE)]
            }
            "6.12" => &[(Provider::TcpSendTracepoint, NO_TYPE)],
            "6.18" | "7.2" => &[],
            "6.18 locked down" => &[(Provider::TcpEntry, EPERM), (Provider::UdpEntry, EPERM)],
            "6.18 locked down, without CAP_NET_ADMIN" => &[
                (Provider::TcpEntry, EPERM),
                (Provider::UdpEntry, EPERM),
                (Provider::CgroupSkb, EPERM),
            ],
            "6.1 arm64" => &[
                (Provider::TcpSendTracepoint, NO_TYPE),
                (Provider::SocketTracepoints, NO_TYPE),
                (Provider::TcpEntry, "unsupported (os error 524)"),
                (Provider::UdpEntry, "unsupported (os error 524)"),
            ],
            other => panic!("{other}"),
        };
        |provider| match refused.iter().find(|(name, _)| *name == provider) {
            Some((_, reason)) => Err((*reason).to_owned()),
            None => Ok(()),
        }
    }

    #[test]
    fn the_best_that_works_on_each_kernel() {
        use Provider::*;
        for (kernel, owner, udp) in [
            ("6.1", Some(TcpEntry), Some(UdpEntry)),
            ("6.12", Some(SocketTracepoints), Some(UdpEntry)),
            ("6.18", Some(TcpSendTracepoint), Some(UdpEntry)),
            ("7.2", Some(TcpSendTracepoint), Some(UdpEntry)),
            ("6.18 locked down", Some(TcpSendTracepoint), Some(CgroupSkb)),
            ("6.18 locked down, without CAP_NET_ADMIN", Some(TcpSendTracepoint), None),
            ("6.1 arm64", Some(FileIterator), Some(CgroupSkb)),
        ] {
            let choose = |signal| choose(signal, &[], findings(kernel)).provider;
            assert_eq!(choose(Signal::Owner), owner, "{kernel}");
            assert_eq!(choose(Signal::Udp), udp, "{kernel}");
            assert_eq!(choose(Signal::Lifecycle), Some(StateTracepoint), "{kernel}");
        }
    }

    #[test]
    fn a_refused_provider_moves_the_choice_down_one_step_and_says_why() {
        let without = [Provider::TcpSendTracepoint, Provider::SocketTracepoints];
        let choice = choose(Signal::Owner, &without, findings("6.18 locked down"));
        assert_eq!(choice.provider, Some(Provider::FileIterator));
        assert_eq!([choice.refused[0].0, choice.refused[1].0], without);
        assert_eq!(choice.refused[2], (Provider::TcpEntry, EPERM.to_owned()));
        assert_eq!(choice.failure(), None);
    }

    #[test]
    fn nothing_left_is_told_with_the_last_reason() {
        let choice = choose(Signal::Udp, &[], findings("6.18 locked down, without CAP_NET_ADMIN"));
        assert_eq!(choice.provider, None);
        assert_eq!(choice.failure(), Some(EPERM));
    }

    /// A plan in which these providers are refused.
    fn plan(without: &[Provider]) -> Plan {
        let choices = Signal::ALL.map(|signal| choose(signal, without, |_| Ok(())));
        Plan { choices: choices.to_vec() }
    }

    #[test]
    fn what_is_missing_is_told_once() {
        use Provider::*;
        let owners = Signal::Owner.providers();
        for (without, tcp, missing) in [
            (vec![], true, vec![]),
            (vec![UdpEntry], true, vec![]),
            (vec![UdpEntry, CgroupSkb], true, vec!["UDP"]),
            (vec![StateTracepoint], false, vec!["TCP"]),
            (vec![StorageIterator], false, vec!["TCP"]),
            (vec![StateTracepoint, StorageIterator], false, vec!["TCP"]),
            (owners.to_vec(), true, vec!["PID and PROCESS of TCP"]),
            ([owners, &[StorageIterator]].concat(), false, vec!["TCP"]),
            (Provider::ALL.to_vec(), false, vec!["TCP", "UDP"]),
        ] {
            let plan = plan(&without);
            assert_eq!(plan.shows(Protocol::Tcp), tcp, "{without:?}");
            let told: Vec<&str> = plan.missing().map(|choice| choice.signal.fills()).collect();
            assert_eq!(told, missing, "{without:?}");
        }
        assert!(!Plan::default().shows(Protocol::Udp));
    }

    #[test]
    fn names_lead_back_to_their_providers() {
        for provider in Provider::ALL {
            assert_eq!(Provider::from_name(provider.name()), Some(provider));
        }
        assert_eq!(Provider::from_name("kprobe"), None);
    }
}
