//! Why a connection is slow: every column against `TCP_INFO` and `ss` of the same socket,
//! at both ends; how long handshakes take; what UDP sockets drop.

use std::io::Write;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use serde_json::{Value, json};

use crate::common::netns::{self, BadLink, Netns};
use crate::common::rows::Rows;
use crate::common::sock::{
    self, Ends, Family, Let, Pair, TcpInfo, await_acked, await_closed, connect_error,
    filter_incoming, let_all_in, listen, loopback, reset, send, set_int, start_connecting,
    unconnected, would_block,
};
use crate::common::wait::{load, patience, until_true};

use super::{Test, figures, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("slow::equals_tcp_info", equals_tcp_info),
        test("slow::bad_network", bad_network),
        test("slow::reader_that_stops", reader_that_stops),
        test("slow::small_send_buffer", small_send_buffer),
        test("slow::congestion_window", congestion_window),
        test("slow::handshakes", handshakes),
        test("slow::handshake_with_a_delay", handshake_with_a_delay),
        test("slow::waiting_for_data", waiting_for_data),
        test("slow::udp_drops", udp_drops),
    ]
}

const TCP: &str = "connect_us,syn_retrans,cwnd,ssthresh,mss,rttvar_us,min_rtt_us,rcv_rtt_us,\
                   delivery_rate,pacing_rate,unacked,lost,reordering,retrans,bytes_retrans,\
                   dsack_dups,rcv_ooo,notsent,send_queue,recv_queue,busy_us,rwnd_limited_us,\
                   sndbuf_limited_us,limited_by,congestion,drops";

/// The columns that advance by themselves while the socket has something to send.
const ADVANCING: [&str; 3] = ["busy_us", "rwnd_limited_us", "sndbuf_limited_us"];

fn start() -> Rows {
    Rows::start(TCP, &["--tcp"])
}

/// The socket in the words of `ss`.
struct Ss {
    text: String,
}

impl Ss {
    /// In the namespace of the calling thread.
    fn of(ends: Ends) -> Ss {
        let (local, remote) = (ends.local, ends.remote);
        let text = netns::run("ss", &format!("-tinmOH src {local} dst {remote}")).expect("ss");
        assert_eq!(text.lines().count(), 1, "{text:?}");
        Ss { text }
    }

    fn words(&self) -> Vec<&str> {
        self.text.split_ascii_whitespace().collect()
    }

    /// The number after `KEY:`, or after the word `KEY`; `None` if ss does not print it,
    /// since it is 0 or not known.
    fn number(&self, key: &str) -> Option<u64> {
        let words = self.words();
        let text =
            words.iter().enumerate().find_map(|(at, &word)| match word.strip_prefix(key)? {
                "" => words.get(at + 1).copied(),
                rest => rest.strip_prefix(':'),
            })?;
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        Some(text[..digits].parse().unwrap_or_else(|e| panic!("{key}: {e}: {}", self.text)))
    }

    /// The last entry of `skmem:(…,d0)`.
    fn drops(&self) -> u64 {
        let memory = self.words().into_iter().find(|word| word.starts_with("skmem:("));
        let drops = memory.and_then(|word| word.trim_end_matches(')').rsplit_once(",d"));
        drops.and_then(|(_, drops)| drops.parse().ok()).unwrap_or_else(|| panic!("{}", self.text))
    }

    fn queue(&self, at: usize) -> u64 {
        self.words()[at].parse().unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }
}

fn algorithm(socket: &TcpStream) -> String {
    let mut name = [0_u8; 16];
    let mut length = name.len() as libc::socklen_t;
    // SAFETY: the option writes at most `length` bytes.
    let result = unsafe {
        let fd = socket.as_raw_fd();
        let to = name.as_mut_ptr().cast();
        libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, to, &raw mut length)
    };
    Errno::result(result).expect("TCP_CONGESTION");
    let end = name.iter().position(|&byte| byte == 0).expect("terminated");
    String::from_utf8(name[..end].into()).expect("ASCII")
}

