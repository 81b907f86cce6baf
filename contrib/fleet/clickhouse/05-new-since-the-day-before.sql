-- What changed: which services are asked now that were not in the same time a day before,
-- and by what. Ports from 32768 on are clients' own.
WITH
    {since:DateTime('UTC')} AS since,
    {until:DateTime('UTC')} AS until
SELECT process_name, remote_addr, remote_port, uniqExact(host) AS hosts, min(timestamp) AS first
FROM tcptop_rows
WHERE remote_port < 32768
    AND ((timestamp > since AND timestamp <= until)
        OR (timestamp > since - INTERVAL 1 DAY AND timestamp <= until - INTERVAL 1 DAY))
GROUP BY process_name, remote_addr, remote_port
HAVING countIf(timestamp <= until - INTERVAL 1 DAY) = 0
ORDER BY hosts DESC, process_name, remote_addr
LIMIT 100
