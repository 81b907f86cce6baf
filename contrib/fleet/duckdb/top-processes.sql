-- Which processes move most, over all hosts: what each connection moved from `since` to
-- `until`, which are variables as `parquet` is.
SELECT process_name, count(DISTINCT host) AS hosts, count(*) AS connections,
    sum(received) AS received, sum(sent) AS sent
FROM (
    SELECT host, conn_id, arg_max(process_name, timestamp) AS process_name,
        max(bytes_in) - coalesce(max(bytes_in) FILTER (timestamp <= getvariable('since')), 0) AS received,
        max(bytes_out) - coalesce(max(bytes_out) FILTER (timestamp <= getvariable('since')), 0) AS sent
    FROM read_parquet(getvariable('parquet'))
    WHERE timestamp > getvariable('since') - INTERVAL 10 MINUTE AND timestamp <= getvariable('until')
    GROUP BY host, conn_id
    HAVING max(timestamp) > getvariable('since')
)
GROUP BY process_name
ORDER BY sum(received + sent) DESC;
