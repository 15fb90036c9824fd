-- Supabase: what happens when an enricher touches a workspace row. The triggers are in company.sql and
-- people.sql; the functions serve every entity. State diagram:
--
--   pending ──▶ in_progress ──▶ complete ──▶ (promoted: stays complete)
--      ▲              ▲            │  ▲
--      └─ undo        └── edit ── failed (flagged: edit, set complete again)

-- An enricher's insert or update, before it is stored.
-- UTC, whatever its session has: a column with a time zone takes what is written here as the session's own time.
CREATE OR REPLACE FUNCTION public.enrichment_row() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' SET timezone = 'UTC' AS $$
DECLARE
  utc_now timestamp := pg_catalog.clock_timestamp() AT TIME ZONE 'UTC';
  own text[] := ARRAY['enrichment_status', 'enrichment_notes', 'enriched_by', 'enriched_at', 'updated_at',
    'created_at', 'pulled_from_neon_at', 'pushed_to_neon_at', 'promoted_at', 'waiting_for', 'sync_note',
    'validation_errors', 'validation_warnings', 'original_validation_errors',
    'original_validation_warnings', 'reason_code', 'neon_snapshot', 'last_sync_hash', 'neon_id', 'id',
    'source_batch_id'];
  typed text := NEW.enrichment_status;
BEGIN
  IF TG_OP = 'INSERT' AND typed IS NULL THEN
    typed := 'pending';
  END IF;
  -- Blanks of any kind around the word, and its case, are slips of the hand, not another status.
  NEW.enrichment_status := pg_catalog.lower(pg_catalog.regexp_replace(
    typed, '^[\s\u00a0\u200b\ufeff]+|[\s\u00a0\u200b\ufeff]+$', '', 'g'));
  IF NEW.enrichment_status IS NULL
     OR NEW.enrichment_status NOT IN ('pending', 'in_progress', 'complete', 'failed') THEN
    RAISE EXCEPTION 'enrichment_status cannot be %: use pending, in_progress, complete or failed',
      coalesce(pg_catalog.quote_literal(pg_catalog.left(typed, 60)), 'empty')
      USING ERRCODE = 'check_violation', HINT = 'Set complete when the record is repaired.';
  END IF;

  IF TG_OP = 'UPDATE' THEN
    -- What Neon and the workspace last agreed on is the worker's to say, whatever an import brings.
    NEW.neon_snapshot := OLD.neon_snapshot;
    NEW.last_sync_hash := OLD.last_sync_hash;
    IF NEW IS NOT DISTINCT FROM OLD THEN
      RETURN NEW;
    END IF;
    -- Moves by itself, and never backwards: the worker tells one version of the row from the next by it. From a
    -- day that is far off, such as infinity, it comes back to the present: no later one could be told from it.
    NEW.updated_at := CASE WHEN OLD.updated_at < utc_now + interval '1 day'
      THEN greatest(utc_now, OLD.updated_at + interval '1 microsecond') ELSE utc_now END;
    IF NEW.enrichment_status = 'complete' AND OLD.enrichment_status = 'complete'
       AND OLD.pushed_to_neon_at IS NOT NULL AND NEW.pushed_to_neon_at IS NOT NULL
       AND (pg_catalog.to_jsonb(NEW) - own) = (pg_catalog.to_jsonb(OLD) - own) THEN
      RETURN NEW;  -- notes and the like on a row that is done
    END IF;
  ELSE
    NEW.updated_at := utc_now;
    NEW.neon_snapshot := NULL;
    NEW.last_sync_hash := NULL;
  END IF;

  IF NEW.enrichment_status = 'complete' THEN
    NEW.pushed_to_neon_at := NULL;  -- the worker's to say: it is what takes a row out of the queue
    IF TG_OP = 'INSERT' OR OLD.enrichment_status IS DISTINCT FROM 'complete'
       OR OLD.pushed_to_neon_at IS NOT NULL OR OLD.waiting_for IS NOT NULL THEN
      NEW.sync_note := 'Queued: the record is on its way to be checked.';
    END IF;
    NEW.waiting_for := NULL;
    NEW.enriched_at := coalesce(NEW.enriched_at, utc_now);
    NEW.enriched_by := coalesce(
      nullif(pg_catalog.btrim(NEW.enriched_by), ''),
      nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb ->> 'email',
      session_user::text);
  ELSE
    NEW.waiting_for := NULL;
    IF TG_OP = 'UPDATE' AND OLD.enrichment_status = 'complete' AND OLD.pushed_to_neon_at IS NULL THEN
      NEW.sync_note := NULL;  -- taken back before it went
    END IF;
  END IF;
  RETURN NEW;
END $$;

-- The key ties the row to its record in Neon.
CREATE OR REPLACE FUNCTION public.enrichment_refuse_key_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  RAISE EXCEPTION '% identifies the record and cannot be changed', TG_ARGV[0]
    USING ERRCODE = 'check_violation', HINT = 'Leave this cell as it is and edit the others.';
END $$;

-- A hint, never a guarantee: the table is the queue. Equal notifications of one transaction are
-- delivered once, so a statement that flips 100,000 rows makes one.
CREATE OR REPLACE FUNCTION public.enrichment_notify() RETURNS trigger
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
  PERFORM pg_catalog.pg_notify('enrichment_complete',
    pg_catalog.jsonb_build_object('entity', TG_ARGV[0])::text);
  RETURN NULL;
END $$;
-- A trigger fires whoever may call its function.
SELECT public.enrichment_close_function('public.enrichment_row()');
SELECT public.enrichment_close_function('public.enrichment_refuse_key_change()');
SELECT public.enrichment_close_function('public.enrichment_notify()');
