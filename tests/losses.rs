//! The list of losses in ARCHITECTURE.md is complete: each place in the code where something
//! can be dropped is in it, with its cause, and each cause with the tests that force it.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tcptop::loss::LossCause;

/// What a program calls where it may find no room, or that drops something.
const MARKS: [&str; 8] = [
    "lost(",
    "record_reserve(",
    "bpf_ringbuf_reserve(",
    "bpf_ringbuf_discard(",
    "bpf_map_update_elem(",
    "BPF_SK_STORAGE_GET_F_CREATE",
    "tracked_create(",
    "flow_claim(",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below a folder whose names end like this, as paths from the root.
fn files(folder: &str, ends: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(folder).expect("a folder");
        for path in entries.map(|entry| entry.expect("an entry").path()) {
            if path.is_dir() {
                folders.push(path);
            } else if ends.iter().any(|end| path.to_string_lossy().ends_with(end)) {
                let path: PathBuf = path.strip_prefix(root()).expect("below").into();
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    found
}

/// A row of one of the two tables: what is in each cell between backquotes.
struct Row {
    places: Vec<String>,
    causes: Vec<String>,
    tests: Vec<String>,
}

/// The rows of the tables in the section "Losses".
fn rows(architecture: &str) -> Vec<Row> {
    let section = architecture.split("\n## Losses\n").nth(1).expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let of = |line: &str| {
        let cells: Vec<&str> = line.split('|').collect();
        let cell = |number: usize| cells.get(number).map(|cell| names(cell)).unwrap_or_default();
        let is_loss = cells.len() == 6;
        Row {
            places: cell(1),
            causes: if is_loss { cell(2) } else { Vec::new() },
            tests: if is_loss { cell(4) } else { Vec::new() },
        }
    };
    section.lines().filter(|line| line.starts_with("| `")).map(of).collect()
}

/// C without comments; each comment leaves its line feeds.
fn without_comments(source: &str) -> String {
    let mut parts = source.split("/*");
    let mut code = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (comment, rest) = part.split_once("*/").expect("an end");
        code.extend(comment.chars().filter(|&c| c == '\n'));
        code += rest;
    }
    code
}

/// Each mark in a source, with the function that it is in and the rest of its line.
fn marked(source: &str) -> Vec<(String, &'static str, String)> {
    let mut function = String::new();
    let mut found = Vec::new();
    for line in without_comments(source).lines() {
        let begins = line.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if let Some((head, arguments)) = line.split_once('(').filter(|_| begins) {
            let name = head.rsplit([' ', '*']).next().unwrap_or_default();
            function = match name {
                "BPF_PROG" => arguments.split([',', ')']).next().unwrap_or_default().to_owned(),
                name => name.to_owned(),
            };
            continue;
        }
        for mark in MARKS {
            let calls =
                |at: usize| !line[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            if let Some((at, _)) = line.match_indices(mark).find(|(at, _)| calls(*at)) {
                found.push((function.clone(), mark, line[at + mark.len()..].to_owned()));
            }
        }
    }
    found
}

/// The cause that a counter of the programs stands for, by `LOSSES` in wire.rs.
fn cause_of(counter: &str) -> String {
    let wire = text("src/linux/wire.rs");
    let pair = wire.lines().find(|line| line.contains(&format!("KernelLoss::{counter},")));
    let pair = pair.unwrap_or_else(|| panic!("wire.rs: {counter}"));
    let variant = pair.split("LossCause::").nth(1).expect("a cause").trim_end_matches("),");
    name_of(variant)
}

fn name_of(variant: &str) -> String {
    let is_it = |cause: &LossCause| format!("{cause:?}") == variant;
    let cause = LossCause::ALL.into_iter().find(is_it);
    cause.unwrap_or_else(|| panic!("no cause {variant}")).name().to_owned()
}

fn is_listed(rows: &[Row], place: &str, cause: &str) -> bool {
    let has = |list: &[String], name: &str| list.iter().any(|one| one == name);
    rows.iter().any(|row| has(&row.places, place) && (cause.is_empty() || has(&row.causes, cause)))
}

/// What the programs do that is in no row.
fn unlisted(rows: &[Row], sources: &[String]) -> Vec<String> {
    let mut places = 0;
    let mut unlisted = Vec::new();
    for (function, mark, rest) in sources.iter().flat_map(|source| marked(source)) {
        places += 1;
        let cause = match mark {
            "lost(" => cause_of(rest.split(',').next().unwrap_or_default()),
            _ => String::new(),
        };
        if !is_listed(rows, &function, &cause) {
            unlisted.push(format!("{function}: {mark} {cause}"));
        }
    }
    assert!(places > 20, "{places} found");
    unlisted
}

fn programs() -> Vec<String> {
    files("bpf", &[".h", ".c"]).iter().map(|path| text(path)).collect()
}

#[test]
fn each_place_in_the_programs_is_listed() {
    let unlisted = unlisted(&rows(&text("ARCHITECTURE.md")), &programs());
    assert!(unlisted.is_empty(), "not in the list of ARCHITECTURE.md: {unlisted:#?}");
}

#[test]
fn each_place_in_user_space_is_listed() {
    let rows = rows(&text("ARCHITECTURE.md"));
    let mut counted = BTreeSet::new();
    // properties/ makes events for tests.
    for path in files("src", &[".rs"]).into_iter().filter(|path| !path.contains("/properties")) {
        let source = text(&path);
        let code = source.split("\n#[cfg(test)]").next().unwrap_or_default();
        for part in code.split("[LossCause::").skip(1) {
            let Some((variant, rest)) = part.split_once(']') else { continue };
            if rest.trim_start().starts_with("+=") {
                let cause = name_of(variant);
                assert!(is_listed(&rows, &path, &cause), "{path}: {cause} is not listed");
                counted.insert(cause);
            }
        }
    }
    assert!(counted.len() > 4, "{counted:?}");
}

/// Where a test is registered (live ones) or defined: the text of that file.
fn file_of(test: &str) -> Option<String> {
    let (module, name) = test.rsplit_once("::")?;
    let unit = format!("fn {name}()");
    let registered = format!("\"{test}\"");
    let live =
        files("tests/live", &[".rs"]).into_iter().find(|path| text(path).contains(&registered));
    let of_unit = || {
        let file = format!("{}.rs", module.trim_end_matches("::tests"));
        let paths = files("src", &[&format!("/{file}")]);
        paths.into_iter().find(|path| text(path).contains(&unit))
    };
    live.or_else(of_unit).map(|path| text(&path))
}

#[test]
fn each_cause_is_listed_and_forced() {
    let rows = rows(&text("ARCHITECTURE.md"));
    for cause in LossCause::ALL {
        let name = cause.name();
        let of_cause: Vec<&Row> =
            rows.iter().filter(|row| row.causes.iter().any(|listed| listed == name)).collect();
        assert!(!of_cause.is_empty(), "{name} is not in the list of ARCHITECTURE.md");
        for row in of_cause {
            assert!(!row.tests.is_empty(), "{name} is forced by no test");
            for test in &row.tests {
                let file = file_of(test).unwrap_or_else(|| panic!("no test {test}"));
                let named = [format!("\"{name}\""), format!("LossCause::{cause:?}")]
                    .map(|n| file.contains(&n));
                assert!(named.contains(&true), "{test} does not name {name}");
            }
        }
    }
    let known: BTreeSet<&str> = LossCause::ALL.iter().map(|cause| cause.name()).collect();
    for cause in rows.iter().flat_map(|row| &row.causes) {
        assert!(known.contains(&**cause), "there is no cause {cause}");
    }
}

/// The checks above can fail.
#[test]
fn a_new_place_is_found() {
    let rows = rows(&text("ARCHITECTURE.md"));
    let mut sources = programs();
    sources.push(
        "static __always_inline void tcp_ends(struct sock *sk)\n{\n\tlost(TCPTOP_LOST_CGROUPS, 1);\n}\n\
         SEC(\"?tp_btf/x\")\nint BPF_PROG(new_hook, struct sock *sk)\n{\n\
         \t/* lost(TCPTOP_LOST_RING_FULL, 1); */\n\
         \tvoid *room = bpf_ringbuf_reserve(&events, 8, 0);\n}\n"
            .to_owned(),
    );
    let found = unlisted(&rows, &sources);
    assert_eq!(found, ["tcp_ends: lost( cgroups", "new_hook: bpf_ringbuf_reserve( "]);
    assert!(file_of("churn::no_such_test").is_none());
}
