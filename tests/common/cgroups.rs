//! Cgroups that a test makes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::mounts;
use super::wait::until_true;

/// Where the whole tree of cgroup v2 is mounted.
pub fn root() -> Option<PathBuf> {
    // The inode number of the root of the hierarchy is 1.
    let whole = |point: &PathBuf| fs::metadata(point).is_ok_and(|meta| meta.ino() == 1);
    mounts::points("cgroup2").into_iter().find(whole)
}

/// A cgroup and those above it that it needs, removed when this value is dropped.
pub struct Cgroup {
    mount: PathBuf,
    path: String,
    made: Vec<PathBuf>,
}

impl Cgroup {
    /// Makes the cgroup with this path, such as `/a/b`, below the mount.
    pub fn new(mount: &Path, path: &str) -> io::Result<Cgroup> {
        let mut cgroup =
            Cgroup { mount: mount.to_owned(), path: path.to_owned(), made: Vec::new() };
        let mut directory = mount.to_owned();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            directory.push(part);
            match fs::create_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => result.map(|()| cgroup.made.push(directory.clone()))?,
            }
        }
        Ok(cgroup)
    }

    /// Its path below the mount.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        self.mount.join(self.path.trim_start_matches('/'))
    }

    /// Moves a process into it. 0 stands for the calling process.
    pub fn enter(directory: &Path, pid: u32) -> io::Result<()> {
        fs::write(directory.join("cgroup.procs"), pid.to_string())
    }

    /// Removes it, as soon as no process is in it.
    pub fn remove(self) {
        let directory = self.directory();
        until_true("an empty cgroup", || fs::remove_dir(&directory).is_ok());
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in self.made.iter().rev() {
            remove_all(directory);
        }
    }
}

/// Removes a cgroup and those below it, except where a process is left.
pub fn remove_all(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path());
        }
    }
    let _ = fs::remove_dir(directory);
}
