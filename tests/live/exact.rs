//! Bytes, packets and the end of TCP connections, at both ends.

use std::net::Shutdown;
use std::process;
use std::thread;

use crate::common::rng::Rng;
use crate::common::sock::{
    Ends, Family, Let, Pair, TcpInfo, await_acked, await_closed, await_received, exchange,
    filter_incoming, receive, receive_all, reset, send,
};
use crate::common::tcptop::{Output, QUICK, Tcptop};

use super::{Test, sharing, test};

pub fn tests() -> Vec<Test> {
    vec![
        sharing("exact::two_hundred_connections", two_hundred_connections),
        test("exact::within_one_interval", within_one_interval),
        sharing("exact::rows_of_an_open_connection", rows_of_an_open_connection),
        sharing("exact::reused_tuple", reused_tuple),
        sharing("exact::self_connect", self_connect),
    ]
}

/// What tcptop should report for one end.
#[derive(Debug)]
pub struct Expected {
    pub ends: Ends,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub end: &'static str,
    /// The socket's `TCP_INFO`, read shortly before the end.
    pub before: TcpInfo,
}

impl Expected {
    /// Compares it with the one `[CLOSED]` line of this end.
    pub fn check(&self, output: &Output) {
        let closed = output.the_closed(self.ends);
        let context = format!("{self:#?}\n{closed:#?}");
        assert_eq!(
            (closed.bytes_in, closed.bytes_out),
            (self.bytes_in, self.bytes_out),
            "bytes: {context}"
        );
        assert_eq!(closed.end, self.end, "{context}");
        assert_eq!(closed.pid, Some(process::id()), "{context}");
        assert!(!closed.partial, "{context}");
        // A FIN and its acknowledgement each way, and a delayed acknowledgement.
        let plausible = |floor: u32| u64::from(floor)..=u64::from(floor) + 10;
        assert!(plausible(self.before.segs_in).contains(&closed.packets_in), "{context}");
        assert!(plausible(self.before.segs_out).contains(&closed.packets_out), "{context}");
        assert!(closed.retrans >= u64::from(self.before.total_retrans), "{context}");
    }
}

/// How a connection ends; "one" and "other" are its two ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// One closes, then the other.
    Fin,
    /// Both close at once.
    Both,
    /// One resets after both have read everything.
    Reset,
    /// One resets while the other has not read what arrived.
    ResetUnread,
    /// One sends a FIN, and a reset after the other has acknowledged the FIN.
    ResetAfterFin,
    /// One sends a FIN, and a reset before the FIN is acknowledged.
    ResetAfterFinUnheard,
    /// One sends data and a FIN, and only then receives.
    HalfClose,
    /// One shuts down reading, reads all the same, and closes.
    ShutReadThenRead,
    /// One shuts down reading, does not read, and closes: a reset.
    ShutReadUnread,
}

impl Ending {
    const ALL: [Ending; 9] = [
        Ending::Fin,
        Ending::Both,
        Ending::Reset,
        Ending::ResetUnread,
        Ending::ResetAfterFin,
        Ending::ResetAfterFinUnheard,
        Ending::HalfClose,
        Ending::ShutReadThenRead,
        Ending::ShutReadUnread,
    ];

    /// The bytes that the receiver's kernel surely takes while nobody reads.
    const UNREAD: u64 = 32 * 1024;

