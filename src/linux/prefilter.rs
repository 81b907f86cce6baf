//! The part of the filters that the programs apply in the kernel.
//!
//! Owns the translation of a [`Query`] into the programs' constants (`bpf/filter.bpf.h`).
//! The reporter applies all filters again, so the programs may let more pass than the user
//! asked for, but never less.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::wire::{self, Prefix, Prefixes, ProgramSettings};
use crate::connection::Family;
use crate::settings::{Choice, Query};

/// Sets the filters that the programs can apply.
pub(super) fn set(settings: &mut ProgramSettings, query: &Query) {
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
    let counts = [
        u32::from(settings.filter_family),
        settings.filter_ports.count.into(),
        settings.filter_local.count,
        settings.filter_remote.count,
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
    fn without_filters_the_programs_check_nothing() {
        let set = |change: &dyn Fn(&mut Query)| {
            let (mut settings, mut query) = (ProgramSettings::default(), Query::default());
            change(&mut query);
            super::set(&mut settings, &query);
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
