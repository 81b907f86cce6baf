//! The layout of the page's source: short lines, a sentence a line, no macro without effect.
//!
//! Pure: roff in, roff out; the page that is printed stays the same. `mandoc -Tlint` has
//! nothing to say about it (`make check`).

/// The longest line.
const WIDTH: usize = 80;

/// Folds the lines of a page, and leaves out what has no effect.
pub(super) fn tidy(page: &str) -> String {
    let lines: Vec<&str> = page.lines().map(str::trim_end).collect();
    let mut out = String::new();
    let (mut before, mut filled) = (".", true);
    for (at, &line) in lines.iter().enumerate() {
        let after = lines.get(at + 1).copied().unwrap_or_default();
        let idle = match line {
            // An empty line is an .sp.
            ".br" => before.is_empty() || after.is_empty(),
            ".PP" => before.starts_with(".SH") || after.starts_with(".SH"),
            _ => false,
        };
        if idle {
            continue;
        }
        match line {
            ".nf" => filled = false,
            ".fi" => filled = true,
            _ => {}
        }
        if line.starts_with('.') || line.len() <= WIDTH && !filled {
            out.push_str(line);
            out.push('\n');
        } else if filled {
            fold(line, &mut out);
        } else {
            continued(line, &mut out);
        }
        before = line;
    }
    out
}

/// Breaks text that roff fills: after a sentence, and where the line is full.
fn fold(line: &str, out: &mut String) {
    let mut width = 0;
    for word in line.split(' ') {
        let sentence = out.ends_with(['.', '?', '!']) && word.starts_with(char::is_uppercase);
        if width > 0 && (sentence || width + 1 + word.len() > WIDTH) {
            out.push('\n');
            width = 0;
        } else if width > 0 {
            out.push(' ');
            width += 1;
        }
        // At the beginning of a line these two are roff's.
        if width == 0 && word.starts_with(['.', '\'']) {
            out.push_str("\\&");
            width += 2;
        }
        out.push_str(word);
        width += word.len();
    }
    out.push('\n');
}

/// Breaks text whose lines stay as they are: a backslash at the end continues the line.
fn continued(line: &str, out: &mut String) {
    let mut width = 0;
    for word in line.split_inclusive(' ') {
        if width > 0 && width + word.len() + 1 > WIDTH {
            out.push_str("\\\n");
            width = 0;
        }
        out.push_str(word);
        width += word.len();
    }
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_folded() {
        let long = "a word ".repeat(15);
        let folded = tidy(&format!(".SH X\n.PP\n{long}ends with .prom here. Next one\n"));
        assert!(folded.lines().all(|line| line.len() <= WIDTH), "{folded}");
        assert_eq!(folded.lines().next_back(), Some("Next one"));
        assert_eq!(
            folded.replace('\n', " "),
            format!(".SH X {long}ends with .prom here. Next one ")
        );
        assert_eq!(tidy(&format!("{}.prom\n", "x ".repeat(40))).lines().nth(1), Some("\\&.prom"));
    }

    #[test]
    fn lines_that_stay_are_continued() {
        let command = "tcptop | awk ".repeat(10);
        let page = tidy(&format!(".nf\n{command}x\n.fi\n"));
        assert!(page.lines().all(|line| line.len() <= WIDTH), "{page}");
        assert_eq!(page.replace("\\\n", ""), format!(".nf\n{command}x\n.fi\n"));
    }

    #[test]
    fn what_has_no_effect_goes() {
        assert_eq!(tidy("a\n.br\n\n.br\nb\n.br\nc\n"), "a\n\nb\n.br\nc\n");
    }
}
