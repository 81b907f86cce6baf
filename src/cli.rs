//! The command line: what was typed becomes a [`Task`] with checked [`Settings`].
//!
//! Owns the texts of help around the options; `completion` makes the scripts for shells, and
//! `conflicts` knows which options have no effect together. The options themselves, with their help texts and bounds, are the fields
//! of [`settings`](crate::settings). Reads only the arguments. `manual.rs` has the other
//! texts of the manual page, and the examples and exit statuses that help shows too.

use std::ffi::OsString;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, ValueEnum};
use clap_complete::Shell;

mod columns;
mod completion;
mod conflicts;

use crate::manual::{EXAMPLES, EXIT_STATUSES, Example, ExitStatus};
use crate::output::columns::wide_names;
use crate::output::schema;
use crate::settings::{FormatName, Settings};

/// What tcptop is asked to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Task {
    /// To stream connections.
    Stream(Box<Settings>),
    /// To report which hooks work on this kernel, and prove it.
    Doctor(Box<Settings>),
    /// Compare the totals with those of the kernel.
    Verify(Box<Settings>),
    /// To list the columns.
    Columns,
    /// To print its manual page or a shell's completions.
    Generate(Generated),
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
    /// The JSON Schema of --format json
    Schema,
}

impl Generated {
    /// The text to print.
    pub fn text(self) -> Vec<u8> {
        match self {
            Generated::Man => crate::manual::page(command()),
            Generated::Bash => completion::script(Shell::Bash),
            Generated::Zsh => completion::script(Shell::Zsh),
            Generated::Fish => completion::script(Shell::Fish),
            Generated::Schema => schema::schema().into_bytes(),
        }
    }
}

/// Checks the arguments, the program's name first.
///
/// # Errors
/// For a mistake, and for `-h` and `-V` too. [`clap::Error::exit`] prints help and
/// version to stdout and ends with status 0; it prints mistakes to stderr and ends with
/// status 2.
pub fn parse<I, T>(arguments: I) -> Result<Task, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let matches = command().try_get_matches_from(arguments)?;
    check(Args::from_arg_matches(&matches)?, &matches)
}

/// The description of the options. Help, manual page and completions are made from it.
pub fn command() -> clap::Command {
    let wide = format!("{}. JSON always has them; lines always have 13 fields.", wide_names());
    let command = Args::command().mut_arg("wide", |argument| {
        let short = argument.get_help().map(ToString::to_string).unwrap_or_default();
        argument.long_help(format!("{short}\n\n{wide}"))
    });
    command
        .mut_arg("columns", |argument| argument.value_parser(columns::LISTS))
        .mut_arg("sort", |argument| argument.value_parser(columns::ORDERS))
        .mut_arg("by", |argument| argument.value_parser(columns::KEYS))
}

const SHORT_HELP: &str = "'tcptop --help' tells more and has examples.";

