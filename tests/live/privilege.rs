//! With little or no privilege.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::statvfs::{FsFlags, statvfs};
use tempfile::TempDir;

use crate::common::log::Log;
use crate::common::mounts;
use crate::common::program;
use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{self, Ended, Launch, QUICK, Tcptop};
use crate::common::udp::{Duo, Totals};
use crate::common::wait::until_true;

use super::csv::{logger, place};
use super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("privilege::none", || refused(&[])),
        test("privilege::bpf_alone", || a_part(Capability::CAP_BPF, "CAP_PERFMON is missing")),
        test("privilege::perfmon_alone", || a_part(Capability::CAP_PERFMON, "CAP_BPF is missing")),
        test("privilege::net_admin_alone", || {
            a_part(Capability::CAP_NET_ADMIN, "CAP_BPF and CAP_PERFMON are missing");
        }),
        test("privilege::bpf_and_perfmon", bpf_and_perfmon),
        test("privilege::with_net_admin", with_net_admin),
        test("privilege::root_without_sys_admin", root_without_sys_admin),
        test("privilege::file_capabilities", file_capabilities),
        test("privilege::gives_up", gives_up),
        test("privilege::log_of_another_user", log_of_another_user),
        test("privilege::before_anything_else", before_anything_else),
    ]
}

/// The id of an ordinary user, `nobody` almost everywhere.
pub const NOBODY: u32 = 65534;

/// A copy of the binary that every user can reach.
pub fn public_binary() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tcptop");
    fs::copy(tcptop::binary(), &path).expect("copy");
    for path in [directory.path(), &path] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    (directory, path)
}

/// tcptop as an ordinary user who has these capabilities and no others.
pub fn as_nobody(binary: &Path, arguments: &[&str], capabilities: &[Capability]) -> Launch {
    let capabilities: CapsHashSet = capabilities.iter().copied().collect();
    let drop_privileges = move || {
        // SAFETY: system calls without memory, except an empty list of groups.
        let result = unsafe {
            libc::prctl(libc::PR_SET_KEEPCAPS, 1)
                | libc::setgroups(0, std::ptr::null())
                | libc::setgid(NOBODY)
                | libc::setuid(NOBODY)
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Ambient] {
            caps::set(None, set, &capabilities).map_err(io::Error::other)?;
        }
        Ok(())
    };
    // SAFETY: the tests run one at a time, so no other thread of this process
    // holds the allocator's lock for long; glibc makes it usable after fork.
    unsafe { Launch::of(binary, arguments).prepare(drop_privileges) }
}

pub fn check_refusal(ended: &Ended) {
    check_reason(ended, "");
}

/// Status 77, the promised line, and this line after it.
fn check_reason(ended: &Ended, reason: &str) {
    assert_eq!(ended.status.code(), Some(77), "{}", ended.stderr);
    let line = "error: tcptop requires root privileges. Run with sudo.\n";
    assert_eq!(ended.stderr, format!("{line}{reason}"));
    assert!(ended.output.lines.is_empty(), "{:?}", ended.output.lines);
}

fn refused(capabilities: &[Capability]) {
    let (_directory, binary) = public_binary();
    check_refusal(&as_nobody(&binary, &QUICK, capabilities).spawn().ended());
}

/// A user with one of the capabilities is told which others are missing.
fn a_part(capability: Capability, missing: &str) {
    let (_directory, binary) = public_binary();
    let ended = as_nobody(&binary, &QUICK, &[capability]).spawn().ended();
    check_reason(&ended, &format!("tcptop: {missing}\n"));
}

/// An ordinary user with CAP_BPF and CAP_PERFMON sees all of TCP: exact bytes, older
/// connections, and the owners of other users' connections.
fn bpf_and_perfmon() {
    let (_directory, binary) = public_binary();
    let older = Pair::new(Family::V6);
    let tcptop =
        as_nobody(&binary, &QUICK, &[Capability::CAP_BPF, Capability::CAP_PERFMON]).start();
    let status = fs::read_to_string(format!("/proc/{}/status", tcptop.id())).expect("status");
    assert!(status.lines().any(|line| line.starts_with("Uid:\t65534\t65534")), "{status}");
    let row = tcptop.look(|output| output.last_row(older.ends).cloned()).expect("listed");
    assert_eq!((row.pid, row.partial), (Some(process::id()), true));
    let pair = Pair::new(Family::V4);
    let expected = [(pair.ends, 321, 123_456), (older.ends, 9, 8)];
    for (pair, (ends, down, up)) in [pair, older].into_iter().zip(expected) {
        pair.exchange(up, down);
        tcptop.wait_row("row with the totals", ends, |row| {
            (row.bytes_in, row.bytes_out) == (down, up)
        });
        pair.close();
    }
    let all = expected.map(|(ends, ..)| ends);
    tcptop.wait_closed(&all);
    let output = tcptop.finish();
    for (ends, down, up) in expected {
        let closed = output.the_closed(ends);
        assert_eq!(
            (closed.bytes_in, closed.bytes_out, closed.pid),
            (down, up, Some(process::id()))
        );
        assert_eq!(closed.end, "fin");
    }
}

