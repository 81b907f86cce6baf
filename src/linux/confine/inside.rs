//! Tries, from inside, what must not be possible any more. Each attempt is made before the
//! confinement as well: an attempt that never works would prove nothing.
//!
//! A confinement cannot be left, so each case runs in a process of its own: this executable
//! again, with the test's own name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid, getuid};

use super::*;

const CHILD: &str = "TCPTOP_TEST_CONFINED";

/// Runs `inside` in a process of its own.
fn alone(test: &str, inside: fn()) {
    if std::env::var_os(CHILD).is_some() {
        return inside();
    }
    let name = format!("linux::confine::inside::{test}");
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &name, "--nocapture"]).env(CHILD, "1");
    child.env_remove("SUDO_UID").env_remove("SUDO_GID");
    let output = child.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Confines this process as the collector's thread does, with the parts that are asked for.
fn confine(settings: &Settings, landlock: bool, seccomp: bool) -> Vec<Part> {
    let without = Without { landlock: !landlock, seccomp: !seccomp };
    Confinement::begin(settings, Needs::empty(), without).unwrap().finish().unwrap()
}

fn part<'a>(parts: &'a [Part], name: &str) -> &'a Part {
    parts.iter().find(|part| part.name == name).unwrap()
}

fn logging() -> Settings {
    let mut settings = Settings::default();
    settings.output.log = Some("/dev/null".into());
    settings
}

/// A thing to try, and the error that stops it.
type Attempt<'a> = (&'a str, &'a dyn Fn() -> io::Result<()>, Errno);

/// Makes each attempt, which must work, then confines, and makes each again.
fn check(attempts: &[Attempt<'_>], confine: impl FnOnce()) {
    for (what, attempt, _) in attempts {
        attempt().unwrap_or_else(|error| panic!("{what} before: {error}"));
    }
    confine();
    for (what, attempt, expected) in attempts {
        let error = attempt().expect_err(what);
        assert_eq!(error.raw_os_error(), Some(*expected as i32), "{what}: {error}");
    }
}

/// The capabilities that the kernel shows for a new program of this process.
fn of_new_program() -> Vec<String> {
    let output = Command::new("/bin/cat").arg("/proc/self/status").output().unwrap();
    let status = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = status.lines().filter(|line| line.starts_with("Cap"));
    lines.map(|line| line.split_once('\t').unwrap().1.to_owned()).collect()
}

fn nothing_comes_back(settings: &Settings) {
    let directory = tempfile::tempdir().unwrap();
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    let tmpfs = || {
        mount(Some("none"), directory.path(), Some("tmpfs"), MsFlags::empty(), none)
            .map_err(io::Error::from)
    };
    let raise =
        |capability| move || caps::raise(None, caps::CapSet::Permitted, capability).map_err(denied);
    let admin = raise(Capability::CAP_SYS_ADMIN);
    // Without the C library, which would change the other threads of this test as well.
    // SAFETY: the calls take two numbers and no memory.
    let change = |call: i64| unsafe { Errno::result(libc::syscall(call, 0, 0)) };
    let setuid_to_0 = || Ok(change(libc::SYS_setuid).map(drop)?);
    let groups = || Ok(change(libc::SYS_setgroups).map(drop)?);
    let mut attempts: Vec<Attempt<'_>> = vec![
        ("mount", &tmpfs, Errno::EPERM),
        ("a capability", &admin, Errno::EPERM),
        ("setgroups", &groups, Errno::EPERM),
    ];
    let shadow = || File::open("/etc/shadow").map(drop);
    if settings.output.log.is_none() {
        attempts.push(("setuid(0)", &setuid_to_0, Errno::EPERM));
        attempts.push(("/etc/shadow", &shadow, Errno::EACCES));
    }
    assert_ne!(of_new_program()[2], "0000000000000000", "root's programs have capabilities");
    check(&attempts, || {
        for part in confine(settings, false, false) {
            assert!(part.had == Had::Yes || part.name == "user", "{part:?}");
        }
    });
    assert_eq!(of_new_program(), ["0000000000000000"; 5]);
}

