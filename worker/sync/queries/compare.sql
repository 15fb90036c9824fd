-- Which rows of a batch from Neon are new in the workspace, or differ from the row that is there.
-- LIMIT keeps the planner from reading the batch once for each workspace row. Errors that are a JSON null arrive by COPY
-- as 'null', but within an object as NULL.
SELECT s.nr - 1 AS nr, w.{key} IS NULL AS new
FROM ROWS FROM (json_to_recordset(%(rows)s)
  AS (key text, hash text, id bigint, code text, errors jsonb, warnings jsonb)) WITH ORDINALITY
  AS s (key, hash, id, code, errors, warnings, nr)
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