/// What a row must say, by `TCP_INFO`.
fn by_tcp_info(info: &TcpInfo) -> Vec<(&'static str, Value)> {
    let measured = |value: u32| if value == 0 { Value::Null } else { json!(value) };
    let with_rtt = |value: u32| if info.rtt == 0 { Value::Null } else { json!(value) };
    let rate = |rate: u64| match rate {
        0 | u64::MAX => Value::Null,
        rate => json!(rate as f64),
    };
    vec![
        ("cwnd", json!(info.snd_cwnd)),
        (
            "ssthresh",
            if info.snd_ssthresh < i32::MAX as u32 {
                json!(info.snd_ssthresh)
            } else {
                Value::Null
            },
        ),
        ("mss", json!(info.snd_mss)),
        ("rttvar_us", with_rtt(info.rttvar)),
        ("min_rtt_us", with_rtt(info.min_rtt)),
        ("rcv_rtt_us", measured(info.rcv_rtt)),
        ("delivery_rate", rate(info.delivery_rate)),
        ("pacing_rate", rate(info.pacing_rate)),
        ("unacked", json!(info.unacked)),
        ("lost", json!(info.lost)),
        ("reordering", json!(info.reordering)),
        ("retrans", json!(info.total_retrans)),
        ("bytes_retrans", json!(info.bytes_retrans)),
        ("dsack_dups", json!(info.dsack_dups)),
        ("rcv_ooo", json!(info.rcv_ooopack)),
        ("notsent", json!(info.notsent_bytes)),
        ("busy_us", json!(info.busy_time)),
        ("rwnd_limited_us", json!(info.rwnd_limited)),
        ("sndbuf_limited_us", json!(info.sndbuf_limited)),
    ]
}

/// What a row must say, by `ss`; rates in bits. The columns that ss leaves out where they
/// are 0 are 0 or unknown.
fn by_ss(ss: &Ss) -> Vec<(&'static str, Value)> {
    let or_zero = |key: &str| json!(ss.number(key).unwrap_or(0));
    let mut values = vec![
        ("cwnd", or_zero("cwnd")),
        ("mss", or_zero("mss")),
        ("unacked", or_zero("unacked")),
        ("lost", or_zero("lost")),
        ("bytes_retrans", or_zero("bytes_retrans")),
        ("dsack_dups", or_zero("dsack_dups")),
        ("rcv_ooo", or_zero("rcv_ooopack")),
        ("notsent", or_zero("notsent")),
        ("recv_queue", json!(ss.queue(1))),
        ("send_queue", json!(ss.queue(2))),
        ("drops", json!(ss.drops())),
    ];
    if let Some(ssthresh) = ss.number("ssthresh") {
        values.push(("ssthresh", json!(ssthresh)));
    }
    // ss leaves out the default, 3.
    if let Some(reordering) = ss.number("reordering") {
        values.push(("reordering", json!(reordering)));
    }
    for column in ["delivery_rate", "pacing_rate"] {
        if let Some(bits) = ss.number(column) {
            values.push((column, json!((bits / 8) as f64)));
        }
    }
    values
}

/// Waits until the newest row of a socket says what `TCP_INFO` and `ss` say of it now, in
/// every column but these. `in_its_namespace` runs `ss`.
fn compare(
    rows: &Rows,
    socket: &TcpStream,
    ends: Ends,
    in_its_namespace: &dyn Fn(&mut (dyn FnMut() + Send)),
    but: &[&str],
) -> Value {
    let deadline = Instant::now() + patience();
    loop {
        let mut ss = None;
        in_its_namespace(&mut || ss = Some(Ss::of(ends)));
        let ss = ss.expect("it ran");
        let info = TcpInfo::of(socket);
        let row = rows.last(ends).unwrap_or_default();
        let mut expected = by_tcp_info(&info);
        expected.extend(by_ss(&ss));
        expected.push(("congestion", json!(algorithm(socket))));
        expected.retain(|(column, _)| !but.contains(column));
        let wrong: Vec<_> =
            expected.iter().filter(|(column, value)| row[column] != *value).collect();
        if wrong.is_empty() {
            assert!(ss.words().contains(&algorithm(socket).as_str()), "{}", ss.text);
            return row;
        }
        assert!(Instant::now() < deadline, "{wrong:#?}\n{row:#}\n{info:#?}\n{}", ss.text);
        thread::sleep(Duration::from_millis(5));
    }
}

fn here(run: &mut (dyn FnMut() + Send)) {
    run();
}

fn inside(netns: &Netns) -> impl Fn(&mut (dyn FnMut() + Send)) + '_ {
    |run| netns.run(run)
}

