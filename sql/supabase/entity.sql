-- Supabase: an entity's workspace, where enrichers repair records in the dashboard.
--
-- A template, filled in for each entity (worker/schema/scripts.py). Its placeholders, quoted as names or literals:
--   workspace                       the table, with its schema
--   workspace_literal               the same as a literal, to be cast to regclass
--   workspace.SUFFIX                a name made of the table's, such as company_needs_enrichment_SUFFIX
--   workspace_literal.SUFFIX        the same as a literal
--   status_idx, sync_status_idx     the guide's names for two of its indexes
--   workspace_schema                its schema, also as workspace_schema_literal
--   key, key_type                   the key column, and its type
--   columns                         the data columns' definitions, with commas between them
--   column_types                    the same as JSON, name to type
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = {workspace_schema_literal}) THEN
    CREATE SCHEMA {workspace_schema};
  END IF;
END $$;
CREATE TABLE IF NOT EXISTS {workspace} (
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
);
-- A table made by hand may lack some of them.
ALTER TABLE {workspace}
  ADD COLUMN IF NOT EXISTS id BIGSERIAL,
  ADD COLUMN IF NOT EXISTS neon_id BIGINT,
  ADD COLUMN IF NOT EXISTS source_batch_id TEXT,
  ADD COLUMN IF NOT EXISTS original_validation_errors JSONB,
  ADD COLUMN IF NOT EXISTS original_validation_warnings JSONB,
  ADD COLUMN IF NOT EXISTS reason_code TEXT,
  ADD COLUMN IF NOT EXISTS enrichment_status TEXT DEFAULT 'pending',
  ADD COLUMN IF NOT EXISTS enrichment_notes TEXT,
  ADD COLUMN IF NOT EXISTS enriched_by TEXT,
  ADD COLUMN IF NOT EXISTS enriched_at TIMESTAMP,
  ADD COLUMN IF NOT EXISTS pulled_from_neon_at TIMESTAMP DEFAULT now(),
  ADD COLUMN IF NOT EXISTS pushed_to_neon_at TIMESTAMP,
  ADD COLUMN IF NOT EXISTS last_sync_hash TEXT,
  ADD COLUMN IF NOT EXISTS created_at TIMESTAMP DEFAULT now(),
  ADD COLUMN IF NOT EXISTS updated_at TIMESTAMP DEFAULT now(),
  -- the worker's own
  ADD COLUMN IF NOT EXISTS neon_snapshot JSONB,
  ADD COLUMN IF NOT EXISTS validation_errors JSONB,
  ADD COLUMN IF NOT EXISTS validation_warnings JSONB,
  ADD COLUMN IF NOT EXISTS sync_note TEXT,
  ADD COLUMN IF NOT EXISTS promoted_at TIMESTAMP,
  ADD COLUMN IF NOT EXISTS waiting_for TEXT,  -- what a waiting row waits for; NULL: nothing
  ADD COLUMN IF NOT EXISTS sync_code TEXT,    -- what sync_note says, as a code
  -- The ledger row in Neon whose outcome this row shows. A ledger that lacks it was restored to an earlier moment.
  ADD COLUMN IF NOT EXISTS receipt_id BIGINT,
  ADD COLUMN IF NOT EXISTS receipt_hash TEXT,
  -- The versions in which it was queued since. If a carried version is not among them, the row is from a backup: its
  -- database was restored.
  ADD COLUMN IF NOT EXISTS queued_versions TEXT,
  -- How often the record came back to the enricher since it was last promoted, and when: the last four times.
  ADD COLUMN IF NOT EXISTS times_returned INTEGER NOT NULL DEFAULT 0,
  ADD COLUMN IF NOT EXISTS returned_at TIMESTAMP[];
-- Who may read single columns, as policies for a front end grant them, reads these in needs_attention.
SELECT public.enrichment_grant_as({workspace_literal}, 'sync_note', ARRAY['times_returned', 'returned_at']);
SELECT public.enrichment_add_data({workspace_literal}, {column_types});
CREATE INDEX IF NOT EXISTS {status_idx} ON {workspace} (enrichment_status);
CREATE INDEX IF NOT EXISTS {sync_status_idx} ON {workspace} (enrichment_status, pushed_to_neon_at);
-- The queue: rows that are work, oldest first. Its cost grows with the backlog, not with the workspace.
CREATE INDEX IF NOT EXISTS {workspace.queue_idx} ON {workspace} (updated_at, id)
  WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL AND waiting_for IS NULL;
CREATE INDEX IF NOT EXISTS {workspace.waiting_idx} ON {workspace} (waiting_for)
  WHERE waiting_for IS NOT NULL;
-- Failed rows by reason, latest first: the status page names a few keys of each. What follows a space in a reason is a
-- key, not the reason. (The one of releases up to 0.2.0, …_failed_idx, is left where it is: setup drops nothing.)
CREATE INDEX IF NOT EXISTS {workspace.reason_idx} ON {workspace}
  (left(split_part(coalesce(reason_code, ''), ' ', 1), 64), updated_at DESC) WHERE enrichment_status = 'failed';
-- Carried by `push` and not judged yet: few. With {sync_status_idx} it counts the promoted without the table.
CREATE INDEX IF NOT EXISTS {workspace.carried_idx} ON {workspace} (id)
  WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NOT NULL AND promoted_at IS NULL;
-- Receipts, for the comparison with Neon's ledger.
CREATE INDEX IF NOT EXISTS {workspace.receipt_idx} ON {workspace} (receipt_id)
  WHERE receipt_id IS NOT NULL;
-- NOT VALID: existing rows are adopted as they are; every later change is checked.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = {workspace_literal}::regclass
                 AND conname = {workspace_literal.status_check}) THEN
    ALTER TABLE {workspace} ADD CONSTRAINT {workspace.status_check}
      CHECK (enrichment_status IN ('pending', 'in_progress', 'complete', 'failed')) NOT VALID;
  END IF;
END $$;
-- Supabase serves `public` to the internet: only the owner sees the workspace unless a policy allows others.
SELECT public.enrichment_close_to_strangers({workspace_literal});
