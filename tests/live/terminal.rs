//! On a terminal: no line is wider than it, and the header stays in sight. The terminal is
//! tmux, which knows which of its lines have wrapped.

use std::fs::{self, File};
use std::io::Read;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::agent::Agent;
use crate::common::netns::Netns;
use crate::common::program;
use crate::common::sock::{Family, Pair, Stream, listen};
use crate::common::tcptop;
use crate::common::wait::until;

use super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("terminal::nothing_wraps", nothing_wraps),
        test("terminal::size_is_asked_each_interval", size_is_asked_each_interval),
        test("terminal::names_give_no_orders", names_give_no_orders),
        test("terminal::no_log", no_log),
    ]
}

/// Lines of the terminal.
const HEIGHT: usize = 12;

/// A terminal without a screen in which tcptop runs.
struct Terminal {
    directory: TempDir,
    name: String,
}

impl Terminal {
    fn new(width: usize, arguments: &str) -> Terminal {
        let directory = tempfile::tempdir().expect("a directory");
        tcptop::open_to_all(directory.path());
        let name = directory.path().file_name().expect("a name").to_string_lossy().into_owned();
        let terminal = Terminal { directory, name };
        let extra = std::env::var("TCPTOP_TEST_ARGS").unwrap_or_default();
        // The terminal outlives tcptop.
        let line = format!(
            "{} {arguments} {extra} --ready-file {}; touch {}; sleep 600",
            tcptop::binary().display(),
            terminal.file("ready").display(),
            terminal.file("ended").display(),
        );
        let (width, height) = (width.to_string(), HEIGHT.to_string());
        let conf = terminal.file("conf");
        std::fs::write(&conf, "set -g status off\nset -g history-limit 100000\n").expect("a file");
        terminal.tmux(&[
            "-f",
            &conf.to_string_lossy(),
            "new-session",
            "-d",
            "-x",
            &width,
            "-y",
            &height,
            &line,
        ]);
        let ready = terminal.file("ready");
        until("tcptop to be ready", || ready.exists().then_some(()));
        terminal
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.env_remove("TMUX").env("LC_ALL", "C.UTF-8").args(["-L", &self.name]);
        let output = command.args(arguments).output().expect("tmux");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// All lines that were shown; with `joined`, those that have wrapped are one again.
    fn lines(&self, joined: bool) -> Vec<String> {
        let joined: &[&str] = if joined { &["-J"] } else { &[] };
        let text = self.tmux(&[&["capture-pane", "-p", "-S", "-"], joined].concat());
        let lines = text.lines().map(|line| line.trim_end().to_owned());
        lines.filter(|line| !line.is_empty()).collect()
    }

    fn await_end(&self) {
        let ended = self.file("ended");
        until("tcptop to end", || ended.exists().then_some(()));
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.name, "kill-server"]).output();
    }
}

fn is_header(line: &str) -> bool {
    line.contains("LOCAL ") && line.contains("REMOTE ")
}

/// No line has wrapped, and above each row a header was in sight.
fn check(terminal: &Terminal, width: usize) -> Vec<String> {
    let lines = terminal.lines(false);
    assert_eq!(lines, terminal.lines(true), "{width}");
    assert!(is_header(&lines[0]), "{width}: {}", lines[0]);
    let mut since = 0;
    for line in &lines {
        since += 1;
        if is_header(line) {
            since = 0;
        }
        let row = !line.starts_with("[CLOSED]");
        assert!(!row || since < HEIGHT, "{width}: {since} lines without a header: {lines:#?}");
    }
    lines
}

fn nothing_wraps() {
    const WHAT: &str = "terminal::nothing_wraps";
    if !program::is_there("tmux") {
        return left_out(WHAT, "no tmux here");
    }
    let (near, far) = (Netns::new(), Netns::new());
    let [here, there]: [IpAddr; 2] =
        ["2001:db8:1111:2222:3333:4444:5555:6666", "2001:db8:1111:2222:aaaa:bbbb:cccc:dddd"]
            .map(|text| text.parse().expect("an address"));
    near.join(here, &far, there);
    let mut client = near.run(|| Agent::new("a-long-name-15b"));
    let mut server = far.run(|| Agent::new("server"));
    let (listener, address) = server.listen((there, 0).into());
    let older = client.connect(address);
    let taken = server.accept(listener);

    const WIDTHS: [usize; 5] = [80, 100, 120, 160, 200];
    let terminals = WIDTHS.map(|width| {
        let terminal = Terminal::new(width, "--tcp --interval 0.1 --quiet --duration 4");
        (width, terminal)
    });
    let pair = Pair::new(Family::V4);
    let (local, remote) = (pair.ends.local, pair.ends.remote);
    let stream = Stream::start(&pair, 100_000, Duration::from_millis(20));
    for _ in 0..10 {
        client.send(older, 30_000);
        server.receive(taken, 30_000);
    }
    client.close(older);
    server.close(taken);
    for (_, terminal) in &terminals {
        terminal.await_end();
    }
    stream.stop();
    for (width, terminal) in &terminals {
        let lines = check(terminal, *width);
        let has = |part: &dyn Fn(&&String) -> bool| lines.iter().any(|line| part(&line));
        let of_pair = |line: &&String| line.contains(&local.to_string());
        assert!(has(&of_pair), "{width}: {local} -> {remote}: {lines:#?}");
        let port = format!("]:{}", older.ends.local.port());
        assert!(has(&|line| line.contains(&port) && !line.starts_with('[')) || *width < 160);
        let closed = |line: &&String| line.starts_with("[CLOSED]") && line.contains(" end=fin");
        assert!(has(&closed), "{width}: {lines:#?}");
        assert!(has(&|line| line.contains("a-long")), "{width}: {lines:#?}");
        let whole = |line: &&String| line.contains(&older.ends.local.to_string());
        assert!(has(&whole) || *width < 160, "{width}: {lines:#?}");
        assert!(lines.iter().filter(|line| is_header(line)).count() > 1, "{width}: {lines:#?}");
    }
}

