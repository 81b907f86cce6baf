//! The manual page, tcptop(8).
//!
//! Owns the sections that are not about options: fields, exit status, overhead,
//! examples. The options come from [`cli`](crate::cli), so the page always has exactly
//! the options that are accepted. `--help` shows the exit statuses and examples too.
//! `tidy` folds the lines, as mandoc and those who translate pages want them.

use clap_mangen::roff::{Inline, Roff, bold, italic, roman};

mod tidy;

use crate::loss::LossCause;
use crate::output::columns::{COLUMNS, Column, Selection, Usual};
use crate::output::grouped;

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
        command: "tcptop --once --format csv | awk -F, '/,ESTABLISHED,/ { print $8 }' | sort | uniq -c",
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

/// An exit status, as `--help` and the manual page explain it.
pub(crate) struct ExitStatus {
    /// What the shell sees.
    pub(crate) status: u8,
    /// When tcptop ends with it: the middle of a sentence.
    pub(crate) meaning: &'static str,
    /// What the manual page adds: empty, or a blank and whole sentences.
    pub(crate) more: &'static str,
}

pub(crate) const EXIT_STATUSES: &[ExitStatus] = &[
    ExitStatus {
        status: 0,
        meaning: "stopped by Ctrl-C, SIGTERM, --count, --duration or a closed pipe",
        more: " Ctrl-C sends SIGINT.",
    },
    ExitStatus { status: 1, meaning: "an error: one line on stderr says what failed", more: "" },
    ExitStatus { status: 2, meaning: "a mistake in the arguments", more: "" },
    ExitStatus { status: 3, meaning: "--strict, and something was lost", more: "" },
    ExitStatus {
        status: 77,
        meaning: "not privileged",
        more: " tcptop needs root, or CAP_BPF and CAP_PERFMON.",
    },
];

/// The day of this version's release, as in the changelog.
const RELEASED: &str = "2026-11-22";

