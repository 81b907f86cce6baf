-- Which services are far away or slow: round-trip times of the busy moments, handshakes.
SELECT remote_addr, remote_port, uniqExact(host) AS hosts,
    round(quantile(0.5)(rtt_us) / 1000, 3) AS rtt_ms, round(quantile(0.99)(rtt_us) / 1000, 3) AS worst_rtt_ms,
    round(quantile(0.99)(connect_us) / 1000, 3) AS worst_connect_ms, sum(syn_retrans) AS syns_again
FROM tcptop_rows
WHERE protocol = 'TCP' AND timestamp > {since:DateTime('UTC')} AND timestamp <= {until:DateTime('UTC')}
    AND remote_port < 32768
GROUP BY remote_addr, remote_port
HAVING count() >= 10
ORDER BY worst_rtt_ms DESC
LIMIT 20
