//! CSV and JSON on a terminal: characters that a terminal takes as orders, or that turn the
//! text around, do not reach it as they are. A process chooses its own name, and so could
//! otherwise write to the terminal of whoever looks.
//!
//! Only for a terminal: a pipe or a file gets the bytes unchanged.

use std::io::{self, Write};

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// What stands for such a character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// `_`. A newline between double quotes is one of them; one that ends a row is not.
    Blank,
    /// JSON's own `\uXXXX`, which means the same.
    Escape,
}

/// Passes on whole rows, without such characters.
pub struct Tame<W> {
    out: W,
    instead: Instead,
}

impl<W: Write> Tame<W> {
    /// Each call must write whole rows.
    pub fn new(out: W, instead: Instead) -> Tame<W> {
        Tame { out, instead }
    }
}

impl<W: Write> Write for Tame<W> {
    fn write(&mut self, rows: &[u8]) -> io::Result<usize> {
        self.out.write_all(tamed(&String::from_utf8_lossy(rows), self.instead).as_bytes())?;
        Ok(rows.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn tamed(rows: &str, instead: Instead) -> String {
    let mut text = String::with_capacity(rows.len());
    let mut quoted = false;
    for character in rows.chars() {
        quoted ^= character == '"';
        let ends_row = character == '\n' && (instead == Instead::Escape || !quoted);
        if ends_row || !is_wild(character) {
            text.push(character);
        } else if instead == Instead::Blank {
            text.push('_');
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    text
}

/// Control characters (C0, DEL, C1), format characters (those for bidirectional text among
/// them), and Unicode's own ends of lines and paragraphs.
fn is_wild(character: char) -> bool {
    if character.is_ascii() {
        return character.is_ascii_control();
    }
    matches!(
        character.general_category(),
        GeneralCategory::Control
            | GeneralCategory::Format
            | GeneralCategory::LineSeparator
            | GeneralCategory::ParagraphSeparator
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn through(rows: &[u8], instead: Instead) -> String {
        let mut out = Vec::new();
        Tame::new(&mut out, instead).write_all(rows).unwrap();
        String::from_utf8(out).unwrap()
    }

    /// ESC, CSI of C1, DEL, right-to-left override, isolate, and a tag beyond 16 bits.
    const NAME: &str = "a\u{1b}[2J\u{9b}m\u{7f}\u{202e}\u{2066}\u{e0041}é";

    #[test]
    fn csv_keeps_its_rows() {
        let rows = format!("x,\"b\n\r\"\"c\",{NAME}\ny,z\n");
        assert_eq!(through(rows.as_bytes(), Instead::Blank), "x,\"b__\"\"c\",a_[2J_m____é\ny,z\n");
        assert_eq!(through(b"\xff\n", Instead::Blank), "\u{fffd}\n");
    }

    #[test]
    fn json_means_the_same() {
        let plain = serde_json::to_string(NAME).unwrap();
        let tame = through(format!("{plain}\n").as_bytes(), Instead::Escape);
        assert!(tame.trim_end_matches('\n').chars().all(|c| !is_wild(c)), "{tame:?}");
        assert_eq!(serde_json::from_str::<String>(&tame).unwrap(), NAME);
    }

    #[test]
    fn other_text_is_unchanged() {
        let text = "timestamp,ünïcode,\"quoted, text\",漢字\n";
        assert_eq!(through(text.as_bytes(), Instead::Blank), text);
        assert_eq!(through(text.as_bytes(), Instead::Escape), text);
    }
}
