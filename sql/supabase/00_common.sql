-- Supabase: what every entity shares. Safe to run again; never drops, retypes or rewrites anything.

-- Enables row level security on a table, and revokes from Supabase's API roles what its default privileges grant them:
-- Supabase serves `public` to the internet. Used by the other files.
CREATE OR REPLACE FUNCTION public.enrichment_close_to_strangers(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  stranger record;
  numbers text;
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = relation AND relkind IN ('r', 'p') AND NOT relrowsecurity) THEN
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
  END IF;
  FOR stranger IN SELECT oid, rolname FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
    -- A policy is the owner's decision to let a role in: its grants stay. A view is as open as its tables.
    IF NOT EXISTS (
      SELECT FROM pg_catalog.pg_policy
      WHERE polroles && ARRAY[0::oid, stranger.oid] AND (polrelid = relation OR polrelid IN (
        SELECT d.refobjid FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d
          ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        WHERE r.ev_class = relation))
    ) THEN
      EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %I', relation, stranger.rolname);
      FOR numbers IN
        SELECT c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_class c ON c.oid = d.objid
        WHERE c.relkind = 'S' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = relation
          AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
      LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON SEQUENCE %s FROM %I', numbers, stranger.rolname);
      END LOOP;
    END IF;
  END LOOP;
END $$;

-- The same for a function: otherwise anybody could call a function in `public` through the REST API.
CREATE OR REPLACE FUNCTION public.enrichment_close_function(its regprocedure) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE stranger text;
BEGIN
  EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', its);
  FOR stranger IN SELECT rolname FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
    EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM %I', its, stranger);
  END LOOP;
END $$;
SELECT public.enrichment_close_function('public.enrichment_close_to_strangers(regclass)');
SELECT public.enrichment_close_function('public.enrichment_close_function(regprocedure)');

-- Adds the data columns that a workspace table lacks. A column that was dropped or renamed gets its values back from the
-- snapshots, so that no cell looks as if an enricher had emptied it. It is no edit, so triggers are disabled meanwhile.
CREATE OR REPLACE FUNCTION public.enrichment_add_data(relation regclass, columns jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET row_security = off AS $$
DECLARE
  lacking text[] := ARRAY(
    SELECT c.key FROM pg_catalog.jsonb_each_text(columns) c WHERE NOT EXISTS (
      SELECT FROM pg_catalog.pg_attribute
      WHERE attrelid = relation AND attname = c.key AND attnum > 0 AND NOT attisdropped)
    ORDER BY c.key);
  name text;
  one record;
  silenced jsonb[] := '{}';
  cells text[] := '{}';
BEGIN
  IF lacking = '{}' THEN
    RETURN;
  END IF;
  FOREACH name IN ARRAY lacking LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s ADD COLUMN %I %s', relation, name, columns ->> name);
    cells := cells || pg_catalog.format('%1$I = (pg_catalog.jsonb_populate_record(w.*,'
      ' pg_catalog.jsonb_build_object(%1$L, w.neon_snapshot -> %1$L))).%1$I', name);
  END LOOP;
  FOR one IN SELECT tgname, tgenabled FROM pg_catalog.pg_trigger
    WHERE tgrelid = relation AND NOT tgisinternal AND tgenabled <> 'D' LOOP
    silenced := silenced || pg_catalog.to_jsonb(one);
    EXECUTE pg_catalog.format('ALTER TABLE %s DISABLE TRIGGER %I', relation, one.tgname);
  END LOOP;
  EXECUTE pg_catalog.format('UPDATE %s w SET %s WHERE w.neon_snapshot ?| %L', relation,
    pg_catalog.array_to_string(cells, ', '), lacking);
  FOR one IN SELECT its FROM pg_catalog.unnest(silenced) its LOOP
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE %s TRIGGER %I', relation,
      CASE one.its ->> 'tgenabled' WHEN 'A' THEN 'ALWAYS' WHEN 'R' THEN 'REPLICA' ELSE '' END,
      one.its ->> 'tgname');
  END LOOP;
END $$;
SELECT public.enrichment_close_function('public.enrichment_add_data(regclass, jsonb)');

-- Lets those who may read one column of a table read others, too.
CREATE OR REPLACE FUNCTION public.enrichment_grant_as(relation regclass, known text, columns text[]) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
  one record;
