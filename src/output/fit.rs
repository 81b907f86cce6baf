//! Lines that fit a terminal: what gives way where it is narrower than a line.
//!
//! Owns the order in which parts of a line give way, and how a text that is still too wide
//! is cut. Pure: the size of the terminal comes from the caller. Lines that go into a pipe
//! or a file never come here.

use super::style::screen_width;

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

/// A part of a line that gives way to the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Part {
    /// The width that a column has beyond its title and its values.
    Padding,
    /// The exact number in a size; the readable one stays.
    Exact,
    /// Segments and datagrams.
    Packets,
    /// The state.
    State,
    /// Of `[PARTIAL]`, all but a `*`.
    Mark,
    /// Of the time (`-t`), the date and the milliseconds.
    Date,
    /// Segments that were sent again.
    Retransmits,
    /// The round-trip time.
    Rtt,
    /// How long a connection lasted.
    Age,
    /// TCP or UDP.
    Protocol,
    /// The word PID before its number.
    Label,
    /// The number of the process, whose name stays.
    Pid,
    /// How many connections of a group opened, closed and failed.
    Counts,
    /// Bytes so far.
    Totals,
    /// Bytes per second.
    Rates,
    /// Bytes of a connection that has ended.
    Moved,
}

/// The parts of a row, in the order in which they give way. The addresses and the owner, or
/// the keys of a group, stay. A row without a number would tell nothing, so long addresses
/// are cut before the rates go.
pub(super) const OF_ROW: &[Part] = &[
    Part::Padding,
    Part::Exact,
    Part::Packets,
    Part::State,
    Part::Mark,
    Part::Date,
    Part::Retransmits,
    Part::Rtt,
    Part::Protocol,
    Part::Counts,
    Part::Totals,
    Part::Rates,
];

/// The same for a `[CLOSED]` line, which also keeps `end=`. Long addresses are cut before the
/// bytes go, but not below what IPv4 takes: without the addresses the line is of nobody.
pub(super) const OF_CLOSED: &[Part] = &[
    Part::Exact,
    Part::Packets,
    Part::Retransmits,
    Part::Rtt,
    Part::Age,
    Part::Mark,
    Part::Date,
    Part::Protocol,
    Part::Label,
    Part::Pid,
    Part::Moved,
];

/// Of these, none is there where one that gives way later is missing: users rely on this
/// order. Any other part comes back where what gave way after it has left it room.
const IN_ORDER: &[Part] = &[Part::Padding, Part::Exact, Part::Packets, Part::State, Part::Mark];

impl Part {
    /// Its bit in a set of parts.
    const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// The part that the column of this name is; `None` for one that stays.
    pub(super) fn of_column(name: &str) -> Option<Part> {
        Some(match name {
            "packets_in" | "packets_out" => Part::Packets,
            "state" => Part::State,
            "retrans" => Part::Retransmits,
            "rtt_us" => Part::Rtt,
            "protocol" => Part::Protocol,
            "opened" | "closed" | "failed" => Part::Counts,
            "bytes_in" | "bytes_out" => Part::Totals,
            "rate_in_bytes_sec" | "rate_out_bytes_sec" | "rate_in" | "rate_out" => Part::Rates,
            _ => return None,
        })
    }
}

/// How a line is written: whole into a pipe, otherwise as the terminal permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// The bits of the parts that have given way.
    gone: u32,
    /// The most characters of an address or a name.
    pub(super) most: usize,
}

impl Fit {
    /// Nothing gives way.
    pub(super) const WHOLE: Fit = Fit { gone: 0, most: usize::MAX };

    /// Whether the part has given way.
    pub(super) fn lacks(self, part: Part) -> bool {
        self.gone & part.bit() != 0
    }

    /// The widest fit with which a line takes at most `room`. `width` tells the width of the
    /// line with a fit; `texts` are the widths of the texts in it that can be cut.
    pub(super) fn find(
        order: &'static [Part],
        room: usize,
        texts: &[usize],
        mut width: impl FnMut(Fit) -> usize,
    ) -> Fit {
        let mut fit = Fit::WHOLE;
        for count in 0..=order.len() {
            fit.gone = order[..count].iter().fold(0, |gone, part| gone | part.bit());
            let excess = width(fit).saturating_sub(room);
            if excess == 0 {
                return fit.take_back(&order[..count], |fit| width(fit) <= room);
            }
            let level = level(texts, texts.iter().sum::<usize>().saturating_sub(excess));
            match order.get(count) {
                Some(Part::Rates) if level >= READABLE => return Fit { most: level, ..fit },
                Some(Part::Moved) if level >= WHOLE_IPV4 => return Fit { most: level, ..fit },
                Some(_) => {}
                None => fit.most = level.max(LEAST),
            }
        }
        fit
    }

    /// With the parts that fit all the same, those first that gave way last.
    fn take_back(self, gone: &[Part], mut fits: impl FnMut(Fit) -> bool) -> Fit {
        let mut fit = self;
        let mut in_order = true;
        for part in gone.iter().rev() {
            let with = Fit { gone: fit.gone & !part.bit(), ..fit };
            let is_in_order = IN_ORDER.contains(part);
            if (in_order || !is_in_order) && fits(with) {
                fit = with;
            } else if is_in_order {
                in_order = false;
            }
        }
        fit
    }
}

