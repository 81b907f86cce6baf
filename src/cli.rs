//! The command line: what was typed becomes a checked [`Config`].
//!
//! Owns every option, its words in `-h` and `--help`, and the reasons for which
//! a value is refused. Reads nothing but the arguments: whether an interface or
//! a process exists is asked elsewhere. The texts of the manual page that are
//! not options are in [`manual`](crate::manual).

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, Parser, ValueEnum};

use crate::connection::Protocol;
use crate::plan::Provider;
use crate::view::Sort;

/// What tcptop is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// To stream connections.
    Run(Box<Config>),
    /// To tell which hooks work on this kernel, and prove it.
    Doctor {
        /// As JSON, for machines.
        json: bool,
        /// Providers that are not to be tried.
        without: Vec<Provider>,
        /// Let libbpf and the kernel's verifier talk on stderr.
        verbose: bool,
    },
    /// To print its manual page or a shell's completions.
    Generate(Generated),
}

/// How to stream connections. Every value is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which connections to show.
    pub filter: Filter,
    /// The time from one interval's end to the next: 10 ms to a day.
    pub interval: Duration,
    /// Stop after this many intervals; at least 1.
    pub count: Option<u64>,
    /// Stop after this time.
    pub duration: Option<Duration>,
    /// Forget a UDP flow after this time without a datagram.
    pub udp_timeout: Duration,
    /// How many UDP flows the kernel keeps at a time.
    pub udp_flows: u32,
    /// TCP totals since a connection opened, not since tcptop saw it.
    pub lifetime: bool,
    /// Lines: every tracked connection, not only what changed.
    pub all: bool,
    /// The order of the rows of an interval.
    pub sort: Sort,
    /// Keep the first rows of that order; at least 1.
    pub top: Option<usize>,
    /// Lines: plain integers.
    pub raw: bool,
    /// Lines: the time first on every line.
    pub timestamp: bool,
    /// CSV: the columns of `--wide`. (JSON always has them.)
    pub wide: bool,
    /// What is written. CSV where there is a `log`.
    pub format: Format,
    /// Write here and not to the standard output.
    pub log: Option<PathBuf>,
    /// Keep what is in `log`.
    pub append: bool,
    /// Whether to colour lines.
    pub color: ColorChoice,
    /// Status 3 where something was lost.
    pub strict: bool,
    /// Created once the listing at start is written: for scripts that wait for it.
    pub ready_file: Option<PathBuf>,
    /// Providers that are not to be tried: for tests of the lower-ranked ones.
    pub without: Vec<Provider>,
    /// Let libbpf and the kernel's verifier talk on stderr.
    pub verbose: bool,
}

/// Which connections to show. Empty lists and `None` let everything pass;
/// otherwise one value of each list must fit, and every list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Port of either end.
    pub ports: Vec<u16>,
    /// Thread-group id of the owner.
    pub pids: Vec<u32>,
    /// Part of the owner's name.
    pub processes: Vec<String>,
    /// Name of the device of the socket's route, or of the one it is bound to.
    pub interfaces: Vec<String>,
    /// TCP or UDP only.
    pub protocol: Option<Protocol>,
    /// IPv4 or IPv6 only.
    pub family: Option<Family>,
}

/// The address family of a row. An IPv4-mapped IPv6 address is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A row per connection that changed, for people and awk
    Lines,
    /// A header, then a row per connection and interval (RFC 4180)
    Csv,
    /// An object a line, with all columns
    Json,
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
    /// Whether to colour what goes to the standard output. `terminal` tells
    /// whether that is one; `variable` reads the environment.
    pub fn resolve(self, terminal: bool, variable: impl Fn(&str) -> Option<OsString>) -> bool {
        match self {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                // https://no-color.org: set, and not to the empty string.
                let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
                let dumb = variable("TERM").is_some_and(|value| value == "dumb");
                terminal && !refused && !dumb
            }
        }
    }
}

/// What `--generate` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// The manual page, section 8
    Man,
    /// Completions for bash
    Bash,
    /// Completions for zsh
    Zsh,
    /// Completions for fish
    Fish,
}

