//! The paths of cgroups by their ids.
//!
//! Owns where cgroup v2 is mounted, the walk through its tree, and the paths that the
//! kernel side reported.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::dir::{Dir, Type};
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fstat};
use rustc_hash::FxBuildHasher;

use crate::linux::mounts::{self, Mount};
use crate::names::CUT;

type Paths = HashMap<u64, Arc<str>, FxBuildHasher>;

/// The paths of cgroups (v2) by their ids. The id of a cgroup is the inode number of its
/// directory and is never used again.
#[derive(Debug, Default)]
pub(super) struct Cgroups {
    mount: Option<PathBuf>,
    paths: Paths,
    /// The paths of the previous walk: a connection can exist a little longer than its
    /// cgroup.
    paths_before: Paths,
    /// Paths that the kernel reported when the cgroup was made. The oldest go first.
    made: HashMap<u64, Box<str>, FxBuildHasher>,
    order: VecDeque<u64>,
    /// Ids that a walk did not find: outside of the mount, or removed.
    gone: HashSet<u64, FxBuildHasher>,
    /// True where the tree was walked in this interval: it is walked once at most.
    walked: bool,
}

impl Cgroups {
    /// Those below `mount`. Looks at nothing yet.
    pub(super) fn new(mount: Option<PathBuf>) -> Cgroups {
        Cgroups { mount, ..Cgroups::default() }
    }

    /// The path below the mount, beginning with `/`.
    pub(super) fn path(&mut self, id: u64) -> Option<&str> {
        if id == 0 {
            return None;
        }
        if !self.is_known(id) && !self.walked && !self.gone.contains(&id) {
            self.walk();
            if !self.paths.contains_key(&id) {
                self.gone.insert(id);
            }
        }
        let made = || self.made.get(&id).map(|path| &**path);
        let walked = self.paths.get(&id).or_else(|| self.paths_before.get(&id));
        walked.map(|path| &**path).or_else(made)
    }

    /// Walks through the tree. Returns ids and paths.
    pub(super) fn all(&mut self) -> impl Iterator<Item = (u64, &str)> {
        self.walk();
        self.paths.iter().map(|(&id, path)| (id, &**path))
    }

    /// Keeps the path of a cgroup that was made. It may be gone before the next walk.
    pub(super) fn made(&mut self, id: u64, path: &str) {
        /// Of several hundred bytes each. A longer list would be of cgroups that ended
        /// long ago: a walk finds the others.
        const MOST: usize = 16_384;
        if self.order.len() >= MOST {
            let oldest = self.order.pop_front();
            oldest.and_then(|id| self.made.remove(&id));
        }
        if self.made.insert(id, path.into()).is_none() {
            self.order.push_back(id);
        }
    }

    /// Forgets nothing, but the tree may be walked again.
    pub(super) fn refresh(&mut self) {
        self.walked = false;
    }

    fn is_known(&self, id: u64) -> bool {
        self.paths.contains_key(&id)
            || self.made.get(&id).is_some_and(|path| !path.ends_with(CUT))
            || self.paths_before.contains_key(&id)
    }

    fn walk(&mut self) {
        /// Limits `gone` on a host that creates and removes cgroups for weeks.
        const MOST_GONE: usize = 10_000;

        self.walked = true;
        let Some(mount) = &self.mount else { return };
        let paths = below(mount);
        self.paths_before = std::mem::replace(&mut self.paths, paths);
        if self.gone.len() >= MOST_GONE {
            self.gone.clear();
        }
    }
}

/// A directory whose subdirectories are still to be visited.
struct Level {
    path: Arc<str>,
    left: Vec<CString>,
}

impl Level {
    /// Adds the subdirectories of `directory` to `paths`.
    fn new(directory: &mut Dir, path: Arc<str>, paths: &mut Paths) -> Level {
        let mut left = Vec::new();
        for entry in directory.iter().flatten() {
            let name = entry.file_name();
            if entry.file_type() == Some(Type::Directory) && name != c"." && name != c".." {
                paths.insert(entry.ino(), joined(&path, &name.to_string_lossy()));
                left.push(name.to_owned());
            }
        }
        Level { path, left }
    }
}