/// The fewest characters of an address that are worth more than the rates.
const READABLE: usize = 16;

/// The characters of the longest IPv4 address with its port.
const WHOLE_IPV4: usize = 21;

/// The fewest characters that a text is cut to. Where even this is too much, the line loses
/// its end.
const LEAST: usize = 4;

/// Stands where something was cut out.
const CUT: u8 = b'~';

/// The greatest number to which all widths can be limited so that their sum is at most
/// `room`.
fn level(widths: &[usize], room: usize) -> usize {
    let mut sorted = widths.to_vec();
    sorted.sort_unstable();
    let mut room = room;
    for (at, &width) in sorted.iter().enumerate() {
        let rest = sorted.len() - at;
        if width * rest > room {
            return room / rest;
        }
        room -= width;
    }
    usize::MAX
}

/// Cuts the text that begins at `begin` to at most `most` characters. Of an address the
/// middle goes, so that both its beginning and its port stay; of other texts the end.
pub(super) fn cut(out: &mut Vec<u8>, begin: usize, most: usize, is_address: bool) {
    let text = &out[begin..];
    if screen_width(text) <= most {
        return;
    }
    if most == 0 {
        return out.truncate(begin);
    }
    if is_address {
        // All of it is ASCII. What stays after the cut: half of the address, and the port.
        let port = text.iter().rev().position(|&byte| byte == b':').map_or(0, |at| at + 1);
        let head = (most - 1).saturating_sub(port) / 2;
        let tail = most - 1 - head;
        out.splice(begin + head..out.len() - tail, [CUT]);
        return;
    }
    let text = String::from_utf8_lossy(text).into_owned();
    let fits = |end: &usize| screen_width(&text.as_bytes()[..*end]) < most;
    let end = text.char_indices().map(|(at, _)| at).take_while(fits).last().unwrap_or(0);
    out.truncate(begin);
    out.extend_from_slice(&text.as_bytes()[..end]);
    out.push(CUT);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shortened(text: &str, most: usize, is_address: bool) -> String {
        let mut out = b"before ".to_vec();
        let begin = out.len();
        out.extend_from_slice(text.as_bytes());
        cut(&mut out, begin, most, is_address);
        String::from_utf8(out.split_off(begin)).expect("UTF-8")
    }

    #[test]
    fn addresses_keep_both_ends() {
        let address = "[2001:db8:1111:2222:3333:4444:5555:6666]:65535";
        assert_eq!(shortened(address, 46, true), address);
        assert_eq!(shortened(address, 26, true), "[2001:db8~5555:6666]:65535");
        assert_eq!(shortened("10.0.0.1:443", 8, true), "1~.1:443");
        assert_eq!(shortened("name", 3, false), "na~");
        assert_eq!(shortened("日本語", 5, false), "日本~");
        assert_eq!(shortened("日本語", 4, false), "日~");
        assert_eq!(shortened("日本語", 1, false), "~");
    }

    #[test]
    fn the_widest_give_way_first() {
        assert_eq!(level(&[10, 20, 30], 60), usize::MAX);
        assert_eq!(level(&[10, 20, 30], 50), 20);
        assert_eq!(level(&[10, 20, 30], 40), 15);
        assert_eq!(level(&[10, 20, 30], 9), 3);
        assert_eq!(level(&[], 0), usize::MAX);
    }

    proptest! {
        #[test]
        fn what_is_cut_fits(text in "\\PC{0,30}", most in 0usize..40, is_address: bool) {
            let is_address = is_address && text.is_ascii();
            let short = shortened(&text, most, is_address);
            prop_assert!(screen_width(short.as_bytes()) <= most);
            if screen_width(text.as_bytes()) <= most {
                prop_assert_eq!(short, text);
            }
        }

        /// `widths` are those of the parts, in their order.
        #[test]
        fn no_room_is_left_for_what_is_gone(
            widths in proptest::collection::vec(0usize..20, OF_ROW.len()), room in 0usize..150,
        ) {
            let width = |fit: Fit| -> usize {
                let parts = OF_ROW.iter().zip(&widths);
                parts.filter(|(part, _)| !fit.lacks(**part)).map(|(_, width)| width).sum()
            };
            let fit = Fit::find(OF_ROW, room, &[1], width);
            prop_assert!(width(fit) <= room);
            for (part, own) in OF_ROW.iter().zip(&widths) {
                let turn = IN_ORDER.iter().position(|known| known == part);
                let later = turn.map_or(&[][..], |turn| &IN_ORDER[turn + 1..]);
                let waits = later.iter().any(|later| fit.lacks(*later));
                prop_assert!(!waits || fit.lacks(*part), "{part:?} before its turn");
                prop_assert!(!fit.lacks(*part) || waits || width(fit) + own > room, "{part:?}");
            }
        }

        #[test]
        fn a_level_uses_the_room(widths in proptest::collection::vec(0usize..50, 1..6), room in 0usize..200) {
            let level = level(&widths, room);
            let sum = |most: usize| widths.iter().map(|&width| width.min(most)).sum::<usize>();
            prop_assert!(sum(level) <= room);
            prop_assert!(level == usize::MAX || sum(level + 1) > room);
        }
    }
}
