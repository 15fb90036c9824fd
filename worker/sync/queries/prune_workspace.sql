-- Deletes a batch of promoted rows that are older than retention keeps.
DELETE FROM {workspace} WHERE id IN (
  SELECT id FROM {workspace} WHERE enrichment_status = 'complete'
    AND pushed_to_neon_at < now() AT TIME ZONE 'UTC' - make_interval(days => %(days)s)
    AND promoted_at < now() AT TIME ZONE 'UTC' - make_interval(days => %(days)s)
  LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
