-- The definition of a constraint or an index of a table, and its columns.
SELECT pg_get_constraintdef(c.oid) AS definition, c.confrelid::regclass::text AS other,
  ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.conrelid AND attnum = ANY(c.conkey)) AS columns
FROM pg_constraint c WHERE c.conrelid = to_regclass(%(table)s) AND c.conname = %(name)s
UNION ALL
SELECT pg_get_indexdef(i.indexrelid), NULL,
  ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = i.indrelid AND attnum = ANY(i.indkey::int2[]))
FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid
WHERE i.indrelid = to_regclass(%(table)s) AND n.relname = %(name)s
LIMIT 1
