//! The file that a process executes.
//!
//! A PID can be used again. A path is given only for the process that the connection's
//! owner names: a process is known by its PID and the time when it started, and it must
//! have the owner's name.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::cache::Cache;
use crate::connection::Owner;

/// The paths behind `/proc/PID/exe`. To read the link of another user's process needs
/// CAP_SYS_PTRACE (proc_pid_exe(5)).
#[derive(Debug)]
pub(super) struct Executables {
    /// Where the processes are; `None` where their PIDs are not those of the owners.
    proc: Option<PathBuf>,
    cache: Cache<u32, Uses>,
}

/// The processes that had a PID: the newest, and the one before it.
#[derive(Clone, Debug, Default)]
struct Uses {
    newest: Option<Process>,
    before: Option<Process>,
}

#[derive(Clone, Debug)]
struct Process {
    /// In clock ticks since the boot (`starttime` in proc_pid_stat(5)).
    start: u64,
    /// Its name, and the different one that it had before, if any.
    names: [Box<[u8]>; 2],
    path: Option<Box<str>>,
    /// True where it has no program any more: it is ending, or waits for its parent.
    ended: bool,
}

impl Executables {
    /// Those below `proc`, which is `/proc` on a host. Looks at no process yet.
    pub(super) fn new(proc: &Path) -> Executables {
        /// Of several hundred bytes each.
        const MOST: usize = 16_384;
        let proc = shows_every_process(proc).then(|| proc.to_owned());
        Executables { proc, cache: Cache::new(MOST) }
    }

    /// The path of the owner's executable, as the kernel writes it. `None` where the
    /// owner ended before it was looked at, or may not be looked at.
    pub(super) fn path(&mut self, owner: Owner, now: Instant) -> Option<&str> {
        let proc = self.proc.as_deref()?;
        // Looked at again in each interval: execve(2) changes the path.
        let uses = self.cache.get(
            owner.pid,
            now,
            |_| Duration::ZERO,
            |before| before.cloned().unwrap_or_default().with(Process::read(proc, owner.pid)),
        );
        uses.path(owner.name.as_bytes())
    }
}

impl Uses {
    /// With what is there now; `None` where no process has the PID. The last one is kept
    /// then: a connection can outlive its owner.
    fn with(mut self, found: Option<Process>) -> Uses {
        let Some(mut found) = found else { return self };
        match self.newest.take() {
            Some(known) if known.start == found.start => {
                let [name, before] = known.names;
                found.names[1] = if name == found.names[0] { before } else { name };
                if found.ended {
                    found.path = known.path;
                }
            }
            other => self.before = other,
        }
        self.newest = Some(found);
        self
    }

    fn path(&self, name: &[u8]) -> Option<&str> {
        let named = |process: &&Process| process.names.iter().any(|known| **known == *name);
        let newest = self.newest.as_ref().filter(named);
        let before = self.before.as_ref().filter(named);
        match (newest, before) {
            // It cannot be told which of the two the owner is.
            (Some(one), Some(other)) if one.path != other.path => None,
            (Some(process), _) | (None, Some(process)) => process.path.as_deref(),
            (None, None) => None,
        }
    }
}

impl Process {
    fn read(proc: &Path, pid: u32) -> Option<Process> {
        let directory = proc.join(pid.to_string());
        let start_and_name = || start_and_name(&fs::read(directory.join("stat")).ok()?);
        let (start, name) = start_and_name()?;
        let link = fs::read_link(directory.join("exe"));
        // The PID can have been used again between the two.
        let same = start_and_name().is_some_and(|(again, _)| again == start);
        let ended = !same || link.as_ref().is_err_and(|e| e.kind() == ErrorKind::NotFound);
        let path = link.ok().filter(|_| same).map(|path| path.to_string_lossy().into());
        Some(Process { start, names: [name.clone(), name], path, ended })
    }
}

/// From `/proc/PID/stat` (proc_pid_stat(5)): `PID (NAME) STATE …`, where the name can
/// hold any character, also `)`.
pub(super) fn start_and_name(stat: &[u8]) -> Option<(u64, Box<[u8]>)> {
    /// `starttime` is the 22nd field; the first after the name is the third.
    const START: usize = 22 - 3;
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let name = stat.get(open + 1..close)?;
    let rest = std::str::from_utf8(stat.get(close + 1..)?).ok()?;
    Some((rest.split_ascii_whitespace().nth(START)?.parse().ok()?, name.into()))
}

