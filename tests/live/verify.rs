//! `tcptop --verify`, under load.

use std::process::Output;
use std::time::Duration;

use crate::common::agent::Agent;
use crate::common::netns::Netns;
use crate::common::sock::{Ends, Family, Pair, Stream, await_received, send};
use crate::common::tcptop::{binary, command};
use crate::common::wait::load;

use super::losses::without_option_memory;
use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("verify::totals_agree_under_load", totals_agree_under_load),
        test("verify::what_is_wrong_is_found", what_is_wrong_is_found),
    ]
}

fn verify() -> (Output, String) {
    let output = command(&binary(), &["--verify", "--interval", "0.3"]).output().expect("tcptop");
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    (output, text)
}

/// How many totals the last line says were compared, and how many of them differ.
fn counts(text: &str) -> (usize, usize) {
    let numbers = text.lines().last().and_then(|line| {
        let (compared, rest) = line.split_once(" totals compared, ")?;
        let (wrong, _) = rest.split_once(" differ, lost: nothing")?;
        Some((compared.parse().ok()?, wrong.parse().ok()?))
    });
    numbers.unwrap_or_else(|| panic!("{text}"))
}

/// Idle and busy connections, older than tcptop, in two namespaces; some wait to be read, some
/// are half closed.
fn totals_agree_under_load() {
    let netns = Netns::new();
    // Only a namespace that has a process can be found.
    let _inside = netns.run(|| Agent::new("in-netns"));
    let busy: Vec<Pair> = (0..20)
        .map(|number| Pair::new(Family::ALL[number % 4]))
        .chain((0..10).map(|_| netns.run(|| Pair::new(Family::V6))))
        .collect();
    let idle: Vec<Pair> = (0..200).map(|_| Pair::new(Family::V4)).collect();
    for (number, pair) in (1..).zip(&idle) {
        send(&pair.client, number);
        send(&pair.server, 3 * number);
        if number % 3 == 0 {
            await_received(&pair.server, number);
            pair.client.shutdown(std::net::Shutdown::Write).expect("shutdown");
        }
    }
    // An emulated machine that does nothing but send takes minutes for the rest.
    let pause = Duration::from_micros(load(500, 20_000).into());
    let streams: Vec<Stream> = busy.iter().map(|pair| Stream::start(pair, 20_000, pause)).collect();
    let (output, text) = verify();
    for stream in streams {
        stream.stop();
    }
    assert_eq!(output.status.code(), Some(0), "{text}{output:?}");
    let (compared, wrong) = counts(&text);
    assert_eq!(wrong, 0, "{text}");
    // Both ends, at the start and at the end.
    assert!(compared >= 4 * (busy.len() + idle.len()), "{text}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

/// A connection that tcptop cannot see is one that sock_diag has and tcptop has not.
fn what_is_wrong_is_found() {
    let Some(netns) = without_option_memory("verify::what_is_wrong_is_found") else { return };
    let _inside = netns.run(|| Agent::new("in-netns"));
    let pair = netns.run(|| Pair::new(Family::V4));
    let (output, text) = verify();
    assert_eq!(output.status.code(), Some(1), "{text}{output:?}");
    for Ends { local, remote } in [pair.ends, pair.ends.flipped()] {
        let line = format!("TCP {local} -> {remote}: not shown by tcptop");
        assert_eq!(text.lines().filter(|other| *other == line).count(), 2, "{text}");
    }
}
