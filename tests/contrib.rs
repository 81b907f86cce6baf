//! What `contrib/` says about tcptop's output is true of this version. Needs no privileges.

#![allow(missing_docs)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tcptop::output::columns::{Kind, column};
use tcptop::output::textfile;

fn fleet() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/fleet")
}

fn file(path: &str) -> String {
    let path = fleet().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The keys and types that the table of a fleet takes out of each JSON object.
fn keys_of_clickhouse() -> Vec<(String, String)> {
    let tables = file("clickhouse/tables.sql");
    let (_, tuple) = tables.split_once("'Tuple(").expect("the keys");
    let (tuple, _) = tuple.split_once(")')").expect("their end");
    let pair = |part: &str| {
        let (name, kind) = part.trim().split_once(' ').expect("a name and a type");
        (name.to_owned(), kind.to_owned())
    };
    tuple.split(',').map(pair).collect()
}

fn is_key(name: &str) -> bool {
    name == "event" || column(name).is_some()
}

#[test]
fn the_fleet_table_takes_keys_that_json_has() {
    let keys = keys_of_clickhouse();
    assert!(keys.len() > 30, "{keys:?}");
    for (name, kind) in keys {
        assert!(is_key(&name), "{name}");
        let Some(column) = column(&name) else { continue };
        let expected = match column.kind {
            Kind::Text => "String",
            Kind::Flag => "Bool",
            Kind::Number => "Int",
        };
        let number = kind.contains("Int") || kind.contains("Float");
        let fits = if column.kind == Kind::Number { number } else { kind.contains(expected) };
        assert!(fits, "{name} is {kind}");
    }
}

#[test]
fn parquet_takes_the_same_types() {
    let (_, columns) = file("duckdb/parquet.sql")
        .split_once("columns = {")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("columns");
    let (columns, _) = columns.split_once('}').expect("their end");
    let mut some = 0;
    for pair in columns.split(',') {
        let (name, kind) = pair.trim().split_once(": ").expect("a name and a type");
        let name = name.trim_matches('"');
        assert!(is_key(name), "{name}");
        let text = column(name).is_none_or(|column| column.kind == Kind::Text);
        assert_eq!(text, kind == "'VARCHAR'" || name == "timestamp", "{name} is {kind}");
        some += 1;
    }
    assert!(some > 20);
}

#[test]
fn alerts_use_metrics_of_the_textfile() {
    let metrics: BTreeSet<String> = textfile::metrics().collect();
    let rules = file("prometheus/rules.yml");
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let names = rules.split(word).filter(|word| word.starts_with("tcptop_"));
    let used: BTreeSet<&str> = names.filter(|name| name.ends_with("_total")).collect();
    assert!(used.len() >= 5, "{used:?}");
    for metric in used {
        assert!(metrics.contains(metric), "{metric} is not one of {metrics:?}");
    }
}

/// What appends to a log goes on where an earlier tcptop ended: the totals must do so too.
#[test]
fn who_appends_counts_since_a_connection_opened() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for path in ["contrib/tcptop.service", "contrib/cron/tcptop", "docs/fleet.md"] {
        let text = fs::read_to_string(root.join(path)).expect(path);
        let appends: Vec<&str> = text.lines().filter(|line| line.contains(" --append ")).collect();
        assert!(!appends.is_empty(), "{path}");
        for line in appends {
            assert!(line.contains(" --lifetime "), "{path}: {line}");
        }
    }
}

/// Prometheus' own tool runs the alerts over series of values.
#[test]
fn alerts_fire_when_they_should() {
    let tested = Command::new("promtool")
        .args(["test", "rules", "rules.test.yml"])
        .current_dir(fleet().join("prometheus"))
        .output()
        .expect("promtool; scripts/install-deps.sh --test installs it");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stderr));
}
