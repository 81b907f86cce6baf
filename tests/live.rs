//! tcptop on real connections: what it prints is held against what the tests
//! moved and what the kernel's own interfaces (`TCP_INFO`, `ss`, the list of BPF
//! programs) say. Needs root; the binary is `TCPTOP_BIN` or the one just built.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod common;
mod live {
    use libtest_mimic::Trial;

    use crate::common::{share, times};

    mod churn;
    mod cleanup;
    mod control;
    mod cron;
    mod csv;
    mod disk;
    mod doctor;
    mod exact;
    mod existing;
    mod failed;
    mod filters;
    mod json;
    mod lines;
    mod measure;
    mod netns;
    mod owner;
    mod paths;
    mod privilege;
    mod refused;
    mod udp;
    mod view;

    /// A test, and whether it only ever uses the tcptop that tests share.
    pub struct Test {
        trial: Trial,
        shares: bool,
    }

    /// A test that a panic fails.
    fn trial(name: &str, run: impl FnOnce() + Send + 'static) -> Trial {
        let label = name.to_owned();
        Trial::test(name, move || {
            times::of_test(&label, run);
            Ok(())
        })
    }

    /// One that starts tcptop itself. The shared one does not run meanwhile: the first
    /// such test fails where that did not end well.
    fn test(name: &str, run: fn()) -> Test {
        let run = move || {
            share::retire();
            run();
        };
        Test { trial: trial(name, run), shares: false }
    }

    /// One that makes do with the tcptop that tests share (`Tcptop::share`).
    fn sharing(name: &str, run: fn()) -> Test {
        Test { trial: trial(name, run), shares: true }
    }

    /// Says why a test that this kernel cannot run was left out.
    fn left_out(what: &str, why: impl std::fmt::Display) {
        println!("left out: {what}: {why}");
    }

    /// How long a test goes on, and the like: the second one with TCPTOP_TEST_LONG.
    fn long<T>(usual: T, long: T) -> T {
        if std::env::var_os("TCPTOP_TEST_LONG").is_some() { long } else { usual }
    }

    /// What a long test has to report.
    fn figures(words: impl std::fmt::Display) {
        if long(false, true) {
            println!("{words}");
        }
    }

    pub fn tests() -> Vec<Trial> {
        let modules = [
            exact::tests(),
            failed::tests(),
            paths::tests(),
            existing::tests(),
            owner::tests(),
            netns::tests(),
            measure::tests(),
            lines::tests(),
            control::tests(),
            csv::tests(),
            disk::tests(),
            json::tests(),
            cron::tests(),
            filters::tests(),
            view::tests(),
            privilege::tests(),
            refused::tests(),
            doctor::tests(),
            udp::tests(),
            cleanup::tests(),
            churn::tests(),
        ];
        // The sharing ones together, so that theirs is started as seldom as can be.
        let (sharing, others): (Vec<Test>, Vec<Test>) =
            modules.into_iter().flatten().partition(|test| test.shares);
        sharing.into_iter().chain(others).map(|test| test.trial).collect()
    }
}

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    common::agent::run_if_asked();
    let mut arguments = Arguments::from_args();
    let tests = live::tests();
    // SAFETY: always succeeds.
    let root = unsafe { libc::geteuid() } == 0;
    if !root && !arguments.list {
        println!("{} live tests left out: they need root", tests.len());
        return ExitCode::SUCCESS;
    }
    // The tests share the machine's two processors and its namespaces.
    arguments.test_threads.get_or_insert(1);
    let conclusion = libtest_mimic::run(&arguments, tests);
    common::share::retire();
    common::times::print();
    conclusion.exit_code()
}
