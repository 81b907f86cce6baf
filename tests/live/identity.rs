//! The identity of connections and flows: each has its own, in all its rows and in two
//! tcptops that run at once.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use serde_json::Value;

use crate::common::rows::{Rows, ends_of};
use crate::common::sock::{
    Ends, Family, Let, Pair, bounded, connect_socket, disconnect, filter_incoming, let_all_in,
    listen, loopback, receive, reset, send, start_connecting, unconnected,
};
use crate::common::wait::{load, until_true};

use super::{Test, test};

pub fn tests() -> Vec<Test> {
    vec![
        test("identity::ten_thousand_on_few_tuples", ten_thousand_on_few_tuples),
        test("identity::from_the_first_row_to_the_last", from_the_first_row_to_the_last),
        test("identity::flows", flows),
    ]
}

fn start(more: &[&str]) -> Rows {
    Rows::start("conn_id,bytes_in,bytes_out,partial", more)
}

fn id(row: &Value) -> String {
    row["conn_id"].as_str().unwrap_or_else(|| panic!("no conn_id: {row:#}")).to_owned()
}

/// Everything that the two ends of a connection must agree on, by its identity.
type Joined = BTreeMap<String, (Ends, u64, u64)>;

/// The final rows, by identity: each once.
fn finals(rows: &[Value]) -> Joined {
    let mut found = Joined::new();
    for row in rows.iter().filter(|row| row["event"] == "closed" && row["partial"] == false) {
        let bytes = |key: &str| row[key].as_u64().expect("a number");
        let entry = (ends_of(row), bytes("bytes_in"), bytes("bytes_out"));
        if let Some(other) = found.insert(id(row), entry) {
            panic!("two connections have one identity: {other:?}, {row:#}");
        }
    }
    found
}

/// Connects, sends some bytes, and lets the server read them.
fn talk(socket: &TcpStream, listener: &TcpListener, address: SocketAddr, bytes: u64) {
    connect_socket(socket, address).expect("connect");
    let (server, _) = listener.accept().expect("accept");
    bounded(&server);
    send(socket, bytes);
    receive(&server, bytes);
    // The client resets: no TIME_WAIT keeps the port.
}

/// A few tuples are used again and again: by new sockets, and by one socket that connects,
/// disconnects and connects again. A second tcptop starts half-way.
fn ten_thousand_on_few_tuples() {
    let first = start(&["--tcp"]);
    let (listener, address) = listen(Family::V4);
    // It lasts: the second tcptop finds it at its start.
    let lasting = Pair::new(Family::V4);
    lasting.exchange(10, 0);
    let count = u64::from(load(10_000, 2000));
    // A socket that asks for a certain port keeps it when it disconnects.
    let free = |last: u8| -> SocketAddr {
        let socket = unconnected(address, Some((loopback(last), 0).into()));
        socket.local_addr().expect("bound")
    };
    let ports: [SocketAddr; 4] = [20, 21, 22, 23].map(free);
    let again = unconnected(address, Some(free(30)));
    let one = |number: u64| {
        let bytes = number % 97 + 1;
        if number % 2 == 0 {
            let socket = unconnected(address, Some(ports[(number / 2 % 4) as usize]));
            talk(&socket, &listener, address, bytes);
            reset(socket);
        } else {
            talk(&again, &listener, address, bytes);
            disconnect(&again);
        }
    };
    (0..count / 2).for_each(one);
    let second = start(&["--tcp"]);
    let row = second.wait("the old connection", lasting.ends, |_| true);
    assert_eq!(row["partial"], true);
    let same = first.last(lasting.ends).expect("a row");
    assert_eq!(id(&row), id(&same));
    assert_eq!(same["partial"], false);
    (count / 2..count).for_each(one);
    let last = lasting.ends;
    lasting.close();
    for rows in [&first, &second] {
        assert_eq!(id(&rows.wait_final(last)), id(&same));
    }
    let (all, later) = (finals(&first.finish()), finals(&second.finish()));
    let of_clients = |found: &Joined| {
        let sent = found.values().filter(|(ends, ..)| ends.remote == address);
        (sent.clone().count() as u64, sent.map(|(_, _, out)| out).sum::<u64>())
    };
    let sum = |from: u64, to: u64| (from..to).map(|number| number % 97 + 1).sum::<u64>();
    assert_eq!(of_clients(&all), (count, sum(0, count)), "each connection once");
    assert_eq!(of_clients(&later), (count - count / 2, sum(count / 2, count)));
    for (id, connection) in &later {
        assert_eq!(all.get(id), Some(connection), "the same in both: {id}");
    }
    let tuples: BTreeSet<Ends> = all.values().map(|(ends, ..)| *ends).collect();
    assert_eq!(tuples.len(), 12, "five, and that which lasts, from both ends");
}

/// A connection has one identity before its handshake, in it and after it.
fn from_the_first_row_to_the_last() {
    let rows = [start(&["--tcp"]), start(&["--tcp"])];
    let (listener, address) = listen(Family::V4);
    filter_incoming(&listener, Let::Nothing);
    let client = unconnected(address, Some((loopback(1), 0).into()));
    let ends = Ends::new(client.local_addr().expect("bound"), address);
    start_connecting(&client, address);
    let before = rows.each_ref().map(|rows| id(&rows.wait("a SYN", ends, |_| true)));
    assert_eq!(before[0], before[1]);
    let_all_in(&listener);
    let pair = Pair::accept(&listener, client);
    pair.client.set_nonblocking(false).expect("blocking");
    pair.exchange(300_000, 200_000);
    pair.close();
    for rows in rows {
        assert_eq!(rows.wait_final(ends)["bytes_in"], 200_000);
        rows.wait_final(ends.flipped());
        for (ends, same) in [(ends, Some(&before[0])), (ends.flipped(), None)] {
            let ids: BTreeSet<String> = rows.of(ends).iter().map(id).collect();
            assert_eq!(ids.len(), 1, "{ids:?}");
            assert!(same.is_none_or(|same| ids.contains(same)), "{ids:?}");
        }
        rows.finish();
    }
}

/// A flow has another identity than the flow of the same tuple before it, and than that of
/// another socket.
fn flows() {
    let rows = [(); 2].map(|()| start(&["--udp", "--udp-timeout", "1"]));
    let server = UdpSocket::bind((loopback(1), 0)).expect("bind");
    bounded(&server);
    let address = server.local_addr().expect("bound");
    let client = UdpSocket::bind((loopback(2), 0)).expect("bind");
    let ends = Ends::new(client.local_addr().expect("bound"), address);
    let datagram = |client: &UdpSocket| {
        client.send_to(b"?", address).expect("send");
        server.recv(&mut [0; 9]).expect("receive");
    };
    let expired = |number: usize| {
        rows.each_ref().map(|rows| {
            rows.wait_final(ends);
            let all = rows.of(ends);
            let ids: BTreeSet<String> = all.iter().map(id).collect();
            (ids.len() == number).then_some(ids)
        })
    };
    datagram(&client);
    let first = expired(1);
    assert!(first[0].is_some() && first[0] == first[1], "{first:?}");
    datagram(&client);
    until_true("another flow", || {
        let second = expired(2);
        second[0].is_some() && second[0] == second[1]
    });
    let local = ends.local;
    drop(client);
    datagram(&UdpSocket::bind(local).expect("bind"));
    until_true("another socket", || {
        let third = expired(3);
        third[0].is_some() && third[0] == third[1]
    });
    for rows in rows {
        rows.finish();
    }
}
