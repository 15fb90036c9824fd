-- Supabase, optional: gives access to enrichers who use a front end of your own (supabase-js, the REST API) instead of
-- the dashboard. `setup` does not run it. Run it as `postgres`, after `setup`; it may run again:
--
--   psql "$SUPABASE_DATABASE_URL" -v ON_ERROR_STOP=1 -f sql/optional/enrichers-policies.sql
--
-- Everybody who signs up in a Supabase project is `authenticated`, so that alone is not enough: an enricher is a user
-- with {"enricher": true} in the app_metadata, which only the service key can write:
--
--   await supabase.auth.admin.updateUserById(id, { app_metadata: { enricher: true } })
--
-- Enrichers see what they need, and edit the data columns, the status and their notes. They cannot change the columns in
-- which the worker keeps a record's state, and cannot insert or delete rows. `select=*` is refused: name the columns.
-- enriched_by is filled in automatically with the e-mail of the signed-in user who sets a row to complete.
-- The workspace tables, their keys and data columns are those that `setup` gave their triggers.
BEGIN;
DO $$
DECLARE
  it record;
  enricher constant text := $who$(SELECT coalesce(nullif((SELECT current_setting('request.jwt.claims', true)), '')::jsonb
    -> 'app_metadata' @> '{"enricher": true}', false))$who$;
BEGIN
  FOR it IN
    SELECT a.workspace, a.schema,
      string_agg(quote_ident(a.name), ', ' ORDER BY a.name) FILTER (WHERE NOT a.is_key) AS data,
      string_agg(quote_ident(a.name), ', ') FILTER (WHERE a.is_key) AS key
    FROM (
      SELECT t.tgrelid::regclass AS workspace, n.nspname AS schema, t.tgname = 'enrichment_a_key' AS is_key,
        convert_from(decode(part, 'hex'), 'UTF8') AS name
      FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
      -- A trigger's arguments end in a zero byte each.
      CROSS JOIN LATERAL regexp_split_to_table(
        regexp_replace(encode(t.tgargs, 'hex'), '(..)', '\1 ', 'g'), '00 ') WITH ORDINALITY AS s (spaced, at)
      CROSS JOIN LATERAL (SELECT replace(s.spaced, ' ', '') AS part) p
      WHERE t.tgname IN ('enrichment_a_key', 'enrichment_b_row') AND NOT t.tgisinternal AND p.part <> '') a
    GROUP BY a.workspace, a.schema
  LOOP
    EXECUTE format('REVOKE ALL ON %s FROM authenticated', it.workspace);
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO authenticated', it.schema);
    EXECUTE format('GRANT SELECT (id, %1$s, %2$s, original_validation_errors, original_validation_warnings,'
      ' reason_code, validation_errors, validation_warnings, enrichment_status, enrichment_notes, enriched_by,'
      ' enriched_at, sync_note, times_returned, returned_at, promoted_at, created_at, updated_at),'
      ' UPDATE (%2$s, enrichment_status, enrichment_notes) ON %3$s TO authenticated', it.key, it.data, it.workspace);
    EXECUTE format('DROP POLICY IF EXISTS enrichers_see ON %s', it.workspace);
    EXECUTE format('DROP POLICY IF EXISTS enrichers_edit ON %s', it.workspace);
    EXECUTE format('CREATE POLICY enrichers_see ON %s FOR SELECT TO authenticated USING (%s)', it.workspace, enricher);
    EXECUTE format('CREATE POLICY enrichers_edit ON %s FOR UPDATE TO authenticated USING (%s) WITH CHECK (%s)',
                   it.workspace, enricher, enricher);
  END LOOP;
  -- The view asks the tables with its reader's own rights.
  IF to_regclass('public.needs_attention') IS NOT NULL THEN
    GRANT SELECT ON public.needs_attention TO authenticated;
  END IF;
END $$;
COMMIT;
