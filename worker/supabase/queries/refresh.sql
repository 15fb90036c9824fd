-- Writes changed records into their workspace rows.
UPDATE {workspace} w SET
  updated_at = greatest(w.updated_at, a.as_of),
  queued_versions = {versions},
  ({columns}) = (SELECT {columns_r} FROM jsonb_populate_record(w.*, a.data) r),
  neon_id = coalesce(a.neon_id, w.neon_id), neon_snapshot = a.snapshot, last_sync_hash = md5(a.snapshot::text),
  enrichment_status = a.status, reason_code = coalesce(a.reason_code, w.reason_code),
  original_validation_errors = coalesce(a.original_errors, w.original_validation_errors),
  original_validation_warnings = CASE WHEN a.original_errors IS NULL THEN w.original_validation_warnings
    ELSE a.original_warnings END,
  validation_errors = CASE WHEN a.reopened THEN '{{}}' ELSE w.validation_errors END,
  validation_warnings = CASE WHEN a.reopened THEN '{{}}' ELSE w.validation_warnings END,
  pushed_to_neon_at = CASE WHEN a.reopened THEN NULL ELSE w.pushed_to_neon_at END,
  promoted_at = CASE WHEN a.reopened THEN NULL ELSE w.promoted_at END,
  sync_note = CASE WHEN a.cleared THEN a.note ELSE coalesce(a.note, w.sync_note) END,
  sync_code = CASE WHEN a.cleared OR a.note IS NOT NULL THEN a.code ELSE w.sync_code END,
  receipt_id = CASE WHEN a.forget THEN a.receipt_id ELSE coalesce(a.receipt_id, w.receipt_id) END,
  receipt_hash = CASE WHEN a.forget THEN a.receipt_hash ELSE coalesce(a.receipt_hash, w.receipt_hash) END,
  (times_returned, returned_at) = (SELECT r.times, r.at FROM ({returns}) r),
  waiting_for = a.waiting_for,
  enriched_by = coalesce(w.enriched_by, a.enriched_by), enriched_at = coalesce(w.enriched_at, a.enriched_at),
  pulled_from_neon_at = CASE WHEN a.neon_id IS NULL THEN w.pulled_from_neon_at ELSE now() AT TIME ZONE 'UTC' END
FROM jsonb_to_recordset(%(rows)s) AS a (key text, neon_id bigint, data jsonb, snapshot jsonb, status text,
  original_errors jsonb, original_warnings jsonb, reason_code text, reopened boolean, note text, code text,
  cleared boolean, receipt_id bigint, receipt_hash text, forget boolean, waiting_for text, enriched_by text,
  enriched_at timestamp, as_of timestamp)
WHERE w.{key} = a.key{key_cast}
