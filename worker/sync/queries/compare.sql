-- Which rows of a batch from Neon are new in the workspace, or differ from the row that is there.
-- LIMIT keeps the planner from reading the batch once for each workspace row, OFFSET from reading an array once for each
-- of its elements. Errors that are a JSON null are none.
SELECT s.nr - 1 AS nr, w.{key} IS NULL AS new
FROM (
  SELECT key, a[1] AS hash, a[2]::bigint AS id, a[3] AS code, nullif(a[4]::jsonb, 'null') AS errors,
    nullif(a[5]::jsonb, 'null') AS warnings, nr
  FROM (SELECT key, compared::text[] AS a, nr
    FROM unnest(%(keys)s, %(compared)s) WITH ORDINALITY AS c (key, compared, nr) OFFSET 0) c OFFSET 0) s
LEFT JOIN LATERAL (SELECT * FROM {workspace} w WHERE w.{key} = s.key{key_cast} LIMIT 1) w ON true
WHERE w.{key} IS NULL
  -- Queued rows are left to the delivery, except those that wait for a lost record.
  OR (w.sync_code = 'lost' OR NOT coalesce(w.enrichment_status = 'complete' AND w.pushed_to_neon_at IS NULL, false))
  AND (w.last_sync_hash IS DISTINCT FROM s.hash OR w.neon_id IS DISTINCT FROM s.id
  OR w.promoted_at IS NOT NULL
  OR {code} IN ('left', 'gone', 'lost')  -- it is back
  OR (w.enrichment_status = 'pending' AND
      (nullif(w.original_validation_errors, 'null'), nullif(w.original_validation_warnings, 'null'), w.reason_code)
      IS DISTINCT FROM (s.errors, s.warnings, s.code)))
ORDER BY s.key
