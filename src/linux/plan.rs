//! The hook plan: which provider serves which need, and why better ones do not.
//!
//! Owns the ranking of providers and the choice between them. The choice is a pure
//! function of which attempts succeeded; it uses no kernel and no kernel version.

use crate::connection::Protocol;

/// Something that tcptop has to learn from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Need {
    /// A TCP connection begins or ends.
    Lifecycle,
    /// How much a TCP connection has moved.
    Counters,
    /// Which process uses a TCP connection.
    Owner,
    /// UDP datagrams, and which process sends and receives them.
    Udp,
}

/// One way to serve a need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Provider {
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
    /// The iterator over the files of all processes. It finds a process that has the
    /// socket open, which need not be the one that uses it.
    FileIterator,
    /// `fentry` on `ip_send_skb`, `ip6_send_skb` and `skb_consume_udp`.
    UdpEntry,
    /// `cgroup_skb` programs on the root of cgroup v2.
    CgroupSkb,
}

impl Need {
    /// All needs, in the order in which the report shows them.
    pub(super) const ALL: [Need; 4] = [Need::Lifecycle, Need::Counters, Need::Owner, Need::Udp];

    /// Its name in the report of `--doctor`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Need::Lifecycle => "TCP lifecycle",
            Need::Counters => "TCP counters",
            Need::Owner => "owner",
            Need::Udp => "UDP",
        }
    }

    /// The part of the output that depends on it.
    pub(super) fn fills(self) -> &'static str {
        match self {
            Need::Lifecycle | Need::Counters => "TCP",
            Need::Owner => "PID and PROCESS of TCP",
            Need::Udp => "UDP",
        }
    }

    /// The providers that can serve it; the best comes first.
    pub(super) fn providers(self) -> &'static [Provider] {
        match self {
            Need::Lifecycle => &[Provider::StateTracepoint],
            Need::Counters => &[Provider::StorageIterator],
            Need::Owner => &[
                Provider::TcpSendTracepoint,
                Provider::SocketTracepoints,
                Provider::TcpEntry,
                Provider::FileIterator,
            ],
            Need::Udp => &[Provider::UdpEntry, Provider::CgroupSkb],
        }
    }
}

impl Provider {
    /// All of them: those of one need after those of another, best first.
    pub(super) fn all() -> impl Iterator<Item = Provider> {
        Need::ALL.into_iter().flat_map(Need::providers).copied()
    }

    /// Its name: the kernel's name of its hook, or of the first of its hooks.
    pub(super) fn name(self) -> &'static str {
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
    pub(super) fn from_name(name: &str) -> Option<Provider> {
        Provider::all().find(|provider| provider.name() == name)
    }
}

/// The provider of a need, and the better providers that do not work here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    /// The need.
    pub need: Need,
    /// The best provider that works; `None` where none does.
    pub provider: Option<Provider>,
    /// The providers that rank above it, each with the reason why it does not work.
    pub refused: Vec<(Provider, String)>,
}

impl Choice {
    /// Why the need has no provider: the reason of the provider that was tried last.
    pub(super) fn failure(&self) -> Option<&str> {
        match self.provider {
            Some(_) => None,
            None => self.refused.last().map(|(_, reason)| reason.as_str()),
        }
    }
}

/// The choice for each need that these settings have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In the order of [`Need::ALL`].
    pub choices: Vec<Choice>,
}

impl Plan {
    /// The provider that serves the need.
    pub(super) fn provider(&self, need: Need) -> Option<Provider> {
        self.choices.iter().find(|choice| choice.need == need)?.provider
    }

    /// Whether the plan uses this provider.
    pub(super) fn has(&self, provider: Provider) -> bool {
        self.choices.iter().any(|choice| choice.provider == Some(provider))
    }

    /// Whether the protocol has rows. Rows of TCP depend on two needs.
    pub(super) fn shows(&self, protocol: Protocol) -> bool {
        let served = |need| self.provider(need).is_some();
        match protocol {
            Protocol::Tcp => served(Need::Lifecycle) && served(Need::Counters),
            Protocol::Udp => served(Need::Udp),
        }
    }

