//! Round-trip times, retransmissions and rates.

use std::io::{Read, Write};
use std::thread;
use std::time::Duration;

use chrono::{SecondsFormat, Utc};

use crate::common::netns::{self, BadLink};
use crate::common::sock::{
    self, Family, Let, Pair, Part, Stream, TcpInfo, await_acked, filter_incoming, let_all_in,
    receive, send, set_int, unconnected,
};
use crate::common::tcptop::{QUICK, Row, Tcptop};
use crate::common::wait::{load, until_true};

use super::{Test, left_out, sharing, test};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("measure::rtt", rtt),
        sharing("measure::rtt_at_close", rtt_at_close),
        sharing("measure::retransmits_after_an_outage", retransmits_after_an_outage),
        sharing("measure::random_loss", random_loss),
        sharing("measure::delay", delay),
        sharing("measure::netem", netem),
        sharing("measure::against_ss", against_ss),
        test("measure::steady_rate", steady_rate),
        sharing("measure::progress_without_system_calls", progress_without_system_calls),
        test("measure::among_thousands", among_thousands),
    ]
}

fn ping_pong(pair: &Pair, rounds: usize) {
    let (mut client, mut server) = (&pair.client, &pair.server);
    let mut buffer = [0; 64];
    for _ in 0..rounds {
        client.write_all(&[b'?'; 64]).expect("ping");
        server.read_exact(&mut buffer).expect("ping");
        server.write_all(&[b'!'; 64]).expect("pong");
        client.read_exact(&mut buffer).expect("pong");
    }
    await_acked(&pair.client);
    await_acked(&pair.server);
}

/// Waits for a row that shows the present counters: no segment moves in between.
fn row_of_now(tcptop: &Tcptop, pair: &Pair) -> (Row, TcpInfo) {
    await_acked(&pair.client);
    await_acked(&pair.server);
    let info = TcpInfo::of(&pair.client);
    let row = tcptop.wait_row("row with the newest segment", pair.ends, |row| {
        (row.packets_in, row.packets_out) == (u64::from(info.segs_in), u64::from(info.segs_out))
    });
    assert_eq!(TcpInfo::of(&pair.client).segs_in, info.segs_in, "quiet");
    (row, info)
}

/// When the connection pauses, its row has exactly the RTT of `TCP_INFO`, in microseconds.
fn rtt() {
    let tcptop = Tcptop::share(&QUICK);
    for family in [Family::V4, Family::V6] {
        let pair = Pair::new(family);
        let mut seen = Vec::new();
        for rounds in [1, 10, 300] {
            ping_pong(&pair, rounds);
            let (row, info) = row_of_now(&tcptop, &pair);
            assert_eq!(row.rtt, info.rtt.to_string(), "{row:?}");
            seen.push(info.rtt);
        }
        // Delayed acknowledgements make the RTT longer.
        set_int(&pair.server, libc::IPPROTO_TCP, libc::TCP_QUICKACK, 0);
        send(&pair.client, 1);
        receive(&pair.server, 1);
        let (row, info) = row_of_now(&tcptop, &pair);
        assert_eq!(row.rtt, info.rtt.to_string(), "{row:?}");
        seen.push(info.rtt);
        seen.dedup();
        assert!(seen.len() > 1, "the RTT moved: {seen:?}");
        pair.close();
    }
    tcptop.finish();
}

/// A reset is not acknowledged, so the RTT of `TCP_INFO` before it is the final one.
fn rtt_at_close() {
    let tcptop = Tcptop::share(&QUICK);
    let pair = Pair::new(Family::V4);
    ping_pong(&pair, 50);
    let infos = [TcpInfo::of(&pair.client), TcpInfo::of(&pair.server)];
    let ends = [pair.ends, pair.ends.flipped()];
    sock::reset(pair.client);
    sock::await_closed(&pair.server);
    tcptop.wait_closed(&ends);
    let output = tcptop.finish();
    for (ends, info) in ends.into_iter().zip(infos) {
        assert_eq!(output.the_closed(ends).rtt, info.rtt.to_string());
    }
}

