//! The container of a cgroup: its id from the path, its names from the files that
//! container runtimes leave on a host.
//!
//! Owns which runtime has which file where. A name that no file has is left out.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::cache::Cache;
use super::files::{Budget, Tree};
use super::runtimes::{self, Named};
use super::users;

/// The largest file that describes one container.
const ONE: u64 = 1 << 20;

/// The largest file that lists all containers: several thousand.
const LIST: u64 = 4 << 20;

/// Docker: a directory for each container.
const DOCKER: &str = "var/lib/docker/containers";

/// containerd, for Kubernetes: a directory for each container that runs. The second is
/// that of k3s and RKE2.
const CONTAINERD: [&str; 2] = [
    "run/containerd/io.containerd.runtime.v2.task/k8s.io",
    "run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io",
];

/// The kubelet: a link for the log of each container.
const LOGS: &str = "var/log/containers";

/// containers/storage, which Podman and CRI-O use. The second is for containers that do
/// not outlive a boot.
const STORAGE: [&str; 2] = ["var/lib/containers/storage", "run/containers/storage"];

/// The same and Docker, of a user without privileges.
const ROOTLESS_STORAGE: &str = ".local/share/containers/storage";
const ROOTLESS_DOCKER: &str = ".local/share/docker/containers";

/// The drivers of containers/storage that name its directories.
const DRIVERS: [&str; 4] = ["overlay", "vfs", "btrfs", "zfs"];

/// The names of containers by the ids of their cgroups.
#[derive(Debug)]
pub(super) struct Containers {
    host: Tree,
    home: fn(u32) -> Option<PathBuf>,
    cache: Cache<u64, Found>,
    budget: Budget,
    /// From the names of logs, and when they were listed.
    logs: Option<(Instant, FxHashMap<Box<str>, Named>)>,
}

/// The result of a search.
#[derive(Clone, Debug, Default)]
struct Found {
    named: Named,
    /// How often the search was in vain.
    tries: u32,
}

impl Found {
    /// How long it counts. A container can get another name, and some runtimes write
    /// their files after the container's first connection.
    fn fresh(&self) -> Duration {
        const LONGEST: Duration = Duration::from_secs(60);
        if self.named != Named::default() {
            return LONGEST;
        }
        Duration::from_secs(1 << self.tries.min(10)).min(LONGEST)
    }
}

impl Containers {
    /// Those of the host in this tree; `home` gives a user's home on it. Looks at nothing
    /// yet.
    pub(super) fn new(host: Tree, home: fn(u32) -> Option<PathBuf>, now: Instant) -> Containers {
        /// Of several hundred bytes each.
        const MOST: usize = 16_384;
        Containers { host, home, cache: Cache::new(MOST), budget: Budget::new(now), logs: None }
    }

    /// The names of the container that a cgroup belongs to.
    pub(super) fn named(&mut self, cgroup: u64, path: &str, now: Instant) -> Option<&Named> {
        let id = container_id(path)?;
        let Containers { host, home, cache, budget, logs } = self;
        let found = cache.get(cgroup, now, Found::fresh, |before| {
            budget.refill(now);
            let named = match user(path) {
                // The owner of a session can make cgroups with any name in it, so only
                // his own files are asked.
                Some(uid) => home(uid).and_then(|home| {
                    let root = host.root.join(home.strip_prefix("/").unwrap_or(&home));
                    of_user(&Tree { root, owner: uid, closed: true }, id, budget)
                }),
                None => of_host(host, id, budget).or_else(|| logged(host, logs, id, now, budget)),
            };
            let before = before.cloned().unwrap_or_default();
            match named {
                Some(named) => Found { named, tries: 0 },
                // The files go when the container ends; its last rows come after that.
                None => Found { tries: before.tries.saturating_add(1), ..before },
            }
        });
        Some(&found.named)
    }
}

/// The home of a user of this host.
pub(super) fn home(uid: u32) -> Option<PathBuf> {
    Some(users::by_id(uid).ok()??.home)
}

/// The user whose session a cgroup is in: `/user.slice/user-UID.slice/…` (systemd-logind).
/// `None` for root's, and for cgroups that only root can make.
pub(super) fn user(path: &str) -> Option<u32> {
    let slice = path.strip_prefix("/user.slice/user-")?;
    let uid = slice.split_once(".slice").map_or(slice, |(uid, _)| uid);
    // A name that is not a number: nobody's files.
    Some(uid.parse().unwrap_or(u32::MAX)).filter(|uid| *uid != 0)
}