/// Resets the quiet connection. The final rows must say what the last ones did: a reset
/// changes none of the sender's values, and takes only what waits from the other.
fn compare_final(rows: &Rows, pair: Pair, before: [Value; 2]) {
    let ends = [pair.ends, pair.ends.flipped()];
    reset(pair.client);
    await_closed(&pair.server);
    for (ends, before) in ends.into_iter().zip(before) {
        let last = rows.wait_final(ends);
        assert_eq!(last["state"], "CLOSED");
        for column in TCP.split(',').filter(|column| *column != "limited_by") {
            assert_eq!(last[column], before[column], "{column}: {last:#}\n{before:#}");
        }
    }
}

fn equals_tcp_info() {
    let old = Pair::new(Family::V4);
    old.exchange(5000, 70_000);
    let rows = start();
    for (client_to_server, server_to_client) in [(0, 0), (1, 0), (700, 2 << 20), (3 << 20, 9)] {
        let pair = Pair::new(Family::ALL[client_to_server as usize % 4]);
        pair.exchange(client_to_server, server_to_client);
        await_acked(&pair.client);
        await_acked(&pair.server);
        let ends = [pair.ends, pair.ends.flipped()];
        let now = [(&pair.client, ends[0]), (&pair.server, ends[1])]
            .map(|(socket, ends)| compare(&rows, socket, ends, &here, &[]));
        for row in &now {
            assert_eq!(row["syn_retrans"], 0, "{row:#}");
            assert!(row["connect_us"].as_u64().is_some_and(|us| us > 0), "{row:#}");
        }
        compare_final(&rows, pair, now);
    }
    // Older than tcptop: its handshake is not known, and all else is.
    let now = compare(&rows, &old.client, old.ends, &here, &["retrans"]);
    assert_eq!((&now["connect_us"], &now["syn_retrans"]), (&Value::Null, &Value::Null));
    rows.finish();
}

/// Waits until no segment has come in for a while: what was sent twice has arrived.
fn await_quiet(pair: &Pair) {
    until_true("a quiet link", || {
        let segments = || [&pair.client, &pair.server].map(|end| TcpInfo::of(end).segs_in);
        let before = segments();
        thread::sleep(Duration::from_millis(250));
        before == segments()
    });
}

fn bad_network() {
    let link = match BadLink::new("delay 10ms loss 2% reorder 25% 50%") {
        Ok(link) => link,
        Err(error) => return left_out("slow::bad_network", error.trim_end()),
    };
    let rows = start();
    let pair = link.connect();
    pair.exchange(600_000, 300_000);
    await_acked(&pair.client);
    await_acked(&pair.server);
    await_quiet(&pair);
    let ends = [pair.ends, pair.ends.flipped()];
    let now = [
        compare(&rows, &pair.client, ends[0], &inside(&link.near), &[]),
        compare(&rows, &pair.server, ends[1], &inside(&link.far), &[]),
    ];
    // The network was bad enough for the columns to say so.
    for column in ["bytes_retrans", "rcv_ooo", "ssthresh", "retrans"] {
        assert!(now[0][column].as_u64().is_some_and(|value| value > 0), "{column}: {:#}", now[0]);
    }
    link.mend();
    compare_final(&rows, pair, now);
    rows.finish();
}

/// Fills the send buffer without waiting for the reader.
fn fill(socket: &TcpStream) {
    socket.set_nonblocking(true).expect("nonblocking");
    let mut stream = socket;
    loop {
        match stream.write(&[0; 65536]) {
            Ok(_) => {}
            Err(error) if would_block(&error) => break,
            Err(error) => panic!("send: {error}"),
        }
    }
    socket.set_nonblocking(false).expect("blocking");
}

/// The sender has more than the reader's window takes, for seconds.
fn reader_that_stops() {
    let rows = start();
    let pair = Pair::new(Family::V4);
    let (client, server) = (pair.ends, pair.ends.flipped());
    fill(&pair.client);
    let limited = |row: &Value| row["limited_by"] == "rwnd";
    rows.wait("a sender that waits for the reader", client, limited);
    // The chronographs run on, so a row is between two readings.
    let before = TcpInfo::of(&pair.client);
    let row = rows.wait("a row of now", client, |row| {
        row["busy_us"].as_u64() > Some(before.busy_time) && limited(row)
    });
    let after = TcpInfo::of(&pair.client);
    for (column, before, after) in [
        ("busy_us", before.busy_time, after.busy_time),
        ("rwnd_limited_us", before.rwnd_limited, after.rwnd_limited),
        ("sndbuf_limited_us", before.sndbuf_limited, after.sndbuf_limited),
    ] {
        let value = row[column].as_u64().expect("a number");
        assert!((before..=after).contains(&value), "{column}: {before} {after} {row:#}");
    }
    compare(&rows, &pair.client, client, &here, &ADVANCING);
    let unread = compare(&rows, &pair.server, server, &here, &[]);
    assert!(unread["recv_queue"].as_u64() > Some(10_000), "{unread:#}");
    assert_eq!(unread["limited_by"], "app", "it has nothing to send");
    // A process that reads a little sends no segment, and its row changes all the same.
    sock::receive(&pair.server, 1);
    compare(&rows, &pair.server, server, &here, &[]);
    reset(pair.client);
    let last = rows.wait_final(client);
    assert_eq!(last["limited_by"], "rwnd", "{last:#}");
    rows.finish();
}

