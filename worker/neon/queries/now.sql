-- The current time, and the latest ids and transaction ids.
SELECT pg_postmaster_start_time()::text AS server, now() AT TIME ZONE 'UTC' AS at,
  (SELECT coalesce(max(id), 0) FROM {invalid}) AS last_id,
  pg_snapshot_xmax(s)::text::bigint AS next_xid, ARRAY(SELECT x::text::bigint FROM pg_snapshot_xip(s) x) AS running
FROM pg_current_snapshot() s
