//! Where the bytes go: to the standard output, or into a file. A file is kept to whole
//! rows: a row that could not be written whole is cut off.
//!
//! Owns opening, reopening (logrotate), the header of an empty file, and the repair when
//! a write fails half-way. All it knows about a format is the [`Document`]: how a file
//! begins, and where a row ends.
//!
//! A file is opened with `O_APPEND`: when another program truncates it (logrotate's
//! `copytruncate`), the next row is written at its new end and leaves no hole.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use super::Document;

/// Opens a file to append to it, and creates it if there is none; the `bool` says whether
/// to read it as well. Leaves unchanged what is in it.
pub type Open = fn(&Path, bool) -> io::Result<File>;

/// [`Open`] without any precaution: follows symbolic links, locks nothing. For directories
/// that nobody else may write to.
///
/// # Errors
/// Those of open(2).
pub fn open_anything(path: &Path, read: bool) -> io::Result<File> {
    File::options().read(read).append(true).create(true).open(path)
}

/// Where the bytes go.
pub struct Destination {
    kind: Kind,
}

enum Kind {
    File(LogFile),
    Stream { out: Box<dyn Write + Send>, header: Option<String> },
}

impl Destination {
    /// A stream, such as the standard output, for a format without a header.
    pub fn stream(out: impl Write + Send + 'static) -> Destination {
        Destination::stream_of(out, Document::default())
    }

    /// A stream, such as the standard output. Its header is the first thing that
    /// is written.
    pub fn stream_of(out: impl Write + Send + 'static, document: Document) -> Destination {
        let header = Some(document.header).filter(|header| !header.is_empty());
        Destination { kind: Kind::Stream { out: Box::new(out), header } }
    }

    /// The file at `path`, opened by `open`. Without `append`, the first write empties it. With `append`,
    /// its rows stay, an unfinished last row is cut off, and the header is written only
    /// into an empty file.
    ///
    /// # Errors
    /// Where the file cannot be opened for writing or, with `append`, has another
    /// format. The message names the path.
    pub fn file(
        path: &Path,
        append: bool,
        document: Document,
        open: Open,
    ) -> io::Result<Destination> {
        Ok(Destination { kind: Kind::File(LogFile::open(path, document, append, open)?) })
    }

    /// The length, in bytes, of the unfinished row that an earlier run left at the end
    /// of the file; 0 for none. The first write cuts this row off.
    pub fn repaired(&self) -> u64 {
        match &self.kind {
            Kind::File(file) => file.repaired,
            Kind::Stream { .. } => 0,
        }
    }

    /// Writes the header, if it was not written yet.
    pub(super) fn begin(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::File(file) => file.begin(),
            Kind::Stream { out, header } => match header.take() {
                Some(header) => put(out, header.as_bytes()),
                None => Ok(()),
            },
        }
    }

    /// Writes and flushes whole rows.
    ///
    /// # Errors
    /// Where not all bytes could be written. A regular file is cut back to its last
    /// whole row then. The message for a file names the file and the reason. For a
    /// stream, `BrokenPipe` means that the reader went away.
    pub(super) fn write(&mut self, rows: &[u8]) -> io::Result<()> {
        match &mut self.kind {
            Kind::File(file) => file.write(rows),
            Kind::Stream { out, .. } => put(out, rows),
        }
    }

    /// True where reopening would change nothing: for a stream, and for a file that is
    /// still at its path.
    pub(super) fn is_in_place(&self) -> bool {
        match &self.kind {
            Kind::File(file) => file.is_in_place(),
            Kind::Stream { .. } => true,
        }
    }

    /// Opens the path of a file again and continues at the end of the file that is there
    /// now. Creates the file if there is none.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Kind::File(file) => file.reopen(),
            Kind::Stream { .. } => Ok(()),
        }
    }
}

/// Writes and flushes to the standard output, and names it in an error. `BrokenPipe` stays
/// as it is.
fn put(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    put_whole(out, bytes).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => error,
        kind => io::Error::new(kind, format!("cannot write to the standard output: {error}")),
    })
}

/// A file that rows are appended to, and its state.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    open: Open,
    file: File,
    /// False for a pipe or a device: bytes that were written there cannot be cut off.
    regular: bool,
    document: Document,
    /// True until the first write. Until then the open file is left unchanged.
    untouched: bool,
    /// The length to cut the file to before the first write; `None` to keep all of it.
    cut: Option<u64>,
    repaired: u64,
}