/// The page, in roff, for `command`.
pub(crate) fn page(command: clap::Command) -> Vec<u8> {
    // One section for all options: otherwise each group of --help would become a section.
    let mut command = command.mut_args(|argument| argument.help_heading(None::<&str>));
    command.build();
    let synopsis = synopsis(&command);
    let man = clap_mangen::Man::new(command);
    let mut page = format!(
        ".TH TCPTOP 8 {RELEASED} \"tcptop {}\" \"System Administration\"\n",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes();
    // Only memory is written to, which cannot fail.
    let _ = man
        .render_name_section(&mut page)
        .and_then(|()| synopsis.to_writer(&mut page))
        .and_then(|()| man.render_description_section(&mut page))
        .and_then(|()| man.render_options_section(&mut page))
        .and_then(|()| sections().to_writer(&mut page));
    tidy::tidy(&String::from_utf8_lossy(&page)).into_bytes()
}

/// Every option with its value: clap's own synopsis leaves the values out.
fn synopsis(command: &clap::Command) -> Roff {
    let mut roff = Roff::new();
    heading(&mut roff, "SYNOPSIS");
    let mut line = vec![bold(command.get_name())];
    let mut options: Vec<_> =
        command.get_arguments().filter(|option| !option.is_hide_set()).collect();
    options.sort_by_key(|option| option.get_display_order());
    for option in options {
        let short = option.get_short().map(|short| format!("-{short}"));
        let long = option.get_long().map(|long| format!("--{long}"));
        line.push(roman(" ["));
        line.extend(short.iter().map(|short| bold(short.as_str())));
        if short.is_some() && long.is_some() {
            line.push(roman("|"));
        }
        line.extend(long.iter().map(|long| bold(long.as_str())));
        if option.get_action().takes_values() {
            let names = option.get_value_names().unwrap_or_default();
            line.push(roman(" "));
            line.extend(names.iter().map(|name| italic(name.as_str())));
        }
        line.push(roman("]"));
    }
    roff.text(line);
    roff
}

fn sections() -> Roff {
    let mut roff = Roff::new();
    fields(&mut roff);
    csv(&mut roff);
    groups(&mut roff);
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
        "A row of the default format has exactly 13 blank-separated fields, even if the name \
         of a process has blanks, so that awk can rely on them. The header is printed once; on a \
         terminal, each screenful and when a column has become wider.",
    )]);
    for column in Selection::lines().iter() {
        item(roff, bold(column.title), column.about);
    }
    item(
        roff,
        bold("[PARTIAL]"),
        "A 14th field: the connection is older than tcptop and was counted from tcptop's start. \
         With --lifetime TCP connections never have it.",
    );
    paragraph(
        roff,
        "On a terminal lines that are too long lose something instead of wrapping: first the \
         exact number in sizes, then packets, the state, and of [PARTIAL] all but a *; then \
         retransmissions, RTT, the protocol and bytes. A ~ stands for what was cut out of an \
         address or a name. In a pipe lines are whole, and columns of --columns are never cut.",
    );
    paragraph(
        roff,
        "A size begins with the exact count, so awk's $7+0 reads it. From 1024 on a readable form \
         follows, in powers of 1024: 340B, 1258291(1.2M). Rates: 0B/s, 512B/s, 1.5KB/s. \
         Round-trip times: 87us, 5.0ms, 1.2s. A value that is not known is a dash. In names, \
         blanks, control characters and invisible characters become _, and bytes that are not \
         UTF-8 become U+FFFD.",
    );
    paragraph(
        roff,
        "With --timestamp the interval's time (RFC 3339, UTC, milliseconds) is the first field. \
         With --raw sizes are bytes, rates bytes per second (with --bits, bits) and RTT \
         microseconds, all plain integers.",
    );
    paragraph(roff, "A TCP connection that ended has one line:");
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
            "Seconds from the connection's start to its end; - where it is older than tcptop. \
                 With --raw it has six decimals and no unit.",
        ),
        (
            "end",
            "fin: closed in good order. rst: the peer reset it. abort: this host reset it. \
                 timeout: the peer did not answer. refused: the peer refused it. unreachable: the \
                 peer cannot be reached. - where it is not known.",
        ),
    ] {
        item(roff, bold(name), text);
    }
}

fn csv(roff: &mut Roff) {
    heading(roff, "CSV");
    roff.text([roman(
        "--log FILE or --format csv: a header, then in every interval a row for each open \
         connection, idle ones too, and one row with the final totals for each that ended in it: \
         state CLOSED for a TCP connection, EXPIRED for a UDP flow that was silent for \
         --udp-timeout. The final rows and the last rows of what is still open account for every \
         byte. Rows belong together by conn_id (--wide), not by addresses: ports are used again. \
         Lines end with a newline and no carriage return.",
    )]);
    columns(roff, Usual::Always);
    paragraph(
        roff,
        "Rates have two decimals, and are 0.00 in a CLOSED row. rtt_us is N/A where there is \
         none; other values that are not known are empty. Names are written unchanged.",
    );
    paragraph(roff, "--wide appends these columns, empty where the value is not known:");
    columns(roff, Usual::Wide);
    paragraph(
        roff,
        "--columns chooses the columns and their order in any format. These are only \
         there if it asks for them:",
    );
    columns(roff, Usual::Asked);
}

fn columns(roff: &mut Roff, usual: Usual) {
    COLUMNS.iter().filter(|column| column.usual == usual).for_each(|column| describe(roff, column));
}

fn describe(roff: &mut Roff, column: &Column) {
    let unit = if column.unit.is_empty() { String::new() } else { format!(" ({})", column.unit) };
    roff.control("TP", []);
    roff.text([bold(column.name), roman(unit)]);
    roff.text([roman(column.about)]);
}

