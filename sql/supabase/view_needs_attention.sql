-- Supabase: what is to be done, over both workspaces, oldest first. For the enrichers' own list in the dashboard.
DO $$ BEGIN
  -- The reader's own rights and policies count, not the owner's; older servers lack that, and get no view.
  IF current_setting('server_version_num')::int >= 150000 THEN
    EXECUTE $view$
      CREATE OR REPLACE VIEW public.needs_attention WITH (security_invoker = on) AS
      SELECT 'company' AS entity, company_unique_id AS key, company_name AS name, enrichment_status, reason_code,
        CASE enrichment_status WHEN 'failed' THEN coalesce(sync_note, 'Repair it, and set complete again.')
          WHEN 'in_progress' THEN 'Somebody is at it.' ELSE 'Repair it, and set complete.' END AS what_to_do,
        coalesce(nullif(validation_errors, '{}'), original_validation_errors) AS errors, enriched_by,
        updated_at AS since
      FROM public.company_needs_enrichment WHERE enrichment_status IN ('pending', 'in_progress', 'failed')
      UNION ALL
      SELECT 'people', unique_id, full_name, enrichment_status, reason_code,
        CASE enrichment_status WHEN 'failed' THEN coalesce(sync_note, 'Repair it, and set complete again.')
          WHEN 'in_progress' THEN 'Somebody is at it.' ELSE 'Repair it, and set complete.' END,
        coalesce(nullif(validation_errors, '{}'), original_validation_errors), enriched_by, updated_at
      FROM public.people_needs_enrichment WHERE enrichment_status IN ('pending', 'in_progress', 'failed')
      ORDER BY since
    $view$;
    PERFORM public.enrichment_close_to_strangers('public.needs_attention');
  END IF;
END $$;
