-- Neon: people, and the slots of their companies.
CREATE TABLE IF NOT EXISTS marketing.people_invalid (
  id BIGSERIAL PRIMARY KEY,
  unique_id TEXT UNIQUE NOT NULL,
  full_name TEXT,
  first_name TEXT,
  last_name TEXT,
  email TEXT,
  phone TEXT,
  title TEXT,
  company_name TEXT,
  company_unique_id TEXT,
  linkedin_url TEXT,
  city TEXT,
  state TEXT,
  validation_status TEXT DEFAULT 'FAILED',
  reason_code TEXT NOT NULL,
  validation_errors JSONB NOT NULL,
  validation_warnings JSONB,
  failed_at TIMESTAMP DEFAULT now(),
  reviewed BOOLEAN DEFAULT false,
  batch_id TEXT,
  source_table TEXT DEFAULT 'marketing.people_raw_wv',
  created_at TIMESTAMP DEFAULT now(),
  updated_at TIMESTAMP DEFAULT now()
);
-- A table made otherwise may lack some of them. A data column is not added: it would be empty, and that a correction.
ALTER TABLE marketing.people_invalid
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
CREATE INDEX IF NOT EXISTS people_invalid_updated_at_idx ON marketing.people_invalid (updated_at);
CREATE INDEX IF NOT EXISTS people_invalid_unjudged_idx ON marketing.people_invalid (unique_id)
  WHERE enrichment_status = 'complete' AND still_invalid IS NOT TRUE;

CREATE TABLE IF NOT EXISTS marketing.company_slots (
  company_slot_unique_id TEXT PRIMARY KEY,
  company_unique_id TEXT NOT NULL,
  slot_type TEXT DEFAULT 'default',
  slot_label TEXT DEFAULT 'Primary Slot',
  created_at TIMESTAMPTZ DEFAULT now()
);
CREATE INDEX IF NOT EXISTS company_slots_company_idx ON marketing.company_slots (company_unique_id);

CREATE TABLE IF NOT EXISTS marketing.people_master (
  unique_id TEXT PRIMARY KEY CHECK (unique_id ~ '^04\.04\.02\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$'),
  company_unique_id TEXT NOT NULL
    CHECK (company_unique_id ~ '^04\.04\.01\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$'),
  company_slot_unique_id TEXT NOT NULL
    CHECK (company_slot_unique_id ~ '^04\.04\.05\.[0-9]{2}\.[0-9]{5}\.[0-9]{3}$'),
  first_name TEXT NOT NULL,
  last_name TEXT NOT NULL,
  full_name TEXT GENERATED ALWAYS AS (trim(first_name || ' ' || last_name)) STORED,
  title TEXT,
  seniority TEXT,
  department TEXT,
  email TEXT CHECK (email IS NULL OR email ~* '^[A-Z0-9._%+-]+@[A-Z0-9.-]+\.[A-Z]{2,}$'),
  work_phone_e164 TEXT,
  personal_phone_e164 TEXT,
  linkedin_url TEXT,
  twitter_url TEXT,
  facebook_url TEXT,
  bio TEXT,
  skills TEXT[],
  education TEXT,
  certifications TEXT[],
  source_system TEXT NOT NULL,
  source_record_id TEXT,
  promoted_from_intake_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  promotion_audit_log_id INTEGER,
  created_at TIMESTAMPTZ DEFAULT now(),
  updated_at TIMESTAMPTZ DEFAULT now(),
  email_verified BOOLEAN DEFAULT false
);
