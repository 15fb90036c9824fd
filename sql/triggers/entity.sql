-- Supabase: the triggers of an entity's workspace. The functions are in 00_functions.sql.
--
-- A template, filled in for each entity (worker/schema/scripts.py). Its placeholders, quoted as names or literals:
--   workspace                       the table, with its schema
--   name                            the entity's name, as a literal
--   key, key_literal                the key column, as a name and as a literal
--   column_literals                 the data columns' names as literals, with commas between them
--   workspace_literal               the table as a literal, to be cast to regclass
--   repairs, repairs_literal        the table that imports of repairs go through, likewise
--
-- The worker marks its own transactions with enrichment_worker.writer = on; all others are enrichers'.
SELECT pg_temp.enrichment_trigger('enrichment_a_key', 'BEFORE UPDATE', {workspace_literal}, $how$
  FOR EACH ROW
  WHEN (NEW.{key} IS DISTINCT FROM OLD.{key})
  EXECUTE FUNCTION public.enrichment_refuse_key_change({key_literal})$how$);

SELECT pg_temp.enrichment_trigger('enrichment_a_statement', 'BEFORE INSERT OR UPDATE OR DELETE', {workspace_literal}, $how$
  FOR EACH STATEMENT
  WHEN (current_setting('enrichment_worker.writer', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION public.enrichment_statement()$how$);

SELECT pg_temp.enrichment_trigger('enrichment_b_row', 'BEFORE INSERT OR UPDATE', {workspace_literal}, $how$
  FOR EACH ROW
  WHEN (current_setting('enrichment_worker.writer', true) IS DISTINCT FROM 'on')
  EXECUTE FUNCTION public.enrichment_row({column_literals})$how$);

SELECT pg_temp.enrichment_trigger('enrichment_notify_insert', 'AFTER INSERT', {workspace_literal}, $how$
  FOR EACH ROW
  WHEN (NEW.enrichment_status = 'complete' AND NEW.pushed_to_neon_at IS NULL)
  EXECUTE FUNCTION public.enrichment_notify({name})$how$);

SELECT pg_temp.enrichment_trigger('enrichment_notify_update', 'AFTER UPDATE', {workspace_literal}, $how$
  FOR EACH ROW
  WHEN (NEW.enrichment_status = 'complete' AND NEW.pushed_to_neon_at IS NULL AND NEW.waiting_for IS NULL
        AND (OLD.enrichment_status IS DISTINCT FROM 'complete' OR OLD.pushed_to_neon_at IS NOT NULL
             OR OLD.waiting_for IS NOT NULL))
  EXECUTE FUNCTION public.enrichment_notify({name})$how$);

-- Repairs from a spreadsheet are imported into this table, which lays them over the workspace and stays empty. All its
-- columns are text: what does not fit is named with its record.
DO $$
DECLARE
  wanted constant text[] := ARRAY[
    {key_literal}, {column_literals}, 'enrichment_status', 'enrichment_notes', 'enriched_by'];
  name text;
BEGIN
  IF to_regclass({repairs_literal}) IS NULL THEN
    PERFORM pg_temp.enrichment_if(true, $make$CREATE TABLE {repairs} ()$make$);
  ELSIF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = {repairs_literal}::regclass
                    AND tgname = 'enrichment_lay_over') THEN
    RAISE EXCEPTION '% is a table of somebody else''s: rename it, as the worker needs the name for imports',
      {repairs_literal}::regclass;
  END IF;
  FOREACH name IN ARRAY wanted LOOP
    IF NOT EXISTS (SELECT FROM pg_attribute WHERE attrelid = {repairs_literal}::regclass AND attname = name
                   AND attnum > 0 AND NOT attisdropped) THEN
      PERFORM pg_temp.enrichment_if(true, format('ALTER TABLE %s ADD COLUMN %I TEXT', {repairs_literal}, name));
    END IF;
  END LOOP;
  -- What is no data column any more has to be refused by name.
  FOR name IN SELECT attname FROM pg_attribute WHERE attrelid = {repairs_literal}::regclass AND attnum > 0
    AND NOT attisdropped AND attname <> ALL (wanted) LOOP
    PERFORM pg_temp.enrichment_if(true, format('ALTER TABLE %s DROP COLUMN %I', {repairs_literal}, name));
  END LOOP;
END $$;
-- It has no key, as it holds no rows; where all tables are published, nothing could be deleted from it otherwise.
SELECT pg_temp.enrichment_if(
  NOT EXISTS (SELECT FROM pg_class WHERE oid = {repairs_literal}::regclass AND relreplident = 'f'),
  $make$ALTER TABLE {repairs} REPLICA IDENTITY FULL$make$);
SELECT pg_temp.enrichment_close_to_strangers({repairs_literal});
SELECT pg_temp.enrichment_trigger('enrichment_lay_over', 'AFTER INSERT', {repairs_literal}, $how$
  REFERENCING NEW TABLE AS rows_in FOR EACH STATEMENT
  EXECUTE FUNCTION public.enrichment_lay_over({workspace_literal}, {key_literal}, {column_literals})$how$);
