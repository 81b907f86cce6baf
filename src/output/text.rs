//! How single values look: numbers, sizes, rates, times, addresses and names.
//!
//! Owns how one value is written; knows nothing about columns, rows or files. Values are
//! appended to the buffer of the row without allocating, and without the standard library's
//! formatting, which takes several times as long.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};
use unicode_width::UnicodeWidthChar;

use crate::connection::{Identity, KernelName};

/// A buffer in memory that text is appended to. Appending cannot fail.
pub trait Room {
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]);

    /// Appends the first `count` of `bytes`.
    fn put_some<const N: usize>(&mut self, bytes: [u8; N], count: usize) {
        self.put(&bytes[..count.min(N)]);
    }
}

impl Room for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    /// To append all and take some back is quicker than to copy a number of bytes that the
    /// compiler does not know.
    fn put_some<const N: usize>(&mut self, bytes: [u8; N], count: usize) {
        let length = self.len() + count;
        self.extend_from_slice(&bytes);
        self.truncate(length);
    }
}

/// A value that can be written as text.
pub trait Text {
    /// Appends the value as text to `out`.
    fn write(&self, out: &mut impl Room);
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Text for $number {
            fn write(&self, out: &mut impl Room) {
                out.put(itoa::Buffer::new().format(*self).as_bytes());
            }
        }
    )*};
}
numbers!(u8 u16 u32 u64);

impl Text for &str {
    fn write(&self, out: &mut impl Room) {
        out.put(self.as_bytes());
    }
}

/// A short text of ASCII that is built without allocating: a row has several.
pub struct Short {
    bytes: [u8; 64],
    length: usize,
}

impl Short {
    /// The text of a value. The longest value is an IPv6 address with a scope and a port:
    /// 58 bytes.
    pub fn of(value: impl Text) -> Short {
        let mut text = Short::default();
        value.write(&mut text);
        text
    }

    /// How many bytes it has.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True where it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl Default for Short {
    fn default() -> Short {
        Short { bytes: [0; 64], length: 0 }
    }
}

impl Room for Short {
    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        }
    }
}

impl AsRef<[u8]> for Short {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl std::ops::Deref for Short {
    type Target = str;

