//! What the kernel says that a running tcptop can still do: each thread's user,
//! capabilities, no_new_privs and seccomp mode. (What fails from inside is tried by the
//! tests of `src/linux/confine`.)

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, Stdio};

use caps::Capability;
use serde_json::Value;

use crate::common::log::Log;
use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{Launch, QUICK, Tcptop};
use crate::common::wait::until_true;

use super::csv::{place, with_log};
use super::privilege::{NOBODY, as_nobody, check_kept, public_binary};
use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("confined::users", users),
        test("confined::files_of_another_user", files_of_another_user),
        test("confined::files_of_root", files_of_root),
        test("confined::link_to_the_log", link_to_the_log),
        test("confined::log_out_of_reach", log_out_of_reach),
        test("confined::told", told),
    ]
}

/// The arguments, started as by sudo(8) if a user and group are given.
fn launch(arguments: &[&str], sudo: Option<(u32, u32)>) -> Launch {
    let launch = Launch::new(arguments);
    match sudo {
        Some((uid, gid)) => launch.env("SUDO_UID", uid).env("SUDO_GID", gid),
        None => launch.without_env("SUDO_UID").without_env("SUDO_GID"),
    }
}

/// Waits until every thread is this user and has given up what none needs.
fn check_confined(tcptop: &Tcptop, uid: u32, gid: u32) {
    let ids = |id: u32| format!("{id}\t{id}\t{id}\t{id}");
    let groups = |status: &str| status.lines().any(|line| line.trim_end() == "Groups:");
    let wanted = [
        ("Uid", ids(uid)),
        ("Gid", ids(gid)),
        ("CapInh", "0000000000000000".to_owned()),
        ("CapBnd", "0000000000000000".to_owned()),
        ("CapAmb", "0000000000000000".to_owned()),
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp", "2".to_owned()),
    ];
    let lacking = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", tcptop.id())).expect("it runs");
        let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).ok();
        let threads: Vec<String> = tasks.flatten().filter_map(status).collect();
        let lacks = |status: &String| {
            let has = |(name, value): &(&str, String)| {
                status.lines().any(|line| line == format!("{name}:\t{value}"))
            };
            !wanted.iter().all(has) || (uid != 0 && !groups(status))
        };
        threads.len() != 3 || threads.iter().any(lacks)
    };
    until_true(&format!("{uid} {gid} to be confined"), || !lacking());
}

/// Another process of the same user, without capabilities, may look at its own memory and
/// not at tcptop's.
fn check_hidden(tcptop: &Tcptop, uid: u32) {
    let looks = |process: &str| {
        let mut cat = Command::new("/bin/cat");
        cat.arg(format!("/proc/{process}/maps")).stdout(Stdio::null()).stderr(Stdio::null());
        cat.uid(uid).gid(uid).status().expect("cat").success()
    };
    if uid != 0 {
        assert!(looks("self") && !looks(&tcptop.id().to_string()));
    }
}

/// A user of this host other than root, by its name (passwd(5)).
fn named_user() -> Option<(String, (u32, u32))> {
    let users = fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let ids = (fields[2].parse().ok()?, fields[3].parse().ok()?);
        (ids.0 != 0).then(|| (fields[0].to_owned(), ids))
    })
}

