//! Loads and attaches the BPF programs of the hook plan.
//!
//! Owns the BPF objects. Whether a provider works is found out by loading and attaching
//! its programs. This is done for one provider at a time and in an object of its own,
//! because an object fails as a whole when the kernel refuses one of its programs.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use anyhow::{Context, Result, anyhow};
use libbpf_rs::libbpf_sys::{
    BPF_F_MMAPABLE, BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, bpf_insn, bpf_map_create_opts,
    bpf_prog_load, bpf_prog_load_opts, size_t,
};
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{
    Link, MapCore, MapHandle, MapType, OpenMapMut, OpenObject, PrintCallback, PrintLevel,
    ProgramMut,
};
use nix::errno::Errno;

use super::knobs::Knobs;
use super::losses::{self, Skippable};
use super::plan::{Need, Plan, Provider, choose};
use super::wire::{self, Control, OpenTcptopSkel, TcptopSkel, TcptopSkelBuilder};
use super::{clock, names, prefilter};
use crate::connection::{Needs, Protocol};
use crate::loss::Loss;
use crate::settings::{Place, Room};

/// The programs of a provider, in the order in which they are attached. Those that write
/// records exist twice: `$longer` chooses. This is a macro because programs have different
/// types before and after they are loaded.
macro_rules! programs {
    ($object:expr, $provider:expr, $longer:expr) => {{
        let progs = &mut $object.progs;
        match $provider {
            Provider::StateTracepoint if $longer => vec![
                &mut progs.tcp_state_longer,
                &mut progs.tcp_state_second_longer,
                &mut progs.tcp_state_third_longer,
            ],
            Provider::StateTracepoint => {
                vec![&mut progs.tcp_state, &mut progs.tcp_state_second, &mut progs.tcp_state_third]
            }
            Provider::StorageIterator if $longer => vec![&mut progs.sample_longer],
            Provider::StorageIterator => vec![&mut progs.sample],
            Provider::TcpSendTracepoint => vec![&mut progs.tcp_sending, &mut progs.sock_received],
            Provider::SocketTracepoints => vec![&mut progs.sock_sent, &mut progs.sock_received],
            Provider::TcpEntry => vec![&mut progs.tcp_sends, &mut progs.tcp_receives],
            Provider::FileIterator => vec![&mut progs.seed_held],
            Provider::UdpEntry => {
                vec![&mut progs.udp_sends_ipv4, &mut progs.udp_sends_ipv6, &mut progs.udp_receives]
            }
            Provider::CgroupSkb => vec![&mut progs.udp_egress, &mut progs.udp_ingress],
        }
    }};
}

/// The loaded programs, and the links that keep them attached.
pub(super) struct Hooks<'object> {
    /// Maps and programs.
    pub(super) skel: TcptopSkel<'object>,
    /// Links of the hooks; dropping a link detaches its program.
    pub(super) attached: Vec<Link>,
    /// Iterator over every tracked socket, where TCP is counted.
    pub(super) sample: Option<Link>,
    /// Iterator over the table of UDP flows, where UDP is counted.
    pub(super) sample_flows: Option<Link>,
    /// Iterator over the files of all processes.
    pub(super) seed_held: Link,
    /// Iterator over the TCP sockets of one network namespace: that of the thread which
    /// opens it.
    pub(super) seed_unheld: Option<Link>,
    /// Programs for which the kernel's skipping is a loss.
    skippable: Skippable,
}

/// Lets libbpf and the verifier print on stderr, or silences them. tcptop reports errors
/// in its own messages either way.
pub(super) fn set_verbose(verbose: bool) {
    let print: PrintCallback = |_, message| {
        let _ = io::Write::write_all(&mut io::stderr().lock(), message.as_bytes());
    };
    libbpf_rs::set_print(verbose.then_some((PrintLevel::Debug, print)));
}

