-- Neon: an entity's invalid and master table. In production both exist and hold data; only what is missing is added.
--
-- A template, filled in for each entity (worker/schema/scripts.py). Its placeholders, quoted as names or literals:
--   invalid, master                 the tables, with their schemas
--   invalid_schema, master_schema   the schemas alone
--   invalid.SUFFIX                  a name made of a table's, such as company_invalid_SUFFIX
--   key, key_type                   the key column, and its type
--   columns, master_columns         column definitions, with commas between them
--   name                            the entity's name, as a literal
--   invalid_literal, master_literal the tables' names as SQL writes them, as literals
--   reads                           the other tables that it looks at, as an array
--   raw_table                       where the invalid records come from, as a literal
--   alike                           what makes a duplicate: name → expression of each index, as JSON
CREATE SCHEMA IF NOT EXISTS {invalid_schema};
CREATE SCHEMA IF NOT EXISTS {master_schema};
CREATE TABLE IF NOT EXISTS {invalid} (
  id BIGSERIAL PRIMARY KEY,
  {key} {key_type} UNIQUE NOT NULL,
  {columns},
  validation_status TEXT DEFAULT 'FAILED',
  reason_code TEXT NOT NULL,
  validation_errors JSONB NOT NULL,
  validation_warnings JSONB,
  failed_at TIMESTAMP DEFAULT now(),
  reviewed BOOLEAN DEFAULT false,
  batch_id TEXT,
  source_table TEXT DEFAULT {raw_table},
  created_at TIMESTAMP DEFAULT now(),
  updated_at TIMESTAMP DEFAULT now()
);
-- A table made in another way may lack some of them. Data columns are not added: an empty one would look like a
-- correction.
ALTER TABLE {invalid}
  ADD COLUMN IF NOT EXISTS reason_code TEXT,
  ADD COLUMN IF NOT EXISTS validation_errors JSONB,
  ADD COLUMN IF NOT EXISTS validation_warnings JSONB,
  ADD COLUMN IF NOT EXISTS batch_id TEXT,
  ADD COLUMN IF NOT EXISTS created_at TIMESTAMP DEFAULT now(),
  ADD COLUMN IF NOT EXISTS updated_at TIMESTAMP DEFAULT now(),
  -- the worker's own
  ADD COLUMN IF NOT EXISTS enrichment_status TEXT,
  ADD COLUMN IF NOT EXISTS enriched_at TIMESTAMP,
  ADD COLUMN IF NOT EXISTS enriched_by TEXT,
  ADD COLUMN IF NOT EXISTS still_invalid BOOLEAN DEFAULT FALSE;
-- The incremental pull reads only what changed since its position.
CREATE INDEX IF NOT EXISTS {invalid.updated_at_idx} ON {invalid} (updated_at);
-- Pushed by hand and not judged yet.
CREATE INDEX IF NOT EXISTS {invalid.unjudged_idx} ON {invalid} ({key})
  WHERE enrichment_status = 'complete' AND still_invalid IS NOT TRUE;

CREATE TABLE IF NOT EXISTS {master} (
  {master_columns}
);

-- A settlement finds duplicates by these. A small table is locked for a moment; a large one is in production, and CREATE
-- INDEX would stop all who write it: its owner builds the index CONCURRENTLY, when it suits, and `doctor` says how. Until
-- then each batch reads the table once.
DO $enrichment$
DECLARE it record;
BEGIN
  FOR it IN SELECT key AS name, value AS expression FROM jsonb_each_text({alike}::jsonb) LOOP
    CONTINUE WHEN pg_table_size({master_literal}::regclass) > 32 * 1024 * 1024 OR NOT EXISTS (
      SELECT FROM pg_class WHERE oid = {master_literal}::regclass AND relkind IN ('r', 'p')
        AND pg_has_role(relowner, 'USAGE'));
    EXECUTE format('CREATE INDEX IF NOT EXISTS %I ON %s (%s)', it.name, {master_literal}, it.expression);
  END LOOP;
END $enrichment$;

INSERT INTO marketing.enrichment_entities (entity, invalid, master, reads)
VALUES ({name}, {invalid_literal}, {master_literal}, {reads}::text[])
ON CONFLICT (entity) DO NOTHING;
UPDATE marketing.enrichment_entities
SET invalid = {invalid_literal}, master = {master_literal}, reads = {reads}::text[]
WHERE entity = {name}
  AND (invalid, master, reads) IS DISTINCT FROM ({invalid_literal}, {master_literal}, {reads}::text[]);
