//! Which connections the user asked for.
//!
//! Owns the decision about one connection. Pure: the caller has already turned the
//! names of devices into numbers. `--pid` and `--process` look at the present owner, so
//! a connection that changes its owner can appear and disappear.

use std::net::SocketAddr;

use crate::connection::{Family, Needs, Sample};
use crate::names::Place;
use crate::settings::Query;

/// Every option that was given must match. An option with several values matches when
/// one of its values does.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    query: Query,
    interfaces: Vec<u32>,
    own_netns: u32,
}

impl Filter {
    /// `interfaces` are the indices of the devices that were asked for. They are valid
    /// in the network namespace with the inode number `own_netns`. This is tcptop's own
    /// namespace, because the user types the device names that are visible there.
    pub fn new(query: Query, interfaces: Vec<u32>, own_netns: u32) -> Filter {
        Filter { query, interfaces, own_netns }
    }

    /// What must be looked up to decide.
    pub fn needs(&self) -> Needs {
        Needs::empty()
    }

    /// True where every option matches. `place` has the names that [`needs`](Filter::needs)
    /// asks for.
    pub fn matches(&self, sample: &Sample, _place: &Place<'_>) -> bool {
        let query = &self.query;
        let port = |endpoint: &SocketAddr| query.ports.contains(&endpoint.port());
        query.wants(sample.protocol)
            && query.family().is_none_or(|family| (family == Family::V6) == sample.remote.is_ipv6())
            && (query.ports.is_empty() || port(&sample.local) || port(&sample.remote))
            && (query.interfaces.is_empty()
                || (sample.netns == self.own_netns && self.interfaces.contains(&sample.ifindex)))
            && (query.pids.is_empty()
                || sample.owner.is_some_and(|owner| query.pids.contains(&owner.pid)))
            && (query.processes.is_empty()
                || sample.owner.is_some_and(|owner| {
                    let name = owner.name.to_text();
                    query.processes.iter().any(|part| name.contains(part.as_str()))
                }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixtures::tcp;

    fn asked(change: impl FnOnce(&mut Query)) -> Filter {
        let mut asked = Query::default();
        change(&mut asked);
        Filter::new(asked, vec![2, 3], 77)
    }

    #[test]
    fn each_condition_alone() {
        let sample = tcp();
        let owner = sample.owner.expect("fixture has an owner");
        let name = owner.name.to_text().into_owned();
        let matches =
            |change: &dyn Fn(&mut Query)| asked(change).matches(&sample, &Place::default());
        assert!(matches(&|_| {}));
        assert!(matches(&|a| a.ports = vec![1, sample.local.port()]));
        assert!(matches(&|a| a.ports = vec![sample.remote.port()]));
        assert!(!matches(&|a| a.ports = vec![1]));
        assert!(matches(&|a| a.pids = vec![1, owner.pid]));
        assert!(!matches(&|a| a.pids = vec![owner.pid + 1]));
        assert!(matches(&|a| a.processes = vec![name[1..].to_owned()]));
        assert!(!matches(&|a| a.processes = vec![name.to_uppercase()]));
        assert!(matches(&|a| a.tcp = true));
        assert!(!matches(&|a| a.udp = true));
        assert!(matches(&|a| a.ipv4 = true));
        assert!(!matches(&|a| a.ipv6 = true));
    }

    #[test]
    fn all_conditions_must_hold() {
        let sample = tcp();
        let port = sample.local.port();
        let both = |tcp: bool| {
            asked(|a| {
                a.ports = vec![port];
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
        let filter = asked(|a| a.interfaces = vec!["eth0".into()]);
        (sample.netns, sample.ifindex) = (77, 3);
        assert!(filter.matches(&sample, &Place::default()));
        sample.ifindex = 4;
        assert!(!filter.matches(&sample, &Place::default()));
        (sample.netns, sample.ifindex) = (78, 3);
        assert!(!filter.matches(&sample, &Place::default()));
    }

    #[test]
    fn nobody_has_no_name() {
        let mut sample = tcp();
        sample.owner = None;
        assert!(!asked(|a| a.pids = vec![1]).matches(&sample, &Place::default()));
        assert!(!asked(|a| a.processes = vec![String::new()]).matches(&sample, &Place::default()));
    }
}
