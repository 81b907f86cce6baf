//! What the user asked for: every option once, with its help text and its bounds.
//!
//! Owns [`Settings`], which has one struct for each section of `--help`, the parsers of
//! values, and the meaning of several options together. [`cli`](crate::cli) fills it
//! once; other structs embed it whole and do not copy single fields. Checks only the
//! arguments themselves: whether a device or a process exists is checked elsewhere.

// The doc comments of options are the texts of help, where [PARTIAL] is not a link.
#![allow(rustdoc::broken_intra_doc_links)]

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, ValueEnum};

pub mod choice;
mod query;
mod room;

pub use choice::Choice;
pub use query::{Query, State};
pub use room::{Place, Room};

/// All options. Every value is within its bounds.
#[derive(Args, Clone, Debug, PartialEq)]
pub struct Settings {
    /// Which connections to show.
    #[command(flatten)]
    pub query: Query,
    /// Which rows, in which order, and what their totals mean.
    #[command(flatten)]
    pub rows: Rows,
    /// One row per group instead of one per connection.
    #[command(flatten)]
    pub groups: Groups,
    /// How often, and when to stop.
    #[command(flatten)]
    pub times: Times,
    /// What is written, and where.
    #[command(flatten)]
    pub output: Output,
    /// All other options.
    #[command(flatten)]
    pub more: More,
}

impl Settings {
    /// True where nothing is written to the standard output.
    pub fn is_headless(&self) -> bool {
        self.output.log.is_some() || self.prints_nothing()
    }

    /// True where only the textfile is written.
    pub fn prints_nothing(&self) -> bool {
        let Output { log, asked_format, .. } = &self.output;
        log.is_none() && asked_format.is_none() && self.groups.textfile.is_some()
    }
}

impl Settings {
    /// Whether an interval has a row for every connection or group, not only for those that
    /// changed.
    pub fn shows_all(&self) -> bool {
        match self.output.format() {
            FormatName::Lines => self.rows.all,
            FormatName::Csv | FormatName::Json => !self.rows.changed,
        }
    }
}

impl Default for Settings {
    /// The settings of tcptop without arguments.
    fn default() -> Settings {
        #[derive(Parser)]
        struct Nothing {
            #[command(flatten)]
            settings: Settings,
        }
        Nothing::parse_from(["tcptop"]).settings
    }
}

/// Which rows an interval has, in which order, and what their totals mean.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Rows")]
pub struct Rows {
    /// Print every connection in every interval, not only what changed
    ///
    /// What changed is: new connections, those with traffic, a new state or
    /// another owner, and once more those whose rate fell back to zero. Without
    /// --changed, CSV and JSON have every connection.
    #[arg(long)]
    pub all: bool,

    /// CSV and JSON: only rows that lines would show, and the final ones
    ///
    /// Those are the rows of what changed, as without --all.
    #[arg(long)]
    pub changed: bool,

    /// Order the rows of an interval
    ///
    /// rate, bytes, rtt: highest first; age: the oldest first; or any column: numbers
    /// highest first, texts from A to Z. What is not known comes last, but a connection
    /// that is older than tcptop before all others by age.
    #[arg(long, value_name = "BY", default_value = "rate", value_parser = sort)]
    #[arg(hide_possible_values = true)]
    pub sort: Sort,

    /// Keep the first N rows of each interval
    ///
    /// Connections that close are always reported.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = top)]
    pub top: Option<usize>,

    /// Count TCP from the connection's start, not from tcptop's
    ///
    /// TCP connections are never marked [PARTIAL] then. For UDP nobody has counted
    /// before tcptop.
    #[arg(long)]
    pub lifetime: bool,

    /// Forget a UDP flow that was silent this long
    ///
    /// 0.01 to 86400 seconds. It takes up to three intervals longer: tcptop looks for such
    /// flows once an interval.
    #[arg(long, value_name = "SECONDS", default_value = "5")]
    #[arg(value_parser = up_to_a_day, allow_negative_numbers = true)]
    pub udp_timeout: Duration,
}

/// What the rows of an interval are ordered by; the highest comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sort {
    /// Bytes per second of both directions in this interval
    #[default]
    Rate,
    /// Bytes of both directions so far
    Bytes,
    /// Round-trip time; rows without one come last
    Rtt,
    /// The longest open first
    Age,
    /// This column
    Column(String),
}

