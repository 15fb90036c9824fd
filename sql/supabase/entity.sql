-- Supabase: an entity's workspace, where enrichers repair records in the dashboard.
--
-- A template, filled in for each entity (worker/schema/scripts.py). Its placeholders, quoted as names or literals:
--   workspace                       the table, with its schema
--   workspace_literal               the same as a literal, to be cast to regclass
--   workspace.SUFFIX                a name made of the table's, such as company_needs_enrichment_SUFFIX
--   workspace_literal.SUFFIX        the same as a literal
--   status_idx_literal, sync_status_idx_literal   the guide's names for two of its indexes
--   workspace_schema_literal        its schema, as a literal
--   key, key_type                   the key column, and its type
--   columns                         the data columns' definitions, with commas between them
--   column_types                    the same as JSON, name to type
SELECT pg_temp.enrichment_schema({workspace_schema_literal});
SELECT pg_temp.enrichment_if(to_regclass({workspace_literal}) IS NULL, $make$
CREATE TABLE {workspace} (
  id BIGSERIAL PRIMARY KEY,
  neon_id BIGINT,
  {key} {key_type} UNIQUE NOT NULL,
  source_batch_id TEXT,
  {columns},
  original_validation_errors JSONB,
  original_validation_warnings JSONB,
  reason_code TEXT,
  enrichment_status TEXT DEFAULT 'pending',
  enrichment_notes TEXT,
  enriched_by TEXT,
  enriched_at TIMESTAMP,
  pulled_from_neon_at TIMESTAMP DEFAULT now(),
  pushed_to_neon_at TIMESTAMP,
  last_sync_hash TEXT,
  created_at TIMESTAMP DEFAULT now(),
  updated_at TIMESTAMP DEFAULT now()
)$make$);
-- A table made by hand may lack some of them.
SELECT pg_temp.enrichment_columns({workspace_literal}, ARRAY[
  'id BIGSERIAL',
  'neon_id BIGINT',
  'source_batch_id TEXT',
  'original_validation_errors JSONB',
  'original_validation_warnings JSONB',
  'reason_code TEXT',
  'enrichment_status TEXT DEFAULT ''pending''',
  'enrichment_notes TEXT',
  'enriched_by TEXT',
  'enriched_at TIMESTAMP',
  'pulled_from_neon_at TIMESTAMP DEFAULT now()',
  'pushed_to_neon_at TIMESTAMP',
  'last_sync_hash TEXT',
  'created_at TIMESTAMP DEFAULT now()',
  'updated_at TIMESTAMP DEFAULT now()',
  -- the worker's own
  'neon_snapshot JSONB',
  'validation_errors JSONB',
  'validation_warnings JSONB',
  'sync_note TEXT',
  'promoted_at TIMESTAMP',
  'waiting_for TEXT',  -- what a waiting row waits for; NULL: nothing
  'sync_code TEXT',  -- what sync_note says, as a code
  -- The ledger row in Neon whose outcome this row shows. A ledger that lacks it was restored to an earlier moment.
  'receipt_id BIGINT',
  'receipt_hash TEXT',
  -- The versions in which it was queued since. If a carried version is not among them, the row is from a backup: its
  -- database was restored.
  'queued_versions TEXT',
  -- How often the record came back to the enricher since it was last promoted, and when: the last four times.
  'times_returned INTEGER NOT NULL DEFAULT 0',
  'returned_at TIMESTAMP[]'
]);
-- Who may read single columns, as policies for a front end grant them, reads these in needs_attention.
SELECT pg_temp.enrichment_grant_as({workspace_literal}, 'sync_note', ARRAY['times_returned', 'returned_at']);
SELECT pg_temp.enrichment_add_data({workspace_literal}, {column_types});
SELECT pg_temp.enrichment_index({workspace_literal}, {status_idx_literal}, '(enrichment_status)');
SELECT pg_temp.enrichment_index({workspace_literal}, {sync_status_idx_literal}, '(enrichment_status, pushed_to_neon_at)');
-- The queue: rows that are work, oldest first. Its cost grows with the backlog, not with the workspace.
SELECT pg_temp.enrichment_index({workspace_literal}, {workspace_literal.queue_idx}, $index$
  (updated_at, id) WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL AND waiting_for IS NULL$index$);
SELECT pg_temp.enrichment_index({workspace_literal}, {workspace_literal.waiting_idx}, '(waiting_for) WHERE waiting_for IS NOT NULL');
-- Failed rows by reason, latest first: the status page names a few keys of each. What follows a space in a reason is a
-- key, not the reason. (The one of releases up to 0.2.0, …_failed_idx, is left where it is: setup drops nothing.)
SELECT pg_temp.enrichment_index({workspace_literal}, {workspace_literal.reason_idx}, $index$
  (left(split_part(coalesce(reason_code, ''), ' ', 1), 64), updated_at DESC) WHERE enrichment_status = 'failed'$index$);
-- Carried by `push` and not judged yet: few. With the second of the guide's it counts the promoted without the table.
SELECT pg_temp.enrichment_index({workspace_literal}, {workspace_literal.carried_idx}, $index$
  (id) WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NOT NULL AND promoted_at IS NULL$index$);
-- Receipts, for the comparison with Neon's ledger.
SELECT pg_temp.enrichment_index({workspace_literal}, {workspace_literal.receipt_idx}, '(receipt_id) WHERE receipt_id IS NOT NULL');
-- NOT VALID: existing rows are adopted as they are; every later change is checked.
SELECT pg_temp.enrichment_if(
  NOT EXISTS (SELECT FROM pg_constraint
              WHERE conrelid = {workspace_literal}::regclass AND conname = {workspace_literal.status_check}), $make$
ALTER TABLE {workspace} ADD CONSTRAINT {workspace.status_check}
  CHECK (enrichment_status IN ('pending', 'in_progress', 'complete', 'failed')) NOT VALID$make$);
-- Supabase serves `public` to the internet: only the owner sees the workspace unless a policy allows others.
SELECT pg_temp.enrichment_close_to_strangers({workspace_literal});
