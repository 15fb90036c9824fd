-- What the catalogue says about tables: kind, columns, unique indexes, dependent views and triggers; a row for each.
SELECT n.nr, c.relkind::text AS kind, columns.are AS columns, uniques.are AS unique, quote_ident(current_user) AS role,
  c.oid IS NOT NULL AND c.relkind IN ('r', 'p') AND row_security_active(c.oid) AND NOT EXISTS (
    SELECT FROM pg_policy p WHERE polrelid = c.oid AND polpermissive AND polcmd = '*'
      AND pg_get_expr(polqual, polrelid) = 'true'
      AND EXISTS (SELECT FROM unnest(polroles) r WHERE r = 0 OR pg_has_role(r, 'USAGE'))) AS blind,
  ARRAY(SELECT a.attname::text FROM pg_partitioned_table p JOIN pg_attribute a
    ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::int2[]) WHERE p.partrelid = c.oid) AS parted_by,
  format('%%I.%%I', n.schema, n.name) AS sql, ARRAY(
    SELECT quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = c.oid AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = x.oid) ORDER BY 1) AS indexes,
  -- Row (1), before (2), insert (4).
  ARRAY(SELECT jsonb_build_object('language', l.lanname, 'source', p.prosrc, 'arguments', encode(g.tgargs, 'escape'))
    FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_language l ON l.oid = p.prolang
    WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A') AND g.tgtype & 7 = 7) AS triggers,
  (WITH RECURSIVE tried (k, name) AS (
     SELECT 1, left(n.name, 50) || '_old'
     UNION ALL SELECT k + 1, left(n.name, 50) || '_old' || k + 1 FROM tried
       WHERE k < 99 AND to_regclass(format('%%I.%%I', n.schema, tried.name)) IS NOT NULL)
   SELECT quote_ident(t.name) FROM tried t WHERE to_regclass(format('%%I.%%I', n.schema, t.name)) IS NULL) AS aside
FROM jsonb_to_recordset(%(tables)s) AS n (nr int, schema text, name text)
LEFT JOIN pg_namespace s ON s.nspname = n.schema
LEFT JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = n.name
CROSS JOIN LATERAL (
  SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'quoted', quote_ident(a.attname),
    'type', format_type(a.atttypid, a.atttypmod), 'base', t.typname, 'modifier', t.modifier,
    'category', t.typcategory, 'not_null', a.attnotnull OR t.closed,
    'default', a.atthasdef OR a.attidentity <> '' OR t.filled, 'generated', a.attgenerated, 'identity', a.attidentity,
    'sequence', q.name,
    'views', ARRAY(
      SELECT DISTINCT r.ev_class::regclass::text FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid
      WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum
        AND d.refclassid = 'pg_class'::regclass),
    'triggers', ARRAY(
      SELECT DISTINCT quote_ident(g.tgname) FROM pg_depend d JOIN pg_trigger g ON g.oid = d.objid
      WHERE d.classid = 'pg_trigger'::regclass AND d.refobjid = c.oid AND d.refobjsubid = a.attnum
        AND d.refclassid = 'pg_class'::regclass)) ORDER BY a.attnum) AS are
  FROM pg_attribute a
  CROSS JOIN LATERAL (
    WITH RECURSIVE layer AS (
      SELECT t.*, a.atttypmod AS modifier, t.typnotnull AS closed, t.typdefault IS NOT NULL AS filled
      FROM pg_type t WHERE t.oid = a.atttypid
      UNION ALL
      SELECT t.*, CASE WHEN l.modifier = -1 THEN l.typtypmod ELSE l.modifier END, l.closed OR t.typnotnull,
        l.filled OR t.typdefault IS NOT NULL
      FROM layer l JOIN pg_type t ON t.oid = l.typbasetype WHERE l.typtype = 'd')
    SELECT * FROM layer WHERE typtype <> 'd') t
  LEFT JOIN LATERAL (
    SELECT d.objid::regclass::text AS name FROM pg_depend d JOIN pg_class q ON q.oid = d.objid AND q.relkind = 'S'
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
      AND d.refobjsubid = a.attnum AND a.attidentity <> ''
    UNION
    SELECT d.refobjid::regclass::text FROM pg_attrdef f JOIN pg_depend d ON d.objid = f.oid
      JOIN pg_class q ON q.oid = d.refobjid AND q.relkind = 'S'
    WHERE f.adrelid = c.oid AND f.adnum = a.attnum AND d.classid = 'pg_attrdef'::regclass
    LIMIT 1) q ON true
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) columns
CROSS JOIN LATERAL (
  SELECT jsonb_agg(jsonb_build_object('name', quote_ident(x.relname), 'immediate', i.indimmediate,
    'constraint', k.oid IS NOT NULL, 'primary', i.indisprimary, 'columns', ARRAY(
      SELECT a.attname FROM generate_series(0, i.indnkeyatts - 1) p
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[p] ORDER BY p))
    ORDER BY i.indimmediate, x.relname) AS are
  FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
  LEFT JOIN pg_constraint k ON k.conindid = x.oid AND k.conrelid = c.oid AND k.contype IN ('p', 'u')
  WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL) uniques
ORDER BY n.nr
