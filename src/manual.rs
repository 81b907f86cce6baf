//! The manual page, tcptop(8).
//!
//! Owns the sections that no option tells: fields, exit status, overhead,
//! examples. The options come from [`cli`](crate::cli), so they cannot differ
//! from what is accepted.

use clap_mangen::roff::{Inline, Roff, bold, roman};

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
    for (name, text) in [
        ("PROTO", "TCP or UDP."),
        (
            "LOCAL",
            "Address and port of this host's end: 10.0.0.1:443, [2001:db8::1]:443. A \
                   link-local IPv6 address carries its scope: [fe80::1%2]:443.",
        ),
        ("REMOTE", "Address and port of the other end."),
        (
            "PID",
            "The process that last connected, accepted, sent or received on the socket; \
                 before that, one that holds it. - where it is not known.",
        ),
        (
            "PROCESS",
            "Its name, at most 15 bytes. Blanks, control characters and characters that \
                     cannot be seen become _, what is not UTF-8 becomes U+FFFD.",
        ),
        (
            "STATE",
            "ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK \
                   or CLOSING; UDP for UDP.",
        ),
        (
            "BYTES_IN, BYTES_OUT",
            "Payload received in order, and payload sent; what TCP sends \
                   again counts once. The exact number, from 1024 on with a readable one in \
                   powers of 1024: 340B, 1258291(1.2M). A number's beginning is the exact count: \
                   awk's $7+0.",
        ),
        ("PKTS_IN, PKTS_OUT", "TCP segments, pure acknowledgements included; UDP datagrams."),
        (
            "RTT",
            "The kernel's smoothed round-trip time: 87us, 5.0ms, 1.2s. - for UDP and before \
                 the first measurement.",
        ),
        (
            "RATE_IN, RATE_OUT",
            "Bytes of this interval by its measured length: 0B/s, 512B/s, \
                 1.5KB/s.",
        ),
        (
            "[PARTIAL]",
            "A 14th field: the connection is older than tcptop and was counted from \
                 tcptop's start. Never with --lifetime.",
        ),
    ] {
        item(roff, bold(name), text);
    }
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
    for (name, text) in [
        ("timestamp", "The interval's time, one for all its rows: RFC 3339, UTC."),
        ("protocol, local_addr, local_port, remote_addr, remote_port", "As above, in parts."),
        ("pid, process_name", "The owner; the raw name. Empty where it is not known."),
        ("state", "As above, and CLOSED."),
        ("bytes_in, bytes_out, packets_in, packets_out", "Totals."),
        ("rate_in_bytes_sec, rate_out_bytes_sec", "Two decimals; 0.00 in a CLOSED row."),
        ("rtt_us", "Microseconds, or N/A."),
    ] {
        item(roff, bold(name), text);
    }
    paragraph(roff, "--wide appends these, empty where they are not known:");
    for (name, text) in [
        ("partial", "true or false: older than tcptop, and counted from its start."),
        ("retrans", "Segments sent again."),
        ("min_rtt_us", "The kernel's minimum round-trip time, microseconds."),
        ("age_sec", "Seconds since the connection began, six decimals."),
        ("uid", "User id of the socket's creator."),
        ("ifname", "Device, in tcptop's own network namespace."),
        ("netns", "Inode number of the network namespace, as in /proc/PID/ns/net."),
        ("cgroup", "Path below the cgroup v2 mount."),
        ("container", "Container id in that path (Docker, containerd, CRI-O, Podman)."),
        ("end", "Why it ended, as above."),
    ] {
        item(roff, bold(name), text);
    }
}

fn json(roff: &mut Roff) {
    heading(roff, "JSON");
    roff.text([roman(
        "--format json: one object a line, with the keys of the CSV columns, those of --wide \
         included. Numbers are numbers, partial is true or false, what is not known is null. \
         Every object has \"schema\": 1 (it changes when a key changes its meaning or goes; new \
         keys may come) and \"event\": sample for an open connection, closed for one that ended, \
         lost for what could not be kept in the interval, with a count by cause: ring_full, \
         storage_full, channel_full, malformed, flow_table_datagrams, flow_table_bytes, \
         receiver_table_full, skipped.",
    )]);
}

fn exit_status(roff: &mut Roff) {
    heading(roff, "EXIT STATUS");
    for (status, text) in [
        ("0", "Stopped by SIGINT, SIGTERM, --count, --duration or a closed pipe."),
        ("1", "An error; one line on stderr says what failed and what to do."),
        ("2", "A mistake in the arguments."),
        ("3", "--strict was given and something was lost."),
        ("77", "Not privileged: neither root nor CAP_BPF and CAP_PERFMON."),
    ] {
        item(roff, bold(status), text);
    }
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
    for (words, commands) in [
        ("Everything, each second:", "tcptop"),
        ("One service:", "tcptop --port 443 --process nginx"),
        ("The ten busiest, every ten seconds:", "tcptop --interval 10 --top 10"),
        (
            "Open connections per process:",
            "tcptop --once --format csv | awk -F, 'NR > 1 { n[$8]++ } END { for (p in n) print n[p], p }'",
        ),
        (
            "A day as CSV, every ten seconds:",
            "tcptop --log /var/log/tcptop.csv --interval 10 --duration 86400",
        ),
        (
            "Connections that the peer reset:",
            "tcptop --format json | jq -c 'select(.event == \"closed\" and .end == \"rst\")'",
        ),
    ] {
        paragraph(roff, words);
        example(roff, commands);
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
