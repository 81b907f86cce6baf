//! Containers of Podman: root's and a user's, and some that live for a tenth of a second.
//!
//! Podman, its containers and the tcptop of a test run in a mount namespace of their own
//! with an empty storage, so nothing stays on the host.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;

use crate::common::cgroups;
use crate::common::mounts;
use crate::common::program;
use crate::common::sock::{self, Family};
use crate::common::tcptop::{Launch, Tcptop};
use crate::common::udp;

use super::who::{ONE_INTERVAL, end, objects};
use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("podman::brief", brief),
        test("podman::several", several),
        test("podman::of_a_user", of_a_user),
    ]
}

/// The id of a user that no host has.
const USER: u32 = 1_654_321;

/// What a container sends over each protocol.
const TCP_BYTES: u64 = 5000;
const UDP_BYTES: u64 = 300;

/// Podman with a storage that no other process sees.
struct Podman {
    directory: TempDir,
    /// The user who runs it.
    uid: u32,
    /// The cgroup above those of its containers, below the mount.
    parent: String,
}

impl Podman {
    fn new(uid: u32) -> Podman {
        let directory = tempfile::tempdir().expect("a directory");
        let everyone = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.path(), everyone).expect("chmod");
        let path = |name: &str| directory.path().join(name);
        // As on most hosts, nobody else may look into the home.
        let private = fs::Permissions::from_mode(0o700);
        for name in ["home", "run", "storage", "image"] {
            fs::create_dir(path(name)).expect("a directory");
            fs::set_permissions(path(name), private.clone()).expect("chmod");
            chown(path(name), Some(uid), Some(uid)).expect("chown");
        }
        let mut users = fs::read_to_string("/etc/passwd").expect("users");
        users += &format!("tcptop-test:x:{USER}:{USER}::{}:/bin/sh\n", path("home").display());
        fs::write(path("passwd"), users).expect("write");
        // The image has only the directories on which the host's are mounted.
        let image = path("image");
        for name in ["usr", "proc", "sys", "dev", "etc", "run", "tmp"] {
            fs::create_dir(image.join(name)).expect("a directory");
        }
        for name in ["bin", "lib", "lib64"] {
            std::os::unix::fs::symlink(format!("usr/{name}"), image.join(name)).expect("a link");
        }
        let tar = path("image.tar");
        let arguments = [
            "--owner=0".as_ref(),
            "--group=0".as_ref(),
            "-cf".as_ref(),
            tar.as_os_str(),
            "-C".as_ref(),
            image.as_os_str(),
            ".".as_ref(),
        ];
        program::output_of("tar", &arguments, "");
        let session = format!("/user.slice/user-{uid}.slice/user@{uid}.service/app");
        let parent = match uid {
            0 => format!("/tcptop-test-{}", std::process::id()),
            _ => session,
        };
        let podman = Podman { directory, uid, parent };
        let done =
            podman.run(&["import", "-q", tar.to_str().expect("UTF-8"), "localhost/tcptop-test:1"]);
        assert!(done.status.success(), "podman import: {}", String::from_utf8_lossy(&done.stderr));
        podman
    }

    /// Changes the calling process's view of the file system.
    fn view(&self) -> impl FnMut() -> io::Result<()> + Send + Sync + use<> {
        let directory = self.directory.path().to_owned();
        move || {
            mounts::private()?;
            mounts::bind(&directory.join("passwd"), Path::new("/etc/passwd"))?;
            for storage in ["/var/lib/containers", "/run/containers", "/run/libpod"] {
                fs::create_dir_all(storage)?;
            }
            mounts::bind(&directory.join("storage"), Path::new("/var/lib/containers"))?;
            mounts::hide(Path::new("/run/containers"))?;
            mounts::hide(Path::new("/run/libpod"))
        }
    }

    /// A tcptop that sees this storage.
    fn tcptop(&self) -> Tcptop {
        // SAFETY: the tests run one at a time, so no other thread of this process
        // holds the allocator's lock for long; glibc makes it usable after fork.
        unsafe { Launch::new(&ONE_INTERVAL).prepare(self.view()) }.start()
    }

    /// Runs `podman` with these arguments.
    fn run(&self, arguments: &[&str]) -> Output {
        let (uid, parent, mut view) = (self.uid, self.parent.clone(), self.view());
        let path = |name: &str| self.directory.path().join(name);
        let mut command = Command::new("podman");
        command.args(["--cgroup-manager=cgroupfs", "--log-level=error"]).args(arguments);
        command.env("HOME", path("home")).env("XDG_RUNTIME_DIR", path("run"));
        command.current_dir(self.directory.path());
        let prepare = move || {
            view()?;
            // Podman knows cgroups of version 2 only where systemd would mount them.
            let mount = PathBuf::from("/sys/fs/cgroup");
            if !mounts::points("cgroup2").contains(&mount) {
                mounts::detach(&mount)?;
                mounts::cgroup2(&mount)?;
            }
            if uid == 0 {
                return Ok(());
            }
            // What systemd does at the beginning of a session.
            let session = mount.join(parent.trim_start_matches('/'));
            let shell = session.join("shell");
            fs::create_dir_all(&shell)?;
            for directory in [&session, &shell] {
                for entry in fs::read_dir(directory)? {
                    chown(entry?.path(), Some(uid), Some(uid))?;
                }
                chown(directory, Some(uid), Some(uid))?;
            }
            cgroups::Cgroup::enter(&shell, 0)?;
            // SAFETY: system calls without memory, except an empty list of groups.
            let result = unsafe {
                libc::setgroups(0, std::ptr::null()) | libc::setgid(uid) | libc::setuid(uid)
            };
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: as in `tcptop`.
        unsafe { command.pre_exec(prepare) };
        command.output().expect("podman is installed: make test does it")
    }

    /// Runs a container with the host's network. It sends its bytes to the peer, and ends a
    /// tenth of a second later. Returns its id.
    fn container(&self, name: &str, peer: &Peer) -> String {
        let id = self.directory.path().join("run").join(name);
        let (ip, port) = (peer.address.ip(), peer.address.port());
        let text = |bytes: u64| "x".repeat(bytes as usize);
        let (stream, datagram) = (text(TCP_BYTES), text(UDP_BYTES));
        let script = format!(
            "printf %s {stream} > /dev/tcp/{ip}/{port}; printf %s {datagram} > /dev/udp/{ip}/{port}; \
             sleep 0.1"
        );
        let parent = format!("--cgroup-parent={}", self.parent);
        let id_file = format!("--cidfile={}", id.display());
        // The limits are below those that an ordinary user has; a privileged container needs
        // no device filter, which only a process with more privileges may install.
        let arguments = [
            "run",
            "--rm",
            "--name",
            name,
            "--network=host",
            "--privileged",
            "--pids-limit=0",
            "--ulimit=nofile=512:512",
            "--ulimit=nproc=512:512",
            "--volume=/usr:/usr:ro",
            &parent,
            &id_file,
            "localhost/tcptop-test:1",
            "/bin/bash",
            "-c",
            &script,
        ];
        let done = self.run(&arguments);
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "podman run: {errors}");
        let id = fs::read_to_string(id).expect("an id");
        assert_eq!(id.len(), 64, "{id}");
        id
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Some(mount) = cgroups::root() {
            let first = match self.uid {
                0 => self.parent.as_str(),
                uid => &format!("/user.slice/user-{uid}.slice"),
            };
            cgroups::remove_all(&mount.join(first.trim_start_matches('/')));
        }
    }
}

