-- Supabase: what every entity shares. Safe to run again: it makes what is missing, and drops and retypes nothing.

-- Enables row level security on a table, and revokes from Supabase's API roles what they were granted, by default too:
-- Supabase serves `public` to the internet. Used by the other files.
CREATE OR REPLACE FUNCTION pg_temp.enrichment_close_to_strangers(relation regclass) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET lock_timeout = '2s' AS $$
DECLARE
  stranger record;
  one record;
BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_class WHERE oid = relation AND relkind IN ('r', 'p') AND NOT relrowsecurity) THEN
    EXECUTE pg_catalog.format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', relation);
  END IF;
  FOR stranger IN SELECT oid, rolname FROM pg_catalog.pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
    -- A policy is the owner's decision to let a role in: its grants stay. A view is as open as its tables.
    CONTINUE WHEN EXISTS (
      SELECT FROM pg_catalog.pg_policy
      WHERE polroles && ARRAY[0::oid, stranger.oid] AND (polrelid = relation OR polrelid IN (
        SELECT d.refobjid FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_depend d
          ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
        WHERE r.ev_class = relation)));
    -- The table or view, and the sequences of its columns.
    FOR one IN
      SELECT c.oid::pg_catalog.regclass AS name, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind
      FROM pg_catalog.pg_class c
      WHERE (c.oid = relation OR c.relkind = 'S' AND EXISTS (
          SELECT FROM pg_catalog.pg_depend d
          WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.refobjid = relation
            AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass))
        AND stranger.oid IN (
          SELECT (pg_catalog.aclexplode(c.relacl)).grantee
          UNION ALL SELECT (pg_catalog.aclexplode(attacl)).grantee FROM pg_catalog.pg_attribute WHERE attrelid = c.oid)
    LOOP
      EXECUTE pg_catalog.format('REVOKE ALL ON %s %s FROM %I', one.kind, one.name, stranger.rolname);
    END LOOP;
  END LOOP;
END $$;

-- Adds the data columns that a workspace table lacks. A column that was dropped or renamed gets its values back from the
-- snapshots, so that no cell looks as if an enricher had emptied it. It is no edit, so triggers are
-- disabled meanwhile, the owner's own, too. This, and an `id` where there is none, are all that `setup` writes to rows.
CREATE OR REPLACE FUNCTION pg_temp.enrichment_add_data(relation regclass, columns jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = '' SET row_security = off SET lock_timeout = '2s' AS $$
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

-- Lets those who may read one column of a table read others, too.
CREATE OR REPLACE FUNCTION pg_temp.enrichment_grant_as(relation regclass, known text, columns text[]) RETURNS void
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

-- The pull's position for each entity; its row lock ensures that only one of several workers pulls.
SELECT pg_temp.enrichment_if(to_regclass('public.enrichment_pull_position') IS NULL, $make$
CREATE TABLE public.enrichment_pull_position (
  entity       TEXT PRIMARY KEY,
  position     TIMESTAMP,    -- what committed in Neon before this moment is in the workspace
  last_id      BIGINT,       -- highest id of the invalid table that was pulled
  last_pull_at TIMESTAMP,
  last_full_at TIMESTAMP,
  last_run_id  TEXT
)$make$);
SELECT pg_temp.enrichment_columns('public.enrichment_pull_position', ARRAY[
  'last_result JSONB',  -- what the last pull brought, and how many records Neon had then
  'pulls BIGINT NOT NULL DEFAULT 0',  -- how many pulls were completed; Neon counts them, too
  'ledger_id BIGINT',  -- the workspace shows all outcomes of Neon's ledger up to this id
  'restored JSONB',  -- the last restore of a database that was recognised
  'counted_run_id TEXT',  -- the last of these pulls; Neon knows it, too
  'unfinished_run_id TEXT',  -- a pull that began to bring records and has not ended
  -- The row of Neon's ledger up to which enrichment_failures counts for good; a ledger that lacks it is counted anew.
  'failures_id BIGINT',
  'failures_run_id TEXT',
  'open_transactions JSONB'  -- those in Neon whose changes the last pull could not see
]);
SELECT pg_temp.enrichment_close_to_strangers('public.enrichment_pull_position');

-- Entities that an operator has paused: no worker claims or pulls a record of theirs. A table of its own, as a running pull
-- locks its position.
SELECT pg_temp.enrichment_if(to_regclass('public.enrichment_paused') IS NULL, $make$
CREATE TABLE public.enrichment_paused (
  entity    TEXT PRIMARY KEY,
  paused_at TIMESTAMPTZ NOT NULL DEFAULT now()
)$make$);
SELECT pg_temp.enrichment_close_to_strangers('public.enrichment_paused');

-- How often records came back, by week and reason, as the pulls read it in Neon's ledger.
SELECT pg_temp.enrichment_if(to_regclass('public.enrichment_failures') IS NULL, $make$
CREATE TABLE public.enrichment_failures (
  entity      TEXT NOT NULL,
  week        DATE NOT NULL,    -- its Monday, UTC
  reason_code TEXT NOT NULL,
  field       TEXT NOT NULL,    -- a field that was wrong, or '': the records
  records     BIGINT NOT NULL DEFAULT 0,
  recent      BIGINT NOT NULL DEFAULT 0,  -- beside them, those of the last minutes, which the next pull counts anew
  PRIMARY KEY (entity, week, reason_code, field)
)$make$);
SELECT pg_temp.enrichment_close_to_strangers('public.enrichment_failures');

-- The names of the dashboard's users, for enriched_by: whoever is not in here is shown by the id.
SELECT pg_temp.enrichment_if(to_regclass('public.enrichment_enrichers') IS NULL, $make$
CREATE TABLE public.enrichment_enrichers (
  user_id UUID PRIMARY KEY,
  name    TEXT NOT NULL
)$make$);
SELECT pg_temp.enrichment_close_to_strangers('public.enrichment_enrichers');

-- Events that wait to be posted to N8N_WEBHOOK_URL: each commits with what it announces, and is deleted when posted.
SELECT pg_temp.enrichment_if(to_regclass('public.enrichment_outbox') IS NULL, $make$
CREATE TABLE public.enrichment_outbox (
  id         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  entity     TEXT NOT NULL,
  event      JSONB NOT NULL,   -- deploy/webhook.schema.json
  attempts   INTEGER NOT NULL DEFAULT 0,
  last_error TEXT,
  created_at TIMESTAMPTZ NOT NULL DEFAULT now()
)$make$);
-- A copy of the database, or of its rows, may have left the sequence behind them.
SELECT setval(sequence, highest) FROM (
  SELECT pg_get_serial_sequence('public.enrichment_outbox', 'id')::regclass AS sequence, max(id) AS highest FROM public.enrichment_outbox) t
WHERE highest > coalesce(pg_sequence_last_value(sequence), 0);
SELECT pg_temp.enrichment_index('public.enrichment_outbox', 'enrichment_outbox_entity_idx', '(entity, id)');
SELECT pg_temp.enrichment_close_to_strangers('public.enrichment_outbox');
