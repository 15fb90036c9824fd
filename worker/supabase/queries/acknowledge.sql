-- Writes outcomes into workspace rows; a row that was edited meanwhile is left as it is.
WITH a AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset(%(replies)s) AS a (key text, version timestamp, status text, note text,
    data jsonb, snapshot jsonb, errors jsonb, warnings jsonb, reason_code text, pushed boolean,
    promoted_at timestamp, waiting_for text, code text, receipt_id bigint,
    receipt_hash text, forget boolean, as_of timestamp)
)
UPDATE {workspace} w SET
  updated_at = greatest(w.updated_at, a.as_of),
  queued_versions = {versions},
  ({columns}) = (SELECT {columns_r} FROM jsonb_populate_record(w.*, coalesce(a.data, '{{}}')) r),
  neon_snapshot = coalesce(a.snapshot, w.neon_snapshot),
  last_sync_hash = coalesce(md5(a.snapshot::text), w.last_sync_hash),
  enrichment_status = a.status,
  validation_errors = coalesce(a.errors, w.validation_errors),
  validation_warnings = coalesce(a.warnings, w.validation_warnings),
  reason_code = coalesce(a.reason_code, w.reason_code),
  pushed_to_neon_at = CASE WHEN a.pushed THEN clock_timestamp() AT TIME ZONE 'UTC' END,
  promoted_at = a.promoted_at,
  waiting_for = a.waiting_for,
  (times_returned, returned_at, sync_note) = (
    SELECT r.times, r.at, CASE WHEN r.often THEN concat(a.note, {returned_often}) ELSE a.note END FROM ({returns}) r),
  sync_code = a.code,
  receipt_id = CASE WHEN a.forget THEN a.receipt_id ELSE coalesce(a.receipt_id, w.receipt_id) END,
  receipt_hash = CASE WHEN a.forget THEN a.receipt_hash ELSE coalesce(a.receipt_hash, w.receipt_hash) END
FROM a
WHERE w.{key} = a.key{key_cast} AND w.{key} = ANY (ARRAY(SELECT key{key_cast} FROM a))
  -- Compared as it was read: the worker's years have four digits.
  AND CASE WHEN w.updated_at IS NOT NULL THEN least(greatest(w.updated_at, '0001-01-01'),
    '9999-12-31 23:59:59.999999') END IS NOT DISTINCT FROM a.version
