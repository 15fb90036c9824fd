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
BEGIN;
REVOKE ALL ON public.company_needs_enrichment, public.people_needs_enrichment FROM authenticated;

GRANT SELECT (id, company_unique_id, company_name, domain, industry, employee_count, website, phone, address, city,
    state, zip, original_validation_errors, original_validation_warnings, reason_code, validation_errors,
    validation_warnings, enrichment_status, enrichment_notes, enriched_by, enriched_at, sync_note, promoted_at,
    created_at, updated_at),
  UPDATE (company_name, domain, industry, employee_count, website, phone, address, city, state, zip,
    enrichment_status, enrichment_notes)
  ON public.company_needs_enrichment TO authenticated;

GRANT SELECT (id, unique_id, full_name, first_name, last_name, email, phone, title, company_name,
    company_unique_id, linkedin_url, city, state, original_validation_errors, original_validation_warnings,
    reason_code, validation_errors, validation_warnings, enrichment_status, enrichment_notes, enriched_by,
    enriched_at, sync_note, promoted_at, created_at, updated_at),
  UPDATE (full_name, first_name, last_name, email, phone, title, company_name, company_unique_id, linkedin_url,
    city, state, enrichment_status, enrichment_notes)
  ON public.people_needs_enrichment TO authenticated;

DO $$
DECLARE
  it regclass;
  enricher constant text := $who$(SELECT coalesce(nullif(current_setting('request.jwt.claims', true), '')::jsonb
    -> 'app_metadata' @> '{"enricher": true}', false))$who$;
BEGIN
  FOREACH it IN ARRAY ARRAY['public.company_needs_enrichment', 'public.people_needs_enrichment']::regclass[] LOOP
    EXECUTE format('DROP POLICY IF EXISTS enrichers_see ON %s', it);
    EXECUTE format('DROP POLICY IF EXISTS enrichers_edit ON %s', it);
    EXECUTE format('CREATE POLICY enrichers_see ON %s FOR SELECT TO authenticated USING (%s)', it, enricher);
    EXECUTE format('CREATE POLICY enrichers_edit ON %s FOR UPDATE TO authenticated USING (%s) WITH CHECK (%s)',
                   it, enricher, enricher);
  END LOOP;
  -- The view asks the tables with its reader's own rights.
  IF to_regclass('public.needs_attention') IS NOT NULL THEN
    GRANT SELECT ON public.needs_attention TO authenticated;
  END IF;
END $$;
COMMIT;
