//! Help, manual page, documentation and tests all cover the same options, and a mistake on
//! the command line gets the expected message. Needs no privileges. `tests/docs.rs` runs the
//! commands of the documentation.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tcptop::loss::LossCause;
use tcptop::output::columns::{COLUMNS, Column, Kind, Selection, Usual, column};
use tcptop::output::grouped;

#[path = "common/columns.rs"]
mod oracle;

fn tcptop(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tcptop"));
    command.args(arguments).env("COLUMNS", "100").output().expect("tcptop")
}

/// The output of a command that must succeed.
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
        let words = line.trim_start()[..end].split([' ', ',']);
        // An option that can be repeated.
        let words = words.map(|word| word.trim_end_matches("...").to_owned());
        words.filter(|word| word.starts_with('-')).collect::<Vec<_>>()
    };
    // "- rate: ..." is a value.
    lines.filter(defines).flat_map(words).filter(|option| option != "-").collect()
}

/// The text of all tests except this file.
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
    let page = printed(&["--generate", "man"]).replace("\\\n", "");
    let page = page.replace("\\-", "-").replace("\\*(Aq", "'");
    page.replace("\\fB", " ").replace("\\fI", " ").replace("\\fR", " ")
}

/// Whether the text contains the option as a separate word.
fn has_word(text: &str, option: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    text.match_indices(option).any(|(start, _)| {
        let before = text[..start].chars().next_back();
        let after = text[start + option.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// The options that a text does not mention. For one with a short form either is enough.
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

/// An option of the help must be in the tests, the manual page and docs/options.md.
#[test]
fn every_option_is_tested_and_documented() {
    let help = printed(&["--help"]);
    let options = options(&help);
    assert!(options.len() >= 30 && options.contains("--port") && options.contains("-4"));
    let own = file("tests/help.rs");
    let own = own.split("#[test]").skip(2).collect::<String>();
    assert_eq!(missing(&options, &SHORT, &(tests() + &own)), [] as [&str; 0], "in no test");
    assert_eq!(missing(&options, &[], &manual()), [] as [&str; 0], "not in the manual page");
    let page = file("docs/options.md");
    assert_eq!(missing(&options, &SHORT, &page), [] as [&str; 0], "not in docs/options.md");
    let short_help = printed(&["-h"]);
    assert_eq!(missing(&options, &[], &short_help), [] as [&str; 0], "not in -h");
}

/// The check above can fail.
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

/// The program's table of columns is the same as the list in common/columns.rs, which was
/// written by hand: users rely on it.
#[test]
fn columns_are_those_that_were_promised() {
    let csv = |wide| Selection::csv(wide).iter().map(|column| column.name).collect::<Vec<_>>();
    assert_eq!(csv(false), oracle::names(oracle::USUAL));
    assert_eq!(csv(true), oracle::names(oracle::COLUMNS.len()));
    let asked: Vec<&str> = COLUMNS
        .iter()
        .filter(|column| column.usual == Usual::Asked)
        .map(|column| column.name)
        .collect();
    assert_eq!(asked, oracle::ASKED.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    for &(name, kind) in oracle::COLUMNS.iter().chain(oracle::ASKED) {
        let kind = match kind.to_ascii_uppercase() {
            'N' => Kind::Number,
            'B' => Kind::Flag,
            _ => Kind::Text,
        };
        assert_eq!(column(name).map(|column| column.kind), Some(kind), "{name}");
    }
    assert!(LossCause::ALL.iter().map(|cause| cause.name()).eq(causes()));
}

/// The keys of the causes of loss.
fn causes() -> impl Iterator<Item = &'static str> {
    oracle::CAUSES.iter().map(|(key, _)| *key)
}

/// The manual page describes all columns, events and causes of loss.
#[test]
fn the_manual_page_has_every_column() {
    let manual = manual();
    let mut columns = oracle::names(oracle::COLUMNS.len());
    columns.extend(oracle::ASKED.iter().map(|(name, _)| *name));
    let others = ["schema", "event", "sample", "closed", "expired", "lost"];
    for word in columns.into_iter().chain(causes()).chain(others) {
        assert!(has_word(&manual, word), "manual: {word}");
    }
}

/// The documentation's tables of columns are made from the program's: `BLESS=1 cargo test
/// --test help` writes them anew.
#[test]
fn the_documentation_has_every_column() {
    let wide = |usual| COLUMNS.iter().filter(move |column| column.usual == usual);
    for (page, marker, rows) in [
        (
            "README.md",
            "lines",
            Selection::lines().iter().enumerate().map(line_row).collect::<String>(),
        ),
        ("docs/columns.md", "csv", wide(Usual::Always).map(csv_row).collect()),
        ("docs/columns.md", "wide", wide(Usual::Wide).map(csv_row).collect()),
        ("docs/columns.md", "asked", wide(Usual::Asked).map(csv_row).collect()),
        ("docs/groups.md", "groups", grouped::totals().map(csv_row).collect()),
    ] {
        let mut text = file(page);
        let (begin, end) = (format!("<!-- columns: {marker} -->\n"), "<!-- end -->");
        let from = text.find(&begin).unwrap_or_else(|| panic!("{page}: {begin}")) + begin.len();
        let to = from + text[from..].find(end).expect("an end");
        let table = format!("\n{}{rows}\n", if marker == "lines" { LINES_HEAD } else { CSV_HEAD });
        if std::env::var_os("BLESS").is_some() {
            text.replace_range(from..to, &table);
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
            fs::write(path, &text).expect("a page");
        } else {
            assert_eq!(&text[from..to], table, "{page}: {marker}; BLESS=1 writes it");
        }
    }
    let (formats, counting) = (file("docs/formats.md"), file("docs/counting.md"));
    for word in ["schema", "event", "sample", "closed", "expired", "lost"] {
        assert!(formats.contains(&format!("`{word}`")), "docs/formats.md: {word}");
    }
    for cause in causes() {
        assert!(counting.contains(&format!("`{cause}`")), "docs/counting.md: {cause}");
    }
}

/// docs/ has the JSON Schema of this version; `BLESS=1` writes it.
#[test]
fn the_json_schema_is_published() {
    let schema = printed(&["--generate", "schema"]);
    if std::env::var_os("BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tcptop.schema.json");
        fs::write(path, &schema).expect("the schema");
    }
    assert_eq!(file("docs/tcptop.schema.json"), schema);
    let schema: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    for column in COLUMNS {
        assert_eq!(schema["properties"][column.name]["type"][0], column.kind.name());
    }
}

const LINES_HEAD: &str = "| field | column | |\n|---|---|---|\n";
const CSV_HEAD: &str = "| column | type | unit | |\n|---|---|---|---|\n";

fn line_row((position, column): (usize, &Column)) -> String {
    format!("| {} | `{}` | {} |\n", position + 1, column.title, column.about)
}

fn csv_row(column: &Column) -> String {
    let Column { name, kind, unit, about, .. } = column;
    format!("| `{name}` | {} | {unit} | {about} |\n", kind.name())
}

/// The exit statuses that are listed below a heading, each with the words about it.
fn exit_statuses(text: &str, heading: &str) -> BTreeMap<u8, Vec<String>> {
    let (_, list) = text.split_once(heading).expect("exit statuses");
    let lines = list.lines().skip(1).take_while(|line| !line.is_empty());
    let is_mark = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    let words = |line: &str| {
        let words = line.split(is_mark).filter(|word| !word.is_empty());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    let of_line = |line| {
        let words: Vec<String> = words(line);
        Some((words.first()?.parse().ok()?, words[1..].to_vec()))
    };
    lines.filter_map(of_line).collect()
}

#[test]
fn the_documentation_has_the_exit_statuses_of_help() {
    let of_help = exit_statuses(&printed(&["--help"]), "Exit status:");
    assert!(of_help.len() >= 5 && of_help[&77] == ["not", "privileged"], "{of_help:?}");
    let page = file("docs/options.md");
    let heading = "| status | |";
    assert_eq!(exit_statuses(&page, heading), of_help);
    // The check sees what it is for.
    for (from, to) in [("| 3 |", "| 4 |"), ("a mistake in", "an error in"), ("| 2 |", "| |")] {
        let changed = exit_statuses(&page.replace(from, to), heading);
        assert_ne!(changed, of_help, "{to}");
    }
}

/// The arguments of every tcptop that the lines of a text start.
fn commands<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Vec<&'a str>> {
    let arguments = |line: &'a str| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        words.find(|word| *word == "tcptop" || word.ends_with("bin/tcptop"))?;
        Some(words.take_while(|word| !word.starts_with(['|', '>', ';'])).collect())
    };
    lines.filter_map(arguments).collect()
}

/// The commands that tcptop would refuse.
fn refused<'a>(commands: &[Vec<&'a str>]) -> Vec<String> {
    let parse = |arguments: &&Vec<&'a str>| {
        tcptop::cli::parse(std::iter::once("tcptop").chain(arguments.iter().copied())).is_err()
    };
    commands.iter().filter(parse).map(|arguments| arguments.join(" ")).collect()
}

