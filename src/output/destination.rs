//! The file of `--log`: whatever happens to it, it holds whole rows.
//!
//! Owns opening, reopening (logrotate), the header of an empty file, and what
//! to do when a write fails half-way. Knows of CSV only where a row ends.
//!
//! It is always written at its end (`O_APPEND`), so that a file that someone
//! truncates in place (logrotate's `copytruncate`) goes on without a hole.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file that rows are appended to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// False for a pipe or a device, where nothing can be taken back.
    regular: bool,
    /// The first line, with its newline.
    header: &'static str,
    /// True until the first write: the file is opened, and yet untouched.
    untouched: bool,
    /// Where to cut the file before the first write; `None` to keep all.
    cut: Option<u64>,
    repaired: u64,
}

impl LogFile {
    /// Opens `path` and changes nothing in it yet: the first write empties it
    /// or, to `append`, cuts off a last row that is not whole.
    pub(super) fn open(path: &Path, header: &'static str, append: bool) -> io::Result<LogFile> {
        let failed = |error| told(path, "open", error);
        let file = OpenOptions::new().append(true).create(true).open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let regular = meta.is_file();
        let mut log = LogFile {
            path: path.to_owned(),
            file,
            regular,
            header,
            untouched: true,
            cut: None,
            repaired: 0,
        };
        if !regular {
            return Ok(log);
        }
        log.cut = Some(0);
        if append {
            let whole = whole_rows(path, header).map_err(failed)?;
            let Some(whole) = whole else {
                let reason = "it does not begin with the header of this CSV (made by something \
                              else, or with or without --wide); choose another file";
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    format!("cannot append to {}: {reason}", path.display()),
                ));
            };
            log.repaired = meta.len().saturating_sub(whole);
            log.cut = (log.repaired > 0).then_some(whole);
        }
        Ok(log)
    }

    /// Opens the path again, where another program may have put another file
    /// or none, and goes on at its end.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if self.is_in_place() {
            return Ok(());
        }
        let fresh = LogFile::open(&self.path, self.header, true)?;
        *self = fresh;
        self.begin()
    }

    /// How many bytes of an unfinished row are, or were, cut off.
    pub(super) fn repaired(&self) -> u64 {
        self.repaired
    }

    /// Empties or repairs the file and writes the header where it is missing.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.untouched) {
            if let Some(length) = self.cut.take() {
                self.file.set_len(length).map_err(|error| told(&self.path, "write", error))?;
            }
            if !self.regular {
                return self.put(self.header.as_bytes());
            }
        }
        if self.regular && self.length()? == 0 {
            return self.put(self.header.as_bytes());
        }
        Ok(())
    }

    /// Appends whole rows, all of them or as many as fit.
    pub(super) fn write(&mut self, rows: &[u8]) -> io::Result<()> {
        if self.regular && !self.untouched && self.links()? == 0 {
            // Removed: what is written now would be gone without a word.
            return self.reopen().and_then(|()| self.put(rows));
        }
        self.begin()?;
        self.put(rows)
    }

    /// True where the path leads to the file that is open: it need not be
    /// looked through again.
    fn is_in_place(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(there)) => {
                self.regular && (open.dev(), open.ino()) == (there.dev(), there.ino())
            }
            _ => false,
        }
    }

    fn length(&self) -> io::Result<u64> {
        self.file.metadata().map(|meta| meta.len()).map_err(|error| told(&self.path, "read", error))
    }

    fn links(&self) -> io::Result<u64> {
        let meta = self.file.metadata();
        meta.map(|meta| meta.nlink()).map_err(|error| told(&self.path, "read", error))
    }

    fn put(&mut self, rows: &[u8]) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let before = if self.regular { self.length()? } else { 0 };
        let Err((written, error)) = write_all(&mut self.file, rows) else { return Ok(()) };
        let mut note = "";
        // Unless someone else wrote behind what is to be taken back.
        if self.regular && self.length()? == before + written as u64 {
            let whole = last_row_end(&rows[..written]);
            if self.file.set_len(before + whole as u64).is_ok() {
                note = "; it keeps the rows before";
            }
        }
        let error = told(&self.path, "write", error);
        Err(io::Error::new(error.kind(), format!("{error}{note}")))
    }
}