/// A send buffer that holds less than the delay of the link needs.
fn small_send_buffer() {
    let link = match BadLink::new("delay 20ms") {
        Ok(link) => link,
        Err(error) => return left_out("slow::small_send_buffer", error.trim_end()),
    };
    let rows = start();
    let pair = link.connect();
    set_int(&pair.client, libc::SOL_SOCKET, libc::SO_SNDBUF, 16384);
    // The kernel looks only when it sends the last segment of the buffer after the process
    // has filled it (tcp_cwnd_validate()). Pacing lets the process do so first.
    set_int(&pair.client, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, 1 << 30);
    let bytes = 600_000;
    thread::scope(|scope| {
        scope.spawn(|| send(&pair.client, bytes));
        sock::receive(&pair.server, bytes);
        rows.wait("a sender with a small buffer", pair.ends, |row| row["limited_by"] == "sndbuf");
    });
    await_acked(&pair.client);
    let row = compare(&rows, &pair.client, pair.ends, &inside(&link.near), &[]);
    assert!(row["sndbuf_limited_us"].as_u64() > Some(0), "{row:#}");
    pair.close();
    rows.finish();
}

/// A network that loses segments keeps the congestion window small. Then the sender has
/// nothing more to send.
fn congestion_window() {
    let link = match BadLink::new("delay 20ms loss 2%") {
        Ok(link) => link,
        Err(error) => return left_out("slow::congestion_window", error.trim_end()),
    };
    let rows = start();
    let pair = link.connect();
    let reno = b"reno";
    // SAFETY: the option reads four bytes.
    let result = unsafe {
        let (fd, from) = (pair.client.as_raw_fd(), reno.as_ptr().cast());
        libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, from, 4)
    };
    Errno::result(result).expect("TCP_CONGESTION");
    let bytes = u64::from(load(800_000, 300_000));
    thread::scope(|scope| {
        scope.spawn(|| send(&pair.client, bytes));
        sock::receive(&pair.server, bytes);
        rows.wait("a sender with a full window", pair.ends, |row| row["limited_by"] == "cwnd");
    });
    await_acked(&pair.client);
    await_quiet(&pair);
    let row = compare(&rows, &pair.client, pair.ends, &inside(&link.near), &[]);
    assert_eq!(row["congestion"], "reno");
    // One byte is sent when there was nothing to send for a while.
    send(&pair.client, 1);
    sock::receive(&pair.server, 1);
    rows.wait("a sender without data", pair.ends, |row| row["limited_by"] == "app");
    pair.close();
    rows.finish();
}

fn us(time: Duration) -> u64 {
    time.as_micros() as u64
}

/// Checks that the handshake took at least `floor`, and no more than since `began`.
fn check_connect(row: &Value, floor: Duration, began: Instant) {
    let connect = row["connect_us"].as_u64().unwrap_or_else(|| panic!("{row:#}"));
    let most = us(began.elapsed());
    assert!((us(floor)..=most).contains(&connect), "{floor:?} to {most} us: {row:#}");
}

/// A socket with a port, so that its rows can be found.
fn bound(remote: SocketAddr) -> (TcpStream, Ends) {
    let socket = unconnected(remote, Some(SocketAddr::new(remote.ip(), 0)));
    let ends = Ends::new(socket.local_addr().expect("bound"), remote);
    (socket, ends)
}

