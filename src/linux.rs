//! The Linux part: everything that depends on the Linux kernel, /proc and BPF.
//!
//! Owns [`Host`], the only type that `main` creates here, and the order in which things
//! start and stop. All code outside of this folder compiles without libbpf, and its
//! tests need no kernel. Another platform would have its own folder with a `Host`.
//!
//! ```text
//! programs ─► collector ─► outbox ─► channel ─► reporter
//!    │            ├ sampling   which sockets a tick visits
//!    │            ├ iterate    runs the iterators
//!    │            ├ seed       connections that are older than tcptop
//!    │            └ decode     bytes of the ring (wire) → events
//!    ├ plan       which hook serves which need
//!    └ losses     reads what the kernel side lost
//!
//! confine        gives up what root may do
//! verify         compares totals with sock_diag
//! names          looks up devices, cgroups, containers, users, programs for the reporter
//! ```

mod clock;
mod collector;
mod confine;
mod decode;
mod doctor;
mod files;
mod iterate;
mod knobs;
mod losses;
#[cfg(feature = "bench-reference")]
pub mod measured;
mod memory;
mod mounts;
mod names;
mod outbox;
mod plan;
mod prefilter;
mod privileges;
mod programs;
#[cfg(any(test, fuzzing))]
#[allow(clippy::panic, missing_docs)]
pub mod properties;
mod sampling;
mod seed;
mod signals;
mod standard;
mod verify;
mod wire;

use std::fs;
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::net::if_::if_nametoindex;
use nix::unistd::pipe2;

use crate::connection::Needs;
use crate::event::NetworkCollector;
use crate::filter::{Filter, Known};
use crate::names::Names;
use crate::report::{Reporter, Summary};
use crate::settings::{Choice, Query, Settings};
use collector::{CHANNEL, LinuxCollector};
use confine::{Confinement, Entry, Without};
pub use doctor::Report;
pub use files::{in_its_directory, open_to_append};
pub use names::cgroup_root;
use names::{HostNames, users};
use plan::Provider;
use signals::{End, Signals};
pub use standard::{say, standard_output_is_open};
pub use verify::Verification;

/// This host, and the settings for collecting on it.
pub struct Host {
    settings: Settings,
    needs: Needs,
    without: Vec<Provider>,
    unconfined: Without,
    confinement: Option<Confinement>,
    notice: fn(&str),
}

impl Host {
    /// Does not look at the host yet. Collects what `needs` asks for. `notice` is called
    /// with each line that the user should read.
    ///
    /// # Errors
    /// Where the settings name a provider that does not exist.
    pub fn new(settings: Settings, needs: Needs, notice: fn(&str)) -> Result<Host> {
        let mut unconfined = Without::default();
        let providers = settings.more.without.iter().filter(|name| !unconfined.add(name));
        let without = providers
            .map(|name| {
                Provider::from_name(name).ok_or_else(|| {
                    let names: Vec<&str> = Provider::all().map(Provider::name).collect();
                    let names = names.join(", ");
                    anyhow!("--without: no provider is named '{name}'; there are {names}")
                })
            })
            .collect::<Result<_>>()?;
        return_memory();
        clock::learn_offset();
        Ok(Host { settings, needs, without, unconfined, confinement: None, notice })
    }

    /// Takes the user that the settings ask for, or the one with the least rights that can
    /// do what they ask for. Files are opened after that, as that user.
    ///
    /// # Errors
    /// Where the user of `--setuid` cannot be had, or /proc is not there: it leads to the files.
    pub fn take_user(&mut self) -> Result<()> {
        if !Path::new("/proc/self/ns").exists() {
            bail!("/proc is not mounted; `mount -t proc proc /proc` mounts it");
        }
        let begun = Confinement::begin(&self.settings, self.needs, self.unconfined)?;
        self.confinement = Some(begun);
        Ok(())
    }

    /// Looks up names for the numbers of a connection, for the formats that write them.
    pub fn names(&self) -> Box<dyn Names + Send> {
        Box::new(HostNames::new(self.needs))
    }