fn of_host(host: &Tree, id: &str, budget: &mut Budget) -> Option<Named> {
    let one = |path: String, budget: &mut Budget| host.read(&path, ONE, budget);
    if let Some(config) = one(format!("{DOCKER}/{id}/config.v2.json"), budget) {
        return runtimes::docker(&config);
    }
    for directory in CONTAINERD {
        if let Some(config) = one(format!("{directory}/{id}/config.json"), budget) {
            return runtimes::annotated(&config);
        }
    }
    STORAGE.iter().find_map(|storage| stored(host, storage, id, budget))
}

fn of_user(home: &Tree, id: &str, budget: &mut Budget) -> Option<Named> {
    match home.read(&format!("{ROOTLESS_DOCKER}/{id}/config.v2.json"), ONE, budget) {
        Some(config) => runtimes::docker(&config),
        None => stored(home, ROOTLESS_STORAGE, id, budget),
    }
}

/// From the annotations of CRI-O, or else the list of names of Podman.
fn stored(tree: &Tree, storage: &str, id: &str, budget: &mut Budget) -> Option<Named> {
    DRIVERS.iter().find_map(|driver| {
        let directory = format!("{storage}/{driver}-containers");
        let config = tree.read(&format!("{directory}/{id}/userdata/config.json"), ONE, budget);
        let annotated = config.and_then(|config| runtimes::annotated(&config));
        // Newer versions keep containers that are removed at their end in a second list.
        annotated.or_else(|| {
            ["containers.json", "volatile-containers.json"].iter().find_map(|list| {
                let list = tree.read(&format!("{directory}/{list}"), LIST, budget)?;
                runtimes::stored(&list, id)
            })
        })
    })
}

