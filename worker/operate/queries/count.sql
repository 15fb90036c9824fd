-- The rows of a workspace table by status, its queue, and the position of its pull.
SELECT {name} AS entity, s.*, q.queue, q.oldest, clock_timestamp() AT TIME ZONE 'UTC' AS at,
  (SELECT count(*) FROM {workspace} WHERE waiting_for IS NOT NULL) AS waiting,
  (SELECT count(*) FROM {workspace} WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NOT NULL
     AND promoted_at IS NULL) AS carried,
  (SELECT count(*) FROM {workspace} w WHERE enrichment_status = 'failed' AND {returned_often}) AS returned_often,
  p.position, p.open_transactions, p.last_pull_at, p.last_full_at, p.last_run_id, p.last_result, p.restored,
  z.paused_at AT TIME ZONE 'UTC' AS paused_at
FROM (SELECT count(*) AS total, count(*) FILTER (WHERE enrichment_status = 'pending') AS pending,
        count(*) FILTER (WHERE enrichment_status = 'in_progress') AS in_progress,
        count(*) FILTER (WHERE enrichment_status = 'failed') AS failed,
        count(*) FILTER (WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL) AS open,
        count(*) FILTER (WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NOT NULL) AS pushed
      FROM {workspace}) s
  CROSS JOIN (SELECT count(*) AS queue, min(updated_at) AS oldest FROM {workspace} w WHERE {is_work}) q
  LEFT JOIN {position} p ON p.entity = {name}
  LEFT JOIN {paused} z ON z.entity = {name}