    /// The name of this host; empty where the kernel has none.
    pub fn name(&self) -> String {
        nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// True with the privileges to trace.
    pub fn is_privileged(&self) -> bool {
        privileges::may_trace()
    }

    /// Which privilege is missing, for a user who has a part of them.
    pub fn missing_privilege(&self) -> Option<String> {
        privileges::missing()
    }

    /// Whether this kernel can be traced at all, and this process may open enough files.
    ///
    /// # Errors
    /// One sentence: what the kernel lacks, and what to do.
    pub fn check_kernel(&self) -> Result<()> {
        privileges::allow_files()?;
        privileges::check_kernel()
    }

    /// The filter that the user asked for, with the numbers of this host's devices and
    /// users. Calls `notice` for a PID that belongs to a thread or to no process, for a
    /// cgroup that does not exist, and where processes have other PIDs here.
    ///
    /// # Errors
    /// Where a device or a user does not exist, or cgroup v2 is not mounted and needed.
    pub fn filter(&self) -> Result<Filter> {
        let query = &self.settings.query;
        if names::has_own_pids() {
            self.tell(
                "processes outside of this PID namespace are seen only once they use a \
                 connection, with their PIDs on the host; run tcptop in the host's PID namespace \
                 to see all",
            );
        } else {
            self.check_pids(query);
        }
        self.check_cgroups(query)?;
        let interfaces = numbers(&query.interfaces, interface_index)?;
        let users = numbers(&query.users, user_id)?;
        let netns = names::own_network_namespace().context("failed to read /proc/self/ns/net")?;
        Ok(Filter::new(query.clone(), Known { interfaces, netns, users }))
    }

    /// Calls `notice` for what is asked for and does not exist, or not yet.
    fn check_pids(&self, query: &Query) {
        for pid in plain(&query.pids) {
            match process_of(*pid) {
                Some(process) if process != *pid => self.tell(&format!(
                    "{pid} is a thread of process {process}; connections belong to processes: \
                     --pid {process}"
                )),
                Some(_) => {}
                None => self.tell(&format!("no process has PID {pid}{}", self.waiting())),
            }
        }
    }

    /// As [`check_pids`](Host::check_pids), for cgroups.
    ///
    /// # Errors
    /// Where cgroup v2 is not mounted: then no cgroup has a path.
    fn check_cgroups(&self, query: &Query) -> Result<()> {
        if !query.needs().intersects(Needs::CGROUPS) {
            return Ok(());
        }
        let root = cgroup_root().context(
            "--cgroup, --container and --unit need cgroup v2; `mount -t cgroup2 none DIRECTORY` \
             mounts it",
        )?;
        for path in plain(&query.cgroups) {
            if !root.join(path.trim_start_matches('/')).is_dir() {
                self.tell(&format!("there is no cgroup {path}{}", self.waiting()));
            }
        }
        Ok(())
    }

    /// Tells the user something that is neither an error nor a loss.
    fn tell(&self, message: &str) {
        if !self.settings.output.quiet {
            (self.notice)(message);
        }
    }

    /// What follows the words about something that does not exist.
    fn waiting(&self) -> &'static str {
        if self.settings.times.intervals() == Some(1) { "" } else { " yet; waiting for it" }
    }