impl<'object> Hooks<'object> {
    /// Finds the best providers, loads and attaches them. Returns the plan even where
    /// attaching fails.
    ///
    /// First it assumes that the best provider of each need works, without trying it
    /// alone: recent kernels have all of them. The exception is UDP, whose best provider
    /// is assumed only where the kernel has trampolines, and otherwise its last. All
    /// assumed providers are loaded and attached together, which halves the time of the
    /// start. Only where this fails is each provider tried alone.
    ///
    /// # Errors
    /// Where a part that does not depend on the plan cannot be attached. A need without a
    /// provider is not an error: the plan shows it.
    pub(super) fn attach(
        [first, second]: &'object mut [MaybeUninit<OpenObject>; 2],
        knobs: &Knobs<'_>,
    ) -> (Plan, Result<Hooks<'object>>) {
        let try_alone = |provider| attempt(provider, knobs);
        let assume = |provider| match provider {
            Provider::UdpEntry => attempt_trampoline(),
            _ => Ok(()),
        };
        let plan = |attempt: &dyn Fn(Provider) -> Result<(), String>| {
            let choose = |need| choose(need, knobs.without, attempt);
            let udp = knobs.settings.query.wants(Protocol::Udp).then(|| choose(Need::Udp));
            // With cgroup_skb, the provider of owners also finds out who receives UDP.
            let receivers =
                udp.as_ref().is_some_and(|udp| udp.provider == Some(Provider::CgroupSkb));
            let of_tcp: &[Need] = match (knobs.tcp, receivers) {
                (true, _) => &[Need::Lifecycle, Need::Counters, Need::Owner],
                (false, true) => &[Need::Owner],
                (false, false) => &[],
            };
            Plan { choices: of_tcp.iter().copied().map(choose).chain(udp).collect() }
        };
        let assumed = plan(&assume);
        if let Ok(hooks) = Hooks::attach_plan(first, knobs, &assumed) {
            return (assumed, Ok(hooks));
        }
        let plan = plan(&try_alone);
        let hooks = Hooks::attach_plan(second, knobs, &plan);
        (plan, hooks)
    }

    fn attach_plan(
        storage: &'object mut MaybeUninit<OpenObject>,
        knobs: &Knobs<'_>,
        plan: &Plan,
    ) -> Result<Hooks<'object>> {
        let knobs = &Knobs { tcp: plan.shows(Protocol::Tcp), ..knobs.clone() };
        // These providers are useless without TCP.
        let of_tcp = [Provider::StateTracepoint, Provider::StorageIterator, Provider::TcpEntry];
        let useful = |provider: &Provider| knobs.tcp || !of_tcp.contains(provider);
        let providers: Vec<Provider> =
            plan.choices.iter().filter_map(|choice| choice.provider).filter(useful).collect();

