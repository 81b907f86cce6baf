//! Which hook serves what, as `--doctor` tells it: it also proves that they fire.

use std::collections::HashMap;
use std::process::Command;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::common::tcptop::binary;
use crate::common::wait::patience;

use super::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("hooks::owner_moves_down", || moves_down("owner", &OWNER)),
        test("hooks::udp_moves_down", || moves_down("UDP", &UDP)),
    ]
}

/// Best first.
const OWNER: [&str; 4] = [
    "tp_btf/tcp_sendmsg_locked",
    "tp_btf/sock_send_length",
    "fentry/tcp_sendmsg",
    "iter/task_file",
];
const UDP: [&str; 2] = ["fentry/ip_send_skb", "cgroup_skb"];

/// Said of a hook that was not even tried. Else it is the kernel that refused it.
const LEFT_OUT: &str = "left out by --without";

/// What serves a signal, and the better ones with the reason why they do not.
struct Served {
    provider: Option<String>,
    refused: HashMap<String, String>,
}

/// Asks tcptop; what serves must have been seen to fire.
fn ask(signal: &str, without: &[&str]) -> Served {
    let mut arguments = vec!["--doctor", "--format", "json"];
    arguments.extend(without.iter().flat_map(|name| ["--without", name]));
    let mut command = Command::new("timeout");
    // It waits itself for what does not come.
    command.arg((3 * patience()).as_secs().to_string()).arg(binary()).args(&arguments);
    let output = command.output().expect("tcptop");
    let messages = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{arguments:?}: {e}: {messages}"));
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let all = report["signals"].as_array().expect("signals");
    let found = all.iter().find(|found| found["signal"] == signal).expect("every signal");
    let provider = text(&found["provider"]);
    assert_eq!(found["works"], provider.is_some(), "{arguments:?}: {report:#}");
    let refused = found["refused"].as_array().expect("those refused").iter();
    let refused = refused.map(|one| (text(&one["provider"]), text(&one["reason"])));
    let refused = refused.map(|(name, why)| (name.expect("a name"), why.expect("a reason")));
    Served { provider, refused: refused.collect() }
}

/// Each hook that is left out hands over to the next one that the kernel has.
fn moves_down(signal: &str, ranking: &[&str]) {
    let mut without = Vec::new();
    let mut served = Vec::new();
    for _ in 0..=ranking.len() {
        let now = ask(signal, &without);
        let Some(provider) = now.provider else {
            println!("{signal}: {}", served.join(", then "));
            assert!(!served.is_empty(), "nothing serves {signal}");
            return;
        };
        // The first of the ranking that neither the kernel nor we have refused.
        let better = ranking.iter().take_while(|name| **name != provider);
        for name in better {
            let why = now.refused.get(*name).unwrap_or_else(|| panic!("why not {name}?"));
            assert_eq!(without.contains(name), why == LEFT_OUT, "{name}: {why}");
        }
        let place = ranking.iter().find(|name| **name == provider);
        without.push(place.unwrap_or_else(|| panic!("{provider} is not in the ranking")));
        served.push(provider);
    }
    panic!("{signal} is served by what was left out: {served:?}");
}
