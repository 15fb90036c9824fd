-- Neon: the role that the worker runs as, with the grants it uses and no others. Run it as the owner of the
-- tables, after every `enrichment-worker setup`; it may run again:
--
--   psql "$NEON_DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/roles/neon.sql
--
-- It has no password yet, so nobody can log in. Give it a long random one in Neon's SQL editor or in psql:
--
--   ALTER ROLE enrichment_worker PASSWORD '…';
--
-- `setup` runs as the owner; `run` and every other command as this role. `enrichment-worker doctor` names every missing
-- grant. A master table's own triggers also run with this role's rights: it needs grants for what they write. For an
-- entity of your own, add lines below like those of `company` and `people`.
BEGIN;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'enrichment_worker') THEN
    CREATE ROLE enrichment_worker LOGIN;
  END IF;
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO enrichment_worker', current_database());
END $$;
GRANT USAGE ON SCHEMA marketing, public TO enrichment_worker;

-- `undo` needs INSERT, and DELETE on the masters. It also reads each table that references a master by a foreign key:
-- GRANT SELECT on yours, else it refuses and names the grant.
GRANT SELECT, INSERT, UPDATE, DELETE ON marketing.company_invalid, marketing.people_invalid TO enrichment_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON marketing.company_master, marketing.people_master TO enrichment_worker;
GRANT SELECT ON marketing.company_slots TO enrichment_worker;

-- Ledger rows are only inserted, never changed or deleted. Only if WORKER_LEDGER_RETENTION is set, add
-- GRANT DELETE ON marketing.enrichment_ledger TO enrichment_worker;
GRANT SELECT, INSERT ON marketing.enrichment_ledger TO enrichment_worker;
GRANT SELECT, INSERT, UPDATE ON public.shq_validation_log, marketing.enrichment_receipts TO enrichment_worker;
COMMIT;
