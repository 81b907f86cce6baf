-- Connections that failed: from where, to where, and why.
SELECT host, process_name, remote_addr, remote_port, end, count() AS failed, max(timestamp) AS last
FROM tcptop_rows
WHERE event = 'closed' AND end IN ('refused', 'timeout', 'unreachable', 'rst')
    AND timestamp > {since:DateTime('UTC')} AND timestamp <= {until:DateTime('UTC')}
GROUP BY ALL
ORDER BY failed DESC
LIMIT 100
