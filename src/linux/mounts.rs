//! What is mounted in tcptop's mount namespace.
//!
//! Owns the format of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// A mount.
pub(super) struct Mount<'m> {
    /// What of the file system is mounted, as the kernel writes it.
    pub(super) root: &'m [u8],
    /// Where.
    pub(super) point: PathBuf,
}

/// The list of all mounts, for [`of_type`].
///
/// # Errors
/// Where /proc cannot be read.
pub(super) fn read() -> io::Result<Vec<u8>> {
    fs::read("/proc/self/mountinfo")
}

/// The mounts of this type in the list.
pub(super) fn of_type<'m>(mountinfo: &'m [u8], kind: &'m [u8]) -> impl Iterator<Item = Mount<'m>> {
    mountinfo.split(|&byte| byte == b'\n').filter_map(move |line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        // A dash ends the optional fields; the type follows it.
        let found = fields.skip_while(|field| *field != b"-").nth(1)?;
        (found == kind).then(|| Mount { root, point: unescape(point) })
    })
}

/// Decodes a path: the kernel writes a blank, tab, newline or backslash as `\` and
/// three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut path = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        match rest {
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..] => {
                path.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = tail;
            }
            _ => {
                path.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(path).into()
}