impl Generated {
    /// The text to print.
    pub fn text(self) -> Vec<u8> {
        use clap_complete::Shell;

        let shell = match self {
            Generated::Man => return crate::manual::page(command()),
            Generated::Bash => Shell::Bash,
            Generated::Zsh => Shell::Zsh,
            Generated::Fish => Shell::Fish,
        };
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut command(), "tcptop", &mut text);
        text
    }
}

/// Checks the arguments, the program's name first.
///
/// # Errors
/// Also for `-h` and `-V`: [`clap::Error::exit`] prints each where it belongs
/// and ends with status 0, or 2 for a mistake.
pub fn parse<I, T>(arguments: I) -> Result<Task, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    Args::try_parse_from(arguments)?.check()
}

/// The description that help, manual page and completions are made from.
pub fn command() -> clap::Command {
    Args::command()
}

const SHORT_HELP: &str = "'tcptop --help' tells more and has examples.";

const LONG_HELP: &str = "\
Examples:
  sudo tcptop
          what every connection of this host does, each second
  sudo tcptop --port 443 --process nginx
          what nginx does on port 443
  sudo tcptop --interval 10 --top 10
          the ten busiest, every ten seconds
  sudo tcptop --once --format csv | awk -F, 'NR > 1 { n[$8]++ } END { for (p in n) print n[p], p }'
          open connections per process
  sudo tcptop --log /var/log/tcptop.csv --interval 10 --duration 86400
          a day as CSV, every ten seconds
  sudo tcptop --format json | jq -c 'select(.event == \"closed\" and .end == \"rst\")'
          connections that the peer reset

Exit status:
  0   stopped by Ctrl-C, SIGTERM, --count, --duration or a closed pipe
  1   an error: one line on stderr says what failed
  2   a mistake in the arguments
  3   --strict, and something was lost
  77  not privileged";

/// Streams who is talking to whom, and how much: one line per TCP connection and UDP flow
///
/// One row per TCP connection and UDP flow of this host, in all its network
/// namespaces, with the process that uses it, bytes, packets, round-trip time
/// and rates. The first interval lists what is open; later ones print what
/// changed. Lines only ever follow each other, as with tail -f, so the output
/// can be piped, searched and kept.
///
/// Counting starts when tcptop starts: a connection that is older is marked
/// [PARTIAL] and counts from zero (see --lifetime). Needs root, or CAP_BPF and
/// CAP_PERFMON (for UDP on some kernels CAP_NET_ADMIN too).
#[derive(Debug, Parser)]
#[command(
    name = "tcptop",
    version,
    max_term_width = 100,
    disable_help_flag = true,
    disable_version_flag = true,
    after_help = SHORT_HELP,
    after_long_help = LONG_HELP
)]
struct Args {
    /// Only this port, at either end
    ///
    /// Can be repeated: any of them. Of several different filters, all must hold.
    #[arg(long, value_name = "N", help_heading = FILTERS, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,

    /// Only what this process owns
    ///
    /// The owner is the process that last connected, accepted, sent or received
    /// on the socket. Can be repeated: any of them.
    #[arg(long, value_name = "N", help_heading = FILTERS, allow_negative_numbers = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=MAX_PID))]
    pid: Vec<u32>,

    /// Only owners with NAME in their name
    ///
    /// Upper and lower case differ. The kernel keeps the first 15 bytes of a
    /// process's name. Can be repeated: any of them.
    #[arg(long, value_name = "NAME", help_heading = FILTERS, value_parser = process)]
    process: Vec<String>,

    /// Only what goes through this device
    ///
    /// The device that the socket is bound to or, without that, the one its
    /// route uses. Can be repeated: any of them.
    #[arg(short, long, value_name = "IF", help_heading = FILTERS, value_parser = interface)]
    interface: Vec<String>,

    /// Only TCP
    #[arg(long, help_heading = FILTERS)]
    tcp: bool,

    /// Only UDP
    #[arg(long, help_heading = FILTERS)]
    udp: bool,

    /// Only IPv4, IPv4-mapped IPv6 addresses included
    #[arg(short = '4', help_heading = FILTERS)]
    ipv4: bool,

    /// Only IPv6
    #[arg(short = '6', help_heading = FILTERS)]
    ipv6: bool,

