//! Whose a connection is: program, user, cgroup and unit. Containers are in `podman`.

use std::fs;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use caps::Capability;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde_json::Value;

use crate::common::agent::{Agent, Socket};
use crate::common::cgroups::{self, Cgroup, Nested};
use crate::common::mounts;
use crate::common::program;
use crate::common::sock::{self, Ends, Family, Pair};
use crate::common::tcptop::{Ended, Launch, Output, Tcptop};
use crate::common::udp;
use crate::common::wait::until;

use super::privilege::{NOBODY, as_nobody, become_nobody, check_kept, public_binary};
use super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("who::program_and_user", program_and_user),
        test("who::another_program", another_program),
        test("who::brief_cgroup", brief_cgroup),
        test("who::no_path_leads_to_the_cgroup", no_path_leads_to_the_cgroup),
        test("who::units", units),
        test("who::made_up_runtimes", made_up_runtimes),
        test("who::older_container", older_container),
        test("who::old_hierarchies", old_hierarchies),
        test("who::without_the_capability", without_the_capability),
        test("who::only_what_is_asked_for", only_what_is_asked_for),
    ]
}

/// tcptop with these columns, which writes its first interval when it is stopped.
pub const COLUMNS: &str = "local,remote,protocol,bytes_out,process_name,pid,exe,user,unit,\
                           container,container_name,pod,cgroup";
const EACH_TENTH: [&str; 6] = ["--format", "json", "--interval", "0.1", "--columns", COLUMNS];
pub const ONE_INTERVAL: [&str; 6] =
    ["--format", "json", "--interval", "1000", "--columns", COLUMNS];

/// The objects of all rows so far.
pub fn objects(output: &Output) -> impl DoubleEndedIterator<Item = Value> + '_ {
    output.lines.iter().map(|line| serde_json::from_str(line).expect("JSON"))
}

/// The last row of a connection.
pub fn row_of(output: &Output, ends: Ends) -> Option<Value> {
    let (local, remote) = (ends.local.to_string(), ends.remote.to_string());
    objects(output).rev().find(|row| row["local"] == *local && row["remote"] == *remote)
}

/// Ends tcptop after its only interval. Nothing was lost.
pub fn end(tcptop: Tcptop) -> Ended {
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert_eq!(ended.lost(), "nothing");
    ended
}

/// An agent of an ordinary user with a program of its own.
fn stranger(name: &str, path: &Path) -> Agent {
    fs::copy("/proc/self/exe", path).expect("copy");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    // SAFETY: the closure only makes system calls.
    unsafe { Agent::prepared(name, path, become_nobody) }
}

fn public_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let everyone = fs::Permissions::from_mode(0o755);
    fs::set_permissions(directory.path(), everyone).expect("chmod");
    directory
}

/// The name of a user, as the host's database has it.
fn user_name(uid: u32) -> Value {
    let user = nix::unistd::User::from_uid(uid.into()).expect("a database");
    user.map_or(Value::Null, |user| user.name.into())
}

/// tcptop finds the program of another user's process after it gave up its privileges,
/// also when the file is replaced, and when the process has ended.
fn program_and_user() {
    let directory = public_directory();
    let path = directory.path().join("a program");
    let path_text = path.to_str().expect("UTF-8");
    let (listener, address) = sock::listen(Family::V4);
    let tcptop = Tcptop::start(&EACH_TENTH);
    check_kept(&tcptop, &[Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH]);
    let mut agent = stranger("stranger", &path);
    let socket = agent.connect(address);
    let (accepted, _) = listener.accept().expect("accept");
    agent.send(socket, 10);
    let wait = |what: &str, exe: &str| {
        tcptop.wait(what, |output| {
            row_of(output, socket.ends).filter(|row| row["exe"] == *exe && row["bytes_out"] != 0)
        })
    };
    let row = wait("the program", path_text);
    assert_eq!((&row["user"], &row["pid"]), (&user_name(NOBODY), &agent.pid.into()), "{row}");
    let own = std::env::current_exe().expect("a path");
    let ours = tcptop.wait("our end", |output| {
        row_of(output, socket.ends.flipped()).filter(|row| row["pid"] == std::process::id())
    });
    assert_eq!(ours["exe"], *own.to_str().expect("UTF-8"), "{ours}");
    assert_eq!(ours["user"], user_name(nix::unistd::getuid().as_raw()), "{ours}");

    fs::remove_file(&path).expect("remove");
    let deleted = format!("{path_text} (deleted)");
    wait("the kernel's word for a deleted file", &deleted);
    drop(agent);
    drop(accepted);
    let closed = tcptop.wait("the final row", |output| {
        row_of(output, socket.ends).filter(|row| row["event"] == "closed")
    });
    assert_eq!(closed["exe"], *deleted, "known from the time before its end: {closed}");
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
}

