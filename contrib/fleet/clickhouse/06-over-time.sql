-- Bytes per host and hour. The difference to the connection's row before, in each row.
SELECT toStartOfHour(timestamp - toIntervalMillisecond(1)) AS hour, host, sum(received) AS received, sum(sent) AS sent
FROM
(
    SELECT timestamp, host,
        bytes_in - lagInFrame(bytes_in) OVER connection AS received,
        bytes_out - lagInFrame(bytes_out) OVER connection AS sent
    FROM tcptop_rows
    WHERE timestamp > {since:DateTime('UTC')} - INTERVAL 10 MINUTE AND timestamp <= {until:DateTime('UTC')}
    WINDOW connection AS (PARTITION BY host, conn_id ORDER BY timestamp ROWS BETWEEN 1 PRECEDING AND CURRENT ROW)
)
WHERE timestamp > {since:DateTime('UTC')}
GROUP BY hour, host
ORDER BY hour, host