impl LogFile {
    /// Opens `path` without changing the file. The first write empties it or, with
    /// `append`, cuts off an unfinished last row.
    fn open(path: &Path, document: Document, append: bool, open: Open) -> io::Result<LogFile> {
        let failed = |error| failure(path, "open", error);
        let file = open(path, append).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let regular = meta.is_file();
        let mut log = LogFile {
            path: path.to_owned(),
            open,
            file,
            regular,
            document,
            untouched: true,
            cut: None,
            repaired: 0,
        };
        if !regular {
            return Ok(log);
        }
        log.cut = Some(0);
        if append {
            let whole = whole_rows(&log.file, &log.document).map_err(failed)?;
            let Some(whole) = whole else {
                let reason = log.document.mismatch;
                return Err(io::Error::new(
                    ErrorKind::InvalidData,
                    format!("cannot append to {}: {reason}; choose another file", path.display()),
                ));
            };
            log.repaired = meta.len().saturating_sub(whole);
            log.cut = (log.repaired > 0).then_some(whole);
        }
        Ok(log)
    }

    /// Opens the path again and continues at the end of the file that is there now.
    fn reopen(&mut self) -> io::Result<()> {
        if self.is_in_place() {
            return Ok(());
        }
        let fresh = LogFile::open(&self.path, self.document.clone(), true, self.open)?;
        *self = fresh;
        self.begin()
    }

    /// Empties or repairs the file at the first call, and writes the header if it is empty.
    fn begin(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.untouched) {
            if let Some(length) = self.cut.take() {
                self.file.set_len(length).map_err(|error| failure(&self.path, "write", error))?;
            }
            if !self.regular {
                return self.put_header();
            }
        }
        if self.regular && self.length()? == 0 {
            return self.put_header();
        }
        Ok(())
    }

    fn put_header(&mut self) -> io::Result<()> {
        let header = std::mem::take(&mut self.document.header);
        let result = self.put(header.as_bytes());
        self.document.header = header;
        result
    }

    /// Appends whole rows: all of them or, if writing fails, as many as fit.
    fn write(&mut self, rows: &[u8]) -> io::Result<()> {
        if self.regular && !self.untouched && self.links()? == 0 {
            // The file was removed: rows that are written to it now would be lost silently.
            return self.reopen().and_then(|()| self.put(rows));
        }
        self.begin()?;
        self.put(rows)
    }

    /// True where the path still leads to the open file.
    fn is_in_place(&self) -> bool {
        match (self.file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
            _ => false,
        }
    }

    fn length(&self) -> io::Result<u64> {
        self.file
            .metadata()
            .map(|meta| meta.len())
            .map_err(|error| failure(&self.path, "read", error))
    }

    fn links(&self) -> io::Result<u64> {
        let meta = self.file.metadata();
        meta.map(|meta| meta.nlink()).map_err(|error| failure(&self.path, "read", error))
    }

    fn put(&mut self, rows: &[u8]) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        let before = if self.regular { self.length()? } else { 0 };
        let Err((written, error)) = write_all(&mut self.file, rows) else { return Ok(()) };
        let mut note = "";
        // Not if another process has appended since: cutting would remove its bytes too.
        if self.regular && self.length()? == before + written as u64 {
            let whole = last_row_end(&rows[..written], self.document.quotes);
            if self.file.set_len(before + whole as u64).is_ok() {
                note = "; it keeps the rows before";
            }
        }
        let error = failure(&self.path, "write", error);
        Err(io::Error::new(error.kind(), format!("{error}{note}")))
    }
}

/// Adds the action that failed and the path to an error. `BrokenPipe` becomes `Other`:
/// the end of a FIFO's reader is a real error, and only the end of the standard output's
/// reader ends tcptop quietly.
fn failure(path: &Path, verb: &str, error: io::Error) -> io::Error {
    let kind = match error.kind() {
        ErrorKind::BrokenPipe => ErrorKind::Other,
        kind => kind,
    };
    io::Error::new(kind, format!("cannot {verb} {}: {error}", path.display()))
}

/// Writes and flushes. A slow reader is waited for, also where another program has made the
/// pipe that it shares with tcptop non-blocking.
///
/// # Errors
/// Those of writing.
pub fn put_whole(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    write_all(out, bytes).map_err(|(_, error)| error)?;
    loop {
        match out.flush() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            result => return result,
        }
    }
}

/// How long to wait for a reader before its pipe is tried again.
const PAUSE: Duration = Duration::from_millis(5);

