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
    needs: Needs,
    /// False where no option was given.
    decides: bool,
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
        let (needs, decides) = (query.needs(), query != Query::default());
        Filter { query, known, needs, decides }
    }

    /// The names that must be looked up to decide.
    pub fn needs(&self) -> Needs {
        self.needs
    }

    /// True where every option matches. `place` has the names that [`needs`](Filter::needs)
    /// asks for. A connection that has ended is judged by its last state before the end.
    pub fn matches(&self, sample: &Sample, place: &Place<'_>) -> bool {
        let Filter { query, known, decides, .. } = self;
        if !decides {
            return true;
        }
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
            && admits(&query.cgroups, |top| place.cgroup.is_some_and(|path| is_within(path, top)))
            && admits(&query.containers, |text| is_container(place, text))
            && admits(&query.units, |unit| place.unit == Some(unit))
    }
}

/// Whether the cgroup is `top` or below it. `top` has no slash at its end.
fn is_within(path: &str, top: &str) -> bool {
    path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether `text` is the id or the name of the container, or the beginning of its id.
fn is_container(place: &Place<'_>, text: &str) -> bool {
    /// As many digits as `docker ps` shows.
    const SHORT: usize = 12;
    let short = |id: &str| text.len() >= SHORT && id.starts_with(text);
    place.container.is_some_and(|id| id == text || short(id)) || place.container_name == Some(text)
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
    fn cgroups_containers_and_units() {
        let sample = tcp();
        let id = "0123456789abcdef".repeat(4);
        let place = Place {
            cgroup: Some("/a/b.slice/c"),
            container: Some(&id),
            container_name: Some("web"),
            unit: Some("c.service"),
            ..Place::default()
        };
        let matches =
            |place: &Place<'_>, change: &dyn Fn(&mut Query)| asked(change).matches(&sample, place);
        let both = |passes: bool, set: &dyn Fn(&mut Query, Vec<Choice<String>>), value: &str| {
            let choice = |not| vec![Choice { value: value.to_owned(), not }];
            assert_eq!(matches(&place, &|a| set(a, choice(false))), passes, "{value}");
            assert_eq!(matches(&place, &|a| set(a, choice(true))), !passes, "!{value}");
            // Where nothing is known, nothing matches.
            assert!(!matches(&Place::default(), &|a| set(a, choice(false))), "{value}");
            assert!(matches(&Place::default(), &|a| set(a, choice(true))), "!{value}");
        };
        let paths = ["", "/a", "/a/b.slice", "/a/b.slice/c"].map(|path| (true, path));
        let others = ["/a/b", "/a/b.slice/c/d", "/b.slice"].map(|path| (false, path));
        for (passes, path) in paths.into_iter().chain(others) {
            both(passes, &|asked, choices| asked.cgroups = choices, path);
        }
        for (passes, text) in [
            (true, &id[..]),
            (true, &id[..12]),
            (true, "web"),
            (false, &id[..11]),
            (false, &id[1..]),
            (false, "we"),
        ] {
            both(passes, &|asked, choices| asked.containers = choices, text);
        }
        both(true, &|asked, choices| asked.units = choices, "c.service");
        both(false, &|asked, choices| asked.units = choices, "c");
    }

    #[test]
    fn only_the_names_that_are_asked_for_are_needed() {
        let needs = |change: &dyn Fn(&mut Query)| asked(change).needs();
        let one = |text: &str| vec![Choice::plain(text.to_owned())];
        assert_eq!(needs(&|a| (a.ports, a.tcp) = (list(&[1], &[]), true)), Needs::empty());
        assert_eq!(needs(&|a| a.cgroups = one("/a")), Needs::CGROUP);
        assert_eq!(needs(&|a| a.containers = one(&"a".repeat(64))), Needs::CONTAINER);
        let named = Needs::CONTAINER | Needs::CONTAINER_NAME;
        assert_eq!(needs(&|a| a.containers = one("web")), named);
        assert_eq!(needs(&|a| (a.containers, a.units) = (one("w"), one("u"))), named | Needs::UNIT);
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
