-- Supabase: the workspace of companies, where enrichers repair records in the dashboard.
CREATE TABLE IF NOT EXISTS public.company_needs_enrichment (
  id BIGSERIAL PRIMARY KEY,
  neon_id BIGINT,
  company_unique_id TEXT UNIQUE NOT NULL,
  source_batch_id TEXT,
  company_name TEXT,
  domain TEXT,
  industry TEXT,
  employee_count INTEGER,
  website TEXT,
  phone TEXT,
  address TEXT,
  city TEXT,
  state TEXT,
  zip TEXT,
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
ALTER TABLE public.company_needs_enrichment
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
  -- The ledger row in Neon that this row was last told of. A ledger that lacks it was restored to an earlier moment.
  ADD COLUMN IF NOT EXISTS receipt_id BIGINT,
  ADD COLUMN IF NOT EXISTS receipt_hash TEXT,
  -- The versions in which it was queued since. What was carried and is none of them went from another life of the
  -- row: its database was restored.
  ADD COLUMN IF NOT EXISTS queued_versions TEXT;
SELECT public.enrichment_add_data('public.company_needs_enrichment',
  '{"company_name": "TEXT", "domain": "TEXT", "industry": "TEXT", "employee_count": "INTEGER",
    "website": "TEXT", "phone": "TEXT", "address": "TEXT", "city": "TEXT", "state": "TEXT",
    "zip": "TEXT"}');
CREATE INDEX IF NOT EXISTS idx_company_enrichment_status ON public.company_needs_enrichment (enrichment_status);
CREATE INDEX IF NOT EXISTS idx_company_sync_status ON public.company_needs_enrichment (enrichment_status, pushed_to_neon_at);
-- The queue: what is work, oldest first. Its cost follows the backlog, not the workspace.
CREATE INDEX IF NOT EXISTS company_needs_enrichment_queue_idx ON public.company_needs_enrichment (updated_at, id)
  WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL AND waiting_for IS NULL;
CREATE INDEX IF NOT EXISTS company_needs_enrichment_waiting_idx ON public.company_needs_enrichment (waiting_for)
  WHERE waiting_for IS NOT NULL;
-- What failed, by reason, latest first: the status page names a few keys of each.
CREATE INDEX IF NOT EXISTS company_needs_enrichment_failed_idx ON public.company_needs_enrichment
  (left(coalesce(reason_code, ''), 64), updated_at DESC) WHERE enrichment_status = 'failed';
-- Carried by `push` and not judged yet: few. With idx_company_sync_status it counts the promoted without the table.
CREATE INDEX IF NOT EXISTS company_needs_enrichment_carried_idx ON public.company_needs_enrichment (id)
  WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NOT NULL AND promoted_at IS NULL;
-- What became of records since a moment, for the comparison with Neon's ledger.
CREATE INDEX IF NOT EXISTS company_needs_enrichment_receipt_idx ON public.company_needs_enrichment (receipt_id)
  WHERE receipt_id IS NOT NULL;
-- NOT VALID: rows that are there already are adopted as they are, every later change is checked.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'public.company_needs_enrichment'::regclass
                 AND conname = 'company_needs_enrichment_status_check') THEN
    ALTER TABLE public.company_needs_enrichment ADD CONSTRAINT company_needs_enrichment_status_check
      CHECK (enrichment_status IN ('pending', 'in_progress', 'complete', 'failed')) NOT VALID;
  END IF;
END $$;
-- Supabase serves public to the internet: nobody but the owner sees the workspace unless a policy says so.
DO $$ BEGIN
  IF NOT (SELECT relrowsecurity FROM pg_class WHERE oid = 'public.company_needs_enrichment'::regclass) THEN
    ALTER TABLE public.company_needs_enrichment ENABLE ROW LEVEL SECURITY;
  END IF;
END $$;
SELECT public.enrichment_close_to_strangers('public.company_needs_enrichment');