/// Handshakes in which segments are lost, and those that fail.
fn handshakes() {
    let rows = start();
    let second = Duration::from_secs(1);
    // The listener loses the SYNs of one, and all those of the other. A third loses the
    // SYN-ACKs that come back, a fourth is refused.
    let (slow, slow_address) = listen(Family::V4);
    let (dead, dead_address) = listen(Family::V4);
    let (third, third_address) = listen(Family::V4);
    let nobody = listen(Family::V4).1;
    filter_incoming(&slow, Let::Nothing);
    filter_incoming(&dead, Let::Nothing);
    let began = Instant::now();
    let (first, ends) = bound(slow_address);
    let (failing, dead_ends) = bound(dead_address);
    let (deaf, deaf_ends) = bound(third_address);
    let (refused, refused_ends) = bound(nobody);
    set_int(&failing, libc::IPPROTO_TCP, libc::TCP_SYNCNT, 1);
    filter_incoming(&deaf, Let::Nothing);
    start_connecting(&first, slow_address);
    start_connecting(&failing, dead_address);
    start_connecting(&deaf, third_address);
    start_connecting(&refused, nobody);

    let row = rows.wait_final(refused_ends);
    check_connect(&row, Duration::ZERO, began);
    assert_eq!(row["syn_retrans"], 0, "{row:#}");
    let row = rows.wait("an attempt", ends, |row| row["state"] == "SYN_SENT");
    assert_eq!(row["connect_us"], Value::Null, "not there yet: {row:#}");
    let_all_in(&slow);
    let_all_in(&deaf);

    let server = slow.accept().expect("accept").0;
    let row = rows.wait("a connection", ends, |row| row["state"] == "ESTABLISHED");
    check_connect(&row, second * 9 / 10, began);
    assert!(row["syn_retrans"].as_u64() >= Some(1), "{row:#}");
    assert_eq!(row["syn_retrans"], row["retrans"], "nothing else was sent");
    let row = rows.wait("its other end", ends.flipped(), |row| row["state"] == "ESTABLISHED");
    assert_eq!(row["syn_retrans"], 0, "the SYN-ACK was sent once: {row:#}");
    drop((first, server));

    let server = third.accept().expect("accept").0;
    let row = rows.wait("a connection", deaf_ends, |row| row["state"] == "ESTABLISHED");
    check_connect(&row, second * 9 / 10, began);
    let row = rows.wait("its other end", deaf_ends.flipped(), |row| row["state"] == "ESTABLISHED");
    assert!(row["syn_retrans"].as_u64() >= Some(1), "{row:#}");
    let info = TcpInfo::of(&server);
    assert_eq!(row["syn_retrans"], json!(info.total_retrans), "{row:#}");
    // The kernel has measured it from Linux 6.7 on, unless it was the client's second SYN
    // that made it send the SYN-ACK again.
    if info.total_rto_time > 0 {
        assert_eq!(row["connect_us"], json!(u64::from(info.total_rto_time) * 1000), "{row:#}");
    } else {
        assert_eq!(row["connect_us"], Value::Null, "{row:#}");
    }
    drop((deaf, server));

    let row = rows.wait_final(dead_ends);
    assert_eq!(connect_error(&failing), libc::ETIMEDOUT);
    // The second SYN comes after a second, the end two or more after that.
    check_connect(&row, second * 5 / 2, began);
    assert!(row["syn_retrans"].as_u64() >= Some(1), "{row:#}");
    assert_eq!(row["syn_retrans"], json!(TcpInfo::of(&failing).total_retrans), "{row:#}");
    rows.finish();
}

/// The time of a handshake is netem's delay both ways, for either end, and if it is refused.
fn handshake_with_a_delay() {
    let delay = Duration::from_millis(15);
    let link = match BadLink::new("delay 15ms") {
        Ok(link) => link,
        Err(error) => return left_out("slow::handshake_with_a_delay", error.trim_end()),
    };
    let rows = start();
    // The neighbours learn each other's address, which takes two ways more.
    link.connect().close();
    let server = link.listener.local_addr().expect("bound");
    let nobody = SocketAddr::new(server.ip(), 1);
    let mut longer = Vec::new();
    for attempt in 0..5 {
        let began = Instant::now();
        let pair = link.connect();
        let took = began.elapsed();
        let (socket, refused) = link.near.run(|| {
            let socket = unconnected(nobody, Some(([10, 86, 0, 1], 0).into()));
            let ends = Ends::new(socket.local_addr().expect("bound"), nobody);
            start_connecting(&socket, nobody);
            (socket, ends)
        });
        for (ends, most) in
            [(pair.ends, took), (pair.ends.flipped(), patience()), (refused, patience())]
        {
            let row = rows.wait("a handshake", ends, |row| row["connect_us"] != Value::Null);
            let connect = row["connect_us"].as_u64().expect("a number");
            assert!((us(2 * delay)..=us(most)).contains(&connect), "{took:?} {row:#}");
            assert_eq!(row["syn_retrans"], 0, "{row:#}");
            longer.push((attempt, connect - us(2 * delay)));
        }
        drop(socket);
        pair.close();
    }
    // A busy machine runs netem's timers late now and then, an emulated one often.
    longer.sort_by_key(|(_, longer)| *longer);
    figures(format_args!("handshake, us longer than the delay: {longer:?}"));
    let bound = u64::from(load(1000, 20_000));
    assert!(longer[longer.len() / 2].1 < bound, "us longer than the delay: {longer:?}");
    rows.finish();
}

