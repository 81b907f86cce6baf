-- The peers to which most has to be sent again. Not those with a handful of packets.
SELECT remote_addr, uniqExact(host) AS hosts, sum(retrans) AS again, sum(packets_out) AS packets,
    round(100 * again / packets, 3) AS percent
FROM tcptop_moved(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')})
WHERE protocol = 'TCP'
GROUP BY remote_addr
HAVING packets >= 1000
ORDER BY percent DESC, remote_addr
LIMIT 20