/// Closes with resets; retransmissions, segments and bytes must be those of the sockets.
fn close_and_compare(tcptop: Tcptop, pair: Pair, up: u64, down: u64) -> TcpInfo {
    await_acked(&pair.client);
    await_acked(&pair.server);
    let infos = [TcpInfo::of(&pair.client), TcpInfo::of(&pair.server)];
    let ends = [pair.ends, pair.ends.flipped()];
    sock::reset(pair.client);
    sock::await_closed(&pair.server);
    tcptop.wait_closed(&ends);
    let output = tcptop.finish();
    for ((ends, info), totals) in ends.into_iter().zip(infos).zip([(down, up), (up, down)]) {
        let closed = output.the_closed(ends);
        assert_eq!((closed.bytes_in, closed.bytes_out), totals, "{closed:#?}\n{info:#?}");
        assert_eq!(closed.retrans, u64::from(info.total_retrans), "{closed:#?}\n{info:#?}");
        assert_eq!(closed.packets_out, u64::from(info.segs_out), "{closed:#?}\n{info:#?}");
        assert_eq!(closed.rtt, info.rtt.to_string(), "{closed:#?}\n{info:#?}");
    }
    infos[0]
}

/// The receiver gets nothing for a while: everything is sent again, but counted once.
fn retransmits_after_an_outage() {
    let tcptop = Tcptop::share(&QUICK);
    let pair = Pair::new(Family::V4);
    pair.exchange(1000, 1000);
    filter_incoming(&pair.server, Let::Nothing);
    send(&pair.client, 50_000);
    until_true("retransmissions", || TcpInfo::of(&pair.client).total_retrans >= 3);
    let_all_in(&pair.server);
    receive(&pair.server, 50_000);
    let info = close_and_compare(tcptop, pair, 51_000, 1000);
    assert!(info.bytes_retrans > 0 && info.total_retrans >= 3);
}

/// Data and acknowledgements lost at random, both ways.
fn random_loss() {
    let tcptop = Tcptop::share(&QUICK);
    let pair = Pair::new(Family::V6);
    for stream in [&pair.client, &pair.server] {
        filter_incoming(stream, Let::Percent(90));
        // Small segments, so that there are many to lose.
        set_int(stream, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
    }
    let mut rounds = 0;
    while TcpInfo::of(&pair.client).total_retrans.min(TcpInfo::of(&pair.server).total_retrans) < 2 {
        for _ in 0..20 {
            send(&pair.client, 700);
            send(&pair.server, 300);
        }
        receive(&pair.server, 20 * 700);
        receive(&pair.client, 20 * 300);
        rounds += 20;
        assert!(rounds < 20_000, "nothing is lost");
    }
    let_all_in(&pair.client);
    let_all_in(&pair.server);
    close_and_compare(tcptop, pair, rounds * 700, rounds * 300);
}

/// A slow link: the RTT is that of `TCP_INFO`, and netem's delay both ways.
fn delay() {
    let link = match BadLink::new("delay 20ms") {
        Ok(link) => link,
        Err(error) => return left_out("measure::delay", error.trim_end()),
    };
    let tcptop = Tcptop::share(&QUICK);
    let pair = link.connect();
    ping_pong(&pair, 30);
    let (row, info) = row_of_now(&tcptop, &pair);
    assert_eq!(row.rtt, info.rtt.to_string(), "{row:?}");
    // 20 ms each way, and the machine's own time: an emulated one needs more.
    assert!((40_000..load(50_000, 200_000)).contains(&info.rtt), "{row:?}");
    pair.close();
    tcptop.finish();
}

/// A bad network, if the kernel has netem.
fn netem() {
    let link = match BadLink::new("delay 20ms loss 1% reorder 25% 50%") {
        Ok(link) => link,
        Err(error) => return left_out("measure::netem", error.trim_end()),
    };
    let tcptop = Tcptop::share(&QUICK);
    let pair = link.connect();
    let (up, down) = (2 << 20, 300_000);
    pair.exchange(up, down);
    await_acked(&pair.client);
    let row = tcptop.wait_row("row with everything", pair.ends, |row| {
        (row.bytes_in, row.bytes_out) == (down, up)
    });
    // Segments that were sent twice are still on their way, and are acknowledged.
    until_true("a quiet link", || {
        let segments = || [&pair.client, &pair.server].map(|end| TcpInfo::of(end).segs_in);
        let before = segments();
        thread::sleep(Duration::from_millis(250));
        before == segments()
    });
    let rtt: u64 = row.rtt.parse().expect("microseconds");
    let most = u64::from(load(200_000, 400_000));
    assert!((1..most).contains(&rtt), "40 ms, less where reordered: {row:?}");
    let info = close_and_compare(tcptop, pair, up, down);
    assert!(info.total_retrans > 0, "1 % of {} segments", info.segs_out);
    assert!(info.reord_seen > 0, "every fourth of {} segments overtakes", info.segs_out);
}

/// The same numbers as `ss -tin` for a connection that pauses.
fn against_ss() {
    let tcptop = Tcptop::share(&QUICK);
    let pair = Pair::new(Family::V4);
    pair.exchange(123_456, 654_321);
    ping_pong(&pair, 20);
    let (row, _) = row_of_now(&tcptop, &pair);
    let (local, remote) = (pair.ends.local, pair.ends.remote);
    let text = netns::run("ss", &format!("-tinH src {local} dst {remote}")).expect("ss");
    let value = |key: &str| {
        let found = text
            .split_ascii_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix(':'));
        found.unwrap_or_else(|| panic!("no {key} in {text:?}"))
    };
    let number =
        |key: &str| value(key).parse::<u64>().unwrap_or_else(|e| panic!("{key}: {e}: {text:?}"));
    assert_eq!(row.bytes_out, number("bytes_sent"), "{text:?}");
    assert_eq!(row.bytes_in, number("bytes_received"), "{text:?}");
    assert_eq!(
        (row.packets_in, row.packets_out),
        (number("segs_in"), number("segs_out")),
        "{text:?}"
    );
    // rtt:0.042/0.01 in milliseconds
    let (rtt, _) = value("rtt").split_once('/').expect("rtt/rttvar");
    let milliseconds: f64 = rtt.parse().expect("a number");
    assert_eq!(row.rtt, format!("{:.0}", milliseconds * 1000.0), "{text:?}");
    pair.close();
    tcptop.finish();
}

