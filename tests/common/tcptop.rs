//! The process under test: starts it, waits for it, stops it, and parses its lines
//! strictly. In every test, [`Tcptop::finish`] also checks the run against the contract of
//! the line format.

use std::collections::{BTreeMap, HashSet};
use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tempfile::TempDir;

use super::columns::CAUSES;
use super::share::{self, Lent};
use super::sock::{Ends, readable_bytes};
use super::times;
use super::wait::{patience, slowness, until, until_true};

/// The arguments of most tests: exact numbers, short intervals.
pub const QUICK: [&str; 4] = ["--tcp", "--raw", "--interval", "0.1"];

const HEADER: [&str; 13] = [
    "PROTO",
    "LOCAL",
    "REMOTE",
    "PID",
    "PROCESS",
    "STATE",
    "BYTES_IN",
    "BYTES_OUT",
    "PKTS_IN",
    "PKTS_OUT",
    "RTT",
    "RATE_IN",
    "RATE_OUT",
];

/// A row of an interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The index of its line in the output.
    pub line: usize,
    pub time: Option<String>,
    pub ends: Ends,
    pub pid: Option<u32>,
    pub process: String,
    pub state: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub rtt: String,
    pub rate_in: String,
    pub rate_out: String,
    pub partial: bool,
}

impl Row {
    /// Both rates of a run with `--raw`.
    pub fn rates(&self) -> (u64, u64) {
        let rate = |text: &str| text.parse().unwrap_or_else(|_| panic!("a raw rate: {text:?}"));
        (rate(&self.rate_in), rate(&self.rate_out))
    }

    fn parse(line: usize, time: Option<String>, text: &str) -> Result<Row, &'static str> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let partial = match fields.len() {
            13 => false,
            14 if fields[13] == "[PARTIAL]" => true,
            _ => return Err("not 13 fields, nor 14 with [PARTIAL]"),
        };
        if !matches!(fields[0], "TCP" | "UDP") {
            return Err("unknown protocol");
        }
        Ok(Row {
            line,
            time,
            ends: Ends { local: address(fields[1])?, remote: address(fields[2])? },
            pid: pid(fields[3])?,
            process: fields[4].to_owned(),
            state: fields[5].to_owned(),
            bytes_in: amount(fields[6])?,
            bytes_out: amount(fields[7])?,
            packets_in: amount(fields[8])?,
            packets_out: amount(fields[9])?,
            rtt: fields[10].to_owned(),
            rate_in: fields[11].to_owned(),
            rate_out: fields[12].to_owned(),
            partial,
        })
    }
}

/// A `[CLOSED]` line.
#[derive(Clone, Debug, PartialEq)]
pub struct Closed {
    pub line: usize,
    pub time: Option<String>,
    pub ends: Ends,
    pub pid: Option<u32>,
    pub process: String,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub packets_in: u64,
    pub packets_out: u64,
    pub rtt: String,
    pub retrans: u64,
    pub age: String,
    pub end: String,
    pub partial: bool,
}

impl Closed {
    fn parse(line: usize, time: Option<String>, text: &str) -> Result<Closed, &'static str> {
        let (text, partial) = match text.strip_suffix(" [PARTIAL]") {
            Some(text) => (text, true),
            None => (text, false),
        };
        let rest = text.strip_prefix("[CLOSED] TCP ").ok_or("not [CLOSED] TCP")?;
        let (local, rest) = rest.split_once(" -> ").ok_or("no arrow")?;
        let (remote, rest) = rest.split_once(" (").ok_or("no process")?;
        let (owner, rest) = rest.split_at(rest.find(") in=").ok_or("process does not end")?);
        let (process, owner_pid) = owner.rsplit_once(", PID ").ok_or("no PID")?;
        if process.is_empty() || process.contains([' ', '\t']) {
            return Err("blank in the process name");
        }
        let mut fields = rest[") ".len()..].split(' ');
        let mut field = |key: &str| {
            let text = fields.next().and_then(|field| field.strip_prefix(key));
            text.and_then(|text| text.strip_prefix('=')).ok_or("fields of [CLOSED]")
        };
        let closed = Closed {
            line,
            time,
            ends: Ends { local: address(local)?, remote: address(remote)? },
            pid: pid(owner_pid)?,
            process: process.to_owned(),
            bytes_in: amount(field("in")?)?,
            bytes_out: amount(field("out")?)?,
            packets_in: amount(field("pkts_in")?)?,
            packets_out: amount(field("pkts_out")?)?,
            rtt: field("rtt")?.to_owned(),
            retrans: amount(field("retrans")?)?,
            age: field("age")?.to_owned(),
            end: field("end")?.to_owned(),
            partial,
        };
        if fields.next().is_some() {
            Err("more fields than a [CLOSED] line has")
        } else {
            Ok(closed)
        }
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "not ADDRESS:PORT")
}