    /// Plays a connection to its end. `out` goes from one to the other, `back` returns.
    fn play(self, pair: Pair, one_is_client: bool, mut out: u64, mut back: u64) -> [Expected; 2] {
        let (one, other, ends) = match one_is_client {
            true => (pair.client, pair.server, pair.ends),
            false => (pair.server, pair.client, pair.ends.flipped()),
        };
        let both =
            |end_one, end_other| (TcpInfo::of(&one), TcpInfo::of(&other), end_one, end_other);
        let (info_one, info_other, end_one, end_other);
        match self {
            Ending::Fin => {
                exchange(&one, &other, out, back);
                (info_one, info_other, end_one, end_other) = both("fin", "fin");
                drop(one);
                assert_eq!(receive_all(&other), 0);
            }
            Ending::Both => {
                exchange(&one, &other, out, back);
                (info_one, info_other, end_one, end_other) = both("fin", "fin");
                thread::scope(|scope| {
                    scope.spawn(move || drop(one));
                    drop(other);
                });
            }
            Ending::Reset => {
                exchange(&one, &other, out, back);
                (info_one, info_other, end_one, end_other) = both("abort", "rst");
                reset(one);
                await_closed(&other);
            }
            Ending::ResetUnread => {
                out = out.min(Ending::UNREAD);
                exchange(&one, &other, 0, back);
                send(&one, out);
                await_received(&other, out);
                (info_one, info_other, end_one, end_other) = both("abort", "rst");
                reset(one);
                await_closed(&other);
            }
            Ending::ResetAfterFin | Ending::ResetAfterFinUnheard => {
                exchange(&one, &other, out, back);
                if matches!(self, Ending::ResetAfterFinUnheard) {
                    filter_incoming(&one, Let::Nothing);
                }
                one.shutdown(Shutdown::Write).expect("shutdown");
                assert_eq!(receive_all(&other), 0);
                if matches!(self, Ending::ResetAfterFin) {
                    await_acked(&one);
                }
                (info_one, info_other, end_one, end_other) = both("abort", "rst");
                reset(one);
                await_closed(&other);
            }
            Ending::HalfClose => {
                thread::scope(|scope| {
                    scope.spawn(|| {
                        send(&one, out);
                        one.shutdown(Shutdown::Write).expect("shutdown");
                    });
                    assert_eq!(receive_all(&other), out);
                });
                thread::scope(|scope| {
                    scope.spawn(|| send(&other, back));
                    receive(&one, back);
                });
                (info_one, info_other, end_one, end_other) = both("fin", "fin");
                drop(other);
                assert_eq!(receive_all(&one), 0);
            }
            Ending::ShutReadThenRead | Ending::ShutReadUnread => {
                back = back.clamp(1, Ending::UNREAD);
                one.shutdown(Shutdown::Read).expect("shutdown");
                exchange(&one, &other, out, 0);
                send(&other, back);
                await_received(&one, back);
                let reads = matches!(self, Ending::ShutReadThenRead);
                if reads {
                    receive(&one, back);
                }
                let words = if reads { ("fin", "fin") } else { ("abort", "rst") };
                (info_one, info_other, end_one, end_other) = both(words.0, words.1);
                drop(one);
                if reads {
                    assert_eq!(receive_all(&other), 0);
                } else {
                    await_closed(&other);
                }
            }
        }
        let expected = |ends, bytes_in, bytes_out, end, before| Expected {
            ends,
            bytes_in,
            bytes_out,
            end,
            before,
        };
        [
            expected(ends, back, out, end_one, info_one),
            expected(ends.flipped(), out, back, end_other, info_other),
        ]
    }
}

fn random_size(rng: &mut Rng) -> u64 {
    let megabytes = (1 << 20) + rng.below(2 << 20);
    rng.pick(&[0, 1, 999, 64 << 10, megabytes])
}

/// Every ending from either side in every family, several times.
fn two_hundred_connections() {
    let mut rng = Rng::new(0x7c97_0002);
    let plans: Vec<_> = (0..200)
        .map(|i| {
            let (family, ending) = (Family::ALL[i % 4], Ending::ALL[i / 4 % 9]);
            (family, ending, i / 36 % 2 == 0, random_size(&mut rng), random_size(&mut rng))
        })
        .collect();
    let tcptop = Tcptop::share(&QUICK);
    let play = |&(family, ending, one_is_client, out, back): &(Family, Ending, bool, u64, u64)| {
        ending.play(Pair::new(family), one_is_client, out, back)
    };
    let expected: Vec<Expected> = thread::scope(|scope| {
        let workers: Vec<_> = plans
            .chunks(50)
            .map(|part| scope.spawn(move || part.iter().flat_map(play).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("traffic")).collect()
    });
    assert_eq!(expected.len(), 400);
    tcptop.wait_closed(&expected.iter().map(|end| end.ends).collect::<Vec<_>>());
    let output = tcptop.finish();
    for end in &expected {
        end.check(&output);
    }
}

/// A connection that begins and ends within one interval has its exact totals; an interval
/// that a signal cuts short is written too.
fn within_one_interval() {
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "3600"]);
    let expected = Ending::Fin.play(Pair::new(Family::V4), true, 1234, 567_890);
    let output = tcptop.finish();
    for end in &expected {
        end.check(&output);
        assert_eq!(output.rows_of(end.ends).count(), 0, "it is closed");
    }
}

