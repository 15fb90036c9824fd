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
-- grant. A master table's own triggers also run with this role's rights: it needs grants for what they write. The tables
-- are those of the entities that `setup` has set up.
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
DO $$
DECLARE it record;
BEGIN
  FOR it IN
    SELECT to_regclass(t.name) AS name, t.rights, n.nspname AS schema FROM (
      SELECT invalid AS name, 'SELECT, INSERT, UPDATE, DELETE' AS rights FROM marketing.enrichment_entities
      UNION ALL SELECT master, 'SELECT, INSERT, UPDATE, DELETE' FROM marketing.enrichment_entities
      UNION ALL SELECT unnest(reads), 'SELECT' FROM marketing.enrichment_entities) t
    JOIN pg_class c ON c.oid = to_regclass(t.name) JOIN pg_namespace n ON n.oid = c.relnamespace
  LOOP
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO enrichment_worker', it.schema);
    EXECUTE format('GRANT %s ON %s TO enrichment_worker', it.rights, it.name);
  END LOOP;
END $$;

-- Ledger rows are only inserted, never changed or deleted. Only if WORKER_LEDGER_RETENTION is set, add
-- GRANT DELETE ON marketing.enrichment_ledger TO enrichment_worker;
GRANT SELECT, INSERT ON marketing.enrichment_ledger TO enrichment_worker;
GRANT SELECT, INSERT, UPDATE ON public.shq_validation_log, marketing.enrichment_receipts, marketing.enrichment_pulls
  TO enrichment_worker;
COMMIT;
