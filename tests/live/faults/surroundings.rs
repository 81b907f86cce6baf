//! What a connection uses is taken away, or the clocks are changed.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use nix::sched::{CloneFlags, unshare};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::time::{ClockId, clock_gettime, clock_settime};
use serde_json::Value;

use crate::common::agent::Agent;
use crate::common::cgroups::{self, Cgroup};
use crate::common::netns::{Netns, ip, run};
use crate::common::rows::Rows;
use crate::common::sock::{
    Family, Pair, Stream, TcpInfo, await_acked, connect_socket, listen_at, receive, send,
    unconnected,
};
use crate::common::wait::until_true;

use super::super::{Test, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("faults::interface_removed", interface_removed),
        test("faults::full_queue", full_queue),
        test("faults::cgroup_removed", cgroup_removed),
        test("faults::time_namespace", time_namespace),
        test("faults::clock_steps", clock_steps),
    ]
}

/// Two namespaces with a link between them, and a connection over it, older than tcptop or not.
struct Linked {
    near: Netns,
    far: Netns,
    pair: Pair,
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 87, 0, 1));
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 87, 0, 2));

impl Linked {
    fn new() -> Linked {
        let (near, far) = (Netns::new(), Netns::new());
        near.join(HERE, &far, THERE);
        let listener = far.run(|| listen_at((THERE, 0).into()));
        let server = listener.local_addr().expect("bound");
        let client = near.run(|| {
            let client = unconnected(server, Some((HERE, 0).into()));
            connect_socket(&client, server).expect("connect");
            client
        });
        Linked { near, far, pair: Pair::accept(&listener, client) }
    }
}

fn moved(row: &Value, bytes_in: u64, bytes_out: u64) -> bool {
    row["bytes_in"] == bytes_in && row["bytes_out"] == bytes_out
}

/// The device of a connection is removed, and made again with another index. What was sent
/// meanwhile arrives late, and is counted once, although the kernel tries again and again.
fn interface_removed() {
    let rows = Rows::start("ifname,bytes_in,bytes_out,end", &["--tcp"]);
    let Linked { near, far, pair } = Linked::new();
    pair.exchange(1000, 2000);
    rows.wait("a row", pair.ends, |row| moved(row, 2000, 1000));
    near.run(|| ip("link del veth0"));
    send(&pair.client, 500);
    until_true("two attempts", || TcpInfo::of(&pair.client).bytes_sent > 1000);
    near.join(HERE, &far, THERE);
    receive(&pair.server, 500);
    await_acked(&pair.client);
    rows.wait("a row of what came late", pair.ends, |row| moved(row, 2000, 1500));
    let ends = pair.ends;
    pair.close();
    let closed = rows.wait_final(ends);
    assert!(moved(&closed, 2000, 1500) && closed["end"] == "fin", "{closed:#}");
    rows.finish();
}

/// A queue of this host drops what both ends send: the kernel counts each attempt as bytes
/// that were sent for the first time. Only what gets through is the connection's.
fn full_queue() {
    let rows = Rows::start("bytes_in,bytes_out,end", &["--tcp"]);
    let Linked { near, far, pair } = Linked::new();
    pair.exchange(1000, 2000);
    let drop_all = "qdisc replace dev veth0 root pfifo limit 0";
    for netns in [&near, &far] {
        netns.run(|| run("tc", drop_all)).expect("tc");
    }
    for bytes in [1, 500] {
        send(&pair.client, bytes);
        send(&pair.server, 2 * bytes);
    }
    for socket in [&pair.client, &pair.server] {
        let before = TcpInfo::of(socket).bytes_out();
        until_true("the kernel to try again", || TcpInfo::of(socket).bytes_out() > before + 500);
    }
    // One byte is not followed by the other ones, since it got nowhere.
    rows.wait("the client", pair.ends, |row| moved(row, 2000, 1000));
    for netns in [&near, &far] {
        netns.run(|| run("tc", "qdisc del dev veth0 root")).expect("tc");
    }
    receive(&pair.server, 501);
    receive(&pair.client, 1002);
    for (socket, bytes) in [(&pair.client, 1501), (&pair.server, 3002)] {
        await_acked(socket);
        assert!(TcpInfo::of(socket).bytes_out() > bytes, "the kernel's own is too high");
    }
    rows.wait("the client", pair.ends, |row| moved(row, 3002, 1501));
    rows.wait("the server", pair.ends.flipped(), |row| moved(row, 1501, 3002));
    let ends = pair.ends;
    pair.close();
    for (ends, bytes_in, bytes_out) in [(ends, 3002, 1501), (ends.flipped(), 1501, 3002)] {
        let closed = rows.wait_final(ends);
        assert!(moved(&closed, bytes_in, bytes_out) && closed["end"] == "fin", "{closed:#}");
    }
    rows.finish();
}

