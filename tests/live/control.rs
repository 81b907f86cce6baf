//! How a run ends, limits of a run, and blocked readers.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::pipe;

use crate::common::sock::{self, Ends, Family, Pair, Stream};
use crate::common::tcptop::{self, Launch, QUICK, Row, Tcptop};
use crate::common::udp;
use crate::common::wait::until_true;

use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("control::interrupt", || last_interval_of(libc::SIGINT)),
        test("control::terminate", || last_interval_of(libc::SIGTERM)),
        test("control::hang_up", || last_interval_of(libc::SIGHUP)),
        test("control::ends_while_it_stops", ends_while_it_stops),
        test("control::two_signals_at_once_are_one", two_signals_at_once_are_one),
        test("control::second_interrupt_kills", second_interrupt_kills),
        test("control::blocked_signal_is_unblocked", blocked_signal),
        test("control::ignored_signal_stays_ignored", ignored_signal),
        test("control::full_device", full_device),
        test("control::strict_and_the_reader_leaves", strict_and_the_reader_leaves),
        test("control::count", count),
        test("control::once", once),
        test("control::duration", duration),
        test("control::refused_options", refused_options),
        test("control::blocked_reader", blocked_reader),
        test("control::stopped_and_continued", stopped_and_continued),
        test("control::unread_messages", unread_messages),
    ]
}

/// A signal ends the interval early: its rows are written, status 0.
fn last_interval_of(signal: libc::c_int) {
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "3600"]);
    let (open, closed) = (Pair::new(Family::V4), Pair::new(Family::V6));
    open.exchange(123, 456_789);
    closed.exchange(2_000_000, 1);
    let closed_ends = closed.ends;
    closed.close();
    let ended = tcptop.stop(signal);
    ended.check();
    let rows: Vec<&Row> = ended.output.rows_of(open.ends).collect();
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!((rows[0].bytes_in, rows[0].bytes_out), (456_789, 123));
    for (ends, totals) in [(closed_ends, (1, 2_000_000)), (closed_ends.flipped(), (2_000_000, 1))] {
        let closed = ended.output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), totals);
    }
}

/// Connections that end while tcptop stops are told: as open, or as closed.
fn ends_while_it_stops() {
    let arguments = ["--tcp", "--raw", "--interval", "3600"];
    for _ in 0..3 {
        let tcptop = Tcptop::start(&arguments);
        let pairs: Vec<Pair> = (0..500).map(|_| Pair::new(Family::V4)).collect();
        pairs.iter().for_each(|pair| pair.exchange(11, 7));
        let all: Vec<Ends> = pairs.iter().map(|pair| pair.ends).collect();
        // They end one after the other, so that some end at any moment of the stop.
        let closing = thread::spawn(move || {
            for pair in pairs {
                drop(pair);
                thread::sleep(Duration::from_micros(50));
            }
        });
        tcptop.signal(libc::SIGINT);
        let ended = tcptop.ended();
        closing.join().expect("closed");
        ended.check();
        let output = &ended.output;
        for (ends, bytes_in) in all.iter().flat_map(|&ends| [(ends, 7), (ends.flipped(), 11)]) {
            let open = output.last_row(ends).map(|row| row.bytes_in);
            let closed = output.closed_of(ends).next().map(|closed| closed.bytes_in);
            assert_eq!(closed.or(open), Some(bytes_in), "{ends:?}");
        }
    }
}

/// A tcptop that is blocked while it writes rows of these connections, since nobody reads.
fn blocked(arguments: &[&str]) -> (Tcptop, Vec<Pair>) {
    let tcptop = Launch::new(arguments).blocked().start();
    let pairs = (0..50).map(|_| Pair::new(Family::V6)).collect();
    until_true("a full pipe", || tcptop.is_blocked());
    (tcptop, pairs)
}

/// timeout(1) signals its child and then the process group: the last interval is whole.
fn two_signals_at_once_are_one() {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "3600"]);
        let pair = Pair::new(Family::V4);
        pair.exchange(5, 6);
        tcptop.signal(signal);
        let ended = tcptop.stop(signal);
        ended.check();
        assert_eq!(ended.output.last_row(pair.ends).map(|row| row.bytes_in), Some(6));
    }
}

/// tcptop cannot obey the first SIGINT while its output is blocked; the second one kills it.
fn second_interrupt_kills() {
    let (mut tcptop, _pairs) = blocked(&["--tcp", "--all", "--interval", "0.02"]);
    tcptop.signal(libc::SIGINT);
    until_true("the first signal to be taken", || !is_pending(tcptop.id(), libc::SIGINT));
    assert!(tcptop.is_running(), "it waits for its reader");
    // Another one, as soon as it is not taken for a part of the first.
    until_true("the end", || {
        tcptop.signal(libc::SIGINT);
        !tcptop.is_running()
    });
    let status = tcptop.ended().status;
    let killed = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(killed, Some(libc::SIGINT), "{status}");
}