/// Checks both protocols in both directions, to the byte and with the owners, on new
/// and older connections.
fn check_all_traffic(launch: Launch) {
    let older = Pair::new(Family::V4);
    let tcptop = launch.start();
    check_traffic(&tcptop, older);
    tcptop.finish();
}

/// The arguments of tcptop for [`check_all_traffic`].
const BOTH: [&str; 5] = ["--raw", "--interval", "0.1", "--udp-timeout", "300"];

fn check_traffic(tcptop: &Tcptop, older: Pair) {
    let own = Some(process::id());
    let younger = Pair::new(Family::V6);
    let mut duos = [Duo::new(Family::V4, true), Duo::new(Family::V6, false)];
    for duo in &mut duos {
        duo.send(1200, 5);
        duo.answer(30, 2);
    }
    for (ends, totals) in duos.iter().flat_map(Duo::expected) {
        tcptop.wait_row(&format!("row of {ends:?} with {totals:?}"), ends, |row| {
            Totals::of(row) == totals && row.pid == own
        });
    }
    let all = [older.ends, younger.ends];
    for pair in [older, younger] {
        pair.exchange(123_456, 321);
        pair.close();
    }
    tcptop.wait_closed(&all);
    tcptop.look(|output| {
        for ends in all {
            let closed = output.the_closed(ends);
            assert_eq!((closed.bytes_in, closed.bytes_out, closed.pid), (321, 123_456, own));
        }
    });
}

/// An ordinary user with the three capabilities has everything.
fn with_net_admin() {
    let (_directory, binary) = public_binary();
    check_all_traffic(as_nobody(&binary, &BOTH, &THREE));
}

const THREE: [Capability; 3] =
    [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN];

/// Root without CAP_SYS_ADMIN, as in many containers and services.
fn root_without_sys_admin() {
    let drop_it = || {
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Bounding] {
            caps::drop(None, set, Capability::CAP_SYS_ADMIN).map_err(io::Error::other)?;
        }
        Ok(())
    };
    // SAFETY: as in `as_nobody`.
    check_all_traffic(unsafe { Launch::new(&BOTH).prepare(drop_it) });
}

/// Becomes an ordinary user, with nothing.
pub fn become_nobody() -> io::Result<()> {
    // SAFETY: system calls without memory, except an empty list of groups.
    let result = unsafe {
        libc::setgroups(0, std::ptr::null()) | libc::setgid(NOBODY) | libc::setuid(NOBODY)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The `setcap` command of the documentation makes a file that every user can run.
fn file_capabilities() {
    const WHAT: &str = "privilege::file_capabilities";
    if !program::is_there("setcap") {
        return left_out(WHAT, "no setcap here");
    }
    let page = include_str!("../../docs/privileges.md");
    let line = page.lines().find_map(|line| line.trim().strip_prefix("sudo setcap "));
    let (capabilities, path) = line.and_then(|line| line.split_once(' ')).expect("documented");
    assert_eq!(path, "/usr/local/bin/tcptop");
    let (directory, binary) = public_binary();
    let flags = statvfs(directory.path()).expect("a file system").flags();
    if flags.contains(FsFlags::ST_NOSUID) {
        return left_out(WHAT, "temporary files are on a file system with nosuid");
    }
    let launch = |arguments: &[&str]| {
        // SAFETY: as in `as_nobody`.
        unsafe { Launch::of(&binary, arguments).prepare(become_nobody) }
    };
    check_refusal(&launch(&BOTH).spawn().ended());
    let arguments = [capabilities.as_ref(), binary.as_os_str()];
    program::output_of("setcap", &arguments, "");
    check_without_effect(directory.path(), &binary);
    let older = Pair::new(Family::Mapped);
    let tcptop = launch(&BOTH).start();
    let status = fs::read_to_string(format!("/proc/{}/status", tcptop.id())).expect("status");
    assert!(status.lines().any(|line| line.starts_with("Uid:\t65534\t65534")), "{status}");
    check_kept(&tcptop, &[]);
    check_traffic(&tcptop, older);
    tcptop.finish();
    let ended = launch(&["--doctor"]).spawn().ended();
    assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), ""), "{:#?}", ended.output.lines);
}