    /// Print every connection in every interval, not only what changed
    ///
    /// What changed is: new connections, those with traffic, a new state or
    /// another owner, and once more those whose rate fell back to zero. CSV and
    /// JSON always have every connection.
    #[arg(long, help_heading = ROWS)]
    all: bool,

    /// Order the rows of an interval, highest first
    #[arg(long, value_name = "BY", help_heading = ROWS, default_value = "rate")]
    sort: Sort,

    /// Keep the first N rows of each interval
    ///
    /// Connections that close are told all the same.
    #[arg(long, value_name = "N", help_heading = ROWS, allow_negative_numbers = true)]
    #[arg(value_parser = top)]
    top: Option<usize>,

    /// Count TCP from the connection's start, not from tcptop's
    ///
    /// No connection is [PARTIAL] then. UDP has no totals of the past.
    #[arg(long, help_heading = ROWS)]
    lifetime: bool,

    /// Forget a UDP flow that was silent this long
    ///
    /// 0.01 to 86400 seconds.
    #[arg(long, value_name = "SECONDS", help_heading = ROWS, default_value = "5")]
    #[arg(value_parser = up_to_a_day, allow_negative_numbers = true)]
    udp_timeout: Duration,

    /// Seconds from one interval to the next
    ///
    /// 0.01 to 86400, fractions allowed. Rates are over the time that really passed.
    #[arg(long, value_name = "SECONDS", help_heading = TIMES, default_value = "1")]
    #[arg(value_parser = up_to_a_day, allow_negative_numbers = true)]
    interval: Duration,

    /// Stop after N intervals
    #[arg(long, value_name = "N", help_heading = TIMES, allow_negative_numbers = true)]
    #[arg(value_parser = count)]
    count: Option<u64>,

    /// Stop after one interval (= --count 1)
    #[arg(long, help_heading = TIMES)]
    once: bool,

    /// Stop after this many seconds
    ///
    /// 0.01 to 31622400, a year. With --count, what comes first.
    #[arg(long, value_name = "SECONDS", help_heading = TIMES)]
    #[arg(value_parser = up_to_a_year, allow_negative_numbers = true)]
    duration: Option<Duration>,

    /// Write lines, CSV or JSON [default: lines, with --log csv]
    #[arg(long, value_name = "FORMAT", help_heading = OUTPUT)]
    format: Option<Format>,

    /// Write CSV into FILE, nothing to the terminal
    ///
    /// FILE is opened before anything else, emptied once tcptop counts, and
    /// flushed every interval. On SIGHUP it is opened again, for logrotate. For
    /// JSON use the shell: --format json > FILE.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    log: Option<PathBuf>,

    /// Keep what is in the FILE of --log
    ///
    /// A header is written only into an empty file. A last row that an earlier
    /// run could not finish is cut off. A file with another header is refused.
    #[arg(long, help_heading = OUTPUT)]
    append: bool,

    /// CSV: append columns (never reorders)
    ///
    /// partial, retrans, min_rtt_us, age_sec, uid, ifname, netns, cgroup,
    /// container, end. JSON always has them; lines always have 13 fields.
    #[arg(long, help_heading = OUTPUT)]
    wide: bool,

    /// Lines: plain integers (bytes, bytes/s, microseconds)
    ///
    /// The age of a closed connection is in seconds, with six decimals.
    #[arg(long, help_heading = OUTPUT)]
    raw: bool,

    /// Lines: the interval's time (RFC 3339, UTC) first on every line
    #[arg(short, long, help_heading = OUTPUT)]
    timestamp: bool,

    /// Lines: colour new rows and closing ones
    #[arg(long, value_name = "WHEN", help_heading = OUTPUT, default_value = "auto")]
    color: ColorChoice,

    /// End with status 3 where something was lost
    ///
    /// What could not be kept is always counted, and told on stderr.
    #[arg(long, help_heading = MORE)]
    strict: bool,

    /// Room for N UDP flows in the kernel at a time
    ///
    /// 16 to 16777216. What finds no room is counted as lost.
    #[arg(long, value_name = "N", help_heading = MORE, default_value = "65536")]
    #[arg(value_parser = clap::value_parser!(u32).range(16..=1 << 24))]
    #[arg(allow_negative_numbers = true)]
    udp_flows: u32,

