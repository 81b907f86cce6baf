//! The columns of CSV, the keys of JSON and the causes of loss, as promised to users. This
//! list is independent of the program, so that the tests notice when a column changes its
//! name, its place or its type.

/// Name and type in JSON: N for a number, S for a string, B for a boolean; lower case
/// means that it may be null.
pub const COLUMNS: &[(&str, char)] = &[
    ("timestamp", 'S'),
    ("protocol", 'S'),
    ("local_addr", 'S'),
    ("local_port", 'N'),
    ("remote_addr", 'S'),
    ("remote_port", 'N'),
    ("pid", 'n'),
    ("process_name", 's'),
    ("state", 'S'),
    ("bytes_in", 'N'),
    ("bytes_out", 'N'),
    ("packets_in", 'N'),
    ("packets_out", 'N'),
    ("rate_in_bytes_sec", 'N'),
    ("rate_out_bytes_sec", 'N'),
    ("rtt_us", 'n'),
    ("partial", 'B'),
    ("retrans", 'N'),
    ("min_rtt_us", 'n'),
    ("age_sec", 'n'),
    ("uid", 'N'),
    ("ifname", 's'),
    ("netns", 'n'),
    ("cgroup", 's'),
    ("container", 's'),
    ("end", 's'),
    ("conn_id", 's'),
    ("started", 's'),
    ("host", 'S'),
];

/// The columns that only `--columns` brings.
pub const ASKED: &[(&str, char)] = &[
    ("local", 'S'),
    ("remote", 'S'),
    ("connect_us", 'n'),
    ("syn_retrans", 'n'),
    ("cwnd", 'n'),
    ("ssthresh", 'n'),
    ("mss", 'n'),
    ("rttvar_us", 'n'),
    ("rcv_rtt_us", 'n'),
    ("delivery_rate", 'n'),
    ("pacing_rate", 'n'),
    ("unacked", 'n'),
    ("lost", 'n'),
    ("reordering", 'n'),
    ("bytes_retrans", 'n'),
    ("dsack_dups", 'n'),
    ("rcv_ooo", 'n'),
    ("notsent", 'n'),
    ("send_queue", 'n'),
    ("recv_queue", 'n'),
    ("busy_us", 'n'),
    ("rwnd_limited_us", 'n'),
    ("sndbuf_limited_us", 'n'),
    ("limited_by", 's'),
    ("congestion", 's'),
    ("drops", 'n'),
    ("exe", 's'),
    ("user", 's'),
    ("unit", 's'),
    ("container_name", 's'),
    ("pod", 's'),
];

/// The number of columns in CSV without `--wide`.
pub const USUAL: usize = 16;

/// The keys that a `lost` object counts by, and the words for each on stderr.
pub const CAUSES: &[(&str, &str)] = &[
    ("ring_full", "closed connections (ring buffer full)"),
    ("storage_full", "connections (no memory for socket storage)"),
    ("channel_full", "closed connections (output blocked)"),
    ("malformed", "malformed records"),
    ("flow_table_datagrams", "UDP datagrams (flow table full)"),
    ("flow_table_bytes", "UDP bytes (flow table full)"),
    ("receiver_table_full", "receivers of UDP sockets (receiver table full)"),
    ("skipped", "UDP sends and receives (skipped by the kernel)"),
    ("state_skipped", "beginnings or ends of connections (skipped by the kernel)"),
    ("unreadable", "UDP datagrams (header not found)"),
    ("cgroups", "names of new cgroups (ring buffer full or output blocked)"),
];

/// The names of the first `count` columns of [`COLUMNS`].
pub fn names(count: usize) -> Vec<&'static str> {
    COLUMNS[..count].iter().map(|(name, _)| *name).collect()
}