/// Whether a signal waits to be delivered to the process.
fn is_pending(pid: u32, signal: libc::c_int) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    ["SigPnd:", "ShdPnd:"].iter().any(|key| {
        let mask = status.lines().find_map(|line| line.strip_prefix(key)).expect("in the status");
        u64::from_str_radix(mask.trim(), 16).expect("hex") & (1 << (signal - 1)) != 0
    })
}

/// `--count 2`: the listing, two intervals, the end; never sooner.
fn count() {
    let pair = Pair::new(Family::V4);
    let started = Instant::now();
    let ended =
        Tcptop::start(&["--tcp", "--all", "--raw", "--interval", "0.3", "--count", "2"]).ended();
    let took = started.elapsed();
    ended.check();
    assert_eq!(ended.output.rows_of(pair.ends).count(), 3);
    assert!(took >= Duration::from_millis(600), "{took:?}");
}

fn once() {
    let pair = Pair::new(Family::V4);
    let ended = Tcptop::start(&["--tcp", "--all", "--raw", "--interval", "0.2", "--once"]).ended();
    ended.check();
    assert_eq!(ended.output.rows_of(pair.ends).count(), 2);
}

/// `--duration` ends on time, even within an interval, and loses nothing.
fn duration() {
    for interval in ["0.1", "3600"] {
        let started = Instant::now();
        let tcptop =
            Tcptop::start(&["--tcp", "--raw", "--interval", interval, "--duration", "0.5"]);
        let pair = Pair::new(Family::V4);
        pair.exchange(10_000, 20_000);
        let ends = pair.ends;
        pair.close();
        let ended = tcptop.ended();
        let took = started.elapsed();
        ended.check();
        assert!((Duration::from_millis(500)..Duration::from_secs(3)).contains(&took), "{took:?}");
        let closed = ended.output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), (20_000, 10_000));
    }
}

/// Status 2 and not a byte on stdout.
fn refused_options() {
    for arguments in
        [&["--interval", "0"][..], &["--interval", "-1"], &["--count", "0"], &["--nonsense"]]
    {
        let mut command: Command = tcptop::command(&tcptop::binary(), arguments);
        let output = command.output().expect("tcptop");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
}

/// A pager stops reading for a while: afterwards every total is exact, and each connection
/// that closed meanwhile has one line.
fn blocked_reader() {
    let steady = Pair::new(Family::V4);
    let (mut tcptop, _pairs) = blocked(&["--tcp", "--raw", "--all", "--interval", "0.02"]);
    let stream = Stream::start(&steady, 1000, Duration::from_millis(1));
    let closed: Vec<(Ends, u64, u64)> = (0..500)
        .map(|i| {
            let pair = Pair::new(Family::V4);
            pair.exchange(i, 2 * i);
            let ends = pair.ends;
            pair.close();
            (ends, i, 2 * i)
        })
        .collect();
    let sent = stream.stop().last().expect("something").total;
    assert!(tcptop.is_blocked(), "still");
    tcptop.unblock();
    let row = tcptop.wait_row("row with everything", steady.ends, |row| row.bytes_out == sent);
    assert!(row.partial);
    let all: Vec<Ends> = closed.iter().flat_map(|(ends, ..)| [*ends, ends.flipped()]).collect();
    tcptop.wait_closed(&all);
    let output = tcptop.finish();
    for (ends, up, down) in closed {
        for (ends, totals) in [(ends, (down, up)), (ends.flipped(), (up, down))] {
            let closed = output.the_closed(ends);
            assert_eq!((closed.bytes_in, closed.bytes_out), totals);
        }
    }
}

/// tcptop itself is stopped (SIGSTOP, much as by a shell's Ctrl-Z) and continued.
fn stopped_and_continued() {
    let tcptop = Tcptop::start(&QUICK);
    let open = Pair::new(Family::V4);
    tcptop.wait_row("row", open.ends, |_| true);
    tcptop.signal(libc::SIGSTOP);
    open.exchange(1 << 20, 2 << 20);
    let closed: Vec<Ends> = (1..=200)
        .map(|i| {
            let pair = Pair::new(Family::V4);
            pair.exchange(i, i);
            let ends = pair.ends;
            pair.close();
            ends
        })
        .collect();
    tcptop.signal(libc::SIGCONT);
    tcptop.wait_row("row with everything", open.ends, |row| {
        (row.bytes_in, row.bytes_out) == (2 << 20, 1 << 20)
    });
    tcptop.wait_closed(&closed);
    let output = tcptop.finish();
    for (ends, i) in closed.into_iter().zip(1..) {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), (i, i));
    }
}

