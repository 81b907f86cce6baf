//! Surroundings in which tcptop cannot work, or not fully: it says in one sentence what is
//! missing and what to do.

use std::fs;
use std::io;
use std::path::Path;

use caps::Capability;

use crate::common::mounts;
use crate::common::program;
use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{self, Launch, QUICK};
use crate::common::udp::{self, Duo};
use crate::common::wait::until;

use super::csv::place;
use super::privilege::{as_nobody, public_binary};
use super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("refused::few_files", few_files),
        test("refused::unreadable_types", unreadable_types),
        test("refused::user_namespace", user_namespace),
        test("refused::seccomp_eperm", || seccomp(libc::EPERM)),
        test("refused::seccomp_enosys", || seccomp(libc::ENOSYS)),
        test("refused::seccomp_that_permits_bpf", seccomp_that_permits_bpf),
        test("refused::without_types", without_types),
        test("refused::without_sys", without_sys),
        test("refused::without_proc", without_proc),
        test("refused::confidentiality", confidentiality),
        test("refused::without_cgroups", without_cgroups),
        test("refused::no_locked_memory", no_locked_memory),
    ]
}

/// Runs tcptop in surroundings that `prepare` makes after the fork.
fn launch(
    arguments: &[&str],
    prepare: impl Fn() -> io::Result<()> + Send + Sync + 'static,
) -> Launch {
    // SAFETY: the tests run one at a time, so no other thread of this process
    // holds the allocator's lock for long; glibc makes it usable after fork.
    unsafe { Launch::new(arguments).prepare(prepare) }
}

/// Status 1, nothing on stdout, and this on stderr.
fn check(launch: Launch, error: &str) {
    let ended = launch.spawn().ended();
    assert_eq!(ended.stderr, format!("tcptop: error: {error}\n"));
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.output.lines.is_empty(), "{:?}", ended.output.lines);
}

/// With `-v` the same line at the end, after libbpf's own messages.
fn check_verbose(launch: Launch, error: &str) {
    let ended = launch.spawn().ended();
    let (rest, last) = ended.stderr.trim_end().rsplit_once('\n').expect("more than a line");
    assert_eq!(last, format!("tcptop: error: {error}"));
    assert!(rest.lines().any(|line| line.starts_with("libbpf: ")), "{rest}");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.output.lines.is_empty(), "{:?}", ended.output.lines);
}

/// Root of a user namespace has every capability, and may not load anything. The first
/// thing that the kernel refuses differs between versions, and so does its reason.
fn user_namespace() {
    const ERROR: &str = "this is a user namespace, whose root may not load BPF programs; run \
        tcptop on the host or in a container that shares the host's users";
    let reasons = [libc::EPERM, libc::EINVAL].map(io::Error::from_raw_os_error);
    if !program::is_there("unshare") {
        return left_out("refused::user_namespace", "no unshare here");
    }
    let binary = tcptop::binary();
    let binary = binary.to_str().expect("UTF-8");
    let launch = |arguments: &[&str]| {
        Launch::of(Path::new("unshare"), &[&["-Ur", binary], arguments].concat())
    };
    // The doctor shows it in its table as well.
    let ended = launch(&["--doctor"]).spawn().ended();
    let is_said = |reason: &&io::Error| ended.stderr.contains(&format!("({reason})"));
    let reason = reasons.iter().find(is_said).unwrap_or(&reasons[0]);
    let error = format!("{ERROR} ({reason})");
    assert_eq!(ended.stderr, format!("tcptop: error: {error}\n"));
    check(launch(&["--once"]), &error);
    check(launch(&["--udp", "--once"]), &error);
    check_verbose(launch(&["--once", "-vv"]), &error);
    assert_eq!(ended.status.code(), Some(1));
    let refused = ended.output.lines.iter().filter(|line| line.trim_start().starts_with("not "));
    for line in refused.clone().filter(|line| !line.contains("left out by --without")) {
        assert!(line.ends_with(&format!(": load: {reason}")), "{line}");
    }
    assert_eq!(refused.count(), 8, "every provider: {:#?}", ended.output.lines);
}

