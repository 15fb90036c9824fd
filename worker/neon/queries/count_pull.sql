-- Count a pull, unless Neon is no longer as the pull found it: behind a pooler, a restore in the middle of it cuts nothing.
WITH kept AS (SELECT pulls, run_id FROM {receipts} WHERE entity = %(entity)s FOR UPDATE)
INSERT INTO {receipts} AS r (entity, pulls, run_id, confirmed, confirmed_run_id, pulled_at)
SELECT %(entity)s, %(pulls)s, %(run_id)s, %(confirmed)s, %(confirmed_run_id)s, now()
WHERE coalesce((SELECT pulls FROM kept), 0) = %(was)s AND (SELECT run_id FROM kept) IS NOT DISTINCT FROM %(was_run_id)s
ON CONFLICT (entity) DO UPDATE SET pulls = EXCLUDED.pulls, run_id = EXCLUDED.run_id, confirmed = EXCLUDED.confirmed,
  confirmed_run_id = EXCLUDED.confirmed_run_id, pulled_at = EXCLUDED.pulled_at
RETURNING r.pulls
