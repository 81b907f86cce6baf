//! Another tool's programs on the hooks that tcptop uses. [`Strangers`] do nothing, and the
//! kernel counts how often they run. A [`Witness`] sees what tcptop's programs leave behind.

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
            if let Ok((program, link)) = traced(name, kind, &returns(0)) {
                programs.push((name, program));
                links.push(link);
            }
        }
        let root = cgroups::root().map(|path| File::open(path).expect("the root of cgroup v2"));
        for (root, (name, kind)) in root.iter().flat_map(|root| OF_CGROUPS.map(|of| (root, of))) {
            let program =
                load(sys::BPF_PROG_TYPE_CGROUP_SKB, kind, 0, &returns(1)).expect("a program");
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

/// Counts the sockets in CLOSE that still have storage of a map, after all programs that
/// were attached to `inet_sock_set_state` before.
pub struct Witness {
    count: OwnedFd,
    _attached: (OwnedFd, OwnedFd),
}

impl Witness {
    /// Of the storage in this map.
    pub fn attach(map: u32) -> Witness {
        // SAFETY: no memory is involved; the name and the options are null, which libbpf allows.
        let (map, count) = unsafe {
            let array = sys::BPF_MAP_TYPE_ARRAY;
            let count = sys::bpf_map_create(array, ptr::null(), 4, 8, 1, ptr::null());
            (owned(sys::bpf_map_get_fd_by_id(map)), owned(count))
        };
        let (map, count) = (map.expect("the map"), count.expect("an array"));
        let code = [
            word(0x79, 6, 1, 0, 0),  // r6 = the socket
            word(0x79, 2, 1, 16, 0), // r2 = its new state
            word(0x55, 2, 0, 16, 7), // not CLOSE: end
            word(0x18, 1, 1, 0, map.as_raw_fd()),
            word(0, 0, 0, 0, 0),
            word(0xbf, 2, 6, 0, 0),
            word(0xb7, 3, 0, 0, 0),
            word(0xb7, 4, 0, 0, 0),
            word(0x85, 0, 0, 0, sys::BPF_FUNC_sk_storage_get as i32),
            word(0x15, 0, 0, 9, 0),   // no storage: end
            word(0x62, 10, 0, -4, 0), // the key 0, on the stack
            word(0xbf, 2, 10, 0, 0),
            word(0x07, 2, 0, 0, -4),
            word(0x18, 1, 1, 0, count.as_raw_fd()),
            word(0, 0, 0, 0, 0),
            word(0x85, 0, 0, 0, sys::BPF_FUNC_map_lookup_elem as i32),
            word(0x15, 0, 0, 2, 0),
            word(0xb7, 1, 0, 0, 1),
            word(0xdb, 0, 1, 0, 0), // one more
            word(0xb7, 0, 0, 0, 0),
            word(0x95, 0, 0, 0, 0),
        ];
        let attached = traced("inet_sock_set_state", sys::BPF_TRACE_RAW_TP, &code);
        Witness { count, _attached: attached.expect("a program") }
    }

    /// How many so far.
    pub fn count(&self) -> u64 {
        let (key, mut value) = (0_u32, 0_u64);
        // SAFETY: the map has keys and values of these sizes.
        let result = unsafe {
            let (key, value) = (ptr::from_ref(&key).cast(), ptr::from_mut(&mut value).cast());
            sys::bpf_map_lookup_elem(self.count.as_raw_fd(), key, value)
        };
        assert_eq!(result, 0, "the count");
        value
    }
}

/// An instruction (Documentation/bpf/standardization/instruction-set.rst).
fn word(code: u8, to: u8, from: u8, off: i16, imm: i32) -> sys::bpf_insn {
    let mut word = sys::bpf_insn { code, off, imm, ..Default::default() };
    word.set_dst_reg(to);
    word.set_src_reg(from);
    word
}

/// A program that returns at once: 1, which lets a packet pass, where it is asked for packets,
/// and 0 else.
fn returns(value: i32) -> [sys::bpf_insn; 2] {
    [word(0xb7, 0, 0, 0, value), word(0x95, 0, 0, 0, 0)]
}

fn traced(name: &str, kind: u32, code: &[sys::bpf_insn]) -> io::Result<(OwnedFd, OwnedFd)> {
    let function = std::ffi::CString::new(name).expect("no NUL");
    // SAFETY: the name ends with a NUL.
    let id = unsafe { sys::libbpf_find_vmlinux_btf_id(function.as_ptr(), kind) };
    let id = u32::try_from(id).map_err(|_| io::Error::from_raw_os_error(-id))?;
    let program = load(sys::BPF_PROG_TYPE_TRACING, kind, id, code)?;
    // SAFETY: a program that names its function needs no name here.
    let link = unsafe { sys::bpf_raw_tracepoint_open(ptr::null(), program.as_raw_fd()) };
    Ok((program, owned(link)?))
}

fn load(kind: u32, attach: u32, function: u32, code: &[sys::bpf_insn]) -> io::Result<OwnedFd> {
    let mut options = sys::bpf_prog_load_opts {
        sz: size_of::<sys::bpf_prog_load_opts>() as sys::size_t,
        expected_attach_type: attach,
        attach_btf_id: function,
        ..Default::default()
    };
    // SAFETY: all pointers point to live memory of the given lengths.
    owned(unsafe {
        sys::bpf_prog_load(
            kind,
            c"stranger".as_ptr(),
            c"GPL".as_ptr(),
            code.as_ptr(),
            code.len() as sys::size_t,
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