/// A process leaves a connection to another one, and its cgroup is removed.
fn cgroup_removed() {
    const WHAT: &str = "faults::cgroup_removed";
    let Some(mount) = cgroups::root() else {
        return left_out(WHAT, "the whole of cgroup v2 is not mounted");
    };
    let rows = Rows::start("cgroup,bytes_in,bytes_out,end", &["--tcp"]);
    let path = format!("/tcptop-removed{}", std::process::id());
    let cgroup = match Cgroup::new(&mount, &path) {
        Ok(cgroup) => cgroup,
        Err(why) => return left_out(WHAT, why),
    };
    let mut keeper = Agent::new("keeper");
    let directory = tempfile::tempdir().expect("a directory");
    let mailbox = directory.path().join("mailbox");
    keeper.mailbox(&mailbox);
    let mut agent = Agent::new("leaving");
    Cgroup::enter(&cgroup.directory(), agent.pid).expect("a member");
    let (socket, peer) = agent.connect_here(Family::V4);
    agent.send(socket, 100);
    receive(&peer, 100);
    rows.wait("a row in the cgroup", socket.ends, |row| {
        row["cgroup"] == *path && row["bytes_out"] == 100
    });
    agent.give(socket, &mailbox);
    let kept = keeper.take();
    agent.exit();
    cgroup.remove();
    for bytes in [200, 300] {
        keeper.send(kept, 100);
        receive(&peer, 100);
        rows.wait("a row after it", kept.ends, |row| {
            row["cgroup"] == *path && row["bytes_out"] == bytes
        });
    }
    keeper.close(kept);
    drop(peer);
    let closed = rows.wait_final(kept.ends);
    assert_eq!((&closed["bytes_out"], &closed["end"]), (&300.into(), &"fin".into()), "{closed:#}");
    rows.finish();
}

/// In a time namespace CLOCK_MONOTONIC shows other times than in the kernel's programs.
/// Ages, and the times when connections began, are right all the same.
fn time_namespace() {
    const WHAT: &str = "faults::time_namespace";
    for offset in [1_000_000, -1000] {
        let enter = move || {
            // exec() enters it, from Linux 6.3 on.
            unshare(CloneFlags::from_bits_retain(libc::CLONE_NEWTIME))?;
            fs::write("/proc/self/timens_offsets", format!("monotonic {offset} 0"))
        };
        let mut command = Command::new("readlink");
        // SAFETY: the tests run one at a time, so no other thread of this process holds the
        // allocator's lock for long; glibc makes it usable after fork.
        let output = unsafe { command.arg("/proc/self/ns/time").pre_exec(enter) }.output();
        let own = fs::read_link("/proc/self/ns/time").unwrap_or_default();
        let entered = output.is_ok_and(|output| {
            let link = String::from_utf8_lossy(&output.stdout);
            output.status.success() && Path::new(link.trim()) != own
        });
        if !entered {
            return left_out(WHAT, "no time namespaces here, or exec() does not enter them");
        }
        // SAFETY: as above.
        let rows = unsafe { Rows::prepared("age_sec,started,bytes_out", &["--tcp"], enter) };
        let before = Utc::now();
        let pair = Pair::new(Family::V4);
        let after = Utc::now();
        pair.exchange(10, 20);
        let row = rows.wait("a row", pair.ends, |row| row["bytes_out"] == 10);
        check_age(&row, before, after);
        let ends = pair.ends;
        pair.close();
        check_age(&rows.wait_final(ends), before, after);
        rows.finish();
    }
}

/// Checks a connection that began between these times.
fn check_age(row: &Value, before: DateTime<Utc>, after: DateTime<Utc>) {
    // The row's times come from two clocks that are read one after the other.
    let slack = TimeDelta::milliseconds(20);
    let age = row["age_sec"].as_f64().expect("a number");
    let most = (Utc::now() - before + slack).as_seconds_f64();
    assert!((0.0..=most).contains(&age), "at most {most}: {row:#}");
    let started = time(row, "started");
    assert!((before - slack..=after + slack).contains(&started), "{before}: {row:#}");
}

fn time(row: &Value, column: &str) -> DateTime<Utc> {
    row[column].as_str().and_then(|text| text.parse().ok()).expect("RFC 3339")
}

/// Steps of the wall clock, only on a machine whose clock is nobody else's
/// (`TCPTOP_TEST_OWN_CLOCK`): the rows' times follow it; bytes, rates and ages do not care.
fn clock_steps() {
    if std::env::var_os("TCPTOP_TEST_OWN_CLOCK").is_none() {
        return left_out("faults::clock_steps", "the clock of this machine is not the tests'");
    }
    const PART: u64 = 1000;
    const YEAR: i64 = 365 * 24 * 3600;
    let pair = Pair::new(Family::V4);
    let columns = "timestamp,age_sec,bytes_out,rate_out_bytes_sec";
    let rows = Rows::start(columns, &["--tcp"]);
    let young = Pair::new(Family::V4);
    let born = Instant::now();
    let stream = Stream::start(&pair, PART, Duration::from_millis(10));
    for seconds in [3600, -7200, YEAR, -2 * YEAR, YEAR + 3600] {
        let now = clock_gettime(ClockId::CLOCK_REALTIME).expect("the time");
        clock_settime(ClockId::CLOCK_REALTIME, now + TimeSpec::seconds(seconds))
            .expect("to set the time");
        let stepped = Utc::now();
        let row = rows.wait("a row of the new time", pair.ends, |row| {
            let since = time(row, "timestamp") - stepped;
            (TimeDelta::zero()..TimeDelta::minutes(10)).contains(&since)
        });
        // At most a part each ten milliseconds, and what was held up in the interval before.
        let rate = row["rate_out_bytes_sec"].as_f64().expect("a number");
        assert!((0.0..=(10 * 100 * PART) as f64).contains(&rate), "{row:#}");
        let row = rows.last(young.ends).expect("a row");
        let age = row["age_sec"].as_f64().expect("a number");
        assert!((0.0..=born.elapsed().as_secs_f64() + 0.1).contains(&age), "{row:#}");
    }
    let sent = stream.stop().last().expect("parts").total;
    rows.wait("every byte", pair.ends, |row| row["bytes_out"] == sent);
    rows.finish();
}
