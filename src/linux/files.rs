//! Opens the files that tcptop writes.
//!
//! tcptop writes them as root, and their directory may be open to others (`/tmp`). Whoever
//! may write there can put a link to a file of root's at the path, or a file of his own
//! that he can read. So each step of the path is opened by itself and looked at through its
//! descriptor: between the look and the use nobody can put something else there.
//!
//! A lock keeps a second tcptop out of the file. It is one of fcntl(2), since it takes the right
//! to write: who may only read the file cannot keep tcptop out with it. It ends when the process
//! closes the file, by whichever descriptor, so no file is opened twice.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, IsTerminal};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open, openat, readlinkat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::geteuid;

use super::standard::say;

/// Links on the way to a file before the kernel gives up as well (path_resolution(7)).
const MOST_LINKS: u32 = 40;

/// How often to look again at a name that others keep changing.
const MOST_LOOKS: u32 = 8;

/// Opens the file at `path` to append to it; with `read`, to read it as well. Creates it,
/// with mode 0640 as far as the umask allows, if there is none. Does not change what is in
/// it. Waits for the reader of a FIFO, and says so on stderr.
///
/// # Errors
/// Those of open(2). In a directory that others may write to: where `path` is a symbolic
/// link, a file of another user, or a file with several names. A terminal. Where another
/// process has locked the file.
pub fn open_to_append(path: &Path, read: bool) -> io::Result<File> {
    for _ in 0..MOST_LOOKS {
        let Some(file) = open_once(path, read)? else { continue };
        return Ok(file);
    }
    Err(io::Error::other("others keep changing it; choose another directory"))
}

