//! Looks up names for the numbers of a connection: its device, cgroup and container.
//!
//! Owns the look-ups on the host (device names, the cgroup v2 tree) and how long their
//! results are kept. A name that is not found is left out, never guessed. Nothing is
//! looked up before a row needs it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustc_hash::FxBuildHasher;

use crate::connection::{Needs, Sample};
use crate::names::{Names, Place};

/// The names on this host.
#[derive(Debug)]
pub(super) struct HostNames {
    /// Inode number of tcptop's network namespace; 0 where it is not known.
    netns: u32,
    /// Names of the devices in that namespace, by index. Looked up again each interval:
    /// a device can be renamed, and an index can be used for another device.
    devices: HashMap<u32, Option<String>, FxBuildHasher>,
    cgroups: Cgroups,
}

impl HostNames {
    /// Finds tcptop's own network namespace and the cgroup mount. All other look-ups
    /// wait until a row needs them.
    pub(super) fn new() -> HostNames {
        HostNames {
            netns: own_network_namespace().unwrap_or(0),
            devices: HashMap::default(),
            cgroups: Cgroups::new(cgroup_root()),
        }
    }
}

impl Default for HostNames {
    fn default() -> HostNames {
        HostNames::new()
    }
}

impl Names for HostNames {
    fn refresh(&mut self) {
        self.devices.clear();
        self.cgroups.walked = false;
    }

    fn cgroup_made(&mut self, _: u64, _: &str) {}

    fn place(&mut self, sample: &Sample, _: Needs) -> Place<'_> {
        // The index of a device is valid only in its namespace.
        let interface = if sample.ifindex != 0 && sample.netns == self.netns {
            self.devices.entry(sample.ifindex).or_insert_with_key(|&index| device(index)).as_deref()
        } else {
            None
        };
        let cgroup = self.cgroups.path(sample.cgroup);
        Place { interface, cgroup, container: cgroup.and_then(container_id), ..Place::default() }
    }
}

/// The inode number of tcptop's network namespace.
///
/// # Errors
/// Where /proc cannot be read.
pub(super) fn own_network_namespace() -> io::Result<u32> {
    // The kernel hands out 32 bits (proc_alloc_inum).
    fs::metadata("/proc/self/ns/net").map(|meta| meta.ino() as u32)
}

/// Whether processes have other PIDs here than in the initial PID namespace, whose PIDs
/// tcptop shows.
pub(super) fn has_own_pids() -> bool {
    /// `PROC_PID_INIT_INO` (include/linux/proc_ns.h): the same on every host.
    const INITIAL: u64 = 0xEFFF_FFFC;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|meta| meta.ino() != INITIAL)
}

fn device(index: u32) -> Option<String> {
    nix::net::if_::if_indextoname(index).ok()?.into_string().ok()
}

/// The paths of cgroups (v2) by their ids. The id of a cgroup is the inode number of its
/// directory and is never used again.
#[derive(Debug, Default)]
struct Cgroups {
    mount: Option<PathBuf>,
    paths: HashMap<u64, String, FxBuildHasher>,
    /// The paths of the previous walk: a connection can exist a little longer than its
    /// cgroup.
    paths_before: HashMap<u64, String, FxBuildHasher>,
    /// Ids that a walk did not find: outside of the mount, or removed.
    gone: HashSet<u64, FxBuildHasher>,
    /// True where the tree was walked in this interval: it is walked once at most.
    walked: bool,
}

impl Cgroups {
    fn new(mount: Option<PathBuf>) -> Cgroups {
        Cgroups { mount, ..Cgroups::default() }
    }

    /// The path below the mount, beginning with `/`.
    fn path(&mut self, id: u64) -> Option<&str> {
        if id == 0 {
            return None;
        }
        let known = self.paths.contains_key(&id) || self.paths_before.contains_key(&id);
        if !known && !self.walked && !self.gone.contains(&id) {
            self.walk();
            if !self.paths.contains_key(&id) {
                self.gone.insert(id);
            }
        }
        self.paths.get(&id).or_else(|| self.paths_before.get(&id)).map(String::as_str)
    }

    fn walk(&mut self) {
        /// Limits `gone` on a host that creates and removes cgroups for weeks.
        const MOST_GONE: usize = 10_000;

        self.walked = true;
        let Some(mount) = &self.mount else { return };
        let mut paths = HashMap::default();
        if let Ok(root) = fs::metadata(mount) {
            paths.insert(root.ino(), "/".to_owned());
        }
        let mut directories = vec![PathBuf::new()];
        while let Some(directory) = directories.pop() {
            // A directory that cannot be read was removed meanwhile.
            let Ok(entries) = fs::read_dir(mount.join(&directory)) else { continue };
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    let below = directory.join(entry.file_name());
                    paths.insert(entry.ino(), format!("/{}", below.to_string_lossy()));
                    directories.push(below);
                }
            }
        }
        self.paths_before = std::mem::replace(&mut self.paths, paths);
        if self.gone.len() >= MOST_GONE {
            self.gone.clear();
        }
    }
}

/// The directory where cgroup v2 is mounted; `None` where it is not mounted.
pub fn cgroup_root() -> Option<PathBuf> {
    cgroup_mount(&fs::read("/proc/self/mountinfo").ok()?)
}

/// The directory where cgroup v2 is mounted, if only a part of the cgroups is visible
/// there: in a cgroup namespace, or where only a part is mounted.
pub(super) fn cgroup_part() -> Option<PathBuf> {
    /// The inode number of the root, since Linux 5.5 (`cgroup_setup_root`).
    const ROOT: u64 = 1;
    cgroup_root().filter(|path| fs::metadata(path).is_ok_and(|meta| meta.ino() != ROOT))
}

