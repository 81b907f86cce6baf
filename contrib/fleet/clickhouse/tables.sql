-- Where a fleet's tcptops write to: `tcptop --format json --lifetime --columns
-- +user,unit,syn_retrans,connect_us --interval 60`, and exe, container_name, pod where wanted.
--
-- The shipper inserts whole lines into tcptop_lines, which keeps nothing: two views take them
-- apart. So a tcptop with more columns, or with fewer, needs no other shipper; a key that
-- tcptop does not write is empty here.
--
-- A row of tcptop_rows has the totals of its connection since that opened (UDP: since tcptop saw
-- it first), so they only grow, also where tcptop starts again. Bytes of
-- a time are therefore the difference between two rows of one connection (host, conn_id):
-- the queries read one interval more than they are asked for.

CREATE TABLE IF NOT EXISTS tcptop_lines (line String) ENGINE = Null;

CREATE TABLE IF NOT EXISTS tcptop_rows
(
    timestamp          DateTime64(3, 'UTC')               CODEC(Delta, ZSTD(1)),
    host               LowCardinality(String),
    event              Enum8('sample' = 1, 'closed' = 2, 'expired' = 3),
    conn_id            String                             CODEC(ZSTD(1)),
    started            Nullable(DateTime64(3, 'UTC'))     CODEC(ZSTD(1)),
    protocol           LowCardinality(String),
    state              LowCardinality(String),
    -- IPv4 as ::ffff:a.b.c.d, so that one column and one index serve both.
    local_addr         IPv6                               CODEC(ZSTD(1)),
    local_port         UInt16                             CODEC(ZSTD(1)),
    remote_addr        IPv6                               CODEC(ZSTD(1)),
    remote_port        UInt16                             CODEC(ZSTD(1)),
    pid                Nullable(UInt32)                   CODEC(ZSTD(1)),
    process_name       LowCardinality(Nullable(String)),
    exe                LowCardinality(Nullable(String)),
    user               LowCardinality(Nullable(String)),
    uid                Nullable(UInt32)                   CODEC(ZSTD(1)),
    unit               LowCardinality(Nullable(String)),
    cgroup             LowCardinality(Nullable(String)),
    container          LowCardinality(Nullable(String)),
    container_name     LowCardinality(Nullable(String)),
    pod                LowCardinality(Nullable(String)),
    netns              Nullable(UInt64)                   CODEC(ZSTD(1)),
    ifname             LowCardinality(Nullable(String)),
    bytes_in           UInt64                             CODEC(T64, ZSTD(1)),
    bytes_out          UInt64                             CODEC(T64, ZSTD(1)),
    packets_in         UInt64                             CODEC(T64, ZSTD(1)),
    packets_out        UInt64                             CODEC(T64, ZSTD(1)),
    rate_in_bytes_sec  Float32                            CODEC(ZSTD(1)),
    rate_out_bytes_sec Float32                            CODEC(ZSTD(1)),
    rtt_us             Nullable(UInt32)                   CODEC(ZSTD(1)),
    min_rtt_us         Nullable(UInt32)                   CODEC(ZSTD(1)),
    connect_us         Nullable(UInt32)                   CODEC(ZSTD(1)),
    syn_retrans        Nullable(UInt32)                   CODEC(ZSTD(1)),
    retrans            Nullable(UInt32)                   CODEC(ZSTD(1)),
    age_sec            Nullable(Float64)                  CODEC(ZSTD(1)),
    end                LowCardinality(Nullable(String)),
    partial            Bool,

    INDEX remote remote_addr TYPE bloom_filter GRANULARITY 4
)
ENGINE = MergeTree
PARTITION BY toDate(timestamp)
-- The rows of one connection lie together: their totals compress, and differences are cheap.
ORDER BY (host, conn_id, timestamp)
TTL toDateTime(timestamp) + INTERVAL 30 DAY
SETTINGS ttl_only_drop_parts = 1;

-- Where numbers are too small, and why: what a tcptop could not keep.
CREATE TABLE IF NOT EXISTS tcptop_lost
(
    timestamp DateTime64(3, 'UTC'),
    host      LowCardinality(String),
    cause     LowCardinality(String),
    records   UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (host, timestamp)
TTL toDateTime(timestamp) + INTERVAL 30 DAY;

-- What each connection moved from one time to another, both ends included in neither a gap
-- nor an overlap: tcptop_moved(since = '2026-01-01 00:00:00', until = '2026-01-02 00:00:00').
-- Reads ten minutes more, for the totals that each connection had at `since`: tcptops with an
-- --interval of up to ten minutes, without --changed. The owner is the last one.
CREATE VIEW IF NOT EXISTS tcptop_moved AS
SELECT
    host,
    conn_id,
    protocol,
    local_addr,
    local_port,
    remote_addr,
    remote_port,
    argMax(process_name, timestamp) AS process_name,
    argMax(user, timestamp) AS user,
    argMax(unit, timestamp) AS unit,
    argMax(container_name, timestamp) AS container_name,
    argMax(pod, timestamp) AS pod,
    argMax(end, timestamp) AS end,
    max(timestamp) AS last_seen,
    max(bytes_in) - maxIf(bytes_in, timestamp <= {since:DateTime('UTC')}) AS bytes_in,
    max(bytes_out) - maxIf(bytes_out, timestamp <= {since:DateTime('UTC')}) AS bytes_out,
    max(packets_out) - maxIf(packets_out, timestamp <= {since:DateTime('UTC')}) AS packets_out,
    max(retrans) - maxIf(retrans, timestamp <= {since:DateTime('UTC')}) AS retrans
FROM tcptop_rows
WHERE timestamp > {since:DateTime('UTC')} - INTERVAL 10 MINUTE AND timestamp <= {until:DateTime('UTC')}
-- A connection has one of each: a query for one address reads nothing else.
GROUP BY host, conn_id, protocol, local_addr, local_port, remote_addr, remote_port
HAVING last_seen > {since:DateTime('UTC')};

CREATE MATERIALIZED VIEW IF NOT EXISTS tcptop_take_rows TO tcptop_rows AS
WITH JSONExtract(line, 'Tuple(
        timestamp String, host String, event String, conn_id String, started Nullable(String),
        protocol String, state String, local_addr String, local_port UInt16, remote_addr String,
        remote_port UInt16, pid Nullable(UInt32), process_name Nullable(String),
        exe Nullable(String), user Nullable(String), uid Nullable(UInt32), unit Nullable(String),
        cgroup Nullable(String), container Nullable(String), container_name Nullable(String),
        pod Nullable(String), netns Nullable(UInt64), ifname Nullable(String), bytes_in UInt64,
        bytes_out UInt64, packets_in UInt64, packets_out UInt64, rate_in_bytes_sec Float32,
        rate_out_bytes_sec Float32, rtt_us Nullable(UInt32), min_rtt_us Nullable(UInt32),
        connect_us Nullable(UInt32), syn_retrans Nullable(UInt32), retrans Nullable(UInt32),
        age_sec Nullable(Float64), end Nullable(String), partial Bool)') AS row
SELECT
    parseDateTime64BestEffort(row.timestamp, 3, 'UTC') AS timestamp,
    row.host AS host,
    row.event AS event,
    row.conn_id AS conn_id,
    parseDateTime64BestEffortOrNull(row.started, 3, 'UTC') AS started,
    row.protocol AS protocol,
    row.state AS state,
    toIPv6(splitByChar('%', row.local_addr)[1]) AS local_addr,
    row.local_port AS local_port,
    toIPv6(splitByChar('%', row.remote_addr)[1]) AS remote_addr,
    row.remote_port AS remote_port,
    row.pid AS pid,
    row.process_name AS process_name,
    row.exe AS exe,
    row.user AS user,
    row.uid AS uid,
    row.unit AS unit,
    row.cgroup AS cgroup,
    row.container AS container,
    row.container_name AS container_name,
    row.pod AS pod,
    row.netns AS netns,
    row.ifname AS ifname,
    row.bytes_in AS bytes_in,
    row.bytes_out AS bytes_out,
    row.packets_in AS packets_in,
    row.packets_out AS packets_out,
    row.rate_in_bytes_sec AS rate_in_bytes_sec,
    row.rate_out_bytes_sec AS rate_out_bytes_sec,
    row.rtt_us AS rtt_us,
    row.min_rtt_us AS min_rtt_us,
    row.connect_us AS connect_us,
    row.syn_retrans AS syn_retrans,
    row.retrans AS retrans,
    row.age_sec AS age_sec,
    row.end AS end,
    row.partial AS partial
FROM tcptop_lines
WHERE JSONExtractString(line, 'event') IN ('sample', 'closed', 'expired');

CREATE MATERIALIZED VIEW IF NOT EXISTS tcptop_take_lost TO tcptop_lost AS
SELECT
    parseDateTime64BestEffort(JSONExtractString(line, 'timestamp'), 3, 'UTC') AS timestamp,
    JSONExtractString(line, 'host') AS host,
    counted.1 AS cause,
    counted.2 AS records
FROM tcptop_lines
ARRAY JOIN JSONExtractKeysAndValues(line, 'UInt64') AS counted
WHERE JSONExtractString(line, 'event') = 'lost' AND counted.1 != 'schema' AND counted.2 > 0;
