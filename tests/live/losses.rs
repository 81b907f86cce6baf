//! What cannot be kept is counted: one test for each cause that has none elsewhere.
//! (`churn` has those of closed connections, `udp::losses` those of the flow table.)

use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::thread;

use crate::common::cgroups::{self, Cgroup};
use crate::common::netns::Netns;
use crate::common::sock::{self, Ends, Family, Pair, Plain, set_option};
use crate::common::tcptop::{Ended, QUICK, Tcptop};
use crate::common::udp;
use crate::common::wait::until_true;

use super::udp::{Provider, roomy, sees_receivers};
use super::{Test, figures, left_out, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("losses::no_option_memory", || no_option_memory(&[])),
        test("losses::no_option_memory_looked_up_again", || {
            let owners =
                ["tp_btf/tcp_sendmsg_locked", "tp_btf/sock_send_length", "fentry/tcp_sendmsg"];
            let without = owners.iter().flat_map(|owner| ["--without", owner]);
            no_option_memory(&without.collect::<Vec<_>>());
        }),
        test("losses::no_option_memory_udp", no_option_memory_udp),
        test("losses::full_receiver_table", full_receiver_table),
        test("losses::long_extension_headers", long_extension_headers),
        test("losses::cgroups_without_room", cgroups_without_room),
        test("losses::saturated_udp", saturated_udp),
    ]
}

/// Ends it. Returns what it has lost, of which it must have told.
fn end(tcptop: Tcptop) -> Ended {
    let ended = tcptop.stop(libc::SIGINT);
    assert!(ended.status.success(), "{}", ended.stderr);
    ended
}

/// A network namespace whose sockets have no memory for options.
pub fn without_option_memory(what: &str) -> Option<Netns> {
    const OPTION: &str = "net/core/optmem_max";
    let netns = Netns::new();
    // Before Linux 6.9 there is one for all namespaces.
    if !netns.run(|| Path::new("/proc/sys").join(OPTION).exists()) {
        left_out(what, format_args!("no {OPTION} per namespace"));
        return None;
    }
    netns.sysctl(OPTION, "100");
    Some(netns)
}

/// The kernel has no memory for the storage of a socket: each such connection counts once
/// and is told with its addresses, whether it is older than tcptop or not, and however many
/// descriptors it has. Listeners do not count.
fn no_option_memory(more: &[&str]) {
    let Some(netns) = without_option_memory("losses::no_option_memory") else { return };
    let older = netns.run(|| Pair::new(Family::V4));
    let copies = [&older.client; 3].map(|socket| socket.try_clone().expect("dup"));
    // Without the pool, in which the younger connections need no storage.
    let arguments: Vec<_> = QUICK.into_iter().chain(["--room", "pool=0"]).collect();
    let tcptop = Tcptop::start(&[&arguments, more].concat());
    let (listener, address) = netns.run(|| sock::listen(Family::V6));
    let client = netns.run(|| {
        let client = sock::unconnected(address, Some((Ipv6Addr::LOCALHOST, 0).into()));
        sock::connect_socket(&client, address).expect("connect");
        client
    });
    let younger = Pair::accept(&listener, client);
    for pair in [&older, &younger] {
        pair.exchange(1000, 2000);
    }
    // Several intervals, so that tcptop has looked up the owners of sockets again.
    let seen = Pair::new(Family::V4);
    for bytes in 1..=5 {
        seen.exchange(1, 0);
        tcptop.wait_row("row of the other connection", seen.ends, |row| row.bytes_out == bytes);
    }
    let ends = [older.ends, younger.ends].map(|ends| [ends, ends.flipped()]);
    drop(copies);
    older.close();
    younger.close();
    netns.sysctl("net/core/optmem_max", "100000");
    let after = netns.run(|| Pair::new(Family::V4));
    tcptop.wait_row("row of a connection with memory", after.ends, |_| true);
    let ended = end(tcptop);
    assert_eq!(ended.losses().into_iter().collect::<Vec<_>>(), [("storage_full", 4)]);
    for ends in ends.as_flattened() {
        assert_eq!(ended.output.rows_of(*ends).count() + ended.output.closed_of(*ends).count(), 0);
        let told = ended.stderr.lines().filter(|line| {
            let port = |port: u16| line.contains(&format!("[::1]:{port} "));
            *line == not_shown(ends.local, ends.remote)
                // Before Linux 6.13 an accepted socket does not have the peer's address yet.
                || *line == not_shown(ends.local, (Ipv6Addr::UNSPECIFIED, 0).into())
                // A connect() has not chosen the port yet.
                || (*line == not_shown(SocketAddr::new(ends.local.ip(), 0), ends.remote)
                    && !port(ends.local.port()))
        });
        assert_eq!(told.count(), 1, "{ends:?}: {}", ended.stderr);
    }
}