impl Sort {
    /// The names that are not those of columns.
    pub const WORDS: [&str; 4] = ["rate", "bytes", "rtt", "age"];

    /// The columns that show what rows are ordered by, if it is not the usual order.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Sort::Rate => Vec::new(),
            Sort::Bytes => vec!["bytes_in", "bytes_out"],
            Sort::Rtt => vec!["rtt_us"],
            Sort::Age => vec!["age_sec"],
            Sort::Column(name) => vec![name],
        }
    }
}

impl From<&str> for Sort {
    fn from(name: &str) -> Sort {
        match name {
            "rate" => Sort::Rate,
            "bytes" => Sort::Bytes,
            "rtt" => Sort::Rtt,
            "age" => Sort::Age,
            column => Sort::Column(column.to_owned()),
        }
    }
}

/// The columns of `--columns`. Whether they exist is checked by [`cli`](crate::cli).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ColumnList {
    /// True where they are added to the format's own.
    pub add: bool,
    /// Their names, each once.
    pub names: Vec<String>,
}

impl From<&str> for ColumnList {
    /// The list of one name.
    fn from(name: &str) -> ColumnList {
        ColumnList { add: false, names: vec![name.to_owned()] }
    }
}

impl FromStr for ColumnList {
    type Err = String;

    fn from_str(text: &str) -> Result<ColumnList, String> {
        let (add, list) = text.strip_prefix('+').map_or((false, text), |list| (true, list));
        let mut names: Vec<String> = Vec::new();
        for name in list.split(',') {
            if name.is_empty() {
                return Err("a name is missing between two commas, or there is none".to_owned());
            }
            if names.iter().any(|known| known == name) {
                return Err(format!("'{name}' is in it twice"));
            }
            names.push(name.to_owned());
        }
        Ok(ColumnList { add, names })
    }
}

/// One row per group instead of one per connection.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Groups")]
pub struct Groups {
    /// One row per process, container, peer or the like, with totals
    ///
    /// Keys with commas between them: process, pid, user, unit, container (its id),
    /// container_name, pod, cgroup, remote, remote_port, local, local_port, interface, netns, protocol, state, or any
    /// other column that is a text. Totals are since tcptop began and include
    /// connections that closed.
    #[arg(long, value_name = "KEYS", value_delimiter = ',', hide_possible_values = true)]
    pub by: Vec<String>,

    /// Room for N groups; the others are shown as one, (other)
    ///
    /// 1 to 16777216. The group that was idle longest makes room for a new one.
    #[arg(long, value_name = "N", default_value = "65536")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    #[arg(allow_negative_numbers = true)]
    pub groups: u32,

    /// Write the groups for Prometheus' textfile collector, each interval anew
    ///
    /// FILE ends with .prom and is replaced as a whole. Nothing is written to the standard
    /// output then, unless --format asks for it. --top does not apply to it.
    #[arg(long, value_name = "FILE", value_parser = textfile)]
    pub textfile: Option<PathBuf>,
}

/// How often to write, and when to stop.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Times")]
pub struct Times {
    /// Seconds from one interval to the next
    ///
    /// 0.01 to 86400, fractions allowed. Rates are over the time that really passed.
    #[arg(long, value_name = "SECONDS", default_value = "1")]
    #[arg(value_parser = up_to_a_day, allow_negative_numbers = true)]
    pub interval: Duration,

    /// Stop after N intervals
    ///
    /// Lines begin with the listing of what is open; it is not an interval.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    #[arg(value_parser = count)]
    pub count: Option<u64>,

    /// Stop after one interval (= --count 1)
    #[arg(long)]
    pub once: bool,

    /// Stop after this many seconds
    ///
    /// 0.01 to 31622400 (a year). With --count, tcptop stops at whichever comes first.
    #[arg(long, value_name = "SECONDS")]
    #[arg(value_parser = up_to_a_year, allow_negative_numbers = true)]
    pub duration: Option<Duration>,
}

impl Times {
    /// The number of intervals after which to stop, at least 1; `None` to go on.
    pub fn intervals(&self) -> Option<u64> {
        self.count.or(self.once.then_some(1))
    }
}

/// What is written, and where.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Output")]
pub struct Output {
    /// Write lines, CSV or JSON [default: lines, with --log csv]
    #[arg(long = "format", value_name = "FORMAT")]
    pub asked_format: Option<FormatName>,

