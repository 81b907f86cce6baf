//! Which connections the user asked for.
//!
//! Owns the decision about one connection. Pure: the caller has already turned the
//! names of devices into numbers. `--pid` and `--process` look at the present owner, so
//! a connection that changes its owner can appear and disappear.

use std::net::SocketAddr;

use crate::connection::{Family, Needs, Sample};
use crate::names::Place;
use crate::settings::choice::admits;
use crate::settings::{Choice, Query};

/// Every option that was given must match (see [`Query`]).
#[derive(Clone, Debug, Default)]
pub struct Filter {
    query: Query,
    known: Known,
}

/// The numbers that stand for the names in a [`Query`] on this host.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Indices of the devices. They are valid in the network namespace `netns` only.
    pub interfaces: Vec<Choice<u32>>,
    /// Inode number of tcptop's own network namespace: the user types the names of the
    /// devices that are visible there.
    pub netns: u32,
    /// Ids of the users.
    pub users: Vec<Choice<u32>>,
}

impl Filter {
    /// `known` has a number for each name of `query`.
    pub fn new(query: Query, known: Known) -> Filter {
        Filter { query, known }
    }

    /// What must be looked up to decide.
    pub fn needs(&self) -> Needs {
        Needs::empty()
    }

    /// True where every option matches. `place` has the names that [`needs`](Filter::needs)
    /// asks for. A connection that has ended is judged by its last state before the end.
    pub fn matches(&self, sample: &Sample, _place: &Place<'_>) -> bool {
        let Filter { query, known } = self;
        let Sample { local, remote, owner, .. } = sample;
        let has_port = |port: &u16| [local, remote].into_iter().any(|end| end.port() == *port);
        let in_network = |end: &SocketAddr| {
            let address = end.ip();
            move |network: &ipnet::IpNet| network.contains(&address)
        };
        query.wants(sample.protocol)
            && query.family().is_none_or(|family| (family == Family::V6) == remote.is_ipv6())
            && admits(&query.ports, has_port)
            && admits(&query.local, in_network(local))
            && admits(&query.remote, in_network(remote))
            && admits(&query.states, |state| *state == sample.state)
            && admits(&known.users, |uid| *uid == sample.uid)
            && admits(&known.interfaces, |index| {
                sample.netns == known.netns && *index == sample.ifindex
            })
            && admits(&query.pids, |pid| owner.is_some_and(|owner| owner.pid == *pid))
            && (query.processes.is_empty() || {
                let name = owner.map(|owner| owner.name);
                let name = name.as_ref().map(|name| name.to_text());
                admits(&query.processes, |part| {
                    name.as_ref().is_some_and(|name| name.contains(part.as_str()))
                })
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::TcpState;
    use crate::output::fixtures::tcp;

    fn asked(change: impl FnOnce(&mut Query)) -> Filter {
        let mut asked = Query::default();
        change(&mut asked);
        let interfaces = asked
            .interfaces
            .iter()
            .flat_map(|choice| [2, 3].map(|index| Choice { value: index, not: choice.not }));
        let users = asked.users.iter().map(|choice| Choice { value: 1000, not: choice.not });
        let known = Known { interfaces: interfaces.collect(), netns: 77, users: users.collect() };
        Filter::new(asked, known)
    }

    /// Plain values, and negated ones.
    fn list<T: Clone>(plain: &[T], negated: &[T]) -> Vec<Choice<T>> {
        let plain = plain.iter().cloned().map(Choice::plain);
        plain.chain(negated.iter().cloned().map(Choice::not)).collect()
    }

    #[test]
    fn each_condition_alone() {
        let sample = tcp();
        let owner = sample.owner.expect("fixture has an owner");
        let name = owner.name.to_text().into_owned();
        let (port, other) = (sample.local.port(), sample.remote.port());
        let part = name[1..].to_owned();
        let matches =
            |change: &dyn Fn(&mut Query)| asked(change).matches(&sample, &Place::default());
        assert!(matches(&|_| {}));
        assert!(matches(&|a| a.ports = list(&[1, port], &[])));
        assert!(matches(&|a| a.ports = list(&[other], &[1])));
        assert!(!matches(&|a| a.ports = list(&[1], &[])));
        assert!(!matches(&|a| a.ports = list(&[], &[1, other])));
        assert!(!matches(&|a| a.ports = list(&[port], &[other])), "neither end may have it");
        assert!(matches(&|a| a.pids = list(&[1, owner.pid], &[])));
        assert!(!matches(&|a| a.pids = list(&[owner.pid + 1], &[])));
        assert!(!matches(&|a| a.pids = list(&[], &[owner.pid])));
        assert!(matches(&|a| a.processes = list(std::slice::from_ref(&part), &[])));
        assert!(!matches(&|a| a.processes = list(&[name.to_uppercase()], &[])));
        assert!(!matches(&|a| a.processes = list(&[], std::slice::from_ref(&part))));
        assert!(matches(&|a| a.tcp = true));
        assert!(!matches(&|a| a.udp = true));
        assert!(matches(&|a| a.ipv4 = true));
        assert!(!matches(&|a| a.ipv6 = true));
    }

    #[test]
    fn addresses_users_and_states() {
        let mut sample = tcp();
        sample.local = "[fe80::1%4]:1".parse().expect("an address");
        sample.remote = "10.1.2.3:443".parse().expect("an address");
        (sample.uid, sample.state) = (1000, Some(TcpState::SynSent));
        let network = |text: &str| text.parse().expect("a prefix");
        let matches =
            |change: &dyn Fn(&mut Query)| asked(change).matches(&sample, &Place::default());
        let remote = |plain: &[&str], negated: &[&str]| {
            let [plain, negated] = [plain, negated]
                .map(|texts| texts.iter().map(|text| network(text)).collect::<Vec<_>>());
            matches(&|a| a.remote = list(&plain, &negated))
        };
        assert!(remote(&["10.0.0.0/8"], &[]) && remote(&["192.0.2.0/24", "10.1.2.3/32"], &[]));
        assert!(!remote(&["10.1.2.2/32"], &[]) && !remote(&[], &["10.1.0.0/16"]));
        assert!(!remote(&["10.0.0.0/8"], &["10.1.2.0/24"]));
        assert!(remote(&["10.0.0.0/8"], &["10.1.3.0/24"]));
        assert!(remote(&["0.0.0.0/0"], &["::/0"]), "::/0 has no IPv4 address");
        assert!(matches(&|a| a.local = list(&[network("fe80::/10")], &[])), "in any scope");
        assert!(!matches(&|a| a.local = list(&[], &[network("::/0")])));
        assert!(matches(&|a| a.users = list(&["me".to_owned()], &[])));
        assert!(!matches(&|a| a.users = list(&[], &["me".to_owned()])));
        assert!(matches(&|a| a.states = list(&[None, Some(TcpState::SynSent)], &[])));
        assert!(!matches(&|a| a.states = list(&[None], &[])));
        assert!(!matches(&|a| a.states = list(&[], &[Some(TcpState::SynSent)])));
    }

    #[test]
    fn all_conditions_must_hold() {
        let sample = tcp();
        let port = sample.local.port();
        let both = |tcp: bool| {
            asked(|a| {
                a.ports = list(&[port], &[]);
                (a.tcp, a.udp) = (tcp, !tcp);
            })
            .matches(&sample, &Place::default())
        };
        assert!(both(true));
        assert!(!both(false));
    }

    #[test]
    fn a_device_counts_in_its_own_namespace_only() {
        let mut sample = tcp();
        let eth0 = || "eth0".to_owned();
        let filter = asked(|a| a.interfaces = list(&[eth0()], &[]));
        let without = asked(|a| a.interfaces = list(&[], &[eth0()]));
        let passes = |sample: &Sample| {
            (filter.matches(sample, &Place::default()), without.matches(sample, &Place::default()))
        };
        (sample.netns, sample.ifindex) = (77, 3);
        assert_eq!(passes(&sample), (true, false));
        sample.ifindex = 4;
        assert_eq!(passes(&sample), (false, true));
        (sample.netns, sample.ifindex) = (78, 3);
        assert_eq!(passes(&sample), (false, true));
    }

    #[test]
    fn nobody_has_no_name() {
        let mut sample = tcp();
        sample.owner = None;
        let any = String::new;
        assert!(!asked(|a| a.pids = list(&[1], &[])).matches(&sample, &Place::default()));
        assert!(asked(|a| a.pids = list(&[], &[1])).matches(&sample, &Place::default()));
        assert!(!asked(|a| a.processes = list(&[any()], &[])).matches(&sample, &Place::default()));
        assert!(asked(|a| a.processes = list(&[], &[any()])).matches(&sample, &Place::default()));
    }
}