/// The rates of whole intervals differ by at most 2 % from bytes by time in the sender's log.
fn steady_rate() {
    const PART: u64 = 10_000;
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "0.4"]);
    let pair = Pair::new(Family::V4);
    let ends = [pair.ends, pair.ends.flipped()];
    let stream = Stream::start(&pair, PART, Duration::from_millis(2));
    for ends in ends {
        tcptop.wait("seven intervals", |output| (output.rows_of(ends).count() >= 7).then_some(()));
    }
    let log = stream.stop();
    drop(pair);
    tcptop.wait_closed(&ends);
    let output = tcptop.finish();
    for (ends, sends) in [(ends[0], true), (ends[1], false)] {
        let total = |row: &Row| if sends { row.bytes_out } else { row.bytes_in };
        let rows: Vec<&Row> = output.rows_of(ends).take(7).collect();
        for two in rows.windows(2) {
            let (before, after) = (moment(&log, total(two[0])), moment(&log, total(two[1])));
            let bytes = (total(two[1]) - total(two[0])) as f64;
            let shortest = (after.0 - before.1).as_secs_f64();
            let longest = (after.1 - before.0).as_secs_f64();
            let rates = two[1].rates();
            let (rate, other) = if sends { (rates.1, rates.0) } else { (rates.0, rates.1) };
            let possible = bytes / longest * 0.98..=bytes / shortest * 1.02;
            assert!(possible.contains(&(rate as f64)), "{rate} not within {possible:?}: {two:#?}");
            assert_eq!(other, 0, "nothing moved that way: {two:#?}");
        }
    }
}

/// The earliest and the latest time at which the total can have been this number of bytes,
/// counted from the log's first instant.
fn moment(log: &[Part], total: u64) -> (Duration, Duration) {
    let start = log[0].began;
    let next = log.partition_point(|part| part.total <= total);
    let earliest = next.checked_sub(1).map_or(Duration::ZERO, |last| log[last].began - start);
    let latest = log.get(next).map_or(log[log.len() - 1].ended, |part| part.ended) - start;
    (earliest, latest)
}