/// Without /proc no file is opened and nothing is looked up, and tcptop says so.
fn without_proc() {
    let (_directory, log) = place();
    fs::write(&log, "").expect("write");
    let log = log.to_str().expect("UTF-8");
    for arguments in [&["--once"][..], &["--log", log]] {
        let hide = || {
            mounts::private()?;
            mounts::hide(Path::new("/proc"))
        };
        check(
            launch(arguments, hide),
            "/proc is not mounted; `mount -t proc proc /proc` mounts it",
        );
    }
}

/// A limit of open files is raised where that is allowed, and otherwise named.
fn few_files() {
    let limited = |soft: u64, hard: u64| {
        launch(&["--once"], move || {
            let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
            // SAFETY: the kernel reads the limit, which lives until the call returns.
            match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    };
    check(
        limited(10, 20),
        "this process may open only 20 files, and tcptop needs 80; raise the limit \
         (`ulimit -n 80`, LimitNOFILE=80 for systemd)",
    );
    for (soft, hard) in [(10, 1024), (80, 80)] {
        let ended = limited(soft, hard).spawn().ended();
        ended.check();
    }
}

/// Type information that is there and cannot be used.
fn unreadable_types() {
    let launch = launch(&["--once"], || {
        mounts::private()?;
        mounts::bind(Path::new("/dev/null"), Path::new("/sys/kernel/btf/vmlinux"))
    });
    check(
        launch,
        "the kernel's type information (/sys/kernel/btf/vmlinux) cannot be read; look at what is \
         mounted there: failed to fill whole buffer",
    );
}

/// A seccomp filter as in a container: this system call fails (only with this first
/// argument, if one is given).
fn forbid(call: libc::c_long, argument: Option<u32>, errno: i32) -> io::Result<()> {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |offset: u32| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let allow = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
    let unless = |k: u32, skip: u8| {
        let mut jump = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k);
        jump.jf = skip;
        jump
    };
    // struct seccomp_data: nr, arch, instruction_pointer, args (little endian)
    let mut filter = match argument {
        None => vec![load(0), unless(call as u32, 1)],
        Some(value) => vec![load(0), unless(call as u32, 3), load(16), unless(value, 1)],
    };
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno as u32));
    filter.push(allow);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads the filter, which lives until the call returns.
    let result =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn seccomp(errno: i32) {
    let error = format!(
        "a seccomp filter, such as a container's, forbids bpf(2); run tcptop on the host or in a \
         privileged container ({})",
        io::Error::from_raw_os_error(errno)
    );
    let under =
        move |arguments: &[&str]| launch(arguments, move || forbid(libc::SYS_bpf, None, errno));
    check(under(&["--once"]), &error);
    check(under(&["--udp", "--once"]), &error);
    check_verbose(under(&["--once", "-vv"]), &error);
}

/// If there is another cause, the message does not blame the filter.
fn seccomp_that_permits_bpf() {
    /// BPF_PROG_LOAD of linux/bpf.h
    const PROG_LOAD: u32 = 5;
    let under = launch(&["--once"], || forbid(libc::SYS_bpf, Some(PROG_LOAD), libc::EPERM));
    let ended = under.spawn().ended();
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    let words = "tcptop: error: the kernel refused the BPF programs; `tcptop --doctor` tells what \
        works, -v why: ";
    assert!(ended.stderr.starts_with(words), "{}", ended.stderr);
    assert!(ended.stderr.ends_with("Operation not permitted (os error 1)\n"), "{}", ended.stderr);
    assert_eq!(ended.status.code(), Some(1));
    // A filter that forbids some other call does no harm.
    launch(&QUICK, || forbid(libc::SYS_kexec_load, None, libc::EPERM)).start().finish();
}