/// Says what failed, and why. A FIFO whose reader left is an error like any
/// other: only the standard output may go away quietly.
fn told(path: &Path, verb: &str, error: io::Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::BrokenPipe => ErrorKind::Other,
        kind => kind,
    };
    io::Error::new(kind, format!("cannot {verb} {}: {error}", path.display()))
}

/// As [`Write::write_all`], but tells how much was written before it failed.
fn write_all(out: &mut impl Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// The length of the whole rows at the beginning of `rows`.
fn last_row_end(rows: &[u8]) -> usize {
    let mut scan = Scan::default();
    scan.feed(rows);
    scan.whole as usize
}

/// Finds row ends: a newline is one unless it stands in quotes (a process may
/// have one in its name).
#[derive(Default)]
struct Scan {
    position: u64,
    whole: u64,
    quoted: bool,
}

impl Scan {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.position += 1;
            match byte {
                b'"' => self.quoted = !self.quoted,
                b'\n' if !self.quoted => self.whole = self.position,
                _ => {}
            }
        }
    }
}

/// How much of the CSV file at `path` is whole rows; `None` where it is not a
/// CSV with this header. A cut header counts as nothing.
fn whole_rows(path: &Path, header: &str) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let mut first = Vec::with_capacity(header.len());
    (&file).take(header.len() as u64).read_to_end(&mut first)?;
    if first.len() < header.len() {
        return Ok(header.as_bytes().starts_with(&first).then_some(0));
    }
    if first != header.as_bytes() {
        return Ok(None);
    }
    let mut scan = Scan::default();
    scan.feed(&first);
    let mut chunk = vec![0; 64 * 1024];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(Some(scan.whole)),
            Ok(count) => scan.feed(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const HEADER: &str = "a,b\n";

    struct Fixture {
        _directory: tempfile::TempDir,
        path: PathBuf,
    }

    fn fixture(content: Option<&str>) -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log.csv");
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        Fixture { _directory: directory, path }
    }

    impl Fixture {
        fn open(&self, append: bool) -> LogFile {
            LogFile::open(&self.path, HEADER, append).unwrap()
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.path).unwrap()
        }
    }

    #[test]
    fn a_file_is_emptied_by_the_first_write_not_by_opening_it() {
        let log = fixture(Some("precious\n"));
        let mut file = log.open(false);
        assert_eq!(log.text(), "precious\n", "tcptop may yet find that it is not privileged");
        file.write(b"1,2\n").unwrap();
        file.write(b"3,4\n").unwrap();
        assert_eq!(log.text(), "a,b\n1,2\n3,4\n");
    }

    #[test]
    fn appending_writes_the_header_into_an_empty_file_only() {
        for (content, expected, repaired) in [
            (None, "a,b\n5,6\n", 0),
            (Some(""), "a,b\n5,6\n", 0),
            (Some("a,b\n"), "a,b\n5,6\n", 0),
            (Some("a,b\n1,2\n"), "a,b\n1,2\n5,6\n", 0),
            (Some("a,b\n1,2\n3,"), "a,b\n1,2\n5,6\n", 2),
            (Some("a,b\n1,\"x\ny"), "a,b\n5,6\n", 6),
            (Some("a,b\n1,\"x\n"), "a,b\n5,6\n", 5),
            (Some("a,"), "a,b\n5,6\n", 2),
            (Some("a,b"), "a,b\n5,6\n", 3),
        ] {
            let log = fixture(content);
            let mut file = log.open(true);
            assert_eq!(log.text(), content.unwrap_or_default());
            assert_eq!(file.repaired(), repaired, "{content:?}");
            file.write(b"5,6\n").unwrap();
            assert_eq!(log.text(), expected, "{content:?}");
        }
    }

    #[test]
    fn a_file_of_something_else_is_not_touched() {
        for content in ["notes", "a,b,c\n1,2,3\n", "x"] {
            let log = fixture(Some(content));
            let error = LogFile::open(&log.path, HEADER, true).unwrap_err().to_string();
            assert!(error.starts_with("cannot append to /"), "{error}");
            assert!(error.contains("does not begin with the header"), "{error}");
            assert_eq!(log.text(), content);
        }
    }

    #[test]
    fn rotation_loses_and_doubles_nothing() {
        let log = fixture(None);
        let rotated = log.path.with_extension("csv.1");
        let mut file = log.open(false);
        file.write(b"1,2\n").unwrap();
        fs::rename(&log.path, &rotated).unwrap();
        file.write(b"3,4\n").unwrap();
        file.reopen().unwrap();
        assert_eq!(log.text(), "a,b\n", "there before the next interval");
        file.write(b"5,6\n").unwrap();
        file.reopen().unwrap();
        file.write(b"7,8\n").unwrap();
        assert_eq!(fs::read_to_string(rotated).unwrap(), "a,b\n1,2\n3,4\n");
        assert_eq!(log.text(), "a,b\n5,6\n7,8\n", "the same file again: no second header");
    }

    #[test]
    fn a_file_truncated_in_place_begins_anew() {
        let log = fixture(None);
        let mut file = log.open(false);
        file.write(b"1,2\n").unwrap();
        fs::File::create(&log.path).unwrap();
        file.write(b"3,4\n").unwrap();
        assert_eq!(log.text(), "a,b\n3,4\n");
    }

    #[test]
    fn a_removed_file_comes_back_and_a_removed_directory_is_an_error() {
        let log = fixture(None);
        let mut file = log.open(false);
        file.write(b"1,2\n").unwrap();
        fs::remove_file(&log.path).unwrap();
        file.write(b"3,4\n").unwrap();
        assert_eq!(log.text(), "a,b\n3,4\n");
        fs::remove_dir_all(log.path.parent().unwrap()).unwrap();
        let error = file.write(b"5,6\n").unwrap_err().to_string();
        assert!(error.starts_with("cannot open /"), "{error}");
        assert!(error.contains("No such file or directory"), "{error}");
    }

    #[test]
    fn a_path_that_cannot_be_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let error = LogFile::open(directory.path(), HEADER, false).unwrap_err().to_string();
        assert!(error.contains("Is a directory"), "{error}");
        let nowhere = directory.path().join("no/such");
        let error = LogFile::open(&nowhere, HEADER, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_full_device_is_an_error_with_its_reason() {
        let mut file = LogFile::open(Path::new("/dev/full"), HEADER, false).unwrap();
        let error = file.begin().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
        assert_eq!(
            error.to_string(),
            "cannot write /dev/full: No space left on device (os error 28)"
        );
    }

    #[test]
    fn a_fifo_whose_reader_leaves_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || {
                let mut bytes = [0; 8];
                File::open(path).unwrap().read_exact(&mut bytes).unwrap();
                bytes
            }
        });
        let mut file = LogFile::open(&path, HEADER, false).unwrap();
        file.write(b"1,2\n").unwrap();
        assert_eq!(&reader.join().unwrap(), b"a,b\n1,2\n");
        let error = file.write(b"3,4\n").unwrap_err();
        assert_ne!(error.kind(), ErrorKind::BrokenPipe, "not the quiet end of a pipeline");
        assert!(error.to_string().contains("Broken pipe"), "{error}");
    }

    /// A limit on the size of files fails as a full disk does: a short write,
    /// then an error. It holds for a whole process, so this test gets its own.
    #[test]
    fn a_full_disk_keeps_whole_rows() {
        use nix::sys::{resource, signal};

        const CHILD: &str = "TCPTOP_TEST_FULL_DISK";
        if std::env::var_os(CHILD).is_none() {
            let name = "output::destination::tests::a_full_disk_keeps_whole_rows";
            let mut child = std::process::Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", name]).env(CHILD, "1").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{text}");
            return;
        }
        let log = fixture(None);
        let mut file = log.open(false);
        file.write(b"1,2\n").unwrap();
        // SAFETY: no handler is set; the signal is only ignored.
        unsafe { signal::signal(signal::SIGXFSZ, signal::SigHandler::SigIgn) }.unwrap();
        resource::setrlimit(resource::Resource::RLIMIT_FSIZE, 25, 25).unwrap();
        let error = file.write(b"3,4\n\"5\n\",6\n7,\"8\n9\"\n").unwrap_err();
        assert!(error.to_string().ends_with("; it keeps the rows before"), "{error}");
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(log.text(), "a,b\n1,2\n3,4\n\"5\n\",6\n");
        assert_eq!(log.text().len(), 19, "cut at 25, then back to the last whole row");
    }
}