    fn deref(&self) -> &str {
        std::str::from_utf8(self.as_ref()).unwrap_or_default()
    }
}

/// Appends `number` with a decimal point before its last `DIGITS` digits.
fn decimal<const DIGITS: usize>(mut number: u64, out: &mut impl Room) {
    let mut fraction = [0; DIGITS];
    for digit in fraction.iter_mut().rev() {
        // The remainder is below 10, so it is one digit.
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
    number.write(out);
    out.put(b".");
    out.put(&fraction);
}

/// A number of bytes: the exact count and, from 1024 on, a readable form: `340B`,
/// `2048(2.0K)`, `1258291(1.2M)`. The exact count comes first, so awk's `$7+0` reads it.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl Text for Size {
    fn write(&self, out: &mut impl Room) {
        self.0.write(out);
        if self.0 < 1024 {
            return out.put(b"B");
        }
        out.put(b"(");
        readable(self.0, out);
        out.put(b")");
    }
}

/// Bytes per second: `0B/s`, `512B/s`, `1.5KB/s`, `1.2MB/s`.
#[derive(Clone, Copy, Debug)]
pub struct Rate(pub f64);

impl Text for Rate {
    fn write(&self, out: &mut impl Room) {
        let rate = whole(self.0);
        if rate < 1024 {
            rate.write(out);
        } else {
            readable(rate, out);
        }
        out.put(b"B/s");
    }
}

/// A number of bytes without the exact count where that is longer: `340B`, `2.0K`, `1.2M`.
#[derive(Clone, Copy, Debug)]
pub struct Brief(pub u64);

impl Text for Brief {
    fn write(&self, out: &mut impl Room) {
        if self.0 < 1024 { Size(self.0).write(out) } else { readable(self.0, out) }
    }
}

/// Bytes per second as bits per second, in powers of 1000: `0b/s`, `512b/s`, `1.5Kb/s`,
/// `12.0Mb/s`.
#[derive(Clone, Copy, Debug)]
pub struct Bits(pub f64);

impl Bits {
    /// Bits per second, rounded.
    pub fn whole(self) -> u64 {
        whole(self.0 * 8.0)
    }
}

impl Text for Bits {
    fn write(&self, out: &mut impl Room) {
        let bits = self.whole();
        if bits < 1000 {
            bits.write(out);
            return out.put(b"b/s");
        }
        // Tenths of the unit, rounded; 999,950 bits are 1.0Mb.
        let mut tenths = bits.saturating_add(50) / 100;
        let mut unit = 0;
        while tenths >= 10_000 && unit + 1 < UNITS.len() {
            tenths = (tenths + 500) / 1000;
            unit += 1;
        }
        decimal::<1>(tenths, out);
        out.put(&UNITS[unit..=unit]);
        out.put(b"b/s");
    }
}

/// The letters of the powers of 1000 or 1024.
const UNITS: &[u8] = b"KMGTPE";

/// A rate as a plain number of bytes per second, rounded.
pub fn whole(rate: f64) -> u64 {
    // `as` saturates: negative numbers and NaN become 0.
    rate.round() as u64
}

/// A rate in bytes per second with two decimals: `1536.46`.
#[derive(Clone, Copy, Debug)]
pub struct Cents(pub f64);

impl Cents {
    /// Hundredths of a byte per second, rounded.
    pub fn whole(self) -> u64 {
        whole(self.0 * 100.0)
    }
}

impl Text for Cents {
    fn write(&self, out: &mut impl Room) {
        decimal::<2>(self.whole(), out);
    }
}

/// Appends `bytes`, at least 1024, in the largest unit of which it is 1 or more: `1.2M`.
/// Halves of a tenth are rounded up, and the unit is chosen for the rounded value: what is
/// nearer to 1024.0 KiB than to 1023.9 is 1.0 MiB.
fn readable(bytes: u64, out: &mut impl Room) {
    let tenths_of = |unit: usize| {
        // The unit is 1024^(unit + 1). Half a unit is added before the division.
        let shift = 10 * (unit + 1);
        ((u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift) as u64
    };
    let mut unit = (bytes.ilog2() / 10).saturating_sub(1) as usize;
    let mut tenths = tenths_of(unit);
    if tenths == 10_240 && unit + 1 < UNITS.len() {
        (unit, tenths) = (unit + 1, 10);
    }
    decimal::<1>(tenths, out);
    out.put(&UNITS[unit..=unit]);
}

/// A round-trip time in microseconds: `87us`, `5.0ms`, `1.2s`; `-` for none.
#[derive(Clone, Copy, Debug)]
pub struct Rtt(pub Option<u64>);

impl Text for Rtt {
    fn write(&self, out: &mut impl Room) {
        let Some(us) = self.0 else { return out.put(b"-") };
        if us < 1000 {
            us.write(out);
            return out.put(b"us");
        }
        // The unit is chosen for the rounded value: 999,960 us are 1.0s.
        let tenths_ms = us.saturating_add(50) / 100;
        let (tenths, unit) = match tenths_ms {
            0..10_000 => (tenths_ms, "ms"),
            _ => (us.saturating_add(50_000) / 100_000, "s"),
        };
        decimal::<1>(tenths, out);
        unit.write(out);
    }
}

/// A plain number; `-` for none.
#[derive(Clone, Copy, Debug)]
pub struct OrDash<T>(pub Option<T>);

impl<T: Text> Text for OrDash<T> {
    fn write(&self, out: &mut impl Room) {
        match &self.0 {
            Some(value) => value.write(out),
            None => out.put(b"-"),
        }
    }
}

/// How long a connection lasted, in nanoseconds. It is always written in seconds with
/// three decimals, so that awk and sort need not look at the unit: `0.850s`,
/// `7325.012s`; `-` where it is not known.
#[derive(Clone, Copy, Debug)]
pub struct Age(pub Option<u64>);

impl Text for Age {
    fn write(&self, out: &mut impl Room) {
        let Some(ns) = self.0 else { return out.put(b"-") };
        let ms = ns / 1_000_000 + u64::from(ns % 1_000_000 >= 500_000);
        decimal::<3>(ms, out);
        out.put(b"s");
    }
}

/// The same for machines: seconds with six decimals and no unit, `0.000312`; `-` where
/// it is not known.
#[derive(Clone, Copy, Debug)]
pub struct RawAge(pub Option<u64>);

impl Text for RawAge {
    fn write(&self, out: &mut impl Room) {
        let Some(ns) = self.0 else { return out.put(b"-") };
        let us = ns / 1000 + u64::from(ns % 1000 >= 500);
        decimal::<6>(us, out);
    }
}

/// An address without its port; a scope follows as in `fe80::1%2`.
#[derive(Clone, Copy, Debug)]
pub struct Host<'a>(pub &'a SocketAddr);

impl Text for Host<'_> {
    fn write(&self, out: &mut impl Room) {
        match self.0.ip() {
            IpAddr::V4(address) => four(address, out),
            IpAddr::V6(address) => six(&address, out),
        }
        match self.0 {
            SocketAddr::V6(address) if address.scope_id() != 0 => {
                out.put(b"%");
                address.scope_id().write(out);
            }
            _ => {}
        }
    }
}

