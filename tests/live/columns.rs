//! The columns that the user chooses, in every format, and the order by a column.

use std::process::Command;

use serde_json::Value;

use crate::common::columns::{ASKED, COLUMNS};
use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{binary, command};

use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("columns::chosen", chosen),
        test("columns::order", order),
        test("columns::list", list),
    ]
}

/// What one interval prints, with these arguments.
fn printed(arguments: &[&str]) -> String {
    let common = ["--tcp", "--once", "--interval", "0.1"];
    let output = command(&binary(), &[&common[..], arguments].concat()).output().expect("tcptop");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn chosen() {
    let pair = Pair::new(Family::V4);
    let port = pair.ends.remote.port().to_string();
    let local = pair.ends.local;
    // Lines: the chosen ones only, and the usual ones with more behind them.
    let lines = printed(&["--port", &port, "--columns", "local,pid,uid", "--host", "alpha"]);
    assert!(lines.starts_with("LOCAL "), "{lines}");
    let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(fields(lines.lines().next().expect("a header")), ["LOCAL", "PID", "UID"]);
    let row = lines.lines().find(|line| line.starts_with(&local.to_string())).expect("a row");
    let uid = nix::unistd::getuid().to_string();
    assert_eq!(fields(row)[1..3], [std::process::id().to_string(), uid]);
    let more = printed(&["--port", &port, "--columns", "+host,pid", "--host", "alpha"]);
    assert!(more.lines().skip(1).all(|line| fields(line)[13] == "alpha"), "{more}");

    let csv = printed(&["--port", &port, "--format", "csv", "--columns", "host,local,bytes_in"]);
    let host = nix::unistd::gethostname().expect("a name").into_string().expect("UTF-8");
    assert_eq!(csv.lines().next(), Some("host,local,bytes_in"));
    assert!(csv.contains(&format!("\n{host},{local},0\n")), "{csv}");

    let json = printed(&["--port", &port, "--format", "json", "--columns", "remote,started"]);
    let objects: Vec<Value> =
        json.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let ours = objects.iter().find(|object| object["remote"] == local.to_string()).expect("ours");
    assert_eq!(ours.as_object().map(serde_json::Map::len), Some(4), "{ours}");
    assert_eq!(ours["started"], Value::Null, "it is older than tcptop");
}

fn order() {
    let pairs: Vec<Pair> = [3000, 1000, 2000]
        .map(|bytes| {
            let pair = Pair::new(Family::V4);
            pair.exchange(bytes, 0);
            pair
        })
        .into();
    let tcptop = |sort: &str| {
        let text = printed(&[
            "--lifetime",
            "--format",
            "csv",
            "--columns",
            "local,bytes_in",
            "--sort",
            sort,
        ]);
        let of_servers = |line: &str| {
            pairs.iter().position(|pair| line.starts_with(&format!("{},", pair.ends.remote)))
        };
        text.lines().filter_map(of_servers).collect::<Vec<_>>()
    };
    assert_eq!(tcptop("bytes_in"), [0, 2, 1], "numbers: the highest first");
    let mut by_address: Vec<usize> = vec![0, 1, 2];
    by_address.sort_by_key(|&pair| pairs[pair].ends.remote);
    assert_eq!(tcptop("local"), by_address);
}

fn list() {
    let output = Command::new(binary()).args(["--columns", "help"]).output().expect("tcptop");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.lines().all(|line| line.len() <= 80), "{text}");
    let (columns, _groups) = text.split_once("\n\n").expect("a section for groups");
    // The others go on with what a column is.
    let lines = columns.lines().skip(1).filter(|line| !line.starts_with(' '));
    let names: Vec<&str> = lines.filter_map(|line| line.split(' ').next()).collect();
    let promised = COLUMNS.iter().chain(ASKED).map(|(name, _)| *name).collect::<Vec<_>>();
    assert_eq!(names, promised);
}