/// tcptop accepts every example of the help, and the manual page has them too.
#[test]
fn examples_are_accepted() {
    let (help, manual) = (printed(&["--help"]), manual());
    let (_, examples) = help.split_once("Examples:").expect("examples");
    let examples: Vec<&str> =
        examples.lines().filter_map(|line| line.strip_prefix("  sudo ")).collect();
    assert!(examples.len() >= 6, "{examples:?}");
    for command in &examples {
        assert!(manual.lines().any(|line| line == *command), "not in the manual page: {command}");
    }
    assert_eq!(refused(&commands(examples.iter().copied())), [] as [&str; 0], "help");
    // The check sees what it is for.
    let renamed: Vec<String> =
        examples.iter().map(|line| line.replace("--duration", "--during")).collect();
    assert_eq!(refused(&commands(renamed.iter().map(String::as_str))).len(), 1);
}

/// The documentation names the packages that `make deps` installs.
#[test]
fn packages_are_those_of_the_script() {
    let (page, script) = (file("docs/install.md"), file("scripts/install-deps.sh"));
    let table = script.lines().filter(|line| line.starts_with("build  ") && line.contains(':'));
    let rows: Vec<Vec<&str>> = table.map(|line| line.split_ascii_whitespace().collect()).collect();
    assert!(rows.len() >= 6);
    for (column, distribution) in
        [(3, "Debian"), (4, "Fedora"), (5, "openSUSE"), (6, "Arch"), (7, "Alpine")]
    {
        let line = page.lines().find(|line| line.starts_with(&format!("| {distribution}")));
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

/// The manual page shows each option with its value, and the date of the release.
#[test]
fn the_manual_page_has_values_and_a_date() {
    let page = manual();
    let (_, synopsis) = page.split_once(".SH SYNOPSIS").expect("a synopsis");
    let synopsis = synopsis.split(".SH").next().expect("its end").replace('\n', " ");
    let synopsis = synopsis.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in
        ["[ --port N ]", "[ -i | --interface IF ]", "[ -4 ]", "[ --once ]", "[ --log FILE ]"]
    {
        assert!(synopsis.contains(part), "{part}: {synopsis}");
    }
    let version = env!("CARGO_PKG_VERSION");
    let changelog = file("CHANGELOG.md");
    let release =
        changelog.lines().find_map(|line| line.strip_prefix(&format!("## [{version}] - ")));
    let date = release.expect("the version in the changelog");
    assert!(page.starts_with(&format!(".TH TCPTOP 8 {date} \"tcptop {version}\"")), "{date}");
}

/// What cannot be printed is an error, status 1, and says where it was to go.
#[test]
fn output_that_nobody_gets_is_an_error() {
    let program = env!("CARGO_BIN_EXE_tcptop");
    let through_shell = |redirection: &str, arguments: &str| {
        let line = format!("'{program}' {arguments} {redirection}");
        Command::new("sh").args(["-c", &line]).output().expect("sh")
    };
    for arguments in ["--help", "-h", "-V", "--columns help", "--generate man"] {
        for (redirection, error) in [
            (
                ">/dev/full",
                "failed to write to the standard output: No space left on device (os error 28)",
            ),
            (">&-", "the standard output is closed; open it, or write into a file with --log FILE"),
        ] {
            let output = through_shell(redirection, arguments);
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(stderr, format!("tcptop: error: {error}\n"), "{arguments} {redirection}");
            assert_eq!(output.status.code(), Some(1));
        }
        assert!(through_shell("| head -c 1", arguments).status.success());
    }
    // Before anything else, also without privileges.
    let output = through_shell(">&-", "--once");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}

/// A mistake on the command line: status 2, and the first line of the message.
#[test]
fn mistakes_are_answered() {
    for (arguments, first) in [
        (&["--intervall", "2"][..], "error: unexpected argument '--intervall' found"),
        (
            &["--interval", "0"],
            "error: invalid value '0' for '--interval <SECONDS>': too short, at least 0.01 \
             seconds",
        ),
        (
            &["--top", "0"],
            "error: invalid value '0' for '--top <N>': would show nothing; leave it out to see \
             all rows",
        ),
        (
            &["--raw", "--format", "csv"],
            "error: --raw is for lines; numbers of CSV and JSON are always plain",
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
            &["--log", "x", "--format", "lines"],
            "error: --log writes no lines; let the shell write the file: tcptop > FILE",
        ),
        (&["--doctor", "--tcp"], "error: the argument '--doctor' cannot be used with '--tcp'"),
        (&["--generate", "ksh"], "error: invalid value 'ksh' for '--generate <WHAT>'"),
        (
            &["--without", "kprobe"],
            "error: --without: no provider is named 'kprobe'; there are \
             tp_btf/inet_sock_set_state, iter/bpf_sk_storage_map, tp_btf/tcp_sendmsg_locked, \
             tp_btf/sock_send_length, fentry/tcp_sendmsg, iter/task_file, fentry/ip_send_skb, \
             cgroup_skb",
        ),
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

/// The shell completes the names of devices that are there.
#[test]
fn bash_completes_devices() {
    let script = printed(&["--generate", "bash"])
        + "COMP_WORDS=(tcptop $1 l); COMP_CWORD=2; _tcptop tcptop l $1; echo ${COMPREPLY[@]}";
    for option in ["-i", "--interface"] {
        let output = Command::new("bash").args(["-c", &script, "bash", option]).output();
        let completed = String::from_utf8(output.expect("bash").stdout).expect("UTF-8");
        assert!(completed.split_whitespace().any(|name| name == "lo"), "{option}: {completed}");
    }
}

/// In bash, a list of names is completed after a comma and after the `+`, and states are.
#[test]
fn bash_completes_lists() {
    let script = printed(&["--generate", "bash"])
        + "COMP_WORDS=(tcptop $1 $2); COMP_CWORD=2; _tcptop tcptop \"$2\" $1; echo ${COMPREPLY[@]}";
    for (option, typed, completed) in [
        ("--columns", "rtt", "rtt_us rttvar_us"),
        ("--columns", "+rtt", "+rtt_us +rttvar_us"),
        ("--columns", "pid,cwn", "pid,cwnd"),
        ("--columns", "+pid,mss,cwn", "+pid,mss,cwnd"),
        ("--by", "process,remote_p", "process,remote_port"),
        ("--sort", "delivery", "delivery_rate"),
        ("--state", "EST", "ESTABLISHED"),
        ("--format", "js", "json"),
    ] {
        let output = Command::new("bash").args(["-c", &script, "bash", option, typed]).output();
        let output = output.expect("bash");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{option} {typed}");
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), completed, "{option} {typed}");
    }
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
    // No error if nobody reads the output.
    let script = "\"$0\" --generate man | true";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_tcptop")]).output();
    assert!(output.expect("sh").stderr.is_empty());
}
