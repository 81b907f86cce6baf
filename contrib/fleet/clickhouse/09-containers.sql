-- What each container or pod moved, and with how many peers.
SELECT coalesce(pod, container_name) AS container, uniqExact(host) AS hosts,
    uniqExact(remote_addr) AS peers, count() AS connections, sum(bytes_in) AS received, sum(bytes_out) AS sent
FROM tcptop_moved(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')})
WHERE container IS NOT NULL
GROUP BY container
ORDER BY sent + received DESC
LIMIT 50
