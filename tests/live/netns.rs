//! Connections of several network namespaces.

use std::net::{IpAddr, SocketAddr};

use crate::common::netns::Netns;
use crate::common::sock::{self, Ends, Pair, connect_socket, listen_at, unconnected};
use crate::common::tcptop::{Closed, QUICK, Tcptop};

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