/// A process that executes another program has that one's path from then on.
fn another_program() {
    let directory = public_directory();
    let next = directory.path().join("next");
    fs::copy("/proc/self/exe", &next).expect("copy");
    let (listener, address) = sock::listen(Family::V4);
    let tcptop = Tcptop::start(&EACH_TENTH);
    let mut agent = Agent::new("first");
    let socket = agent.connect(address);
    let (_accepted, _) = listener.accept().expect("accept");
    let wait = |what: &str, exe: &Path, socket: Socket| {
        tcptop.wait(what, |output| {
            row_of(output, socket.ends).filter(|row| row["exe"] == *exe.to_str().expect("UTF-8"))
        });
    };
    wait("the first program", &std::env::current_exe().expect("a path"), socket);
    agent.exec(&next, socket);
    wait("the second program", &next, socket);
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
}

/// A cgroup that is made and removed within one interval.
fn brief_cgroup() {
    const WHAT: &str = "who::brief_cgroup";
    let Some(mount) = cgroups::root() else {
        return left_out(WHAT, "the whole of cgroup v2 is not mounted");
    };
    let path = format!("/tcptop{}.slice/_cpu.service/a\nb \u{1b}", std::process::id());
    let (listener, address) = sock::listen(Family::V4);
    let receiver = udp::bind(address);
    let tcptop = Tcptop::start(&ONE_INTERVAL);
    assert!(tcptop.has_tracepoint("cgroup_mkdir"));
    // The kernel permits no line feed in a name.
    assert!(Cgroup::new(&mount, &path).is_err());
    let path = path.replace('\n', "");
    let cgroup = match Cgroup::new(&mount, &path) {
        Ok(cgroup) => cgroup,
        Err(why) => return left_out(WHAT, why),
    };
    let directory = cgroup.directory();
    let itself = Path::new("/proc/self/exe");
    // SAFETY: the tests run one at a time, so no other thread of this process
    // holds the allocator's lock for long; glibc makes it usable after fork.
    let mut agent =
        unsafe { Agent::prepared("brief", itself, move || Cgroup::enter(&directory, 0)) };
    let tcp = agent.connect(address);
    let (accepted, _) = listener.accept().expect("accept");
    agent.send(tcp, 5000);
    sock::receive(&accepted, 5000);
    let (sender, local) = agent.udp("127.0.0.1:0".parse().expect("an address"));
    agent.udp_send(sender, address, 300, 1);
    assert_eq!(udp::receive(&receiver, 1), 300);
    agent.exit();
    // A connection that ends while tcptop does would have no row: it has no later interval.
    accepted.shutdown(Shutdown::Write).expect("shutdown");
    sock::await_closed(&accepted);
    cgroup.remove();

    let output = end(tcptop).output;
    let row =
        |ends| row_of(&output, ends).unwrap_or_else(|| panic!("no {ends:?}: {:#?}", output.lines));
    let (flow, connection) = (row(Ends::new(local, address)), row(tcp.ends));
    for (row, bytes) in [(flow, 300), (connection, 5000)] {
        assert_eq!(row["cgroup"].as_str(), Some(&*path), "{row}");
        assert_eq!(row["unit"].as_str(), Some("cpu.service"), "{row}");
        assert_eq!((&row["bytes_out"], &row["container"]), (&bytes.into(), &Value::Null), "{row}");
    }
}

