//! Whether tcptop has the privileges and the kernel features that it needs.
//!
//! Owns the check of both, and the explanation when the kernel refuses to load programs.
//! Gives up nothing: that is [`confine`](super::confine). Loads nothing and prints nothing.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Take};
use std::mem::offset_of;
use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Error, Result, anyhow, bail};
use caps::{CapSet, Capability};
use libbpf_rs::libbpf_sys::{self, bpf_insn, btf_header};
use memchr::memmem;
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::statfs::{SYSFS_MAGIC, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::geteuid;

/// Type information of the running kernel. Without it no program can be loaded: it tells
/// where the fields of kernel structures are.
pub(super) const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// True where this thread may load tracing programs: with CAP_BPF and CAP_PERFMON, or
/// with CAP_SYS_ADMIN, which includes both (capabilities(7)).
pub(super) fn may_trace() -> bool {
    has(Capability::CAP_SYS_ADMIN) || (has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON))
}

/// Which capability is missing, and why, for a user who has a part of what is needed: some
/// of the capabilities, root, or an executable file that has capabilities. `None` for all
/// other users: they have to become root.
pub(super) fn missing() -> Option<String> {
    const NEEDED: [Capability; 2] = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    /// Without these two tcptop may need this one.
    const MORE: Capability = Capability::CAP_NET_ADMIN;
    let lacking: Vec<String> =
        NEEDED.iter().filter(|needed| !has(**needed)).map(ToString::to_string).collect();
    let obstacle = obstacle();
    let some = lacking.len() < NEEDED.len() || has(MORE) || geteuid().is_root();
    if !some && obstacle.is_none() {
        return None;
    }
    let verb = if lacking.len() == 1 { "is" } else { "are" };
    let reason = obstacle.map(|reason| format!(": {reason}")).unwrap_or_default();
    Some(format!("{} {verb} missing{reason}", lacking.join(" and ")))
}

/// Why the capabilities of the executable file have no effect.
fn obstacle() -> Option<&'static str> {
    const EXECUTABLE: &str = "/proc/self/exe";
    if !has_file_capabilities(&CString::new(EXECUTABLE).ok()?) {
        return None;
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if statvfs(EXECUTABLE).is_ok_and(|system| system.flags().contains(FsFlags::ST_NOSUID)) {
        Some("the file's capabilities have no effect on a file system that is mounted with nosuid")
    } else if status.lines().any(|line| line.starts_with("NoNewPrivs:") && line.ends_with('1')) {
        Some("the file's capabilities have no effect on a process that may gain no privileges")
    } else {
        None
    }
}

/// Whether setcap(8) has given capabilities to the file.
fn has_file_capabilities(path: &CStr) -> bool {
    // SAFETY: both names end with a NUL; with size 0 the kernel writes nothing.
    let size = unsafe {
        libc::getxattr(path.as_ptr(), c"security.capability".as_ptr(), std::ptr::null_mut(), 0)
    };
    size > 0
}

/// True where this thread has the capability in effect.
pub(super) fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// The mode of kernel lockdown: `none`, `integrity` or `confidentiality`; `None` where
/// the kernel does not show it.
pub(super) fn lockdown() -> Option<String> {
    let modes = fs::read_to_string(LOCKDOWN).ok()?;
    let (_, rest) = modes.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

/// Checks what the kernel must have before anything is loaded.
///
/// # Errors
/// One sentence: what the kernel lacks or forbids, and what to do.
pub(super) fn check_kernel() -> Result<()> {
    if !Path::new(KERNEL_TYPES).exists() {
        if statfs("/sys").is_ok_and(|system| system.filesystem_type() != SYSFS_MAGIC) {
            bail!("/sys is not mounted here; `mount -t sysfs sysfs /sys` mounts it");
        }
        bail!(
            "this kernel has no type information ({KERNEL_TYPES}); run one that is built with \
             CONFIG_DEBUG_INFO_BTF, as current distributions' are"
        );
    }
    kernel_names().with_context(|| {
        format!(
            "the kernel's type information ({KERNEL_TYPES}) cannot be read; look at what is \
             mounted there"
        )
    })?;
    if lockdown().as_deref() == Some("confidentiality") {
        bail!(
            "kernel lockdown is in confidentiality mode, which forbids tracing; boot with \
             lockdown=integrity or without lockdown"
        );
    }
    Ok(())
}

/// How many files tcptop opens: 45 with every program, and some while it starts.
const FILES: u64 = 80;

/// Allows this process as many open files as tcptop needs.
///
/// # Errors
/// Where the hard limit forbids it.
pub(super) fn allow_files() -> Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("failed to read a limit")?;
    if soft >= FILES {
        return Ok(());
    }
    if hard < FILES || setrlimit(Resource::RLIMIT_NOFILE, FILES, hard).is_err() {
        bail!(
            "this process may open only {hard} files, and tcptop needs {FILES}; raise the limit \
             (`ulimit -n {FILES}`, LimitNOFILE={FILES} for systemd)"
        );
    }
    Ok(())
}