    /// Create this file once the listing at start is written
    #[arg(long, value_name = "FILE", hide = true)]
    ready_file: Option<PathBuf>,

    /// Do as if the kernel refused this provider
    #[arg(long, value_name = "PROVIDER", hide = true, value_parser = provider)]
    without: Vec<Provider>,

    /// Tell which kernel hooks serve, and prove on loopback that they fire
    ///
    /// Per signal the provider in use, the better ones that do not work here with
    /// the kernel's reason, and what a loopback exchange showed. Status 0 where
    /// all work. With --format json for machines.
    #[arg(long, help_heading = MORE, conflicts_with_all = NOT_FOR_THE_DOCTOR)]
    doctor: bool,

    /// Let libbpf and the kernel's verifier talk on stderr
    #[arg(short, long, help_heading = MORE)]
    verbose: bool,

    /// Print the manual page or a shell's completions
    #[arg(long, value_name = "WHAT", help_heading = MORE, exclusive = true)]
    generate: Option<Generated>,

    /// Print help (--help: with examples)
    #[arg(short, long, help_heading = MORE, action = ArgAction::Help)]
    help: Option<bool>,

    /// Print the version
    #[arg(short = 'V', long, help_heading = MORE, action = ArgAction::Version)]
    version: Option<bool>,
}

/// It examines the host, not its connections.
const NOT_FOR_THE_DOCTOR: [&str; 25] = [
    "port",
    "pid",
    "process",
    "interface",
    "tcp",
    "udp",
    "ipv4",
    "ipv6",
    "all",
    "sort",
    "top",
    "lifetime",
    "udp_timeout",
    "interval",
    "count",
    "once",
    "duration",
    "log",
    "append",
    "wide",
    "raw",
    "timestamp",
    "color",
    "strict",
    "udp_flows",
];

const FILTERS: &str = "Filters";
const ROWS: &str = "Rows";
const TIMES: &str = "Times";
const OUTPUT: &str = "Output";
const MORE: &str = "More";

/// `PID_MAX_LIMIT` of 64-bit kernels (include/linux/threads.h).
const MAX_PID: i64 = 4 * 1024 * 1024;

impl Args {
    fn check(self) -> Result<Task, clap::Error> {
        if let Some(generated) = self.generate {
            return Ok(Task::Generate(generated));
        }
        if self.doctor {
            if self.format == Some(Format::Csv) {
                return Err(contradiction("--doctor writes text or, with --format json, JSON"));
            }
            return Ok(Task::Doctor {
                json: self.format == Some(Format::Json),
                without: self.without,
                verbose: self.verbose,
            });
        }
        let protocol = match (self.tcp, self.udp) {
            (true, true) => {
                return Err(contradiction(
                    "--tcp and --udp: no row is both; leave both out to see both",
                ));
            }
            (true, false) => Some(Protocol::Tcp),
            (false, true) => Some(Protocol::Udp),
            (false, false) => None,
        };
        let family = match (self.ipv4, self.ipv6) {
            (true, true) => {
                return Err(contradiction("-4 and -6: no row is both; leave both out to see both"));
            }
            (true, false) => Some(Family::V4),
            (false, true) => Some(Family::V6),
            (false, false) => None,
        };
        let count = match (self.count, self.once) {
            (Some(_), true) => {
                return Err(contradiction("--once is --count 1; give one of them"));
            }
            (count, once) => count.or(once.then_some(1)),
        };
        let format = match (&self.log, self.format) {
            (Some(_), Some(Format::Lines | Format::Json)) => {
                return Err(contradiction(
                    "--log writes CSV; for another format let the shell write the file: \
                     tcptop --format json > FILE",
                ));
            }
            (Some(_), _) => Format::Csv,
            (None, format) => format.unwrap_or(Format::Lines),
        };
        if self.log.as_deref().is_some_and(|log| log.as_os_str() == OsStr::new("")) {
            return Err(contradiction("--log needs a file name"));
        }
        if self.append && self.log.is_none() {
            return Err(contradiction("--append goes with --log FILE"));
        }
        if self.wide && format == Format::Lines {
            return Err(contradiction(
                "--wide goes with --log FILE or --format csv; lines always have 13 fields",
            ));
        }
        Ok(Task::Run(Box::new(Config {
            filter: Filter {
                ports: self.port,
                pids: self.pid,
                processes: self.process,
                interfaces: self.interface,
                protocol,
                family,
            },
            interval: self.interval,
            count,
            duration: self.duration,
            udp_timeout: self.udp_timeout,
            udp_flows: self.udp_flows,
            lifetime: self.lifetime,
            all: self.all,
            sort: self.sort,
            top: self.top,
            raw: self.raw,
            timestamp: self.timestamp,
            wide: self.wide,
            format,
            log: self.log,
            append: self.append,
            color: self.color,
            strict: self.strict,
            ready_file: self.ready_file,
            without: self.without,
            verbose: self.verbose,
        })))
    }
}

