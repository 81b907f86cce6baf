//! tcptop on real connections. The tests compare its output with the traffic that they
//! made and with the kernel's own interfaces (`TCP_INFO`, `ss`, the list of BPF programs).
//! Needs root; the binary is `TCPTOP_BIN` or the one just built.

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod common;
mod live {
    use libtest_mimic::Trial;

    use crate::common::{share, times};

    mod churn;
    mod cleanup;
    mod columns;
    mod confined;
    mod control;
    mod cron;
    mod csv;
    mod disk;
    mod doctor;
    mod exact;
    mod existing;
    mod failed;
    mod faults;
    mod filters;
    mod ghosts;
    mod groups;
    mod identity;
    mod json;
    mod lines;
    mod losses;
    mod measure;
    mod netns;
    mod owner;
    mod paths;
    mod podman;
    mod pool;
    mod privilege;
    mod programs;
    mod refused;
    mod shared_places;
    mod shutdown;
    mod slow;
    mod soak;
    mod terminal;
    mod udp;
    mod verify;
    mod view;
    mod who;

    /// A test, and whether it uses only the shared tcptop.
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

    /// A test that starts tcptop itself. The shared tcptop is ended before it; if that end
    /// fails its checks, this test fails.
    fn test(name: &str, run: fn()) -> Test {
        let run = move || {
            share::retire();
            run();
        };
        Test { trial: trial(name, run), shares: false }
    }

    /// A test that uses only the shared tcptop (`Tcptop::share`).
    fn sharing(name: &str, run: fn()) -> Test {
        Test { trial: trial(name, run), shares: true }
    }

    /// Says why a test that this kernel cannot run was left out.
    fn left_out(what: &str, why: impl std::fmt::Display) {
        println!("left out: {what}: {why}");
    }

    /// The usual value, or the long one if TCPTOP_TEST_LONG is set.
    fn long<T>(usual: T, long: T) -> T {
        if std::env::var_os("TCPTOP_TEST_LONG").is_some() { long } else { usual }
    }

    /// Prints figures, in a long test only.
    fn figures(words: impl std::fmt::Display) {
        if long(false, true) {
            println!("{words}");
        }
    }

    pub fn tests() -> Vec<Trial> {
        let modules = [
            exact::tests(),
            failed::tests(),
            ghosts::tests(),
            pool::tests(),
            faults::tests(),
            paths::tests(),
            existing::tests(),
            owner::tests(),
            netns::tests(),
            measure::tests(),
            slow::tests(),
            identity::tests(),
            lines::tests(),
            losses::tests(),
            columns::tests(),
            control::tests(),
            csv::tests(),
            disk::tests(),
            groups::tests(),
            shared_places::tests(),
            json::tests(),
            cron::tests(),
            filters::tests(),
            verify::tests(),
            view::tests(),
            who::tests(),
            podman::tests(),
            privilege::tests(),
            programs::tests(),
            confined::tests(),
            refused::tests(),
            terminal::tests(),
            doctor::tests(),
            udp::tests(),
            cleanup::tests(),
            churn::tests(),
            shutdown::tests(),
            soak::tests(),
        ];
        // The sharing tests first, together, so that the shared tcptop starts seldom.
        let (sharing, others): (Vec<Test>, Vec<Test>) =
            modules.into_iter().flatten().partition(|test| test.shares);
        sharing.into_iter().chain(others).map(|test| test.trial).collect()
    }
}

use std::process::ExitCode;

use libtest_mimic::Arguments;

fn main() -> ExitCode {
    common::agent::run_if_asked();
    // A shell without job control ignores SIGINT for what it runs in the background, nohup
    // ignores SIGHUP, and tcptop would too.
    for signal in [libc::SIGINT, libc::SIGHUP] {
        // SAFETY: no handler is set.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
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