fn pid(text: &str) -> Result<Option<u32>, &'static str> {
    match text {
        "-" => Ok(None),
        "0" => Err("PID 0"),
        _ => text.parse().map(Some).map_err(|_| "not a PID"),
    }
}

/// The exact number that a size begins with: `340B`, `2048(2.0K)`, `340`.
fn amount(text: &str) -> Result<u64, &'static str> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let known = unit.is_empty() || unit == "B" || (unit.starts_with('(') && unit.ends_with(')'));
    if !known {
        return Err("not a number");
    }
    number.parse().map_err(|_| "not a number")
}

/// The output of tcptop so far.
#[derive(Debug, Default)]
pub struct Output {
    /// All complete lines, without the line feed.
    pub lines: Vec<String>,
    pub rows: Vec<Row>,
    pub closed: Vec<Closed>,
    /// Lines that are not header, row or `[CLOSED]`, with the parser's reason.
    pub alien: Vec<String>,
    /// The number of headers.
    pub headers: usize,
    /// The number of lines that [`Output::take`] has removed.
    taken: usize,
    with_time: bool,
    unfinished: Vec<u8>,
    ended: bool,
}

impl Output {
    pub fn rows_of(&self, ends: Ends) -> impl DoubleEndedIterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.ends == ends)
    }

    pub fn last_row(&self, ends: Ends) -> Option<&Row> {
        self.rows.iter().rfind(|row| row.ends == ends)
    }

    pub fn closed_of(&self, ends: Ends) -> impl Iterator<Item = &Closed> {
        self.closed.iter().filter(move |closed| closed.ends == ends)
    }

    /// The one `[CLOSED]` line of a connection.
    pub fn the_closed(&self, ends: Ends) -> &Closed {
        let found: Vec<&Closed> = self.closed_of(ends).collect();
        assert_eq!(found.len(), 1, "[CLOSED] lines of {ends:?}: {found:#?}");
        found[0]
    }

    fn absorb(&mut self, bytes: &[u8]) {
        let mut lines = bytes.split(|&byte| byte == b'\n');
        self.unfinished.extend(lines.next().unwrap_or_default());
        for next in lines {
            let line = std::mem::replace(&mut self.unfinished, next.to_vec());
            self.take_line(String::from_utf8_lossy(&line).into_owned());
        }
    }

    fn take_line(&mut self, text: String) {
        let (time, rest) = match text.split_once(' ') {
            Some((time, rest)) if self.with_time => (Some(time.to_owned()), rest.trim_start()),
            _ => (None, &*text),
        };
        let line = self.taken + self.lines.len();
        let result = if rest.split_ascii_whitespace().eq(HEADER) {
            self.headers += 1;
            if line == 0 { Ok(()) } else { Err("a header within the output") }
        } else if rest.starts_with("[CLOSED]") {
            Closed::parse(line, time, rest).map(|closed| self.closed.push(closed))
        } else {
            Row::parse(line, time, rest).map(|row| self.rows.push(row))
        };
        if let Err(why) = result {
            self.alien.push(format!("line {line}: {why}: {text:?}"));
        }
        self.lines.push(text);
    }

    /// Removes and returns everything so far.
    fn take(&mut self) -> Output {
        let next = Output {
            headers: self.headers,
            taken: self.taken + self.lines.len(),
            with_time: self.with_time,
            unfinished: std::mem::take(&mut self.unfinished),
            ended: self.ended,
            ..Output::default()
        };
        std::mem::replace(self, next)
    }

    /// Checks that there is only data, the header once and first, no terminal control.
    pub fn check_contract(&self) {
        assert!(self.alien.is_empty(), "not of the line format: {:#?}", self.alien);
        assert!(self.unfinished.is_empty(), "ends within a line");
        assert!(self.headers == 1, "{} headers in {} lines", self.headers, self.lines.len());
        let control = |line: &&String| line.bytes().any(|byte| byte < b' ' || byte == 0x7f);
        assert_eq!(self.lines.iter().find(control), None, "control characters");
    }
}

