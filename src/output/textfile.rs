//! The groups for Prometheus: a file for the textfile collector of its node exporter.
//!
//! Owns the text (the exposition format, version 0.0.4) and the way it gets into the file:
//! whole or not at all. It is written beside the file, under another name, and then takes
//! its place. Counters only grow, and start at zero again where a group was forgotten and
//! comes back; Prometheus knows how to read that.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::NamedTempFile;

use super::release;
use crate::groups::{Group, KeyValue, OTHER};
use crate::loss::{Loss, LossCause};

/// Calls the function with the path, or with another one to the same file that nobody can turn
/// elsewhere meanwhile.
pub type Within = fn(&Path, &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()>;

/// The file of `--textfile`.
pub struct Textfile {
    path: PathBuf,
    within: Within,
    /// The names of the keys, which are the names of the labels.
    keys: Vec<String>,
    text: String,
    /// All losses since the start.
    lost: Loss,
}

/// A metric: its name without the prefix, type, help and value.
type Metric = (&'static str, &'static str, &'static str, fn(&Group) -> Option<f64>);

const METRICS: [Metric; 10] = [
    ("connections", "gauge", "Connections and flows that are open.", |of| {
        Some(of.connections as f64)
    }),
    ("opened_total", "counter", "Connections and flows that began.", |of| {
        Some(of.totals.opened as f64)
    }),
    ("closed_total", "counter", "Connections and flows that ended.", |of| {
        Some(of.totals.closed as f64)
    }),
    ("failed_total", "counter", "Connections that were refused, reset or not answered.", |of| {
        Some(of.totals.failed as f64)
    }),
    ("bytes_in_total", "counter", "Payload received.", |of| {
        Some(of.totals.counters.bytes_in as f64)
    }),
    ("bytes_out_total", "counter", "Payload sent.", |of| Some(of.totals.counters.bytes_out as f64)),
    ("packets_in_total", "counter", "Segments and datagrams received.", |of| {
        Some(of.totals.counters.packets_in as f64)
    }),
    ("packets_out_total", "counter", "Segments and datagrams sent.", |of| {
        Some(of.totals.counters.packets_out as f64)
    }),
    ("retrans_total", "counter", "Segments that were sent again.", |of| {
        Some(of.totals.retransmits as f64)
    }),
    ("rtt_seconds", "gauge", "Median round-trip time of what moved in the interval.", |of| {
        of.rtt_us.map(|us| f64::from(us) / 1e6)
    }),
];

impl Textfile {
    /// The file at `path`, with a label for each of `keys`. It is made and replaced `within`.
    ///
    /// # Errors
    /// Where no file can be made beside it.
    pub fn new(path: &Path, keys: &[String], within: Within) -> Result<Textfile> {
        let failed = || format!("failed to write {}", path.display());
        within(path, &mut |path| beside(path).map(drop).map_err(nameless)).with_context(failed)?;
        if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_file()) {
            anyhow::bail!("{} is not a regular file; choose another name", path.display());
        }
        let (path, keys) = (path.to_owned(), keys.to_vec());
        Ok(Textfile { path, within, keys, text: String::new(), lost: Loss::default() })
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// Errors of writing it; the old file is still there then.
    pub fn write<'g>(
        &mut self,
        groups: impl Iterator<Item = &'g Group> + Clone,
        lost: &Loss,
    ) -> io::Result<()> {
        self.lost += lost;
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        self.put(groups, &mut text);
        let written =
            (self.within)(&self.path, &mut |path| replace(path, text.as_bytes()).map_err(nameless));
        written.map_err(|error| {
            let path = self.path.display();
            io::Error::new(error.kind(), format!("failed to write {path}: {error}"))
        })?;
        let mut bytes = text.into_bytes();
        release(&mut bytes);
        self.text = String::from_utf8(bytes).unwrap_or_default();
        Ok(())
    }

    fn put<'g>(&self, groups: impl Iterator<Item = &'g Group> + Clone, text: &mut String) {
        for (name, kind, help, value) in METRICS {
            // Only memory is written to, which cannot fail.
            let _ = writeln!(text, "# HELP tcptop_{name} {help}\n# TYPE tcptop_{name} {kind}");
            for group in groups.clone() {
                let Some(value) = value(group) else { continue };
                let _ = write!(text, "tcptop_{name}");
                self.labels(group, text);
                let _ = writeln!(text, " {value}");
            }
        }
        text.push_str("# HELP tcptop_lost_total What tcptop could not count, by cause.\n");
        text.push_str("# TYPE tcptop_lost_total counter\n");
        for cause in LossCause::ALL {
            let lost = self.lost[cause];
            let _ = writeln!(text, "tcptop_lost_total{{cause=\"{}\"}} {lost}", cause.name());
        }
    }

    fn labels(&self, group: &Group, text: &mut String) {
        let mut mark = '{';
        for (position, name) in self.keys.iter().enumerate() {
            let _ = write!(text, "{mark}{name}=\"");
            match group.key.as_ref().map(|key| key.get(position)) {
                None => text.push_str(OTHER),
                // An empty label is the same as none.
                Some(None | Some(KeyValue::None)) => {}
                Some(Some(KeyValue::Text(value))) => escape(value, text),
                Some(Some(KeyValue::Number(number))) => {
                    let _ = write!(text, "{number}");
                }
            }
            text.push('"');
            mark = ',';
        }
        text.push('}');
    }
}

