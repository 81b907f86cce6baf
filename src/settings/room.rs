//! How much room buffers and tables have (`--room`, hidden): tests make it small to see
//! what does not fit be counted.

use std::str::FromStr;

/// Something whose room can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The ring buffer, in bytes: a power of two of pages.
    Ring,
    /// The table of the processes that receive on UDP sockets, in sockets.
    Receivers,
    /// What waits for the reporter, in events.
    Backlog,
    /// What ended in an interval and is not written yet, in connections.
    Ended,
    /// The programs for state changes of TCP sockets: 1 to 3 (`bpf/tcptop.bpf.c`).
    StatePrograms,
    /// The pool of TCP connections that need no storage in their sockets: up to 4096.
    Pool,
}

/// The room of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    place: Place,
    size: u32,
}

impl Room {
    /// The size that was chosen for this place; the last one counts.
    pub fn of(rooms: &[Room], place: Place) -> Option<u32> {
        rooms.iter().rev().find(|room| room.place == place).map(|room| room.size)
    }
}

impl FromStr for Room {
    type Err = String;

    fn from_str(text: &str) -> Result<Room, String> {
        let (name, size) = text.split_once('=').ok_or("not PLACE=SIZE")?;
        let place = match name {
            "ring" => Place::Ring,
            "receivers" => Place::Receivers,
            "backlog" => Place::Backlog,
            "ended" => Place::Ended,
            "state-programs" => Place::StatePrograms,
            "pool" => Place::Pool,
            _ => {
                let names = "ring, receivers, backlog, ended, state-programs and pool";
                return Err(format!("there are {names}"));
            }
        };
        match size.parse() {
            Ok(0) if place != Place::Pool => Err("the size is not a whole number from 1 on"),
            Ok(size) => Ok(Room { place, size }),
            Err(_) => Err("the size is not a whole number"),
        }
        .map_err(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_room_of_a_place_counts() {
        let rooms: Vec<Room> =
            ["ring=4096", "backlog=7", "ring=8192"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(Room::of(&rooms, Place::Ring), Some(8192));
        assert_eq!(Room::of(&rooms, Place::Backlog), Some(7));
        assert_eq!(Room::of(&rooms, Place::Receivers), None);
        let none: Room = "pool=0".parse().unwrap();
        assert_eq!(Room::of(&[none], Place::Pool), Some(0));
        for wrong in ["ring", "ring=", "ring=0", "ring=-1", "rink=1", "pool=-1"] {
            assert!(wrong.parse::<Room>().is_err(), "{wrong}");
        }
    }
}