fn not_shown(local: SocketAddr, remote: SocketAddr) -> String {
    format!("tcptop: not shown: TCP {local} -> {remote} (no memory for socket storage)")
}

/// UDP flows do not need the storage: nothing is lost, not even the receiver.
fn no_option_memory_udp() {
    let Some(netns) = without_option_memory("losses::no_option_memory_udp") else { return };
    let tcptop = Tcptop::start(&udp::QUICK);
    let mut duo = netns.run(|| udp::Duo::new(Family::V4, true));
    duo.send(100, 3);
    duo.answer(200, 2);
    let owners = sees_receivers(&tcptop);
    for (ends, totals) in duo.expected() {
        udp::wait_totals(&tcptop, ends, totals);
    }
    let one_way = netns.run(|| {
        let (from, to) =
            (udp::bind(([127, 0, 0, 1], 0).into()), udp::bind(([127, 0, 0, 1], 0).into()));
        udp::send_to(&from, to.local_addr().expect("bound"), 10, 1);
        udp::receive(&to, 1);
        Ends::new(to.local_addr().expect("bound"), from.local_addr().expect("bound"))
    });
    if owners {
        let own = Some(std::process::id());
        tcptop.wait_row("row with the receiver", one_way, |row| row.pid == own);
    }
    tcptop.finish();
}

/// The table of receivers is full: each further socket counts once, although tcptop looks up
/// its holder and tries again. Its flow has no owner.
fn full_receiver_table() {
    const SOCKETS: u64 = 300;
    let mut found = Vec::new();
    // Sockets that others make meanwhile count too; they are few.
    for _ in 0..5 {
        match lost_receivers(SOCKETS) {
            None => return left_out("losses::full_receiver_table", "no cgroup_skb here"),
            Some(SOCKETS) => return,
            Some(lost) => {
                assert!(lost > SOCKETS, "{lost} of {SOCKETS}");
                found.push(lost);
            }
        }
    }
    panic!("{found:?} reported for {SOCKETS}, every time");
}

/// How many receivers tcptop reports lost while so many sockets receive for the first time;
/// `None` where it has no table of them.
fn lost_receivers(sockets: u64) -> Option<u64> {
    const CAUSE: &str = "receiver_table_full";
    // It takes the only place, if no other does.
    let older = udp::bind((sock::loopback(1), 0).into());
    let sender = udp::bind((sock::loopback(1), 0).into());
    let arguments = ["--udp", "--raw", "--interval", "0.1", "--udp-timeout", "300"];
    // Trampolines see the receiver with each datagram, without a table.
    let more = ["--room", "receivers=1", "--without", "fentry/ip_send_skb"];
    let tcptop = Tcptop::start(&[&arguments[..], &more].concat());
    if Provider::of(&tcptop) != Provider::CgroupSkb {
        tcptop.finish();
        return None;
    }
    let before = tcptop.reported(CAUSE);
    let from = sender.local_addr().expect("bound");
    let all: Vec<(UdpSocket, Ends)> = (0..sockets)
        .map(|_| {
            let socket = udp::bind((sock::loopback(2), 0).into());
            let address = socket.local_addr().expect("bound");
            udp::send_to(&sender, address, 1, 1);
            udp::receive(&socket, 1);
            (socket, Ends::new(address, from))
        })
        .collect();
    until_true("each to be counted", || tcptop.reported(CAUSE) >= before + sockets);
    // tcptop tries again a second later: this takes longer.
    let to = older.local_addr().expect("bound");
    for bytes in 1..=12 {
        udp::send_to(&sender, to, 1, 1);
        tcptop.wait_row("row of the sender", Ends::new(from, to), |row| row.bytes_out == bytes);
    }
    for (_, ends) in &all {
        let owner = tcptop.look(|output| output.last_row(*ends).and_then(|row| row.pid));
        assert_eq!(owner, None, "{ends:?}");
    }
    let ended = end(tcptop);
    let losses = ended.losses();
    figures(format_args!("{sockets} sockets, {before} before: {losses:?}"));
    assert_eq!(losses.keys().collect::<Vec<_>>(), [&CAUSE], "{}", ended.stderr);
    Some(losses[CAUSE] - before)
}

