-- Supabase: the role that the worker runs as, with the grants it uses and no others. Run it as `postgres`, after
-- every `enrichment-worker setup`; it may run again:
--
--   psql "$SUPABASE_DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/roles/supabase.sql
--
-- It has no password yet, so nobody can log in. Give it a long random one in psql (\password enrichment_worker)
-- or in the SQL editor (ALTER ROLE enrichment_worker PASSWORD '…'). Behind Supabase's pooler the user is
-- enrichment_worker.PROJECT.
--
-- `setup` runs as the owner; `run` and every other command as this role. `enrichment-worker doctor` names every missing
-- grant. The workspace tables are those that `setup` gave their triggers.
BEGIN;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'enrichment_worker') THEN
    CREATE ROLE enrichment_worker LOGIN;
  END IF;
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO enrichment_worker', current_database());
END $$;
GRANT USAGE ON SCHEMA public TO enrichment_worker;

GRANT SELECT, INSERT, UPDATE ON public.enrichment_pull_position TO enrichment_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.enrichment_outbox, public.enrichment_failures TO enrichment_worker;
GRANT SELECT, INSERT, DELETE ON public.enrichment_paused TO enrichment_worker;

-- With row level security, this role sees every row by its own policy. BYPASSRLS would open every table of the project,
-- and Supabase's `postgres` is not a superuser and cannot grant it.
DO $$
DECLARE
  it regclass;
  schema name;
  numbers regclass;
  workspaces regclass[] := ARRAY(
    SELECT tgrelid::regclass FROM pg_trigger WHERE tgname = 'enrichment_b_row' AND NOT tgisinternal ORDER BY 1);
BEGIN
  FOREACH it IN ARRAY workspaces LOOP
    SELECT nspname INTO schema FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = it;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO enrichment_worker', schema);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO enrichment_worker', it);
    -- The sequences that number the rows of a pull; a column GENERATED AS IDENTITY needs no grant.
    FOR numbers IN
      SELECT d.objid::regclass FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
      WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a'
        AND d.refobjid = it
    LOOP
      EXECUTE format('GRANT USAGE ON SEQUENCE %s TO enrichment_worker', numbers);
    END LOOP;
  END LOOP;
  FOREACH it IN ARRAY workspaces || ARRAY['public.enrichment_pull_position', 'public.enrichment_outbox',
    'public.enrichment_paused', 'public.enrichment_failures']::regclass[]
  LOOP
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = it AND polname = 'enrichment_worker') THEN
      EXECUTE format('CREATE POLICY enrichment_worker ON %s FOR ALL TO enrichment_worker USING (true)'
                     ' WITH CHECK (true)', it);
    END IF;
  END LOOP;
END $$;
COMMIT;