/// Facts about the surroundings that can explain why loading failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Surroundings {
    storage_in_tracing: bool,
    atomic_exchange: bool,
    user_namespace: bool,
    seccomp: bool,
}

/// Turns a failure to load into one sentence that says what to do, followed by the
/// kernel's own error.
pub(super) fn explain(error: Error) -> Error {
    if is_out_of_memory(&error) {
        return error.context(
            "the kernel gave no memory for the BPF programs; raise the memory limit of this \
             container or service (MemoryMax=), or take --tcp or a smaller --udp-flows",
        );
    }
    let uid_map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cause = likely_cause(Surroundings {
        // This function implements the helper (net/core/bpf_sk_storage.c).
        storage_in_tracing: kernel_knows(["bpf_sk_storage_get_tracing"]) == [true],
        atomic_exchange: verifier_knows_atomic_exchange(),
        user_namespace: !maps_every_user(&uid_map),
        seccomp: status.lines().any(|line| line.starts_with("Seccomp:") && line.ends_with('2'))
            && !bpf_answers(),
    });
    match cause {
        Some(cause) => anyhow!("{cause} ({})", error.root_cause()),
        None => error.context(
            "the kernel refused the BPF programs; `tcptop --doctor` tells what works, -v why",
        ),
    }
}

/// libbpf gives the kernel's error as text only.
fn is_out_of_memory(error: &Error) -> bool {
    error.root_cause().to_string().ends_with(&format!("(os error {})", libc::ENOMEM))
}

fn likely_cause(surroundings: Surroundings) -> Option<&'static str> {
    if !surroundings.storage_in_tracing || !surroundings.atomic_exchange {
        Some("this kernel is too old: Linux 5.15 or newer is needed")
    } else if surroundings.user_namespace {
        Some(
            "this is a user namespace, whose root may not load BPF programs; run tcptop on the \
             host or in a container that shares the host's users",
        )
    } else if surroundings.seccomp {
        Some(
            "a seccomp filter, such as a container's, forbids bpf(2); run tcptop on the host or \
             in a privileged container",
        )
    } else {
        None
    }
}

