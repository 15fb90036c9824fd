-- Neon: the role that the worker runs as, with the grants it uses and no others. Run it as the owner of the
-- tables, after every `enrichment-worker setup`; it may run again:
--
--   psql "$NEON_DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/roles/neon.sql
--
-- It has no password yet, so nobody can log in. Give it a long random one in Neon's SQL editor or in psql:
--
--   ALTER ROLE enrichment_worker PASSWORD '…';
--
-- `setup` runs as the owner; `run` and every other command as this role. `enrichment-worker doctor` names a
-- grant that is missing. A master table's own triggers run with this role's rights too: what they write, it
-- must be granted. An entity of your own gets its lines below, as `company` and `people` have theirs.
BEGIN;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'enrichment_worker') THEN
    CREATE ROLE enrichment_worker LOGIN;
  END IF;
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO enrichment_worker', current_database());
END $$;
GRANT USAGE ON SCHEMA marketing, public TO enrichment_worker;

-- INSERT and the master's DELETE are what `undo` needs to put things back. It also looks into each table that refers
-- to a master by a foreign key: GRANT SELECT on yours, else it refuses and names the grant.
GRANT SELECT, INSERT, UPDATE, DELETE ON marketing.company_invalid, marketing.people_invalid TO enrichment_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON marketing.company_master, marketing.people_master TO enrichment_worker;
GRANT SELECT ON marketing.company_slots TO enrichment_worker;

-- The ledger is written once: neither changed nor deleted. With WORKER_LEDGER_RETENTION set, and only then, add
-- GRANT DELETE ON marketing.enrichment_ledger TO enrichment_worker;
GRANT SELECT, INSERT ON marketing.enrichment_ledger TO enrichment_worker;
GRANT SELECT, INSERT, UPDATE ON public.shq_validation_log, marketing.enrichment_receipts TO enrichment_worker;
COMMIT;
