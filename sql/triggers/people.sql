-- Supabase: the triggers of people. The functions are in 00_functions.sql.
-- The worker marks its own transactions with enrichment_worker.writer = on; all others are enrichers.
CREATE OR REPLACE TRIGGER enrichment_a_key
  BEFORE UPDATE ON public.people_needs_enrichment FOR EACH ROW
  WHEN (NEW.unique_id IS DISTINCT FROM OLD.unique_id)
  EXECUTE FUNCTION public.enrichment_refuse_key_change('unique_id');

CREATE OR REPLACE TRIGGER enrichment_b_row
  BEFORE INSERT OR UPDATE ON public.people_needs_enrichment FOR EACH ROW
  WHEN (current_setting('enrichment_worker.writer', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION public.enrichment_row('full_name', 'first_name', 'last_name', 'email', 'phone', 'title', 'company_name',
    'company_unique_id', 'linkedin_url', 'city', 'state');

CREATE OR REPLACE TRIGGER enrichment_notify_insert
  AFTER INSERT ON public.people_needs_enrichment FOR EACH ROW
  WHEN (NEW.enrichment_status = 'complete' AND NEW.pushed_to_neon_at IS NULL)
  EXECUTE FUNCTION public.enrichment_notify('people');

CREATE OR REPLACE TRIGGER enrichment_notify_update
  AFTER UPDATE ON public.people_needs_enrichment FOR EACH ROW
  WHEN (NEW.enrichment_status = 'complete' AND NEW.pushed_to_neon_at IS NULL AND NEW.waiting_for IS NULL
        AND (OLD.enrichment_status IS DISTINCT FROM 'complete' OR OLD.pushed_to_neon_at IS NOT NULL
             OR OLD.waiting_for IS NOT NULL))
  EXECUTE FUNCTION public.enrichment_notify('people');
