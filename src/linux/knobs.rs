//! What the programs and maps are told before they are loaded.
//!
//! Owns the way from what the user asked for, and from what this kernel can show, to these
//! values. [`programs`](super::programs) writes them; nothing here is of libbpf.

use super::plan::Provider;
use super::{names, privileges};
use crate::connection::{Needs, Protocol};
use crate::settings::Settings;

/// The values that are set in the programs and maps before they are loaded.
#[derive(Clone)]
pub(super) struct Knobs<'a> {
    /// What the user asked for.
    pub(super) settings: &'a Settings,
    /// Providers that must not be tried.
    pub(super) without: &'a [Provider],
    /// Size of the ring buffer in bytes: a power of two of pages.
    pub(super) ring_bytes: u32,
    /// Slots of the table of UDP flows: a power of two.
    pub(super) udp_slots: u32,
    /// True where TCP is counted: the user asked for it, and this kernel can show it.
    pub(super) tcp: bool,
    /// What is wanted beyond what every sample has.
    pub(super) needs: Needs,
    /// True where new cgroups are reported: the user asked for something that follows from
    /// a cgroup, and this kernel can show it.
    pub(super) cgroups: bool,
    /// Whether a program on a tracepoint can be preempted.
    pub(super) preempted: bool,
    /// Whether the kernel takes a socket's storage apart while an iterator may visit it.
    pub(super) unlinks_storage: bool,
}

impl<'a> Knobs<'a> {
    /// The values for these settings.
    pub(super) fn new(
        settings: &'a Settings,
        needs: Needs,
        without: &'a [Provider],
        ring_bytes: u32,
    ) -> Knobs<'a> {
        let udp_slots = settings.more.udp_flows.next_power_of_two();
        let tcp = settings.query.wants(Protocol::Tcp);
        let [preempted, unlinks_storage, cgroup_mkdir] = privileges::kernel_knows([
            // It belongs to SRCU-fast, with which Linux 7.0 protects the programs instead of
            // disabling preemption (include/linux/tracepoint.h).
            "class_srcu_fast_notrace_t",
            "bpf_selem_unlink_nofail",
            "btf_trace_cgroup_mkdir",
        ]);
        // Where only a part of the tree is mounted, the hook's path is not the path below the
        // mount: there only a walk through that part finds paths.
        let cgroups =
            needs.intersects(Needs::CGROUPS) && cgroup_mkdir && names::cgroup_part().is_none();
        Knobs {
            settings,
            without,
            ring_bytes,
            udp_slots,
            tcp,
            needs,
            cgroups,
            preempted,
            unlinks_storage,
        }
    }

    /// The same with small maps, for programs that are only tried.
    pub(super) fn small(&self) -> Knobs<'a> {
        Knobs { ring_bytes: 4096, udp_slots: 16, ..self.clone() }
    }

    /// True where the programs for longer records are used.
    pub(super) fn longer(&self) -> bool {
        self.needs.intersects(Needs::IDENTITY | Needs::DETAILS | Needs::DROPS)
    }
}