/// caps gives the kernel's error as text only.
fn denied(error: caps::errors::CapsError) -> io::Error {
    match error.to_string().contains("Operation not permitted") {
        true => Errno::EPERM.into(),
        false => io::Error::other(error.to_string()),
    }
}

#[test]
fn another_user_without_privileges() {
    if !geteuid().is_root() {
        return;
    }
    alone("another_user_without_privileges", || {
        nothing_comes_back(&Settings::default());
        assert_eq!((getuid().as_raw(), geteuid().as_raw()), (65534, 65534));
    });
}

/// Where root's files keep it root, its uid is worth no more than others.
#[test]
fn root_without_privileges() {
    if !geteuid().is_root() {
        return;
    }
    alone("root_without_privileges", || {
        nothing_comes_back(&logging());
        assert!(geteuid().is_root());
    });
}

/// Files that every user may read and write.
#[test]
fn no_file_no_network_no_signal() {
    alone("no_file_no_network_no_signal", || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let name = format!("tcptop-test-{}", std::process::id());
        let name = SocketAddr::from_abstract_name(name).unwrap();
        let _server = UnixListener::bind_addr(&name).unwrap();
        // A process of the user that this one becomes. It ends with this one's stdin.
        let mut other = Command::new("/bin/cat");
        other.stdin(Stdio::piped());
        if geteuid().is_root() {
            other.uid(65534).gid(65534);
        }
        let child = other.spawn().unwrap();
        let other = Pid::from_raw(child.id() as i32);
        let directory = tempfile::tempdir().unwrap();
        let all = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(directory.path(), all).unwrap();
        let new = directory.path().join("new");
        let old = directory.path().join("old");
        fs::write(&old, "text").unwrap();
        let mut kept = tempfile::tempfile().unwrap();

        let reads = || File::open("/etc/passwd").map(drop);
        let lists = || fs::read_dir("/").map(drop);
        let writes = || fs::write(&new, "text").and_then(|()| fs::remove_file(&new));
        let removes = || fs::remove_file(&old).and_then(|()| fs::write(&old, "text"));
        let binds = || TcpListener::bind("127.0.0.1:0").map(drop);
        let connects = || TcpStream::connect(server).map(drop);
        let speaks = || UnixStream::connect_addr(&name).map(drop);
        let signals = || Ok(kill(other, None)?);
        let version = landlock_version();
        let mut attempts: Vec<Attempt<'_>> = Vec::new();
        if version >= 1 {
            attempts.push(("reading", &reads, Errno::EACCES));
            attempts.push(("listing", &lists, Errno::EACCES));
            attempts.push(("writing", &writes, Errno::EACCES));
            attempts.push(("removing", &removes, Errno::EACCES));
        }
        if version >= 4 {
            attempts.push(("bind", &binds, Errno::EACCES));
            attempts.push(("connect", &connects, Errno::EACCES));
        }
        if version >= 6 {
            attempts.push(("an abstract socket", &speaks, Errno::EPERM));
            attempts.push(("a signal", &signals, Errno::EPERM));
        }
        check(&attempts, || {
            let parts = confine(&Settings::default(), true, false);
            let expected = match version {
                0 => Had::No,
                1..6 => Had::Partly,
                _ => Had::Yes,
            };
            assert_eq!(part(&parts, "Landlock").had, expected, "{parts:?}");
        });
        // What is open stays so.
        kept.write_all(b"text").unwrap();
        drop(child);
    });
}

/// The version of Landlock's rules in this kernel; 0 where it has none.
fn landlock_version() -> i64 {
    /// `LANDLOCK_CREATE_RULESET_VERSION` (linux/landlock.h).
    const VERSION: i64 = 1;
    // SAFETY: without attributes, and with this flag, the kernel only answers.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, VERSION) }.max(0)
}

