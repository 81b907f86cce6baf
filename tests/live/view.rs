//! Which rows of an interval are shown, in which order and colour.

use std::fs;

use crate::common::log::Log;
use crate::common::sock::{self, Ends, Family, Pair, await_acked};
use crate::common::tcptop::{Launch, Tcptop};

use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("view::sort_and_top", sort_and_top),
        test("view::colour", colour),
        test("view::silent_flows_go", silent_flows_go),
    ]
}

/// Connections to one port: a younger one moves more bytes.
fn growing() -> (Vec<Pair>, String) {
    let (listener, address) = sock::listen(Family::V4);
    let pairs = (1..=5).map(|size| {
        let pair = Pair::accept(&listener, sock::connect(address));
        pair.exchange(size * 1000, 0);
        await_acked(&pair.client);
        pair
    });
    (pairs.collect(), address.port().to_string())
}

fn sort_and_top() {
    let (pairs, port) = growing();
    let clients: Vec<Ends> = pairs.iter().map(|pair| pair.ends).collect();
    let rows = |arguments: &[&str]| {
        let common = [
            "--tcp",
            "--port",
            &port,
            "--lifetime",
            "--raw",
            "--all",
            "--interval",
            "0.1",
            "--once",
        ];
        let ended = Tcptop::start(&[&common[..], arguments].concat()).ended();
        ended.check();
        // Only the client's rows of the last interval: the server's are alike.
        let rows = ended.output.rows;
        let count = if arguments.contains(&"--top") { 3 } else { 10 };
        rows[rows.len() - count..].to_vec()
    };
    let of_clients = |rows: &[crate::common::tcptop::Row]| -> Vec<Ends> {
        rows.iter().map(|row| row.ends).filter(|ends| clients.contains(ends)).collect()
    };
    let by_bytes = rows(&["--sort", "bytes"]);
    assert!(of_clients(&by_bytes).iter().eq(clients.iter().rev()), "{by_bytes:#?}");
    let first = rows(&["--sort", "bytes", "--top", "3"]);
    let totals: Vec<u64> = first.iter().map(|row| row.bytes_in + row.bytes_out).collect();
    assert_eq!(totals, [5000, 5000, 4000]);
    let by_rtt = rows(&["--sort", "rtt"]);
    let rtt = |row: &crate::common::tcptop::Row| row.rtt.parse::<u64>().unwrap_or(0);
    assert!(by_rtt.is_sorted_by(|one, other| rtt(one) >= rtt(other)), "{by_rtt:#?}");
    // All are as old as tcptop, except the next one.
    let (listener, address) = sock::listen(Family::V4);
    let port = address.port().to_string();
    let arguments =
        ["--tcp", "--port", &port, "--raw", "--all", "--sort", "age", "--interval", "0.1"];
    let tcptop = Tcptop::start(&arguments);
    let made: Vec<Pair> = (0..3).map(|_| Pair::accept(&listener, sock::connect(address))).collect();
    let newest = made[2].ends;
    tcptop.wait_row("the newest", newest, |_| true);
    let seen = tcptop.look(|output| output.rows_of(newest).count());
    tcptop.wait("another interval", |output| (output.rows_of(newest).count() > seen).then_some(()));
    let output = tcptop.finish();
    let last = output.rows_of(newest).next_back().expect("seen").line;
    let first = output.rows_of(made[0].ends).rfind(|row| row.line < last).expect("before it").line;
    let second = output.rows_of(made[1].ends).rfind(|row| row.line < last).expect("before").line;
    assert!(first < second && second < last, "{first} {second} {last}");
}

/// Colours are used on request; a pipe gets none by default.
fn colour() {
    let (listener, address) = sock::listen(Family::V4);
    let port = address.port().to_string();
    let lines = |when: &str| {
        let arguments = ["--tcp", "--port", &port, "--once", "--interval", "3600", "--color", when];
        let tcptop = Launch::new(&arguments).start();
        let pair = Pair::accept(&listener, sock::connect(address));
        let lines = tcptop.stop(libc::SIGINT).output.lines;
        assert_eq!(lines.len(), 3, "the header and both ends: {lines:?}");
        drop(pair);
        lines
    };
    let coloured = |lines: Vec<String>| lines.iter().any(|line| line.contains('\u{1b}'));
    assert!(coloured(lines("always")));
    assert!(!coloured(lines("auto")) && !coloured(lines("never")));
}

/// A UDP flow without a datagram for `--udp-timeout` disappears without a line.
fn silent_flows_go() {
    let server = std::net::UdpSocket::bind((sock::loopback(1), 0)).expect("bind");
    let address = server.local_addr().expect("bound");
    let port = address.port().to_string();
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log.csv");
    let name = log.to_str().expect("UTF-8");
    let arguments =
        ["--log", name, "--udp", "--port", &port, "--interval", "0.1", "--udp-timeout", "0.5"];
    let tcptop = Tcptop::start(&arguments);
    let [silent, lively] =
        [(); 2].map(|()| std::net::UdpSocket::bind((sock::loopback(1), 0)).expect("bind"));
    silent.send_to(b"once", address).expect("send");
    let ends = Ends::new(silent.local_addr().expect("bound"), address);
    Log::wait(&log, "more rows than the silent flow has", |log| {
        lively.send_to(b"again", address).expect("send");
        let lively = Ends::new(lively.local_addr().expect("bound"), address);
        let (silent, lively) = (log.rows_of(ends).count(), log.rows_of(lively).count());
        (silent > 0 && lively > silent + 5).then_some(())
    });
    let ended = tcptop.stop(libc::SIGINT);
    ended.check_log(&log, "0.1");
    let rows = Log::read(&log).rows_of(ends).count();
    // The timeout of half a second, and the three ticks that removing a flow takes.
    assert!((4..=12).contains(&rows), "{rows}");
    assert!(!fs::read_to_string(&log).expect("text").contains("CLOSED"));
}