        let mut skel = open(storage, knobs, &providers, true)?
            .load()
            .context("failed to load the BPF programs")?;
        let longer = knobs.longer();
        let mut attached = Vec::new();
        for &provider in providers.iter().filter(|provider| !is_iterator(**provider)) {
            attach(&mut skel, provider, longer, &mut attached)
                .with_context(|| format!("failed to attach {}", provider.name()))?;
        }
        let names = skel.progs.renames.attach();
        attached.push(names.context("failed to attach tp_btf/task_rename")?);
        if skel.progs.tcp_destroyed.autoload() {
            let link = skel.progs.tcp_destroyed.attach();
            attached.push(link.context("failed to attach tp_btf/tcp_destroy_sock")?);
        }
        if knobs.cgroups {
            let link = skel.progs.cgroup_made.attach();
            attached.push(link.context("failed to attach tp_btf/cgroup_mkdir")?);
        }
        let sample = if knobs.tcp {
            let program =
                if longer { &mut skel.progs.sample_longer } else { &mut skel.progs.sample };
            let link = program
                .attach_iter(skel.maps.sockets.as_fd())
                .context("failed to attach the iterator over tracked sockets")?;
            Some(link)
        } else {
            None
        };
        let sample_flows = if providers.iter().any(|provider| is_udp(*provider)) {
            let program = if longer {
                &mut skel.progs.sample_flows_longer
            } else {
                &mut skel.progs.sample_flows
            };
            let link = program
                .attach_iter(skel.maps.taken_slots.as_fd())
                .context("failed to attach the iterator over UDP flows")?;
            Some(link)
        } else {
            None
        };
        let seed_held =
            skel.progs.seed_held.attach().context("failed to attach the iterator over files")?;
        let seed_unheld = if knobs.tcp {
            let link = skel.progs.seed_unheld.attach();
            Some(link.context("failed to attach the iterator over TCP sockets")?)
        } else {
            None
        };
        let mut skippable = Skippable::new(knobs.preempted);
        for &provider in &providers {
            let loaded = |program: &&mut ProgramMut<'_>| program.autoload();
            for program in programs!(skel, provider, longer).into_iter().filter(loaded) {
                match provider {
                    Provider::UdpEntry => skippable.count(program.as_fd())?,
                    Provider::StateTracepoint => skippable.state(program.as_fd())?,
                    _ => {}
                }
            }
        }
        freeze(&skel)?;
        Ok(Hooks { skel, attached, sample, sample_flows, seed_held, seed_unheld, skippable })
    }

    /// The variables that are changed while the programs run (`bpf/control.bpf.h` says
    /// when).
    ///
    /// # Errors
    /// Where the object has no such variables: the build is broken then.
    pub(super) fn control(&mut self) -> Result<&mut Control> {
        let data = self.skel.maps.data_data.as_deref_mut();
        Ok(&mut data.context("the BPF object has no variables")?.control)
    }

    /// The losses that the programs have counted since they were loaded.
    ///
    /// # Errors
    /// Errors of the system calls.
    pub(super) fn lost(&mut self) -> Result<Loss> {
        losses::total(&self.skel.maps.losses, &mut self.skippable)
    }
}

/// Makes the kernel refuse, from now on, that any process writes the maps which only the
/// programs write. Root could, through their ids. What cannot be frozen: the ring, and the
/// variables of [`Hooks::control`]; user space writes both.
fn freeze(skel: &TcptopSkel<'_>) -> Result<()> {
    let maps = &skel.maps;
    let own = [&maps.sockets, &maps.udp_sockets, &maps.losses, &maps.receivers, &maps.bss];
    let of_udp = [&maps.flows, &maps.flow_sockets, &maps.taken_slots];
    own.into_iter().chain(of_udp).try_for_each(|map| {
        let frozen = MapHandle::try_from(map).and_then(|map| map.freeze());
        frozen.with_context(|| format!("failed to freeze the map {}", map.name().to_string_lossy()))
    })
}

fn is_udp(provider: Provider) -> bool {
    Need::Udp.providers().contains(&provider)
}

/// True for iterators. They are not attached with the hooks: each has its own link,
/// because tcptop reads from it.
fn is_iterator(provider: Provider) -> bool {
    matches!(provider, Provider::StorageIterator | Provider::FileIterator)
}

/// Finds out whether the kernel permits programs on BPF trampolines: it loads a program
/// that names no function to attach to. A kernel that refuses all such programs, for
/// example under lockdown, answers EPERM. Other kernels complain about the missing
/// function. This is cheaper than to load a real program, for which libbpf would have to
/// read all of the kernel's types once more.
///
/// # Errors
/// The kernel's reason for refusing.
fn attempt_trampoline() -> Result<(), String> {
    // r0 = 0; exit (Documentation/bpf/standardization/instruction-set.rst)
    let mut nothing = [bpf_insn::default(); 2];
    nothing[0].code = 0xb7;
    nothing[1].code = 0x95;
    let mut options = bpf_prog_load_opts {
        sz: size_of::<bpf_prog_load_opts>() as size_t,
        expected_attach_type: BPF_TRACE_FENTRY,
        ..Default::default()
    };
    // SAFETY: all pointers point to live memory of the given lengths. The name is null,
    // which libbpf allows.
    let result = unsafe {
        bpf_prog_load(
            BPF_PROG_TYPE_TRACING,
            ptr::null(),
            c"GPL".as_ptr(),
            nothing.as_ptr(),
            nothing.len() as size_t,
            &mut options,
        )
    };
    match Errno::from_raw(-result) {
        Errno::EPERM => Err(format!("load: {}", io::Error::from(Errno::EPERM))),
        _ => {
            if result >= 0 {
                // SAFETY: the descriptor is new, and nothing else uses it.
                drop(unsafe { OwnedFd::from_raw_fd(result) });
            }
            Ok(())
        }
    }
}

