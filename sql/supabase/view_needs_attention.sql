-- Supabase: the open work in all workspaces, oldest first: a list for the enrichers in the dashboard.
--
-- The part between "each entity" and "end" is a template, filled in for each (worker/schema/scripts.py). Its
-- placeholders are the entity's name as a literal, its workspace, its key, and label, the column that names a record.
-- Other braces are doubled there.
DO $$ BEGIN
  -- The reader's own rights and policies count, not the owner's; older servers lack that, and get no view.
  IF current_setting('server_version_num')::int >= 150000 THEN
    EXECUTE $view$
      CREATE OR REPLACE VIEW public.needs_attention WITH (security_invoker = on) AS
      -- each entity, joined by UNION ALL
      SELECT {name} AS entity, {key}{key_text} AS key, {label} AS name, enrichment_status, reason_code,
        CASE enrichment_status WHEN 'failed' THEN coalesce(sync_note, 'Repair it, and set complete again.')
          WHEN 'in_progress' THEN 'Somebody is at it.' ELSE 'Repair it, and set complete.' END AS what_to_do,
        coalesce(nullif(validation_errors, '{{}}'), original_validation_errors) AS errors, enriched_by,
        updated_at AS since
      FROM {workspace} WHERE enrichment_status IN ('pending', 'in_progress', 'failed')
      -- end of each entity
      ORDER BY since
    $view$;
    PERFORM public.enrichment_close_to_strangers('public.needs_attention');
  END IF;
END $$;
