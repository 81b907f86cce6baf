//! Changes a process's view of the file system, for this process alone. To be called
//! before it executes another program; the kernel undoes everything when it ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Moves into a private mount namespace: no other process sees what is mounted from now on.
pub fn private() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    Ok(mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?)
}

/// Mounts an empty directory over this one.
pub fn hide(directory: &Path) -> io::Result<()> {
    Ok(mount(Some("none"), directory, Some("tmpfs"), MsFlags::empty(), None::<&str>)?)
}

/// Mounts one directory over another one.
pub fn bind(what: &Path, over: &Path) -> io::Result<()> {
    Ok(mount(Some(what), over, None::<&str>, MsFlags::MS_BIND, None::<&str>)?)
}

/// Mounts cgroup v2.
pub fn cgroup2(point: &Path) -> io::Result<()> {
    Ok(mount(Some("none"), point, Some("cgroup2"), MsFlags::empty(), None::<&str>)?)
}

/// Lets no program below this directory gain privileges by its file.
pub fn without_suid(directory: &Path) -> io::Result<()> {
    bind(directory, directory)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_NOSUID;
    Ok(mount(None::<&str>, directory, None::<&str>, flags, None::<&str>)?)
}

/// Mounts a hierarchy of cgroup v1 with this name and without controllers.
pub fn cgroup1(point: &Path, name: &str) -> io::Result<()> {
    let options = format!("none,name={name}");
    Ok(mount(Some("none"), point, Some("cgroup"), MsFlags::empty(), Some(&*options))?)
}

/// Takes a mount away.
pub fn detach(point: &Path) -> io::Result<()> {
    Ok(umount2(point, MntFlags::MNT_DETACH)?)
}

/// Where file systems of this type are mounted.
pub fn points(kind: &str) -> Vec<PathBuf> {
    found(|words| words[2] == kind)
}

/// Where a file system of this type is mounted with this option.
pub fn point_with(kind: &str, option: &str) -> Option<PathBuf> {
    found(|words| words[2] == kind && words[3].split(',').any(|other| other == option)).pop()
}

/// The mounts whose line in proc_pid_mounts(5) is this one.
fn found(is: impl Fn(&[&str]) -> bool) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
    let point = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        is(&words).then(|| PathBuf::from(words[1]))
    };
    mounts.lines().filter_map(point).collect()
}