/// The text of `--help` below the options.
fn long_help() -> String {
    let examples = EXAMPLES.iter().map(|Example { command, shows }| {
        // Here with sudo; the manual page, which is for the administrator, has none.
        format!("  sudo {command}\n          {shows}\n")
    });
    let statuses = EXIT_STATUSES
        .iter()
        .map(|ExitStatus { status, meaning, .. }| format!("\n  {status:<4}{meaning}"));
    let (examples, statuses): (String, String) = (examples.collect(), statuses.collect());
    format!("Examples:\n{examples}\nExit status:{statuses}")
}

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
    after_long_help = long_help()
)]
struct Args {
    #[command(flatten)]
    settings: Settings,

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

/// The heading of the options that are declared here.
const MORE: &str = "More";

/// The ids of the options that have an effect with `--doctor`. All others are refused:
/// `--doctor` examines the host and shows no connections.
const FOR_THE_DOCTOR: [&str; 4] = ["doctor", "asked_format", "without", "verbose"];

/// The same for `--verify`, which compares all connections.
const TO_VERIFY: [&str; 4] = ["verify", "interval", "without", "verbose"];

fn check(arguments: Args, matches: &ArgMatches) -> Result<Task, clap::Error> {
    if let Some(generated) = arguments.generate {
        return Ok(Task::Generate(generated));
    }
    let mut settings = Box::new(arguments.settings);
    if settings.more.doctor {
        only(&FOR_THE_DOCTOR, "--doctor", matches)?;
        return match settings.output.asked_format {
            None | Some(FormatName::Json) => Ok(Task::Doctor(settings)),
            _ => Err(conflict("--doctor writes text or, with --format json, JSON")),
        };
    }
    if settings.more.verify {
        return only(&TO_VERIFY, "--verify", matches).map(|()| Task::Verify(settings));
    }
    if settings.output.columns == Some(columns::LIST_ALL.into()) {
        return Ok(Task::Columns);
    }
    match conflicts::find(&settings, |id| was_typed(matches, id)) {
        Some(reason) => Err(conflict(reason)),
        None => {
            columns::check(&settings)?;
            settings.output.take_stdout_by_its_name();
            Ok(Task::Stream(settings))
        }
    }
}

/// Whether the user has typed this option.
fn was_typed(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// Refuses options that were typed with this `task` and are not among its `own`.
fn only(own: &[&str], task: &str, matches: &ArgMatches) -> Result<(), clap::Error> {
    let mut command = command();
    command.build();
    let useless = command.get_arguments().find(|argument| {
        let id = argument.get_id().as_str();
        !own.contains(&id) && was_typed(matches, id)
    });
    match useless {
        Some(argument) => {
            Err(conflict(&format!("the argument '{task}' cannot be used with '{argument}'")))
        }
        None => Ok(()),
    }
}

fn conflict(reason: &str) -> clap::Error {
    command().error(ErrorKind::ArgumentConflict, reason)
}

/// The error for a value that only the platform can check: printed and ended as the
/// errors of [`parse`] are, with status 2.
pub fn invalid_value(reason: &str) -> clap::Error {
    command().error(ErrorKind::InvalidValue, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::{Family, Protocol, TcpState};
    use crate::settings::{Choice, ColorChoice, Query, Sort};
    use std::time::Duration;

    fn typed(arguments: &str) -> Result<Task, clap::Error> {
        parse(std::iter::once("tcptop").chain(arguments.split_whitespace()))
    }

    fn settings(arguments: &str) -> Settings {
        match typed(arguments) {
            Ok(Task::Stream(settings)) => *settings,
            other => panic!("{arguments}: {other:?}"),
        }
    }

    /// The first line of the error for arguments that must be refused.
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
        let nothing = settings("");
        assert_eq!(nothing, Settings::default());
        assert_eq!(nothing.query, Query::default(), "everything is shown");
        assert_eq!(nothing.output.format(), FormatName::Lines);
        let Settings { rows, times, more, .. } = nothing;
        assert_eq!(
            (rows.sort, rows.top, rows.all, rows.lifetime),
            (Sort::Rate, None, false, false)
        );
        assert_eq!(
            (rows.udp_timeout, times.interval),
            (Duration::from_secs(5), Duration::from_secs(1))
        );
        assert_eq!((times.intervals(), times.duration, more.udp_flows), (None, None, 65_536));
    }

    #[test]
    fn what_was_typed_arrives() {
        let settings = settings(
            "--port 443 --port !80 --pid 7 --pid 8 --process curl --process ssh -i lo \
             --interface !eth0 --local 10.1.2.3/8 --remote !::1 --user root --state syn_sent \
             --cgroup /a/ --container !web --unit ssh \
             --tcp -4 --interval 0.25 --count 3 --duration 90 \
             --lifetime --all --top 5 --sort age --raw -t --color never --strict -v",
        );
        let Settings { query, rows, groups, times, output, more } = &settings;
        assert_eq!(
            (&query.ports[..], &query.pids[..]),
            (&[Choice::plain(443), Choice::not(80)][..], &[7, 8].map(Choice::plain)[..])
        );
        assert_eq!(
            (&query.processes[..], &query.interfaces[..]),
            (
                &["curl".to_owned(), "ssh".to_owned()].map(Choice::plain)[..],
                &[Choice::plain("lo".to_owned()), Choice::not("eth0".to_owned())][..]
            )
        );
        assert_eq!((query.protocol(), query.family()), (Some(Protocol::Tcp), Some(Family::V4)));
        assert_eq!(query.local, [Choice::plain("10.0.0.0/8".parse().expect("a prefix"))]);
        assert_eq!(query.remote, [Choice::not("::1/128".parse().expect("a prefix"))]);
        assert_eq!(query.users, [Choice::plain("root".to_owned())]);
        let one =
            |choices: &[Choice<String>]| (choices.len(), choices[0].not, choices[0].value.clone());
        assert_eq!(one(&query.cgroups), (1, false, "/a".to_owned()));
        assert_eq!(one(&query.containers), (1, true, "web".to_owned()));
        assert_eq!(one(&query.units), (1, false, "ssh.service".to_owned()));
        assert_eq!(query.states, [Choice::plain(Some(TcpState::SynSent))]);
        assert!(rows.lifetime && rows.all);
        assert_eq!((rows.top, &rows.sort), (Some(5), &Sort::Age));
        assert_eq!(times.interval, Duration::from_millis(250));
        assert_eq!((times.intervals(), times.duration), (Some(3), Some(Duration::from_secs(90))));
        assert!(output.raw && output.timestamp && !output.wide && !output.append);
        assert_eq!((output.color, output.format()), (ColorChoice::Never, FormatName::Lines));
        assert!(more.strict && more.verbose == 1 && !more.doctor);
        assert!(groups.by.is_empty() && groups.groups == 65_536);
    }

    #[test]
    fn what_was_typed_for_a_log_arrives() {
        let Settings { rows, output, more, .. } =
            settings("--log x.csv --append --wide --udp-timeout 2 --udp-flows 16");
        assert!(output.wide && output.append);
        assert_eq!(output.log.as_deref(), Some("x.csv".as_ref()));
        assert_eq!(output.format(), FormatName::Csv);
        assert_eq!((rows.udp_timeout, more.udp_flows), (Duration::from_secs(2), 16));
    }

    #[test]
    fn the_standard_output_is_no_log() {
        for (arguments, format) in [
            ("--log /dev/stdout", FormatName::Csv),
            ("--log /dev/fd/1 --wide", FormatName::Csv),
            ("--log /dev/stdout --format json", FormatName::Json),
        ] {
            let Settings { output, .. } = settings(arguments);
            assert_eq!((output.log.clone(), output.format()), (None, format), "{arguments}");
        }
        for file in ["/dev/fd/3", "/dev/stdout --append", "stdout"] {
            assert!(settings(&format!("--log {file}")).output.log.is_some(), "{file}");
        }
        assert!(refused("--log /dev/stdout --format lines").contains("--log writes no lines"));
    }

    #[test]
    fn short_cuts() {
        assert_eq!(settings("--once").times.intervals(), Some(1));
        assert_eq!(settings("--count 7").times.intervals(), Some(7));
        assert_eq!(settings("").times.intervals(), None);
        assert_eq!(settings("--udp -6").query.protocol(), Some(Protocol::Udp));
        assert_eq!(settings("--udp -6").query.family(), Some(Family::V6));
        assert_eq!(settings("--tcp -4").query.family(), Some(Family::V4));
        assert_eq!(settings("").query.protocol(), None);
        assert_eq!(settings("--format json --wide").output.format(), FormatName::Json);
        assert_eq!(settings("--format csv --log x").output.format(), FormatName::Csv);
        assert_eq!(settings("--format json --log x").output.format(), FormatName::Json);
        assert!(settings("--timestamp").output.timestamp);
        assert!(matches!(typed("--doctor"), Ok(Task::Doctor(_))));
        assert!(matches!(typed("--verify --interval 0.5"), Ok(Task::Verify(_))));
        assert!(matches!(typed("--doctor -v --format json --without x"), Ok(Task::Doctor(_))));
        for (name, what) in [
            ("man", Generated::Man),
            ("bash", Generated::Bash),
            ("zsh", Generated::Zsh),
            ("fish", Generated::Fish),
            ("schema", Generated::Schema),
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
                "error: invalid value '0' for '--interval <SECONDS>': too short, at least 0.01 seconds",
            ),
            (
                "--interval -1",
                "error: invalid value '-1' for '--interval <SECONDS>': too short, at least 0.01 seconds",
            ),
            (
                "--interval 0.0099",
                "error: invalid value '0.0099' for '--interval <SECONDS>': too short, at least 0.01 seconds",
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
                "error: invalid value '0' for '--udp-timeout <SECONDS>': too short, at least 0.01 seconds",
            ),
            (
                "--duration 0",
                "error: invalid value '0' for '--duration <SECONDS>': too short, at least 0.01 seconds",
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
            (
                "--port 0",
                "error: invalid value '0' for '--port <N>': a port is a number from 1 to 65535; for several, repeat the option: --port 80 --port 443",
            ),
            (
                "--port http",
                "error: invalid value 'http' for '--port <N>': a port is a number from 1 to 65535; for several, repeat the option: --port 80 --port 443",
            ),
            (
                "--port 80,443",
                "error: invalid value '80,443' for '--port <N>': a port is a number from 1 to 65535; for several, repeat the option: --port 80 --port 443",
            ),
            (
                "--pid -1",
                "error: invalid value '-1' for '--pid <N>': a PID is a number from 1 to 4194304; for several, repeat the option",
            ),
            (
                "--local localhost",
                "error: invalid value 'localhost' for '--local <CIDR>': not an address or a prefix, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32",
            ),
            (
                "--remote !10.0.0.0/33",
                "error: invalid value '!10.0.0.0/33' for '--remote <CIDR>': not an address or a prefix, such as 192.0.2.7, 10.0.0.0/8 or 2001:db8::/32",
            ),
            (
                "--cgroup a/b",
                "error: invalid value 'a/b' for '--cgroup <PATH>': a path as in the column cgroup begins with /",
            ),
            (
                "--state closed",
                "error: invalid value 'closed' for '--state <STATE>': not a state; there are ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING and UDP",
            ),
            (
                "--udp-flows 15",
                "error: invalid value '15' for '--udp-flows <N>': 15 is not in 16..=16777216",
            ),
            (
                "--process=",
                "error: invalid value '' for '--process <NAME>': the empty text is part of every name; leave the option out to see all processes",
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
            (
                "--raw --log x",
                "error: --raw is for lines; numbers of CSV and JSON are always plain",
            ),
            ("-t --format json", "error: -t is for lines; CSV and JSON always have the time"),
            ("--color auto --log x", "error: --color is for lines; CSV and JSON have no colours"),
            (
                "--all --format csv",
                "error: --all is for lines; CSV and JSON have every connection without it",
            ),
            ("--tcp --udp-timeout 5", "error: --udp-timeout is for UDP, which --tcp leaves out"),
            ("--tcp --udp-flows 65536", "error: --udp-flows is for UDP, which --tcp leaves out"),
            ("--udp --lifetime", "error: --lifetime is for TCP, which --udp leaves out"),
            (
                "--bits --log x",
                "error: --bits is for lines; rates of CSV and JSON are in bytes per second",
            ),
            (
                "--changed",
                "error: --changed is for CSV and JSON; lines show what changed without it",
            ),
            ("--append", "error: --append goes with --log FILE"),
            (
                "--wide",
                "error: --wide goes with --log FILE or --format csv; lines always have 13 fields",
            ),
            (
                "--log x --format lines",
                "error: --log writes no lines; let the shell write the file: tcptop > FILE",
            ),
            ("--log=", "error: a value is required for '--log <FILE>' but none was supplied"),
            ("--verify --tcp", "error: the argument '--verify' cannot be used with '--tcp'"),
            ("--doctor --tcp", "error: the argument '--doctor' cannot be used with '--tcp'"),
            (
                "--doctor --ready-file x",
                "error: the argument '--doctor' cannot be used with '--ready-file <FILE>'",
            ),
            (
                "--doctor --sort rate",
                "error: the argument '--doctor' cannot be used with '--sort <BY>'",
            ),
            ("--doctor --format lines", "error: --doctor writes text or, with --format json, JSON"),
            ("--doctor --format csv", "error: --doctor writes text or, with --format json, JSON"),
            ("--groups 9", "error: --groups and --textfile go with --by KEYS"),
            ("--textfile x.prom", "error: --groups and --textfile go with --by KEYS"),
            (
                "--by pid --textfile x",
                "error: invalid value 'x' for '--textfile <FILE>': the collector only reads files whose name ends with .prom",
            ),
            (
                "--by pid --textfile x.prom --log x.prom",
                "error: --textfile and --log: one file cannot be both",
            ),
            ("--by pid,pid", "error: --by: 'pid' is in it twice"),
            ("--by pid --sort age", "error: --sort age and --by: groups have no age"),
            ("--sort opened", "error: only groups have a column 'opened': --by KEYS"),
            (
                "--by pid --columns pid,rtt_us,uid",
                "error: these groups have no column 'uid'; they have pid, connections, opened, closed, failed, bytes_in, bytes_out, packets_in, packets_out, retrans, rate_in, rate_out, rtt_us, timestamp, host",
            ),
            (
                "--by process --sort process_name",
                "error: these groups have no column 'process_name', did you mean 'process'; they have process, connections, opened, closed, failed, bytes_in, bytes_out, packets_in, packets_out, retrans, rate_in, rate_out, rtt_us, timestamp, host",
            ),
            (
                "--by remote --columns remote_addr,rate_in_bytes_sec",
                "error: these groups have no column 'remote_addr', did you mean 'remote'; they have remote, connections, opened, closed, failed, bytes_in, bytes_out, packets_in, packets_out, retrans, rate_in, rate_out, rtt_us, timestamp, host",
            ),
            (
                "--by remote --columns remote,rate_in_bytes_sec",
                "error: these groups have no column 'rate_in_bytes_sec', did you mean 'rate_in'; they have remote, connections, opened, closed, failed, bytes_in, bytes_out, packets_in, packets_out, retrans, rate_in, rate_out, rtt_us, timestamp, host",
            ),
            (
                "--by process_name --sort process",
                "error: these groups have no column 'process', did you mean 'process_name'; they have process_name, connections, opened, closed, failed, bytes_in, bytes_out, packets_in, packets_out, retrans, rate_in, rate_out, rtt_us, timestamp, host",
            ),
            (
                "--by pid --wide --format csv",
                "error: --wide and --by: the columns of groups are always the same",
            ),
            ("--generate ksh", "error: invalid value 'ksh' for '--generate <WHAT>'"),
            (
                "--sort speed",
                "error: invalid value 'speed' for '--sort <BY>': there is no column 'speed'; tcptop --columns help lists all",
            ),
            (
                "--sort PKTS_IN",
                "error: invalid value 'PKTS_IN' for '--sort <BY>': there is no column 'PKTS_IN', did you mean 'packets_in'; tcptop --columns help lists all",
            ),
            (
                "--sort process",
                "error: only groups have a column 'process': --by KEYS; connections have 'process_name'",
            ),
            (
                "--columns process",
                "error: only groups have a column 'process': --by KEYS; connections have 'process_name'",
            ),
            (
                "--columns interface",
                "error: only groups have a column 'interface': --by KEYS; connections have 'ifname'",
            ),
            (
                "--columns remot_addr",
                "error: invalid value 'remot_addr' for '--columns <LIST>': there is no column 'remot_addr', did you mean 'remote_addr'; tcptop --columns help lists all",
            ),
            (
                "--columns pid,speed",
                "error: invalid value 'pid,speed' for '--columns <LIST>': there is no column 'speed'; tcptop --columns help lists all",
            ),
            (
                "--columns +pid,,uid",
                "error: invalid value '+pid,,uid' for '--columns <LIST>': a name is missing between two commas, or there is none",
            ),
            (
                "--columns pid,pid",
                "error: invalid value 'pid,pid' for '--columns <LIST>': 'pid' is in it twice",
            ),
            (
                "--wide --format csv --columns pid",
                "error: --wide and --columns: a list without + names all columns",
            ),
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
                assert_eq!(text, golden, "BLESS=1 cargo test accepts the new text");
            }
        }
    }
}