#[derive(Default)]
struct Shared {
    output: Mutex<Output>,
    grew: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Output> {
        // If a test panics while it holds the lock, the reader must go on.
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads to the end. It takes bytes from the pipe only while it holds the lock, so
    /// whenever the lock is free, all bytes that have left the pipe are in the output.
    fn read(&self, mut source: &File) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let mut readable = [PollFd::new(source.as_fd(), PollFlags::POLLIN)];
            poll(&mut readable, PollTimeout::NONE).expect("poll");
            let mut output = self.lock();
            let got = source.read(&mut buffer).expect("stdout of tcptop");
            output.absorb(&buffer[..got]);
            output.ended = got == 0;
            self.grew.notify_all();
            if got == 0 {
                return;
            }
        }
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    env::var_os("TCPTOP_BIN").map_or_else(|| env!("CARGO_BIN_EXE_tcptop").into(), PathBuf::from)
}

/// A command line of the binary under test, with the extra arguments that the
/// environment asks for (`TCPTOP_TEST_ARGS`).
pub fn command<S: AsRef<OsStr>>(binary: &Path, arguments: &[S]) -> Command {
    let extra = env::var("TCPTOP_TEST_ARGS").unwrap_or_default();
    let mut command = Command::new(binary);
    command.args(arguments).args(extra.split_ascii_whitespace());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Lets every user write there: root's tcptop becomes another one.
pub fn open_to_all(directory: &Path) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).expect("chmod");
}

/// How to start tcptop with other settings than the defaults.
pub struct Launch {
    command: Command,
    directory: TempDir,
    blocked: bool,
    with_time: bool,
}

impl Launch {
    pub fn new(arguments: &[&str]) -> Launch {
        Launch::of(&binary(), arguments)
    }

    pub fn of(binary: &Path, arguments: &[&str]) -> Launch {
        let directory = tempfile::tempdir().expect("a directory");
        open_to_all(directory.path());
        let mut command = command(binary, arguments);
        // The doctor has no listing and refuses --ready-file.
        if !arguments.contains(&"--doctor") {
            command.arg("--ready-file").arg(directory.path().join("ready"));
        }
        let with_time = arguments.iter().any(|a| ["-t", "--timestamp"].contains(a));
        Launch { command, directory, blocked: false, with_time }
    }

    /// With this variable in its environment.
    pub fn env(mut self, name: &str, value: impl ToString) -> Launch {
        self.command.env(name, value.to_string());
        self
    }

    /// Without this variable.
    pub fn without_env(mut self, name: &str) -> Launch {
        self.command.env_remove(name);
        self
    }

    /// Leaves stdout, a pipe, unread until [`Tcptop::unblock`].
    pub fn blocked(mut self) -> Launch {
        self.blocked = true;
        self
    }

    /// Runs `prepare` in the child before it becomes tcptop.
    ///
    /// # Safety
    /// As for [`CommandExt::pre_exec`].
    pub unsafe fn prepare(
        mut self,
        prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
    ) -> Launch {
        // SAFETY: the caller's promise.
        unsafe { self.command.pre_exec(prepare) };
        self
    }

