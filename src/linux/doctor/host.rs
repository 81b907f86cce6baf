//! Facts about the host.
//!
//! Owns the first part of the report. Only reads.

use std::fs;

use caps::Capability;
use serde::Serialize;

use super::super::{names, privileges};

/// A line of the report.
#[derive(Debug, Serialize)]
pub(super) struct Fact {
    pub(super) name: &'static str,
    pub(super) value: String,
}

/// The facts that can explain why a hook does not work here.
pub(super) fn facts() -> Vec<Fact> {
    let read = |path: &str| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
    let kernel = read("/proc/sys/kernel/osrelease").unwrap_or_else(|| "unknown".into());
    let capabilities: Vec<String> = [
        Capability::CAP_BPF,
        Capability::CAP_PERFMON,
        Capability::CAP_NET_ADMIN,
        Capability::CAP_SYS_ADMIN,
    ]
    .into_iter()
    .filter(|&capability| privileges::has(capability))
    .map(|capability| capability.to_string())
    .collect();
    let types = fs::metadata(privileges::KERNEL_TYPES).map_or_else(
        |_| format!("none ({})", privileges::KERNEL_TYPES),
        |_| privileges::KERNEL_TYPES.to_owned(),
    );
    let unprivileged = match read("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => "allowed",
        Some(_) => "off: reading maps needs CAP_BPF",
        None => "unknown",
    };
    let cgroup = names::cgroup_root()
        .map_or_else(|| "not mounted".to_owned(), |path| path.display().to_string());
    let part = if names::cgroup_part().is_some() { " (not its root)" } else { "" };
    vec![
        Fact { name: "kernel", value: format!("{kernel} {}", std::env::consts::ARCH) },
        Fact { name: "type information", value: types },
        Fact {
            name: "lockdown",
            value: privileges::lockdown()
                .unwrap_or_else(|| "unknown (/sys/kernel/security/lockdown)".into()),
        },
        Fact { name: "capabilities", value: capabilities.join(" ") },
        Fact { name: "cgroup v2", value: cgroup + part },
        Fact { name: "unprivileged BPF", value: unprivileged.to_owned() },
    ]
}