/// The path of a cgroup in the one with this path.
fn joined(path: &Arc<str>, name: &str) -> Arc<str> {
    /// PATH_MAX without the NUL: no program opens a longer one. Nothing limits how deep
    /// cgroups are nested, so whoever may make some could fill the memory.
    const MOST: usize = 4095;
    if path.ends_with(CUT) {
        Arc::clone(path)
    } else if path.len() + 1 + name.len() > MOST {
        format!("{path}{CUT}").into()
    } else {
        format!("{path}/{name}").into()
    }
}

/// The cgroups below `mount`, and itself. Opens each directory from the one above it, and that
/// again from there: so it finds those that no path leads to, with two descriptors.
fn below(mount: &Path) -> Paths {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut paths = Paths::default();
    let Ok(mut here) = Dir::open(mount, flags, Mode::empty()) else { return paths };
    if let Ok(root) = fstat(&here) {
        paths.insert(root.st_ino, "/".into());
    }
    let mut levels = vec![Level::new(&mut here, "".into(), &mut paths)];
    while let Some(Level { path, left }) = levels.last_mut() {
        let Some(name) = left.pop() else {
            levels.pop();
            match Dir::openat(&here, c"..", flags, Mode::empty()) {
                Ok(above) if !levels.is_empty() => here = above,
                _ => break,
            }
            continue;
        };
        // A directory that cannot be opened was removed meanwhile.
        if let Ok(directory) = Dir::openat(&here, &*name, flags, Mode::empty()) {
            here = directory;
            let path = joined(path, &name.to_string_lossy());
            levels.push(Level::new(&mut here, path, &mut paths));
        }
    }
    paths
}

/// The directory where cgroup v2 is mounted; `None` where it is not mounted.
pub(super) fn cgroup_root() -> Option<PathBuf> {
    mount(&mounts::read().ok()?)
}

/// The directory where cgroup v2 is mounted, if only a part of the cgroups is visible
/// there: in a cgroup namespace, or where only a part is mounted.
pub(super) fn cgroup_part() -> Option<PathBuf> {
    /// The inode number of the root, since Linux 5.5 (`cgroup_setup_root`).
    const ROOT: u64 = 1;
    cgroup_root().filter(|path| fs::metadata(path).is_ok_and(|meta| meta.ino() != ROOT))
}