/// A new file in the same directory, with a name that the collector does not read.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    let file = builder.prefix(".tcptop-").suffix(".tmp").tempfile_in(directory)?;
    // The exporter is another user, whatever the umask is.
    file.as_file().set_permissions(fs::Permissions::from_mode(0o644))?;
    Ok(file)
}

fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = beside(path)?;
    file.write_all(bytes)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

/// The error without the name of the other file, which nobody has asked for.
fn nameless(error: io::Error) -> io::Error {
    error.kind().into()
}

/// The names of all metrics.
pub fn metrics() -> impl Iterator<Item = String> {
    METRICS
        .iter()
        .map(|(name, ..)| *name)
        .chain(["lost_total"])
        .map(|name| format!("tcptop_{name}"))
}

/// Escapes a label's value.
fn escape(value: &str, text: &mut String) {
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::groups::Totals;

    const WITHIN: Within = |path, write| write(path);

    fn group(process: Option<&str>, bytes_in: u64) -> Group {
        let value = process.map_or(KeyValue::None, |name| KeyValue::Text(name.into()));
        let mut group = Group::default();
        group.key = Some([value, KeyValue::Number(443)].into());
        group.totals = Totals { opened: 2, ..Totals::default() };
        group.totals.counters.bytes_in = bytes_in;
        group
    }

    #[test]
    fn values_are_escaped_and_the_file_is_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tcptop.prom");
        let keys = ["process".to_owned(), "remote_port".to_owned()];
        let mut file = Textfile::new(&path, &keys, WITHIN).unwrap();
        assert!(!path.exists(), "it is there once it is whole");
        let mut other = group(None, 1 << 53);
        other.key = None;
        let groups = [group(Some("a\"b\\c\nd\u{1b}"), 7), group(None, 0), other];
        let mut lost = Loss::default();
        lost[LossCause::RingFull] = 3;
        for _ in 0..2 {
            file.write(groups.iter(), &lost).unwrap();
        }
        let text = fs::read_to_string(&path).unwrap();
        for line in [
            "# TYPE tcptop_bytes_in_total counter",
            "tcptop_bytes_in_total{process=\"a\\\"b\\\\c\\nd\u{1b}\",remote_port=\"443\"} 7",
            "tcptop_opened_total{process=\"\",remote_port=\"443\"} 2",
            "tcptop_bytes_in_total{process=\"(other)\",remote_port=\"(other)\"} 9007199254740992",
            "tcptop_lost_total{cause=\"ring_full\"} 6",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        assert!(!text.contains("rtt_seconds{"), "it is not known");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_bad_path_fails_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing/tcptop.prom");
        let error = Textfile::new(&missing, &[], WITHIN).err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.starts_with("failed to write ")));
        let link = directory.path().join("link.prom");
        std::os::unix::fs::symlink("/etc/passwd", &link).unwrap();
        assert!(Textfile::new(&link, &[], WITHIN).is_err());
    }
}
