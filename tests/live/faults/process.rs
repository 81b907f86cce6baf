//! Processes: tcptop is killed, has its log rotated again and again, or gets little memory;
//! others take a PID that was used before, or fork without end.

use std::env;
use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{self, Backlog};

use crate::common::agent::Agent;
use crate::common::cgroups::{self, Cgroup};
use crate::common::log::{Log, LogRow, check_continuous, whole_rows};
use crate::common::rows::Rows;
use crate::common::sock::{
    self, Ends, Family, Pair, Stream, bounded, raise_file_limit, receive_all, would_block,
};
use crate::common::tcptop::{Closed, Launch, QUICK, Tcptop};
use crate::common::wait::{load, until_true};

use super::super::csv::{logger, place};
use super::super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("faults::killed_under_load", killed_under_load),
        test("faults::rotation_storm", rotation_storm),
        test("faults::memory_cgroup", memory_cgroup),
        test("faults::pid_used_again", pid_used_again),
        test("faults::fork_bomb", fork_bomb),
    ]
}

/// Short connections, one after the other, until this value is dropped.
struct Churn {
    running: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Churn {
    fn start() -> Churn {
        let running = Arc::new(AtomicBool::new(true));
        let go_on = Arc::clone(&running);
        let thread = thread::spawn(move || {
            while go_on.load(Ordering::Relaxed) {
                let pair = Pair::new(Family::V4);
                sock::send(&pair.client, 10);
                sock::receive(&pair.server, 10);
                pair.close();
            }
        });
        Churn { running, thread: Some(thread) }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        // If it has panicked, it has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// SIGKILL while many connections end: the log has whole rows and at most a begun one, the
/// traffic goes on, and the next tcptop counts exactly and loses nothing.
fn killed_under_load() {
    let steady = Pair::new(Family::V4);
    let stream = Stream::start(&steady, 1000, Duration::from_millis(1));
    let churn = Churn::start();
    for _ in 0..2 {
        let (_directory, log) = place();
        let tcptop = logger(&log, &["--tcp", "--interval", "0.02"]);
        let row = format!("TCP,{},{},", steady.ends.local.ip(), steady.ends.local.port());
        until_true("rows of all kinds", || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            // The last row may just be being written.
            let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
            whole.contains(&row) && whole.matches(",CLOSED,").count() > 100
        });
        let ended = tcptop.stop(libc::SIGKILL);
        assert_eq!(ended.status.signal(), Some(libc::SIGKILL), "{}", ended.stderr);
        let bytes = fs::read(&log).expect("the log");
        let whole = Log::parse(whole_rows(&bytes).expect("rows"));
        assert!(whole.rows_of(steady.ends).next().is_some());
        assert!(whole.rows.iter().any(LogRow::is_final));
    }
    let tcptop = Tcptop::start(&QUICK);
    drop(churn);
    let pair = Pair::new(Family::V6);
    pair.exchange(12_345, 678);
    let ends = pair.ends;
    pair.close();
    tcptop.wait_closed(&[ends, ends.flipped()]);
    let output = tcptop.finish();
    let closed = output.the_closed(ends);
    assert_eq!((closed.bytes_in, closed.bytes_out), (678, 12_345));
    // Every part of it arrived.
    assert!(!stream.stop().is_empty());
}

/// The log is moved away as fast as tcptop makes a new one, and SIGHUP comes many times for
/// nothing: each row is in exactly one file.
fn rotation_storm() {
    let (directory, log) = place();
    let steady = Pair::new(Family::V4);
    let stream = Stream::start(&steady, 1000, Duration::from_millis(1));
    let tcptop = logger(&log, &["--tcp", "--interval", "0.02"]);
    let mut files: Vec<PathBuf> = Vec::new();
    let mut closed = Vec::new();
    for rotation in 0..u64::from(load(100, 20)) {
        let pair = Pair::new(Family::V4);
        pair.exchange(rotation, 3);
        closed.push((pair.ends, 3, rotation));
        pair.close();
        let old = directory.path().join(format!("old{rotation}"));
        fs::rename(&log, &old).expect("rename");
        files.push(old);
        for _ in 0..1 + rotation % 5 {
            tcptop.signal(libc::SIGHUP);
        }
        until_true("a new file", || log.exists());
    }
    // In vain: the file stays, and goes on.
    for _ in 0..1000 {
        tcptop.signal(libc::SIGHUP);
    }
    let pair = Pair::new(Family::V4);
    closed.push((pair.ends, 0, 0));
    pair.close();
    stream.stop();
    Log::wait_finals(&log, &[closed.last().expect("many").0]);
    tcptop.stop(libc::SIGTERM).check_log(&log, "0.02");
    files.push(log);
    let mut whole = Log::default();
    for file in &files {
        // It may have ended before its header was written.
        if fs::metadata(file).expect("a file").len() > 0 {
            whole.rows.extend(Log::read(file).rows);
        }
    }
    assert!(whole.rows.is_sorted_by_key(|row| row.time));
    check_continuous(&whole.open_rows_of(steady.ends));
    for (ends, bytes_in, bytes_out) in closed {
        assert_eq!(whole.finals_of(ends).count(), 1, "once");
        assert_eq!(whole.totals(ends), (bytes_in, bytes_out));
    }
}

/// Starts in this cgroup.
fn launch_in(directory: &Path, arguments: &[&str]) -> Launch {
    let directory = directory.to_owned();
    let enter = move || Cgroup::enter(&directory, 0);
    // SAFETY: the tests run one at a time, so no other thread of this process holds the
    // allocator's lock for long; glibc makes it usable after fork.
    unsafe { Launch::new(arguments).prepare(enter) }
}

/// With too little memory for the maps tcptop says so and ends; with enough for its start it
/// counts hundreds of connections.
fn memory_cgroup() {
    const WHAT: &str = "faults::memory_cgroup";
    let Some((mount, limit)) = cgroups::memory() else {
        return left_out(WHAT, "no cgroups with a memory controller");
    };
    let path = format!("/tcptop-memory{}", std::process::id());
    let cgroup = match Cgroup::new(&mount, &path) {
        Ok(cgroup) => cgroup,
        Err(why) => return left_out(WHAT, why),
    };
    let directory = cgroup.directory();
    let allow = |mebibytes: u64| {
        let bytes = (mebibytes << 20).to_string();
        fs::write(directory.join(limit), bytes).expect("a limit");
    };
    // How much is too little depends on the kernel and its processors. With much less, the
    // kernel kills what goes beyond the limit.
    let mut told = false;
    for mebibytes in [12, 8, 6] {
        allow(mebibytes);
        let ended = launch_in(&directory, &["--once", "--interval", "0.1"]).spawn().ended();
        match ended.status.code() {
            Some(0) => ended.check(),
            Some(1) => {
                let error = "tcptop: error: the kernel gave no memory for the BPF programs; \
                             raise the memory limit of this container or service (MemoryMax=), \
                             or take --tcp or a smaller --udp-flows: ";
                assert!(ended.stderr.starts_with(error), "{}", ended.stderr);
                assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
                told = true;
                break;
            }
            _ => assert_eq!(ended.status.signal(), Some(libc::SIGKILL), "{}", ended.stderr),
        }
    }
    if !told {
        left_out(WHAT, "no limit made the kernel refuse the maps");
    }

    allow(64);
    raise_file_limit();
    let tcptop = launch_in(&directory, &QUICK).start();
    let pairs: Vec<Pair> = (0..load(500, 100)).map(|_| Pair::new(Family::V4)).collect();
    let all: Vec<Ends> = pairs.iter().map(|pair| pair.ends).collect();
    for (bytes, pair) in (0..).zip(&pairs) {
        pair.exchange(bytes, 1);
    }
    pairs.into_iter().for_each(Pair::close);
    tcptop.wait_closed(&all);
    let output = tcptop.finish();
    for (bytes, ends) in (0..).zip(all) {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), (1, bytes));
    }
    cgroup.remove();
}