/// Loads and attaches the programs of one provider, then unloads them again.
fn attempt(provider: Provider, knobs: &Knobs<'_>) -> Result<(), String> {
    let knobs = knobs.small();
    let mut storage = MaybeUninit::uninit();
    if provider == Provider::CgroupSkb {
        cgroup_root().map_err(|error| format!("{error:#}"))?;
    }
    let result = open(&mut storage, &knobs, &[provider], false)
        .and_then(|open| open.load().context("load"))
        .and_then(|mut skel| {
            attach(&mut skel, provider, knobs.longer(), &mut Vec::new()).context("attach")
        });
    result.map_err(|error| format!("{error:#}"))
}

fn cgroup_root() -> Result<File> {
    let path = names::cgroup_root().ok_or_else(|| anyhow!("cgroup v2 is not mounted"))?;
    File::open(&path).with_context(|| format!("failed to open {}", path.display()))
}

/// Opens the object and selects what will be loaded: the programs of `providers` and,
/// with `whole`, the iterators and the hook for renamed processes.
fn open<'object>(
    storage: &'object mut MaybeUninit<OpenObject>,
    knobs: &Knobs<'_>,
    providers: &[Provider],
    whole: bool,
) -> Result<OpenTcptopSkel<'object>> {
    let mut open =
        TcptopSkelBuilder::default().open(storage).context("failed to open the BPF object")?;
    let has = |provider| providers.contains(&provider);
    let udp = providers.iter().any(|provider| is_udp(*provider));
    let slots = knobs.udp_slots;
    let query = &knobs.settings.query;

    for provider in providers {
        for program in programs!(open, provider, knobs.longer()) {
            program.set_autoload(true);
        }
    }
    let progs = &mut open.progs;
    if whole {
        progs.renames.set_autoload(true);
        progs.seed_held.set_autoload(true);
        progs.seed_unheld.set_autoload(knobs.tcp);
        progs.sample_flows.set_autoload(udp && !knobs.longer());
        progs.sample_flows_longer.set_autoload(udp && knobs.longer());
        progs.cgroup_made.set_autoload(knobs.cgroups);
        progs.tcp_destroyed.set_autoload(knobs.tcp && knobs.unlinks_storage);
    }
    let room = |place| Room::of(&knobs.settings.more.room, place);
    let states = room(Place::StatePrograms).unwrap_or(if knobs.preempted { 3 } else { 2 });
    for (number, program) in [
        (2, &mut progs.tcp_state_second),
        (2, &mut progs.tcp_state_second_longer),
        (3, &mut progs.tcp_state_third),
        (3, &mut progs.tcp_state_third_longer),
    ] {
        if program.autoload() && number > states {
            program.set_autoload(false);
        }
    }
    if !knobs.tcp {
        progs.tcp_sending.set_autoload(false);
        progs.sock_sent.set_autoload(false);
    }

    let maps = &mut open.maps;
    maps.events.set_max_entries(knobs.ring_bytes).context("failed to size the ring buffer")?;
    if let Some(room) = room(Place::Receivers) {
        // The usual table forgets the receiver that was needed least; a chosen one gets full.
        maps.receivers
            .set_type(MapType::Hash)
            .and_then(|()| maps.receivers.set_max_entries(room))
            .context("failed to size the table of receivers")?;
    } else if !has(Provider::CgroupSkb) {
        maps.receivers.set_max_entries(1).context("failed to size the table of receivers")?;
    }
    if udp {
        maps.flows.set_max_entries(slots).context("failed to size the flow table")?;
        maps.taken_slots
            .set_max_entries(slots.div_ceil(wire::FlowTable::SLOTS_PER_WORD.0))
            .context("failed to size the flow table")?;
        if knobs.needs.contains(Needs::DROPS) {
            maps.flow_sockets.set_max_entries(slots).context("failed to size the flow table")?;
        }
    }
    give_variables(&mut maps.bss)?;
    let pool = room(Place::Pool);
    let rodata = maps.rodata_data.as_deref_mut().context("the BPF object has no constants")?;
    let settings = &mut rodata.settings;
    settings.ring_bytes = knobs.ring_bytes.into();
    if let Some(places) = pool {
        settings.pool_places = places;
    }
    settings.lifetime.write(knobs.settings.rows.lifetime);
    settings.unlinks_storage.write(knobs.unlinks_storage);
    settings.holders_only.write(has(Provider::FileIterator));
    settings.count_tcp.write(knobs.tcp);
    settings.count_udp.write(udp);
    let whole_tree = !query.cgroups.is_empty() && names::cgroup_part().is_none();
    prefilter::set(settings, query, whole_tree);
    settings.track_receivers.write(has(Provider::CgroupSkb));
    settings.detail.write(knobs.needs.contains(Needs::DETAILS));
    settings.drops.write(knobs.needs.contains(Needs::DROPS));
    settings.jiffy_us = clock::jiffy_us()?;
    settings.flow_mask = slots - 1;
    // The standard library has no other source of random numbers.
    settings.flow_seed = RandomState::new().build_hasher().finish();
    settings.flow_timeout_ns =
        u64::try_from(knobs.settings.rows.udp_timeout.as_nanos()).unwrap_or(u64::MAX);
    Ok(open)
}