/// Whether the PIDs are those of the initial PID namespace, as the owners' are.
fn shows_every_process(proc: &Path) -> bool {
    /// The inode number of the initial PID namespace (`PROC_PID_INIT_INO` in
    /// include/linux/proc_ns.h).
    const INITIAL: &str = "pid:[4026531836]";
    fs::read_link(proc.join("self/ns/pid")).is_ok_and(|link| link == Path::new(INITIAL))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::KernelName;
    use std::os::unix::fs::symlink;

    fn owner(pid: u32, name: &[u8]) -> Owner {
        let mut comm = [0; 16];
        comm[..name.len()].copy_from_slice(name);
        Owner { pid, name: KernelName::from_comm(comm) }
    }

    /// A made-up /proc.
    struct Proc(tempfile::TempDir);

    impl Proc {
        fn new() -> Proc {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir_all(directory.path().join("self/ns")).unwrap();
            symlink("pid:[4026531836]", directory.path().join("self/ns/pid")).unwrap();
            Proc(directory)
        }

        fn set(&self, pid: u32, name: &[u8], start: u64, exe: Option<&str>) {
            self.end(pid);
            let directory = self.0.path().join(pid.to_string());
            fs::create_dir(&directory).unwrap();
            let mut stat = format!("{pid} (").into_bytes();
            stat.extend_from_slice(name);
            stat.extend_from_slice(b") S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 ");
            stat.extend_from_slice(format!("{start} 20 21\n").as_bytes());
            fs::write(directory.join("stat"), stat).unwrap();
            if let Some(exe) = exe {
                symlink(exe, directory.join("exe")).unwrap();
            }
        }

        fn end(&self, pid: u32) {
            let _ = fs::remove_dir_all(self.0.path().join(pid.to_string()));
        }
    }

    #[test]
    fn a_path_belongs_to_one_process_and_not_to_its_pid() {
        let proc = Proc::new();
        let mut executables = Executables::new(proc.0.path());
        let mut now = Instant::now();
        let mut ask = |pid, name: &[u8]| executables.path(owner(pid, name), now).map(str::to_owned);
        proc.set(7, b"web", 100, Some("/bin/web"));
        assert_eq!(ask(7, b"web").as_deref(), Some("/bin/web"));
        assert_eq!(ask(8, b"web"), None, "no such process");

        let mut next = |pid, name: &[u8]| {
            now += Duration::from_millis(1);
            executables.path(owner(pid, name), now).map(str::to_owned)
        };
        proc.set(7, b"web", 100, Some("/bin/web (deleted)"));
        assert_eq!(next(7, b"web").as_deref(), Some("/bin/web (deleted)"), "as the kernel says");
        proc.set(7, b"worker", 100, Some("/bin/worker"));
        assert_eq!(next(7, b"worker").as_deref(), Some("/bin/worker"), "execve");
        assert_eq!(next(7, b"web").as_deref(), Some("/bin/worker"), "the same process");
        proc.set(7, b"worker", 100, None);
        assert_eq!(next(7, b"worker").as_deref(), Some("/bin/worker"), "it is ending");
        proc.end(7);
        assert_eq!(next(7, b"worker").as_deref(), Some("/bin/worker"), "it ended");
        assert_eq!(next(7, b"other"), None, "a process that was never seen");

        proc.set(7, b"mail", 200, Some("/bin/mail"));
        assert_eq!(next(7, b"mail").as_deref(), Some("/bin/mail"), "the PID is used again");
        assert_eq!(next(7, b"worker").as_deref(), Some("/bin/worker"), "the process before");
        proc.set(7, b"mail", 300, Some("/opt/mail"));
        assert_eq!(next(7, b"mail"), None, "one of two");
        assert_eq!(next(7, b"worker"), None);
        proc.set(9, b"a) R 1 (b", 5, Some("/x"));
        assert_eq!(next(9, b"a) R 1 (b").as_deref(), Some("/x"));
        proc.set(9, b"kthread", 6, None);
        assert_eq!(next(9, b"kthread"), None);
    }

    #[test]
    fn another_pid_namespace_has_other_processes() {
        let proc = Proc::new();
        proc.set(7, b"web", 100, Some("/bin/web"));
        fs::remove_file(proc.0.path().join("self/ns/pid")).unwrap();
        symlink("pid:[4026532000]", proc.0.path().join("self/ns/pid")).unwrap();
        let mut executables = Executables::new(proc.0.path());
        assert_eq!(executables.path(owner(7, b"web"), Instant::now()), None);
    }

    #[test]
    fn broken_text_is_no_process() {
        for stat in [
            "",
            "7",
            "7 (web",
            "7 )web(",
            "7 (web) S 1",
            "7 (web) S 1 2 3 4 5 6 7 8 9 \
             10 11 12 13 14 15 16 17 18 x",
        ] {
            assert_eq!(start_and_name(stat.as_bytes()), None, "{stat}");
        }
        assert_eq!(start_and_name(b"7 (web) \xff"), None);
    }

    #[test]
    fn this_process_has_an_executable() {
        let stat = fs::read("/proc/self/stat").unwrap();
        let (_, name) = start_and_name(&stat).unwrap();
        let mut executables = Executables::new(Path::new("/proc"));
        let expected = std::env::current_exe().unwrap();
        if executables.proc.is_some() {
            let found = executables.path(owner(std::process::id(), &name), Instant::now());
            assert_eq!(found, expected.to_str());
        }
    }
}
