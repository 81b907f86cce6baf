//! The messages of `sock_diag`(7) for TCP: the request for all connections of a family, and
//! the answer about one.
//!
//! Owns their layout (include/uapi/linux/inet_diag.h and tcp.h): what `--verify` needs of
//! it. Pure: bytes in, values out. The crate for it, netlink-packet-sock-diag 0.5, does not
//! build with Rust 1.85, and 0.4 needs crates that nobody maintains.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable, NlasIterator,
};
use nix::libc::{AF_INET, AF_INET6, IPPROTO_TCP};

use super::diag::Totals;

/// `SOCK_DIAG_BY_FAMILY`, the type of both messages.
const BY_FAMILY: u16 = 20;
/// `INET_DIAG_INFO`, the attribute with `struct tcp_info`.
const INFO: u16 = 2;

/// States as the kernel numbers them (include/net/tcp_states.h): those of connections
/// whose handshake is done.
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LAST_ACK: u8 = 9;
const CLOSING: u8 = 11;
const CONNECTED: [u8; 6] = [ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING];
/// Of these, those in which the peer's FIN has come.
const FINISHED: [u8; 3] = [CLOSE_WAIT, LAST_ACK, CLOSING];

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// Asks for the connections of a family.
    Request(Family),
    /// A connection.
    Answer(Answer),
}

/// What the kernel says about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) cookie: u64,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    /// `None` for a socket that is only the memory of a connection.
    pub(super) totals: Option<Totals>,
}

/// `sizeof(struct inet_diag_req_v2)`; the last 48 bytes choose a single socket.
const REQUEST: usize = 56;
/// `sizeof(struct inet_diag_msg)`, after which the attributes begin.
const ANSWER: usize = 72;

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        REQUEST
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let Message::Request(family) = self else { return };
        let family = match family {
            Family::V4 => AF_INET,
            Family::V6 => AF_INET6,
        };
        let states: u32 = CONNECTED.iter().map(|state| 1 << state).sum();
        buffer.fill(0);
        buffer[0] = family as u8;
        buffer[1] = IPPROTO_TCP as u8;
        buffer[2] = 1 << (INFO - 1);
        buffer[4..8].copy_from_slice(&states.to_ne_bytes());
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Message, DecodeError> {
        let answer = answer(payload).ok_or_else(|| "a short answer".into());
        answer.map(Message::Answer)
    }
}

fn answer(bytes: &[u8]) -> Option<Answer> {
    let (fixed, attributes) = bytes.split_at_checked(ANSWER)?;
    let [family, state, ..] = *fixed else { return None };
    let end = |port: usize, address: usize| {
        let ip: IpAddr = match i32::from(family) {
            AF_INET => Ipv4Addr::from(at::<4>(fixed, address)?).into(),
            _ => Ipv6Addr::from(at::<16>(fixed, address)?).to_canonical(),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(at(fixed, port)?)))
    };
    let info = NlasIterator::new(attributes).flatten().find(|attribute| attribute.kind() == INFO);
    Some(Answer {
        local: end(4, 8)?,
        remote: end(6, 24)?,
        cookie: u64::from_ne_bytes(at(fixed, 44)?),
        totals: info.and_then(|info| totals(info.value(), FINISHED.contains(&state))),
    })
}

/// From `struct tcp_info`.
fn totals(info: &[u8], fin: bool) -> Option<Totals> {
    let number = |place| Some(u64::from_ne_bytes(at(info, place)?));
    Some(Totals {
        received: number(128)?,
        fin,
        sent: number(200)?,
        retransmitted: number(208)?,
        acked: number(120)?,
    })
}

/// The bytes at this place.
fn at<const N: usize>(bytes: &[u8], place: usize) -> Option<[u8; N]> {
    bytes.get(place..place + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_connections() {
        let mut bytes = [0xff; REQUEST];
        Message::Request(Family::V6).serialize(&mut bytes);
        assert_eq!(bytes[..4], [10, 6, 2, 0]);
        // Bits 1, 4, 5, 8, 9 and 11.
        assert_eq!(bytes[4..8], 0b1011_0011_0010u32.to_ne_bytes());
        assert_eq!(bytes[8..], [0; 48]);
    }

    #[test]
    fn short_answers_are_no_connections() {
        for length in 0..ANSWER {
            assert_eq!(answer(&vec![2; length]), None, "{length}");
        }
        let without = answer(&[2; ANSWER]).expect("an answer");
        assert_eq!(without.totals, None);
        assert_eq!(without.local, ([2, 2, 2, 2], 0x0202).into());
        assert_eq!(totals(&[0; 215], false), None);
        assert!(totals(&[0; 216], true).is_some_and(|totals| totals.fin));
    }
}
