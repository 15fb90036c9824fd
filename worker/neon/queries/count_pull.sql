-- Count a pull, unless Neon no longer counts as the pull found it: another worker has pulled, or, behind a pooler, where that
-- cuts nothing, Neon was restored.
WITH kept AS (SELECT pulls FROM {receipts} WHERE entity = %(entity)s FOR UPDATE),
latest AS (SELECT run_id FROM {pulls} WHERE entity = %(entity)s AND slot = %(was)s %% {slots} AND number = %(was)s),
counted AS (
  INSERT INTO {receipts} AS r (entity, pulls, confirmed, pulled_at)
  SELECT %(entity)s, %(number)s, %(confirmed)s, now()
  WHERE coalesce((SELECT pulls FROM kept), 0) = %(was)s
    AND (SELECT run_id FROM latest) IS NOT DISTINCT FROM %(was_run_id)s
  ON CONFLICT (entity) DO UPDATE SET pulls = EXCLUDED.pulls, confirmed = EXCLUDED.confirmed,
    pulled_at = EXCLUDED.pulled_at
  RETURNING entity, pulls)
INSERT INTO {pulls} AS p (entity, slot, number, run_id)
SELECT entity, pulls %% {slots}, pulls, %(run_id)s FROM counted
ON CONFLICT (entity, slot) DO UPDATE SET number = EXCLUDED.number, run_id = EXCLUDED.run_id, pulled_at = now()
RETURNING p.number
