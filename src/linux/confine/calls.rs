//! The system calls that tcptop makes once it counts. A seccomp filter refuses all others.
//!
//! Owns the list. A call that is not in it fails with ENOSYS, as on a kernel that does not
//! have it: the C library knows how to do without a new call then.
//!
//! To permit another call, put it in the list of what it is for.

use std::collections::BTreeMap;
use std::process;

use libbpf_rs::libbpf_sys::{BPF_ITER_CREATE, BPF_MAP_LOOKUP_ELEM, BPF_OBJ_GET_INFO_BY_FD};
use nix::libc::{self, c_int, c_long};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::Part;

const NAME: &str = "system calls";

/// What the calls are needed for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    /// Files are opened to read them.
    pub(super) reads: bool,
    /// Files are made, written and renamed.
    pub(super) writes: bool,
    /// Network devices have names.
    pub(super) devices: bool,
    /// The user database is asked. In the GNU C library this loads modules and may speak to
    /// any server.
    pub(super) users: bool,
    /// Files of users are opened without leaving their homes (openat2(2)).
    pub(super) homes: bool,
}

/// Memory, descriptors that are open, time, threads that exist.
const ALWAYS: &[c_long] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Reading files; open and openat are in [`rules`].
const READING: &[c_long] = &[
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_newfstatat,
    libc::SYS_pread64,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
    libc::SYS_statx,
];

const WRITING: &[c_long] = &[
    libc::SYS_fchmod,
    libc::SYS_ftruncate,
    libc::SYS_linkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlinkat,
];

/// What modules for the user database are known to do.
const USERS: &[c_long] = &[
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_fadvise64,
    libc::SYS_getgroups,
    libc::SYS_getpeername,
    libc::SYS_getppid,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_pipe2,
    libc::SYS_pselect6,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_socket,
    libc::SYS_sysinfo,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
];

/// The same for older calls, which newer architectures do not have.
#[cfg(target_arch = "x86_64")]
mod old {
    use super::{c_long, libc};

    pub(super) const ALWAYS: &[c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_time];
    pub(super) const READING: &[c_long] = &[
        libc::SYS_access,
        libc::SYS_getdents,
        libc::SYS_lstat,
        libc::SYS_readlink,
        libc::SYS_stat,
    ];
    pub(super) const WRITING: &[c_long] =
        &[libc::SYS_chmod, libc::SYS_link, libc::SYS_rename, libc::SYS_unlink];
    pub(super) const USERS: &[c_long] = &[libc::SYS_pipe, libc::SYS_select];
    pub(super) const OPEN: Option<c_long> = Some(libc::SYS_open);
}

#[cfg(not(target_arch = "x86_64"))]
mod old {
    use super::c_long;

    pub(super) const ALWAYS: &[c_long] = &[];
    pub(super) const READING: &[c_long] = &[];
    pub(super) const WRITING: &[c_long] = &[];
    pub(super) const USERS: &[c_long] = &[];
    pub(super) const OPEN: Option<c_long> = None;
}

/// Refuses every call that `uses` have no use for, in all threads and for good.
pub(super) fn restrict(uses: Uses) -> Part {
    let program = match program(uses) {
        Ok(program) => program,
        Err(error) => return Part::no(NAME, error.to_string()),
    };
    match apply_filter_all_threads(&program.filter) {
        Ok(()) => Part::yes(NAME, format!("{} are left", program.calls)),
        Err(seccompiler::Error::Seccomp(error)) => Part::no(NAME, error.to_string()),
        Err(error) => Part::no(NAME, error.to_string()),
    }
}

struct Program {
    filter: BpfProgram,
    calls: usize,
}

fn program(uses: Uses) -> Result<Program, BackendError> {
    let rules = rules(uses)?;
    let calls = rules.len();
    let refuse = SeccompAction::Errno(libc::ENOSYS as u32);
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter = SeccompFilter::new(rules, refuse, SeccompAction::Allow, architecture)?;
    Ok(Program { filter: filter.try_into()?, calls })
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

fn rules(uses: Uses) -> Result<Rules, BackendError> {
    // Where two lists have a call, the one without conditions counts: it is put in last.
    let mut rules = Rules::new();
    for command in [BPF_MAP_LOOKUP_ELEM, BPF_OBJ_GET_INFO_BY_FD, BPF_ITER_CREATE] {
        permit(&mut rules, libc::SYS_bpf, vec![is(0, u64::from(command))?])?;
    }
    // Not TIOCSTI, which types for the user of a terminal.
    for request in [
        libc::TCGETS,
        libc::TCGETS2,
        libc::TIOCGWINSZ,
        libc::FIONREAD,
        libc::FIONBIO,
        libc::FIOCLEX,
    ] {
        permit(&mut rules, libc::SYS_ioctl, vec![is(1, low(request as c_int))?])?;
    }
    for option in [libc::PR_SET_NAME, libc::PR_SET_VMA] {
        permit(&mut rules, libc::SYS_prctl, vec![is(0, low(option))?])?;
    }
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        permit(&mut rules, call, vec![without(2, libc::PROT_EXEC)?])?;
    }
    // To end by a signal, as after a second Ctrl-C.
    let process = u64::from(process::id());
    permit(&mut rules, libc::SYS_tgkill, vec![is(0, process)?])?;
    #[cfg(target_env = "musl")]
    permit(&mut rules, libc::SYS_tkill, vec![is(0, process)?])?;
    if uses.devices {
        for family in [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6] {
            for kind in [libc::SOCK_DGRAM, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC] {
                let socket = vec![is(0, low(family))?, is(1, low(kind))?];
                permit(&mut rules, libc::SYS_socket, socket)?;
            }
        }
        permit(&mut rules, libc::SYS_ioctl, vec![is(1, libc::SIOCGIFNAME)?])?;
    }
    if uses.reads && !uses.writes {
        let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
        permit(&mut rules, libc::SYS_openat, vec![without(2, writing)?])?;
        if let Some(open) = old::OPEN {
            permit(&mut rules, open, vec![without(1, writing)?])?;
        }
    }
    let mut whole = vec![ALWAYS, old::ALWAYS];
    if uses.reads || uses.writes {
        whole.extend([READING, old::READING]);
    }
    let open: Vec<c_long> = [libc::SYS_openat].into_iter().chain(old::OPEN).collect();
    if uses.writes {
        whole.extend([WRITING, old::WRITING, &open]);
    }
    if uses.users {
        whole.extend([USERS, old::USERS]);
    }
    if uses.homes {
        whole.push(&[libc::SYS_openat2]);
    }
    rules.extend(whole.into_iter().flatten().map(|call| (*call, Vec::new())));
    Ok(rules)
}

/// Permits a call whose arguments meet all the conditions; each call of this adds to what
/// is permitted.
fn permit(
    rules: &mut Rules,
    call: c_long,
    conditions: Vec<SeccompCondition>,
) -> Result<(), BackendError> {
    rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    Ok(())
}

/// The argument has this value. The kernel looks at 32 bits of those that are compared here.
fn is(argument: u8, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
}

/// The argument has none of these bits.
fn without(argument: u8, bits: c_int) -> Result<SeccompCondition, BackendError> {
    let none = SeccompCmpOp::MaskedEq(low(bits));
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, none, 0)
}

fn low(value: c_int) -> u64 {
    u64::from(value as u32)
}