/// The directory where cgroup v2 is mounted, from the text of `/proc/self/mountinfo`
/// (proc_pid_mountinfo(5)). Prefers a mount of the whole tree to one of a part.
fn cgroup_mount(mountinfo: &[u8]) -> Option<PathBuf> {
    let mut found = None;
    for line in mountinfo.split(|&byte| byte == b'\n') {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(root), Some(point)) = (fields.nth(3), fields.next()) else { continue };
        // A dash ends the optional fields; the type follows it.
        let kind = fields.skip_while(|field| *field != b"-").nth(1);
        if kind != Some(b"cgroup2") {
            continue;
        }
        if root == b"/" {
            return Some(unescape(point));
        }
        found = found.or_else(|| Some(unescape(point)));
    }
    found
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
    Path::new(&OsString::from_vec(path)).to_owned()
}

/// The id of the container in a cgroup path, for Docker, containerd (Kubernetes), CRI-O,
/// Podman and ECS. For a container inside a container it is the id of the inner one.
pub(super) fn container_id(path: &str) -> Option<&str> {
    path.rsplit('/').find_map(|part| {
        // systemd's names end with .scope; without systemd the name is the id alone.
        let part = part.strip_suffix(".scope").unwrap_or(part);
        // containerd's own name: SLICE:cri-containerd:ID
        let part = part.rsplit(':').next().unwrap_or(part);
        let id = ["docker-", "cri-containerd-", "crio-", "libpod-"]
            .iter()
            .find_map(|prefix| part.strip_prefix(prefix))
            .unwrap_or(part);
        (is_id(id) || is_ecs_id(id)).then_some(id)
    })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_hex)
}

/// `/ecs/TASK/ID`, where ID is 32 hexadecimal digits, a dash and a number.
fn is_ecs_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(task, number)| {
        task.len() == 32
            && task.bytes().all(is_hex)
            && !number.is_empty()
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

fn is_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::fixtures::tcp;

    const ID: &str = "3b1c9e2f40d5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";

    #[test]
    fn container_ids() {
        for (path, expected) in [
            ("/", None),
            ("/system.slice/ssh.service", None),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            ("/system.slice/docker-ID.scope", Some(ID)),
            ("/docker/ID", Some(ID)),
            ("/docker/ID/init.scope", Some(ID)),
            ("/kubepods/besteffort/pod7d1c/ID", Some(ID)),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7d1c.slice/\
                 cri-containerd-ID.scope",
                Some(ID),
            ),
            (
                "/system.slice/containerd.service/kubepods-besteffort-pod7d1c.slice:\
                 cri-containerd:ID",
                Some(ID),
            ),
            ("/kubepods.slice/kubepods-pod7d1c.slice/crio-ID.scope", Some(ID)),
            ("/kubepods.slice/kubepods-pod7d1c.slice/crio-conmon-ID.scope", None),
            ("/machine.slice/libpod-ID.scope/container", Some(ID)),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", Some(ID)),
            ("/machine.slice/libpod-conmon-ID.scope", None),
            (
                "/ecs/0123456789abcdef0123456789abcdef/0123456789abcdef0123456789abcdef-42",
                Some("0123456789abcdef0123456789abcdef-42"),
            ),
            ("/docker/OUTER/system.slice/docker-ID.scope", Some(ID)),
            ("/docker/UPPER", None),
            ("/docker/0123456789abcdef", None),
        ] {
            let path = path
                .replace("OUTER", &"a".repeat(64))
                .replace("UPPER", &"A".repeat(64))
                .replace("ID", ID);
            assert_eq!(container_id(&path), expected, "{path}");
        }
    }

    #[test]
    fn the_mount_of_the_whole_tree_comes_first() {
        let unified = b"\
22 1 0:21 / /proc rw,nosuid - proc proc rw
25 1 0:23 / /sys rw shared:7 - sysfs sysfs rw
29 25 0:26 /../.. /run/part rw - cgroup2 cgroup rw
30 25 0:26 / /sys/fs/my\\040cgroup\\134 rw,nosuid shared:9 master:1 - cgroup2 cgroup2 rw,nsdelegate
";
        assert_eq!(cgroup_mount(unified), Some("/sys/fs/my cgroup\\".into()));
        let part: Vec<u8> =
            unified.split_inclusive(|&b| b == b'\n').take(3).flatten().copied().collect();
        assert_eq!(cgroup_mount(&part), Some("/run/part".into()));
        assert_eq!(cgroup_mount(b"25 1 0:23 / /sys rw - cgroup cgroup rw\nshort\n\n"), None);
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
        cgroups.walked = false;
        assert_eq!(cgroups.path(late), Some("/late"));

        fs::remove_dir(mount.path().join("late")).unwrap();
        cgroups.walked = false;
        assert_eq!(cgroups.path(u64::MAX), None);
        assert!(cgroups.walked);
        assert_eq!(cgroups.path(late), Some("/late"), "known for a while after its end");
        cgroups.walked = false;
        assert_eq!(cgroups.path(u64::MAX), None);
        assert!(!cgroups.walked, "what is gone is not looked for again");
    }

    #[test]
    fn this_host_has_a_loopback_device() {
        let mut names = HostNames::new();
        let mut sample = tcp();
        sample.ifindex = 1;
        sample.netns = names.netns;
        names.refresh();
        assert_eq!(names.place(&sample, Needs::INTERFACE).interface, device(1).as_deref());
        sample.netns += 1;
        assert_eq!(
            names.place(&sample, Needs::INTERFACE).interface,
            None,
            "an index of another namespace"
        );
    }
}
