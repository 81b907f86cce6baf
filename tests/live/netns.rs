//! Connections of several network namespaces.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use caps::{CapSet, Capability};

use crate::common::agent::Agent;
use crate::common::mounts;
use crate::common::netns::Netns;
use crate::common::sock::{self, Ends, Family, Pair, connect_socket, listen_at, unconnected};
use crate::common::tcptop::{Closed, Launch, QUICK, Tcptop};

use super::{Test, sharing, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("netns::same_addresses_and_ports", || {
            same_addresses_and_ports("10.84.0.1", "10.84.0.2")
        }),
        test("netns::same_addresses_and_ports_v6", || {
            same_addresses_and_ports("fd84::1", "fd84::2")
        }),
        test("netns::tcptop_within_one", tcptop_within_one),
        sharing("netns::gone_with_its_connections", gone_with_its_connections),
        test("netns::more_than_files_may_be_open", more_than_files_may_be_open),
        test("netns::cannot_be_entered", cannot_be_entered),
        test("netns::without_a_process", without_a_process),
        test("netns::with_a_name", with_a_name),
    ]
}

/// A connection between two fresh namespaces.
fn across(client: SocketAddr, server: SocketAddr) -> Pair {
    let (here, there) = (Netns::new(), Netns::new());
    here.join(client.ip(), &there, server.ip());
    let listener = there.run(|| listen_at(server));
    let socket = here.run(|| {
        let socket = unconnected(server, Some(client));
        connect_socket(&socket, server).expect("connect over veth");
        socket
    });
    Pair::accept(&listener, socket)
}

/// A connection that is not accepted, made in this namespace. No process is there.
fn unaccepted(netns: &Netns) -> (TcpListener, TcpStream) {
    netns.run(|| {
        let (listener, address) = sock::listen(Family::V4);
        let client = unconnected(address, None);
        connect_socket(&client, address).expect("connect");
        (listener, client)
    })
}

/// A connection that is older than tcptop and accepted later, in a namespace that no process
/// is in: no look-up can find it at the start, but it is shown once it is used.
fn without_a_process() {
    let netns = Netns::new();
    let (listener, client) = unaccepted(&netns);
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--interval", "0.1"]);
    let pair = Pair::accept(&listener, client);
    pair.exchange(10, 20);
    let server = pair.ends.flipped();
    tcptop.wait_row("row of the accepted end", server, |row| row.partial);
    pair.exchange(3000, 500);
    tcptop.wait_row("what it moved since", server, |row| {
        row.bytes_in >= 3000 && row.bytes_out >= 500 && row.pid == Some(std::process::id())
    });
    pair.close();
    tcptop.wait_closed(&[server, server.flipped()]);
    tcptop.finish();
}

/// The same in a namespace that has a name, as `ip netns add` gives it: it is listed.
fn with_a_name() {
    let netns = Netns::new();
    let (_listener, client) = unaccepted(&netns);
    let directory = tempfile::tempdir().expect("a directory");
    let (what, name) = (netns.path(), directory.path().join("a name"));
    File::create(&name).expect("create");
    let mount = move || {
        mounts::private()?;
        mounts::bind(&what, &name)
    };
    // SAFETY: the tests run one at a time, so no other thread of this process holds the
    // allocator's lock for long; glibc makes it usable after fork.
    let tcptop = unsafe { Launch::new(&QUICK).prepare(mount) }.start();
    let ends = Ends::of(&client).flipped();
    assert!(tcptop.look(|output| output.last_row(ends).is_some()), "{ends:?} is not listed");
    drop(client);
    tcptop.finish();
}