/// 768 bytes of destination options (RFC 8200, section 4.6) that nobody knows.
#[repr(C)]
#[derive(Clone, Copy)]
struct LongOptions([u8; 768]);
// SAFETY: bytes.
unsafe impl Plain for LongOptions {}

/// The programs of cgroup_skb look for the UDP header in the first 512 bytes.
fn long_extension_headers() {
    const DATAGRAMS: u32 = 20;
    /// An experimental option (RFC 4727) that a receiver skips.
    const EXPERIMENT: u8 = 0x1e;
    let mut options = LongOptions([0; 768]);
    options.0[1] = (size_of::<LongOptions>() / 8 - 1) as u8;
    // After the two bytes of the header, options that fill the rest.
    let mut at = 2;
    while at < options.0.len() {
        let length = (options.0.len() - at - 2).min(255);
        options.0[at] = EXPERIMENT;
        options.0[at + 1] = length as u8;
        at += 2 + length;
    }
    let tcptop = Tcptop::start(&udp::QUICK);
    let (from, to) =
        (udp::bind((Ipv6Addr::LOCALHOST, 0).into()), udp::bind((Ipv6Addr::LOCALHOST, 0).into()));
    set_option(&from, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &options).expect("IPV6_DSTOPTS");
    let remote = to.local_addr().expect("bound");
    udp::send_to(&from, remote, 100, DATAGRAMS);
    udp::receive(&to, DATAGRAMS);
    let ends = Ends::new(from.local_addr().expect("bound"), remote);
    if Provider::of(&tcptop) == Provider::Entry {
        let sent = udp::Totals::sent(100 * u64::from(DATAGRAMS), DATAGRAMS.into());
        udp::wait_totals(&tcptop, ends, sent);
        tcptop.finish();
        return;
    }
    let ended = end(tcptop);
    assert_eq!(ended.output.rows_of(ends).count(), 0);
    // Each is sent by one socket and received by another.
    let lost: Vec<_> = ended.losses().into_iter().collect();
    assert_eq!(lost, [("unreadable", 2 * u64::from(DATAGRAMS))]);
}

/// While tcptop is stopped, more cgroups are made than half of the ring has room for.
fn cgroups_without_room() {
    const WHAT: &str = "losses::cgroups_without_room";
    /// A record with its header in the ring (`BPF_RINGBUF_HDR_SZ`).
    const RECORD: u64 = 16 + 1024 + 8;
    const RING: u64 = 16 * 1024;
    const MADE: u64 = 30;
    let Some(mount) = cgroups::root() else {
        return left_out(WHAT, "the whole of cgroup v2 is not mounted");
    };
    let top = format!("/tcptop{}", std::process::id());
    let parent = match Cgroup::new(&mount, &top) {
        Ok(cgroup) => cgroup,
        Err(why) => return left_out(WHAT, why),
    };
    let ring = format!("ring={RING}");
    let tcptop =
        Tcptop::start(&["--tcp", "--columns", "+cgroup", "--interval", "0.1", "--room", &ring]);
    if !tcptop.has_tracepoint("cgroup_mkdir") {
        tcptop.stop(libc::SIGINT);
        return left_out(WHAT, "no hook tells of new cgroups here");
    }
    tcptop.pause();
    let made: Vec<Cgroup> = (0..MADE)
        .map(|number| Cgroup::new(&mount, &format!("{top}/{number}")).expect("a cgroup"))
        .collect();
    tcptop.signal(libc::SIGCONT);
    let ended = end(tcptop);
    drop((made, parent));
    // One more is reserved while the ring is exactly half full or less.
    let kept = RING / 2 / RECORD + 1;
    let lost: Vec<_> = ended.losses().into_iter().collect();
    assert_eq!(lost, [("cgroups", MADE - kept)], "{}", ended.stderr);
}