/// After the terminal has got another size, rows fit the new one.
fn size_is_asked_each_interval() {
    const WHAT: &str = "terminal::size_is_asked_each_interval";
    if !program::is_there("tmux") {
        return left_out(WHAT, "no tmux here");
    }
    let pair = Pair::new(Family::V4);
    let stream = Stream::start(&pair, 1000, Duration::from_millis(10));
    let port = pair.ends.local.port();
    let terminal = Terminal::new(200, &format!("--tcp --port {port} --interval 0.1 --quiet"));
    let last_header = || terminal.lines(true).into_iter().rfind(|line| is_header(line));
    let shows = |wanted: bool| {
        until("a header", || {
            last_header().filter(|header| header.contains("PKTS_IN") == wanted).map(|_| ())
        });
    };
    shows(true);
    terminal.tmux(&["resize-window", "-x", "80"]);
    shows(false);
    terminal.tmux(&["resize-window", "-x", "200"]);
    shows(true);
    stream.stop();
}

/// A process chooses its name. In no format does a terminal get the control characters in
/// it, nor those that turn the text around; a pipe gets the name unchanged.
fn names_give_no_orders() {
    const NAME: &str = "a\u{1b}[2J\u{9b}m\u{202e}\n";
    let mut agent = Agent::new(NAME);
    let (listener, address) = listen(Family::V4);
    agent.connect(address);
    let (_server, _) = listener.accept().expect("accept");
    for (format, expected) in
        [("lines", "a_[2J_m__"), ("csv", "a_[2J_m__"), ("json", "a\\u001b[2J\\u009bm\\u202e\\n")]
    {
        let arguments = ["--tcp", "--format", format, "--interval", "0.05", "--once"];
        let on_terminal = output_on_a_terminal(&arguments);
        assert!(on_terminal.contains(expected), "{format}: {on_terminal:?}");
        let wild = |c: char| c.is_control() && !['\r', '\n'].contains(&c) || c == '\u{202e}';
        // Colours are tcptop's own.
        let shown = on_terminal.replace("\u{1b}[0m", "").replace("\u{1b}[32m", "");
        assert!(format == "lines" || !shown.contains(wild), "{format}: {shown:?}");
    }
    let arguments = ["--tcp", "--format", "csv", "--interval", "0.05", "--once"];
    let output = tcptop::command(&tcptop::binary(), &arguments).output().expect("tcptop");
    assert!(String::from_utf8_lossy(&output.stdout).contains(&format!("\"{NAME}\"")), "{output:?}");
}

/// A terminal is no log: there names would reach it unchanged.
fn no_log() {
    let (_ours, theirs) = terminal();
    let path = fs::read_link(format!("/proc/self/fd/{}", theirs.as_raw_fd())).expect("its name");
    let path = path.to_str().expect("UTF-8");
    let mut command = tcptop::command(&tcptop::binary(), &["--tcp", "--once", "--log", path]);
    let output = command.output().expect("tcptop");
    let error = format!(
        "tcptop: error: cannot open {path}: it is a terminal; without --log the rows go there\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stderr), error);
    assert_eq!(output.status.code(), Some(1));
}

/// Both ends of a new terminal: ours, and that of the processes.
fn terminal() -> (File, File) {
    let (mut ours, mut theirs) = (0, 0);
    let null = std::ptr::null_mut();
    // SAFETY: writes two descriptors, which are new and ours.
    unsafe {
        let result = libc::openpty(&raw mut ours, &raw mut theirs, null, null.cast(), null.cast());
        assert_eq!(result, 0, "openpty");
        (File::from_raw_fd(ours), File::from_raw_fd(theirs))
    }
}

/// The bytes that a terminal gets from a run.
fn output_on_a_terminal(arguments: &[&str]) -> String {
    let (mut ours, theirs) = terminal();
    let mut command = tcptop::command(&tcptop::binary(), arguments);
    let mut child = command.stdout(theirs).spawn().expect("tcptop");
    // Or the terminal would stay open here.
    drop(command);
    let mut bytes = Vec::new();
    // At the end of the last writer the kernel gives EIO.
    let _ = ours.read_to_end(&mut bytes);
    assert!(child.wait().expect("wait").success());
    String::from_utf8_lossy(&bytes).into_owned()
}
