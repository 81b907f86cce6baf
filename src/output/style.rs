//! How single values look in lines.
//!
//! Owns the choice between the forms of a value: with units or plain, with the exact
//! number of a size or without, bytes or bits. Knows nothing about rows.

use unicode_width::UnicodeWidthStr;

use super::columns::Value;
use super::text::{
    Age, Bits, Brief, Field, Host, OrDash, Rate, RawAge, Room, Rtt, Size, Text, whole,
};
use super::timestamp;

/// How lines look.
#[derive(Clone, Copy, Debug, Default)]
pub struct LineStyle {
    /// Plain integers instead of readable units (`--raw`).
    pub raw: bool,
    /// Rates in bits instead of bytes per second (`--bits`).
    pub bits: bool,
    /// The interval's time first on every line (`-t`).
    pub timestamp: bool,
    /// Colour the rows of new connections green and `[CLOSED]` lines red.
    pub color: bool,
    /// Sizes without the exact number.
    pub brief: bool,
}

impl LineStyle {
    /// Appends a value as one field.
    #[inline]
    pub(super) fn value(self, value: Value<'_>, out: &mut impl Room) {
        match value {
            Value::Unknown => out.put(b"-"),
            Value::Word(text) | Value::Time(text) => text.write(out),
            Value::Text(text) => Field(text.as_bytes()).write(out),
            Value::Moment(time) => timestamp(time).as_str().write(out),
            Value::Id(id) => id.write(out),
            Value::Name(name) => Field(name.as_bytes()).write(out),
            Value::Host(address) => Host(address).write(out),
            Value::Endpoint(address) => address.write(out),
            Value::Number(number) => number.write(out),
            Value::Bytes(bytes) => self.size(bytes, out),
            Value::Rate(rate) => self.rate(rate, out),
            Value::Micros(us) => self.rtt(Some(us), out),
            Value::Span(ns) => self.age(Some(ns), out),
            Value::Flag(flag) => if flag { "true" } else { "false" }.write(out),
        }
    }

    fn rate(self, rate: f64, out: &mut impl Room) {
        match (self.raw, self.bits) {
            (false, false) => Rate(rate).write(out),
            (false, true) => Bits(rate).write(out),
            (true, false) => whole(rate).write(out),
            (true, true) => Bits(rate).whole().write(out),
        }
    }

    /// Appends a number of bytes.
    pub(super) fn size(self, bytes: u64, out: &mut impl Room) {
        match (self.raw, self.brief) {
            (true, _) => bytes.write(out),
            (false, false) => Size(bytes).write(out),
            (false, true) => Brief(bytes).write(out),
        }
    }

    /// Appends a round-trip time.
    pub(super) fn rtt(self, us: Option<u64>, out: &mut impl Room) {
        if self.raw { OrDash(us).write(out) } else { Rtt(us).write(out) }
    }

    /// Appends an age.
    pub(super) fn age(self, ns: Option<u64>, out: &mut impl Room) {
        if self.raw { RawAge(ns).write(out) } else { Age(ns).write(out) }
    }
}

/// The number of screen columns that `text` takes; a wide character takes two.
pub(super) fn screen_width(text: &[u8]) -> usize {
    match text.is_ascii() {
        true => text.len(),
        false => std::str::from_utf8(text).map_or(text.len(), UnicodeWidthStr::width),
    }
}

/// Appends this many blanks.
pub(super) fn blanks(mut count: usize, out: &mut Vec<u8>) {
    const BLANKS: [u8; 32] = [b' '; 32];
    while count > 0 {
        let some = count.min(BLANKS.len());
        out.put(&BLANKS[..some]);
        count -= some;
    }
}
