//! The words about the options: help, manual page, README and tests know the
//! same ones, and mistakes are answered in golden words. Needs no privileges.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn tcptop(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcptop"));
    command.args(arguments).env("COLUMNS", "100").output().expect("tcptop")
}

/// What a command that must succeed prints.
fn printed(arguments: &[&str]) -> String {
    let output = tcptop(arguments);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The options that a help text defines: the first words of their lines.
fn options(help: &str) -> BTreeSet<String> {
    let lines = help.lines().take_while(|line| !line.starts_with("Examples:"));
    let defines = |line: &&str| line.trim_start().starts_with('-') && line.starts_with("  ");
    let words = |line: &str| {
        let end = line.trim_start().find("  ").unwrap_or(line.trim_start().len());
        let words = line.trim_start()[..end].split([' ', ',']).map(str::to_owned);
        words.filter(|word| word.starts_with('-')).collect::<Vec<_>>()
    };
    // "- rate: ..." is a value.
    lines.filter(defines).flat_map(words).filter(|option| option != "-").collect()
}

/// The text of all tests that run the command, but for this file.
fn tests() -> String {
    let mut text = String::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if !path.ends_with("tests/help.rs") {
                text += &fs::read_to_string(path).expect("text");
            }
        }
    }
    text
}

/// The manual page without roff's marks.
fn manual() -> String {
    let page = printed(&["--generate", "man"]).replace("\\-", "-");
    page.replace("\\fB", " ").replace("\\fI", " ").replace("\\fR", " ")
}

/// Whether an option stands somewhere as a word of its own.
fn has_word(text: &str, option: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices(option).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + option.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// Those of the options that a text does not know. Of `-p, --port` one will do.
fn missing<'a>(options: &'a BTreeSet<String>, short: &[(&str, &str)], text: &str) -> Vec<&'a str> {
    let other = |option: &str| {
        short.iter().find_map(|&(one, other)| match option {
            _ if option == one => Some(other),
            _ if option == other => Some(one),
            _ => None,
        })
    };
    let knows = |option: &&String| {
        has_word(text, option) || other(option).is_some_and(|other| has_word(text, other))
    };
    options.iter().filter(|option| !knows(option)).map(String::as_str).collect()
}

const SHORT: [(&str, &str); 5] = [
    ("-i", "--interface"),
    ("-t", "--timestamp"),
    ("-v", "--verbose"),
    ("-h", "--help"),
    ("-V", "--version"),
];

/// An option that is added to the one must be added to the others.
#[test]
fn every_option_is_tested_and_documented() {
    let help = printed(&["--help"]);
    let options = options(&help);
    assert!(options.len() >= 30 && options.contains("--port") && options.contains("-4"));
    let own = file("tests/help.rs");
    let own = own.split("#[test]").skip(2).collect::<String>();
    assert_eq!(missing(&options, &SHORT, &(tests() + &own)), [] as [&str; 0], "in no test");
    assert_eq!(missing(&options, &[], &manual()), [] as [&str; 0], "not in the manual page");
    assert_eq!(missing(&options, &SHORT, &file("README.md")), [] as [&str; 0], "not in the README");
    let short_help = printed(&["-h"]);
    assert_eq!(missing(&options, &[], &short_help), [] as [&str; 0], "not in -h");
}

/// The check above sees what it is for.
#[test]
fn a_new_option_is_missed() {
    let help =
        printed(&["--help"]).replace("      --raw\n", "      --raw\n\n      --raw-ish <N>\n");
    let options = options(&help);
    assert_eq!(
        missing(&options, &SHORT, &tests()).iter().filter(|o| **o == "--raw-ish").count(),
        1
    );
    assert!(missing(&options, &[], &manual()).contains(&"--raw-ish"));
}

