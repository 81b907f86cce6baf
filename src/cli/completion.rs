//! The completion scripts of shells.
//!
//! Owns what clap does not know: that options which help hides are not completed, that the
//! names of devices are those of the host at the time, and that a list of names goes on after
//! a comma.

use clap::Command;
use clap::builder::PossibleValuesParser;
use clap_complete::Shell;

use crate::connection::{Protocol, TcpState};

/// Stands for the names of devices until the shell's own words for them replace it.
const DEVICES: &str = "tcptop-devices";

/// The script for this shell.
pub(super) fn script(shell: Shell) -> Vec<u8> {
    let all = super::command();
    let visible = all.get_arguments().filter(|argument| !argument.is_hide_set()).cloned();
    let mut command = Command::new("tcptop")
        .version(env!("CARGO_PKG_VERSION"))
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(visible)
        .mut_arg("interfaces", |argument| {
            argument.value_parser(PossibleValuesParser::new([DEVICES]))
        })
        .mut_arg("states", |argument| {
            let states =
                TcpState::ALL.map(TcpState::name).into_iter().chain([Protocol::Udp.name()]);
            argument.value_parser(PossibleValuesParser::new(states))
        });
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "tcptop", &mut text);
    let text = String::from_utf8_lossy(&text);
    let text = match devices(shell) {
        Some((words, devices)) => text.replace(&words, devices),
        None => text.into_owned(),
    };
    if shell == Shell::Bash { with_lists(&text) } else { text }.into_bytes()
}

/// The options whose values are lists of names.
const LISTS: [&str; 2] = ["--columns)", "--by)"];

/// The script for bash, which completes the last name of a list: what follows the last comma
/// or the `+` at its beginning. A blank would end the list, so none is appended.
fn with_lists(script: &str) -> String {
    const LAST: &str = "${cur##*[,+]}";
    let mut out = String::new();
    let mut in_list = false;
    for line in script.lines() {
        if in_list && line.contains("compgen -W ") {
            let before = format!("compgen -P \"${{cur%\"{LAST}\"}}\" -W ");
            out +=
                &line.replace("compgen -W ", &before).replace("\"${cur}\"", &format!("\"{LAST}\""));
            out += "\n                    compopt -o nospace 2>/dev/null";
        } else {
            out += line;
        }
        out.push('\n');
        in_list = LISTS.contains(&line.trim());
    }
    out
}

/// The words that clap writes for [`DEVICES`], and what this shell needs there.
fn devices(shell: Shell) -> Option<(String, &'static str)> {
    match shell {
        Shell::Bash => Some((DEVICES.to_owned(), "$(ls /sys/class/net 2>/dev/null)")),
        Shell::Zsh => Some((format!("({DEVICES})"), "_net_interfaces")),
        Shell::Fish => Some((format!("{DEVICES}\\t''"), "(ls /sys/class/net 2>/dev/null)")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_those_of_the_host() {
        for (shell, words, times) in [
            (Shell::Bash, "compgen -W \"$(ls /sys/class/net 2>/dev/null)\" -- \"${cur}\"", 2),
            (Shell::Zsh, ":IF:_net_interfaces'", 2),
            (
                Shell::Fish,
                "-s i -l interface -d 'Only what goes through this device' -r -f -a \"(ls /sys/class/net 2>/dev/null)\"",
                1,
            ),
        ] {
            let text = String::from_utf8(script(shell)).expect("UTF-8");
            assert_eq!(text.matches(words).count(), times, "{shell}: {text}");
            assert!(!text.contains(DEVICES), "{shell}");
        }
    }

    #[test]
    fn hidden_options_are_not_completed() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = String::from_utf8(script(shell)).expect("UTF-8");
            assert!(!text.contains("ready-file") && !text.contains("without"), "{shell}");
            assert!(text.contains("interface") && text.contains("version"), "{shell}");
        }
    }
}