    /// Write into FILE, nothing to the terminal
    ///
    /// CSV, unless --format gives another format. FILE is opened before anything else,
    /// emptied once tcptop counts, and flushed every interval. On SIGHUP it is
    /// opened again, for logrotate. It is created with mode 0640. A FILE that another
    /// tcptop writes is refused; so is, in a directory that others may write to, a
    /// symbolic link or a file of another user.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// Keep what is in the FILE of --log
    ///
    /// A header is written only into an empty file. A last row that an earlier
    /// run could not finish is cut off. A file with other columns, or of another
    /// format, is refused.
    #[arg(long)]
    pub append: bool,

    /// CSV: append columns (never reorders)
    ///
    /// JSON always has them; lines always have 13 fields.
    #[arg(long)]
    pub wide: bool,

    /// Choose the columns and their order; +LIST adds to the usual ones
    ///
    /// Names with commas between them, in any format: pid,remote,rtt_us. With a + before
    /// the first one they are added to the format's own. "--columns help" lists all.
    #[arg(long, value_name = "LIST", hide_possible_values = true)]
    pub columns: Option<ColumnList>,

    /// The name of this host in the column host [default: the host's own]
    #[arg(long, value_name = "NAME", value_parser = host)]
    pub host: Option<String>,

    /// Lines: plain integers (bytes, bytes/s, microseconds)
    ///
    /// With --bits rates are bits/s. The age of a closed connection is in seconds, with six
    /// decimals.
    #[arg(long)]
    pub raw: bool,

    /// Lines: rates in bits/s instead of bytes/s
    ///
    /// In powers of 1000, as usual for networks: 1.5Kb/s are 1500 bits per second. With
    /// --raw plain integers.
    #[arg(long)]
    pub bits: bool,

    /// Lines: the interval's time (RFC 3339, UTC) first on every line
    #[arg(short, long)]
    pub timestamp: bool,

    /// Lines: colour new rows and closing ones
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    pub color: ColorChoice,

    /// No words on stderr but errors and losses
    #[arg(long)]
    pub quiet: bool,
}

impl Output {
    /// Takes a FILE that is another name of the standard output for what it is, which others
    /// may have opened to append to: as a file it would be emptied.
    pub fn take_stdout_by_its_name(&mut self) {
        const NAMES: [&str; 2] = ["/dev/stdout", "/dev/fd/1"];
        let is_stdout = |log: &Path| NAMES.into_iter().any(|name| log == Path::new(name));
        if !self.append && self.log.as_deref().is_some_and(is_stdout) {
            self.asked_format = Some(self.format());
            self.log = None;
        }
    }

    /// The format to write: the one that was asked for, otherwise CSV into a file and
    /// lines to the standard output.
    pub fn format(&self) -> FormatName {
        let usual = if self.log.is_some() { FormatName::Csv } else { FormatName::Lines };
        self.asked_format.unwrap_or(usual)
    }
}

/// A format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatName {
    /// A row per connection that changed, for people and awk
    Lines,
    /// A header, then a row per connection and interval (RFC 4180)
    Csv,
    /// An object a line, with all columns
    Json,
}

impl FormatName {
    /// Its name in messages: that of the option's value, in capitals.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_uppercase()).unwrap_or_default()
    }
}

/// When to colour lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set or TERM is dumb
    #[default]
    Auto,
    /// Also into a pipe or a file
    Always,
    /// No
    Never,
}

impl ColorChoice {
    /// Whether to colour lines. `terminal` is true where the standard output is a
    /// terminal; `variable` reads a variable of the environment.
    pub fn resolve(self, terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
        match self {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                // https://no-color.org: the variable is set and not empty.
                let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
                let dumb = variable("TERM").is_some_and(|value| value == "dumb");
                terminal && !refused && !dumb
            }
        }
    }
}

/// Options that belong to no other section.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "More")]
pub struct More {
    /// End with status 3 where something was lost
    ///
    /// Losses are always counted and reported on stderr.
    #[arg(long)]
    pub strict: bool,

    /// Room for N UDP flows in the kernel at a time
    ///
    /// 16 to 16777216. Datagrams of flows for which there is no room are counted as lost.
    #[arg(long, value_name = "N", default_value = "65536")]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=1 << 24))]
    #[arg(allow_negative_numbers = true)]
    pub udp_flows: u32,