/// The other end of what a container sends.
struct Peer {
    listener: TcpListener,
    receiver: UdpSocket,
    address: SocketAddr,
}

impl Peer {
    fn new() -> Peer {
        let (listener, address) = sock::listen(Family::V4);
        Peer { listener, receiver: udp::bind(address), address }
    }

    /// Receives what one container sends.
    fn receive(&self) {
        let (stream, _) = self.listener.accept().expect("accept");
        assert_eq!(sock::receive_all(&stream), TCP_BYTES);
        assert_eq!(udp::receive(&self.receiver, 1), UDP_BYTES);
    }
}

/// Checks the rows of a container: one of TCP and one of UDP.
fn check(rows: &[Value], podman: &Podman, peer: &Peer, name: &str, id: &str) {
    let remote = peer.address.to_string();
    let sent = |row: &&Value| row["remote"] == *remote && row["container"] == *id;
    let own: Vec<&Value> = rows.iter().filter(sent).collect();
    let of = |protocol: &str| own.iter().filter(|row| row["protocol"] == *protocol).count();
    assert_eq!((of("TCP"), of("UDP")), (1, 1), "{name} {id}: {rows:#?}");
    for row in own {
        let bytes = if row["protocol"] == "TCP" { TCP_BYTES } else { UDP_BYTES };
        assert_eq!(row["bytes_out"], bytes, "{row}");
        assert_eq!(row["container_name"], *name, "{row}");
        assert_eq!(row["pod"], Value::Null, "{row}");
        assert_eq!(row["process_name"], "bash", "{row}");
        let cgroup = row["cgroup"].as_str().unwrap_or_default();
        assert_eq!(cgroup, format!("{}/libpod-{id}", podman.parent), "{row}");
    }
}

