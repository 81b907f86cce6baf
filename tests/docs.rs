//! The documentation holds: every command in it runs, every link leads somewhere, every
//! option and `make` target that it names is there. Needs neither root nor libbpf.
//!
//! A command runs in a shell whose PATH has nothing but what `docs/programs.rs` lists: real
//! programs that read tcptop's output, and stand-ins. The stand-ins are this executable
//! under another name; that of tcptop writes a recorded run (`docs/replay.rs`).

#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// The stand-ins are programs.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

#[path = "docs/markdown.rs"]
mod markdown;
#[path = "docs/programs.rs"]
mod programs;
#[path = "docs/replay.rs"]
mod replay;

use markdown::{Page, pages};
use programs::Place;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if let Some(status) = programs::stand_in(&name, arguments) {
        return status;
    }
    let test = |name: &str, run: fn()| {
        Trial::test(name, move || {
            run();
            Ok(())
        })
    };
    let mut tests = vec![
        test("pages::links_lead_somewhere", links_lead_somewhere),
        test("pages::options_exist", options_exist),
        test("pages::targets_exist", targets_exist),
        test("pages::what_is_wrong_is_seen", what_is_wrong_is_seen),
    ];
    for page in pages().into_iter().filter(Page::has_commands) {
        let name = format!("commands_run::{}", page.path);
        tests.push(Trial::test(name, move || {
            assert_eq!(broken(&page), [""; 0]);
            Ok(())
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), tests).exit_code()
}

/// What is wrong with the commands of a page, each as the command and the reason.
fn broken(page: &Page) -> Vec<String> {
    let place = Place::new();
    let mut wrong = Vec::new();
    for block in page.blocks() {
        match block.language {
            "sh" => {}
            "text" => continue,
            other => {
                wrong.push(format!("a block of '{other}': mark it ```sh (it is run) or ```text"));
                continue;
            }
        }
        for command in programs::commands(block.text) {
            if let Err(reason) = place.run(&command) {
                wrong.push(format!("{command}: {reason}"));
            }
        }
    }
    wrong
}

fn links_lead_somewhere() {
    let pages = pages();
    let links: usize = pages.iter().map(|page| page.links().count()).sum();
    assert!(links > 50, "{links} found");
    let wrong: Vec<String> = pages.iter().flat_map(dead_links).collect();
    assert_eq!(wrong, [""; 0]);
}

/// The relative links of a page that lead nowhere.
fn dead_links(page: &Page) -> Vec<String> {
    let leads = |link: &str| {
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let anchors = if path.is_empty() {
            page.anchors()
        } else {
            let folder = Path::new(&page.path).parent().expect("a folder");
            let target = markdown::root().join(folder).join(path);
            if !target.exists() {
                return false;
            }
            Page::read(&target).anchors()
        };
        anchor.is_empty() || anchors.iter().any(|known| known == anchor)
    };
    let links = page.links().filter(|link| !link.contains("://") && !leads(link));
    links.map(|link| format!("{}: {link}", page.path)).collect()
}

fn options_exist() {
    let words: usize = pages().iter().map(|page| page.options().len()).sum();
    assert!(words > 100, "{words} found");
    let wrong: Vec<String> = pages().iter().flat_map(unknown_options).collect();
    assert_eq!(wrong, [""; 0]);
}

/// The options that a page names and that neither tcptop nor another program of the page has.
fn unknown_options(page: &Page) -> Vec<String> {
    let command = tcptop::cli::command();
    let own: BTreeSet<String> = command
        .get_arguments()
        .filter_map(|argument| Some(format!("--{}", argument.get_long()?)))
        .collect();
    let others = |option: &str| {
        programs::OPTIONS.iter().any(|(_, options)| options.split(' ').any(|one| one == option))
    };
    let unknown = page.options().into_iter().filter(|o| !own.contains(o) && !others(o));
    unknown.map(|option| format!("{}: {option}", page.path)).collect()
}

fn targets_exist() {
    let named: usize = pages().iter().map(|page| page.targets().len()).sum();
    assert!(named > 20, "{named} found");
    let wrong: Vec<String> = pages().iter().flat_map(unknown_targets).collect();
    assert_eq!(wrong, [""; 0]);
}

/// The targets of `make` that the prose of a page names and that are not in the Makefile.
fn unknown_targets(page: &Page) -> Vec<String> {
    let unknown = page.targets().into_iter().filter(|target| !programs::is_target(target));
    unknown.map(|target| format!("{}: make {target}", page.path)).collect()
}

/// The checks above can fail.
fn what_is_wrong_is_seen() {
    let page = |text: &str| Page { path: "docs/planted.md".to_owned(), text: text.to_owned() };
    for command in [
        "sudo tcptop --nosuch",
        "sudo tcptop --columns pid,nosuch",
        "sudo tcptop --raw | awk '$12 > 1 { print $5'",
        "sudo tcptop --raw | awk '$12 + $13 > 1e15 { print $5 }'",
        "sudo tcptop --format json | jq -c 'select(.evnt == \"closed\")'",
        "sqlite3 nosuch.db 'SELECT nosuch FROM log'",
        "make nosuch",
        "make run ARGS=\"--prot 443\"",
        "make test-kernels NOSUCH=1",
        "cargo bench --locked --bench nosuch",
        "sudo systemctl enable --now nosuch",
        "sudo cp contrib/cron/nosuch /etc/cron.d/",
        "sudo dpkg -i nosuch.deb",
        "sudo scripts/nosuch.py > docs/x.svg",
        "nosuch --option",
    ] {
        assert_eq!(broken(&page(&format!("```sh\n{command}\n```\n"))).len(), 1, "{command}");
    }
    assert_eq!(broken(&page("```\ntcptop\n```\n")).len(), 1, "a block of no kind");
    assert_eq!(broken(&page("```sh\nsudo tcptop --once\n```\n")), [""; 0]);
    let links = page("# A `b`-c d\n[x](counting.md#losses) [x](nosuch.md) [x](#a-b-c-d) [x](#a)\n");
    assert_eq!(dead_links(&links), ["docs/planted.md: nosuch.md", "docs/planted.md: #a"]);
    assert_eq!(unknown_options(&page("`--sort` and `--srot`")), ["docs/planted.md: --srot"]);
    assert_eq!(
        unknown_targets(&page("`make dist`, `make dst X=1`")),
        ["docs/planted.md: make dst"]
    );
}