    /// Starts without waiting for anything.
    pub fn spawn(mut self) -> Tcptop {
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", self.command));
        let stdout = child.stdout.take().expect("piped");
        let stdout = Arc::new(File::from(OwnedFd::from(stdout)));
        let mut stderr = child.stderr.take().expect("piped");
        let shared = Arc::<Shared>::default();
        shared.lock().with_time = self.with_time;
        let errors = Arc::<Mutex<Vec<u8>>>::default();
        let errors_too = Arc::clone(&errors);
        let readers = vec![thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(got @ 1..) = stderr.read(&mut buffer) {
                errors_too.lock().expect("no panic").extend(&buffer[..got]);
            }
        })];
        let (is_read, directory, lent) = (false, self.directory, None);
        let mut tcptop =
            Tcptop { child, shared, errors, readers, stdout, is_read, directory, lent };
        if !self.blocked {
            tcptop.unblock();
        }
        tcptop
    }

    /// Starts tcptop and waits until it has attached everything and written the listing.
    pub fn start(self) -> Tcptop {
        times::of_start(|| {
            let mut tcptop = self.spawn();
            tcptop.await_ready();
            tcptop
        })
    }
}

/// A tcptop that runs. Killed when dropped.
pub struct Tcptop {
    child: Child,
    shared: Arc<Shared>,
    errors: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
    stdout: Arc<File>,
    is_read: bool,
    directory: TempDir,
    /// Set if tests share this tcptop.
    pub lent: Option<Lent>,
}

/// A tcptop that has ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub output: Output,
    pub stderr: String,
}

impl Ended {
    /// Checks for status 0, a correct stdout, and no reported loss.
    pub fn check(&self) {
        assert!(self.status.success(), "{:?}: {}", self.status, self.stderr);
        self.output.check_contract();
        assert!(self.stderr.lines().all(|line| line.starts_with("tcptop: ")), "{}", self.stderr);
        // Where the kernel preempts programs, it says how many it skipped, which is more than
        // were missed; in an emulated guest that is often. The rows themselves are compared.
        let is_bound = |cause: &&str| *cause == "state_skipped" && slowness() > 1;
        assert!(self.losses().keys().all(is_bound), "{}", self.lost());
    }
}

impl Ended {
    /// As [`check`](Ended::check), for a run with `--log`: nothing on stdout, and only the
    /// usual messages on stderr.
    pub fn check_log(&self, log: &Path, interval: &str) {
        check_messages_of_log(&self.stderr, log, interval, "CSV");
        assert!(self.status.success(), "{:?}", self.status);
        assert!(self.output.lines.is_empty(), "{:?}", self.output.lines);
    }

    /// Checks for status 1. Returns the reason, the last line on stderr.
    pub fn check_error(&self, error: &str) {
        assert_eq!(self.status.code(), Some(1), "{}", self.stderr);
        let last = self.stderr.lines().last().unwrap_or_default();
        assert_eq!(last, format!("tcptop: error: {error}"), "{}", self.stderr);
    }
}

/// Checks what a run with `--log` that lost nothing says: where it logs to, the totals as any
/// run, and where they are.
pub fn check_messages_of_log(stderr: &str, log: &Path, interval: &str, format: &str) {
    let log = log.display();
    let lines: Vec<&str> = stderr.lines().collect();
    let [begins, totals, ends] = lines[..] else { panic!("{stderr}") };
    assert_eq!(begins, format!("tcptop: logging to {log} (interval: {interval}s, Ctrl-C to stop)"));
    let counts =
        totals.strip_prefix("tcptop: ").and_then(|line| line.strip_suffix(" open, lost: nothing"));
    let counts = counts.and_then(|counts| counts.split_once(" connections closed, "));
    let (closed, open) = counts.unwrap_or_else(|| panic!("{stderr}"));
    assert!([closed, open].iter().all(|count| count.parse::<u64>().is_ok()), "{stderr}");
    assert_eq!(ends, format!("tcptop: logging stopped, {format} written to {log}"));
}

impl Ended {
    /// The losses in the summary, the last line on stderr.
    pub fn lost(&self) -> &str {
        let summary = self.stderr.lines().last().unwrap_or_default();
        summary.split_once("lost: ").unwrap_or_else(|| panic!("no summary: {}", self.stderr)).1
    }
}

impl Ended {
    /// The losses in the summary, by the keys of JSON.
    pub fn losses(&self) -> BTreeMap<&'static str, u64> {
        losses(self.lost())
    }
}

