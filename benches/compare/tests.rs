//! Tests of this program itself: the readers on recorded outputs of the real tools, whose
//! totals were added up by other means, and a short comparison.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

use crate::options::Run;
use crate::outputs::{Owner, Seen, bandwhich, iftop, libbpf_tools, nethogs, rustnet, ss, tcptop};
use crate::report;
use crate::results::Bytes;
use crate::sessions;

/// Runs the tests that the command line chooses.
pub fn run() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A session changes the network namespace of its thread.
    arguments.test_threads = Some(1);
    let mut tests = vec![
        test("reads_nethogs", reads_nethogs),
        test("reads_bandwhich", reads_bandwhich),
        test("reads_rustnet", reads_rustnet),
        test("reads_iftop", reads_iftop),
        test("reads_ss", reads_ss),
        test("reads_tcptop", reads_tcptop),
        test("reads_libbpf_tools", reads_libbpf_tools),
    ];
    if nix::unistd::geteuid().is_root() {
        tests.push(test("smoke", smoke));
    } else {
        println!("a short comparison left out: it needs root");
    }
    libtest_mimic::run(&arguments, tests).exit_code()
}

fn test(name: &str, run: fn()) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

fn bytes(received: u64, sent: u64) -> Bytes {
    Bytes { received, sent }
}

fn named(name: &str) -> Owner {
    Owner::Named(name.to_owned())
}

fn check(seen: Seen, expected: &[(Owner, Bytes)]) {
    let moved = |seen: Seen| seen.into_iter().filter(|(_, bytes)| bytes.total() > 0);
    assert_eq!(moved(seen).collect::<Vec<_>>(), expected);
}

/// tcptop and `ss` on loads that both can see whole, or tcptop alone can.
fn smoke() {
    let run = Run {
        tools: ["tcptop", "ss-0.1s"].map(str::to_owned).to_vec(),
        cases: ["peek", "short"].map(str::to_owned).to_vec(),
        connections: 300,
        peers: 10,
        pairs: 0,
        seconds: 0.1,
        rest: 0.15,
        keep: None,
        result: "-".into(),
    };
    let results = sessions::run(&run).expect("a comparison");
    assert_eq!(results.left_out, Vec::<String>::new());
    for case in &run.cases {
        let session = results.session("tcptop", case).expect("a session");
        assert!(session.parts.iter().all(|part| part.truth.total() > 0), "{session:?}");
        assert_eq!(report::cell(session), "**exact**", "{session:?}");
    }
    let seen = |case: &str| {
        let session = results.session("ss-0.1s", case).expect("a session");
        (session.parts[0].seen.total(), session.parts[0].truth.total())
    };
    let (seen_whole, truth) = seen("peek");
    // The kernel counts a FIN as a byte received.
    assert!((truth..=truth + 1).contains(&seen_whole), "{seen_whole}, not {truth}");
    let (seen_of_short, truth) = seen("short");
    assert!(seen_of_short < truth, "no connection of these lasts a tenth of a second");
    let text = report::document(&[results]);
    assert!(text.contains("| short |") && text.contains("**exact**"), "{text}");
}

/// A process took 1 MiB and another one sent 4 MiB; the tool goes on with the first one.
fn reads_nethogs() {
    let seen = nethogs::read(include_str!("recorded/nethogs"));
    check(seen, &[(Owner::Process(1395), bytes(1_171_610, 4_375_150))]);
    let seen = nethogs::read(include_str!("recorded/nethogs-unknown"));
    check(seen, &[(Owner::Nobody, bytes(242_000, 342_000))]);
}

fn reads_bandwhich() {
    let seen = bandwhich::read(include_str!("recorded/bandwhich"));
    let expected = [
        (named("cmp-accepts"), bytes(1_069_028, 12_805)),
        (named("cmp-answers"), bytes(77_085, 4_283_390)),
    ];
    check(seen, &expected);
    let unknown = "process: <1> \"<UNKNOWN>\" up/down Bps: 6/8 connections: 1\n";
    check(bandwhich::read(unknown), &[(Owner::Nobody, bytes(8, 6))]);
}

/// The last three lines, which repeat their totals.
fn reads_rustnet() {
    let seen = rustnet::read(include_str!("recorded/rustnet"));
    let expected =
        [(Owner::Process(23172), bytes(1_166_592, 4_358_520)), (Owner::Nobody, bytes(42, 42))];
    check(seen, &expected);
}

fn reads_iftop() {
    let seen = iftop::read(include_str!("recorded/iftop"));
    // 1.08MB and 4.12MB
    check(seen, &[(Owner::Nobody, bytes(1_132_462, 4_320_133))]);
    check(iftop::read("interface: veth0\n"), &[]);
}

fn reads_ss() {
    let seen = ss::read(include_str!("recorded/ss"));
    let expected = [
        (Owner::Process(32635), bytes(1_048_576, 0)),
        (Owner::Process(32636), bytes(0, 4_194_304)),
    ];
    check(seen, &expected);
}

/// Rows of this load only: tcptop sees those of other network namespaces too.
fn reads_tcptop() {
    let seen = tcptop::read(include_str!("recorded/tcptop"));
    let expected = [
        (Owner::Process(30916), bytes(1_048_576, 0)),
        (Owner::Process(30917), bytes(0, 4_194_304)),
    ];
    check(seen, &expected);
}

fn reads_libbpf_tools() {
    let seen = libbpf_tools::read(include_str!("recorded/libbpf-tools"));
    let expected =
        [(Owner::Process(1138), bytes(1_048_576, 0)), (Owner::Process(1139), bytes(0, 4_194_304))];
    check(seen, &expected);
}
