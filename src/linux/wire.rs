//! The BPF side as Rust sees it: the skeleton, and the records in the ring buffer.
//!
//! Owns the generated code, and the promise that its records may be read from plain
//! bytes. The records themselves are defined in `bpf/event.h` only.

#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]

use crate::loss::LossCause;

include!(concat!(env!("OUT_DIR"), "/tcptop.skel.rs"));

pub use types::tcptop_cgroup as CgroupMade;
pub use types::tcptop_cgroup_name as CgroupName;
pub use types::tcptop_control as Control;
pub use types::tcptop_detailed as Detailed;
pub use types::tcptop_details as Details;
pub use types::tcptop_event as Event;
pub use types::tcptop_family as Family;
pub use types::tcptop_flags as Flags;
pub use types::tcptop_flow_table as FlowTable;
pub use types::tcptop_identified as Identified;
#[cfg(test)]
pub use types::tcptop_identity as Identity;
pub use types::tcptop_kind as Kind;
pub use types::tcptop_loss as KernelLoss;
pub use types::tcptop_pass as Pass;
pub use types::tcptop_prefix as Prefix;
pub use types::tcptop_prefixes as Prefixes;
pub use types::tcptop_protocol as Protocol;
pub use types::tcptop_settings as ProgramSettings;
pub use types::tcptop_state as State;

// SAFETY: every field is an integer, an array of integers or a C enum. Rust sees a C enum
// as a struct around an integer, so unknown values are valid as well. The struct has no
// padding (its size below is the sum of its fields). So any bytes are a valid Event.
unsafe impl plain::Plain for Event {}
// SAFETY: as above.
unsafe impl plain::Plain for Identified {}
// SAFETY: as above.
unsafe impl plain::Plain for Detailed {}
// SAFETY: as above.
unsafe impl plain::Plain for Pass {}
// SAFETY: as above.
unsafe impl plain::Plain for CgroupMade {}

const _: () = assert!(size_of::<Event>() == 160);
const _: () = assert!(size_of::<Identified>() == 160 + 16);
const _: () = assert!(size_of::<Detailed>() == 160 + 16 + 128);
const _: () = assert!(size_of::<Pass>() == 24);
const _: () = assert!(size_of::<CgroupMade>() == 16 + 1024);

/// The cause of loss that each counter of the BPF side stands for.
pub const LOSSES: [(KernelLoss, LossCause); KernelLoss::TCPTOP_LOSS_CAUSES.0 as usize] = [
    (KernelLoss::TCPTOP_LOST_RING_FULL, LossCause::RingFull),
    (KernelLoss::TCPTOP_LOST_STORAGE_FULL, LossCause::StorageFull),
    (KernelLoss::TCPTOP_LOST_FLOW_DATAGRAMS, LossCause::FlowTableDatagrams),
    (KernelLoss::TCPTOP_LOST_FLOW_BYTES, LossCause::FlowTableBytes),
    (KernelLoss::TCPTOP_LOST_RECEIVERS, LossCause::ReceiverTableFull),
    (KernelLoss::TCPTOP_LOST_UNREADABLE, LossCause::Unreadable),
    (KernelLoss::TCPTOP_LOST_CGROUPS, LossCause::CgroupsFull),
];