/// Makes the map of the variables that begin as 0. libbpf would write a megabyte of zeros
/// into it, which takes two milliseconds, and map it into memory: user space has no use for
/// that, and what is mapped cannot be frozen. Where the kernel refuses a map, libbpf's own
/// attempt fails as well, and its error says so.
fn give_variables(variables: &mut OpenMapMut<'_>) -> Result<()> {
    let options = bpf_map_create_opts {
        sz: size_of::<bpf_map_create_opts>() as size_t,
        // As libbpf does. Only such a map begins at a page, so that the tables keep their place
        // in the processors' cache lines.
        map_flags: BPF_F_MMAPABLE,
        ..Default::default()
    };
    let name = Some(variables.name().to_owned());
    let (key, size) = (variables.key_size(), variables.value_size());
    if let Ok(map) = MapHandle::create(MapType::Array, name, key, size, 1, &options) {
        variables.reuse_fd(map.as_fd()).context("failed to make room for the variables")?;
    }
    Ok(())
}

/// Attaches the programs of a provider, except those that were not loaded.
fn attach(
    skel: &mut TcptopSkel<'_>,
    provider: Provider,
    longer: bool,
    links: &mut Vec<Link>,
) -> Result<()> {
    let programs =
        programs!(skel, provider, longer).into_iter().filter(|program| program.autoload());
    match provider {
        Provider::CgroupSkb => {
            let root = cgroup_root()?;
            for program in programs {
                links.push(program.attach_cgroup(root.as_raw_fd())?);
            }
        }
        Provider::StorageIterator => {
            for program in programs {
                links.push(program.attach_iter(skel.maps.sockets.as_fd())?);
            }
        }
        _ => {
            for program in programs {
                links.push(program.attach()?);
            }
        }
    }
    Ok(())
}
