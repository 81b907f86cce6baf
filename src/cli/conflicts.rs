//! Options that have no effect together: they are refused, with the reason.
//!
//! Owns the table [`USELESS`]. Looks only at what the user has typed: a default is never
//! wrong. To add a rule, add an entry.

use crate::connection::Protocol;
use crate::settings::{FormatName, Settings, Sort};

/// An option that has no effect in some settings.
struct Useless {
    /// Its id: the name of its field in the settings.
    option: &'static str,
    /// In which settings.
    when: fn(&Settings) -> bool,
    /// The message to the user.
    reason: &'static str,
}

/// The first entry that applies gives the message.
const USELESS: &[Useless] = &[
    Useless {
        option: "tcp",
        when: |settings| settings.query.udp,
        reason: "--tcp and --udp: no row is both; leave both out to see both",
    },
    Useless {
        option: "ipv4",
        when: |settings| settings.query.ipv6,
        reason: "-4 and -6: no row is both; leave both out to see both",
    },
    Useless {
        option: "once",
        when: |settings| settings.times.count.is_some(),
        reason: "--once is --count 1; give one of them",
    },
    Useless {
        option: "log",
        when: writes_lines,
        reason: "--log writes no lines; let the shell write the file: tcptop > FILE",
    },
    Useless {
        option: "textfile",
        when: |settings| settings.output.log == settings.groups.textfile,
        reason: "--textfile and --log: one file cannot be both",
    },
    Useless {
        option: "append",
        when: |settings| settings.output.log.is_none(),
        reason: "--append goes with --log FILE",
    },
    Useless {
        option: "wide",
        when: |settings| !settings.groups.by.is_empty(),
        reason: "--wide and --by: the columns of groups are always the same",
    },
    Useless {
        option: "wide",
        when: writes_lines,
        reason: "--wide goes with --log FILE or --format csv; lines always have 13 fields",
    },
    Useless {
        option: "wide",
        when: |settings| settings.output.columns.as_ref().is_some_and(|list| !list.add),
        reason: "--wide and --columns: a list without + names all columns",
    },
    Useless {
        option: "sort",
        when: |settings| !settings.groups.by.is_empty() && settings.rows.sort == Sort::Age,
        reason: "--sort age and --by: groups have no age",
    },
    Useless { option: "groups", when: without_groups, reason: FOR_GROUPS },
    Useless { option: "textfile", when: without_groups, reason: FOR_GROUPS },
    Useless {
        option: "raw",
        when: writes_data,
        reason: "--raw is for lines; numbers of CSV and JSON are always plain",
    },
    Useless {
        option: "timestamp",
        when: writes_data,
        reason: "-t is for lines; CSV and JSON always have the time",
    },
    Useless {
        option: "color",
        when: writes_data,
        reason: "--color is for lines; CSV and JSON have no colours",
    },
    Useless {
        option: "all",
        when: writes_data,
        reason: "--all is for lines; CSV and JSON have every connection without it",
    },
    Useless {
        option: "bits",
        when: writes_data,
        reason: "--bits is for lines; rates of CSV and JSON are in bytes per second",
    },
    Useless {
        option: "changed",
        when: writes_lines,
        reason: "--changed is for CSV and JSON; lines show what changed without it",
    },
    Useless {
        option: "udp_timeout",
        when: without_udp,
        reason: "--udp-timeout is for UDP, which --tcp leaves out",
    },
    Useless {
        option: "udp_flows",
        when: without_udp,
        reason: "--udp-flows is for UDP, which --tcp leaves out",
    },
    Useless {
        option: "lifetime",
        when: |settings| !settings.query.wants(Protocol::Tcp),
        reason: "--lifetime is for TCP, which --udp leaves out",
    },
];

const FOR_GROUPS: &str = "--groups and --textfile go with --by KEYS";

/// Why the settings make no sense, if an option that `typed` knows has no effect.
pub(super) fn find(settings: &Settings, typed: impl Fn(&str) -> bool) -> Option<&'static str> {
    let useless = USELESS.iter().find(|rule| typed(rule.option) && (rule.when)(settings));
    useless.map(|rule| rule.reason)
}

fn writes_lines(settings: &Settings) -> bool {
    settings.output.format() == FormatName::Lines
}

fn writes_data(settings: &Settings) -> bool {
    !writes_lines(settings)
}

fn without_groups(settings: &Settings) -> bool {
    settings.groups.by.is_empty()
}

fn without_udp(settings: &Settings) -> bool {
    !settings.query.wants(Protocol::Udp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// A rule for an option that does not exist would never apply.
    #[test]
    fn every_option_exists() {
        let command = super::super::Args::command();
        for rule in USELESS {
            let exists = command.get_arguments().any(|argument| argument.get_id() == rule.option);
            assert!(exists, "{}", rule.option);
        }
    }

    #[test]
    fn nothing_is_wrong_with_defaults() {
        assert_eq!(find(&Settings::default(), |_| false), None);
    }
}
