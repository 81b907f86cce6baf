-- Which processes move most, over all hosts.
SELECT process_name, uniqExact(host) AS hosts, count() AS connections,
    sum(bytes_in) AS received, sum(bytes_out) AS sent
FROM tcptop_moved(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')})
GROUP BY process_name
ORDER BY sent + received DESC
LIMIT 20
