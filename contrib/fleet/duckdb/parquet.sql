-- Logs of `tcptop --format json` to one Parquet file a day, for who has no server:
-- duckdb -c ".read parquet.sql" after SET VARIABLE logs = 'logs/*.json', parquet = 'day.parquet'.
COPY (
    SELECT timestamp, host, event, conn_id, protocol, state, local_addr, local_port, remote_addr,
        remote_port, pid, process_name, exe, "user", unit, container, container_name, pod, bytes_in,
        bytes_out, packets_in, packets_out, rtt_us, min_rtt_us, connect_us, syn_retrans, retrans, "end"
    FROM read_json(getvariable('logs'), format = 'newline_delimited', columns = {
        timestamp: 'TIMESTAMP', host: 'VARCHAR', event: 'VARCHAR', conn_id: 'VARCHAR', protocol: 'VARCHAR',
        state: 'VARCHAR', local_addr: 'VARCHAR', local_port: 'USMALLINT', remote_addr: 'VARCHAR',
        remote_port: 'USMALLINT', pid: 'UINTEGER', process_name: 'VARCHAR', exe: 'VARCHAR', "user": 'VARCHAR',
        unit: 'VARCHAR', container: 'VARCHAR', container_name: 'VARCHAR', pod: 'VARCHAR', bytes_in: 'UBIGINT',
        bytes_out: 'UBIGINT', packets_in: 'UBIGINT', packets_out: 'UBIGINT', rtt_us: 'UINTEGER',
        min_rtt_us: 'UINTEGER', connect_us: 'UINTEGER', syn_retrans: 'UINTEGER', retrans: 'UINTEGER',
        "end": 'VARCHAR'})
    WHERE event IN ('sample', 'closed', 'expired')
    ORDER BY host, conn_id, timestamp
) TO (getvariable('parquet')) (FORMAT parquet, COMPRESSION zstd);
