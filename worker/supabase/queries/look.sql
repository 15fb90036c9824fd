-- What a worker that has nothing to do asks of an entity, in one statement.
SELECT {name} AS entity, z.paused_at AT TIME ZONE 'UTC' AS paused_at,
  -- Nothing of a paused entity is claimed or pulled.
  z.entity IS NULL AND EXISTS (SELECT FROM {workspace} w WHERE {is_work}{but}) AS has_work,
  z.entity IS NULL AND {is_due} AS is_due,
  {has_event} AS has_event,
  -- Counters of the server's, which every role may read; where they are off, nothing says whether a row has changed.
  CASE WHEN current_setting('track_counts')::boolean THEN concat_ws(' ', z.xmin, p.xmin, pg_stat_get_tuples_inserted(t.oid),
    pg_stat_get_tuples_updated(t.oid), pg_stat_get_tuples_deleted(t.oid)) END AS changes,
  -- Listeners hear it: that proves the way of a notification. A standby has none to give.
  NOT pg_is_in_recovery() AND pg_notify({channel}, '') IS NOT NULL AS notified
FROM (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now) c
  CROSS JOIN (SELECT {table_name}::regclass::oid) t (oid)
  LEFT JOIN {position} p ON p.entity = {name}
  LEFT JOIN {paused} z ON z.entity = {name}