/// The initial user namespace maps all 2^32 - 1 ids to themselves (user_namespaces(7)).
fn maps_every_user(uid_map: &str) -> bool {
    uid_map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether bpf(2) reaches the kernel: many services have a seccomp filter that permits
/// it. The kernel answers an unknown command with EINVAL, so EINVAL means that the filter
/// let the call pass.
fn bpf_answers() -> bool {
    /// Much larger than the commands that exist, but without the bits from 16 on, which
    /// are flags on newer kernels.
    const UNKNOWN: libc::c_int = 9999;
    // SAFETY: there is no such command, and no attributes to be read.
    let result = unsafe { libc::syscall(libc::SYS_bpf, UNKNOWN, std::ptr::null::<u8>(), 0) };
    Errno::result(result) == Err(Errno::EINVAL)
}

/// Whether the verifier accepts atomic operations that return the old value, which every
/// program of tcptop uses. Linux 5.12 brought them (5ffa25502b5a, 5ca419f2864a); nothing in
/// the type information tells. True as well where no program may be loaded at all.
fn verifier_knows_atomic_exchange() -> bool {
    use libbpf_sys::{
        BPF_ALU64, BPF_ATOMIC, BPF_DW, BPF_EXIT, BPF_JMP, BPF_MEM, BPF_MOV, BPF_PROG_TYPE_KPROBE,
        BPF_STX, BPF_XCHG,
    };
    /// The stack pointer (linux/bpf.h).
    const R10: u8 = 10;
    let instruction = |code: u32, dst: u8, off: i16, imm: u32| {
        let mut instruction =
            bpf_insn { code: code as u8, off, imm: imm as i32, ..Default::default() };
        instruction.set_dst_reg(dst);
        instruction
    };
    let program = [
        instruction(BPF_ALU64 | BPF_MOV, 0, 0, 0), // r0 = 0
        instruction(BPF_STX | BPF_MEM | BPF_DW, R10, -8, 0), // *(u64 *)(r10 - 8) = r0
        instruction(BPF_STX | BPF_ATOMIC | BPF_DW, R10, -8, BPF_XCHG), // r0 = xchg(r10 - 8, r0)
        instruction(BPF_JMP | BPF_EXIT, 0, 0, 0),
    ];
    // SAFETY: the kernel reads the two texts and the program, which live until it returns.
    let result = unsafe {
        libbpf_sys::bpf_prog_load(
            BPF_PROG_TYPE_KPROBE,
            c"probe".as_ptr(),
            c"GPL".as_ptr(),
            program.as_ptr(),
            program.len() as libbpf_sys::size_t,
            std::ptr::null_mut(),
        )
    };
    if result < 0 {
        return result != -libc::EINVAL;
    }
    // SAFETY: the kernel has just given this descriptor, and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(result) });
    true
}

/// Which of these names a type, a function or a field has in the kernel's type information.
pub(super) fn kernel_knows<const N: usize>(names: [&str; N]) -> [bool; N] {
    kernel_names().and_then(|all| are_among(names, all)).unwrap_or([false; N])
}

/// The section of the type information that holds the names.
///
/// Parsed by hand because tcptop looks up a name at every start: libbpf's
/// `Btf::from_vmlinux` first reads all types, which takes ten times as long as searching
/// the names.
fn kernel_names() -> io::Result<Take<File>> {
    let mut file = File::open(KERNEL_TYPES)?;
    let mut header = [0; size_of::<btf_header>()];
    file.read_exact(&mut header)?;
    let field =
        |at: usize| header[at..].first_chunk().map_or(0, |word| u32::from_ne_bytes(*word)).into();
    let header_length: u64 = field(offset_of!(btf_header, hdr_len));
    let start: u64 = field(offset_of!(btf_header, str_off));
    let length = field(offset_of!(btf_header, str_len));
    file.seek(SeekFrom::Start(header_length + start))?;
    Ok(file.take(length))
}

/// Which of `names` are among `all`: a 0, then one name after the other, each ended by a 0.
/// All are searched at once, since most of the time is taken by reading.
fn are_among<const N: usize>(names: [&str; N], mut all: impl Read) -> io::Result<[bool; N]> {
    /// Small, so that the bytes are still in the processor's cache when they are searched.
    const PART: u64 = 32 * 1024;
    let wanted = names.map(|name| format!("\0{name}\0"));
    let finders = wanted.each_ref().map(memmem::Finder::new);
    let longest = wanted.iter().map(String::len).max().unwrap_or(1);
    let mut found = [false; N];
    let mut part = Vec::new();
    while found.contains(&false) && all.by_ref().take(PART).read_to_end(&mut part)? > 0 {
        for (found, finder) in found.iter_mut().zip(&finders) {
            *found = *found || finder.find(&part).is_some();
        }
        // A name can begin in this part and end in the next one.
        part.drain(..part.len() - part.len().min(longest - 1));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libbpf_rs::btf::{Btf, BtfType};

    #[test]
    fn the_initial_user_namespace_is_known_by_its_map() {
        assert!(maps_every_user("         0          0 4294967295\n"));
        assert!(!maps_every_user("         0     100000      65536\n"));
        assert!(!maps_every_user(""));
    }

    #[test]
    fn memory_is_named_where_it_is_missing() {
        let load = |errno| {
            let error = io::Error::from_raw_os_error(errno);
            explain(Error::new(error).context("failed to load the BPF programs")).to_string()
        };
        assert!(load(libc::ENOMEM).starts_with("the kernel gave no memory"));
        assert!(!load(libc::EPERM).contains("memory"));
    }

    #[test]
    fn the_first_cause_is_given() {
        let good = Surroundings {
            storage_in_tracing: true,
            atomic_exchange: true,
            ..Surroundings::default()
        };
        assert_eq!(likely_cause(good), None);
        let given = |surroundings| likely_cause(surroundings).unwrap_or_default();
        assert!(given(Surroundings { storage_in_tracing: false, ..good }).contains("5.15"));
        assert!(given(Surroundings { atomic_exchange: false, ..good }).contains("5.15"));
        assert!(given(Surroundings { user_namespace: true, ..good }).contains("user namespace"));
        assert!(given(Surroundings { seccomp: true, ..good }).contains("seccomp"));
    }

    /// The kernels of the matrix include one without it.
    #[test]
    fn this_kernel_exchanges() {
        assert!(verifier_knows_atomic_exchange());
    }

    #[test]
    fn what_this_kernel_offers_is_found() {
        let known = Path::new(KERNEL_TYPES).exists();
        assert_eq!(kernel_knows(["task_struct", "task_struc", "sk_buff"]), [known, false, known]);
    }

    #[test]
    fn libbpf_finds_the_same_types_and_functions() {
        let Ok(kernel) = Btf::from_vmlinux() else { return };
        for name in ["bpf_sk_storage_get_tracing", "class_srcu_fast_notrace_t", "sk_buff", "sk_buf"]
        {
            let by_libbpf = kernel.type_by_name::<BtfType<'_>>(name).is_some();
            assert_eq!(kernel_knows([name]), [by_libbpf], "{name}");
        }
    }

    #[test]
    fn a_name_is_found_wherever_it_stands() {
        let found = |names: &[u8]| {
            let [other, found] = are_among(["a longer name", "name"], names).expect("memory");
            assert!(!other);
            found
        };
        for before in [0, 1, 5, 32 * 1024 - 6, 32 * 1024 - 3, 32 * 1024, 64 * 1024 - 2, 100_000] {
            let mut names = vec![b'x'; before];
            names.extend_from_slice(b"\0name\0more\0");
            assert!(found(&names), "{before}");
            let end = names.len() - b"\0more\0".len();
            assert!(!found(&names[..end]), "cut off after {before}");
        }
        assert!(!found(b"\0names\0rename\0"));
        assert!(!found(b""));
    }
}
