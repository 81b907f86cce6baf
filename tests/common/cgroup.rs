//! Cgroups that live as long as their value.

use std::fs;
use std::path::PathBuf;

use super::mounts;
use super::wait::until_true;

/// A cgroup of version 2. Processes that are in it must end before this value is dropped.
pub struct Cgroup {
    mount: PathBuf,
    /// Its path below the mount, beginning with `/`.
    pub path: String,
}

impl Cgroup {
    /// Below the root. The test's PID becomes a part of the name, before a suffix such as
    /// `.service`.
    ///
    /// # Errors
    /// Where cgroup v2 is not mounted or may not be changed.
    pub fn new(name: &str) -> Result<Cgroup, String> {
        let mount = mounts::points("cgroup2").into_iter().next();
        let mount = mount.ok_or("cgroup v2 is not mounted")?;
        let (name, suffix) = name.split_at(name.find('.').unwrap_or(name.len()));
        let path = format!("/{name}-{}{suffix}", std::process::id());
        Cgroup { mount, path }.made()
    }

    /// Below this one.
    pub fn below(&self, name: &str) -> Cgroup {
        let path = format!("{}/{name}", self.path);
        Cgroup { mount: self.mount.clone(), path }.made().expect("a cgroup")
    }

    fn made(self) -> Result<Cgroup, String> {
        let directory = self.directory();
        match fs::create_dir(&directory) {
            Ok(()) => Ok(self),
            Err(error) => Err(format!("{}: {error}", directory.display())),
        }
    }

    /// Its directory.
    pub fn directory(&self) -> PathBuf {
        self.mount.join(&self.path[1..])
    }

    /// Moves a process into it.
    pub fn take(&self, pid: u32) {
        fs::write(self.directory().join("cgroup.procs"), pid.to_string()).expect("cgroup.procs");
    }

    /// Removes it, and makes one with the same path and another id, as systemd does when a
    /// service starts again.
    pub fn again(&self) {
        self.remove();
        fs::create_dir(self.directory()).expect("a cgroup");
    }

    /// A process that has ended stays in it for a moment.
    fn remove(&self) {
        until_true("the cgroup to be empty", || fs::remove_dir(self.directory()).is_ok());
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.remove();
        }
    }
}
