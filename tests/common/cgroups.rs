//! Cgroups that a test makes.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat, write};
use tempfile::TempDir;

use super::mounts;
use super::wait::until_true;

/// Where the whole tree of cgroup v2 is mounted.
pub fn root() -> Option<PathBuf> {
    // The inode number of the root of the hierarchy is 1.
    let whole = |point: &PathBuf| fs::metadata(point).is_ok_and(|meta| meta.ino() == 1);
    mounts::points("cgroup2").into_iter().find(whole)
}

/// Where cgroups with this controller can be made: in its hierarchy of v1, or in v2.
pub fn controlled(controller: &str) -> Option<PathBuf> {
    mounts::point_with("cgroup", controller).or_else(|| {
        let root = root()?;
        let control = root.join("cgroup.subtree_control");
        fs::write(control, format!("+{controller}")).is_ok().then_some(root)
    })
}

/// Where cgroups with a limit of memory can be made, and the name of that limit's file.
pub fn memory() -> Option<(PathBuf, &'static str)> {
    let mount = controlled("memory")?;
    let old = mount.join("memory.limit_in_bytes").exists();
    Some((mount, if old { "memory.limit_in_bytes" } else { "memory.max" }))
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

/// Cgroups of the same name, one in the other, so many that no path leads to the last one.
/// They are removed when this value is dropped.
pub struct Nested {
    name: String,
    /// The one above them, then each of them.
    directories: Vec<OwnedFd>,
}

impl Nested {
    /// Makes so many with this name in `directory`.
    pub fn new(directory: &Path, name: &str, levels: usize) -> io::Result<Nested> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let top = open(directory, flags, Mode::empty())?;
        let mut nested = Nested { name: name.to_owned(), directories: vec![top] };
        for _ in 0..levels {
            let above = nested.last();
            mkdirat(above, name, Mode::from_bits_truncate(0o755))?;
            let made = openat(above, name, flags, Mode::empty())?;
            nested.directories.push(made);
        }
        Ok(nested)
    }

    /// Moves the calling process into the last one when it is called.
    pub fn entrance(&self) -> io::Result<impl Fn() -> io::Result<()> + use<>> {
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let processes = openat(self.last(), "cgroup.procs", flags, Mode::empty())?;
        Ok(move || write(&processes, b"0").map(drop).map_err(io::Error::from))
    }

    /// Removes them, as soon as no process is in them.
    pub fn remove(mut self) {
        until_true("empty cgroups", || self.try_remove());
    }

    fn last(&self) -> &OwnedFd {
        self.directories.last().expect("the one above them")
    }

    fn try_remove(&mut self) -> bool {
        while let [.., above, _] = &self.directories[..] {
            if unlinkat(above, &*self.name, UnlinkatFlags::RemoveDir).is_err() {
                return false;
            }
            self.directories.pop();
        }
        true
    }
}

impl Drop for Nested {
    fn drop(&mut self) {
        self.try_remove();
    }
}

/// A hierarchy of cgroup v1 without controllers, which goes when this value is dropped.
pub struct Old {
    point: TempDir,
    name: String,
}

impl Old {
    /// Makes a hierarchy with this name.
    pub fn mount(name: &str) -> io::Result<Old> {
        let point = tempfile::tempdir()?;
        mounts::cgroup1(point.path(), name)?;
        Ok(Old { point, name: name.to_owned() })
    }

    /// Where it is mounted.
    pub fn directory(&self) -> &Path {
        self.point.path()
    }

    fn exists(&self) -> bool {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        own.contains(&format!(":name={}:", self.name))
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        let point = self.point.path();
        remove_below(point);
        let _ = mounts::detach(point);
        // The kernel ends the hierarchy a little later, but only if it was done with all of
        // its cgroups when the last mount went. Otherwise it takes another mount.
        for turn in 0..10 {
            if turn > 0 && mounts::cgroup1(point, &self.name).is_ok() {
                let _ = mounts::detach(point);
            }
            let deadline = Instant::now() + Duration::from_millis(200);
            while Instant::now() < deadline {
                if !self.exists() {
                    return;
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Removes a cgroup and those below it, except where a process is left.
pub fn remove_all(directory: &Path) {
    remove_below(directory);
    let _ = fs::remove_dir(directory);
}

fn remove_below(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_all(&entry.path());
        }
    }
}