/// The losses of one report, by the keys of JSON.
pub fn losses(report: &str) -> BTreeMap<&'static str, u64> {
    let parts = report.split(", ").filter(|part| *part != "nothing");
    parts
        .map(|part| {
            let (count, words) = part.split_once(' ').expect("a count and words");
            let cause = CAUSES.iter().find(|cause| cause.1 == words);
            let (key, _) = cause.unwrap_or_else(|| panic!("unknown cause: {words}"));
            (*key, count.parse().expect("a number"))
        })
        .collect()
}

impl Tcptop {
    /// Starts with these arguments and waits until it is ready.
    pub fn start(arguments: &[&str]) -> Tcptop {
        Launch::new(arguments).start()
    }

    /// Borrows the tcptop that tests share, without its earlier output. Only for tests that
    /// look only at their own connections (see [`share`]).
    pub fn share(arguments: &[&str]) -> Tcptop {
        share::lend(arguments)
    }

    /// Takes the output since the last time.
    pub fn take_output(&self) -> Output {
        self.shared.lock().take()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    pub fn await_ready(&mut self) {
        let ready = self.directory.path().join("ready");
        until_true("tcptop to be ready", || {
            let ended = self.child.try_wait().expect("wait");
            // A short run can be ready and over.
            let ready = ready.exists();
            if let Some(status) = ended.filter(|_| !ready) {
                panic!("tcptop ended ({status}): {}", self.stderr());
            }
            ready
        });
        // Everything that it had written by then has been read.
        until_true("the listing to be read", || {
            let _absorbed = self.shared.lock();
            !self.is_read || readable_bytes(&*self.stdout) == 0
        });
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.errors.lock().expect("no panic")).into_owned()
    }

    /// The number of sends and receives, as reported so far, for which the kernel has skipped
    /// a program.
    pub fn skipped(&self) -> u64 {
        self.reported("skipped")
    }

    /// What it has reported as lost so far, of this cause.
    pub fn reported(&self, cause: &str) -> u64 {
        let stderr = self.stderr();
        let (whole, _) = stderr.rsplit_once('\n').unwrap_or_default();
        let reports =
            whole.lines().filter_map(|line| line.strip_prefix("tcptop: lost in this interval: "));
        reports.filter_map(|report| losses(report).get(cause).copied()).sum()
    }

    /// Calls `probe` with the output so far.
    pub fn look<T>(&self, probe: impl FnOnce(&Output) -> T) -> T {
        probe(&self.shared.lock())
    }

    /// Calls `probe` after each new output until it has an answer.
    pub fn wait<T>(&self, what: &str, probe: impl FnMut(&Output) -> Option<T>) -> T {
        self.wait_for(|_| what.to_owned(), probe)
    }

