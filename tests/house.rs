//! The rules of ARCHITECTURE.md that the compiler does not enforce: dependencies go one
//! way, and only `src/linux` uses Linux interfaces.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};

/// The floors, lowest first: a module may use modules on lower floors and itself.
const FLOORS: [&[&str]; 9] = [
    &["connection", "loss"],
    &["settings", "event", "names"],
    &["table", "filter"],
    &["view", "groups"],
    &["output"],
    &["report", "manual"],
    &["cli"],
    &["properties"],
    &["linux"],
];

fn floor(module: &str) -> usize {
    let position = FLOORS.iter().position(|floor| floor.contains(&module));
    position.unwrap_or_else(|| panic!("{module} has no floor: see FLOORS"))
}

/// The files of src/, each with the top-level module that it belongs to.
fn sources() -> Vec<(PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let below = path.strip_prefix(&src).expect("below src");
                let first = below.iter().next().expect("a name").to_string_lossy().into_owned();
                found.push((path, first.trim_end_matches(".rs").to_owned()));
            }
        }
    }
    assert!(found.len() > 25, "{found:?}");
    found
}

/// A file's code without comments and without its tests, which are at its end.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("text");
    let lines = text.lines().take_while(|line| *line != "#[cfg(test)]");
    lines
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The modules that a text names by a path that begins with `crate::`.
fn named(code: &str) -> Vec<String> {
    let name = |text: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        text.trim().chars().take_while(|&c| is_part(c)).collect::<String>()
    };
    let after = code.split("crate::").skip(1);
    after
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').map(name).collect(),
            None => vec![name(rest)],
        })
        .collect()
}

#[test]
fn arrows_go_one_way() {
    let mut arrows = 0;
    for (path, module) in sources() {
        if module == "main" || module == "lib" {
            continue;
        }
        for other in named(&code(&path)) {
            arrows += 1;
            let down = floor(&other) < floor(&module) || other == module;
            assert!(down, "{}: {module} uses {other}", path.display());
        }
    }
    assert!(arrows > 50, "{arrows} found");
}

#[test]
fn only_the_linux_wing_knows_linux() {
    for (path, module) in sources() {
        let code = code(&path);
        let words = ["libbpf", "\"/proc", "\"/sys", " nix::", "(nix::", " caps::", " signal_hook"];
        for word in words {
            let knows = code.contains(word);
            assert!(module == "linux" || !knows, "{}: {word}", path.display());
        }
    }
}

/// A module has at most 400 lines of code. For a longer one, the commit that made it so
/// gives the reason.
#[test]
fn modules_can_be_read_at_once() {
    /// A table: one entry after the other.
    const LONG: [&str; 1] = ["output/columns.rs"];
    for (path, _) in sources() {
        let lines = code(&path).lines().filter(|line| !line.trim().is_empty()).count();
        let known = LONG.iter().any(|name| path.ends_with(name));
        assert!(lines <= 400 || known, "{}: {lines} lines of code", path.display());
    }
}

/// `arrows_go_one_way` can fail.
#[test]
fn an_upward_arrow_is_seen() {
    assert_eq!(named("use crate::output::{Names, Place};"), ["output"]);
    assert_eq!(named("use crate::{linux, table};"), ["linux", "table"]);
    assert!(floor("linux") > floor("table"));
}

/// Whatever builds tcptop or its tools takes the versions that Cargo.lock names.
#[test]
fn cargo_is_locked() {
    const BUILDS: [&str; 9] =
        ["build", "test", "run", "bench", "clippy", "doc", "install", "deny", "shear"];
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = vec![root.join("Makefile"), root.join("README.md")];
    for folder in ["scripts", "kernels", "docs", ".ci"] {
        // A published crate has no .ci.
        let entries = fs::read_dir(root.join(folder)).into_iter().flatten();
        files.extend(entries.map(|entry| entry.expect("an entry").path()));
    }
    let mut found = 0;
    for path in files {
        for line in fs::read_to_string(&path).expect("text").lines() {
            let builds = |word: &&str| {
                line.contains(&format!("cargo {word} --"))
                    || line.contains(&format!("$(CARGO) {word} "))
            };
            if line.trim_start().starts_with('#') || !BUILDS.iter().any(builds) {
                continue;
            }
            found += 1;
            assert!(line.contains("--locked"), "{}: {line}", path.display());
        }
    }
    assert!(found > 10, "{found} found");
}