/// The columns and keys that the README and the manual page describe.
#[test]
fn every_column_is_documented() {
    const COLUMNS: &str = "timestamp protocol local_addr local_port remote_addr remote_port pid \
        process_name state bytes_in bytes_out packets_in packets_out rate_in_bytes_sec \
        rate_out_bytes_sec rtt_us partial retrans min_rtt_us age_sec uid ifname netns cgroup \
        container end ring_full storage_full channel_full malformed flow_table_datagrams \
        flow_table_bytes receiver_table_full skipped schema event sample closed lost";
    let (readme, manual) = (file("README.md"), manual());
    for column in COLUMNS.split_ascii_whitespace() {
        assert!(readme.contains(&format!("`{column}`")), "README: {column}");
        assert!(has_word(&manual, column), "manual: {column}");
    }
}

/// The README names the packages that `make deps` installs.
#[test]
fn packages_are_those_of_the_script() {
    let (readme, script) = (file("README.md"), file("scripts/install-deps.sh"));
    let table = script.lines().filter(|line| line.starts_with("build  ") && line.contains(':'));
    let rows: Vec<Vec<&str>> = table.map(|line| line.split_ascii_whitespace().collect()).collect();
    assert!(rows.len() >= 6);
    for (column, distribution) in
        [(3, "Debian"), (4, "Fedora"), (5, "openSUSE"), (6, "Arch"), (7, "Alpine")]
    {
        let line = readme.lines().find(|line| line.starts_with(&format!("  | {distribution}")));
        let line = line.unwrap_or_else(|| panic!("{distribution}"));
        let named: BTreeSet<&str> = line
            .split('`')
            .nth(1)
            .expect("a command")
            .split(' ')
            .skip_while(|word| !["install", "-S", "add"].contains(word))
            .skip(1)
            .collect();
        let wanted: BTreeSet<&str> = rows.iter().flat_map(|row| row[column].split(',')).collect();
        assert_eq!(named, wanted, "{distribution}");
    }
}

/// Status 2 or 0, and the first line of what is said.
#[test]
fn mistakes_are_answered() {
    for (arguments, first) in [
        (&["--intervall", "2"][..], "error: unexpected argument '--intervall' found"),
        (
            &["--interval", "0"],
            "error: invalid value '0' for '--interval <SECONDS>': too short, at least 0.01 \
             seconds are needed to tell a rate",
        ),
        (
            &["--top", "0"],
            "error: invalid value '0' for '--top <N>': would show nothing; leave it out to see \
             all rows",
        ),
        (&["--tcp", "--udp"], "error: --tcp and --udp: no row is both; leave both out to see both"),
        (&["-4", "-6"], "error: -4 and -6: no row is both; leave both out to see both"),
        (&["--append"], "error: --append goes with --log FILE"),
        (&["--once", "--count", "3"], "error: --once is --count 1; give one of them"),
        (
            &["--wide"],
            "error: --wide goes with --log FILE or --format csv; lines always have 13 fields",
        ),
        (
            &["--log", "x", "--format", "json"],
            "error: --log writes CSV; for another format let the shell write the file: tcptop \
             --format json > FILE",
        ),
        (&["--doctor", "--tcp"], "error: the argument '--doctor' cannot be used with '--tcp'"),
        (&["--generate", "ksh"], "error: invalid value 'ksh' for '--generate <WHAT>'"),
    ] {
        let output = tcptop(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        let said = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(said.lines().next(), Some(first), "{arguments:?}");
    }
    let said = String::from_utf8(tcptop(&["--prot", "80"]).stderr).expect("UTF-8");
    assert!(said.contains("a similar argument exists: '--port'"), "{said}");
}

#[test]
fn version_and_generated_texts() {
    let version = format!("tcptop {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((printed(&["-V"]), printed(&["--version"])), (version.clone(), version));
    for (what, sign) in [
        ("man", ".TH TCPTOP 8 "),
        ("bash", "complete -F _tcptop"),
        ("zsh", "#compdef tcptop"),
        ("fish", "complete -c tcptop"),
    ] {
        assert!(printed(&["--generate", what]).contains(sign), "{what}");
    }
    // Nobody reads it: no error.
    let script = "\"$0\" --generate man | true";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_tcptop")]).output();
    assert!(output.expect("sh").stderr.is_empty());
}