fn contradiction(reason: &str) -> clap::Error {
    command().error(ErrorKind::ArgumentConflict, reason)
}

fn provider(name: &str) -> Result<Provider, String> {
    Provider::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Provider::ALL.iter().map(|provider| provider.name()).collect();
        format!("one of {}", names.join(", "))
    })
}

const DAY: u32 = 86_400;

fn up_to_a_day(text: &str) -> Result<Duration, String> {
    seconds(text, DAY, "a day")
}

fn up_to_a_year(text: &str) -> Result<Duration, String> {
    seconds(text, 366 * DAY, "a year")
}

/// At least 10 ms: shorter ones would mostly watch tcptop itself.
fn seconds(text: &str, most: u32, words: &str) -> Result<Duration, String> {
    let seconds: f64 = match text.trim().parse() {
        Ok(seconds) if !f64::is_nan(seconds) => seconds,
        _ => return Err("not a number of seconds, such as 0.5, 1 or 60".to_owned()),
    };
    if seconds < 0.01 {
        return Err("too short, at least 0.01 seconds are needed to tell a rate".to_owned());
    }
    if seconds > f64::from(most) {
        return Err(format!("too long, at most {most} seconds ({words})"));
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

fn process(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("every name has that part; leave it out to see all processes".to_owned()),
        1..=15 => Ok(text.to_owned()),
        _ => Err("never found: the kernel keeps only the first 15 bytes of a name".to_owned()),
    }
}

fn interface(text: &str) -> Result<String, String> {
    // IFNAMSIZ (include/uapi/linux/if.h) is 16, with the terminating NUL.
    let fits = (1..=15).contains(&text.len())
        && !text.contains(|character: char| character == '/' || character.is_whitespace());
    match fits {
        true => Ok(text.to_owned()),
        false => Err("no device can be called that (1 to 15 bytes, no blank, no /)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(arguments: &str) -> Result<Task, clap::Error> {
        parse(std::iter::once("tcptop").chain(arguments.split_whitespace()))
    }

    fn config(arguments: &str) -> Config {
        match typed(arguments) {
            Ok(Task::Run(config)) => *config,
            other => panic!("{arguments}: {other:?}"),
        }
    }

    /// The first line of what is refused.
    fn refused(arguments: &str) -> String {
        let error = typed(arguments).expect_err(arguments);
        assert_eq!((error.exit_code(), error.use_stderr()), (2, true), "{arguments}");
        error.to_string().lines().next().unwrap_or_default().to_owned()
    }

    #[test]
    fn clap_agrees_with_the_description() {
        command().debug_assert();
    }

    #[test]
    fn without_arguments() {
        assert_eq!(
            config(""),
            Config {
                filter: Filter::default(),
                interval: Duration::from_secs(1),
                count: None,
                duration: None,
                udp_timeout: Duration::from_secs(5),
                udp_flows: 65_536,
                lifetime: false,
                all: false,
                sort: Sort::Rate,
                top: None,
                raw: false,
                timestamp: false,
                wide: false,
                format: Format::Lines,
                log: None,
                append: false,
                color: ColorChoice::Auto,
                strict: false,
                ready_file: None,
                without: Vec::new(),
                verbose: false,
            }
        );
    }

    #[test]
    fn every_option_arrives() {
        let config = config(
            "--port 443 --port 80 --pid 7 --pid 8 --process curl --process ssh -i lo \
             --interface eth0 --tcp -4 --interval 0.25 --count 3 --duration 90 --udp-timeout 2 \
             --lifetime --all --top 5 --sort age --raw -t --wide --log x.csv --append \
             --color never --strict --udp-flows 16",
        );
        assert_eq!(
            config,
            Config {
                filter: Filter {
                    ports: vec![443, 80],
                    pids: vec![7, 8],
                    processes: vec!["curl".to_owned(), "ssh".to_owned()],
                    interfaces: vec!["lo".to_owned(), "eth0".to_owned()],
                    protocol: Some(Protocol::Tcp),
                    family: Some(Family::V4),
                },
                interval: Duration::from_millis(250),
                count: Some(3),
                duration: Some(Duration::from_secs(90)),
                udp_timeout: Duration::from_secs(2),
                udp_flows: 16,
                lifetime: true,
                all: true,
                sort: Sort::Age,
                top: Some(5),
                raw: true,
                timestamp: true,
                wide: true,
                format: Format::Csv,
                log: Some("x.csv".into()),
                append: true,
                color: ColorChoice::Never,
                strict: true,
                ready_file: None,
                without: Vec::new(),
                verbose: false,
            }
        );
    }

    #[test]
    fn short_cuts() {
        assert_eq!(config("--once").count, Some(1));
        assert_eq!(config("--udp -6").filter.protocol, Some(Protocol::Udp));
        assert_eq!(config("--udp -6").filter.family, Some(Family::V6));
        assert_eq!(config("--format json --wide").format, Format::Json);
        assert_eq!(config("--format csv --log x").format, Format::Csv);
        assert!(config("--timestamp").timestamp);
        assert!(matches!(typed("--doctor"), Ok(Task::Doctor { .. })));
        for (name, what) in [
            ("man", Generated::Man),
            ("bash", Generated::Bash),
            ("zsh", Generated::Zsh),
            ("fish", Generated::Fish),
        ] {
            assert_eq!(typed(&format!("--generate {name}")).ok(), Some(Task::Generate(what)));
            assert!(!what.text().is_empty());
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (arguments, reason) in [
            (
                "--interval 0",
                "error: invalid value '0' for '--interval <SECONDS>': too short, at least 0.01 seconds are needed to tell a rate",
            ),
            (
                "--interval -1",
                "error: invalid value '-1' for '--interval <SECONDS>': too short, at least 0.01 seconds are needed to tell a rate",
            ),
            (
                "--interval 0.0099",
                "error: invalid value '0.0099' for '--interval <SECONDS>': too short, at least 0.01 seconds are needed to tell a rate",
            ),
            (
                "--interval NaN",
                "error: invalid value 'NaN' for '--interval <SECONDS>': not a number of seconds, such as 0.5, 1 or 60",
            ),
            (
                "--interval 1s",
                "error: invalid value '1s' for '--interval <SECONDS>': not a number of seconds, such as 0.5, 1 or 60",
            ),
            (
                "--interval inf",
                "error: invalid value 'inf' for '--interval <SECONDS>': too long, at most 86400 seconds (a day)",
            ),
            (
                "--interval 31536000",
                "error: invalid value '31536000' for '--interval <SECONDS>': too long, at most 86400 seconds (a day)",
            ),
            (
                "--udp-timeout 0",
                "error: invalid value '0' for '--udp-timeout <SECONDS>': too short, at least 0.01 seconds are needed to tell a rate",
            ),
            (
                "--duration 0",
                "error: invalid value '0' for '--duration <SECONDS>': too short, at least 0.01 seconds are needed to tell a rate",
            ),
            (
                "--duration 1e9",
                "error: invalid value '1e9' for '--duration <SECONDS>': too long, at most 31622400 seconds (a year)",
            ),
            (
                "--top 0",
                "error: invalid value '0' for '--top <N>': would show nothing; leave it out to see all rows",
            ),
            ("--top -3", "error: invalid value '-3' for '--top <N>': not a whole number from 1 on"),
            (
                "--count 0",
                "error: invalid value '0' for '--count <N>': would show nothing; leave it out to go on until Ctrl-C",
            ),
            (
                "--count 1.5",
                "error: invalid value '1.5' for '--count <N>': not a whole number from 1 on",
            ),
            ("--port 0", "error: invalid value '0' for '--port <N>': 0 is not in 1..=65535"),
            (
                "--port 65536",
                "error: invalid value '65536' for '--port <N>': 65536 is not in 1..=65535",
            ),
            ("--pid 0", "error: invalid value '0' for '--pid <N>': 0 is not in 1..=4194304"),
            ("--pid -1", "error: invalid value '-1' for '--pid <N>': -1 is not in 1..=4194304"),
            (
                "--udp-flows 15",
                "error: invalid value '15' for '--udp-flows <N>': 15 is not in 16..=16777216",
            ),
            (
                "--process=",
                "error: invalid value '' for '--process <NAME>': every name has that part; leave it out to see all processes",
            ),
            (
                "--process a-name-that-is-long",
                "error: invalid value 'a-name-that-is-long' for '--process <NAME>': never found: the kernel keeps only the first 15 bytes of a name",
            ),
            (
                "-i eth0/1",
                "error: invalid value 'eth0/1' for '--interface <IF>': no device can be called that (1 to 15 bytes, no blank, no /)",
            ),
            ("--tcp --udp", "error: --tcp and --udp: no row is both; leave both out to see both"),
            ("-4 -6", "error: -4 and -6: no row is both; leave both out to see both"),
            ("-46", "error: -4 and -6: no row is both; leave both out to see both"),
            ("--once --count 2", "error: --once is --count 1; give one of them"),
            ("--append", "error: --append goes with --log FILE"),
            (
                "--wide",
                "error: --wide goes with --log FILE or --format csv; lines always have 13 fields",
            ),
            (
                "--log x --format json",
                "error: --log writes CSV; for another format let the shell write the file: tcptop --format json > FILE",
            ),
            (
                "--log x --format lines",
                "error: --log writes CSV; for another format let the shell write the file: tcptop --format json > FILE",
            ),
            ("--log=", "error: a value is required for '--log <FILE>' but none was supplied"),
            ("--doctor --tcp", "error: the argument '--doctor' cannot be used with '--tcp'"),
            ("--generate ksh", "error: invalid value 'ksh' for '--generate <WHAT>'"),
            ("--sort speed", "error: invalid value 'speed' for '--sort <BY>'"),
            ("extra", "error: unexpected argument 'extra' found"),
        ] {
            assert_eq!(refused(arguments), reason, "{arguments}");
        }
    }

    #[test]
    fn a_mistyped_option_is_answered_with_the_right_one() {
        let error = typed("--intervall 2").expect_err("mistyped").to_string();
        assert!(error.contains("a similar argument exists: '--interval'"), "{error}");
    }

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

    #[test]
    fn the_manual_page_has_every_option_and_its_sections() {
        let page = String::from_utf8(Generated::Man.text()).expect("UTF-8").replace("\\-", "-");
        for argument in command().get_arguments().filter(|argument| !argument.is_hide_set()) {
            let flag = match (argument.get_long(), argument.get_short()) {
                (Some(long), _) => format!("\\fB--{long}\\fR"),
                (None, short) => format!("\\fB-{}\\fR", short.unwrap_or_default()),
            };
            assert!(page.contains(&flag), "{flag}");
        }
        for section in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "FIELDS",
            "EXIT STATUS",
            "OVERHEAD",
            "EXAMPLES",
        ] {
            assert!(
                page.contains(&format!(".SH {section}"))
                    || page.contains(&format!(".SH \"{section}\"")),
                "{section}"
            );
        }
        assert!(page.contains(".TH TCPTOP 8 "), "{page}");
    }

    #[test]
    fn help_is_short_or_long() {
        for (arguments, golden) in [
            ("-h", include_str!("cli/short-help.txt")),
            ("--help", include_str!("cli/long-help.txt")),
        ] {
            let error = command()
                .term_width(100)
                .try_get_matches_from(["tcptop", arguments])
                .expect_err("help");
            assert_eq!((error.exit_code(), error.use_stderr()), (0, false));
            let text = error.to_string();
            if std::env::var_os("BLESS").is_some() {
                let name = if arguments == "-h" { "short" } else { "long" };
                let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli");
                std::fs::write(format!("{path}/{name}-help.txt"), &text).expect("writable");
            } else {
                assert_eq!(text, golden, "BLESS=1 cargo test takes the new text");
            }
        }
    }
}
