-- Who talked to that address: hosts, processes and services, and how much.
-- {address:String}
SELECT host, process_name, user, unit, container_name, remote_port, count() AS connections,
    sum(bytes_in) AS received, sum(bytes_out) AS sent, max(last_seen) AS last
FROM tcptop_moved(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')})
WHERE remote_addr = toIPv6({address:String})
GROUP BY ALL
ORDER BY sent + received DESC