/// The arguments, the user and group of sudo(8), and those that tcptop becomes.
type Case<'a> = (&'a [&'a str], Option<(u32, u32)>, (u32, u32));

/// Whoever it becomes, it counts other users' traffic, to the byte and with the owner.
fn users() {
    let cases: [Case<'_>; 4] = [
        (&[], None, (NOBODY, NOBODY)),
        (&[], Some((4242, 4243)), (4242, 4243)),
        (&["--setuid", "4244"], None, (4244, NOBODY)),
        (&["--setuid", "root"], Some((4242, 4243)), (0, 0)),
    ];
    // A guest of the matrix has root alone.
    let named = named_user();
    let by_name = named.as_ref().map(|(name, ids)| (["--setuid", name.as_str()], *ids));
    let by_name =
        by_name.as_ref().map(|(arguments, ids)| (&arguments[..], Some((4242, 4243)), *ids));
    for (arguments, sudo, (uid, gid)) in cases.into_iter().chain(by_name) {
        let older = Pair::new(Family::V4);
        let arguments = [&QUICK[..], arguments].concat();
        let tcptop = launch(&arguments, sudo).start();
        check_confined(&tcptop, uid, gid);
        check_kept(&tcptop, &[]);
        check_hidden(&tcptop, uid);
        let pair = Pair::new(Family::V6);
        let all = [older.ends, pair.ends];
        for pair in [older, pair] {
            pair.exchange(1234, 5);
            pair.close();
        }
        tcptop.wait_closed(&all);
        let output = tcptop.finish();
        for ends in all {
            let closed = output.the_closed(ends);
            assert_eq!((closed.bytes_in, closed.bytes_out), (5, 1234));
            assert_eq!(closed.pid, Some(process::id()));
        }
    }
    let ended = launch(&["--setuid", "no such user"], None).spawn().ended();
    let reason = "--setuid: no user is named 'no such user' here; `getent passwd` lists them";
    ended.check_error(reason);
}

/// With --setuid, the log and the file for Prometheus are that user's: made, rotated and
/// replaced without any capability, with all names. What is not his is refused.
fn files_of_another_user() {
    const USER: u32 = 4245;
    let (directory, log) = place();
    chown(directory.path(), Some(USER), Some(USER)).expect("chown");
    let prom = directory.path().join("groups.prom");
    let files = ["--by", "process", "--textfile", prom.to_str().expect("UTF-8")];
    let as_user = ["--setuid", "4245", "--interval", "0.1"];
    let tcptop = launch(&[&files[..], &as_user].concat(), None).start();
    check_confined(&tcptop, USER, NOBODY);
    check_kept(&tcptop, &[]);
    let file = || fs::metadata(&prom).ok().filter(|meta| meta.uid() == USER);
    let mut seen = HashSet::new();
    until_true("the file to be replaced", || {
        seen.extend(file().map(|meta| (meta.ino(), meta.mtime_nsec())));
        seen.len() > 3
    });
    let ended = tcptop.stop(libc::SIGTERM);
    assert!(ended.status.success(), "{}", ended.stderr);

    let pair = Pair::new(Family::V4);
    let arguments = ["--tcp", "--columns", "+exe,user,unit,ifname"];
    let arguments = with_log(&log, &[&arguments[..], &as_user].concat());
    let tcptop = launch(&arguments, None).start();
    check_confined(&tcptop, USER, NOBODY);
    check_kept(&tcptop, &[Capability::CAP_SYS_PTRACE]);
    for turn in 1..=2 {
        let rows = || Some(fs::read_to_string(&log).ok()?.lines().count());
        until_true("rows", || rows().is_some_and(|rows| rows > 2));
        fs::rename(&log, directory.path().join(format!("old{turn}"))).expect("rename");
        tcptop.signal(libc::SIGHUP);
    }
    let port = pair.ends.local.port().to_string();
    let own = std::env::current_exe().expect("a path").display().to_string();
    let row = || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let row = text.lines().find(|row| row.split(',').any(|field| field == port));
        row.map(str::to_owned)
    };
    until_true("a row in a new file", || row().is_some());
    let names = format!(",{own},root,");
    assert!(row().is_some_and(|row| row.contains(&names) && row.ends_with(",lo")), "{:?}", row());
    let meta = fs::metadata(&log).expect("a file");
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o777), (USER, 0o640));
    let ended = tcptop.stop(libc::SIGTERM);
    assert!(ended.status.success(), "{}", ended.stderr);

    chown(directory.path(), Some(0), Some(0)).expect("chown");
    fs::remove_file(&log).expect("remove");
    launch(&arguments, None).spawn().ended().check_error(&format!(
        "cannot open {}: Permission denied (os error 13); it is opened as the user of --setuid",
        log.display()
    ));
    let ended = launch(&[&files[..], &as_user].concat(), None).spawn().ended();
    ended.check_error(&format!(
        "failed to write {}: permission denied; it is opened as the user of --setuid",
        prom.display()
    ));
}

/// Without --setuid, whoever has called sudo: root's files go on being written.
fn files_of_root() {
    let (directory, log) = place();
    let arguments = with_log(&log, &["--tcp", "--interval", "0.1"]);
    let tcptop = launch(&arguments, Some((4242, 4243))).start();
    let pair = Pair::new(Family::V4);
    fs::rename(&log, directory.path().join("old")).expect("rename");
    tcptop.signal(libc::SIGHUP);
    Log::wait(&log, "a row", |log| log.rows_of(pair.ends).next().map(|_| ()));
    let status = fs::read_to_string(format!("/proc/{}/status", tcptop.id())).expect("it runs");
    assert!(status.contains("\nUid:\t0\t0\t0\t0\n"), "{status}");
    assert_eq!(owner(&log), 0);
    check_kept(&tcptop, &[Capability::CAP_DAC_OVERRIDE]);
    tcptop.stop(libc::SIGTERM).check_log(&log, "0.1");
}