/// One long send that blocks, and a receiver that reads later: the kernel moves the bytes
/// without further system calls, and the rows still show the progress.
fn progress_without_system_calls() {
    let tcptop = Tcptop::share(&QUICK);
    let (listener, address) = sock::listen(Family::V4);
    let client = unconnected(address, None);
    // The kernel paces from the eleventh segment on.
    set_int(&client, libc::IPPROTO_TCP, libc::TCP_MAXSEG, 1000);
    sock::connect_socket(&client, address).expect("connect");
    let pair = Pair::accept(&listener, client);
    let capped = 250_000_u32;
    sock::set_option(&pair.client, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &capped)
        .expect("pacing");
    set_int(&pair.client, libc::SOL_SOCKET, libc::SO_SNDBUF, 400_000);
    set_int(&pair.server, libc::SOL_SOCKET, libc::SO_RCVBUF, 1 << 20);
    let bytes = 250_000;
    // The send buffer takes all of it at once; paced sending takes a second.
    send(&pair.client, bytes);
    assert!(TcpInfo::of(&pair.client).bytes_out() < bytes, "it is on its way");
    for ends in [pair.ends, pair.ends.flipped()] {
        tcptop.wait_row("row with everything", ends, |row| row.bytes_in + row.bytes_out == bytes);
        let on_the_way = |row: &&Row| (1..bytes).contains(&(row.bytes_in + row.bytes_out));
        let count = tcptop.look(|output| output.rows_of(ends).filter(on_the_way).count());
        assert!(count >= 3, "{count} rows between the first byte and the last");
    }
    receive(&pair.server, bytes);
    pair.close();
    tcptop.finish();
}

/// With this many sockets a tick looks only at those in use. Bytes that a process moved
/// before a tick are still in the rows of that tick. Bytes that arrived without a call of
/// the receiver are in the rows at most eight ticks later.
fn among_thousands() {
    sock::raise_file_limit();
    let (listener, address) = sock::listen(Family::V4);
    let crowd: Vec<Pair> =
        (0..4500).map(|_| Pair::accept(&listener, sock::connect(address))).collect();
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "0.1", "--timestamp"]);
    // This connection has traffic, and so a row, in every interval: it counts intervals.
    let beat = Pair::new(Family::V4);
    let beating = Stream::start(&beat, 1, Duration::from_millis(10));
    tcptop.wait("five intervals", |output| output.rows_of(beat.ends).nth(4).map(drop));
    let now = || Some(Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true));
    // How many ticks later than the first one after `moved` the row comes.
    let late = |moved: &Option<String>, ends, condition: &dyn Fn(&Row) -> bool| {
        tcptop.wait("row with what was moved", |output| {
            let row = output.rows_of(ends).find(|row| condition(row))?;
            let between = |beat: &&Row| beat.time > *moved && beat.time < row.time;
            Some(output.rows_of(beat.ends).filter(between).count())
        })
    };
    let pair = &crowd[crowd.len() / 2];
    for round in 1..=10 {
        pair.exchange(1, 1);
        let moved = now();
        for ends in [pair.ends, pair.ends.flipped()] {
            let ticks = late(&moved, ends, &|row| (row.bytes_in, row.bytes_out) == (round, round));
            assert_eq!(ticks, 0, "round {round}");
        }
        // Wait until the socket no longer counts as in use.
        tcptop.wait("four quiet intervals", |output| {
            output.rows_of(beat.ends).filter(|beat| beat.time > moved).nth(4).map(drop)
        });
    }
    for round in 1..=5 {
        send(&pair.client, 1000);
        await_acked(&pair.client);
        let moved = now();
        let server = pair.ends.flipped();
        let ticks = late(&moved, server, &|row| row.bytes_in == 10 + round * 1000);
        assert!(ticks <= 8, "{ticks} ticks");
    }
    beating.stop();
    drop((crowd, beat));
    tcptop.finish();
}