/// As [`Write::write_all`], but it waits for room, and the error includes how many bytes were
/// written.
fn write_all(out: &mut impl Write, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return Err((written, ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

/// The length of the whole rows at the beginning of `rows`.
fn last_row_end(rows: &[u8], quotes: bool) -> usize {
    let mut scan = Scan { quotes, ..Scan::default() };
    scan.feed(rows);
    scan.whole as usize
}

/// Finds the ends of rows. A newline ends a row, except between double quotes in a format
/// with `quotes`: the name of a process may contain a newline.
#[derive(Default)]
struct Scan {
    quotes: bool,
    position: u64,
    whole: u64,
    quoted: bool,
}

impl Scan {
    fn feed(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.position += 1;
            match byte {
                b'"' => self.quoted = self.quotes && !self.quoted,
                b'\n' if !self.quoted => self.whole = self.position,
                _ => {}
            }
        }
    }
}

/// The length of the whole rows in the file; `None` where the file has another
/// beginning than `document`. It is 0 for a file that ends within this beginning.
fn whole_rows(mut file: &File, document: &Document) -> io::Result<Option<u64>> {
    let beginning = document.beginning.as_bytes();
    let mut first = Vec::with_capacity(beginning.len());
    file.take(beginning.len() as u64).read_to_end(&mut first)?;
    if first.len() < beginning.len() {
        return Ok(beginning.starts_with(&first).then_some(0));
    }
    if first != beginning {
        return Ok(None);
    }
    let mut scan = Scan { quotes: document.quotes, ..Scan::default() };
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

    fn csv() -> Document {
        let header = "a,b\n".to_owned();
        let mismatch = "it does not begin with the header";
        Document { beginning: header.clone(), header, mismatch, quotes: true }
    }

    fn json() -> Document {
        let mismatch = "it holds no JSON lines";
        Document { beginning: "{".to_owned(), mismatch, ..Document::default() }
    }

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
            LogFile::open(&self.path, csv(), append, open_anything).unwrap()
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.path).unwrap()
        }
    }

    /// A pipe that is non-blocking, and full every other time.
    #[derive(Default)]
    struct Narrow {
        taken: Vec<u8>,
        full: bool,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.full = !self.full;
            if self.full {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(3);
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.full = !self.full;
            if self.full { Err(ErrorKind::WouldBlock.into()) } else { Ok(()) }
        }
    }

    #[test]
    fn a_slow_reader_of_a_non_blocking_pipe_is_waited_for() {
        let mut narrow = Narrow::default();
        put_whole(&mut narrow, b"0123456789").unwrap();
        assert_eq!(narrow.taken, b"0123456789");
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
            assert_eq!(file.repaired, repaired, "{content:?}");
            file.write(b"5,6\n").unwrap();
            assert_eq!(log.text(), expected, "{content:?}");
        }
    }

    #[test]
    fn a_file_of_something_else_is_not_touched() {
        for content in ["notes", "a,b,c\n1,2,3\n", "x"] {
            let log = fixture(Some(content));
            let error =
                LogFile::open(&log.path, csv(), true, open_anything).unwrap_err().to_string();
            assert!(error.starts_with("cannot append to /"), "{error}");
            assert!(error.contains("does not begin with the header"), "{error}");
            assert_eq!(log.text(), content);
        }
    }

    #[test]
    fn json_lines_have_no_header_and_quotes_that_do_not_pair() {
        for (content, expected, repaired) in [
            (None, "{}\n", 0),
            (Some("{\"a\":\"\\\"\"}\n"), "{\"a\":\"\\\"\"}\n{}\n", 0),
            (Some("{\"a\":1}\n{\"a\":"), "{\"a\":1}\n{}\n", 5),
            (Some("{\"a\":"), "{}\n", 5),
        ] {
            let log = fixture(content);
            let mut file = LogFile::open(&log.path, json(), true, open_anything).unwrap();
            assert_eq!(file.repaired, repaired, "{content:?}");
            file.write(b"{}\n").unwrap();
            assert_eq!(log.text(), expected, "{content:?}");
        }
        let log = fixture(Some("a,b\n"));
        let error = LogFile::open(&log.path, json(), true, open_anything).unwrap_err().to_string();
        assert!(error.ends_with(": it holds no JSON lines; choose another file"), "{error}");
        assert_eq!(log.text(), "a,b\n");
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
        assert_eq!(
            log.text(),
            "a,b\n5,6\n7,8\n",
            "reopening the same file writes no second header"
        );
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
        let error =
            LogFile::open(directory.path(), csv(), false, open_anything).unwrap_err().to_string();
        assert!(error.contains("Is a directory"), "{error}");
        let nowhere = directory.path().join("no/such");
        let error = LogFile::open(&nowhere, csv(), false, open_anything).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_full_device_is_an_error_with_its_reason() {
        let mut file = LogFile::open(Path::new("/dev/full"), csv(), false, open_anything).unwrap();
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
        let mut file = LogFile::open(&path, csv(), false, open_anything).unwrap();
        file.write(b"1,2\n").unwrap();
        assert_eq!(&reader.join().unwrap(), b"a,b\n1,2\n");
        let error = file.write(b"3,4\n").unwrap_err();
        assert_ne!(error.kind(), ErrorKind::BrokenPipe, "not the quiet end of a pipeline");
        assert!(error.to_string().contains("Broken pipe"), "{error}");
    }

    /// A limit on the size of files has the effect of a full disk: a short write, then
    /// an error. The limit is per process, so this test runs in a process of its own.
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
