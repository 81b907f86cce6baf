//! How single values look in lines: sizes, rates, times and names.
//!
//! Owns the spelling of one value; knows nothing of columns, rows or files.
//! Everything is a [`Display`](fmt::Display) that allocates nothing, so that a
//! row is formatted straight into the buffer of its interval.
//!
//! Own code instead of a crate: what formats sizes elsewhere rounds after it
//! chose the unit and prints `1024.0K` where `1.0M` is meant.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use unicode_width::UnicodeWidthChar;

use crate::connection::ProcessName;

/// Appends `value` to `out`.
pub fn push(out: &mut Vec<u8>, value: impl fmt::Display) {
    // Only memory is written to, which cannot fail.
    let _ = write!(out, "{value}");
}

/// A number of bytes: exact, and readable from 1024 on: `340B`, `2048(2.0K)`,
/// `1258291(1.2M)`. The exact count comes first, so awk's `$7+0` is it.
#[derive(Clone, Copy, Debug)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match scale(self.0) {
            None => write!(f, "{}B", self.0),
            Some((tenths, unit)) => {
                write!(f, "{}({}.{}{unit})", self.0, tenths / 10, tenths % 10)
            }
        }
    }
}

/// Bytes per second: `0B/s`, `512B/s`, `1.5KB/s`, `1.2MB/s`.
#[derive(Clone, Copy, Debug)]
pub struct Rate(pub f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = whole(self.0);
        match scale(rate) {
            None => write!(f, "{rate}B/s"),
            Some((tenths, unit)) => write!(f, "{}.{}{unit}B/s", tenths / 10, tenths % 10),
        }
    }
}

/// A rate as a plain number of bytes per second, rounded.
pub fn whole(rate: f64) -> u64 {
    // `as` saturates: nothing negative, and no NaN, is left.
    rate.round() as u64
}

/// `bytes` in tenths of the largest unit (powers of 1024) that keeps it at or
/// above 1; `None` below 1024. Decides on the rounded value: 1023.96K is 1.0M.
fn scale(bytes: u64) -> Option<(u64, char)> {
    if bytes < 1024 {
        return None;
    }
    let mut scaled = (0, 'K');
    for (step, unit) in (1..).zip("KMGTPE".chars()) {
        // Half a unit is added for rounding; up to 11.5E in tenths fits.
        let shift = 10 * step;
        let tenths = ((u128::from(bytes) * 10 + (1 << (shift - 1))) >> shift) as u64;
        scaled = (tenths, unit);
        if tenths < 10 * 1024 {
            break;
        }
    }
    Some(scaled)
}

/// A round-trip time in microseconds: `87us`, `5.0ms`, `1.2s`; `-` for none.
#[derive(Clone, Copy, Debug)]
pub struct Rtt(pub Option<u32>);

impl fmt::Display for Rtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(us) = self.0 else { return f.write_char('-') };
        if us < 1000 {
            return write!(f, "{us}us");
        }
        // Decided on the rounded value, as above: 999,960 us are 1.0s.
        let tenths_ms = (u64::from(us) + 50) / 100;
        let (tenths, unit) = match tenths_ms {
            0..10_000 => (tenths_ms, "ms"),
            _ => ((u64::from(us) + 50_000) / 100_000, "s"),
        };
        write!(f, "{}.{}{unit}", tenths / 10, tenths % 10)
    }
}

/// A round-trip time as a plain number of microseconds; `-` for none.
#[derive(Clone, Copy, Debug)]
pub struct RawRtt(pub Option<u32>);

impl fmt::Display for RawRtt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(us) => write!(f, "{us}"),
            None => f.write_char('-'),
        }
    }
}

/// How long a connection lasted, in nanoseconds: always seconds, with
/// milliseconds, so that awk's `+0` and a sort need no unit: `0.850s`,
/// `7325.012s`; `-` where it is not known.
#[derive(Clone, Copy, Debug)]
pub struct Age(pub Option<u64>);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ns) = self.0 else { return f.write_char('-') };
        let ms = ns / 1_000_000 + u64::from(ns % 1_000_000 >= 500_000);
        write!(f, "{}.{:03}s", ms / 1000, ms % 1000)
    }
}

