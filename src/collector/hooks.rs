//! Loading and attaching: which hooks serve which signal on this kernel.
//!
//! Owns the choice between providers. What works is found by loading and
//! attaching, best first, never from a kernel version.

use std::mem::MaybeUninit;
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, OpenObject};

use super::wire::{OpenTcptopSkel, TcptopSkel, TcptopSkelBuilder};

/// Who tells which process uses a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnerProvider {
    /// `tp_btf/sock_send_length` and `sock_recv_length` (Linux 6.3).
    SocketTracepoints,
    /// `fentry` on `tcp_sendmsg` and `tcp_recvmsg`; needs BPF trampolines.
    ProtocolEntry,
    /// Only the iterator over the files of all processes: who holds a socket,
    /// not who uses it.
    Holders,
}

impl OwnerProvider {
    const RANKED: [OwnerProvider; 3] =
        [OwnerProvider::SocketTracepoints, OwnerProvider::ProtocolEntry, OwnerProvider::Holders];
}

/// What the programs are told before they are loaded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knobs {
    /// Size of the ring buffer in bytes: a power of two of pages.
    pub ring_bytes: u32,
    /// Totals since connections opened.
    pub lifetime: bool,
}

/// The loaded programs with everything that keeps them attached.
pub(super) struct Hooks<'object> {
    /// Maps and programs.
    pub skel: TcptopSkel<'object>,
    /// What is attached to the running kernel; dropping it detaches.
    pub attached: Vec<Link>,
    /// Iterator over every tracked socket.
    pub sample: Link,
    /// Iterator over the files of all processes.
    pub seed_held: Link,
    /// Iterator over the TCP sockets of the opener's network namespace.
    pub seed_unheld: Link,
    /// The provider in use.
    pub owner: OwnerProvider,
}

impl<'object> Hooks<'object> {
    /// Loads and attaches everything.
    ///
    /// # Errors
    /// Where no combination of providers can be loaded and attached.
    pub(super) fn attach(
        storage: &'object mut MaybeUninit<OpenObject>,
        knobs: Knobs,
    ) -> Result<Hooks<'object>> {
        let owner = choose_owner(knobs)?;
        let mut skel =
            open(storage, knobs, owner)?.load().context("failed to load the BPF programs")?;
        let mut attached = Vec::new();
        attached.push(
            skel.progs.tcp_state.attach().context("failed to attach to inet_sock_set_state")?,
        );
        attach_owner(&mut skel, owner, &mut attached)?;
        let sample = skel
            .progs
            .sample
            .attach_iter(skel.maps.sockets.as_fd())
            .context("failed to attach the iterator over tracked sockets")?;
        let seed_held =
            skel.progs.seed_held.attach().context("failed to attach the iterator over files")?;
        let seed_unheld = skel
            .progs
            .seed_unheld
            .attach()
            .context("failed to attach the iterator over TCP sockets")?;
        Ok(Hooks { skel, attached, sample, seed_held, seed_unheld, owner })
    }
}

fn open<'object>(
    storage: &'object mut MaybeUninit<OpenObject>,
    knobs: Knobs,
    owner: OwnerProvider,
) -> Result<OpenTcptopSkel<'object>> {
    let mut open =
        TcptopSkelBuilder::default().open(storage).context("failed to open the BPF object")?;
    open.maps
        .events
        .set_max_entries(knobs.ring_bytes)
        .context("failed to set the size of the ring buffer")?;
    let rodata = open.maps.rodata_data.as_deref_mut().context("the BPF object has no constants")?;
    rodata.lifetime = knobs.lifetime;
    match owner {
        OwnerProvider::SocketTracepoints => {
            open.progs.sock_sent.set_autoload(true);
            open.progs.sock_received.set_autoload(true);
        }
        OwnerProvider::ProtocolEntry => {
            open.progs.tcp_sends.set_autoload(true);
            open.progs.tcp_receives.set_autoload(true);
        }
        OwnerProvider::Holders => {}
    }
    Ok(open)
}

fn attach_owner(
    skel: &mut TcptopSkel<'_>,
    owner: OwnerProvider,
    links: &mut Vec<Link>,
) -> Result<()> {
    match owner {
        OwnerProvider::SocketTracepoints => {
            links.push(
                skel.progs.sock_sent.attach().context("failed to attach to sock_send_length")?,
            );
            links.push(
                skel.progs
                    .sock_received
                    .attach()
                    .context("failed to attach to sock_recv_length")?,
            );
        }
        OwnerProvider::ProtocolEntry => {
            links.push(skel.progs.tcp_sends.attach().context("failed to attach to tcp_sendmsg")?);
            links
                .push(skel.progs.tcp_receives.attach().context("failed to attach to tcp_recvmsg")?);
        }
        OwnerProvider::Holders => {}
    }
    Ok(())
}

/// The best provider that really loads and attaches, tried off the main object:
/// one program that the kernel refuses takes a whole object down.
fn choose_owner(knobs: Knobs) -> Result<OwnerProvider> {
    let probe = Knobs { ring_bytes: 4096, ..knobs };
    for owner in OwnerProvider::RANKED {
        let mut storage = MaybeUninit::uninit();
        let loaded = open(&mut storage, probe, owner)?.load();
        if let Ok(mut skel) = loaded {
            if attach_owner(&mut skel, owner, &mut Vec::new()).is_ok() {
                return Ok(owner);
            }
        }
    }
    Ok(OwnerProvider::Holders)
}
