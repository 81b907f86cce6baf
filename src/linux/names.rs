//! Looks up names for the numbers of a connection: its device, cgroup, container, user
//! and program.
//!
//! Owns the look-ups on the host and how long their results are kept. A name that is not
//! found is left out, never guessed. Nothing is looked up before a row needs it.
//!
//! ```text
//! devices      index → name                 users        uid → name
//! cgroups      id → path                    executables  PID → path
//!   ├ units        path → systemd's unit
//!   └ containers   path → id; files ► runtimes → name, pod
//! ```

mod cache;
mod cgroups;
mod containers;
mod devices;
mod executables;
mod files;
#[cfg(any(test, fuzzing))]
pub(super) mod properties;
mod runtimes;
mod units;
pub(super) mod users;

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use caps::Capability;

use super::confine::Reach;
use crate::connection::{Needs, Sample};
use crate::names::{Names, Place};
use cgroups::Cgroups;
use containers::Containers;
use devices::Devices;
use executables::Executables;
use files::Tree;
use users::Users;

/// The names on this host.
#[derive(Debug)]
pub(super) struct HostNames {
    /// What will be asked for.
    needs: Needs,
    /// True before the first interval.
    starting: bool,
    /// When the interval began.
    now: Instant,
    devices: Devices,
    cgroups: Cgroups,
    containers: Containers,
    users: Users,
    executables: Executables,
}

impl HostNames {
    /// Finds tcptop's own namespaces and the cgroup mount. All other look-ups wait until
    /// a row needs them.
    pub(super) fn new(needs: Needs) -> HostNames {
        let now = Instant::now();
        let host = Tree { root: PathBuf::from("/"), owner: 0, closed: false };
        HostNames {
            needs,
            starting: true,
            now,
            devices: Devices::new(own_network_namespace().unwrap_or(0)),
            cgroups: Cgroups::new(cgroup_root()),
            containers: Containers::new(host, containers::home, now),
            users: Users::new(),
            executables: Executables::new(Path::new("/proc")),
        }
    }
}

impl HostNames {
    /// Finds the cgroups and containers that are older than tcptop: those that end before
    /// the interval of their first connection does cannot be found later. The hook tells of
    /// all others.
    fn look_around(&mut self) {
        let HostNames { now, needs, cgroups, containers, .. } = self;
        let named = needs.intersects(NAMED);
        for (id, path) in cgroups.all().filter(|_| named) {
            containers.named(id, path, *now);
        }
    }
}

impl Names for HostNames {
    fn refresh(&mut self) {
        self.now = Instant::now();
        self.devices.refresh();
        self.cgroups.refresh();
        if std::mem::take(&mut self.starting) && self.needs.intersects(Needs::CGROUPS) {
            self.look_around();
        }
    }

    fn cgroup_made(&mut self, id: u64, path: &str) {
        self.cgroups.made(id, path);
        // The runtime's files may be gone at the end of the interval.
        if self.needs.intersects(NAMED) {
            self.containers.named(id, path, Instant::now());
        }
    }

    fn place(&mut self, sample: &Sample, needs: Needs) -> Place<'_> {
        let HostNames { now, devices, cgroups, containers, users, executables, .. } = self;
        let mut place = Place::default();
        if needs.contains(Needs::INTERFACE) {
            place.interface = devices.name(sample.ifindex, sample.netns);
        }
        if needs.contains(Needs::USER) {
            place.user = users.name(sample.uid, *now);
        }
        if needs.contains(Needs::EXE) {
            place.exe = sample.owner.and_then(|owner| executables.path(owner, *now));
        }
        if !needs.intersects(Needs::CGROUPS) {
            return place;
        }
        let Some(path) = cgroups.path(sample.cgroup) else { return place };
        place.cgroup = Some(path);
        if needs.contains(Needs::UNIT) {
            place.unit = units::unit(path);
        }
        if needs.contains(Needs::CONTAINER) {
            place.container = containers::container_id(path);
        }
        if needs.intersects(NAMED) {
            if let Some(named) = containers.named(sample.cgroup, path, *now) {
                place.container_name = named.name.as_deref();
                place.pod = named.pod.as_deref();
            }
        }
        place
    }
}

/// What the files of container runtimes are read for.
pub(super) const NAMED: Needs = Needs::CONTAINER_NAME.union(Needs::POD);

