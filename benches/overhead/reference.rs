//! The designs that tcptop did not choose, each as a separate program.
//!
//! `ring`: a record in a ring buffer per send and per receive, read at once.
//! `hash`: an update of a hash map per send and per receive, read each second.
//! `empty`: a pair of cgroup_skb programs that do nothing: the least cost of seeing UDP
//! datagrams without trampolines.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapFlags, RingBufferBuilder};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::reexec;

#[allow(clippy::all, clippy::undocumented_unsafe_blocks, dead_code)]
mod skeleton {
    include!(concat!(env!("OUT_DIR"), "/reference.skel.rs"));
}

/// Attaches a design and reads what it collects, until stdin ends.
pub fn play(design: &str) -> Result<()> {
    libbpf_rs::set_print(None);
    let mut storage = MaybeUninit::uninit();
    let mut open = skeleton::ReferenceSkelBuilder::default()
        .open(&mut storage)
        .context("failed to open the BPF object")?;
    let progs = &mut open.progs;
    progs.ring_sent.set_autoload(design == "ring");
    progs.ring_received.set_autoload(design == "ring");
    progs.hash_sent.set_autoload(design == "hash");
    progs.hash_received.set_autoload(design == "hash");
    progs.empty_egress.set_autoload(design == "empty");
    progs.empty_ingress.set_autoload(design == "empty");
    let mut skel = open.load().context("failed to load the BPF programs")?;
    let progs = &mut skel.progs;
    let _attached: [Link; 2] = match design {
        "ring" => [progs.ring_sent.attach()?, progs.ring_received.attach()?],
        "hash" => [progs.hash_sent.attach()?, progs.hash_received.attach()?],
        "empty" => {
            let path = tcptop::linux::cgroup_root().context("cgroup v2 is not mounted")?;
            let root = File::open(path).context("failed to open the root of cgroup v2")?;
            [
                progs.empty_egress.attach_cgroup(root.as_raw_fd())?,
                progs.empty_ingress.attach_cgroup(root.as_raw_fd())?,
            ]
        }
        _ => bail!("no such design: {design}"),
    };
    reexec::say("ready")?;
    let mut records = 0_u64;
    let mut builder = RingBufferBuilder::new();
    builder.add(&skel.maps.records, |_| {
        records += 1;
        0
    })?;
    let ring = builder.build().context("failed to map the ring buffer")?;
    // SAFETY: the descriptor belongs to the ring, which outlives this borrow.
    let pending = unsafe { BorrowedFd::borrow_raw(ring.epoll_fd()) };
    let stdin = io::stdin();
    loop {
        let mut waiting = [
            PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
            PollFd::new(pending, PollFlags::POLLIN),
        ];
        let timeout = PollTimeout::try_from(Duration::from_secs(1))?;
        let ready = poll(&mut waiting, timeout).context("failed to wait")?;
        if waiting[0].revents().is_some_and(|events| !events.is_empty()) {
            return Ok(());
        }
        ring.consume().context("failed to read the ring buffer")?;
        if ready == 0 && design == "hash" {
            let flows = &skel.maps.flows;
            flows.lookup_and_delete_batch(1024, MapFlags::ANY, MapFlags::ANY)?.for_each(drop);
        }
    }
}
