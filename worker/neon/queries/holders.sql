-- The sessions that have an open transaction.
-- Every transaction holds a lock on its own virtual id while it runs, and on its xid as soon as it has one. Those of
-- other databases and of autovacuum, which has no user, write nothing that is pulled.
SELECT l.pid, l.virtualtransaction AS vxid, a.xact_start AT TIME ZONE 'UTC' AS since,
  a.datname = current_database() AND a.usesysid IS NOT NULL AND a.pid <> pg_backend_pid() AS here,
  coalesce(array_agg(l.transactionid::text::bigint) FILTER (WHERE l.transactionid IS NOT NULL), '{}') AS xids
FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype IN ('virtualxid', 'transactionid') AND l.mode = 'ExclusiveLock' AND l.granted
GROUP BY l.pid, l.virtualtransaction, a.pid, a.usesysid, a.datname, a.xact_start