/// FILE is a link, and logrotate renames the link: a new file takes its place.
fn link_to_the_log() {
    let (directory, log) = place();
    let elsewhere = tempfile::tempdir().expect("a directory");
    symlink(elsewhere.path().join("real"), &log).expect("a link");
    let tcptop = launch(&with_log(&log, &["--tcp", "--interval", "0.1"]), None).start();
    fs::rename(&log, directory.path().join("old")).expect("rename");
    tcptop.signal(libc::SIGHUP);
    let pair = Pair::new(Family::V4);
    Log::wait(&log, "a row", |log| log.rows_of(pair.ends).next().map(|_| ()));
    assert!(fs::symlink_metadata(&log).expect("a file").is_file());
    tcptop.stop(libc::SIGTERM).check_log(&log, "0.1");
}

/// The log is relative to a directory to which the user of --setuid may not go himself: it is
/// rotated, and nothing of the confinement is given up.
fn log_out_of_reach() {
    const USER: u32 = 4246;
    let closed = tempfile::tempdir().expect("a directory");
    let own = closed.path().join("own");
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::create_dir(&own).expect("mkdir");
    chown(&own, Some(USER), Some(USER)).expect("chown");
    let arguments = ["--log", "log.csv", "-v", "--tcp", "--interval", "0.1", "--setuid", "4246"];
    let there = own.clone();
    let go = move || std::env::set_current_dir(&there);
    // SAFETY: the tests run one at a time, so no other thread of this process holds the
    // allocator's lock for long; glibc makes it usable after fork.
    let tcptop = unsafe { launch(&arguments, None).prepare(go) }.start();
    check_confined(&tcptop, USER, NOBODY);
    let log = own.join("log.csv");
    fs::rename(&log, own.join("old")).expect("rename");
    tcptop.signal(libc::SIGHUP);
    let pair = Pair::new(Family::V4);
    Log::wait(&log, "a row", |log| log.rows_of(pair.ends).next().map(|_| ()));
    let ended = tcptop.stop(libc::SIGTERM);
    assert!(ended.status.success(), "{}", ended.stderr);
    let told = match landlock() {
        0 => "not confined",
        1..6 => "confined in part",
        _ => "confined",
    };
    let told = format!("tcptop: {told}: Landlock: ");
    let lines = || ended.stderr.lines().filter(|line| line.contains(": Landlock: "));
    assert!(lines().count() > 0, "{}", ended.stderr);
    assert!(lines().all(|line| line.starts_with(&told)), "{}", ended.stderr);
}

fn owner(path: &Path) -> u32 {
    fs::metadata(path).expect("a file").uid()
}

/// The version of this kernel's Landlock; 0 where it has none.
fn landlock() -> i64 {
    // SAFETY: without attributes, and with this flag, the kernel only answers.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, 1_i64) }.max(0)
}

/// -v and --doctor tell of each part whether it could be had, and how much memory there is.
fn told() {
    let names = [
        "user",
        "no_new_privs",
        "undumpable",
        "securebits",
        "bounding set",
        "capabilities",
        "Landlock",
        "system calls",
    ];
    let landlock = match landlock() {
        0 => "no",
        1..6 => "partly",
        6.. => "yes",
        ..0 => unreachable!(),
    };
    let ended = launch(&["--doctor", "--format", "json"], None).spawn().ended();
    let report: Value = serde_json::from_str(&ended.output.lines.concat()).expect("JSON");
    let parts = report["confinement"].as_array().expect("a list");
    for (name, part) in names.iter().zip(parts) {
        let expected = if *name == "Landlock" { landlock } else { "yes" };
        assert_eq!((&part["part"], &part["had"]), (&(*name).into(), &expected.into()), "{part}");
    }
    assert_eq!(parts.len(), names.len());

    // With what cannot be had, and what the columns keep.
    let (_directory, binary) = public_binary();
    let capabilities = [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYS_PTRACE];
    let arguments = ["-v", "--tcp", "--columns", "exe", "--once"];
    let stderr = as_nobody(&binary, &arguments, &capabilities).spawn().ended().stderr;
    let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("confined")).collect();
    for line in [
        "tcptop: confined: user: 65534: not root",
        "tcptop: not confined: securebits: EPERM: Operation not permitted",
        "tcptop: not confined: bounding set: needs CAP_SETPCAP",
        "tcptop: confined: capabilities: all but CAP_BPF (maps, iterators), CAP_SYS_PTRACE (exe \
         of other users' processes)",
        "tcptop: confined in part: Landlock: not for names: exe is read of processes outside",
    ] {
        assert!(lines.contains(&line), "{line}: {lines:#?}");
    }
    let memory = stderr.lines().find_map(|line| line.strip_prefix("tcptop: memory: "));
    let kernel = memory.and_then(|line| line.split_once(" of this process, "));
    let kernel = kernel.and_then(|(_, kernel)| kernel.split_once(" MiB of the kernel's "));
    let kernel: f64 = kernel.expect(&stderr).0.parse().expect("a number");
    // Of the ring buffer alone: 2 MiB, whose pages count once.
    assert!((2.0..64.0).contains(&kernel), "{kernel}");
}