    /// The choices without a provider, which leave a part of the output empty. Each part
    /// of the output has one at most: the first.
    pub(super) fn gaps(&self) -> impl Iterator<Item = &Choice> {
        let tcp = self.shows(Protocol::Tcp);
        let mut named = Vec::new();
        self.choices.iter().filter(move |choice| {
            let fills = choice.need.fills();
            let without_tcp = choice.need == Need::Owner && !tcp;
            let gap = choice.provider.is_none() && !without_tcp && !named.contains(&fills);
            if gap {
                named.push(fills);
            }
            gap
        })
    }
}

/// Chooses the best provider of `need` for which `attempt` succeeds. The providers in
/// `without` are not tried.
pub(super) fn choose(
    need: Need,
    without: &[Provider],
    mut attempt: impl FnMut(Provider) -> Result<(), String>,
) -> Choice {
    let mut refused = Vec::new();
    for &provider in need.providers() {
        let result = if without.contains(&provider) {
            Err("left out by --without".to_owned())
        } else {
            attempt(provider)
        };
        match result {
            Ok(()) => return Choice { need, provider: Some(provider), refused },
            Err(reason) => refused.push((provider, reason)),
        }
    }
    Choice { need, provider: None, refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPERM: &str = "Operation not permitted (os error 1)";
    const NO_TYPE: &str = "No such process (os error 3)";

    /// The results of trying each provider on the kernels of the matrix.
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
            let choose = |need| choose(need, &[], findings(kernel)).provider;
            assert_eq!(choose(Need::Owner), owner, "{kernel}");
            assert_eq!(choose(Need::Udp), udp, "{kernel}");
            assert_eq!(choose(Need::Lifecycle), Some(StateTracepoint), "{kernel}");
        }
    }

    #[test]
    fn a_refused_provider_moves_the_choice_down_one_step_and_says_why() {
        let without = [Provider::TcpSendTracepoint, Provider::SocketTracepoints];
        let choice = choose(Need::Owner, &without, findings("6.18 locked down"));
        assert_eq!(choice.provider, Some(Provider::FileIterator));
        assert_eq!([choice.refused[0].0, choice.refused[1].0], without);
        assert_eq!(choice.refused[2], (Provider::TcpEntry, EPERM.to_owned()));
        assert_eq!(choice.failure(), None);
    }

    #[test]
    fn without_a_provider_the_last_reason_is_given() {
        let choice = choose(Need::Udp, &[], findings("6.18 locked down, without CAP_NET_ADMIN"));
        assert_eq!(choice.provider, None);
        assert_eq!(choice.failure(), Some(EPERM));
    }

    /// A plan without these providers.
    fn plan(without: &[Provider]) -> Plan {
        let choices = Need::ALL.map(|need| choose(need, without, |_| Ok(())));
        Plan { choices: choices.to_vec() }
    }

    #[test]
    fn a_gap_is_named_once() {
        use Provider::*;
        let owners = Need::Owner.providers();
        for (without, tcp, gaps) in [
            (vec![], true, vec![]),
            (vec![UdpEntry], true, vec![]),
            (vec![UdpEntry, CgroupSkb], true, vec!["UDP"]),
            (vec![StateTracepoint], false, vec!["TCP"]),
            (vec![StorageIterator], false, vec!["TCP"]),
            (vec![StateTracepoint, StorageIterator], false, vec!["TCP"]),
            (owners.to_vec(), true, vec!["PID and PROCESS of TCP"]),
            ([owners, &[StorageIterator]].concat(), false, vec!["TCP"]),
            (Provider::all().collect(), false, vec!["TCP", "UDP"]),
        ] {
            let plan = plan(&without);
            assert_eq!(plan.shows(Protocol::Tcp), tcp, "{without:?}");
            let named: Vec<&str> = plan.gaps().map(|choice| choice.need.fills()).collect();
            assert_eq!(named, gaps, "{without:?}");
        }
        assert!(!Plan::default().shows(Protocol::Udp));
    }

    #[test]
    fn names_lead_back_to_their_providers() {
        for provider in Provider::all() {
            assert_eq!(Provider::from_name(provider.name()), Some(provider));
        }
        assert_eq!(Provider::from_name("kprobe"), None);
    }
}
