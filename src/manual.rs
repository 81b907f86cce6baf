//! The manual page, tcptop(8).
//!
//! Owns the sections that no option tells: fields, exit status, overhead,
//! examples. The options come from [`cli`](crate::cli), so they cannot differ
//! from what is accepted; exit statuses and examples go from here into `--help`.

use clap_mangen::roff::{Inline, Roff, bold, roman};

use crate::loss::LossCause;
use crate::output::columns::{COLUMNS, Selection, Usual};

/// A command that `--help` and the manual page show.
pub(crate) struct Example {
    /// What to type as root.
    pub(crate) command: &'static str,
    /// What it shows: the middle of a sentence.
    pub(crate) shows: &'static str,
}

pub(crate) const EXAMPLES: &[Example] = &[
    Example { command: "tcptop", shows: "what every connection of this host does, each second" },
    Example { command: "tcptop --port 443 --process nginx", shows: "what nginx does on port 443" },
    Example {
        command: "tcptop --interval 10 --top 10",
        shows: "the ten busiest, every ten seconds",
    },
    Example {
        command: "tcptop --once --format csv | awk -F, 'NR > 1 { n[$8]++ } END { for (p in n) print n[p], p }'",
        shows: "open connections per process",
    },
    Example {
        command: "tcptop --log /var/log/tcptop.csv --interval 10 --duration 86400",
        shows: "a day as CSV, every ten seconds",
    },
    Example {
        command: "tcptop --format json | jq -c 'select(.event == \"closed\" and .end == \"rst\")'",
        shows: "connections that the peer reset",
    },
];

/// How tcptop can end, as `--help` and the manual page tell it.
pub(crate) struct ExitStatus {
    /// What the shell sees.
    pub(crate) status: u8,
    /// When it ends so: the middle of a sentence.
    pub(crate) meaning: &'static str,
    /// What the manual page adds: nothing, or a blank and whole sentences.
    pub(crate) more: &'static str,
}

pub(crate) const EXIT_STATUSES: &[ExitStatus] = &[
    ExitStatus {
        status: 0,
        meaning: "stopped by Ctrl-C, SIGTERM, --count, --duration or a closed pipe",
        more: " Ctrl-C sends SIGINT.",
    },
    ExitStatus {
        status: 1,
        meaning: "an error: one line on stderr says what failed",
        more: " It says what to do, too.",
    },
    ExitStatus { status: 2, meaning: "a mistake in the arguments", more: "" },
    ExitStatus { status: 3, meaning: "--strict, and something was lost", more: "" },
    ExitStatus {
        status: 77,
        meaning: "not privileged",
        more: " That is neither root nor CAP_BPF and CAP_PERFMON.",
    },
];

