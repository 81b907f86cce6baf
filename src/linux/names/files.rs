//! Reads small files that others have written, also hostile ones.
//!
//! tcptop may read more than the owner of such a file may. So a file is read only if it
//! is a regular one of its expected owner: a symbolic link, a hard link or a mount in a
//! user's directory does not make tcptop read another file, and a FIFO does not make it
//! wait.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::Mode;

/// A directory tree whose files are read.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// Where it begins.
    pub root: PathBuf,
    /// The user whom every file must belong to.
    pub owner: u32,
    /// True where the owner decides what is in the tree, not the host: then nothing may
    /// lead out of it.
    pub closed: bool,
}

/// How much may be read: parsing what others write must not keep tcptop from its work.
#[derive(Debug)]
pub(super) struct Budget {
    left: u64,
    since: Instant,
}

impl Budget {
    /// Bytes in each [`SPAN`](Budget::SPAN): their parsing takes a tenth of that time.
    const BYTES: u64 = 16 << 20;
    const SPAN: Duration = Duration::from_secs(1);

    /// A full one.
    pub(super) fn new(now: Instant) -> Budget {
        Budget { left: Budget::BYTES, since: now }
    }

    /// Fills it up if it is time to.
    pub(super) fn refill(&mut self, now: Instant) {
        if now.saturating_duration_since(self.since) >= Budget::SPAN {
            *self = Budget::new(now);
        }
    }

    /// False where so much is not left.
    pub(super) fn take(&mut self, bytes: u64) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

impl Tree {
    /// The content of a file. `None` where it is missing, is not a regular file of the
    /// owner, has more than `most` bytes, or the budget is used up.
    pub(super) fn read(&self, path: &str, most: u64, budget: &mut Budget) -> Option<Vec<u8>> {
        let file = File::from(self.open(path)?);
        let meta = file.metadata().ok()?;
        let sane = meta.is_file() && meta.uid() == self.owner && meta.len() <= most;
        // A page at least: a small file is not free either.
        if !sane || !budget.take(meta.len().max(4096)) {
            return None;
        }
        let mut content = Vec::new();
        file.take(most + 1).read_to_end(&mut content).ok()?;
        (content.len() as u64 <= most).then_some(content)
    }

    fn open(&self, path: &str) -> Option<OwnedFd> {
        let flags = OFlag::O_RDONLY
            | OFlag::O_CLOEXEC
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY;
        if !self.closed {
            return openat(AT_FDCWD, &self.root.join(path), flags, Mode::empty()).ok();
        }
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(&self.root, directory, Mode::empty()).ok()?;
        let how = OpenHow::new().flags(flags).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        openat2(root, Path::new(path), how).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{geteuid, mkfifo};
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    fn trees() -> (tempfile::TempDir, [Tree; 2]) {
        let directory = tempfile::tempdir().unwrap();
        let tree = |closed| Tree {
            root: directory.path().join("home"),
            owner: geteuid().as_raw(),
            closed,
        };
        let trees = [tree(false), tree(true)];
        fs::create_dir_all(directory.path().join("home/sub")).unwrap();
        fs::write(directory.path().join("secret"), "secret").unwrap();
        (directory, trees)
    }

    #[test]
    fn only_regular_files_of_the_owner_are_read() {
        let (directory, trees) = trees();
        let home = directory.path().join("home");
        fs::write(home.join("sub/file"), "text").unwrap();
        symlink(directory.path().join("secret"), home.join("link")).unwrap();
        symlink("sub/file", home.join("inner")).unwrap();
        symlink("/dev/zero", home.join("device")).unwrap();
        mkfifo(&home.join("fifo"), Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(home.join("socket")).unwrap();
        let mut budget = Budget::new(Instant::now());
        for tree in trees {
            let mut read = |path| tree.read(path, 100, &mut budget);
            assert_eq!(read("sub/file"), Some(b"text".to_vec()));
            for path in ["link", "inner", "device", "fifo", "socket", "sub", "none", ""] {
                assert_eq!(read(path), None, "{path} {tree:?}");
            }
            let other = Tree { owner: tree.owner + 1, ..tree.clone() };
            assert_eq!(other.read("sub/file", 100, &mut budget), None, "another's");
        }
    }

    #[test]
    fn nothing_leads_out_of_a_closed_tree() {
        let (directory, [_, closed]) = trees();
        let home = directory.path().join("home");
        symlink(directory.path(), home.join("up")).unwrap();
        symlink("sub", home.join("side")).unwrap();
        fs::write(home.join("sub/file"), "text").unwrap();
        let mut budget = Budget::new(Instant::now());
        let mut read = |path: &str| closed.read(path, 100, &mut budget);
        for path in ["../secret", "up/secret", "side/file", "/etc/passwd", "sub/../../secret"] {
            assert_eq!(read(path), None, "{path}");
        }
    }

    #[test]
    fn large_files_and_many_files_are_not_read() {
        let (directory, trees) = trees();
        let home = directory.path().join("home");
        fs::write(home.join("large"), vec![b'x'; 1 << 20]).unwrap();
        let start = Instant::now();
        for tree in trees {
            let mut budget = Budget::new(start);
            assert!(tree.read("large", (1 << 20) - 1, &mut budget).is_none());
            let mut count = 0;
            while tree.read("large", 1 << 20, &mut budget).is_some() {
                count += 1;
            }
            assert_eq!(count, 16, "the budget");
            budget.refill(start + Duration::from_millis(999));
            assert!(tree.read("large", 1 << 20, &mut budget).is_none());
            budget.refill(start + Duration::from_secs(1));
            assert!(tree.read("large", 1 << 20, &mut budget).is_some());
        }
        // A file of /proc says that it is empty.
        let proc = Tree { root: "/proc".into(), owner: geteuid().as_raw(), closed: false };
        assert!(proc.read("self/maps", 10, &mut Budget::new(start)).is_none());
    }
}
