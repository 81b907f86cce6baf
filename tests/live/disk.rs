//! A log that cannot be written: status 1, the reason on stderr, and only whole rows in the
//! file.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::Stdio;

use crate::common::log::Log;
use crate::common::netns::run;
use crate::common::sock::{Family, Pair};
use crate::common::tcptop::{self, Launch};
use crate::common::wait::until_true;

use super::csv::{logger, place, with_log};
use super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("disk::dev_full", dev_full),
        test("disk::file_system_fills_up", file_system_fills_up),
        test("disk::file_size_limit", file_size_limit),
        test("disk::removed_file_and_directory", removed),
        test("disk::read_only", read_only),
        test("disk::no_such_place", no_such_place),
        test("disk::fifo_whose_reader_leaves", fifo_whose_reader_leaves),
    ]
}

/// A file system that is mounted on a directory while this value lives.
struct Mount<'a>(&'a Path);

impl Mount<'_> {
    fn new<'a>(directory: &'a Path, options: &str) -> Result<Mount<'a>, String> {
        run("mount", &format!("-t tmpfs -o {options} tmpfs {}", directory.display()))?;
        Ok(Mount(directory))
    }
}

impl Drop for Mount<'_> {
    fn drop(&mut self) {
        // Fails only if the test has failed.
        let _ = run("umount", &format!("-l {}", self.0.display()));
    }
}

fn dev_full() {
    let ended = Launch::new(&["--log", "/dev/full", "--tcp"]).spawn().ended();
    ended.check_error("cannot write /dev/full: No space left on device (os error 28)");
    assert!(ended.output.lines.is_empty());
}

/// The log fills a disk of 1 MiB. All intervals are complete except the last one, which has
/// as many rows as fit.
fn file_system_fills_up() {
    let (directory, log) = place();
    let mount = match Mount::new(directory.path(), "size=1m") {
        Ok(mount) => mount,
        Err(error) => return left_out("disk::file_system_fills_up", error),
    };
    let pairs: Vec<Pair> = (0..200).map(|_| Pair::new(Family::V4)).collect();
    let ended = Launch::new(&with_log(&log, &["--tcp", "--interval", "0.02"])).spawn().ended();
    ended.check_error(&format!(
        "cannot write {}: No space left on device (os error 28); it keeps the rows before",
        log.display()
    ));
    assert!(fs::metadata(&log).expect("a file").len() > 900_000);
    let log = Log::read(&log);
    let mut times = log.times();
    let last = times.pop();
    let rows = log.open_rows_of(pairs[0].ends).len();
    assert!(rows > 10, "{rows} intervals");
    for pair in &pairs {
        let full = log.open_rows_of(pair.ends).iter().filter(|row| Some(row.time) != last).count();
        assert!((rows - 1..=rows).contains(&full), "{full} of {rows}");
    }
    drop(mount);
}

/// `ulimit -f`: an ordinary error; SIGXFSZ does not kill tcptop.
fn file_size_limit() {
    let (_directory, log) = place();
    let _pairs: Vec<Pair> = (0..50).map(|_| Pair::new(Family::V4)).collect();
    let launch = Launch::new(&with_log(&log, &["--tcp", "--interval", "0.02"]));
    let limit = || {
        let limit = libc::rlimit { rlim_cur: 20_000, rlim_max: 20_000 };
        // SAFETY: reads the structure, allocates nothing.
        match unsafe { libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: one system call.
    let ended = unsafe { launch.prepare(limit) }.spawn().ended();
    ended.check_error(&format!(
        "cannot write {}: File too large (os error 27); it keeps the rows before",
        log.display()
    ));
    let length = fs::metadata(&log).expect("a file").len();
    assert!((19_000..=20_000).contains(&length), "{length}");
    assert!(Log::read(&log).rows.len() > 100);
}

/// On SIGHUP a removed file is made again, with a header; a removed directory is an error.
fn removed() {
    let (directory, _) = place();
    let place = directory.path().join("logs");
    fs::create_dir(&place).expect("mkdir");
    let log = place.join("tcptop.csv");
    let pair = Pair::new(Family::V4);
    let tcptop = logger(&log, &["--tcp", "--interval", "0.05"]);
    let has_rows = |log: &Log| log.rows_of(pair.ends).next().map(|_| ());
    Log::wait(&log, "rows", has_rows);
    fs::remove_file(&log).expect("rm");
    Log::wait(&log, "rows in a new file", has_rows);
    let kept = File::open(&log).expect("it is there");
    fs::remove_dir_all(&place).expect("rm");
    tcptop.ended().check_error(&format!(
        "cannot open {}: No such file or directory (os error 2)",
        log.display()
    ));
    let mut rows = Vec::new();
    BufReader::new(kept).read_to_end(&mut rows).expect("what was in it");
    has_rows(&Log::parse(&rows)).expect("rows");
}

/// If the log cannot be opened, tcptop attaches nothing.
fn read_only() {
    let (directory, log) = place();
    let mount = match Mount::new(directory.path(), "ro") {
        Ok(mount) => mount,
        Err(error) => return left_out("disk::read_only", error),
    };
    for append in [&[][..], &["--append"]] {
        let ended = Launch::new(&with_log(&log, append)).spawn().ended();
        ended.check_error(&format!(
            "cannot open {}: Read-only file system (os error 30)",
            log.display()
        ));
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
    }
    drop(mount);
}

fn no_such_place() {
    let (directory, log) = place();
    for (path, reason) in [
        (directory.path().to_owned(), "Is a directory (os error 21)"),
        (directory.path().join("no/such.csv"), "No such file or directory (os error 2)"),
    ] {
        let ended = Launch::new(&with_log(&path, &[])).spawn().ended();
        ended.check_error(&format!("cannot open {}: {reason}", path.display()));
    }
    assert!(!log.exists());
}

/// A closed pipe as the log is an error; as stdout it is the usual end of a pipeline.
fn fifo_whose_reader_leaves() {
    let (directory, log) = place();
    if let Err(error) = run("mkfifo", &log.display().to_string()) {
        return left_out("disk::fifo_whose_reader_leaves", error);
    }
    let pair = Pair::new(Family::V4);
    let tcptop = Launch::new(&with_log(&log, &["--tcp", "--interval", "0.05"])).spawn();
    let mut lines = BufReader::new(File::open(&log).expect("open")).lines();
    let read: Vec<String> = (&mut lines).take(20).map(|line| line.expect("a line")).collect();
    drop(lines);
    tcptop
        .ended()
        .check_error(&format!("cannot write {}: Broken pipe (os error 32)", log.display()));
    assert!(Log::of_lines(&read).rows_of(pair.ends).next().is_some());

    // The same FIFO as standard output: no message, status 0.
    let arguments = ["--format", "csv", "--tcp", "--interval", "0.05"];
    let mut command = tcptop::command(&tcptop::binary(), &arguments);
    let path = log.clone();
    let reader = std::thread::spawn(move || {
        BufReader::new(File::open(path).expect("open")).lines().take(3).count()
    });
    let fifo = File::options().write(true).open(&log).expect("open");
    let mut child = command.stdout(Stdio::from(fifo)).spawn().expect("tcptop");
    drop(command);
    assert_eq!(reader.join().expect("reader"), 3);
    until_true("tcptop to end", || child.try_wait().expect("wait").is_some());
    let output = child.wait_with_output().expect("output");
    assert!(output.status.success(), "{:?}", output);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    drop(directory);
}
