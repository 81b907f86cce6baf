-- Which numbers to doubt: hosts that lost records, and those that went silent.
SELECT host, max(last_row) AS last, sum(records) AS lost, groupUniqArrayIf(cause, cause != '') AS causes
FROM
(
    SELECT host, max(timestamp) AS last_row, 0 AS records, '' AS cause
    FROM tcptop_rows
    WHERE timestamp > {since:DateTime('UTC')} AND timestamp <= {until:DateTime('UTC')}
    GROUP BY host
    UNION ALL
    SELECT host, max(timestamp), sum(records), cause
    FROM tcptop_lost
    WHERE timestamp > {since:DateTime('UTC')} AND timestamp <= {until:DateTime('UTC')}
    GROUP BY host, cause
)
GROUP BY host
HAVING lost > 0 OR last < {until:DateTime('UTC')} - INTERVAL 10 MINUTE
ORDER BY lost DESC, host