/// From the names of the links to logs, which are listed anew at each moment: the kubelet
/// makes a link just after the container was started.
fn logged(
    host: &Tree,
    logs: &mut Option<(Instant, FxHashMap<Box<str>, Named>)>,
    id: &str,
    now: Instant,
    budget: &mut Budget,
) -> Option<Named> {
    /// The kubelet runs a few hundred containers at most.
    const MOST: usize = 65_536;
    /// What a list costs.
    const COST: u64 = 1 << 16;
    if logs.as_ref().is_none_or(|(read, _)| *read != now) && budget.take(COST) {
        let names = fs::read_dir(host.root.join(LOGS)).into_iter().flatten().take(MOST);
        let names = names.filter_map(|entry| {
            let file = entry.ok()?.file_name();
            runtimes::log_name(file.to_str()?).map(|(id, named)| (id.into(), named))
        });
        *logs = Some((now, names.collect()));
    }
    logs.as_ref()?.1.get(id).cloned()
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
    use nix::sys::stat::Mode;
    use nix::unistd::{geteuid, mkfifo};
    use std::os::unix::fs::{chown, symlink};

    const ID: &str = "3b1c9e2f40d5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";
    const OTHER: &str = "4b1c9e2f40d5a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5";

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

    /// The directory tree of a made-up host.
    struct Host {
        root: tempfile::TempDir,
        containers: Containers,
        now: Instant,
        cgroup: u64,
    }

    /// A user of that host: only root can make files of another one.
    fn alice() -> u32 {
        if geteuid().is_root() { 1000 } else { geteuid().as_raw() }
    }

    impl Host {
        fn new() -> Host {
            let root = tempfile::tempdir().unwrap();
            let tree =
                Tree { root: root.path().to_owned(), owner: geteuid().as_raw(), closed: false };
            let home = |uid| match uid == alice() {
                true => Some("/home/alice".into()),
                false => (uid == 1001).then(|| "/home/bob".into()),
            };
            let now = Instant::now();
            Host { root, containers: Containers::new(tree, home, now), now, cgroup: 0 }
        }

        fn path(&self, path: &str) -> PathBuf {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        }

        fn write(&self, path: &str, content: impl AsRef<[u8]>) {
            fs::write(self.path(path), content).unwrap();
        }

        /// The same in the home of the user, as one of his files.
        fn write_as_alice(&self, path: &str, content: impl AsRef<[u8]>) {
            let path = self.path(&format!("home/alice/{path}"));
            fs::write(&path, content).unwrap();
            chown(path, Some(alice()), None).unwrap();
        }

        /// `(name, pod)` of a cgroup that was not asked for before.
        fn ask(&mut self, path: &str) -> (Option<String>, Option<String>) {
            self.cgroup += 1;
            self.ask_again(self.cgroup, path)
        }

        fn ask_again(&mut self, cgroup: u64, path: &str) -> (Option<String>, Option<String>) {
            let named = self.containers.named(cgroup, path, self.now).cloned().unwrap_or_default();
            (named.name.map(String::from), named.pod.map(String::from))
        }
    }

    fn found(name: &str, pod: &str) -> (Option<String>, Option<String>) {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (text(name), text(pod))
    }

    fn in_docker(id: &str) -> String {
        format!("/system.slice/docker-{id}.scope")
    }

    fn of_session(uid: u32, id: &str) -> String {
        format!("/user.slice/user-{uid}.slice/user@{uid}.service/user.slice/libpod-{id}.scope")
    }

    fn list(id: &str, name: &str) -> String {
        serde_json::json!([{ "id": id, "names": [name], "image": "79de" }]).to_string()
    }

    fn config(id: &str) -> String {
        format!("var/lib/docker/containers/{id}/config.v2.json")
    }

    const CRI: &str = r#"{"annotations":{"io.kubernetes.cri.container-name":"web",
        "io.kubernetes.cri.sandbox-name":"shop-7d","io.kubernetes.cri.sandbox-namespace":"prod"}}"#;
    const CRIO: &str = r#"{"annotations":{"io.kubernetes.container.name":"web",
        "io.kubernetes.pod.name":"shop-7d","io.kubernetes.pod.namespace":"prod"}}"#;

    #[test]
    fn each_runtime_has_its_files() {
        let pod = "/kubepods.slice/kubepods-pod7d1c.slice";
        for (cgroup, file, content, expected) in [
            (in_docker(ID), config(ID), r#"{"Name":"/web"}"#.to_owned(), found("web", "")),
            (format!("/docker/{ID}"), config(ID), r#"{"Name":"/web"}"#.into(), found("web", "")),
            (
                format!("{pod}/cri-containerd-{ID}.scope"),
                format!("run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"),
                CRI.into(),
                found("web", "prod/shop-7d"),
            ),
            (
                format!("/k8s.io/{ID}"),
                format!("run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json"),
                CRI.into(),
                found("web", "prod/shop-7d"),
            ),
            (
                format!("{pod}/cri-containerd-{ID}.scope"),
                format!("var/log/containers/shop-7d_prod_web-{ID}.log"),
                String::new(),
                found("web", "prod/shop-7d"),
            ),
            (
                format!("{pod}/crio-{ID}.scope"),
                format!("var/lib/containers/storage/overlay-containers/{ID}/userdata/config.json"),
                CRIO.into(),
                found("web", "prod/shop-7d"),
            ),
            (
                format!("/machine.slice/libpod-{ID}.scope/container"),
                "var/lib/containers/storage/overlay-containers/containers.json".into(),
                list(ID, "web"),
                found("web", ""),
            ),
            (
                format!("/libpod_parent/libpod-{ID}"),
                "var/lib/containers/storage/vfs-containers/volatile-containers.json".into(),
                list(ID, "web"),
                found("web", ""),
            ),
            (
                format!("/machine.slice/libpod-{ID}.scope"),
                "run/containers/storage/overlay-containers/volatile-containers.json".into(),
                list(ID, "web"),
                found("web", ""),
            ),
        ] {
            let mut host = Host::new();
            assert_eq!(host.ask(&cgroup), found("", ""), "{cgroup}");
            host.write(&file, content);
            host.now += Duration::from_secs(2);
            assert_eq!(host.ask(&cgroup), expected, "{file}");
            assert_eq!(host.ask(&cgroup.replace(ID, OTHER)), found("", ""), "{file}");
        }
        let mut host = Host::new();
        assert_eq!(host.ask("/system.slice/ssh.service"), found("", ""));
    }

    #[test]
    fn a_user_names_only_his_own_containers() {
        const STORAGE: &str = ".local/share/containers/storage/overlay-containers";
        let mut host = Host::new();
        host.write_as_alice(&format!("{STORAGE}/containers.json"), list(ID, "mine"));
        let docker = format!(".local/share/docker/containers/{OTHER}/config.v2.json");
        host.write_as_alice(&docker, r#"{"Name":"/also"}"#);
        assert_eq!(host.ask(&of_session(alice(), ID)), found("mine", ""));
        assert_eq!(host.ask(&of_session(alice(), OTHER)), found("also", ""));
        assert_eq!(host.ask(&of_session(1001, ID)), found("", ""), "another user's session");
        assert_eq!(host.ask(&of_session(4711, ID)), found("", ""), "a user without a home");
        let root = format!("/machine.slice/libpod-{ID}.scope");
        assert_eq!(host.ask(&root), found("", ""), "root's container");
        // The names of the host's containers are not given to a user's cgroups.
        host.write(&config(ID), r#"{"Name":"/web"}"#);
        assert_eq!(host.ask(&in_docker(ID)), found("web", ""));
        assert_eq!(host.ask(&of_session(alice(), ID)), found("mine", ""));
        for session in [of_session(1001, ID), format!("/user.slice/user-x.slice/docker-{ID}")] {
            assert_eq!(host.ask(&session), found("", ""), "{session}");
        }
        assert_eq!(host.ask(&of_session(0, ID)), found("web", ""), "root's session");
    }

    #[test]
    fn a_user_cannot_make_tcptop_wait_or_read_other_files() {
        let list_of = |user: &str| {
            format!(
                "home/{user}/.local/share/containers/storage/overlay-containers/containers.json"
            )
        };
        let session = of_session(alice(), ID);
        let secret = |host: &Host| {
            host.write_as_alice("elsewhere/containers.json", list(ID, "other"));
            host.path("home/alice/elsewhere/containers.json")
        };
        let plant: [fn(&std::path::Path, &std::path::Path); 5] = [
            |_, link| mkfifo(link, Mode::S_IRWXU).unwrap(),
            |secret, link| symlink(secret, link).unwrap(),
            |_, link| symlink("/dev/zero", link).unwrap(),
            |_, link| fs::create_dir(link).unwrap(),
            |_, link| {
                fs::write(link, vec![b' '; LIST as usize + 1]).unwrap();
                chown(link, Some(alice()), None).unwrap();
            },
        ];
        for plant in plant {
            let mut host = Host::new();
            plant(&secret(&host), &host.path(&list_of("alice")));
            assert_eq!(host.ask(&session), found("", ""));
        }
        // The directory instead of the file.
        let mut host = Host::new();
        let secret = secret(&host);
        let directory = host.path(&list_of("alice")).parent().unwrap().to_owned();
        fs::remove_dir(&directory).unwrap();
        symlink(secret.parent().unwrap(), directory).unwrap();
        assert_eq!(host.ask(&session), found("", ""));
        // A file of another user, as a hard link is.
        if geteuid().is_root() {
            let mut host = Host::new();
            host.write(&list_of("alice"), list(ID, "root's"));
            assert_eq!(host.ask(&session), found("", ""));
        }
    }

    #[test]
    fn a_late_file_is_found_and_a_name_outlives_its_file() {
        let mut host = Host::new();
        let cgroup = in_docker(ID);
        assert_eq!(host.ask_again(1, &cgroup), found("", ""));
        host.write(&config(ID), r#"{"Name":"/web"}"#);
        assert_eq!(host.ask_again(1, &cgroup), found("", ""), "not searched for in each row");
        host.now += Duration::from_secs(3);
        assert_eq!(host.ask_again(1, &cgroup), found("web", ""));
        host.write(&config(ID), r#"{"Name":"/renamed"}"#);
        host.now += Duration::from_secs(61);
        assert_eq!(host.ask_again(1, &cgroup), found("renamed", ""));
        fs::remove_file(host.path(&config(ID))).unwrap();
        host.now += Duration::from_secs(61);
        assert_eq!(host.ask_again(1, &cgroup), found("renamed", ""));
    }

    #[test]
    fn hostile_files_have_no_names() {
        for content in [
            b"".as_slice(),
            b"\0\0\0",
            b"{\"Name\":",
            b"{\"Name\":\"/\xff\"}",
            &[b'['; 100_000],
            &vec![b' '; ONE as usize + 1],
        ] {
            let mut host = Host::new();
            host.write(&config(ID), content);
            assert_eq!(host.ask(&in_docker(ID)), found("", ""));
        }
        let mut host = Host::new();
        host.write(&config(ID), r#"{"Name":"/\u001b[31m\"\n,"}"#);
        assert_eq!(host.ask(&in_docker(ID)), found("\u{1b}[31m\"\n,", ""), "as it is written");
    }

    #[test]
    fn an_id_is_never_a_path() {
        for path in
            ["/docker/../../../etc", "/docker-..%2f", "/system.slice/docker-/etc/passwd.scope"]
        {
            assert_eq!(container_id(path), None);
        }
    }
}