/// A container that is gone long before the interval ends.
fn brief() {
    let (podman, peer) = (Podman::new(0), Peer::new());
    let tcptop = podman.tcptop();
    let id = thread::scope(|scope| {
        let receives = scope.spawn(|| peer.receive());
        let id = podman.container("brief-1", &peer);
        receives.join().expect("both");
        id
    });
    let left = podman.run(&["ps", "--all", "--quiet"]);
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "no container is left");
    let ended = end(tcptop);
    let rows: Vec<Value> = objects(&ended.output).collect();
    check(&rows, &podman, &peer, "brief-1", &id);
    // The other end is this process: it is in no container.
    let local = peer.address.to_string();
    let ours: Vec<&Value> = rows.iter().filter(|row| row["local"] == *local).collect();
    assert_eq!(ours.len(), 2, "{rows:#?}");
    assert!(ours.iter().all(|row| row["container_name"] == Value::Null), "{ours:#?}");
}

/// Containers one after the other, which use the same port of the peer.
fn several() {
    let (podman, peer) = (Podman::new(0), Peer::new());
    let tcptop = podman.tcptop();
    let names: Vec<String> = (1..=3).map(|turn| format!("turn_{turn}.x")).collect();
    let ids: Vec<String> = thread::scope(|scope| {
        let receives = scope.spawn(|| names.iter().for_each(|_| peer.receive()));
        let ids = names.iter().map(|name| podman.container(name, &peer)).collect();
        receives.join().expect("all");
        ids
    });
    let ended = end(tcptop);
    let rows: Vec<Value> = objects(&ended.output).collect();
    for (name, id) in names.iter().zip(&ids) {
        check(&rows, &podman, &peer, name, id);
    }
}

/// A container of a user without privileges: its name is in the user's home.
fn of_a_user() {
    let (podman, peer) = (Podman::new(USER), Peer::new());
    let tcptop = podman.tcptop();
    let id = thread::scope(|scope| {
        let receives = scope.spawn(|| peer.receive());
        let id = podman.container("mine", &peer);
        receives.join().expect("both");
        id
    });
    let ended = end(tcptop);
    let rows: Vec<Value> = objects(&ended.output).collect();
    check(&rows, &podman, &peer, "mine", &id);
    let of_container = |row: &&Value| row["container"] == *id;
    for row in rows.iter().filter(of_container) {
        assert_eq!(row["user"], "tcptop-test", "{row}");
        assert_eq!(row["unit"], format!("user@{USER}.service"), "{row}");
    }
}