/// Cgroups nested deeper than PATH_MAX, one older than tcptop and one that is gone at the end of
/// the interval, do not hide what is in them: they have the path of those above, and so their
/// container.
fn no_path_leads_to_the_cgroup() {
    const WHAT: &str = "who::no_path_leads_to_the_cgroup";
    let Some(mount) = cgroups::root() else {
        return left_out(WHAT, "the whole of cgroup v2 is not mounted");
    };
    let id = "d3".repeat(32);
    let path = format!("/tcptop{}.slice/docker-{id}.scope", std::process::id());
    let container = match Cgroup::new(&mount, &path) {
        Ok(container) => container,
        Err(why) => return left_out(WHAT, why),
    };
    let (listener, address) = sock::listen(Family::V4);
    let within = |name: &str| {
        let nested = Nested::new(&container.directory(), name, 20).expect("cgroups");
        let enter = nested.entrance().expect("cgroup.procs");
        // SAFETY: as in `brief_cgroup`.
        let mut agent = unsafe { Agent::prepared("nested", Path::new("/proc/self/exe"), enter) };
        let socket = agent.connect(address);
        let (accepted, _) = listener.accept().expect("accept");
        agent.send(socket, 5000);
        sock::receive(&accepted, 5000);
        (nested, agent, socket, accepted)
    };
    let (old, new) = ("o".repeat(250), "n".repeat(250));
    let (_stays, agent, older, _open) = within(&old);
    let last = container.directory().join(vec![&*old; 20].join("/"));
    assert_eq!(fs::metadata(last).expect_err("a path").raw_os_error(), Some(libc::ENAMETOOLONG));
    let tcptop = Tcptop::start(&[&ONE_INTERVAL[..], &["--container", &id]].concat());
    let (gone, brief, newer, accepted) = within(&new);
    brief.exit();
    accepted.shutdown(Shutdown::Write).expect("shutdown");
    sock::await_closed(&accepted);
    gone.remove();

    let output = end(tcptop).output;
    drop(agent);
    for (socket, name, most) in [(older, old, 4095), (newer, new, 1023)] {
        let row = row_of(&output, socket.ends);
        let row = row.unwrap_or_else(|| panic!("no {name}: {:#?}", output.lines));
        let levels = (most - path.len()) / (name.len() + 1);
        let expected = path.clone() + &format!("/{name}").repeat(levels) + "/...";
        assert_eq!(row["cgroup"].as_str(), Some(&*expected), "{row}");
        assert_eq!(row["container"].as_str(), Some(&*id), "{row}");
        assert_eq!(row["unit"].as_str(), Some(&*format!("docker-{id}.scope")), "{row}");
    }
}

/// The unit is the one that libsystemd's sd_pid_get_unit(3) gives to `ps`.
fn units() {
    const WHAT: &str = "who::units";
    let Some(mount) = cgroups::root() else {
        return left_out(WHAT, "the whole of cgroup v2 is not mounted");
    };
    let (listener, address) = sock::listen(Family::V4);
    let tcptop = Tcptop::start(&EACH_TENTH);
    let slice = format!("tcptop{}.slice", std::process::id());
    for (path, known) in [
        ("web.service", true),
        ("web.service/worker", true),
        ("system-web.slice/web@a\\x2db:1.service", true),
        ("_cpu.service", true),
        ("user-1000.slice/user@1000.service/app.slice/web.service", true),
        ("session-3.scope", true),
        ("web@.service", false),
        ("web@x.slice/web.service", false),
        ("web", false),
        ("web/web.service", false),
        ("", false),
        ("a b.service", false),
        ("web.servic", false),
    ] {
        let cgroup = Cgroup::new(&mount, &format!("/{slice}/{path}")).expect("a cgroup");
        let directory = cgroup.directory();
        let itself = Path::new("/proc/self/exe");
        // SAFETY: as in `brief_cgroup`.
        let mut agent =
            unsafe { Agent::prepared("unit", itself, move || Cgroup::enter(&directory, 0)) };
        let own = fs::read_to_string(format!("/proc/{}/cgroup", agent.pid)).expect("it runs");
        let expected = format!("0::{}\n", cgroup.path().trim_end_matches('/'));
        assert!(own.contains(&expected), "{own}");
        let socket = agent.connect(address);
        let _accepted = listener.accept().expect("accept");
        let unit = program::output_of("ps", &["-o", "unit=", "-p", &agent.pid.to_string()], "");
        let unit = Some(unit.trim()).filter(|unit| *unit != "-");
        assert_eq!(unit.is_some(), known, "{path}: {unit:?}");
        let row = tcptop.wait("a row", |output| row_of(output, socket.ends));
        assert_eq!(row["unit"].as_str(), unit, "{row}");
        agent.exit();
        cgroup.remove();
    }
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
}

/// A directory tree of which tcptop sees these parts instead of the host's. Not all of /var:
/// tcptop itself may be there.
struct MadeUp(tempfile::TempDir);

impl MadeUp {
    const PARTS: [&str; 3] = ["var/lib", "var/log", "run"];