BEGIN
  FOR one IN
    SELECT r.rolname, c.name FROM pg_catalog.pg_attribute a CROSS JOIN LATERAL pg_catalog.aclexplode(a.attacl) x
      JOIN pg_catalog.pg_roles r ON r.oid = x.grantee CROSS JOIN pg_catalog.unnest(columns) c (name)
    WHERE a.attrelid = relation AND a.attname = known AND x.privilege_type = 'SELECT'
      AND NOT pg_catalog.has_column_privilege(r.oid, relation, c.name, 'SELECT')
  LOOP
    EXECUTE pg_catalog.format('GRANT SELECT (%I) ON %s TO %I', one.name, relation, one.rolname);
  END LOOP;
END $$;
SELECT public.enrichment_close_function('public.enrichment_grant_as(regclass, text, text[])');

-- The pull's position for each entity; its row lock ensures that only one of several workers pulls.
CREATE TABLE IF NOT EXISTS public.enrichment_pull_position (
  entity       TEXT PRIMARY KEY,
  position     TIMESTAMP,    -- what committed in Neon before this moment is in the workspace
  last_id      BIGINT,       -- highest id of the invalid table that was pulled
  last_pull_at TIMESTAMP,
  last_full_at TIMESTAMP,
  last_run_id  TEXT
);
ALTER TABLE public.enrichment_pull_position
  ADD COLUMN IF NOT EXISTS last_result JSONB,  -- what the last pull brought, and how many records Neon had then
  ADD COLUMN IF NOT EXISTS pulls BIGINT NOT NULL DEFAULT 0,  -- how many pulls were completed; Neon counts them, too
  ADD COLUMN IF NOT EXISTS ledger_id BIGINT,  -- the workspace shows all outcomes of Neon's ledger up to this id
  ADD COLUMN IF NOT EXISTS restored JSONB,     -- the last restore of a database that was recognised
  ADD COLUMN IF NOT EXISTS counted_run_id TEXT,  -- the last of these pulls; Neon knows it, too
  ADD COLUMN IF NOT EXISTS unfinished_run_id TEXT,  -- a pull that began to bring records and has not ended
  -- The row of Neon's ledger up to which enrichment_failures counts for good; a ledger that lacks it is counted anew.
  ADD COLUMN IF NOT EXISTS failures_id BIGINT,
  ADD COLUMN IF NOT EXISTS failures_run_id TEXT,
  ADD COLUMN IF NOT EXISTS open_transactions JSONB;  -- those in Neon whose changes the last pull could not see
SELECT public.enrichment_close_to_strangers('public.enrichment_pull_position');

-- Entities that an operator has paused: no worker claims or pulls a record of theirs. A table of its own, as a running pull
-- locks its position.
CREATE TABLE IF NOT EXISTS public.enrichment_paused (
  entity    TEXT PRIMARY KEY,
  paused_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
SELECT public.enrichment_close_to_strangers('public.enrichment_paused');

-- How often records came back, by week and reason, as the pulls read it in Neon's ledger.
CREATE TABLE IF NOT EXISTS public.enrichment_failures (
  entity      TEXT NOT NULL,
  week        DATE NOT NULL,    -- its Monday, UTC
  reason_code TEXT NOT NULL,
  field       TEXT NOT NULL,    -- a field that was wrong, or '': the records
  records     BIGINT NOT NULL DEFAULT 0,
  recent      BIGINT NOT NULL DEFAULT 0,  -- beside them, those of the last minutes, which the next pull counts anew
  PRIMARY KEY (entity, week, reason_code, field)
);
SELECT public.enrichment_close_to_strangers('public.enrichment_failures');

-- The names of the dashboard's users, for enriched_by: whoever is not in here is shown by the id.
CREATE TABLE IF NOT EXISTS public.enrichment_enrichers (
  user_id UUID PRIMARY KEY,
  name    TEXT NOT NULL
);
SELECT public.enrichment_close_to_strangers('public.enrichment_enrichers');

-- Events that wait to be posted to N8N_WEBHOOK_URL: each commits with what it announces, and is deleted when posted.
CREATE TABLE IF NOT EXISTS public.enrichment_outbox (
  id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  entity     TEXT NOT NULL,
  event      JSONB NOT NULL,   -- deploy/webhook.schema.json
  attempts   INTEGER NOT NULL DEFAULT 0,
  last_error TEXT,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);
-- A copy of the database, or of its rows, may have left the sequence behind them.
SELECT setval(sequence, highest) FROM (
  SELECT pg_get_serial_sequence('public.enrichment_outbox', 'id')::regclass AS sequence, max(id) AS highest FROM public.enrichment_outbox) t
WHERE highest > coalesce(pg_sequence_last_value(sequence), 0);
CREATE INDEX IF NOT EXISTS enrichment_outbox_entity_idx ON public.enrichment_outbox (entity, id);
SELECT public.enrichment_close_to_strangers('public.enrichment_outbox');
