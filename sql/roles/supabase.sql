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
-- grant. For an entity of your own, add lines below like those of `company` and `people`.
BEGIN;
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'enrichment_worker') THEN
    CREATE ROLE enrichment_worker LOGIN;
  END IF;
  EXECUTE format('GRANT CONNECT ON DATABASE %I TO enrichment_worker', current_database());
END $$;
GRANT USAGE ON SCHEMA public TO enrichment_worker;

GRANT SELECT, INSERT, UPDATE, DELETE ON public.company_needs_enrichment, public.people_needs_enrichment
  TO enrichment_worker;
GRANT SELECT, INSERT, UPDATE ON public.enrichment_pull_position TO enrichment_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON public.enrichment_outbox TO enrichment_worker;

-- The sequences that number the rows of a pull; a column GENERATED AS IDENTITY needs no grant.
DO $$
DECLARE numbers text;
BEGIN
  FOR numbers IN
    SELECT d.objid::regclass::text FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype = 'a'
      AND d.refobjid IN ('public.company_needs_enrichment'::regclass, 'public.people_needs_enrichment'::regclass)
  LOOP
    EXECUTE format('GRANT USAGE ON SEQUENCE %s TO enrichment_worker', numbers);
  END LOOP;
END $$;

-- With row level security, this role sees every row by its own policy. BYPASSRLS would open every table of the project,
-- and Supabase's `postgres` is not a superuser and cannot grant it.
DO $$
DECLARE it regclass;
BEGIN
  FOREACH it IN ARRAY ARRAY['public.company_needs_enrichment', 'public.people_needs_enrichment',
                            'public.enrichment_pull_position', 'public.enrichment_outbox']::regclass[] LOOP
    IF NOT EXISTS (SELECT FROM pg_policy WHERE polrelid = it AND polname = 'enrichment_worker') THEN
      EXECUTE format('CREATE POLICY enrichment_worker ON %s FOR ALL TO enrichment_worker USING (true)'
                     ' WITH CHECK (true)', it);
    END IF;
  END LOOP;
END $$;
COMMIT;