/// Each octet in decimal digits with a point after it, and how many bytes that are.
const OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([b'.'; 4], 0); 256];
    let mut octet = 0;
    while octet < octets.len() {
        let digits = [octet / 100, octet / 10 % 10, octet % 10];
        let (text, length) = &mut octets[octet];
        let mut at = (octet < 10) as usize + (octet < 100) as usize;
        while at < digits.len() {
            text[*length as usize] = b'0' + digits[at] as u8;
            *length += 1;
            at += 1;
        }
        *length += 1;
        octet += 1;
    }
    octets
};

/// Appends an IPv4 address.
fn four(address: Ipv4Addr, out: &mut impl Room) {
    let [octets @ .., last] = address.octets();
    for octet in octets {
        let (text, length) = OCTETS[usize::from(octet)];
        out.put_some(text, length.into());
    }
    let (text, length) = OCTETS[usize::from(last)];
    out.put_some(text, usize::from(length) - 1);
}

/// As the standard library writes it: `10.0.0.1:443`, `[fe80::1%2]:443`.
impl Text for SocketAddr {
    fn write(&self, out: &mut impl Room) {
        if self.is_ipv6() {
            out.put(b"[");
        }
        Host(self).write(out);
        out.put(if self.is_ipv6() { b"]:" } else { b":" });
        self.port().write(out);
    }
}

/// In hexadecimal digits: `1c5f-9f3c01de`.
impl Text for Identity {
    fn write(&self, out: &mut impl Room) {
        hexadecimal(self.cookie, out);
        out.put(b"-");
        hexadecimal(self.part, out);
    }
}

const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";

/// Appends `number` in lower-case hexadecimal digits, without leading zeros.
fn hexadecimal(mut number: u64, out: &mut impl Room) {
    let mut digits = [0; 16];
    let mut begin = digits.len();
    loop {
        begin -= 1;
        digits[begin] = HEXADECIMAL[(number % 16) as usize];
        number /= 16;
        if number == 0 {
            return out.put(&digits[begin..]);
        }
    }
}

/// Appends an IPv6 address as RFC 5952 says: `::` stands for the longest run of at least two
/// groups of zeros, the first one where several are as long.
fn six(address: &Ipv6Addr, out: &mut impl Room) {
    if let Some(address) = address.to_ipv4_mapped() {
        out.put(b"::ffff:");
        return four(address, out);
    }
    let groups = address.segments();
    let (mut zeros, mut begin) = (0..0, 0);
    for (at, group) in groups.iter().enumerate() {
        if *group != 0 {
            begin = at + 1;
        } else if at + 1 - begin > zeros.len().max(1) {
            zeros = begin..at + 1;
        }
    }
    for (at, group) in groups.iter().enumerate() {
        if !zeros.is_empty() && at == zeros.start {
            out.put(b"::");
        } else if !zeros.contains(&at) {
            if at > 0 && at != zeros.end {
                out.put(b":");
            }
            let digits = [12, 8, 4, 0].map(|shift| HEXADECIMAL[usize::from(group >> shift & 15)]);
            let leading = (group.leading_zeros() / 4).min(3);
            let text = u32::from_be_bytes(digits) << (8 * leading);
            out.put_some(text.to_be_bytes(), 4 - leading as usize);
        }
    }
}

/// A process name as one field of a line. Characters that would split the field, move
/// the cursor or be invisible become `_`, bytes that are not UTF-8 become U+FFFD, and
/// an empty name becomes `-`.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a>(pub Option<&'a KernelName>);

impl Text for Name<'_> {
    fn write(&self, out: &mut impl Room) {
        Field(self.0.map_or(&b""[..], KernelName::as_bytes)).write(out);
    }
}

/// Text that comes from the host as one field of a line, changed as for [`Name`].
#[derive(Clone, Copy, Debug)]
pub struct Field<'a>(pub &'a [u8]);