    fn new() -> MadeUp {
        let root = tempfile::tempdir().expect("a directory");
        for name in MadeUp::PARTS {
            fs::create_dir_all(root.path().join(name)).expect("a directory");
        }
        MadeUp(root)
    }

    fn write(&self, path: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().expect("below the root")).expect("directories");
        fs::write(&path, content).expect("write");
        path
    }

    fn tcptop(&self, arguments: &[&str]) -> Tcptop {
        let root = self.0.path().to_owned();
        let view = move || {
            mounts::private()?;
            MadeUp::PARTS.iter().try_for_each(|part| {
                let over = Path::new("/").join(part);
                // The guests of the kernel matrix do not have all of them.
                fs::create_dir_all(&over)?;
                mounts::bind(&root.join(part), &over)
            })
        };
        // SAFETY: as in `brief_cgroup`.
        unsafe { Launch::new(arguments).prepare(view) }.start()
    }
}

/// Runtimes that are not installed here, with files as they leave them.
fn made_up_runtimes() {
    const WHAT: &str = "who::made_up_runtimes";
    let Some(mount) = cgroups::root() else {
        return left_out(WHAT, "the whole of cgroup v2 is not mounted");
    };
    let (listener, address) = sock::listen(Family::V4);
    let host = MadeUp::new();
    let tcptop = host.tcptop(&EACH_TENTH);
    let id = |digit: &str| digit.repeat(64);
    let slice = format!("/tcptop{}.slice", std::process::id());
    let hostile = "we\"b\n\u{1b}[31m,\u{202e}x";
    let docker = serde_json::json!({ "Name": format!("/{hostile}"), "Config": { "Labels": {} } });
    let annotations = |[container, pod, namespace]: [&str; 3]| {
        let annotations = [(container, "web"), (pod, "shop-7d"), (namespace, "prod")];
        let annotations: std::collections::BTreeMap<_, _> = annotations.into();
        serde_json::json!({ "ociVersion": "1.1.0", "annotations": annotations }).to_string()
    };
    let containerd = annotations([
        "io.kubernetes.cri.container-name",
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri.sandbox-namespace",
    ]);
    let crio = annotations([
        "io.kubernetes.container.name",
        "io.kubernetes.pod.name",
        "io.kubernetes.pod.namespace",
    ]);
    let in_pod = (Some("web"), Some("prod/shop-7d"));
    for (cgroup, digit, file, content, expected) in [
        (
            "docker-ID.scope",
            "1",
            "var/lib/docker/containers/ID/config.v2.json",
            docker.to_string(),
            (Some(hostile), None),
        ),
        (
            "cri-containerd-ID.scope",
            "2",
            "run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json",
            containerd,
            in_pod,
        ),
        ("ID", "3", "var/log/containers/shop-7d_prod_web-ID.log", String::new(), in_pod),
        (
            "crio-ID.scope",
            "4",
            "var/lib/containers/storage/overlay-containers/ID/userdata/config.json",
            crio,
            in_pod,
        ),
        ("docker-ID.scope", "5", "var/lib/docker/other", String::new(), (None, None)),
    ] {
        let id = id(digit);
        host.write(&file.replace("ID", &id), &content);
        let cgroup = Cgroup::new(&mount, &format!("{slice}/{}", cgroup.replace("ID", &id)));
        let cgroup = cgroup.expect("a cgroup");
        let directory = cgroup.directory();
        let itself = Path::new("/proc/self/exe");
        // SAFETY: as in `brief_cgroup`.
        let mut agent =
            unsafe { Agent::prepared("made up", itself, move || Cgroup::enter(&directory, 0)) };
        let socket = agent.connect(address);
        let _accepted = listener.accept().expect("accept");
        let row = tcptop.wait("a row", |output| row_of(output, socket.ends));
        assert_eq!(row["container"], *id, "{row}");
        assert_eq!((row["container_name"].as_str(), row["pod"].as_str()), expected, "{row}");
        agent.exit();
        cgroup.remove();
    }
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    let raw = |line: &String| line.chars().any(char::is_control);
    assert!(!ended.output.lines.iter().any(raw), "control characters");
}