/// Calls `replace` with a path of this file that leads through the descriptor of its directory:
/// nobody can turn it elsewhere meanwhile.
///
/// # Errors
/// Where a symbolic link in a directory that others may write to leads to the directory, and
/// those of `replace`.
pub fn in_its_directory(
    path: &Path,
    replace: &mut dyn FnMut(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let name = path.file_name().ok_or(Errno::EISDIR)?;
    let directory = path.parent().unwrap_or(Path::new("")).join(".");
    let (directory, _) = walk(&directory)?.there.ok_or(Errno::ENOENT)?;
    replace(&through(&directory).join(name))
}

/// What must be open to open a file again.
pub(super) enum Surroundings {
    /// Its directory, so that it can be made anew, and that of the link to it.
    Directories([OwnedFd; 2]),
    /// Of a device only itself, since its directory has others. So of what came as a
    /// descriptor (`/dev/stdout`).
    Itself(OwnedFd),
    /// Nothing: a pipe or the like, or a file that has no name any more.
    Open,
}

/// Where the file at `path` is, by descriptors. Its absolute path is not asked for: this user
/// may not be permitted to go it.
///
/// # Errors
/// Those of [`open_to_append`] before the file itself is opened.
pub(super) fn surroundings(path: &Path) -> io::Result<Surroundings> {
    let link = path.parent().unwrap_or(Path::new("")).join(".");
    let place = walk(path)?;
    let is_file = |kind| matches!(kind, SFlag::S_IFREG | SFlag::S_IFIFO);
    match place.there {
        Some((_, status)) if place.in_proc && (status.st_nlink == 0 || is_stream(&status)) => {
            Ok(Surroundings::Open)
        }
        Some((fd, status)) if place.in_proc || !is_file(kind(&status)) => {
            Ok(Surroundings::Itself(fd))
        }
        _ => {
            let (link, _) = walk(&link)?.there.ok_or(Errno::ENOENT)?;
            Ok(Surroundings::Directories([place.directory, link]))
        }
    }
}

fn is_stream(status: &FileStat) -> bool {
    matches!(kind(status), SFlag::S_IFIFO | SFlag::S_IFSOCK)
}

/// As [`open_to_append`]; `None` where the name meant something else a moment later.
fn open_once(path: &Path, read: bool) -> io::Result<Option<File>> {
    let place = walk(path)?;
    let Some((fd, status)) = place.there else { return create(&place, path) };
    let kind = kind(&status);
    if kind == SFlag::S_IFDIR {
        return Err(Errno::EISDIR.into());
    }
    if place.others_may_write {
        if status.st_uid != geteuid().as_raw() {
            return Err(refusal("it belongs to another user"));
        }
        if kind == SFlag::S_IFREG && status.st_nlink > 1 {
            return Err(refusal("it is a file that has other names too"));
        }
    }
    let mut flags = OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    let readable = kind == SFlag::S_IFREG && read;
    flags |= if readable { OFlag::O_RDWR } else { OFlag::O_WRONLY };
    let same = through(&fd);
    let file = match kind {
        SFlag::S_IFIFO => open_fifo(&same, flags, path)?,
        _ => File::from(open(&same, flags, Mode::empty())?),
    };
    // A name that a process chose could give it orders.
    if file.is_terminal() {
        let reason = "it is a terminal; without --log the rows go there";
        return Err(io::Error::new(ErrorKind::InvalidInput, reason));
    }
    // A pipe or file that came as a descriptor (/dev/stdout) is left to those who gave it,
    // but two cannot cut the same file.
    if kind == SFlag::S_IFREG || (kind == SFlag::S_IFIFO && !place.in_proc) {
        lock(&file, path)?;
    }
    Ok(Some(file))
}

fn create(place: &Place, path: &Path) -> io::Result<Option<File>> {
    let flags = OFlag::O_RDWR
        | OFlag::O_APPEND
        | OFlag::O_CREAT
        | OFlag::O_EXCL
        | OFlag::O_NOFOLLOW
        | OFlag::O_CLOEXEC
        | OFlag::O_NOCTTY;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP;
    match openat(&place.directory, &*place.name, flags, mode) {
        Ok(fd) => {
            let file = File::from(fd);
            lock(&file, path)?;
            Ok(Some(file))
        }
        Err(Errno::EEXIST) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A path to what was looked at, whatever its name means by now (proc_pid_fd(5)).
fn through(fd: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", fd.as_raw_fd()).into()
}

/// Opens a FIFO. open(2) waits for its reader; without a word tcptop would seem to hang.
fn open_fifo(same: &Path, flags: OFlag, path: &Path) -> io::Result<File> {
    match open(same, flags | OFlag::O_NONBLOCK, Mode::empty()) {
        Ok(fd) => {
            fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
            Ok(File::from(fd))
        }
        Err(Errno::ENXIO) => {
            say(&format!("tcptop: waiting for a reader of {}", path.display()));
            Ok(File::from(open(same, flags, Mode::empty())?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Where a path leads to.
struct Place {
    directory: OwnedFd,
    /// Of the directory: whether somebody else may put files there.
    others_may_write: bool,
    /// The directory is one of /proc.
    in_proc: bool,
    name: OsString,
    /// What the name means, opened with O_PATH; `None` for nothing.
    there: Option<(OwnedFd, FileStat)>,
}

/// Follows a path, step by step. A symbolic link in a directory that others may write to is
/// refused wherever in the path it is.
fn walk(path: &Path) -> io::Result<Place> {
    let (mut directory, mut ahead) = beginning(path.as_os_str(), None)?;
    let mut links = 0;
    loop {
        let name = ahead.pop().ok_or(Errno::ENOENT)?;
        let status = fstat(&directory)?;
        // The links in /proc lead to a process's own files, whatever their text is. Nobody
        // can put others there.
        let in_proc = fstatfs(&directory)?.filesystem_type() == PROC_SUPER_MAGIC;
        let others_may_write = !in_proc && others_may_write(&status);
        let mut flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        flags.set(OFlag::O_NOFOLLOW, !in_proc);
        let there = match openat(&directory, &*name, flags, Mode::empty()) {
            Ok(fd) => {
                let status = fstat(&fd)?;
                Some((fd, status))
            }
            Err(Errno::ENOENT) if ahead.is_empty() => None,
            Err(error) => return Err(error.into()),
        };
        match there {
            Some((link, status)) if kind(&status) == SFlag::S_IFLNK => {
                links += 1;
                if others_may_write {
                    return Err(refusal("a symbolic link leads there"));
                }
                if links > MOST_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                let text = readlinkat(&link, "")?;
                let (from, mut steps) = beginning(&text, Some(directory))?;
                directory = from;
                ahead.append(&mut steps);
            }
            there if ahead.is_empty() => {
                return Ok(Place { directory, others_may_write, in_proc, name, there });
            }
            Some((next, _)) => directory = next,
            None => return Err(Errno::ENOENT.into()),
        }
    }
}

/// Where to begin with a path that is relative to `here` (without it, to the working
/// directory), and its steps, the first one last.
fn beginning(path: &OsStr, here: Option<OwnedFd>) -> io::Result<(OwnedFd, Vec<OsString>)> {
    let bytes = path.as_bytes();
    let root =
        |path| open(path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    let from = match here {
        _ if bytes.first() == Some(&b'/') => root("/")?,
        Some(here) => here,
        None => root(".")?,
    };
    let mut steps: Vec<OsString> = bytes
        .split(|&byte| byte == b'/')
        .filter(|step| !step.is_empty())
        .map(|step| OsString::from_vec(step.to_vec()))
        .collect();
    // What a slash follows is a directory.
    if bytes.last() == Some(&b'/') {
        steps.push(".".into());
    }
    steps.reverse();
    Ok((from, steps))
}

fn kind(status: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(status.st_mode & SFlag::S_IFMT.bits())
}

/// Whether somebody other than this user and root may put files into the directory. (With
/// an access control list, the bits of the group are the most that the list gives.)
fn others_may_write(directory: &FileStat) -> bool {
    let others = Mode::S_IWGRP | Mode::S_IWOTH;
    let owner = directory.st_uid;
    (owner != 0 && owner != geteuid().as_raw())
        || Mode::from_bits_truncate(directory.st_mode).intersects(others)
}

fn refusal(reason: &str) -> io::Error {
    io::Error::new(
        ErrorKind::PermissionDenied,
        format!("{reason}, in a directory that others may write to; choose another directory"),
    )
}

/// Locks the file for this process, until it closes the file.
fn lock(file: &File, path: &Path) -> io::Result<()> {
    let why = match take_lock(file) {
        Ok(None) => return Ok(()),
        Ok(Some(other)) if i32::from(other.l_type) == libc::F_WRLCK => {
            return Err(io::Error::new(
                ErrorKind::WouldBlock,
                format!("{} writes it and has locked it; choose another file", name(other.l_pid)),
            ));
        }
        Ok(Some(other)) => format!("{} reads it and has locked it", name(other.l_pid)),
        // A file system without locks. To refuse to write would be worse.
        Err(error) => error.desc().to_owned(),
    };
    say(&format!("tcptop: cannot lock {}: {why}; let no other tcptop write it", path.display()));
    Ok(())
}

/// Locks the file. Returns the lock of another process that does not allow it.
fn take_lock(file: &File) -> Result<Option<libc::flock>, Errno> {
    for _ in 0..MOST_LOOKS {
        match fcntl(file, FcntlArg::F_SETLK(&whole(libc::F_WRLCK))) {
            Ok(_) => return Ok(None),
            Err(Errno::EAGAIN | Errno::EACCES) => {}
            Err(error) => return Err(error),
        }
        let mut other = whole(libc::F_WRLCK);
        fcntl(file, FcntlArg::F_GETLK(&mut other))?;
        // Otherwise it is gone by now.
        if i32::from(other.l_type) != libc::F_UNLCK {
            return Ok(Some(other));
        }
    }
    Err(Errno::EAGAIN)
}

/// A lock of this kind over the whole of a file, however long it gets.
fn whole(kind: i32) -> libc::flock {
    // SAFETY: all zeroes is a value of this structure: from the file's beginning to its end.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock
}

/// The process with this PID, as far as it can be seen from here.
fn name(pid: i32) -> String {
    match fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim_end().escape_debug()),
        Err(_) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::fs::{PermissionsExt, symlink};

    /// A directory with this mode.
    fn directory(mode: u32) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        directory
    }

    fn refused(path: &Path) -> String {
        let error = open_to_append(path, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
        error.to_string()
    }

    #[test]
    fn a_new_file_is_for_its_user_and_group() {
        let place = directory(0o700);
        let path = place.path().join("log");
        let mut file = open_to_append(&path, true).unwrap();
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777 & !0o640, 0, "{mode:o}");
        file.write_all(b"rows").unwrap();
        let mut text = String::new();
        drop(file);
        open_to_append(&path, true).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "rows");
    }

    #[test]
    fn links_are_followed_where_nobody_else_can_put_one() {
        let (private, shared) = (directory(0o700), directory(0o777));
        let aim = private.path().join("deeper/log");
        fs::create_dir(private.path().join("deeper")).unwrap();
        symlink("deeper/../deeper/log", private.path().join("relative")).unwrap();
        symlink(&aim, private.path().join("absolute")).unwrap();
        symlink("deeper", private.path().join("on the way")).unwrap();
        for name in ["relative", "absolute", "on the way/log"] {
            drop(open_to_append(&private.path().join(name), false).unwrap());
            assert!(aim.exists(), "{name}");
            fs::remove_file(&aim).unwrap();
        }
        symlink(private.path(), shared.path().join("on the way")).unwrap();
        symlink(private.path().join("new"), shared.path().join("to a new file")).unwrap();
        for name in ["on the way/log", "to a new file"] {
            let reason = refused(&shared.path().join(name));
            assert!(reason.starts_with("a symbolic link leads there"), "{reason}");
        }
        symlink("circle", private.path().join("circle")).unwrap();
        let error = open_to_append(&private.path().join("circle"), false).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn sticky_or_not_what_others_may_write_to_is_shared() {
        for (mode, shared) in
            [(0o1777, true), (0o777, true), (0o770, true), (0o702, true), (0o755, false)]
        {
            let place = directory(mode);
            let (path, link) = (place.path().join("file"), place.path().join("link"));
            drop(open_to_append(&path, false).unwrap());
            symlink(&path, &link).unwrap();
            assert_eq!(open_to_append(&link, false).is_err(), shared, "{mode:o}");
            drop(open_to_append(&path, false).unwrap());
            fs::hard_link(&path, place.path().join("second name")).unwrap();
            assert_eq!(open_to_append(&path, false).is_err(), shared, "{mode:o}");
        }
    }

    /// Locks the whole file with a lock that belongs to this descriptor: not tcptop's own.
    fn lock_as_another(file: &File, kind: i32) {
        fcntl(file, FcntlArg::F_OFD_SETLK(&whole(kind))).unwrap();
    }

    #[test]
    fn a_second_writer_is_refused() {
        let place = directory(0o700);
        let path = place.path().join("log");
        drop(open_to_append(&path, false).unwrap());
        let first = File::options().write(true).open(&path).unwrap();
        lock_as_another(&first, libc::F_WRLCK);
        let error = open_to_append(&path, true).unwrap_err().to_string();
        assert!(error.starts_with("another process writes it and has locked it; "), "{error}");
        drop(first);
        let file = open_to_append(&path, true).unwrap();
        let error = fcntl(
            File::options().write(true).open(&path).unwrap(),
            FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK)),
        );
        assert_eq!(error, Err(Errno::EAGAIN), "tcptop has locked it");
        drop(file);
    }

    #[test]
    fn who_may_only_read_it_keeps_nobody_out() {
        let place = directory(0o700);
        let path = place.path().join("log");
        drop(open_to_append(&path, false).unwrap());
        let reader = File::open(&path).unwrap();
        // SAFETY: flock(2) takes two numbers; the descriptor is open.
        assert_eq!(unsafe { libc::flock(reader.as_raw_fd(), libc::LOCK_EX) }, 0);
        drop(open_to_append(&path, false).unwrap());
        lock_as_another(&reader, libc::F_RDLCK);
        drop(open_to_append(&path, false).unwrap());
    }

    #[test]
    fn processes_have_names() {
        let id = std::process::id();
        assert!(name(id as i32).starts_with(&format!("process {id} (")), "{}", name(id as i32));
        for nobody in [0, -1] {
            assert_eq!(name(nobody), "another process");
        }
    }

    #[test]
    fn what_is_no_file_is_opened_and_not_locked() {
        let null = Path::new("/dev/null");
        let both = [open_to_append(null, false).unwrap(), open_to_append(null, true).unwrap()];
        drop(both);
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut reader = File::from(reader);
        let path = format!("/proc/self/fd/{}", writer.as_raw_fd());
        let mut files = [(); 2].map(|()| open_to_append(Path::new(&path), false).unwrap());
        drop(writer);
        files[0].write_all(b"a").unwrap();
        files[1].write_all(b"b").unwrap();
        drop(files);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "ab");
        for (path, expected) in [
            ("/proc", libc::EISDIR),
            ("/dev/null/", libc::ENOTDIR),
            ("/no/such", libc::ENOENT),
            ("", libc::ENOENT),
            ("/proc/self/new", libc::ENOENT),
        ] {
            let error = open_to_append(Path::new(path), false).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(expected), "{path}: {error}");
        }
    }

    #[test]
    fn a_fifo_waits_in_writing_as_ever() {
        let place = directory(0o700);
        let path = place.path().join("fifo");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        let reader =
            File::from(open(&path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).unwrap());
        let file = open_to_append(&path, false).unwrap();
        let flags = fcntl(&file, FcntlArg::F_GETFL).unwrap();
        assert_eq!(flags & libc::O_NONBLOCK, 0);
        drop(file);
        let other = File::options().write(true).open(&path).unwrap();
        lock_as_another(&other, libc::F_WRLCK);
        assert!(open_to_append(&path, false).unwrap_err().to_string().contains("locked"));
        drop(reader);
    }
}