/// A parent that has blocked SIGTERM (a mask is inherited) does not make tcptop deaf.
fn blocked_signal() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let block = move || {
            // SAFETY: the calls work on a set on the stack.
            let result = unsafe {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, signal);
                libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
            };
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: system calls, and a set on the stack.
        let tcptop = unsafe { Launch::new(&QUICK).prepare(block) }.start();
        tcptop.stop(signal).check();
    }
}

/// As a shell without job control starts what runs in the background: Ctrl-C is not for it.
/// As nohup(1) starts it: the end of the terminal is not for it.
fn ignored_signal() {
    for signal in [libc::SIGINT, libc::SIGHUP] {
        let ignore = move || {
            // SAFETY: no handler is set.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
            Ok(())
        };
        // SAFETY: one system call.
        let tcptop = unsafe { Launch::new(&QUICK).prepare(ignore) }.start();
        for _ in 0..2 {
            tcptop.signal(signal);
            let pair = Pair::new(Family::V4);
            tcptop.wait_row("row after the signal", pair.ends, |_| true);
        }
        tcptop.stop(libc::SIGTERM).check();
    }
}

/// The error says where the rows were to go.
fn full_device() {
    let pair = Pair::new(Family::V4);
    for format in ["lines", "csv", "json"] {
        let arguments = ["--tcp", "--interval", "0.1", "--format", format];
        let mut command = tcptop::command(&tcptop::binary(), &arguments);
        let full = File::options().write(true).open("/dev/full").expect("open");
        let output = command.stdout(full).output().expect("tcptop");
        assert_eq!(
            String::from_utf8_lossy(&output.stderr),
            "tcptop: error: cannot write to the standard output: No space left on device (os \
             error 28)\n"
        );
        assert_eq!(output.status.code(), Some(1));
    }
    drop(pair);
}

/// `--strict | head`: the reader's end is quiet as ever, and what was lost is told by the
/// status.
fn strict_and_the_reader_leaves() {
    for (flows, expected) in [("65536", 0), ("16", 3)] {
        let arguments = [
            "--udp",
            "--udp-flows",
            flows,
            "--strict",
            "--interval",
            "0.1",
            "--udp-timeout",
            "300",
        ];
        let mut child = tcptop::command(&tcptop::binary(), &arguments).spawn().expect("tcptop");
        let mut rows = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut messages = BufReader::new(child.stderr.take().expect("piped")).lines();
        // The header comes with the listing, after everything is attached.
        rows.next().expect("the header").expect("text");
        let socket = udp::bind((sock::loopback(0), 0).into());
        let sink = udp::bind((std::net::Ipv4Addr::UNSPECIFIED, 0).into());
        let port = sink.local_addr().expect("bound").port();
        for peer in 1..=100 {
            udp::send_to(&socket, (sock::loopback(peer), port).into(), 10, 1);
        }
        if expected != 0 {
            let message = messages.next().expect("a message").expect("text");
            assert!(message.starts_with("tcptop: lost in this interval: "), "{message}");
        }
        // The interval is written, and nothing is until the next one.
        rows.next().expect("a row").expect("text");
        drop(rows);
        until_true("tcptop to end", || child.try_wait().expect("wait").is_some());
        assert_eq!(child.wait().expect("wait").code(), Some(expected));
        let rest: Vec<String> = messages.map_while(Result::ok).collect();
        assert!(rest.iter().all(|line| line.contains("lost in this interval")), "{rest:?}");
    }
}

/// stderr is a pipe that is full and that nobody reads: tcptop counts, and ends.
fn unread_messages() {
    let (_reader, writer) = pipe().expect("a pipe");
    let writer = File::from(writer);
    let set = |flags| fcntl(&writer, FcntlArg::F_SETFL(flags)).expect("fcntl");
    set(OFlag::O_NONBLOCK);
    while (&writer).write(&[b'x'; 4096]).is_ok() {}
    while (&writer).write(b"x").is_ok() {}
    set(OFlag::empty());
    let pair = Pair::new(Family::V4);
    let arguments = [&QUICK[..], &["--once", "-v"]].concat();
    let mut command = tcptop::command(&tcptop::binary(), &arguments);
    let mut child = command.stderr(writer).spawn().expect("tcptop");
    let mut stdout = child.stdout.take().expect("piped");
    let output = thread::spawn(move || io::read_to_string(&mut stdout));
    until_true("tcptop to end", || child.try_wait().expect("wait").is_some());
    assert!(child.wait().expect("wait").success());
    let output = output.join().expect("a reader").expect("text");
    assert!(output.contains(&pair.ends.local.to_string()), "{output}");
}