fn groups(roff: &mut Roff) {
    heading(roff, "GROUPS");
    roff.text([roman(
        "--by KEYS: one row per group instead of one per connection. The keys are the first \
         columns (in CSV and JSON after timestamp). Totals are since tcptop began, only grow, and \
         include connections that have closed. A connection counts for the group in which it is \
         at the time. What finds no room (--groups), and with --top the rest, is the group \
         (other).",
    )]);
    for column in grouped::totals() {
        describe(roff, column);
    }
    paragraph(
        roff,
        "--textfile writes the same as metrics: tcptop_connections, tcptop_opened_total, \
         tcptop_closed_total, tcptop_failed_total, tcptop_bytes_in_total, tcptop_bytes_out_total, \
         tcptop_packets_in_total, tcptop_packets_out_total, tcptop_retrans_total and \
         tcptop_rtt_seconds, with a label for each key, and tcptop_lost_total for each cause. The \
         file stays when tcptop ends; its age tells.",
    );
}

fn json(roff: &mut Roff) {
    heading(roff, "JSON");
    let causes = LossCause::ALL.map(LossCause::name).join(", ");
    roff.text([roman(format!(
        "--format json: one object a line, with the keys of the CSV columns, those of --wide \
         included. Numbers are numbers, partial is true or false, a value that is not known is \
         null. Every object has \"schema\": 1 (it changes when a key is removed or changes its \
         meaning; new keys may be added without a change) and \"event\": sample for an open \
         connection, closed for one that ended, expired for a UDP flow that was silent, group for the \
         totals of a group, lost for the losses of an interval, with a count for each cause: \
         {causes}."
    ))]);
}

fn exit_status(roff: &mut Roff) {
    heading(roff, "EXIT STATUS");
    for ExitStatus { status, meaning, more } in EXIT_STATUSES {
        let text = capitalized(meaning) + "." + more;
        item(roff, bold(status.to_string()), &text);
    }
}

/// `text` as the beginning of a sentence.
fn capitalized(text: &str) -> String {
    let (first, rest) = text.split_at(text.chars().next().map_or(0, char::len_utf8));
    first.to_uppercase() + rest
}

fn signals(roff: &mut Roff) {
    heading(roff, "SIGNALS");
    for (signal, text) in [
        (
            "SIGINT, SIGTERM",
            "Finish the interval, write the summary, end. Another one, more than 0.3 seconds \
             later, kills tcptop.",
        ),
        (
            "SIGHUP",
            "Open the file of --log again, for logrotate(8). Without --log the same as SIGTERM, \
             but ignored where the parent ignores it, as nohup(1) does.",
        ),
    ] {
        item(roff, bold(signal), text);
    }
    heading(roff, "ENVIRONMENT");
    item(
        roff,
        bold("NO_COLOR"),
        "Where it is set and not empty, --color auto means never. TERM=dumb has the same effect.",
    );
}

fn overhead(roff: &mut Roff) {
    heading(roff, "OVERHEAD");
    roff.text([roman(
        "No program counts bytes or segments of TCP: the totals are the kernel's own, read from \
         the socket once an interval and when it closes. On a kernel without BPF trampolines a \
         short program runs for every packet, to find those of UDP; not with --tcp. A call that sends or receives takes \
         about 25 ns longer, to note the owner. An interval costs about 0.3 \
         microseconds per idle connection and one per active one, so a host with 100,000 of them is better served by \
         --interval 10 than by 0.1. Counting a UDP datagram takes 25 to 60 ns. Filters by port, \
         protocol, address family, prefix and (TCP) cgroup are applied in the kernel: connections that do not match are \
         not recorded.",
    )]);
    paragraph(
        roff,
        "Losses (a full buffer, a full table, a reader that stopped) are counted by cause, \
         reported on stderr in the interval in which they happen, and in total at the end.",
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
    paragraph(
        roff,
        "--doctor reports which kernel hooks tcptop uses on this host. --verify compares its totals \
         with those that ss -i shows.",
    );
}