/// A connect() that waits for data before it sends a SYN (`TCP_FASTOPEN_CONNECT`): the
/// handshake begins with the SYN.
fn waiting_for_data() {
    let netns = Netns::new();
    // Client and server, without cookies.
    netns.sysctl("net/ipv4/tcp_fastopen", "519");
    let rows = Rows::start(&format!("conn_id,{TCP}"), &["--tcp"]);
    let (listener, client) = netns.run(|| {
        let listener = sock::listen_at(([127, 0, 0, 1], 0).into());
        set_int(&listener, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, 5);
        let address = listener.local_addr().expect("bound");
        let client = unconnected(address, Some(([127, 0, 0, 1], 0).into()));
        set_int(&client, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1);
        sock::connect_socket(&client, address).expect("it waits");
        (listener, client)
    });
    let local = client.local_addr().expect("bound");
    let ends = Ends::new(local, listener.local_addr().expect("bound"));
    let waiting = rows.wait("a socket that waits", ends, |row| row["state"] == "SYN_SENT");
    assert!(waiting["conn_id"].is_string(), "{waiting:#}");
    let pause = Duration::from_millis(300);
    thread::sleep(pause);
    let sent = Instant::now();
    send(&client, 100);
    let pair = Pair::accept(&listener, client);
    sock::receive(&pair.server, 100);
    let row = rows.wait("a connection", ends, |row| row["state"] == "ESTABLISHED");
    check_connect(&row, Duration::ZERO, sent);
    assert_eq!(row["conn_id"], waiting["conn_id"]);
    let other = rows.wait("its other end", ends.flipped(), |row| row["state"] == "ESTABLISHED");
    assert_ne!(row["conn_id"], other["conn_id"]);
    pair.close();
    let last = rows.wait_final(ends);
    assert_eq!((&last["conn_id"], &last["connect_us"]), (&row["conn_id"], &row["connect_us"]));
    let mut of_server = rows.of(ends.flipped());
    of_server.dedup_by_key(|row| row["conn_id"].clone());
    assert_eq!(of_server.len(), 1, "{of_server:#?}");
    rows.finish();
}

/// What `ss` says that the UDP socket at this address has dropped.
fn udp_drops_of(local: SocketAddr) -> u64 {
    let text = netns::run("ss", &format!("-uanmOH src {local}")).expect("ss");
    Ss { text }.drops()
}

/// Datagrams for which a socket has no room.
fn udp_drops() {
    let rows = Rows::start("conn_id,drops", &["--udp", "--udp-timeout", "1"]);
    let receiver = UdpSocket::bind((loopback(1), 0)).expect("bind");
    let sender = UdpSocket::bind((loopback(2), 0)).expect("bind");
    let address = receiver.local_addr().expect("bound");
    sender.connect(address).expect("connect");
    set_int(&receiver.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, 4096);
    let ends = Ends::new(address, sender.local_addr().expect("bound"));
    let flood = |count: usize| {
        for _ in 0..count {
            sender.send(&[0; 200]).expect("send");
        }
    };
    // A datagram that is received makes the flow.
    flood(1);
    receiver.recv(&mut [0; 300]).expect("receive");
    let row = rows.wait("the flow", ends, |_| true);
    assert_eq!(row["drops"], 0, "{row:#}");
    let mut before = 0;
    for count in [100, 50] {
        flood(count);
        let drops = udp_drops_of(address);
        assert!(drops > before, "{drops}");
        before = drops;
        rows.wait("the drops", ends, |row| row["drops"] == json!(drops));
    }
    let row = rows.wait("the sender", ends.flipped(), |_| true);
    assert_eq!(row["drops"], 0, "it dropped nothing: {row:#}");
    let last = rows.wait_final(ends);
    assert_eq!((&last["state"], &last["drops"]), (&json!("EXPIRED"), &json!(before)));
    rows.finish();
}
