//! Finds the connections that are older than tcptop.
//!
//! Owns the choice of iterators for that, and the walk through the network namespaces.
//! Sends no events: the iterators' programs create storage for the sockets, and the next
//! sampling pass visits these sockets like all others.

use std::collections::HashSet;
use std::fs::{self, DirEntry, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use caps::Capability;
use libbpf_rs::Link;
use nix::libc;
use nix::sched::{CloneFlags, setns};

use super::{iterate, mounts, names, privileges};

/// Finds every socket that a process has open, in all network namespaces.
///
/// # Errors
/// Where the iterator cannot be read.
pub(super) fn held(link: &Link) -> Result<()> {
    iterate::run(link).context("failed to list the sockets of all processes")
}

/// Finds every TCP socket that no process has open: those that are not yet accepted, and
/// those that are closed and still send. The iterator sees only the network namespace of
/// the thread that opens it, so another thread enters one namespace after the other.
/// Entering needs CAP_SYS_ADMIN. Returns what to tell the user, if there are namespaces in
/// which such sockets were not found.
///
/// # Errors
/// Where the iterator cannot be read in tcptop's own namespace.
pub(super) fn unheld(link: &Link) -> Result<Option<String>> {
    thread::scope(|scope| {
        let visitor = thread::Builder::new().name("namespaces".into());
        let visitor = visitor
            .spawn_scoped(scope, || visit_others(|path| enter(path, link)))
            .context("failed to start a thread")?;
        iterate::run(link).context("failed to list the TCP sockets")?;
        // Until its end, not only that of its work: it has privileges that are given up next.
        let missed = visitor.join().map_err(|_| anyhow!("the look-up of sockets panicked"))?;
        Ok(missed
            .map(|places| format!("cannot see older connections that no process holds {places}")))
    })
}

/// Runs the iterator in the network namespace at this path. One descriptor is enough for any
/// number of namespaces.
fn enter(path: &Path, link: &Link) -> io::Result<()> {
    setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?;
    iterate::run(link)
}

/// Calls `enter` for each network namespace that has a process or a name, except tcptop's own.
/// The calling thread may be in another one afterwards. Returns where it failed, and why.
pub(super) fn visit_others(enter: impl FnMut(&Path) -> io::Result<()>) -> Option<String> {
    // With the capability, only a process with even more privileges cannot be read. Others are
    // in its namespace, which is mostly tcptop's own.
    visit_namespaces(!privileges::has(Capability::CAP_SYS_ADMIN), enter).words()
}

/// Calls `enter` for each network namespace of [`paths`], except tcptop's own. With
/// `unreadable`, a process whose namespace cannot be read counts as missed.
fn visit_namespaces(unreadable: bool, mut enter: impl FnMut(&Path) -> io::Result<()>) -> Missed {
    let mut known = HashSet::new();
    known.extend(names::own_network_namespace().map(u64::from));
    let mut missed = Missed::default();
    let paths = match paths() {
        Ok(paths) => paths,
        Err(error) => {
            missed.add("/proc".into(), error);
            return missed;
        }
    };
    for path in paths {
        let namespace = match fs::metadata(&path) {
            Ok(meta) => meta.ino(),
            Err(error) if unreadable && !has_ended(&error) => {
                missed.unreadable = true;
                missed.add(path, error);
                continue;
            }
            Err(_) => continue,
        };
        if known.contains(&namespace) {
            continue;
        }
        match enter(&path) {
            // Another process may be in the same namespace.
            Err(error) if has_ended(&error) => continue,
            Err(error) => missed.add(path, error),
            Ok(()) => {}
        }
        known.insert(namespace);
    }
    missed
}

/// Where network namespaces can be entered: those of processes, and those that have a name
/// (ip-netns(8), container runtimes) and may have no process.
fn paths() -> io::Result<impl Iterator<Item = PathBuf>> {
    let mounts = mounts::read()?;
    let named = mounts::of_type(&mounts, b"nsfs").filter(|mount| mount.root.starts_with(b"net:["));
    let named: Vec<PathBuf> = named.map(|mount| mount.point).collect();
    let is_process =
        |entry: &DirEntry| entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let processes = fs::read_dir("/proc")?.flatten().filter(is_process);
    Ok(processes.map(|process| process.path().join("ns/net")).chain(named))
}

/// Whether the error says that a process has ended meanwhile, or a mount.
fn has_ended(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// The namespaces that could not be looked at.
#[derive(Debug, Default)]
struct Missed {
    /// Their number. A process whose namespace cannot be read counts as one.
    count: usize,
    /// The first one, and why.
    first: Option<(PathBuf, io::Error)>,
    /// True where the namespace of a process could not be read.
    unreadable: bool,
}

impl Missed {
    fn add(&mut self, path: PathBuf, error: io::Error) {
        self.count += 1;
        self.first.get_or_insert((path, error));
    }

    fn words(&self) -> Option<String> {
        let (path, error) = self.first.as_ref()?;
        if self.unreadable {
            // Which of the processes are in other namespaces is not known.
            return Some(
                "in other network namespaces: CAP_SYS_ADMIN is needed for it, or root".to_owned(),
            );
        }
        let more = match self.count {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        Some(format!(
            "in the network namespace of {}{more}: {error}; CAP_SYS_ADMIN is needed for it, or root",
            path.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::process::{Child, Command};

    /// A process in a network namespace of its own, where that is permitted.
    fn in_own_namespace() -> Option<Child> {
        let mut command = Command::new("unshare");
        let child = command.args(["--user", "--net", "sleep", "60"]).spawn().ok()?;
        let own = names::own_network_namespace().ok();
        for _ in 0..1000 {
            let inode = fs::metadata(format!("/proc/{}/ns/net", child.id())).ok()?.ino();
            if Some(inode as u32) != own {
                return Some(child);
            }
            thread::sleep(std::time::Duration::from_millis(1));
        }
        None
    }

    #[test]
    fn a_namespace_that_cannot_be_entered_is_told_and_the_others_are_visited() {
        let Some(mut processes) =
            [(); 3].map(|()| in_own_namespace()).into_iter().collect::<Option<Vec<Child>>>()
        else {
            return;
        };
        let paths: Vec<PathBuf> =
            processes.iter().map(|child| format!("/proc/{}/ns/net", child.id()).into()).collect();
        let visited = RefCell::new(Vec::new());
        let missed = visit_namespaces(false, |path| {
            visited.borrow_mut().push(path.to_owned());
            // Those of other programs do not matter here.
            match paths.iter().position(|own| own == path) {
                Some(0) => Err(io::Error::from_raw_os_error(libc::EPERM)),
                Some(1) => Err(io::Error::from_raw_os_error(libc::ESRCH)),
                _ => Ok(()),
            }
        });
        for child in &mut processes {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(paths.iter().all(|path| visited.borrow().contains(path)), "{paths:?}");
        let words = missed.words().expect("one was refused");
        assert!(words.contains("Operation not permitted"), "{words}");
        assert_eq!(missed.count, 1, "a process that has ended is none: {words}");
    }
}