/// The capabilities that looking up these names takes, each with what it shows.
pub(super) fn capabilities(needs: Needs) -> Vec<(Capability, &'static str)> {
    let mut kept = Vec::new();
    if needs.contains(Needs::EXE) {
        // For /proc/PID/exe (proc_pid_exe(5)).
        kept.push((Capability::CAP_SYS_PTRACE, "exe of other users' processes"));
    }
    if needs.intersects(NAMED) {
        // The host's containers are in directories of root, users' in their homes.
        kept.push((Capability::CAP_DAC_READ_SEARCH, "names of other users' containers"));
    }
    kept
}

/// What looking up these names reaches.
pub(super) fn reach(needs: Needs) -> Reach {
    let mut reach = Reach::default();
    if needs.intersects(NAMED.union(Needs::USER)) {
        // The user database may be anywhere (nsswitch.conf(5)), and users' homes are.
        reach.reads.push("/".into());
        reach.network = true;
    } else if needs.intersects(Needs::CGROUPS) {
        reach.reads.extend(cgroup_root());
    }
    if needs.contains(Needs::EXE) {
        // It counts a look at /proc/PID/exe as tracing (hook_ptrace_access_check in
        // security/landlock/task.c).
        reach.not_at_all = Some("not for names: exe is read of processes outside");
    }
    reach
}

/// The inode number of tcptop's network namespace.
///
/// # Errors
/// Where /proc cannot be read.
pub(super) fn own_network_namespace() -> io::Result<u32> {
    // The kernel hands out 32 bits (proc_alloc_inum).
    fs::metadata("/proc/self/ns/net").map(|meta| meta.ino() as u32)
}

/// Whether processes have other PIDs here than in the initial PID namespace, whose PIDs
/// tcptop shows.
pub(super) fn has_own_pids() -> bool {
    /// `PROC_PID_INIT_INO` (include/linux/proc_ns.h): the same on every host.
    const INITIAL: u64 = 0xEFFF_FFFC;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|meta| meta.ino() != INITIAL)
}

/// The directory where cgroup v2 is mounted; `None` where it is not mounted.
pub fn cgroup_root() -> Option<PathBuf> {
    cgroups::cgroup_root()
}

/// The directory where cgroup v2 is mounted, if only a part of the cgroups is visible
/// there: in a cgroup namespace, or where only a part is mounted.
pub(super) fn cgroup_part() -> Option<PathBuf> {
    cgroups::cgroup_part()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixtures::tcp;

    #[test]
    fn only_what_is_asked_for_is_looked_up() {
        let mut names = HostNames::new(Needs::all());
        let mut sample = tcp();
        sample.uid = 0;
        sample.ifindex = 1;
        sample.netns = own_network_namespace().unwrap();
        sample.cgroup = 1;
        names.refresh();
        assert_eq!(names.place(&sample, Needs::empty()), Place::default());
        let user = names.place(&sample, Needs::USER);
        assert_eq!(user, Place { user: Some("root"), ..Place::default() });
        let device = names.place(&sample, Needs::INTERFACE).interface.map(str::to_owned);
        assert_eq!(
            device,
            nix::net::if_::if_indextoname(1).ok().and_then(|n| n.into_string().ok())
        );
        let id = "0123456789abcdef".repeat(4);
        names.cgroup_made(42, &format!("/system.slice/docker-{id}.scope"));
        sample.cgroup = 42;
        let container = names.place(&sample, Needs::CONTAINER);
        assert_eq!((container.container, container.unit), (Some(&*id), None));
        let unit = names.place(&sample, Needs::UNIT).unit.map(str::to_owned);
        assert_eq!(unit, Some(format!("docker-{id}.scope")));
    }

    #[test]
    fn capabilities_are_kept_only_for_what_takes_them() {
        let kept = |needs| -> Vec<Capability> {
            capabilities(needs).into_iter().map(|(capability, _)| capability).collect()
        };
        assert_eq!(kept(Needs::CGROUPS.difference(NAMED) | Needs::USER), []);
        assert_eq!(kept(Needs::EXE), [Capability::CAP_SYS_PTRACE]);
        assert_eq!(kept(Needs::POD), [Capability::CAP_DAC_READ_SEARCH]);
    }
}
