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
        test("view::changed", changed),
        test("view::bits", bits),
        test("view::quiet", quiet),
        test("view::quiet_about_losses", quiet_about_losses),
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

/// With `--changed` an idle connection has the row of its last change and then no more; a
/// connection that ends has its final row, with exact totals.
fn changed() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log.csv");
    let name = log.to_str().expect("UTF-8");
    let (listener, address) = sock::listen(Family::V4);
    let port = address.port().to_string();
    let connect = || Pair::accept(&listener, sock::connect(address));
    let (idle, busy) = (connect(), connect());
    let arguments = ["--log", name, "--tcp", "--port", &port, "--interval", "0.1", "--changed"];
    let tcptop = Tcptop::start(&arguments);
    idle.exchange(100, 0);
    await_acked(&idle.client);
    let rows = |log: &Log, ends: Ends| log.open_rows_of(ends).len();
    let mut rounds = 0;
    Log::wait(&log, "many rows of the busy connection", |log| {
        busy.exchange(10, 0);
        rounds += 1;
        (rows(log, busy.ends) > 12).then_some(())
    });
    let ends = busy.ends;
    await_acked(&busy.client);
    busy.close();
    Log::wait_finals(&log, &[ends]);
    tcptop.stop(libc::SIGINT).check_log(&log, "0.1");
    let log = Log::read(&log);
    // The listing, the interval with traffic, and the one in which the rate fell to zero;
    // the traffic may be in two intervals.
    assert!((2..=4).contains(&rows(&log, idle.ends)), "{:#?}", log.open_rows_of(idle.ends));
    assert_eq!(log.totals(idle.ends), (0, 100));
    assert_eq!(log.totals(ends), (0, 10 * rounds));
}

/// A rate in bits is eight times the rate in bytes of the CSV file, in powers of 1000.
fn bits() {
    let pair = Pair::new(Family::V4);
    let port = pair.ends.local.port().to_string();
    let arguments = ["--tcp", "--port", &port, "--interval", "0.5", "--bits", "--lifetime"];
    let tcptop = Tcptop::start(&arguments);
    pair.exchange(1_000_000, 0);
    let row = tcptop.wait_row("all bytes", pair.ends, |row| row.bytes_out == 1_000_000);
    // One interval of half a second, or two: 16 or 8 megabits per second, at most a tenth
    // slower where the machine is busy.
    let rate: f64 =
        row.rate_out.strip_suffix("Mb/s").expect(&row.rate_out).parse().expect("a rate");
    assert!((0.5..=16.1).contains(&rate), "{rate}");
    assert_eq!(row.rate_in, "0b/s");
    tcptop.finish();
}

/// With `--quiet` nothing is on stderr where all goes well, also not about what is not there
/// yet.
fn quiet() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log.csv");
    let name = log.to_str().expect("UTF-8");
    let common = ["--quiet", "--once", "--interval", "0.05", "--cgroup", "/tcptop-none"];
    for arguments in [&[][..], &["--log", name], &["--format", "json"]] {
        let ended = Tcptop::start(&[&common[..], arguments].concat()).ended();
        assert_eq!((ended.status.code(), &*ended.stderr), (Some(0), ""), "{arguments:?}");
    }
    let ended = Launch::new(&["--quiet", "-i", "nowhere7"]).spawn().ended();
    assert_eq!(ended.stderr.lines().count(), 1);
    ended.check_error("no network device is named 'nowhere7' here; `ip -br link` lists them");
}

/// Losses are told also with `--quiet`: in the interval, and in total.
fn quiet_about_losses() {
    let server = std::net::UdpSocket::bind((sock::loopback(1), 0)).expect("bind");
    let address = server.local_addr().expect("bound");
    let port = address.port().to_string();
    let arguments = ["--udp", "--port", &port, "--udp-flows", "16", "--interval", "0.1"];
    let tcptop = Tcptop::start(&[&arguments[..], &["--quiet"]].concat());
    for _ in 0..200 {
        let client = std::net::UdpSocket::bind((sock::loopback(1), 0)).expect("bind");
        client.send_to(b"lost", address).expect("send");
    }
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    let (last, others) = {
        let mut lines: Vec<&str> = ended.stderr.lines().collect();
        (lines.pop().unwrap_or_default().to_owned(), lines)
    };
    assert!(last.starts_with("tcptop: lost in total: "), "{}", ended.stderr);
    let of_interval = |line: &&str| line.starts_with("tcptop: lost in this interval: ");
    assert!(!others.is_empty() && others.iter().all(of_interval), "{}", ended.stderr);
}