/// Where the kernel ignores the capabilities of the file, tcptop says why.
fn check_without_effect(directory: &Path, binary: &Path) {
    let directory = directory.to_owned();
    let nosuid = move || {
        mounts::private()?;
        mounts::without_suid(&directory)?;
        become_nobody()
    };
    let no_new_privileges = || {
        // SAFETY: no memory is involved.
        match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
            0 => become_nobody(),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let missing = "tcptop: CAP_BPF and CAP_PERFMON are missing: the file's capabilities have no \
                   effect on a";
    // SAFETY: as in `as_nobody`.
    let ended = unsafe { Launch::of(binary, &BOTH).prepare(nosuid) }.spawn().ended();
    check_reason(&ended, &format!("{missing} file system that is mounted with nosuid\n"));
    // SAFETY: as in `as_nobody`.
    let ended = unsafe { Launch::of(binary, &BOTH).prepare(no_new_privileges) }.spawn().ended();
    check_reason(&ended, &format!("{missing} process that may gain no privileges\n"));
}

/// Waits until no thread has more capabilities than docs/privileges.md says, and the reporter no
/// others than these.
pub fn check_kept(tcptop: &Tcptop, reporter: &[Capability]) {
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", tcptop.id())).expect("it runs");
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
    };
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
        line.trim_start_matches(':').trim().to_owned()
    };
    let excess = |status: String| {
        let name = field(&status, "Name");
        let allowed: &[Capability] = match &*name {
            "collector" => &[Capability::CAP_BPF],
            "reporter" => reporter,
            _ => &[],
        };
        let allowed: u64 = allowed.iter().map(|capability| capability.bitmask()).sum();
        ["CapInh", "CapPrm", "CapEff", "CapAmb"].iter().any(|set| {
            let held = u64::from_str_radix(&field(&status, set), 16).expect("a bit mask");
            held & !allowed != 0
        })
    };
    until_true("privileges to be given up", || !threads().any(excess));
    let names: Vec<String> = threads().map(|status| field(&status, "Name")).collect();
    for name in ["collector", "reporter"] {
        assert!(names.iter().any(|found| found == name), "{names:?}");
    }
}

/// Root's tcptop gives up nearly all privileges and works as before: it counts, and shows
/// names and devices.
fn gives_up() {
    let older = Pair::new(Family::V4);
    let tcptop = Tcptop::start(&[&BOTH[..], &["-i", "lo"]].concat());
    check_kept(&tcptop, &[]);
    check_traffic(&tcptop, older);
    check_kept(&tcptop, &[]);
    tcptop.finish();
}

/// After root's tcptop has given up its privileges, SIGHUP makes it open a log in a
/// directory that only another user may write to; it still finds names.
fn log_of_another_user() {
    let (directory, log) = place();
    let owner = |path: &Path, mode| {
        std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("chown");
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("chmod");
    };
    owner(directory.path(), 0o700);
    let pair = Pair::new(Family::V4);
    let tcptop = logger(&log, &["--tcp", "--wide", "--interval", "0.1"]);
    check_kept(&tcptop, &[Capability::CAP_DAC_OVERRIDE]);
    for turn in 1..=2 {
        let old = directory.path().join(format!("old{turn}"));
        fs::rename(&log, &old).expect("rename");
        tcptop.signal(libc::SIGHUP);
        Log::wait(&log, "rows in a new file", |log| {
            (log.open_rows_of(pair.ends).len() > 1).then_some(())
        });
        check_kept(&tcptop, &[Capability::CAP_DAC_OVERRIDE]);
    }
    pair.exchange(1000, 2000);
    let ends = pair.ends;
    pair.close();
    Log::wait_finals(&log, &[ends]);
    tcptop.stop(libc::SIGTERM).check_log(&log, "0.1");
    let log = Log::read(&log);
    assert_eq!(log.totals(ends), (2000, 1000));
    let last = log.finals_of(ends).next_back().expect("closed");
    assert_eq!(last.pid, Some(process::id()));
    let row = log.open_rows_of(ends)[0].clone();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    assert_eq!((&*row.wide[5], &*row.wide[7]), ("lo", own), "device and cgroup: {row:?}");
}

/// Privileges are checked first, except that a wrong option is reported to every user.
fn before_anything_else() {
    let (_directory, binary) = public_binary();
    let ended = as_nobody(&binary, &["--interval", "0"], &[]).spawn().ended();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.output.lines.is_empty());
}