/// While a connection is open its rows carry the totals so far.
fn rows_of_an_open_connection() {
    let tcptop = Tcptop::share(&QUICK);
    for family in Family::ALL {
        let pair = Pair::new(family);
        let (mut up, mut down) = (0, 0);
        for (more_up, more_down) in [(1, 0), (999, 64 << 10), (0, 3 << 20), (5 << 20, 7)] {
            pair.exchange(more_up, more_down);
            (up, down) = (up + more_up, down + more_down);
            for (ends, bytes_in, bytes_out) in
                [(pair.ends, down, up), (pair.ends.flipped(), up, down)]
            {
                let row = tcptop.wait_row("row with the totals so far", ends, |row| {
                    (row.bytes_in, row.bytes_out) == (bytes_in, bytes_out)
                });
                assert_eq!((&*row.state, row.pid), ("ESTABLISHED", Some(process::id())));
                assert!(!row.partial);
            }
        }
        pair.close();
    }
    let output = tcptop.finish();
    let steps_back = |rows: &[&_]| {
        let totals = |row: &crate::common::tcptop::Row| {
            (row.bytes_in, row.bytes_out, row.packets_in, row.packets_out)
        };
        rows.windows(2).any(|two| {
            let (before, after) = (totals(two[0]), totals(two[1]));
            after.0 < before.0 || after.1 < before.1 || after.2 < before.2 || after.3 < before.3
        })
    };
    for closed in &output.closed {
        let rows: Vec<_> = output.rows_of(closed.ends).collect();
        assert!(!steps_back(&rows), "totals step back: {rows:#?}");
    }
}

/// The same addresses and ports are used again and again: each use is a new connection.
fn reused_tuple() {
    let tcptop = Tcptop::share(&QUICK);
    let (listener, address) = crate::common::sock::listen(Family::V4);
    // An address of its own, so that nobody takes the port between two uses.
    let mut local = Some((crate::common::sock::loopback(7), 0).into());
    let mut ends = None;
    for use_number in 1..=5 {
        let client = crate::common::sock::unconnected(address, local);
        crate::common::sock::connect_socket(&client, address).expect("connect");
        local = Some(client.local_addr().expect("bound"));
        let pair = Pair::accept(&listener, client);
        ends = Some(pair.ends);
        Ending::Reset.play(pair, true, use_number * 100, use_number);
    }
    let ends = ends.expect("five uses");
    for (ends, factor_in, factor_out) in [(ends, 1, 100), (ends.flipped(), 100, 1)] {
        let found = tcptop.wait("five [CLOSED] lines", |output| {
            let found: Vec<_> =
                output.closed_of(ends).map(|closed| (closed.bytes_in, closed.bytes_out)).collect();
            (found.len() == 5).then_some(found)
        });
        let expected: Vec<_> = (1..=5).map(|n| (n * factor_in, n * factor_out)).collect();
        assert_eq!(found, expected);
    }
    let output = tcptop.finish();
    assert_eq!(output.closed_of(ends).count(), 5);
}

/// A socket that is its own peer (simultaneous open): one row, one close.
fn self_connect() {
    let tcptop = Tcptop::share(&QUICK);
    let address = (crate::common::sock::loopback(9), 0).into();
    let socket = crate::common::sock::unconnected(address, Some(address));
    let own = socket.local_addr().expect("bound");
    crate::common::sock::connect_socket(&socket, own).expect("connect to itself");
    let ends = Ends::of(&socket);
    exchange(&socket, &socket, 4321, 0);
    let before = TcpInfo::of(&socket);
    drop(socket);
    tcptop.wait_closed(&[ends]);
    Expected { ends, bytes_in: 4321, bytes_out: 4321, end: "fin", before }.check(&tcptop.finish());
}
