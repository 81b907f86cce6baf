//! Finds the connections that are older than tcptop.
//!
//! Owns the choice of iterators for that, and the walk through the network namespaces.
//! Sends no events: the iterators' programs create storage for the sockets, and the next
//! sampling pass visits these sockets like all others.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::thread;

use anyhow::{Context, Result, anyhow};
use libbpf_rs::Link;
use nix::sched::{CloneFlags, setns};

use super::{iterate, names};

/// Finds every socket that a process has open, in all network namespaces.
///
/// # Errors
/// Where the iterator cannot be read.
pub(super) fn held(link: &Link) -> Result<()> {
    iterate::run(link).context("failed to list the sockets of all processes")
}

/// Finds every TCP socket that no process has open: those that are not yet accepted, and
/// those that are closed and still send. The iterator sees only the network namespace of
/// the thread that opens it, so another thread enters one namespace after the other.
/// Entering needs CAP_SYS_ADMIN; without it such sockets of other namespaces are not
/// found.
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
        // Until its end, not only that of its work: it has privileges that are given up next.
        let ended = visitor.context("failed to start a thread")?.join();
        ended.map_err(|_| anyhow!("the thread that visits namespaces panicked"))
    })
}

/// A descriptor for each network namespace that has a process, except tcptop's own.
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