/// The system calls of a break-out, with arguments that the kernel refuses with another
/// error once the call reaches it.
#[test]
fn no_other_system_calls() {
    alone("no_other_system_calls", || {
        let mut calls = BREAK_OUT.to_vec();
        calls.retain(|(_, call)| refusal(call) != Errno::ENOSYS);
        assert!(calls.len() > BREAK_OUT.len() - 5, "this kernel has others: {calls:?}");
        let mut kept = tempfile::tempfile().unwrap();
        let parts = confine(&Settings::default(), false, true);
        assert_eq!(part(&parts, "system calls").had, Had::Yes, "{parts:?}");
        for (name, call) in &calls {
            assert_eq!(refusal(call), Errno::ENOSYS, "{name}");
        }
        let error = File::open("/etc/passwd").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSYS));
        kept.write_all(b"text").unwrap();
    });
}

/// Makes a call that must fail.
fn refusal(call: &[i64]) -> Errno {
    let [number, a, b, c, d, e] = *call else { panic!("{call:?}") };
    // SAFETY: each has a descriptor, a pointer or a flag that is not valid.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    assert_eq!(result, -1, "{call:?}");
    Errno::last()
}

/// With the name, the number and five arguments.
const BREAK_OUT: &[(&str, [i64; 6])] = &[
    ("execve", [libc::SYS_execve, 0, 0, 0, 0, 0]),
    ("execveat", [libc::SYS_execveat, -1, 0, 0, 0, 0]),
    ("clone", [libc::SYS_clone, libc::CLONE_SIGHAND as i64, 0, 0, 0, 0]),
    ("clone3", [libc::SYS_clone3, 0, 0, 0, 0, 0]),
    ("ptrace", [libc::SYS_ptrace, 7, -1, 0, 0, 0]),
    ("process_vm_readv", [libc::SYS_process_vm_readv, -1, 0, 1, 0, 1]),
    ("process_vm_writev", [libc::SYS_process_vm_writev, -1, 0, 1, 0, 1]),
    ("kill", [libc::SYS_kill, 1, 999, 0, 0, 0]),
    ("tgkill of another", [libc::SYS_tgkill, 1, 1, 999, 0, 0]),
    ("rt_sigqueueinfo", [libc::SYS_rt_sigqueueinfo, 1, 9, 0, 0, 0]),
    ("pidfd_open", [libc::SYS_pidfd_open, -1, 0, 0, 0, 0]),
    ("pidfd_getfd", [libc::SYS_pidfd_getfd, -1, 0, 0, 0, 0]),
    ("pidfd_send_signal", [libc::SYS_pidfd_send_signal, -1, 9, 0, 0, 0]),
    ("mount", [libc::SYS_mount, 0, 0, 0, 0, 0]),
    ("umount2", [libc::SYS_umount2, 0, 0, 0, 0, 0]),
    ("pivot_root", [libc::SYS_pivot_root, 0, 0, 0, 0, 0]),
    ("move_mount", [libc::SYS_move_mount, -1, 0, -1, 0, 0]),
    ("open_tree", [libc::SYS_open_tree, -1, 0, 0, 0, 0]),
    ("fsopen", [libc::SYS_fsopen, 0, 0, 0, 0, 0]),
    ("fsmount", [libc::SYS_fsmount, -1, 0, 0, 0, 0]),
    ("chroot", [libc::SYS_chroot, 0, 0, 0, 0, 0]),
    ("init_module", [libc::SYS_init_module, 0, 0, 0, 0, 0]),
    ("finit_module", [libc::SYS_finit_module, -1, 0, 0, 0, 0]),
    ("kexec_load", [libc::SYS_kexec_load, 0, 99, 0, 0, 0]),
    ("bpf: map", [libc::SYS_bpf, 0, 0, 0, 0, 0]),
    ("bpf: update", [libc::SYS_bpf, 2, 0, 0, 0, 0]),
    ("bpf: program", [libc::SYS_bpf, 5, 0, 0, 0, 0]),
    ("bpf: attach", [libc::SYS_bpf, 8, 0, 0, 0, 0]),
    ("bpf: map by id", [libc::SYS_bpf, 14, 0, 0, 0, 0]),
    ("bpf: link", [libc::SYS_bpf, 28, 0, 0, 0, 0]),
    ("perf_event_open", [libc::SYS_perf_event_open, 0, 0, 0, 0, 0]),
    ("setuid", [libc::SYS_setuid, -1, 0, 0, 0, 0]),
    ("setgid", [libc::SYS_setgid, -1, 0, 0, 0, 0]),
    ("setgroups", [libc::SYS_setgroups, -1, 0, 0, 0, 0]),
    ("capset", [libc::SYS_capset, 0, 0, 0, 0, 0]),
    ("prctl", [libc::SYS_prctl, libc::PR_SET_DUMPABLE as i64, 5, 0, 0, 0]),
    ("unshare", [libc::SYS_unshare, 1, 0, 0, 0, 0]),
    ("setns", [libc::SYS_setns, -1, 0, 0, 0, 0]),
    ("open_by_handle_at", [libc::SYS_open_by_handle_at, -1, 0, 0, 0, 0]),
    ("name_to_handle_at", [libc::SYS_name_to_handle_at, -1, 0, 0, 0, 0]),
    ("keyctl", [libc::SYS_keyctl, 9999, 0, 0, 0, 0]),
    ("add_key", [libc::SYS_add_key, 0, 0, 0, 0, 0]),
    ("io_uring_setup", [libc::SYS_io_uring_setup, 0, 0, 0, 0, 0]),
    ("io_uring_enter", [libc::SYS_io_uring_enter, -1, 0, 0, 0, 0]),
    ("userfaultfd", [libc::SYS_userfaultfd, 0xffff, 0, 0, 0, 0]),
    ("memfd_create", [libc::SYS_memfd_create, 0, 0, 0, 0, 0]),
    ("socket", [libc::SYS_socket, libc::AF_INET as i64, 99, 0, 0, 0]),
    ("connect", [libc::SYS_connect, -1, 0, 0, 0, 0]),
    ("bind", [libc::SYS_bind, -1, 0, 0, 0, 0]),
    ("sendto", [libc::SYS_sendto, -1, 0, 0, 0, 0]),
    ("openat", [libc::SYS_openat, -1, 0, 0, 0, 0]),
    ("openat2", [libc::SYS_openat2, -1, 0, 0, 0, 0]),
    ("unlinkat", [libc::SYS_unlinkat, -1, 0, 0, 0, 0]),
    ("renameat2", [libc::SYS_renameat2, -1, 0, -1, 0, 0]),
    ("fchmodat", [libc::SYS_fchmodat, -1, 0, 0, 0, 0]),
    ("fchownat", [libc::SYS_fchownat, -1, 0, 0, 0, 0]),
    ("mknodat", [libc::SYS_mknodat, -1, 0, 0, 0, 0]),
    ("prlimit64", [libc::SYS_prlimit64, -1, 0, 0, 0, 0]),
    ("clock_settime", [libc::SYS_clock_settime, -1, 0, 0, 0, 0]),
    ("reboot", [libc::SYS_reboot, 0, 0, 0, 0, 0]),
    ("a terminal's input", [libc::SYS_ioctl, -1, libc::TIOCSTI as i64, 0, 0, 0]),
    ("code from a file", [libc::SYS_mmap, 0, 0, libc::PROT_EXEC as i64, 0, -1]),
    ("code from memory", [libc::SYS_mprotect, 1, 1, libc::PROT_EXEC as i64, 0, 0]),
];
