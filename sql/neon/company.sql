-- Neon: companies. In production both tables exist and hold data; only what is missing is added.
CREATE TABLE IF NOT EXISTS marketing.company_invalid (
  id BIGSERIAL PRIMARY KEY,
  company_unique_id TEXT UNIQUE NOT NULL,
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
  validation_status TEXT DEFAULT 'FAILED',
  reason_code TEXT NOT NULL,
  validation_errors JSONB NOT NULL,
  validation_warnings JSONB,
  failed_at TIMESTAMP DEFAULT now(),
  reviewed BOOLEAN DEFAULT false,
  batch_id TEXT,
  source_table TEXT DEFAULT 'marketing.company_raw_wv',
  created_at TIMESTAMP DEFAULT now(),
  updated_at TIMESTAMP DEFAULT now()
);
-- A table made otherwise may lack some of them. A data column is not added: it would be empty, and that a correction.
ALTER TABLE marketing.company_invalid
  ADD COLUMN IF NOT EXISTS reason_code TEXT,
  ADD COLUMN IF NOT EXISTS validation_errors JSONB,
  ADD COLUMN IF NOT EXISTS validation_warnings JSONB,
  ADD COLUMN IF NOT EXISTS batch_id TEXT,
  ADD COLUMN IF NOT EXISTS created_at TIMESTAMP DEFAULT now(),
  ADD COLUMN IF NOT EXISTS updated_at TIMESTAMP DEFAULT now(),
  -- the worker's own
  ADD COLUMN IF NOT EXISTS enrichment_status TEXT,
  ADD COLUMN IF NOT EXISTS enriched_at TIMESTAMP,
  ADD COLUMN IF NOT EXISTS enriched_by TEXT,
  ADD COLUMN IF NOT EXISTS still_invalid BOOLEAN DEFAULT FALSE;
-- The incremental pull reads only what changed since its position.
CREATE INDEX IF NOT EXISTS company_invalid_updated_at_idx ON marketing.company_invalid (updated_at);
-- Pushed by hand and not judged yet.
CREATE INDEX IF NOT EXISTS company_invalid_unjudged_idx ON marketing.company_invalid (company_unique_id)
  WHERE enrichment_status = 'complete' AND still_invalid IS NOT TRUE;

CREATE TABLE IF NOT EXISTS marketing.company_master (
  company_unique_id TEXT PRIMARY KEY
    CHECK (company_unique_id ~ '^04\.04\.01\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$'),
  company_name TEXT NOT NULL,
  website_url TEXT NOT NULL,
  industry TEXT,
  employee_count INTEGER CHECK (employee_count IS NULL OR employee_count >= 0),
  company_phone TEXT,
  address_street TEXT,
  address_city TEXT,
  address_state TEXT,
  address_zip TEXT,
  address_country TEXT,
  linkedin_url TEXT,
  facebook_url TEXT,
  twitter_url TEXT,
  sic_codes TEXT,
  founded_year INTEGER,
  keywords TEXT[],
  description TEXT,
  source_system TEXT NOT NULL,
  source_record_id TEXT NOT NULL,
  promoted_from_intake_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  promotion_audit_log_id INTEGER,
  created_at TIMESTAMPTZ DEFAULT now(),
  updated_at TIMESTAMPTZ DEFAULT now(),
  state_abbrev TEXT,
  import_batch_id TEXT,
  validated_at TIMESTAMPTZ,
  validated_by TEXT,
  data_quality_score NUMERIC
);
