-- What the other files call, in both databases: each makes something only where it is missing, or another.
--
-- ALTER TABLE, CREATE INDEX, CREATE TRIGGER and their like lock a table before they look whether there is anything to do,
-- want CREATE on the schema, and keep the lock until the transaction ends. So these look first: where nothing is missing,
-- `setup` locks no table more than a query does. Where something is, it waits two seconds for the lock and then gives up, so
-- that nobody queues behind it for longer; `setup` tries again.
--
-- They are in pg_temp, so nothing of them stays in the database when the session ends.

-- Runs a statement if what it makes is missing.
CREATE OR REPLACE FUNCTION pg_temp.enrichment_if(missing boolean, statement text) RETURNS void
LANGUAGE plpgsql SET lock_timeout = '2s' AS $$
BEGIN
  IF missing THEN
    EXECUTE statement;
  END IF;
END $$;

CREATE OR REPLACE FUNCTION pg_temp.enrichment_schema(its text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_temp.enrichment_if(
    NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = its), pg_catalog.format('CREATE SCHEMA %I', its));
END $$;

-- Adds the columns that a table lacks, in one statement. A definition begins with the column's name, in lower case and
-- without quotes. None of them makes Postgres rewrite the table, but `id BIGSERIAL`.
CREATE OR REPLACE FUNCTION pg_temp.enrichment_columns(relation regclass, definitions text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  lacking constant text := (
    SELECT pg_catalog.string_agg('ADD COLUMN IF NOT EXISTS ' || d.text, ', ' ORDER BY d.nr)
    FROM pg_catalog.unnest(definitions) WITH ORDINALITY d (text, nr) WHERE NOT EXISTS (
      SELECT FROM pg_catalog.pg_attribute WHERE attrelid = relation AND attname = pg_catalog.split_part(d.text, ' ', 1)
        AND attnum > 0 AND NOT attisdropped));
BEGIN
  PERFORM pg_temp.enrichment_if(lacking IS NOT NULL, pg_catalog.format('ALTER TABLE %s %s', relation, lacking));
END $$;

-- Makes an index, if nothing in the table's schema has its name. CREATE INDEX stops all who write the table: so that of a
-- large one `setup` builds afterwards, CONCURRENTLY; a master's is left to its owner, as is somebody else's table.
CREATE OR REPLACE FUNCTION pg_temp.enrichment_index(relation regclass, its text, definition text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_temp.enrichment_if(
    EXISTS (
      SELECT FROM pg_catalog.pg_class t WHERE t.oid = relation AND t.relkind IN ('r', 'p')
        AND pg_catalog.pg_has_role(t.relowner, 'USAGE') AND 32 * 1024 * 1024 >= CASE t.relkind
          WHEN 'p' THEN (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_table_size(relid)), 0)
            FROM pg_catalog.pg_partition_tree(t.oid)) ELSE pg_catalog.pg_table_size(t.oid) END
        AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.relnamespace = t.relnamespace AND c.relname = its)),
    pg_catalog.format('CREATE INDEX %I ON %s %s', its, relation, definition));
END $$;

-- Nothing works without a unique one, so it is made whatever the table's size.
CREATE OR REPLACE FUNCTION pg_temp.enrichment_unique_index(relation regclass, its text, definition text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_temp.enrichment_if(
    NOT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_class t USING (relnamespace)
                WHERE t.oid = relation AND c.relname = its),
    pg_catalog.format('CREATE UNIQUE INDEX %I ON %s %s', its, relation, definition));
END $$;

-- Makes a function of triggers in `public`, if it is missing or another, and lets nobody call it by itself: anybody could,
-- through Supabase's REST API. A trigger fires without any EXECUTE privilege on its function.
CREATE OR REPLACE FUNCTION pg_temp.enrichment_function(its text, body text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  stranger record;
BEGIN
  PERFORM pg_temp.enrichment_if(
    NOT EXISTS (
      SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
      WHERE p.pronamespace = 'public'::pg_catalog.regnamespace AND p.proname = its AND p.pronargs = 0
        AND p.prorettype = 'pg_catalog.trigger'::pg_catalog.regtype AND l.lanname = 'plpgsql' AND NOT p.prosecdef
        AND p.proconfig = ARRAY['search_path=""'] AND p.prosrc = body),
    pg_catalog.format('CREATE OR REPLACE FUNCTION public.%I() RETURNS trigger LANGUAGE plpgsql SET search_path = '''''
      ' AS %L', its, body));
  FOR stranger IN
    SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE r.rolname::text END AS name
    FROM pg_catalog.pg_proc p
      CROSS JOIN LATERAL pg_catalog.aclexplode(coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) a
      LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee
    WHERE p.pronamespace = 'public'::pg_catalog.regnamespace AND p.proname = its AND p.pronargs = 0
      AND (a.grantee = 0 OR r.rolname IN ('anon', 'authenticated'))
  LOOP
    EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION public.%I() FROM %s', its, stranger.name);
  END LOOP;
END $$;

-- Makes a trigger, if it is missing, disabled or another: CREATE TRIGGER its event ON relation how. One that the owner made
-- to fire ALWAYS stays so. Postgres writes down a trigger in its own way: so the two are compared as it writes them, the
-- wanted one as that of an empty temporary table with the same columns.
CREATE OR REPLACE FUNCTION pg_temp.enrichment_trigger(its text, event text, relation regclass, how text) RETURNS void
LANGUAGE plpgsql SET quote_all_identifiers = off AS $$
DECLARE
  present constant text := (
    SELECT pg_catalog.replace(pg_catalog.pg_get_triggerdef(t.oid), pg_catalog.format(' ON %I.%I ', nspname, relname), ' ON ')
    FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE t.tgrelid = relation AND t.tgname = its AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A'));
  always constant boolean := EXISTS (
    SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = relation AND tgname = its AND tgenabled = 'A');
  wanted text;
BEGIN
  IF present IS NOT NULL THEN
    EXECUTE pg_catalog.format('CREATE TEMPORARY TABLE enrichment_twin (LIKE %s)', relation);
    EXECUTE pg_catalog.format('CREATE TRIGGER %I %s ON pg_temp.enrichment_twin %s', its, event, how);
    SELECT pg_catalog.regexp_replace(pg_catalog.pg_get_triggerdef(oid), ' ON \S+\.enrichment_twin ', ' ON ') INTO wanted
    FROM pg_catalog.pg_trigger WHERE tgrelid = pg_catalog.to_regclass('pg_temp.enrichment_twin') AND tgname = its;
    DROP TABLE pg_temp.enrichment_twin;
  END IF;
  PERFORM pg_temp.enrichment_if(wanted IS DISTINCT FROM present OR present IS NULL,
    pg_catalog.format('CREATE OR REPLACE TRIGGER %I %s ON %s %s', its, event, relation, how));
  PERFORM pg_temp.enrichment_if(always AND wanted IS DISTINCT FROM present,
    pg_catalog.format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', relation, its));
END $$;
