//! The part of the filters that the programs apply in the kernel.
//!
//! Owns the translation of a [`Query`] into the programs' constants (`bpf/filter.bpf.h`).
//! The reporter applies all filters again, so the programs may let more pass than the user
//! asked for, but never less.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::wire::{self, CgroupName, Prefix, Prefixes, ProgramSettings};
use crate::connection::Family;
use crate::settings::{Choice, Query};

/// Sets the filters that the programs can apply. `whole` is true where the paths of cgroups
/// begin at the root of the whole tree.
pub(super) fn set(settings: &mut ProgramSettings, query: &Query, whole: bool) {
    settings.filter_family = match query.family() {
        None => 0,
        Some(Family::V4) => wire::Family::AF_INET.0,
        Some(Family::V6) => wire::Family::AF_INET6.0,
    };
    let ports = &mut settings.filter_ports;
    let (wanted, count) = fill(&mut ports.list, &query.ports, |port| port.to_be());
    (ports.wanted, ports.count) = (wanted as u16, count as u16);
    set_networks(&mut settings.filter_local, &query.local);
    set_networks(&mut settings.filter_remote, &query.remote);
    if whole {
        set_cgroups(settings, &query.cgroups);
    }
    let counts = [
        u32::from(settings.filter_family),
        settings.filter_ports.count.into(),
        settings.filter_local.count,
        settings.filter_remote.count,
        settings.filter_cgroup_count,
    ];
    settings.filters.write(counts.iter().any(|&count| count > 0));
}

fn set_networks(prefixes: &mut Prefixes, networks: &[Choice<IpNet>]) {
    // The programs see an IPv4 address as an IPv6 one, so this network would leave out IPv4.
    let left_out = |choice: &&Choice<IpNet>| choice.not && has_mapped(&choice.value);
    let networks: Vec<_> = networks.iter().filter(|choice| !left_out(choice)).copied().collect();
    let (wanted, count) = fill(&mut prefixes.list, &networks, prefix);
    (prefixes.wanted, prefixes.count) = (wanted as u32, count as u32);
}

/// Of cgroups only plain values, and no root: it is above all.
fn set_cgroups(settings: &mut ProgramSettings, paths: &[Choice<String>]) {
    let plain: Vec<_> = paths.iter().filter(|choice| !choice.not).cloned().collect();
    if plain.iter().any(|choice| choice.value.is_empty()) {
        return;
    }
    let (wanted, _) = fill(&mut settings.filter_cgroups, &plain, |path| cgroup(path));
    settings.filter_cgroup_count = wanted as u32;
}

fn cgroup(path: &str) -> CgroupName {
    let mut cgroup =
        CgroupName { level: path.split('/').skip(1).count() as u64, ..CgroupName::default() };
    let name = path.rsplit('/').next().unwrap_or_default().as_bytes();
    let most = size_of_val(&cgroup.name) - 1;
    let name = name.get(..most).unwrap_or(name);
    for (word, part) in cgroup.name.iter_mut().zip(name.chunks(size_of::<u64>())) {
        let mut bytes = [0; size_of::<u64>()];
        bytes[..part.len()].copy_from_slice(part);
        *word = u64::from_ne_bytes(bytes);
    }
    cgroup
}

/// Writes the values into the list of a filter: first all plain ones, unless they do not
/// fit, then the negated ones that fit. Returns how many are plain and how many there are.
fn fill<T, U>(
    list: &mut [U],
    choices: &[Choice<T>],
    translate: impl Fn(&T) -> U,
) -> (usize, usize) {
    let of = |not| choices.iter().filter(move |choice| choice.not == not);
    let wanted = Some(of(false).count()).filter(|&count| count <= list.len()).unwrap_or(0);
    let values = of(false).take(wanted).chain(of(true));
    let mut count = 0;
    for (slot, choice) in list.iter_mut().zip(values) {
        *slot = translate(&choice.value);
        count += 1;
    }
    (wanted, count)
}

/// Whether it is a network of IPv6 with all IPv4-mapped addresses in it.
fn has_mapped(network: &IpNet) -> bool {
    let first = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped();
    matches!(network, IpNet::V6(network) if network.contains(&first))
}

