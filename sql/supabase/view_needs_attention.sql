-- Supabase: the open work in all workspaces, the most worthwhile first: a list for the enrichers in the dashboard. First what
-- has the fewest problems, of these what came back least often, then the oldest. Last what has come back four times within 30
-- days: somebody else has to look at it.
--
-- The part between "each entity" and "end" is a template, filled in for each (worker/schema/scripts.py). Its
-- placeholders are the entity's name as a literal, its workspace, its key, and label, the column that names a record.
-- Other braces are doubled there.
DO $$
DECLARE
  definition constant text := $view$
      SELECT entity, key, name, enrichment_status, reason_code, what_to_do, errors, enriched_by, since, times_returned
      FROM (
      -- each entity, joined by UNION ALL
      SELECT {name} AS entity, {key}::text AS key, {label}::text AS name, enrichment_status::text AS enrichment_status,
        reason_code::text AS reason_code,
        CASE enrichment_status WHEN 'failed' THEN coalesce(sync_note, 'Repair it, and set complete again.')
          WHEN 'in_progress' THEN 'Somebody is at it.' ELSE 'Repair it, and set complete.' END::text AS what_to_do,
        coalesce(nullif(validation_errors, '{{}}'), original_validation_errors) AS errors,
        enriched_by::text AS enriched_by, updated_at AS since, times_returned,
        coalesce(cardinality(returned_at) >= 4
          AND returned_at[1] > now() AT TIME ZONE 'UTC' - interval '30 days', false) AS often
      FROM {workspace} WHERE enrichment_status IN ('pending', 'in_progress', 'failed')
      -- end of each entity
      ) a
      ORDER BY often, CASE jsonb_typeof(errors) WHEN 'array' THEN jsonb_array_length(errors)
        WHEN 'object' THEN (SELECT count(*) FROM jsonb_object_keys(errors)) ELSE 0 END, times_returned, since
    $view$;
  made constant text := 'VIEW public.needs_attention WITH (security_invoker = on) AS ' || definition;
  is_same boolean := false;
  reader name;
  readers name[];
BEGIN
  -- The reader's own rights and policies count, not the owner's; older servers lack that, and get no view.
  IF current_setting('server_version_num')::int < 150000 THEN
    RETURN;
  END IF;
  -- As Postgres writes it, so that nobody who reads the view has to wait for it to be made again.
  IF to_regclass('public.needs_attention') IS NOT NULL THEN
    EXECUTE 'CREATE TEMPORARY VIEW enrichment_twin AS ' || definition;
    is_same := (SELECT relkind = 'v' AND reloptions && ARRAY['security_invoker=on', 'security_invoker=true']
        AND pg_get_viewdef(oid) = pg_get_viewdef(to_regclass('pg_temp.enrichment_twin'))
      FROM pg_class WHERE oid = to_regclass('public.needs_attention'));
    DROP VIEW pg_temp.enrichment_twin;
  END IF;
  BEGIN
    PERFORM pg_temp.enrichment_if(is_same IS NOT TRUE, 'CREATE OR REPLACE ' || made);
  EXCEPTION WHEN invalid_table_definition THEN
    -- No column of a view can get another type. A view holds nothing; who may read it stays.
    readers := ARRAY(SELECT DISTINCT r.rolname FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
      JOIN pg_roles r ON r.oid = a.grantee
      WHERE c.oid = 'public.needs_attention'::regclass AND a.privilege_type = 'SELECT' AND a.grantee <> c.relowner);
    PERFORM pg_temp.enrichment_if(true, 'DROP VIEW public.needs_attention');
    PERFORM pg_temp.enrichment_if(true, 'CREATE ' || made);
    FOREACH reader IN ARRAY readers LOOP
      EXECUTE format('GRANT SELECT ON public.needs_attention TO %I', reader);
    END LOOP;
  END;
  PERFORM pg_temp.enrichment_close_to_strangers('public.needs_attention');
END $$;
