-- Supabase: the triggers of an entity's workspace. The functions are in 00_functions.sql.
--
-- A template, filled in for each entity (worker/schema/scripts.py). Its placeholders, quoted as names or literals:
--   workspace                       the table, with its schema
--   name                            the entity's name, as a literal
--   key, key_literal                the key column, as a name and as a literal
--   column_literals                 the data columns' names as literals, with commas between them
--
-- The worker marks its own transactions with enrichment_worker.writer = on; all others are enrichers'.
CREATE OR REPLACE TRIGGER enrichment_a_key
  BEFORE UPDATE ON {workspace} FOR EACH ROW
  WHEN (NEW.{key} IS DISTINCT FROM OLD.{key})
  EXECUTE FUNCTION public.enrichment_refuse_key_change({key_literal});

CREATE OR REPLACE TRIGGER enrichment_b_row
  BEFORE INSERT OR UPDATE ON {workspace} FOR EACH ROW
  WHEN (current_setting('enrichment_worker.writer', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION public.enrichment_row({column_literals});

CREATE OR REPLACE TRIGGER enrichment_notify_insert
  AFTER INSERT ON {workspace} FOR EACH ROW
  WHEN (NEW.enrichment_status = 'complete' AND NEW.pushed_to_neon_at IS NULL)
  EXECUTE FUNCTION public.enrichment_notify({name});

CREATE OR REPLACE TRIGGER enrichment_notify_update
  AFTER UPDATE ON {workspace} FOR EACH ROW
  WHEN (NEW.enrichment_status = 'complete' AND NEW.pushed_to_neon_at IS NULL AND NEW.waiting_for IS NULL
        AND (OLD.enrichment_status IS DISTINCT FROM 'complete' OR OLD.pushed_to_neon_at IS NOT NULL
             OR OLD.waiting_for IS NOT NULL))
  EXECUTE FUNCTION public.enrichment_notify({name});
