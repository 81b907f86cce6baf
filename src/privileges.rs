//! May tcptop do what it is about to do?
//!
//! Owns the check of capabilities and of what the kernel must offer. Looks
//! only, loads nothing and prints nothing.

use std::path::Path;

use anyhow::{Result, bail};
use caps::{CapSet, Capability};

/// Type information of the running kernel: without it no BPF program of ours
/// can find its way in kernel structures.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";

/// True with the capabilities to load tracing programs: CAP_BPF and CAP_PERFMON,
/// or CAP_SYS_ADMIN, which stands for both (capabilities(7)).
pub fn may_trace() -> bool {
    has(Capability::CAP_SYS_ADMIN) || (has(Capability::CAP_BPF) && has(Capability::CAP_PERFMON))
}

fn has(capability: Capability) -> bool {
    caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false)
}

/// What the kernel must offer before anything is loaded.
///
/// # Errors
/// One sentence: what is missing, and what to do.
pub fn check_kernel() -> Result<()> {
    if !Path::new(KERNEL_TYPES).exists() {
        bail!(
            "this kernel has no type information ({KERNEL_TYPES}); run one that is built with \
             CONFIG_DEBUG_INFO_BTF, as current distributions' are"
        );
    }
    if std::fs::read_to_string(LOCKDOWN).is_ok_and(|modes| modes.contains("[confidentiality]")) {
        bail!(
            "kernel lockdown is in confidentiality mode, which forbids tracing; boot with \
             lockdown=integrity or without lockdown"
        );
    }
    Ok(())
}