/// Two pairs of namespaces with the same tuple: four sockets have four separate rows.
fn same_addresses_and_ports(client: &str, server: &str) {
    let address =
        |text: &str, port| SocketAddr::new(text.parse::<IpAddr>().expect("an address"), port);
    let (client, server) = (address(client, 40_000), address(server, 5000));
    let tcptop = Tcptop::start(&["--tcp", "--raw", "--all", "-t", "--interval", "0.1"]);
    let traffic = [(1000, 20), (300_000, 4000)];
    let pairs = traffic.map(|(up, down)| {
        let pair = across(client, server);
        pair.exchange(up, down);
        pair
    });
    let ends = pairs[0].ends;
    assert_eq!(ends, pairs[1].ends);
    for (ends, totals) in [(ends, traffic.map(|(up, down)| (down, up))), (ends.flipped(), traffic)]
    {
        tcptop.wait("both connections in one interval", |output| {
            let time = &output.rows.last()?.time;
            let rows = output.rows_of(ends).filter(|row| row.time == *time);
            let mut found: Vec<_> = rows.map(|row| (row.bytes_in, row.bytes_out)).collect();
            found.sort_unstable();
            let mut expected = totals;
            expected.sort_unstable();
            (found == expected).then_some(())
        });
    }
    pairs.into_iter().for_each(Pair::close);
    let count = |ends| {
        move |output: &crate::common::tcptop::Output| {
            (output.closed_of(ends).count() >= 2).then_some(())
        }
    };
    tcptop.wait("both ends", count(ends));
    tcptop.wait("both other ends", count(ends.flipped()));
    let output = tcptop.finish();
    let mut found: Vec<_> =
        output.closed_of(ends).chain(output.closed_of(ends.flipped())).map(totals).collect();
    found.sort_unstable();
    let mut expected: Vec<_> =
        traffic.iter().flat_map(|&(up, down)| [(up, down), (down, up)]).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

fn totals(closed: &Closed) -> (u64, u64) {
    (closed.bytes_in, closed.bytes_out)
}

/// tcptop sees all namespaces, whichever one it runs in.
fn tcptop_within_one() {
    let (inside, other) = (Netns::new(), Netns::new());
    let older = Pair::new(sock::Family::V4);
    let tcptop = inside.run(|| Tcptop::start(&QUICK));
    let listed = tcptop.look(|output| output.last_row(older.ends).cloned());
    assert!(listed.is_some_and(|row| row.partial), "a connection of another namespace is listed");
    let pairs = [Pair::new(sock::Family::V4), other.run(|| Pair::new(sock::Family::V6))];
    let ends: Vec<Ends> = pairs.iter().map(|pair| pair.ends).collect();
    for pair in pairs {
        pair.exchange(44, 55);
        pair.close();
    }
    tcptop.wait_closed(&ends);
    let output = tcptop.finish();
    for ends in ends {
        assert_eq!(totals(output.the_closed(ends)), (55, 44));
    }
}

/// Both ends, their namespaces and the link between them may disappear in any order.
fn gone_with_its_connections() {
    let tcptop = Tcptop::share(&QUICK);
    let addresses = (([10, 85, 0, 1], 41_000).into(), ([10, 85, 0, 2], 5000).into());
    // `across` has dropped the namespaces: only the sockets keep them.
    let pair = across(addresses.0, addresses.1);
    pair.exchange(100, 200);
    let ends = pair.ends;
    sock::reset(pair.client);
    sock::await_closed(&pair.server);
    drop(pair.server);
    tcptop.wait_closed(&[ends, ends.flipped()]);
    let output = tcptop.finish();
    assert_eq!(totals(output.the_closed(ends)), (200, 100));
    assert_eq!(totals(output.the_closed(ends.flipped())), (100, 200));
}

/// A namespace with a process, and a connection in it that no process holds on one side: it
/// is not accepted.
struct Unaccepted {
    _netns: Netns,
    _agent: Agent,
    _sockets: (TcpListener, TcpStream),
    ends: Ends,
}

impl Unaccepted {
    fn new() -> Unaccepted {
        let netns = Netns::new();
        let (agent, listener, client) = netns.run(|| {
            let (listener, address) = sock::listen(sock::Family::V4);
            (Agent::new("in-netns"), listener, sock::connect(address))
        });
        let ends = Ends::of(&client).flipped();
        Unaccepted { _netns: netns, _agent: agent, _sockets: (listener, client), ends }
    }
}

/// tcptop may open fewer files than there are namespaces: it enters all of them.
fn more_than_files_may_be_open() {
    /// As few as tcptop accepts. It opens 45 of them.
    const FILES: libc::rlim_t = 80;
    let all: Vec<Unaccepted> = (0..50).map(|_| Unaccepted::new()).collect();
    let few = || {
        let limit = libc::rlimit { rlim_cur: FILES, rlim_max: FILES };
        // SAFETY: the kernel reads the structure.
        match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        }
    };
    // SAFETY: one system call.
    let tcptop = unsafe { Launch::new(&QUICK).prepare(few) }.start();
    for unaccepted in &all {
        let listed = tcptop.look(|output| output.last_row(unaccepted.ends).is_some());
        assert!(listed, "{:?} is not listed", unaccepted.ends);
    }
    tcptop.finish();
}

/// Without the privilege to enter namespaces, tcptop says what it does not see.
fn cannot_be_entered() {
    let inside = Unaccepted::new();
    let drop_it = || {
        for set in [CapSet::Effective, CapSet::Permitted, CapSet::Bounding] {
            caps::drop(None, set, Capability::CAP_SYS_ADMIN).map_err(std::io::Error::other)?;
        }
        Ok(())
    };
    // SAFETY: the tests run one at a time, so no other thread of this process holds the
    // allocator's lock for long; glibc makes it usable after fork.
    let tcptop = unsafe { Launch::new(&QUICK).prepare(drop_it) }.start();
    assert!(tcptop.look(|output| output.last_row(inside.ends).is_none()));
    let words = "cannot see older connections that no process holds in ";
    let stderr = tcptop.stderr();
    assert!(stderr.starts_with(&format!("tcptop: {words}")), "{stderr}");
    assert!(stderr.contains("CAP_SYS_ADMIN is needed for it, or root"), "{stderr}");
    tcptop.finish();
}
