//! A log in a directory that others may write to: nobody can turn it to another file or
//! read it, and no second tcptop can write into it.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use tempfile::TempDir;

use crate::common::log::Log;
use crate::common::netns::run;
use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{self, Ended, Launch};
use crate::common::wait::until_true;

use super::csv::{logger, place, with_log};
use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("shared_places::mode", mode),
        test("shared_places::planted", planted),
        test("shared_places::planted_while_it_runs", planted_while_it_runs),
        test("shared_places::ready_file", ready_file),
        test("shared_places::textfile", textfile),
        test("shared_places::two_writers", two_writers),
        test("shared_places::hang_up_at_once", hang_up_at_once),
        test("shared_places::fifo_without_a_reader", fifo_without_a_reader),
        test("shared_places::standard_output_by_name", standard_output_by_name),
    ]
}

const NOBODY: u32 = 65534;
const PRECIOUS: &str = "precious\n";

/// A directory like /tmp: with this mode, of root.
fn shared(mode: u32) -> (TempDir, PathBuf) {
    let (directory, log) = place();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).expect("chmod");
    (directory, log)
}

/// What another user can put at the path of a log, and a part of the refusal.
type Plant = (fn(&Path, &Path), &'static str);

/// The second path is a file of root's.
const PLANTS: [Plant; 4] = [
    (|log, victim| symlink(victim, log).expect("symlink"), "a symbolic link leads there"),
    (
        |log, _| {
            fs::write(log, "").expect("write");
            chown(log, Some(NOBODY), Some(NOBODY)).expect("chown");
        },
        "it belongs to another user",
    ),
    (|log, victim| fs::hard_link(victim, log).expect("link"), "it is a file that has other names"),
    (
        |log, _| {
            run("mkfifo", &log.display().to_string()).expect("mkfifo");
            chown(log, Some(NOBODY), Some(NOBODY)).expect("chown");
        },
        "it belongs to another user",
    ),
];

fn check_refusal(ended: &Ended, path: &Path, reason: &str) {
    let last = ended.stderr.lines().last().unwrap_or_default();
    let expected = format!("tcptop: error: cannot open {}: {reason}", path.display());
    assert!(last.starts_with(&expected), "{}", ended.stderr);
    assert!(last.ends_with("; choose another directory"), "{last}");
    assert_eq!(ended.status.code(), Some(1), "{last}");
}

/// With the most generous umask the file is not for everybody; with the narrowest it is
/// for its owner alone.
fn mode() {
    for (umask, expected) in [(0, 0o640), (0o022, 0o640), (0o077, 0o600)] {
        let (_directory, log) = shared(0o1777);
        let launch = Launch::new(&with_log(&log, &["--tcp", "--once", "--interval", "0.05"]));
        let widen = move || {
            // SAFETY: a number is all that it takes.
            unsafe { libc::umask(umask) };
            Ok(())
        };
        // SAFETY: one system call.
        unsafe { launch.prepare(widen) }.spawn().ended().check_log(&log, "0.05");
        let mode = fs::metadata(&log).expect("a file").mode() & 0o7777;
        assert_eq!(mode, expected, "umask {umask:o}: {mode:o}");
    }
}

/// What others have put at the path is refused, and not changed.
fn planted() {
    for mode in [0o1777, 0o777, 0o770] {
        for (plant, reason) in PLANTS {
            for more in [&["--once"][..], &["--once", "--append"]] {
                let (directory, log) = shared(mode);
                let victim = directory.path().join("victim");
                fs::write(&victim, PRECIOUS).expect("write");
                plant(&log, &victim);
                let ended = Launch::new(&with_log(&log, more)).spawn().ended();
                check_refusal(&ended, &log, reason);
                assert_eq!(fs::read_to_string(&victim).expect("text"), PRECIOUS);
                assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
            }
        }
    }
    // Also where the link is not the last step.
    let (directory, log) = shared(0o1777);
    let (own, victim) = place();
    fs::write(&victim, PRECIOUS).expect("write");
    symlink(own.path(), &log).expect("symlink");
    let path = log.join("tcptop.csv");
    let ended = Launch::new(&with_log(&path, &["--once"])).spawn().ended();
    check_refusal(&ended, &path, "a symbolic link leads there");
    assert_eq!(fs::read_to_string(&victim).expect("text"), PRECIOUS);
    drop(directory);
}

/// The same after a rotation, on SIGHUP.
fn planted_while_it_runs() {
    for (plant, reason) in PLANTS {
        let (directory, log) = shared(0o1777);
        let victim = directory.path().join("victim");
        fs::write(&victim, PRECIOUS).expect("write");
        let tcptop = logger(&log, &["--tcp", "--interval", "3600"]);
        fs::rename(&log, directory.path().join("old")).expect("rename");
        plant(&log, &victim);
        tcptop.signal(libc::SIGHUP);
        check_refusal(&tcptop.ended(), &log, reason);
        assert_eq!(fs::read_to_string(&victim).expect("text"), PRECIOUS);
    }
}

fn ready_file() {
    for (plant, reason) in PLANTS {
        let (directory, path) = shared(0o1777);
        let victim = directory.path().join("victim");
        fs::write(&victim, PRECIOUS).expect("write");
        plant(&path, &victim);
        let mut command =
            tcptop::command(&tcptop::binary(), &["--tcp", "--once", "--setuid", "root"]);
        let output = command.arg("--ready-file").arg(&path).output().expect("tcptop");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let expected = format!("tcptop: error: failed to write {}: {reason}", path.display());
        assert!(stderr.lines().last().is_some_and(|line| line.starts_with(&expected)), "{stderr}");
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(fs::read_to_string(&victim).expect("text"), PRECIOUS);
    }
}

/// A link on the way to the file for Prometheus is not followed, at the start or later.
fn textfile() {
    let (directory, place) = shared(0o1777);
    let (own, _) = self::place();
    let path = place.join("groups.prom");
    let arguments = ["--by", "process", "--interval", "0.05", "--textfile"];
    let arguments = [&arguments[..], &[path.to_str().expect("UTF-8")]].concat();
    let refused = |ended: Ended| {
        let last = ended.stderr.lines().last().unwrap_or_default();
        let expected = format!(
            "tcptop: error: failed to write {}: a symbolic link leads there, in a directory that \
             others may write to; choose another directory",
            path.display()
        );
        assert_eq!(last, expected, "{}", ended.stderr);
        assert_eq!(ended.status.code(), Some(1));
        assert_eq!(fs::read_dir(own.path()).expect("a directory").count(), 0);
    };
    symlink(own.path(), &place).expect("symlink");
    refused(Launch::new(&arguments).spawn().ended());

    fs::remove_file(&place).expect("remove");
    fs::create_dir(&place).expect("mkdir");
    chown(&place, Some(NOBODY), Some(NOBODY)).expect("chown");
    let tcptop = Launch::new(&arguments).start();
    until_true("the file", || path.exists());
    let link = directory.path().join("link");
    symlink(own.path(), &link).expect("symlink");
    renameat2(AT_FDCWD, &link, AT_FDCWD, &place, RenameFlags::RENAME_EXCHANGE).expect("exchange");
    refused(tcptop.ended());
}

/// A second tcptop is refused however it asks; the first one loses no row.
fn two_writers() {
    let (directory, log) = place();
    let pair = Pair::new(Family::V4);
    let first = logger(&log, &["--tcp", "--interval", "0.05"]);
    Log::wait(&log, "a row", |log| log.rows_of(pair.ends).next().map(|_| ()));
    let refusal = format!(
        "cannot open {}: process {} (tcptop) writes it and has locked it; choose another file",
        log.display(),
        first.id()
    );
    for more in [&[][..], &["--append"]] {
        Launch::new(&with_log(&log, more)).spawn().ended().check_error(&refusal);
    }
    // As a ready file.
    let mut command = tcptop::command(&tcptop::binary(), &["--tcp", "--once", "--setuid", "root"]);
    let output = command.arg("--ready-file").arg(&log).output().expect("tcptop");
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    // When a rotation brings two together.
    let other = directory.path().join("other.csv");
    let second = logger(&other, &["--tcp", "--interval", "3600"]);
    fs::rename(&other, directory.path().join("old")).expect("rename");
    fs::hard_link(&log, &other).expect("link");
    second.signal(libc::SIGHUP);
    second.ended().check_error(
        &refusal.replace(&format!("{}", log.display()), &format!("{}", other.display())),
    );
    let before = Log::read(&log).open_rows_of(pair.ends).len();
    Log::wait(&log, "more rows", |log| (log.open_rows_of(pair.ends).len() > before).then_some(()));
    first.stop(libc::SIGINT).check_log(&log, "0.05");
    // The lock ends with its process.
    logger(&log, &["--tcp", "--interval", "0.05", "--once"]).ended().check_log(&log, "0.05");
}

/// SIGHUP does not wait for the end of an interval.
fn hang_up_at_once() {
    let (directory, log) = place();
    let tcptop = logger(&log, &["--tcp", "--interval", "3600"]);
    for turn in 0..3 {
        let old = directory.path().join(format!("old{turn}"));
        fs::rename(&log, &old).expect("rename");
        tcptop.signal(libc::SIGHUP);
        Log::wait(&log, "a new file with a header", |_| Some(()));
    }
    tcptop.stop(libc::SIGINT).check_log(&log, "3600");
}

/// tcptop says that it waits; then it goes on, or can be stopped.
fn fifo_without_a_reader() {
    let (_directory, log) = place();
    run("mkfifo", &log.display().to_string()).expect("mkfifo");
    let words = format!("tcptop: waiting for a reader of {}\n", log.display());
    let launch = || Launch::new(&with_log(&log, &["--tcp", "--interval", "0.05", "--once"]));
    let tcptop = launch().spawn();
    until_true("tcptop to say so", || tcptop.stderr() == words);
    let ended = tcptop.stop(libc::SIGINT);
    assert_eq!(ended.stderr, words);
    let pair = Pair::new(Family::V4);
    let tcptop = launch().spawn();
    until_true("tcptop to say so", || tcptop.stderr() == words);
    let lines: Result<Vec<String>, io::Error> =
        BufReader::new(File::open(&log).expect("open")).lines().collect();
    let ended = tcptop.ended();
    assert!(ended.status.success() && ended.stderr.starts_with(&words), "{}", ended.stderr);
    let log = Log::of_lines(&lines.expect("lines"));
    assert_eq!(log.open_rows_of(pair.ends).len(), 1);
}

/// `/dev/fd/1` is the standard output: a pipe, and a file that another user has opened and others
/// write as well.
fn standard_output_by_name() {
    let pair = Pair::new(Family::V4);
    let arguments = ["--log", "/dev/fd/1", "--tcp", "--interval", "0.05", "--once"];
    let output = tcptop::command(&tcptop::binary(), &arguments).output().expect("tcptop");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Log::parse(&output.stdout).open_rows_of(pair.ends).len(), 1);
    let (_directory, path) = shared(0o1777);
    let file = File::create(&path).expect("create");
    chown(&path, Some(NOBODY), Some(NOBODY)).expect("chown");
    // Others have it open as well: what they wrote stays, and the next one goes on after it.
    let mut shared = file.try_clone().expect("dup");
    shared.write_all(b"before\n").expect("write");
    let mut command = tcptop::command(&tcptop::binary(), &arguments);
    let output = command.stdout(Stdio::from(file)).output().expect("tcptop");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    shared.write_all(b"after\n").expect("write");
    let text = fs::read_to_string(&path).expect("read");
    let rows = text.strip_prefix("before\n").and_then(|text| text.strip_suffix("after\n"));
    let rows = rows.unwrap_or_else(|| panic!("{text}"));
    assert_eq!(Log::parse(rows.as_bytes()).open_rows_of(pair.ends).len(), 1);
}
