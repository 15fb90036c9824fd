-- The foreign keys that reference these tables, with the columns on both sides and their ON DELETE and ON UPDATE actions.
-- A partition's inherited foreign key counts as its parent's. As JSON, what an older version lacks is NULL: before 15, the
-- columns that ON DELETE clears; before 18, whether it is enforced.
SELECT t.leaf, c.conname AS name, s.nspname AS schema, r.relname AS table, r.relkind = 'p' AS partitioned,
  c.confdeltype::text AS on_delete, c.confupdtype::text AS on_update, k.*,
  ARRAY(SELECT a.attname::text FROM pg_attribute a
    WHERE a.attrelid = c.conrelid AND to_jsonb(c) -> 'confdelsetcols' @> to_jsonb(a.attnum)) AS cleared,
  ARRAY(SELECT a.attname::text FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY x (nr, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = x.nr
    WHERE i.indrelid = c.conrelid AND i.indisprimary ORDER BY x.place) AS key,
  array_remove(ARRAY[
    CASE WHEN NOT has_schema_privilege(s.oid, 'USAGE') THEN format('GRANT USAGE ON SCHEMA %%I TO %%I', s.nspname,
      current_user) END,
    CASE WHEN NOT has_table_privilege(r.oid, 'SELECT') THEN format('GRANT SELECT ON %%I.%%I TO %%I', s.nspname,
      r.relname, current_user) END,
    CASE WHEN NOT row_security_active(r.oid) THEN NULL
      WHEN p.restricted THEN format('ALTER ROLE %%I BYPASSRLS', current_user)
      WHEN NOT p.open THEN format('CREATE POLICY %%I ON %%I.%%I FOR SELECT TO %%I USING (true)',
        current_user || '_sees_all', s.nspname, r.relname, current_user) END], NULL) AS hints
FROM unnest(%(leaves)s::bigint[]) t (leaf)
JOIN pg_constraint c ON c.contype = 'f' AND c.conparentid = 0
  AND (c.confrelid = t.leaf::oid OR c.confrelid IN (SELECT pg_partition_ancestors(t.leaf::oid)))
  AND coalesce((to_jsonb(c) ->> 'conenforced')::boolean, true)
JOIN pg_class r ON r.oid = c.conrelid JOIN pg_namespace s ON s.oid = r.relnamespace
CROSS JOIN LATERAL (
  SELECT array_agg(f.attname::text ORDER BY x.place) AS columns,
    array_agg(m.attname::text ORDER BY x.place) AS referenced,
    array_agg(format('OPERATOR(%%I.%%s)', n.nspname, o.oprname) ORDER BY x.place) AS operators,
    -- The referenced column's collation counts.
    array_agg(CASE WHEN f.attcollation <> m.attcollation THEN (
      SELECT format('%%I.%%I', y.nspname, l.collname) FROM pg_collation l
      JOIN pg_namespace y ON y.oid = l.collnamespace WHERE l.oid = m.attcollation) END ORDER BY x.place) AS collations
  FROM unnest(c.conkey, c.confkey, c.conpfeqop) WITH ORDINALITY x (f, m, o, place)
    JOIN pg_attribute f ON f.attrelid = c.conrelid AND f.attnum = x.f
    JOIN pg_attribute m ON m.attrelid = c.confrelid AND m.attnum = x.m
    JOIN pg_operator o ON o.oid = x.o JOIN pg_namespace n ON n.oid = o.oprnamespace) k
CROSS JOIN LATERAL (
  SELECT coalesce(bool_or(NOT polpermissive), false) AS restricted,
    coalesce(bool_or(polpermissive AND pg_get_expr(polqual, polrelid) = 'true'), false) AS open
  FROM pg_policy WHERE polrelid = r.oid AND polcmd IN ('*', 'r')
    AND EXISTS (SELECT FROM unnest(polroles) o WHERE o = 0 OR pg_has_role(o, 'USAGE'))) p
ORDER BY s.nspname, r.relname, c.conname
