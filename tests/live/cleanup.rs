//! After tcptop ends, nothing of it stays in the kernel.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;

use libbpf_rs::query::{LinkInfoIter, MapInfoIter, ProgInfoIter};

use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{QUICK, Tcptop};
use crate::common::wait::until_true;

use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("cleanup::after_sigkill", || leaves_nothing(libc::SIGKILL)),
        test("cleanup::after_sigint", || leaves_nothing(libc::SIGINT)),
    ]
}

/// The ids of all programs, links and maps that the kernel has.
#[derive(Debug, PartialEq)]
pub struct Loaded {
    pub programs: BTreeSet<u32>,
    pub links: BTreeSet<u32>,
    pub maps: BTreeSet<u32>,
}

impl Loaded {
    fn now() -> Loaded {
        Loaded {
            programs: ProgInfoIter::default().map(|info| info.id).collect(),
            links: LinkInfoIter::default().map(|info| info.id).collect(),
            maps: MapInfoIter::default().map(|info| info.id).collect(),
        }
    }

    /// What a process holds by its descriptors, as the kernel lists them.
    pub fn by(pid: u32) -> Loaded {
        let mut held =
            Loaded { programs: BTreeSet::new(), links: BTreeSet::new(), maps: BTreeSet::new() };
        // A process may end, and a descriptor close, between the listing and the look.
        for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            for line in text.lines() {
                let Some((key, value)) = line.split_once(':') else { continue };
                let ids = match key {
                    "link_id" => &mut held.links,
                    "prog_id" => &mut held.programs,
                    "map_id" => &mut held.maps,
                    _ => continue,
                };
                ids.insert(value.trim().parse().expect("an id"));
            }
        }
        held
    }

    pub fn shares(&self, other: &Loaded) -> bool {
        !(self.programs.is_disjoint(&other.programs)
            && self.links.is_disjoint(&other.links)
            && self.maps.is_disjoint(&other.maps))
    }
}

/// Files in the BPF file system, where one is mounted.
pub fn pinned() -> BTreeSet<std::path::PathBuf> {
    fn below(directory: &std::path::Path, found: &mut BTreeSet<std::path::PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if found.insert(entry.path()) && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&entry.path(), found);
            }
        }
    }
    let mut found = BTreeSet::new();
    below("/sys/fs/bpf".as_ref(), &mut found);
    found
}

/// Names of tcptop's programs: a program with such a name and no holder is a leftover.
fn names(ids: &BTreeSet<u32>) -> BTreeSet<String> {
    let infos = ProgInfoIter::default().filter(|info| ids.contains(&info.id));
    infos.map(|info| info.name.to_string_lossy().into_owned()).collect()
}

/// The names of the programs that a process has loaded.
pub fn programs_of(pid: u32) -> BTreeSet<String> {
    names(&Loaded::by(pid).programs)
}

fn leaves_nothing(signal: libc::c_int) {
    let (before, pins) = (Loaded::now(), pinned());
    let tcptop = Tcptop::start(&QUICK);
    let pair = Pair::new(Family::V4);
    tcptop.wait_row("row", pair.ends, |_| true);
    let held = Loaded::by(tcptop.id());
    assert!(
        !held.programs.is_empty() && !held.links.is_empty() && !held.maps.is_empty(),
        "{held:?}"
    );
    let own_names = names(&held.programs);
    assert!(Loaded::now().shares(&held));
    let status = tcptop.stop(signal).status;
    if signal == libc::SIGKILL {
        assert_eq!(status.signal(), Some(signal));
    }
    // The kernel frees after a grace period.
    until_true("everything to be gone from the kernel", || !Loaded::now().shares(&held));
    // Also programs that no descriptor showed. (Those of another tcptop have a holder.)
    until_true("nothing of its name to be left without a holder", || {
        let new: BTreeSet<u32> =
            Loaded::now().programs.difference(&before.programs).copied().collect();
        let left = new.difference(&holders()).copied().collect();
        names(&left).is_disjoint(&own_names)
    });
    assert_eq!(pinned(), pins);
    // The sockets that it tracked still work.
    pair.exchange(1000, 1000);
    pair.close();
}

/// Programs that some process holds.
fn holders() -> BTreeSet<u32> {
    let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.flat_map(|pid| Loaded::by(pid).programs).collect()
}