/// The directory where cgroup v2 is mounted, from the text of [`mounts::read`]. Prefers a mount of the whole tree to one of a part.
pub(super) fn mount(mountinfo: &[u8]) -> Option<PathBuf> {
    let mut found = None;
    for Mount { root, point } in mounts::of_type(mountinfo, b"cgroup2") {
        if root == b"/" {
            return Some(point);
        }
        found = found.or(Some(point));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::mkdirat;

    #[test]
    fn the_mount_of_the_whole_tree_comes_first() {
        let unified = b"\
22 1 0:21 / /proc rw,nosuid - proc proc rw
25 1 0:23 / /sys rw shared:7 - sysfs sysfs rw
29 25 0:26 /../.. /run/part rw - cgroup2 cgroup rw
30 25 0:26 / /sys/fs/my\\040cgroup\\134 rw,nosuid shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate
";
        assert_eq!(mount(unified), Some("/sys/fs/my cgroup\\".into()));
        let part: Vec<u8> =
            unified.split_inclusive(|&b| b == b'\n').take(3).flatten().copied().collect();
        assert_eq!(mount(&part), Some("/run/part".into()));
        assert_eq!(mount(b"25 1 0:23 / /sys rw - cgroup cgroup rw\nshort\n\n"), None);
    }

    #[test]
    fn cgroups_are_found_by_inode_number_and_looked_for_once_an_interval() {
        let mount = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = mount.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::metadata(path).unwrap().ino()
        };
        let root = fs::metadata(mount.path()).unwrap().ino();
        let service = make("system.slice/ssh.service");
        let mut cgroups = Cgroups::new(Some(mount.path().to_owned()));
        assert_eq!(cgroups.path(0), None);
        assert!(!cgroups.walked, "nothing is walked before it is needed");
        assert_eq!(cgroups.path(service), Some("/system.slice/ssh.service"));
        assert_eq!(cgroups.path(root), Some("/"));

        let late = make("late");
        assert_eq!(cgroups.path(late), None, "the next interval looks again");
        cgroups.refresh();
        assert_eq!(cgroups.path(late), Some("/late"));

        fs::remove_dir(mount.path().join("late")).unwrap();
        cgroups.refresh();
        assert_eq!(cgroups.path(u64::MAX), None);
        assert!(cgroups.walked);
        assert_eq!(cgroups.path(late), Some("/late"), "known for a while after its end");
        cgroups.refresh();
        assert_eq!(cgroups.path(u64::MAX), None);
        assert!(!cgroups.walked, "what is gone is not looked for again");
    }

    #[test]
    fn cgroups_deeper_than_any_path_have_the_path_of_those_above() {
        let mount = tempfile::tempdir().unwrap();
        let name = "n".repeat(250);
        let mut here = Dir::open(mount.path(), OFlag::O_DIRECTORY, Mode::empty()).unwrap();
        let mut ids = Vec::new();
        for _ in 0..40 {
            mkdirat(&here, &*name, Mode::S_IRWXU).unwrap();
            here = Dir::openat(&here, &*name, OFlag::O_DIRECTORY, Mode::empty()).unwrap();
            ids.push(fstat(&here).unwrap().st_ino);
        }
        let beside = mount.path().join("z");
        fs::create_dir(&beside).unwrap();
        let mut cgroups = Cgroups::new(Some(mount.path().to_owned()));
        for (above, id) in ids.into_iter().enumerate() {
            // 16 such names have 4016 bytes.
            let path = format!("/{name}").repeat(16.min(above + 1));
            let cut = if above < 16 { "" } else { "/..." };
            assert_eq!(cgroups.path(id), Some(&*(path + cut)), "{above}");
        }
        assert_eq!(cgroups.path(fs::metadata(beside).unwrap().ino()), Some("/z"));
    }

    #[test]
    fn a_path_that_the_kernel_has_cut_off_serves_until_a_walk_finds_all_of_it() {
        let mount = tempfile::tempdir().unwrap();
        fs::create_dir(mount.path().join("a")).unwrap();
        let id = fs::metadata(mount.path().join("a")).unwrap().ino();
        let mut cgroups = Cgroups::new(Some(mount.path().to_owned()));
        cgroups.made(id, "/x/...");
        cgroups.made(u64::MAX, "/y/...");
        assert_eq!(cgroups.path(id), Some("/a"));
        assert_eq!(cgroups.path(u64::MAX), Some("/y/..."));
    }

    #[test]
    fn a_cgroup_that_was_made_is_known_without_a_walk() {
        let mount = tempfile::tempdir().unwrap();
        let mut cgroups = Cgroups::new(Some(mount.path().to_owned()));
        cgroups.made(1_000_000, "/machine.slice/libpod-1.scope");
        assert_eq!(cgroups.path(1_000_000), Some("/machine.slice/libpod-1.scope"));
        assert!(!cgroups.walked);
        for _ in 0..3 {
            cgroups.refresh();
            assert_eq!(cgroups.path(u64::MAX), None);
        }
        assert_eq!(cgroups.path(1_000_000), Some("/machine.slice/libpod-1.scope"));
        for id in 0..100_000 {
            cgroups.made(2_000_000 + id, "/x");
            cgroups.made(2_000_000 + id, "/x");
            assert!(cgroups.made.len() <= 16_384 && cgroups.order.len() <= 16_384);
        }
        assert_eq!(cgroups.path(2_099_999), Some("/x"));
        cgroups.refresh();
        assert_eq!(cgroups.path(1_000_000), None, "the oldest went first");
    }
}