    /// Collects and reports until a signal asks it to stop, the last interval is over or
    /// the reader of the output is gone. Returns `None` in the last case.
    ///
    /// # Errors
    /// Errors of the collector and the reporter, in one sentence each.
    pub fn stream(mut self, mut reporter: Reporter) -> Result<Option<Summary>> {
        if self.confinement.is_none() {
            self.take_user()?;
        }
        let Host { settings, needs, without, confinement, notice, .. } = self;
        let logs = settings.output.log.is_some();
        let mut signals = Signals::install(logs)?;
        let strict = settings.more.strict;
        let headless = settings.is_headless();
        if logs {
            reporter.reopen = signals.hang_up()?;
        }

        // Closing `running` asks the collector to stop. The reporter closes `working` when
        // it has finished.
        let (stop, running) = pipe2(OFlag::O_CLOEXEC).context("failed to make a pipe")?;
        let (done, working) = pipe2(OFlag::O_CLOEXEC).context("failed to make a pipe")?;
        let (sender, receiver) = crossbeam_channel::bounded(CHANNEL);
        let [own, of_reporter] = match &confinement {
            Some(confinement) => [confinement.idle(), confinement.reporter()].map(Some),
            None => [None, None],
        };
        let mut collector =
            LinuxCollector { settings, needs, without, stop, notice, plan: None, confinement };
        let collecting = thread::Builder::new()
            .name("collector".into())
            .spawn(move || collector.run(sender))
            .context("failed to start a thread")?;
        for (capability, what) in names::capabilities(needs) {
            if !privileges::has(capability) {
                notice(&format!("cannot show {what}: {capability} is needed for it, or root"));
            }
        }
        let reporting = thread::Builder::new()
            .name("reporter".into())
            .spawn(move || {
                of_reporter.map(Entry::enter).transpose()?;
                let result = reporter.run(&receiver);
                drop((receiver, working));
                result
            })
            .context("failed to start a thread")?;

        own.map(Entry::enter).transpose()?;
        let end = signals.wait(&done, !headless)?;
        drop(running);
        if end == End::Signal {
            signals.lose_patience(&done)?;
        }
        let reader_gone = end == End::ReaderGone;
        if reader_gone && !strict {
            // The threads are not waited for: without a row to write, the reporter would
            // never notice. The kernel detaches the programs when the process ends.
            return Ok(None);
        }
        // With --strict, what was lost so far decides about the status.
        let mut summary = reporting.join().map_err(|_| anyhow!("the reporter panicked"))??;
        summary.reader_gone |= reader_gone;
        collecting.join().map_err(|_| anyhow!("the collector panicked"))??;
        Ok(Some(summary))
    }

    /// Finds out which hook serves each need here, and proves that it fires.
    ///
    /// # Errors
    /// Where the exchange on loopback cannot be made.
    pub fn examine(self) -> Result<Report> {
        doctor::examine(self.settings, self.without, self.unconfined)
    }

    /// Compares the totals of TCP connections with what the kernel says over `sock_diag`(7).
    ///
    /// # Errors
    /// Where nothing can be compared.
    pub fn verify(self) -> Result<Verification> {
        verify::verify(self.settings, self.without, self.notice)
    }
}

/// Makes glibc return every freed piece of memory from 128 KiB on to the kernel. By
/// default glibc raises this size, up to 32 MiB, when it frees a large piece; the memory
/// of a burst of connections would then stay with tcptop for good.
#[cfg(target_env = "gnu")]
fn return_memory() {
    use nix::libc;
    // SAFETY: changes a setting of the allocator, which guards it with its own lock.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 128 * 1024) };
}

#[cfg(not(target_env = "gnu"))]
fn return_memory() {}

/// The process of `pid`, which may be the id of a thread.
fn process_of(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

/// The values that are not negated.
fn plain<T>(choices: &[Choice<T>]) -> impl Iterator<Item = &T> {
    choices.iter().filter(|choice| !choice.not).map(|choice| &choice.value)
}

/// The numbers that stand for the names on this host.
fn numbers(
    names: &[Choice<String>],
    number: impl Fn(&str) -> Result<u32>,
) -> Result<Vec<Choice<u32>>> {
    names.iter().map(|choice| choice.try_map(|name| number(name))).collect()
}

/// As chown(1) does: a name comes before a number.
fn user_id(name: &str) -> Result<u32> {
    match users::by_name(name) {
        Ok(Some(user)) => Ok(user.uid),
        Ok(None) => {
            name.parse().map_err(|_| anyhow!("no user is named '{name}' here; {}", users::DATABASE))
        }
        Err(error) => Err(anyhow!("failed to look up the user '{name}': {error}")),
    }
}

fn interface_index(name: &str) -> Result<u32> {
    if_nametoindex(name).map_err(|error| match error {
        Errno::ENODEV => {
            anyhow!("no network device is named '{name}' here; `ip -br link` lists them")
        }
        error => anyhow!("failed to look up the network device '{name}': {error}"),
    })
}