fn prefix(network: &IpNet) -> Prefix {
    let (address, length) = match network {
        IpNet::V4(network) => (network.network().to_ipv6_mapped(), 96 + network.prefix_len()),
        IpNet::V6(network) => (network.network(), network.prefix_len()),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    Prefix { address: words(address.octets()), mask: words(mask.to_be_bytes()) }
}

/// The two words in which a program reads these bytes.
fn words(bytes: [u8; 16]) -> [u64; 2] {
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

    /// What `address_wanted()` in bpf/filter.bpf.h does.
    fn wanted(prefixes: &Prefixes, address: IpAddr) -> bool {
        let mapped = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let address = words(mapped.octets());
        let mut found = prefixes.wanted == 0;
        for (at, prefix) in prefixes.list.iter().take(prefixes.count as usize).enumerate() {
            let differ = |word: usize| (address[word] & prefix.mask[word]) ^ prefix.address[word];
            if differ(0) | differ(1) != 0 {
                continue;
            }
            if at >= prefixes.wanted as usize {
                return false;
            }
            found = true;
        }
        found
    }

    /// Few different values, so that they often match.
    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            (0u8..4, 0u8..2).prop_map(|(a, b)| IpAddr::from([10, a, 0, b])),
            (0u16..4, 0u16..2).prop_map(|(a, b)| IpAddr::from([a, 0, 0, 0, 0, 0xfffe, 0, b])),
            Just(IpAddr::from([0; 16])),
        ]
    }

    fn network() -> impl Strategy<Value = IpNet> {
        (address(), 0u8..=128).prop_map(|(address, length)| {
            let most = if address.is_ipv4() { 32 } else { 128 };
            IpNet::new(address, length % (most + 1)).expect("a prefix").trunc()
        })
    }

    proptest! {
        /// The programs never leave out what the user asked for. They let pass exactly that
        /// where all values fit and IPv6 networks have no IPv4-mapped addresses.
        #[test]
        fn programs_let_all_pass_that_is_wanted(
            choices in proptest::collection::vec((network(), any::<bool>()), 0..12),
            address in address(),
        ) {
            let choices: Vec<_> =
                choices.into_iter().map(|(value, not)| Choice { value, not }).collect();
            let mut prefixes = Prefixes::default();
            set_networks(&mut prefixes, &choices);
            let asked = crate::settings::choice::admits(&choices, |net: &IpNet| net.contains(&address));
            let passes = wanted(&prefixes, address);
            prop_assert!(passes || !asked);
            let plain = choices.iter().all(|choice| !has_mapped(&choice.value));
            if choices.len() <= prefixes.list.len() && plain {
                prop_assert_eq!(passes, asked);
            }
        }
    }

    #[test]
    fn cgroups_are_known_by_level_and_name() {
        let set = |paths: &[&str], whole| {
            let (mut settings, mut query) = (ProgramSettings::default(), Query::default());
            query.cgroups = paths
                .iter()
                .map(|path| match path.strip_prefix('!') {
                    Some(path) => Choice::not(path.to_owned()),
                    None => Choice::plain((*path).to_owned()),
                })
                .collect();
            super::set(&mut settings, &query, whole);
            let count = settings.filter_cgroup_count as usize;
            let name = |cgroup: &CgroupName| cgroup.name.map(u64::to_ne_bytes).concat();
            let texts = settings.filter_cgroups[..count].iter().map(|cgroup| {
                let name = name(cgroup);
                assert_eq!(name.last(), Some(&0));
                let text = String::from_utf8_lossy(&name).into_owned();
                (cgroup.level, text.trim_end_matches('\0').to_owned())
            });
            texts.collect::<Vec<_>>()
        };
        let one = |level, name: &str| (level, name.to_owned());
        assert_eq!(set(&["/a", "!/x", "/b/c d"], true), [one(1, "a"), one(2, "c d")]);
        let long = format!("/docker/{}.scope", "0".repeat(70));
        assert_eq!(set(&[&long], true), [one(2, &"0".repeat(63))]);
        assert_eq!(set(&[&format!("/{}", "e".repeat(63))], true), [one(1, &"e".repeat(63))]);
        assert_eq!(set(&["/a", ""], true), [], "the root");
        assert_eq!(set(&["/a", "/b", "/c", "/d", "/e"], true), [], "they do not fit");
        assert_eq!(set(&["/a"], false), []);
        assert_eq!(set(&["!/a"], true), []);
    }

    #[test]
    fn without_filters_the_programs_check_nothing() {
        let set = |change: &dyn Fn(&mut Query)| {
            let (mut settings, mut query) = (ProgramSettings::default(), Query::default());
            change(&mut query);
            super::set(&mut settings, &query, true);
            // SAFETY: written by set() and by default().
            (unsafe { settings.filters.assume_init() }, settings)
        };
        assert!(!set(&|_| {}).0 && !set(&|query| query.tcp = true).0);
        assert!(set(&|query| query.ipv4 = true).0);
        let ports = |plain: u16, negated: u16| {
            let (filters, settings) = set(&|query| {
                let plain = (1..=plain).map(Choice::plain);
                query.ports = plain.chain((101..=100 + negated).map(Choice::not)).collect();
            });
            (filters, settings.filter_ports.wanted, settings.filter_ports.count)
        };
        assert_eq!(ports(2, 0), (true, 2, 2));
        assert_eq!(ports(0, 3), (true, 0, 3));
        assert_eq!(ports(16, 3), (true, 16, 16));
        assert_eq!(ports(17, 3), (true, 0, 3), "plain values that do not fit filter nothing");
        assert_eq!(ports(17, 0), (false, 0, 0));
        assert_eq!(ports(1, 40), (true, 1, 16));
    }
}
