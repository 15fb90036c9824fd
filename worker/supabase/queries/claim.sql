-- Workspace rows as they are carried.
-- The hash is computed in the outer query, from the data as the lock found them, which are composed once. In a LATERAL
-- next to the row, they would be the data from before the lock if somebody edits the row in between.
SELECT c.*, md5(concat_ws('|', c.key, c.version::text, c.data::text)) AS delivery_hash FROM (
SELECT w.{key}{key_text} AS key, w.updated_at AS version, {data} AS data, w.neon_snapshot AS snapshot,
  w.last_sync_hash AS snapshot_hash, w.enriched_by, w.enriched_at, w.enrichment_status AS status,
  w.pushed_to_neon_at AS pushed_at, w.promoted_at, w.neon_id, w.receipt_id, w.receipt_hash,
  w.queued_versions, {distinct}{more}
  CASE WHEN w.sync_code IS DISTINCT FROM 'released' AND w.sync_note IS DISTINCT FROM {released}
      AND isfinite(w.updated_at)
    THEN extract(epoch FROM clock_timestamp() AT TIME ZONE 'UTC' - w.updated_at)::float8 END AS age
FROM {workspace} w
