-- The services of a host and their clients' processes: both ends of each connection.
SELECT server.host AS server, server.process_name AS service, server.local_port AS port,
    client.host AS client, client.process_name AS program, count() AS connections,
    sum(client.bytes_in) AS served
FROM tcptop_moved(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')}) AS client
INNER JOIN tcptop_moved(since = {since:DateTime('UTC')}, until = {until:DateTime('UTC')}) AS server
    ON client.protocol = server.protocol
    AND client.local_addr = server.remote_addr AND client.local_port = server.remote_port
    AND client.remote_addr = server.local_addr AND client.remote_port = server.local_port
WHERE client.local_port >= 32768 AND server.local_port < 32768
GROUP BY ALL
ORDER BY served DESC
LIMIT 100