    /// Run as USER, by name or number, once tcptop has started
    ///
    /// Files are opened as USER. Without it, root's tcptop becomes the user who called sudo,
    /// otherwise nobody; with --log or --textfile it stays root. "--setuid root" stays root.
    #[arg(long, value_name = "USER")]
    pub setuid: Option<String>,

    /// Create this file once the listing at start is written
    #[arg(long, value_name = "FILE", hide = true)]
    pub ready_file: Option<PathBuf>,

    /// Do as if the kernel refused this provider
    #[arg(long, value_name = "PROVIDER", hide = true)]
    pub without: Vec<String>,

    /// Give a buffer or a table this much room
    #[arg(long, value_name = "PLACE=SIZE", hide = true)]
    pub room: Vec<Room>,

    /// Tell which kernel hooks serve, and prove on loopback that they fire
    ///
    /// Per signal: the provider in use, the better providers that do not work here with
    /// the kernel's reason, and the result of an exchange on loopback. Then what a run gives
    /// up once it has started, and what of that cannot be had here. Status 0 where all
    /// signals work. With --format json for machines.
    #[arg(long)]
    pub doctor: bool,

    /// Compare the totals of TCP connections with the kernel's, over sock_diag
    ///
    /// Asks the kernel as ss(8) does, before and after tcptop samples, at the start and again
    /// an interval later. Status 0 where each total lies between the two answers, and 1 where
    /// one does not; then each such connection is shown, with the error in bytes.
    #[arg(long)]
    pub verify: bool,

    /// Tell what tcptop gives up, and its memory; -vv: let libbpf and the verifier talk
    ///
    /// On stderr. The memory is that of the process and of the kernel's BPF maps and programs.
    #[arg(short, long, action = ArgAction::Count)]
    pub verbose: u8,
}

const DAY: u32 = 86_400;

fn up_to_a_day(text: &str) -> Result<Duration, String> {
    seconds(text, DAY, "a day")
}

fn up_to_a_year(text: &str) -> Result<Duration, String> {
    seconds(text, 366 * DAY, "a year")
}

/// Parses a time of at least 10 ms and at most `most` seconds, which the error message
/// calls `limit`. With shorter intervals tcptop would mostly measure itself.
fn seconds(text: &str, most: u32, limit: &str) -> Result<Duration, String> {
    let seconds: f64 = match text.trim().parse() {
        Ok(seconds) if !f64::is_nan(seconds) => seconds,
        _ => return Err("not a number of seconds, such as 0.5, 1 or 60".to_owned()),
    };
    if seconds < 0.01 {
        return Err("too short, at least 0.01 seconds".to_owned());
    }
    if seconds > f64::from(most) {
        return Err(format!("too long, at most {most} seconds ({limit})"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn count(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(0) => Err("would show nothing; leave it out to go on until Ctrl-C".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("not a whole number from 1 on".to_owned()),
    }
}

fn top(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("would show nothing; leave it out to see all rows".to_owned()),
        Ok(rows) => Ok(rows),
        Err(_) => Err("not a whole number from 1 on".to_owned()),
    }
}

fn sort(text: &str) -> Result<Sort, String> {
    Ok(text.into())
}

fn textfile(text: &str) -> Result<PathBuf, String> {
    // The collector reads no other files.
    match text.ends_with(".prom") && !text.ends_with("/.prom") && text != ".prom" {
        true => Ok(text.into()),
        false => Err("the collector only reads files whose name ends with .prom".to_owned()),
    }
}

fn host(text: &str) -> Result<String, String> {
    // RFC 1035, section 2.3.4.
    match text.len() {
        1..=255 => Ok(text.to_owned()),
        _ => Err("a name of a host has 1 to 255 bytes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_for_terminals_that_want_it() {
        let environment = |set: &'static [(&str, &str)]| {
            move |name: &str| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            }
        };
        let none = environment(&[]);
        assert!(ColorChoice::Auto.resolve(true, none));
        assert!(!ColorChoice::Auto.resolve(false, none));
        assert!(!ColorChoice::Auto.resolve(true, environment(&[("NO_COLOR", "1")])));
        assert!(ColorChoice::Auto.resolve(true, environment(&[("NO_COLOR", "")])));
        assert!(!ColorChoice::Auto.resolve(true, environment(&[("TERM", "dumb")])));
        assert!(ColorChoice::Always.resolve(false, environment(&[("NO_COLOR", "1")])));
        assert!(!ColorChoice::Never.resolve(true, none));
    }
}
