-- Neon: an entity's invalid and master table. In production both exist and hold data; only what is missing is added.
--
-- A template, filled in for each entity (worker/schema/scripts.py). Its placeholders, quoted as names or literals:
--   invalid, master                 the tables, with their schemas
--   invalid_schema_literal, master_schema_literal   the schemas alone, as literals
--   invalid_literal.SUFFIX          a name made of a table's, such as company_invalid_SUFFIX, as a literal
--   key, key_type                   the key column, and its type
--   columns, master_columns         column definitions, with commas between them
--   name                            the entity's name, as a literal
--   invalid_literal, master_literal the tables' names as SQL writes them, as literals
--   reads                           the other tables that it looks at, as an array
--   raw_table                       where the invalid records come from, as a literal
--   alike                           the master's indexes by which duplicates are found
SELECT pg_temp.enrichment_schema({invalid_schema_literal});
SELECT pg_temp.enrichment_schema({master_schema_literal});
SELECT pg_temp.enrichment_if(to_regclass({invalid_literal}) IS NULL, $make$
CREATE TABLE {invalid} (
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
)$make$);
-- A table made in another way may lack some of them. Data columns are not added: an empty one would look like a
-- correction.
SELECT pg_temp.enrichment_columns({invalid_literal}, ARRAY[
  'reason_code TEXT',
  'validation_errors JSONB',
  'validation_warnings JSONB',
  'batch_id TEXT',
  'created_at TIMESTAMP DEFAULT now()',
  'updated_at TIMESTAMP DEFAULT now()',
  -- the worker's own
  'enrichment_status TEXT',
  'enriched_at TIMESTAMP',
  'enriched_by TEXT',
  'still_invalid BOOLEAN DEFAULT FALSE'
]);
-- The incremental pull reads only what changed since its position.
SELECT pg_temp.enrichment_index({invalid_literal}, {invalid_literal.updated_at_idx}, '(updated_at)');
-- Pushed by hand and not judged yet.
SELECT pg_temp.enrichment_index({invalid_literal}, {invalid_literal.unjudged_idx}, $index$
  ({key}) WHERE enrichment_status = 'complete' AND still_invalid IS NOT TRUE$index$);

SELECT pg_temp.enrichment_if(to_regclass({master_literal}) IS NULL, $make$
CREATE TABLE {master} (
  {master_columns}
)$make$);
-- A settlement finds duplicates by these; without them, each batch reads the table once.
{alike}

INSERT INTO marketing.enrichment_entities (entity, invalid, master, reads)
VALUES ({name}, {invalid_literal}, {master_literal}, {reads}::text[])
ON CONFLICT (entity) DO NOTHING;
UPDATE marketing.enrichment_entities
SET invalid = {invalid_literal}, master = {master_literal}, reads = {reads}::text[]
WHERE entity = {name}
  AND (invalid, master, reads) IS DISTINCT FROM ({invalid_literal}, {master_literal}, {reads}::text[]);