/// Four threads send on a thousand flows, as fast as they can, to a tcptop whose ring and
/// flow table are small: what is sent is what is shown and what is reported lost. The ring
/// makes samples late, and none of them lost.
fn saturated_udp() {
    const THREADS: usize = 4;
    const CLIENTS: usize = 125;
    const ROUNDS: usize = 40;
    let server = udp::bind((sock::loopback(1), 0).into());
    let port = server.local_addr().expect("bound").port();
    // One port for all servers: with --port no other flow takes room in the table.
    let servers: Vec<UdpSocket> = std::iter::once(server)
        .chain((1..THREADS).map(|i| udp::bind((sock::loopback(1 + i as u8), port).into())))
        .collect();
    servers.iter().for_each(roomy);
    let port = port.to_string();
    let tcptop = Tcptop::start(&[
        "--udp",
        "--raw",
        "--all",
        "--interval",
        "0.05",
        "--udp-timeout",
        "300",
        "--port",
        &port,
        "--udp-flows",
        "512",
        "--room",
        "ring=4096",
    ]);
    let sizes = |client: usize, round: usize| 1 + (client * 7 + round) % 1000;
    let clients: Vec<Vec<UdpSocket>> = servers
        .iter()
        .map(|_| (0..CLIENTS).map(|_| udp::bind((sock::loopback(9), 0).into())).collect())
        .collect();
    let drained: Vec<(u64, u64)> = thread::scope(|scope| {
        let pairs = servers.iter().zip(&clients);
        let workers: Vec<_> = pairs
            .map(|(server, clients)| {
                scope.spawn(move || {
                    let to = server.local_addr().expect("bound");
                    for round in 0..ROUNDS {
                        for (number, client) in clients.iter().enumerate() {
                            udp::send_to(client, to, sizes(number, round), 1);
                        }
                    }
                    udp::drain(server)
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().expect("a sender")).collect()
    });
    let ended = end(tcptop);
    ended.output.check_contract();
    let bytes: usize =
        (0..ROUNDS).flat_map(|round| (0..CLIENTS).map(move |n| sizes(n, round))).sum();
    let each = ((CLIENTS * ROUNDS) as u64, bytes as u64);
    assert_eq!(drained, vec![each; THREADS], "the sockets have room for all");
    let offered = (2 * THREADS as u64 * each.0, 2 * THREADS as u64 * each.1);
    let mut last = std::collections::HashMap::new();
    for row in &ended.output.rows {
        last.insert(row.ends, udp::Totals::of(row));
    }
    let mut shown = udp::Totals::default();
    last.values().for_each(|totals| shown += *totals);
    let losses = ended.losses();
    let lost = |cause| losses.get(cause).copied().unwrap_or(0);
    // The kernel skips a program only where it can preempt one: then the bytes are not known.
    let skipped = lost("skipped");
    let packets = shown.packets_in + shown.packets_out + lost("flow_table_datagrams") + skipped;
    assert_eq!(packets, offered.0, "{}", ended.stderr);
    if skipped == 0 {
        let bytes = shown.bytes_in + shown.bytes_out + lost("flow_table_bytes");
        assert_eq!(bytes, offered.1, "{}", ended.stderr);
    }
    assert!(lost("flow_table_datagrams") > 0 && last.len() <= 512, "{} rows", last.len());
    let all = ["flow_table_bytes", "flow_table_datagrams", "skipped"];
    assert!(losses.keys().all(|cause| all.contains(cause)), "{losses:?}");
    figures(format_args!("{offered:?} = {shown:?} + {losses:?}"));
}