/// A container that is older than tcptop, and that connects for the first time just before
/// it ends.
fn older_container() {
    let Some(mount) = cgroups::root() else {
        return left_out("who::older_container", "the whole of cgroup v2 is not mounted");
    };
    let host = MadeUp::new();
    let id = "8".repeat(64);
    let path = format!("/tcptop{}.slice/docker-{id}.scope", std::process::id());
    let cgroup = Cgroup::new(&mount, &path).expect("a cgroup");
    let directory = cgroup.directory();
    let itself = Path::new("/proc/self/exe");
    // SAFETY: as in `brief_cgroup`.
    let mut agent =
        unsafe { Agent::prepared("older", itself, move || Cgroup::enter(&directory, 0)) };
    let config =
        host.write(&format!("var/lib/docker/containers/{id}/config.v2.json"), r#"{"Name":"/old"}"#);
    let tcptop = host.tcptop(&ONE_INTERVAL);
    let (listener, address) = sock::listen(Family::V4);
    let socket = agent.connect(address);
    let (accepted, _) = listener.accept().expect("accept");
    agent.exit();
    accepted.shutdown(Shutdown::Write).expect("shutdown");
    sock::await_closed(&accepted);
    cgroup.remove();
    fs::remove_file(config).expect("remove");
    let output = end(tcptop).output;
    let row = row_of(&output, socket.ends).expect("a row");
    assert_eq!((&row["container"], &row["container_name"]), (&id.as_str().into(), &"old".into()));
}

/// A cgroup of version 1 is not one that sockets are in: the files of its container are not
/// read.
fn old_hierarchies() {
    const WHAT: &str = "who::old_hierarchies";
    let Some(mount) = cgroups::root() else {
        return left_out(WHAT, "the whole of cgroup v2 is not mounted");
    };
    let name = format!("tcptop-test-{}", std::process::id());
    let old = match cgroups::Old::mount(&name) {
        Ok(old) => old,
        Err(why) => return left_out(WHAT, format!("cgroup v1: {why}")),
    };
    let host = MadeUp::new();
    let ids = ["6", "7"].map(|digit| digit.repeat(64));
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).expect("inotify");
    let watched = ids.each_ref().map(|id| {
        let file = format!("var/lib/docker/containers/{id}/config.v2.json");
        let file = host.write(&file, "{}");
        inotify.add_watch(&file, AddWatchFlags::IN_OPEN).expect("a watch")
    });
    let tcptop = host.tcptop(&EACH_TENTH);
    fs::create_dir(old.directory().join(format!("docker-{}.scope", ids[0]))).expect("mkdir");
    let cgroup = format!("/{name}/docker-{}.scope", ids[1]);
    let _cgroup = Cgroup::new(&mount, &cgroup).expect("a cgroup");
    // The events come in the order in which the cgroups were made.
    let first = until("a file to be opened", || Some(inotify.read_events().ok()?[0].wd));
    assert_eq!(first, watched[1], "opened for a cgroup of version 1");
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
}

/// An ordinary user sees his own programs, and is told what it takes to see the others'.
fn without_the_capability() {
    let (_directory, binary) = public_binary();
    let arguments =
        ["--format", "json", "--interval", "0.1", "--columns", "local,remote,exe,container_name"];
    let granted = [Capability::CAP_BPF, Capability::CAP_PERFMON];
    let tcptop = as_nobody(&binary, &arguments, &granted).start();
    let pair = Pair::new(Family::V4);
    let row = tcptop.wait("a row", |output| row_of(output, pair.ends));
    assert_eq!(row["exe"], Value::Null, "root's program");
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    for notice in [
        "tcptop: cannot show exe of other users' processes: CAP_SYS_PTRACE is needed for it, or root",
        "tcptop: cannot show names of other users' containers: CAP_DAC_READ_SEARCH is needed for \
         it, or root",
    ] {
        assert!(ended.stderr.lines().any(|line| line == notice), "{}", ended.stderr);
    }
}

/// What is not asked for is not attached, and takes no capability.
fn only_what_is_asked_for() {
    let dac = Capability::CAP_DAC_READ_SEARCH;
    for (columns, hook, kept) in [
        ("+uid", false, &[][..]),
        ("+ifname,user", false, &[]),
        ("+exe", false, &[Capability::CAP_SYS_PTRACE]),
        ("+cgroup", true, &[]),
        ("+container", true, &[]),
        ("+unit", true, &[]),
        ("+container_name", true, &[dac]),
        ("+pod", true, &[dac]),
    ] {
        let tcptop = Tcptop::start(&["--columns", columns, "--tcp"]);
        assert_eq!(tcptop.has_tracepoint("cgroup_mkdir"), hook, "{columns}");
        check_kept(&tcptop, kept);
        let ended = tcptop.stop(libc::SIGINT);
        assert!(ended.status.success(), "{}", ended.stderr);
    }
}