impl Text for Field<'_> {
    fn write(&self, out: &mut impl Room) {
        let bytes = self.0;
        if bytes.is_empty() {
            return out.put(b"-");
        }
        if bytes.iter().all(u8::is_ascii_graphic) {
            return out.put(bytes);
        }
        let mut put = |character: char| out.put(character.encode_utf8(&mut [0; 4]).as_bytes());
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                put(if unfit(character) { '_' } else { character });
            }
            if !chunk.invalid().is_empty() {
                put(char::REPLACEMENT_CHARACTER);
            }
        }
    }
}

/// True for the characters that must not appear in a field: blanks, control characters,
/// format characters (such as those for bidirectional text) and those of width 0.
fn unfit(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_graphic();
    }
    character.is_whitespace()
        || character.is_control()
        || character.general_category() == GeneralCategory::Format
        || matches!(character.width(), None | Some(0))
        // The filler before a Hangul vowel and the empty pattern of Braille are drawn as
        // blanks, although Unicode calls them a letter and a symbol and gives them a width.
        || matches!(character, '\u{115f}' | '\u{2800}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ops::RangeInclusive;

    fn spelt(value: impl Text) -> String {
        let mut out = Vec::new();
        value.write(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn name(bytes: &[u8]) -> String {
        let mut comm = [0; 16];
        comm[..bytes.len()].copy_from_slice(bytes);
        spelt(Name(Some(&KernelName::from_comm(comm))))
    }

    #[test]
    fn bits_are_in_powers_of_1000() {
        for (bytes, expected) in [
            (0.0, "0b/s"),
            (64.0, "512b/s"),
            (124.9, "999b/s"),
            (125.0, "1.0Kb/s"),
            (187.5, "1.5Kb/s"),
            (124_993.0, "999.9Kb/s"),
            (124_994.0, "1.0Mb/s"),
            (1_500_000.0, "12.0Mb/s"),
            (12.5e9, "100.0Gb/s"),
            (-1.0, "0b/s"),
            (f64::NAN, "0b/s"),
            (f64::INFINITY, "18.4Eb/s"),
        ] {
            assert_eq!(&*Short::of(Bits(bytes)), expected, "{bytes}");
        }
    }

    #[test]
    fn brief_sizes_have_one_number() {
        for (bytes, expected) in [(0, "0B"), (1023, "1023B"), (1024, "1.0K"), (1_258_291, "1.2M")] {
            assert_eq!(&*Short::of(Brief(bytes)), expected);
        }
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (340, "340B"),
            (1023, "1023B"),
            (1024, "1024(1.0K)"),
            (1280, "1280(1.3K)"),
            (1792, "1792(1.8K)"),
            (2048, "2048(2.0K)"),
            (1_048_524, "1048524(1023.9K)"),
            (1_048_525, "1048525(1.0M)"),
            (1_048_576, "1048576(1.0M)"),
            (1_258_291, "1258291(1.2M)"),
            (1 << 30, "1073741824(1.0G)"),
            (1 << 40, "1099511627776(1.0T)"),
            (1 << 50, "1125899906842624(1.0P)"),
            (u64::MAX, "18446744073709551615(16.0E)"),
        ] {
            assert_eq!(spelt(Size(bytes)), text);
        }
    }

    #[test]
    fn rates() {
        for (rate, text) in [
            (0.0, "0B/s"),
            (0.4, "0B/s"),
            (512.0, "512B/s"),
            (1023.4, "1023B/s"),
            (1023.5, "1.0KB/s"),
            (1536.0, "1.5KB/s"),
            (1023.96 * 1024.0, "1.0MB/s"),
            (1_258_291.2, "1.2MB/s"),
            (12.5e9, "11.6GB/s"),
            (f64::NAN, "0B/s"),
            (-1.0, "0B/s"),
        ] {
            assert_eq!(spelt(Rate(rate)), text);
        }
    }

    #[test]
    fn round_trip_times() {
        for (us, text) in [
            (0, "0us"),
            (87, "87us"),
            (999, "999us"),
            (1000, "1.0ms"),
            (5000, "5.0ms"),
            (999_949, "999.9ms"),
            (999_950, "1.0s"),
            (1_200_000, "1.2s"),
            (u32::MAX.into(), "4295.0s"),
        ] {
            assert_eq!(spelt(Rtt(Some(us))), text);
        }
        assert_eq!(spelt(Rtt(None)), "-");
        assert_eq!(spelt(OrDash(Some(87u32))), "87");
        assert_eq!(spelt(OrDash(None::<u32>)), "-");
    }

    #[test]
    fn ages() {
        for (ns, text, raw) in [
            (0, "0.000s", "0.000000"),
            (312_499, "0.000s", "0.000312"),
            (849_999_600, "0.850s", "0.850000"),
            (999_999_999, "1.000s", "1.000000"),
            (7_325_012_000_000, "7325.012s", "7325.012000"),
            (u64::MAX, "18446744073.710s", "18446744073.709552"),
        ] {
            assert_eq!(spelt(Age(Some(ns))), text);
            assert_eq!(spelt(RawAge(Some(ns))), raw);
        }
        assert_eq!(spelt(Age(None)), "-");
        assert_eq!(spelt(RawAge(None)), "-");
    }

    #[test]
    fn names_are_one_harmless_field() {
        assert_eq!(spelt(Name(None)), "-");
        for (bytes, text) in [
            ("", "-"),
            ("curl", "curl"),
            ("a b\tc\n", "a_b_c_"),
            ("   ", "___"),
            ("\x1b[31mred\x7f", "_[31mred_"),
            ("100% \"q\" 'x'", "100%_\"q\"_'x'"),
            ("a\u{a0}b\u{3000}", "a_b_"),
            ("\u{202e}gpj.exe", "_gpj.exe"),
            ("a\u{200b}b\u{feff}", "a_b_"),
            ("e\u{301}", "e_"),
            ("\u{85}\u{2028}\u{ad}", "___"),
            ("\u{600}\u{2800}\u{3164}", "___"),
            ("日本語", "日本語"),
            ("naïve-é", "naïve-é"),
        ] {
            assert_eq!(name(text_bytes(bytes)), text, "{bytes:?}");
        }
        assert_eq!(name(b"a\xff\xfeb"), "a\u{fffd}\u{fffd}b");
        assert_eq!(name(b"cut \xe6\x97"), "cut_\u{fffd}");
    }

    fn text_bytes(text: &str) -> &[u8] {
        text.as_bytes()
    }

    /// Format characters (general category Cf) and characters that are drawn as blanks,
    /// copied from the tables of Unicode 16.
    const NOT_SEEN: [RangeInclusive<char>; 23] = [
        '\u{ad}'..='\u{ad}',
        '\u{600}'..='\u{605}',
        '\u{61c}'..='\u{61c}',
        '\u{6dd}'..='\u{6dd}',
        '\u{70f}'..='\u{70f}',
        '\u{890}'..='\u{891}',
        '\u{8e2}'..='\u{8e2}',
        '\u{115f}'..='\u{1160}',
        '\u{180e}'..='\u{180e}',
        '\u{200b}'..='\u{200f}',
        '\u{202a}'..='\u{202e}',
        '\u{2060}'..='\u{206f}',
        '\u{2800}'..='\u{2800}',
        '\u{3164}'..='\u{3164}',
        '\u{feff}'..='\u{feff}',
        '\u{ffa0}'..='\u{ffa0}',
        '\u{fff9}'..='\u{fffb}',
        '\u{110bd}'..='\u{110bd}',
        '\u{110cd}'..='\u{110cd}',
        '\u{13430}'..='\u{1343f}',
        '\u{1bca0}'..='\u{1bca3}',
        '\u{1d173}'..='\u{1d17a}',
        '\u{e0000}'..='\u{e007f}',
    ];

    #[test]
    fn of_all_characters_only_what_is_seen_reaches_a_line() {
        for character in '\0'..=char::MAX {
            let kept = !unfit(character);
            let code_point = || format!("U+{:04X}", character as u32);
            let width = character.width().unwrap_or(0);
            let blank = character.is_whitespace() || character.is_control();
            let listed = NOT_SEEN.iter().any(|range| range.contains(&character));
            if blank || width == 0 || listed {
                assert!(!kept, "{}", code_point());
            } else if character.is_alphanumeric() || character.is_ascii() {
                assert!(kept, "{}", code_point());
            }
        }
    }

    /// humansize chooses the unit before it rounds, so it is given a number that is rounded
    /// to a tenth already, and a part of a tenth that it rounds away again.
    fn of_humansize(bytes: u64) -> String {
        let options = humansize::BINARY.decimal_places(1).decimal_zeroes(1);
        let unit = 1u64 << (bytes.ilog2() / 10 * 10);
        let tenths = (u128::from(bytes) * 20 + u128::from(unit)) / u128::from(2 * unit);
        let rounded = (tenths as f64 + 0.3) / 10.0 * unit as f64;
        let text = humansize::ISizeFormatter::new(rounded, options).to_string();
        text.replace(' ', "").replace("iB", "")
    }

    /// Around every number at which the readable form changes.
    #[test]
    fn sizes_are_those_of_humansize() {
        for shift in [10, 20, 30, 40, 50, 60] {
            let most = if shift == 60 { 159 } else { 10_240 };
            for tenth in 10u128..=most {
                let change = ((2 * tenth + 1) << shift) / 20;
                for bytes in change - 2..=change + 2 {
                    let bytes = u64::try_from(bytes).unwrap();
                    let expected = format!("{bytes}({})", of_humansize(bytes));
                    assert_eq!(spelt(Size(bytes)), expected);
                }
            }
        }
    }

    /// Every octet, every number of digits of a group, and every pattern of groups of zeros,
    /// IPv4-mapped addresses among them.
    #[test]
    fn an_address_is_spelt_as_the_standard_library_does() {
        let check = |address: SocketAddr| assert_eq!(spelt(address), address.to_string());
        for octet in 0..=u8::MAX {
            check(([octet, 255 - octet, octet / 2, octet], octet.into()).into());
        }
        for pattern in 0..=u8::MAX {
            for group in [1, 0x20, 0x300, 0x4000, 0xffff, 0xabcd] {
                let of_bit = |bit| if pattern >> bit & 1 == 1 { group } else { 0u16 };
                let groups: [u16; 8] = std::array::from_fn(of_bit);
                let scope = group / 2;
                check(std::net::SocketAddrV6::new(groups.into(), group, 0, scope.into()).into());
            }
        }
        check("[::ffff:192.0.2.255]:1".parse().unwrap());
    }

    proptest! {
        #[test]
        fn a_name_is_one_field_of_visible_characters(comm: [u8; 16]) {
            let text = spelt(Name(Some(&KernelName::from_comm(comm))));
            prop_assert_eq!(text.split_whitespace().count(), 1);
            prop_assert!(text.chars().all(|c| c.width().is_some_and(|width| width > 0)));
        }

        #[test]
        fn a_size_begins_with_the_exact_count(bytes: u64) {
            let text = spelt(Size(bytes));
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            prop_assert_eq!(text[..digits].parse(), Ok(bytes));
            prop_assert!(!text.contains("1024."));
        }

        /// Also tries numbers near the bounds, where a tenth is rounded and the unit changes.
        #[test]
        fn a_readable_size_is_the_exact_quotient_rounded(
            unit in 1u32..7, tenth in 10u64..=10_240, offset in -2i64..=2, any: u64,
        ) {
            let near = ((u128::from(tenth) * 2 + 1) << (10 * unit)) / 20;
            let near = u64::try_from(near).unwrap_or(any).saturating_add_signed(offset);
            for bytes in [near, any] {
                prop_assume!(bytes >= 1024);
                let unit_of = |(tenths, _): &(u128, char)| *tenths < 10_240;
                let quotients = (1u32..).zip("KMGTPE".chars()).map(|(power, unit)| {
                    let size = 1024u128.pow(power);
                    // Halves are rounded up.
                    ((u128::from(bytes) * 20 + size) / (size * 2), unit)
                });
                let (tenths, unit) = quotients.clone().find(unit_of).or(quotients.last()).unwrap();
                let expected = format!("{bytes}({}.{}{unit})", tenths / 10, tenths % 10);
                prop_assert_eq!(spelt(Size(bytes)), expected);
            }
        }

        #[test]
        fn a_readable_size_is_within_half_a_tenth(bytes in 1024u64..1 << 60) {
            let text = spelt(Size(bytes));
            let readable = text.split(['(', ')']).nth(1).unwrap_or_default();
            let (number, unit) = readable.split_at(readable.len() - 1);
            let power = "KMGTPE".find(unit).unwrap_or_default() as i32 + 1;
            let scaled = bytes as f64 / 1024f64.powi(power);
            let shown: f64 = number.parse().unwrap_or(f64::NAN);
            prop_assert!((shown - scaled).abs() <= 0.0500001, "{}", text);
        }
    }
}