/// A process ends, and another one gets its PID. The first one's connection, which a third
/// process keeps open, stays its own; the connection of the new one is that one's.
fn pid_used_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let programs = ["first", "second"].map(|name| {
        let path = directory.path().join(name);
        let own = env::current_exe().expect("a path");
        // A name is enough, on the same file system.
        fs::hard_link(&own, &path).or_else(|_| fs::copy(own, &path).map(drop)).expect("copy");
        path
    });
    let rows = Rows::start("pid,process_name,exe,bytes_in,bytes_out", &["--tcp"]);
    let agent = |name: &str, program: &Path| {
        // SAFETY: the closure does nothing.
        unsafe { Agent::prepared(name, program, || Ok(())) }
    };
    let mut first = agent("first", &programs[0]);
    let mut keeper = Agent::new("keeper");
    let mailbox = directory.path().join("mailbox");
    keeper.mailbox(&mailbox);
    let (socket, peer) = first.connect_here(Family::V4);
    first.send(socket, 100);
    sock::receive(&peer, 100);
    let is = |row: &serde_json::Value, which: usize, pid: u32| {
        let name = ["first", "second"][which];
        let program = programs[which].to_str().expect("UTF-8");
        row["pid"] == pid && row["process_name"] == name && row["exe"] == program
    };
    let pid = first.pid;
    rows.wait("the first owner", socket.ends, |row| is(row, 0, pid));
    first.share(socket, &mailbox);
    let kept = keeper.take();
    first.exit();

    let mut second = agent("second", &programs[1]);
    if let Err(why) = second.fork_as(pid) {
        return left_out("faults::pid_used_again", why);
    }
    assert_eq!(second.pid, pid);
    let (own, own_peer) = second.connect_here(Family::V4);
    second.send(own, 7);
    sock::receive(&own_peer, 7);
    rows.wait("the second owner", own.ends, |row| is(row, 1, pid) && row["bytes_out"] == 7);
    // Bytes that nobody has read yet change nothing about the owner.
    sock::send(&peer, 50);
    rows.wait("the first owner", socket.ends, |row| is(row, 0, pid) && row["bytes_in"] == 50);
    keeper.receive(kept, 50);
    rows.wait("who keeps it", socket.ends, |row| row["process_name"] == "keeper");
    keeper.exit();
    drop((peer, second));
    let closed = rows.wait_final(socket.ends);
    assert_eq!((&closed["bytes_in"], &closed["bytes_out"]), (&50.into(), &100.into()));
    let closed = rows.wait_final(own.ends);
    assert!(is(&closed, 1, pid), "{closed:#}");
    rows.finish();
}