fn without_types() {
    const ERROR: &str = "this kernel has no type information (/sys/kernel/btf/vmlinux); run one \
        that is built with CONFIG_DEBUG_INFO_BTF, as current distributions' are";
    for arguments in [&["--once"][..], &["--once", "-vv"], &["--doctor"]] {
        let without = launch(arguments, || {
            mounts::private()?;
            mounts::hide(Path::new("/sys/kernel/btf"))
        });
        check(without, ERROR);
    }
}

/// As in a container or chroot that has no /sys.
fn without_sys() {
    let without = launch(&["--once"], || {
        mounts::private()?;
        mounts::detach(Path::new("/sys"))
    });
    check(without, "/sys is not mounted here; `mount -t sysfs sysfs /sys` mounts it");
}

/// Only the kernel's lockdown file is replaced; the kernel itself is not locked down.
fn confidentiality() {
    let directory = Path::new("/sys/kernel/security");
    if !directory.is_dir() {
        return left_out("refused::confidentiality", "no /sys/kernel/security here");
    }
    let locked = |modes: &'static str| {
        move || {
            mounts::private()?;
            mounts::hide(directory)?;
            fs::write(directory.join("lockdown"), modes)
        }
    };
    check(
        launch(&["--once"], locked("none integrity [confidentiality]\n")),
        "kernel lockdown is in confidentiality mode, which forbids tracing; boot with \
         lockdown=integrity or without lockdown",
    );
    launch(&QUICK, locked("none [integrity] confidentiality\n")).start().finish();
}

/// If cgroup_skb has to count UDP and cgroup v2 cannot be reached, TCP still works.
fn without_cgroups() {
    let points = mounts::points("cgroup2");
    let hidden = |arguments: &[&str]| {
        let points = points.clone();
        let arguments = [arguments, &["--without", "fentry/ip_send_skb"]].concat();
        launch(&arguments, move || {
            mounts::private()?;
            points.iter().rev().try_for_each(|point| mounts::detach(point))
        })
    };
    const WORDS: &str =
        "cannot show UDP: cgroup v2 is not mounted; `mount -t cgroup2 none DIRECTORY` mounts it";
    check(hidden(&["--udp", "--once"]), WORDS);
    let tcptop = hidden(&["--raw", "--interval", "0.1"]).start();
    let notice = until("the notice", || {
        let text = tcptop.stderr();
        text.ends_with('\n').then_some(text)
    });
    assert_eq!(notice, format!("tcptop: {WORDS}\n"));
    let pair = Pair::new(Family::V4);
    pair.exchange(100, 200);
    let mut duo = Duo::new(Family::V4, true);
    duo.send(30, 2);
    let ends = pair.ends;
    pair.close();
    tcptop.wait_closed(&[ends]);
    let output = tcptop.finish();
    let closed = output.the_closed(ends);
    assert_eq!((closed.bytes_in, closed.bytes_out), (200, 100));
    assert!(output.rows.iter().all(|row| row.state != "UDP"), "{:?}", output.rows);
}

/// BPF's memory has not counted against RLIMIT_MEMLOCK since Linux 5.11.
fn no_locked_memory() {
    let none = || {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel reads the structure.
        match unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const none) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let (_directory, binary) = public_binary();
    let capabilities = [Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_NET_ADMIN];
    let user = as_nobody(&binary, &udp::QUICK, &capabilities);
    // SAFETY: one system call, and a structure on the stack.
    let user = unsafe { user.prepare(none) };
    for launch in [launch(&udp::QUICK, none), user] {
        let tcptop = launch.start();
        let mut duo = Duo::new(Family::V6, true);
        duo.send(1200, 3);
        for (ends, totals) in duo.expected() {
            udp::wait_totals(&tcptop, ends, totals);
        }
        tcptop.finish();
    }
}