    /// The same; `what`, for the message at a timeout, is made from the output so far.
    fn wait_for<T>(
        &self,
        what: impl Fn(&Output) -> String,
        mut probe: impl FnMut(&Output) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + patience();
        let mut output = self.shared.lock();
        loop {
            if let Some(answer) = probe(&output) {
                return answer;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || output.ended {
                let tail =
                    output.lines.iter().rev().take(40).rev().map(|line| format!("\n  {line}"));
                panic!(
                    "no {} in the output, which ends:{}\nstderr: {}",
                    what(&output),
                    tail.collect::<String>(),
                    self.stderr()
                );
            }
            let result = self.shared.grew.wait_timeout(output, left);
            output = result.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits for a row of the connection that satisfies the condition.
    pub fn wait_row(&self, what: &str, ends: Ends, mut condition: impl FnMut(&Row) -> bool) -> Row {
        self.wait(what, |output| output.rows_of(ends).rfind(|row| condition(row)).cloned())
    }

    /// Waits for the `[CLOSED]` line of each of these ends.
    pub fn wait_closed(&self, all: &[Ends]) {
        let open = |output: &Output| -> Vec<Ends> {
            let closed: HashSet<Ends> = output.closed.iter().map(|closed| closed.ends).collect();
            all.iter().copied().filter(|ends| !closed.contains(ends)).collect()
        };
        self.wait_for(
            |output| format!("[CLOSED] line of {:#?}", open(output)),
            |output| open(output).is_empty().then_some(()),
        );
    }

    /// Whether one of its threads is in a write to stdout, and so waits for the reader.
    pub fn is_blocked(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs");
        // The number of the system call that it sleeps in, then its arguments.
        let calls =
            tasks.map(|task| fs::read_to_string(task.expect("a task").path().join("syscall")));
        calls.map_while(Result::ok).any(|call| {
            let mut words = call.split_ascii_whitespace();
            let number = words.next().and_then(|word| word.parse().ok());
            matches!(number, Some(libc::SYS_write | libc::SYS_writev))
                && words.next() == Some("0x1")
        })
    }

    /// Begins to read the output of a [`Launch::blocked`] tcptop.
    pub fn unblock(&mut self) {
        let (stdout, shared) = (Arc::clone(&self.stdout), Arc::clone(&self.shared));
        self.readers.push(thread::spawn(move || shared.read(&stdout)));
        self.is_read = true;
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: no memory is involved; the child is not reaped, so the id is its own.
        let result = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(result, 0, "kill");
    }

    /// Stops all of its threads, as Ctrl-Z does, until SIGCONT.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        until_true("tcptop to be stopped", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs");
            let states =
                tasks.map(|task| fs::read_to_string(task.expect("a task").path().join("stat")));
            states
                .map_while(Result::ok)
                .all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        });
    }

    /// Lets another process read the output of a [`Launch::blocked`] tcptop.
    pub fn give_output_to(&self, reader: &mut Command) {
        reader.stdin(self.stdout.try_clone().expect("dup"));
    }

    /// The kernel's description of each hook that it has attached.
    pub fn links(&self) -> Vec<String> {
        fs::read_dir(format!("/proc/{}/fdinfo", self.id()))
            .expect("it runs")
            .filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok())
            .filter(|text| text.contains("\nlink_type:"))
            .collect()
    }

    /// Whether it has attached a tracepoint with this name.
    pub fn has_tracepoint(&self, name: &str) -> bool {
        let line = format!("tp_name:\t{name}\n");
        self.links().iter().any(|link| link.contains(&line))
    }

    /// Whether it has attached a link of this kind.
    pub fn has_link(&self, kind: &str) -> bool {
        let line = format!("link_type:\t{kind}\n");
        self.links().iter().any(|link| link.contains(&line))
    }

    /// Its largest resident size so far, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// The processor time of its threads so far.
    pub fn cpu_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).expect("it runs");
        let time = |task: io::Result<fs::DirEntry>| {
            let path = task.expect("a task").path().join("schedstat");
            let text = fs::read_to_string(path).expect("schedstat");
            let first = text.split(' ').next().and_then(|word| word.parse().ok());
            Duration::from_nanos(first.expect("nanoseconds"))
        };
        tasks.map(time).sum()
    }

    /// Waits until tcptop ends; the test has already caused the end.
    pub fn ended(mut self) -> Ended {
        assert!(self.lent.is_none(), "other tests need it");
        let status = times::of_end(|| {
            let status = until("tcptop to end", || self.child.try_wait().expect("wait"));
            for reader in self.readers.drain(..) {
                reader.join().expect("reader");
            }
            status
        });
        let stderr = self.stderr();
        let output = std::mem::take(&mut *self.shared.lock());
        Ended { status, output, stderr }
    }

    /// Stops it with a signal.
    pub fn stop(self, signal: libc::c_int) -> Ended {
        self.signal(signal);
        self.ended()
    }

    /// Stops it with SIGINT, as a user does, and checks everything that is true of every run.
    /// A shared tcptop runs on: this only waits for the output of everything so far.
    pub fn finish(mut self) -> Output {
        if let Some(lent) = self.lent.take() {
            return share::give_back(self, lent);
        }
        let ended = self.stop(libc::SIGINT);
        ended.check();
        ended.output
    }
}

impl Drop for Tcptop {
    fn drop(&mut self) {
        // Fails only if it was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