/// What arrived on each connection, as the server sees it. Ports are used again.
fn serve(listener: &TcpListener, over: &AtomicBool) -> Vec<(Ends, u64)> {
    listener.set_nonblocking(true).expect("nonblocking");
    let mut account = Vec::new();
    loop {
        // Asked first: whatever was sent before it was over is accepted below.
        let last = over.load(Ordering::Relaxed);
        match listener.accept() {
            Ok((stream, _)) => {
                bounded(&stream);
                account.push((Ends::of(&stream), receive_all(&stream)));
            }
            Err(error) if would_block(&error) && last => return account,
            Err(error) if would_block(&error) => thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("accept: {error}"),
        }
    }
}

/// Sets the flag at the end of its scope.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Processes that fork as long as they may, each of which connects and sends, and are killed
/// in the midst of it: every connection is exact. Another tcptop starts meanwhile.
fn fork_bomb() {
    const WHAT: &str = "faults::fork_bomb";
    let processes = load(100, 30);
    let Some(mount) = cgroups::controlled("pids") else {
        return left_out(WHAT, "no cgroups with a pids controller");
    };
    let cgroup = match Cgroup::new(&mount, &format!("/tcptop-bomb{}", std::process::id())) {
        Ok(cgroup) => cgroup,
        Err(why) => return left_out(WHAT, why),
    };
    fs::write(cgroup.directory().join("pids.max"), processes.to_string()).expect("a limit");
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "0.2"]);
    let (listener, address) = sock::listen(Family::V4);
    // Where there is no room, a client repeats itself for many seconds.
    socket::listen(&listener, Backlog::new(4096).expect("a length")).expect("listen");
    let over = AtomicBool::new(false);
    let (account, pids) = thread::scope(|scope| {
        let server = scope.spawn(|| serve(&listener, &over));
        // Also if an assertion fails: the scope waits for the server.
        let _end = OnDrop(&over);
        let mut agent = Agent::new("bomb");
        Cgroup::enter(&cgroup.directory(), agent.pid).expect("a member");
        agent.bomb(address);
        let count = || -> io::Result<u32> {
            let text = fs::read_to_string(cgroup.directory().join("pids.current"))?;
            text.trim().parse().map_err(io::Error::other)
        };
        until_true("it to grow", || count().expect("pids.current") >= processes);
        let pids = fs::read_to_string(cgroup.directory().join("cgroup.procs")).expect("members");
        let meanwhile = Tcptop::start(&QUICK);
        let pair = Pair::new(Family::V4);
        meanwhile.wait_row("row in spite of it", pair.ends, |_| true);
        agent.end_bomb();
        agent.exit();
        meanwhile.finish();
        over.store(true, Ordering::Relaxed);
        (server.join().expect("the server"), pids.lines().count())
    });
    assert!(account.len() > 100, "{} connections of {pids} processes", account.len());
    let is_own = |closed: &&Closed| [closed.ends.local, closed.ends.remote].contains(&address);
    tcptop.wait("both ends of each", |output| {
        (output.closed.iter().filter(is_own).count() >= 2 * account.len()).then_some(())
    });
    let output = tcptop.finish();
    let own = output.closed.iter().filter(is_own);
    let mut found: Vec<_> =
        own.map(|closed| (closed.ends, closed.bytes_in, closed.bytes_out)).collect();
    for (ends, bytes) in account {
        for end in [(ends, bytes, 0), (ends.flipped(), 0, bytes)] {
            let place = found.iter().position(|found| *found == end);
            found.swap_remove(place.unwrap_or_else(|| panic!("no [CLOSED] line of {end:?}")));
        }
    }
    // Those that were killed before they were connections.
    assert!(found.iter().all(|&(_, bytes_in, bytes_out)| bytes_in + bytes_out == 0), "{found:?}");
    let mut of_clients = output.closed.iter().filter(|closed| closed.ends.remote == address);
    assert!(of_clients.all(|closed| closed.process == "bomb"));
    cgroup.remove();
}
