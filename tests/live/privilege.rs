//! With little or no privilege.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process;

use caps::{CapSet, Capability, CapsHashSet};
use libtest_mimic::Trial;
use tempfile::TempDir;

use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{self, Ended, Launch, QUICK};

use super::test;

pub fn tests() -> Vec<Trial> {
    vec![
        test("privilege::none", || refused(&[])),
        test("privilege::bpf_alone", || refused(&[Capability::CAP_BPF])),
        test("privilege::perfmon_alone", || refused(&[Capability::CAP_PERFMON])),
        test("privilege::bpf_and_perfmon", bpf_and_perfmon),
        test("privilege::before_anything_else", before_anything_else),
    ]
}

/// The id of an ordinary user, `nobody` almost everywhere.
const NOBODY: u32 = 65534;

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
pub fn as_nobody(
    binary: &std::path::Path,
    arguments: &[&str],
    capabilities: &[Capability],
) -> Launch {
    let capabilities: CapsHashSet = capabilities.iter().copied().collect();
    let drop_privileges = move || {
        // SAFETY: system calls without memory, but for an empty list of groups.
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
    assert_eq!(ended.status.code(), Some(77), "{}", ended.stderr);
    assert_eq!(ended.stderr, "error: tcptop requires root privileges. Run with sudo.\n");
    assert!(ended.output.lines.is_empty(), "{:?}", ended.output.lines);
}

fn refused(capabilities: &[Capability]) {
    let (_directory, binary) = public_binary();
    check_refusal(&as_nobody(&binary, &QUICK, capabilities).spawn().ended());
}

/// An ordinary user with CAP_BPF and CAP_PERFMON has all of TCP: owners of
/// other users' connections, older ones, exact bytes.
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

/// Privileges come first, but a wrong option is a wrong option for everybody.
fn before_anything_else() {
    let (_directory, binary) = public_binary();
    let ended = as_nobody(&binary, &["--interval", "0"], &[]).spawn().ended();
    assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
    assert!(ended.output.lines.is_empty());
}
