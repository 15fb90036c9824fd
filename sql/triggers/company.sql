-- Supabase: the triggers of companies. The functions are in 00_functions.sql.
-- The worker marks its own transactions with enrichment_worker.writer = on; all others are enrichers.
CREATE OR REPLACE TRIGGER enrichment_a_key
  BEFORE UPDATE ON public.company_needs_enrichment FOR EACH ROW
  WHEN (NEW.company_unique_id IS DISTINCT FROM OLD.company_unique_id)
  EXECUTE FUNCTION public.enrichment_refuse_key_change('company_unique_id');

CREATE OR REPLACE TRIGGER enrichment_b_row
  BEFORE INSERT OR UPDATE ON public.company_needs_enrichment FOR EACH ROW
  WHEN (current_setting('enrichment_worker.writer', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION public.enrichment_row('company_name', 'domain', 'industry', 'employee_count', 'website', 'phone',
    'address', 'city', 'state', 'zip');

CREATE OR REPLACE TRIGGER enrichment_notify_insert
  AFTER INSERT ON public.company_needs_enrichment FOR EACH ROW
  WHEN (NEW.enrichment_status = 'complete' AND NEW.pushed_to_neon_at IS NULL)
  EXECUTE FUNCTION public.enrichment_notify('company');

CREATE OR REPLACE TRIGGER enrichment_notify_update
  AFTER UPDATE ON public.company_needs_enrichment FOR EACH ROW
  WHEN (NEW.enrichment_status = 'complete' AND NEW.pushed_to_neon_at IS NULL AND NEW.waiting_for IS NULL
        AND (OLD.enrichment_status IS DISTINCT FROM 'complete' OR OLD.pushed_to_neon_at IS NOT NULL
             OR OLD.waiting_for IS NOT NULL))
  EXECUTE FUNCTION public.enrichment_notify('company');