/// The page, in roff, for `command`.
pub(crate) fn page(command: clap::Command) -> Vec<u8> {
    // One section for all options: the groups of --help would each become one.
    let command = command.mut_args(|argument| argument.help_heading(None::<&str>));
    let man = clap_mangen::Man::new(command);
    // The title by hand: it has no date, and render_title() leaves that out
    // instead of writing an empty one, so that the next word takes its place.
    let mut page = format!(
        ".TH TCPTOP 8 \"\" \"tcptop {}\" \"System Administration\"\n",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes();
    // Only memory is written to, which cannot fail.
    let _ = man
        .render_name_section(&mut page)
        .and_then(|()| man.render_synopsis_section(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page))
        .and_then(|()| sections().to_writer(&mut page));
    page
}

fn sections() -> Roff {
    let mut roff = Roff::new();
    fields(&mut roff);
    csv(&mut roff);
    json(&mut roff);
    exit_status(&mut roff);
    signals(&mut roff);
    overhead(&mut roff);
    examples(&mut roff);
    see_also(&mut roff);
    roff
}

fn heading(roff: &mut Roff, title: &str) {
    roff.control("SH", [title]);
}

fn paragraph(roff: &mut Roff, text: &str) {
    roff.control("PP", []);
    roff.text([roman(text)]);
}

fn item(roff: &mut Roff, term: Inline, text: &str) {
    roff.control("TP", []);
    roff.text([term]);
    roff.text([roman(text)]);
}

fn fields(roff: &mut Roff) {
    heading(roff, "FIELDS");
    roff.text([roman(
        "A row of the default format has exactly 13 blank-separated fields, whatever a process \
         calls itself, so that awk can count on them. The header is printed once.",
    )]);
    for column in Selection::lines().iter() {
        item(roff, bold(column.title), column.about);
    }
    item(
        roff,
        bold("[PARTIAL]"),
        "A 14th field: the connection is older than tcptop and was counted from tcptop's start. \
         Never for TCP with --lifetime.",
    );
    paragraph(
        roff,
        "Sizes are exact, and from 1024 on have a readable form behind them, in powers of 1024: \
         340B, 1258291(1.2M). Since a number's beginning is the exact count, awk's $7+0 is it. \
         Rates: 0B/s, 512B/s, 1.5KB/s. Round-trip times: 87us, 5.0ms, 1.2s. What is not known is \
         a dash. In names blanks, control characters and characters that cannot be seen become _, \
         and what is not UTF-8 becomes U+FFFD.",
    );
    paragraph(
        roff,
        "With --timestamp the interval's time (RFC 3339, UTC, milliseconds) comes before all of \
         them. With --raw sizes are bytes, rates bytes per second and RTT microseconds, all \
         plain integers.",
    );
    paragraph(roff, "A TCP connection that ended is told in one line:");
    example(
        roff,
        "[CLOSED] TCP 10.0.0.1:12345 -> 93.184.216.34:443 (curl, PID 1234) in=1258291(1.2M) \
         out=340B pkts_in=900 pkts_out=12 rtt=5.0ms retrans=0 age=12.346s end=fin",
    );
    for (name, text) in [
        ("in, out, pkts_in, pkts_out, rtt", "The final totals, as above."),
        ("retrans", "Segments sent again."),
        (
            "age",
            "Seconds from its start to its end; - where it is older than tcptop. With --raw \
                 six decimals and no unit.",
        ),
        (
            "end",
            "fin: closed in good order. rst: the peer reset it. abort: this host reset it. \
                 timeout: the peer did not answer. refused: the peer refused it. unreachable: no \
                 way to the peer. - where it is not known.",
        ),
    ] {
        item(roff, bold(name), text);
    }
}

fn csv(roff: &mut Roff) {
    heading(roff, "CSV");
    roff.text([roman(
        "--log FILE or --format csv: a header, then every interval a row per open connection, \
         idle ones too, and one row with state CLOSED and the final totals for each TCP \
         connection that ended in it. Summing the CLOSED rows and the last rows of what is still \
         open accounts for every byte. Lines end with a newline alone.",
    )]);
    columns(roff, Usual::Always);
    paragraph(
        roff,
        "Rates have two decimals, and are 0.00 in a CLOSED row. rtt_us is N/A where there is \
         none; other values that are not known are empty. Names are raw.",
    );
    paragraph(roff, "--wide appends these, empty where they are not known:");
    columns(roff, Usual::Wide);
}

fn columns(roff: &mut Roff, usual: Usual) {
    for column in COLUMNS.iter().filter(|column| column.usual == usual) {
        let unit =
            if column.unit.is_empty() { String::new() } else { format!(" ({})", column.unit) };
        roff.control("TP", []);
        roff.text([bold(column.name), roman(unit)]);
        roff.text([roman(column.about)]);
    }
}

fn json(roff: &mut Roff) {
    heading(roff, "JSON");
    let causes = LossCause::ALL.map(LossCause::name).join(", ");
    roff.text([roman(format!(
        "--format json: one object a line, with the keys of the CSV columns, those of --wide \
         included. Numbers are numbers, partial is true or false, what is not known is null. \
         Every object has \"schema\": 1 (it changes when a key changes its meaning or goes; new \
         keys may come) and \"event\": sample for an open connection, closed for one that ended, \
         lost for what could not be kept in the interval, with a count by cause: {causes}."
    ))]);
}

fn exit_status(roff: &mut Roff) {
    heading(roff, "EXIT STATUS");
    for ExitStatus { status, meaning, more } in EXIT_STATUSES {
        let text = capitalized(meaning) + "." + more;
        item(roff, bold(status.to_string()), &text);
    }
}

/// `words` as the beginning of a sentence.
fn capitalized(words: &str) -> String {
    let (first, rest) = words.split_at(words.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + rest
}

fn signals(roff: &mut Roff) {
    heading(roff, "SIGNALS");
    for (signal, text) in [
        ("SIGINT, SIGTERM", "Finish the interval, write the summary, end. A second SIGINT kills."),
        ("SIGHUP", "Open the file of --log again, for logrotate(8)."),
    ] {
        item(roff, bold(signal), text);
    }
    heading(roff, "ENVIRONMENT");
    item(
        roff,
        bold("NO_COLOR"),
        "Where it is set and not empty, --color auto means never. So does TERM=dumb.",
    );
}

fn overhead(roff: &mut Roff) {
    heading(roff, "OVERHEAD");
    roff.text([roman(
        "No program runs per byte or per TCP segment: the totals are the kernel's own, read from \
         the socket once an interval and when it closes. A call that sends or receives pays some \
         25 ns for the owner. An interval costs between 0.2 and 0.6 microseconds per open \
         connection, so a host with 100,000 of them is better served by --interval 10 than by \
         0.1. Each UDP datagram is counted by itself, for 25 to 60 ns. Filters by port, protocol \
         and address family are applied in the kernel: what they leave out is not recorded.",
    )]);
    paragraph(
        roff,
        "What could not be kept (a full buffer, a full table, a reader that stopped) is counted \
         by cause, told on stderr in the interval where it happened and totalled at the end.",
    );
}

fn example(roff: &mut Roff, text: &str) {
    roff.control("PP", []);
    roff.control("RS", ["4"]);
    roff.control("nf", []);
    roff.text([roman(text)]);
    roff.control("fi", []);
    roff.control("RE", []);
}

fn examples(roff: &mut Roff) {
    heading(roff, "EXAMPLES");
    for Example { command, shows } in EXAMPLES {
        paragraph(roff, &(capitalized(shows) + ":"));
        example(roff, command);
    }
}

fn see_also(roff: &mut Roff) {
    heading(roff, "SEE ALSO");
    roff.text([
        bold("ss"),
        roman("(8), "),
        bold("logrotate"),
        roman("(8), "),
        bold("capabilities"),
        roman("(7), "),
        bold("tcp"),
        roman("(7), "),
        bold("udp"),
        roman("(7)"),
    ]);
    paragraph(roff, "--doctor tells which kernel hooks serve on this host.");
}
