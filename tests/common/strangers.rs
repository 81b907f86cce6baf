//! Another tool's programs on the hooks that tcptop uses: they do nothing, and the kernel
//! counts how often they run.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use libbpf_rs::libbpf_sys as sys;

use super::cgroups;

/// Hooks, and the programs on them. Detached when dropped.
pub struct Strangers {
    programs: Vec<(&'static str, OwnedFd)>,
    _links: Vec<OwnedFd>,
    /// While it is open, the kernel counts the runs of programs.
    _counting: OwnedFd,
}

/// The functions of the kernel that tcptop traces, by the kind of program.
const TRACED: [(&str, u32); 9] = [
    ("inet_sock_set_state", sys::BPF_TRACE_RAW_TP),
    ("tcp_sendmsg_locked", sys::BPF_TRACE_RAW_TP),
    ("sock_send_length", sys::BPF_TRACE_RAW_TP),
    ("sock_recv_length", sys::BPF_TRACE_RAW_TP),
    ("task_rename", sys::BPF_TRACE_RAW_TP),
    ("cgroup_mkdir", sys::BPF_TRACE_RAW_TP),
    ("ip_send_skb", sys::BPF_TRACE_FENTRY),
    ("ip6_send_skb", sys::BPF_TRACE_FENTRY),
    ("skb_consume_udp", sys::BPF_TRACE_FENTRY),
];

const OF_CGROUPS: [(&str, u32); 2] =
    [("egress", sys::BPF_CGROUP_INET_EGRESS), ("ingress", sys::BPF_CGROUP_INET_INGRESS)];

impl Strangers {
    /// On each hook that this kernel has and permits.
    pub fn attach() -> Strangers {
        // SAFETY: no memory is involved.
        let counting = owned(unsafe { sys::bpf_enable_stats(sys::BPF_STATS_RUN_TIME) });
        let (mut programs, mut links) = (Vec::new(), Vec::new());
        for (name, kind) in TRACED {
            if let Ok((program, link)) = traced(name, kind) {
                programs.push((name, program));
                links.push(link);
            }
        }
        let root = cgroups::root().map(|path| File::open(path).expect("the root of cgroup v2"));
        for (root, (name, kind)) in root.iter().flat_map(|root| OF_CGROUPS.map(|of| (root, of))) {
            let program = load(sys::BPF_PROG_TYPE_CGROUP_SKB, kind, 0).expect("a program");
            // SAFETY: the options are null, which libbpf allows.
            let link = unsafe {
                sys::bpf_link_create(program.as_raw_fd(), root.as_raw_fd(), kind, ptr::null())
            };
            links.push(owned(link).expect("a link"));
            programs.push((name, program));
        }
        Strangers { programs, _links: links, _counting: counting.expect("statistics") }
    }

    /// How often each has run.
    pub fn runs(&self) -> Vec<(&'static str, u64)> {
        let runs = |program: &OwnedFd| {
            let mut info = sys::bpf_prog_info::default();
            let mut length = size_of::<sys::bpf_prog_info>() as u32;
            // SAFETY: the kernel writes no more than `length` bytes of plain integers.
            let result = unsafe {
                sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &mut info, &mut length)
            };
            assert_eq!(result, 0, "a program's counters");
            info.run_cnt
        };
        self.programs.iter().map(|(name, program)| (*name, runs(program))).collect()
    }
}

fn traced(name: &str, kind: u32) -> io::Result<(OwnedFd, OwnedFd)> {
    let function = std::ffi::CString::new(name).expect("no NUL");
    // SAFETY: the name ends with a NUL.
    let id = unsafe { sys::libbpf_find_vmlinux_btf_id(function.as_ptr(), kind) };
    let id = u32::try_from(id).map_err(|_| io::Error::from_raw_os_error(-id))?;
    let program = load(sys::BPF_PROG_TYPE_TRACING, kind, id)?;
    // SAFETY: a program that names its function needs no name here.
    let link = unsafe { sys::bpf_raw_tracepoint_open(ptr::null(), program.as_raw_fd()) };
    Ok((program, owned(link)?))
}

/// Loads a program that returns at once: 1, which lets a packet pass, where it is asked
/// for packets, and 0 else.
fn load(kind: u32, attach: u32, function: u32) -> io::Result<OwnedFd> {
    // r0 = ...; exit (Documentation/bpf/standardization/instruction-set.rst)
    let mut nothing = [sys::bpf_insn::default(); 2];
    nothing[0].code = 0xb7;
    nothing[0].imm = i32::from(kind == sys::BPF_PROG_TYPE_CGROUP_SKB);
    nothing[1].code = 0x95;
    let mut options = sys::bpf_prog_load_opts {
        sz: size_of::<sys::bpf_prog_load_opts>() as sys::size_t,
        expected_attach_type: attach,
        attach_btf_id: function,
        ..Default::default()
    };
    let count = nothing.len() as sys::size_t;
    // SAFETY: all pointers point to live memory of the given lengths.
    owned(unsafe {
        sys::bpf_prog_load(
            kind,
            c"stranger".as_ptr(),
            c"GPL".as_ptr(),
            nothing.as_ptr(),
            count,
            &mut options,
        )
    })
}

/// The new descriptor that a function of libbpf returned, or its error.
fn owned(result: i32) -> io::Result<OwnedFd> {
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the descriptor is new, and nothing else uses it.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}
