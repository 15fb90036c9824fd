-- A constraint or an index of a table: its columns, the table it refers to; of a CHECK also its expression and comment.
SELECT c.conname AS name, c.confrelid::regclass::text AS other,
  CASE WHEN c.contype = 'c' THEN pg_get_expr(c.conbin, c.conrelid, true) END AS pretty,
  obj_description(c.oid, 'pg_constraint') AS comment,
  ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.conrelid AND attnum = ANY(c.conkey)) AS columns
FROM pg_constraint c WHERE c.conrelid = to_regclass(%(table)s) AND c.conname = %(name)s
UNION ALL
SELECT n.relname, NULL, NULL, NULL,
  ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = i.indrelid AND attnum = ANY(i.indkey::int2[]))
FROM pg_index i JOIN pg_class n ON n.oid = i.indexrelid
WHERE i.indrelid = to_regclass(%(table)s) AND n.relname = %(name)s
LIMIT 1