/// The same for machines: seconds with microseconds and no unit, `0.000312`;
/// `-` where it is not known.
#[derive(Clone, Copy, Debug)]
pub struct RawAge(pub Option<u64>);

impl fmt::Display for RawAge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ns) = self.0 else { return f.write_char('-') };
        let us = ns / 1000 + u64::from(ns % 1000 >= 500);
        write!(f, "{}.{:06}", us / 1_000_000, us % 1_000_000)
    }
}

/// A process name as one field of a line: what would split it, move the cursor
/// or hide becomes `_`, what is not UTF-8 becomes U+FFFD, and no name is `-`.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a>(pub Option<&'a ProcessName>);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map_or(&b""[..], ProcessName::as_bytes);
        if bytes.is_empty() {
            return f.write_char('-');
        }
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                f.write_char(if unfit(character) { '_' } else { character })?;
            }
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

/// True for what must not reach a line: blanks, control and format characters
/// (bidirectional ones among them) and whatever takes no room.
fn unfit(character: char) -> bool {
    if character.is_ascii() {
        return !character.is_ascii_graphic();
    }
    character.is_whitespace()
        || character.is_control()
        || matches!(character.width(), None | Some(0))
        || matches!(character,
            // General category Cf where it has a width, and what is drawn as a blank.
            '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
            | '\u{890}' | '\u{891}' | '\u{8e2}' | '\u{115f}' | '\u{1160}' | '\u{180e}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{2800}' | '\u{3164}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(bytes: &[u8]) -> String {
        let mut comm = [0; 16];
        comm[..bytes.len()].copy_from_slice(bytes);
        Name(Some(&ProcessName::from_comm(comm))).to_string()
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0B"),
            (1, "1B"),
            (340, "340B"),
            (1023, "1023B"),
            (1024, "1024(1.0K)"),
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
            assert_eq!(Size(bytes).to_string(), text);
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
            assert_eq!(Rate(rate).to_string(), text);
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
            (u32::MAX, "4295.0s"),
        ] {
            assert_eq!(Rtt(Some(us)).to_string(), text);
        }
        assert_eq!(Rtt(None).to_string(), "-");
        assert_eq!(RawRtt(Some(87)).to_string(), "87");
        assert_eq!(RawRtt(None).to_string(), "-");
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
            assert_eq!(Age(Some(ns)).to_string(), text);
            assert_eq!(RawAge(Some(ns)).to_string(), raw);
        }
        assert_eq!(Age(None).to_string(), "-");
        assert_eq!(RawAge(None).to_string(), "-");
    }

    #[test]
    fn names_are_one_harmless_field() {
        assert_eq!(Name(None).to_string(), "-");
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

    proptest! {
        #[test]
        fn a_name_is_one_field_of_visible_characters(comm: [u8; 16]) {
            let text = Name(Some(&ProcessName::from_comm(comm))).to_string();
            prop_assert_eq!(text.split_whitespace().count(), 1);
            prop_assert!(text.chars().all(|c| c.width().is_some_and(|width| width > 0)));
        }

        #[test]
        fn a_size_begins_with_the_exact_count(bytes: u64) {
            let text = Size(bytes).to_string();
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            prop_assert_eq!(text[..digits].parse(), Ok(bytes));
            prop_assert!(!text.contains("1024."));
        }

        #[test]
        fn a_readable_size_is_within_half_a_tenth(bytes in 1024u64..1 << 60) {
            let text = Size(bytes).to_string();
            let readable = text.split(['(', ')']).nth(1).unwrap_or_default();
            let (number, unit) = readable.split_at(readable.len() - 1);
            let power = "KMGTPE".find(unit).unwrap_or_default() as i32 + 1;
            let scaled = bytes as f64 / 1024f64.powi(power);
            let told: f64 = number.parse().unwrap_or(f64::NAN);
            prop_assert!((told - scaled).abs() <= 0.0500001, "{}", text);
        }
    }
}
