//! The connections that are older than tcptop.
//!
//! Owns which iterators find them, and the walk through network namespaces. Sends
//! nothing: the programs create the sockets' storage, and the next pass samples
//! them like any other.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::thread;

use anyhow::{Context, Result};
use libbpf_rs::Link;
use nix::sched::{CloneFlags, setns};

use super::{iterate, names};

/// Every socket that some process holds, in all network namespaces.
///
/// # Errors
/// Where the iterator cannot be read.
pub(super) fn held(link: &Link) -> Result<()> {
    iterate::run(link).context("failed to list the sockets of all processes")
}

/// Every TCP socket that no process holds: not yet accepted, or closed and still
/// sending. The iterator sees the namespace of the thread that opens it, so a
/// thread of its own visits one after the other. Where that is not allowed (it
/// needs CAP_SYS_ADMIN) such sockets of other namespaces stay unknown.
///
/// # Errors
/// Where the iterator cannot be read in tcptop's own namespace.
pub(super) fn unheld(link: &Link) -> Result<()> {
    iterate::run(link).context("failed to list the TCP sockets")?;
    let others = other_network_namespaces();
    if others.is_empty() {
        return Ok(());
    }
    thread::scope(|scope| {
        let visitor = thread::Builder::new().name("namespaces".into()).spawn_scoped(scope, || {
            for namespace in &others {
                if setns(namespace, CloneFlags::CLONE_NEWNET).is_err()
                    || iterate::run(link).is_err()
                {
                    return;
                }
            }
        });
        visitor.map(drop).context("failed to start a thread")
    })
}

/// One descriptor for each network namespace that a process is in, without our own.
fn other_network_namespaces() -> Vec<File> {
    let mut known = HashSet::new();
    known.extend(names::own_network_namespace().map(u64::from));
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter(|entry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit))
        .filter_map(|entry| {
            let path = entry.path().join("ns/net");
            let namespace = fs::metadata(&path).ok()?;
            known.insert(namespace.ino()).then(|| File::open(path).ok()).flatten()
        })
        .collect()
}
