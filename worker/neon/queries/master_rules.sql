-- What a table asks of a row: its columns, its CHECKs and those of its columns' domains, and the triggers that see a row
-- before it is inserted. One row.
SELECT c.oid::bigint AS id, (
  SELECT jsonb_agg(jsonb_build_object('name', a.attname, 'type', a.atttypid::bigint, 'modifier', a.atttypmod,
    'closed', a.attnotnull, 'holds', t.typname, 'limit', t.modifier, 'category', t.typcategory,
    'cast', format_type(t.oid, CASE WHEN t.typname = 'numeric' THEN t.modifier ELSE -1 END),
    'expression', pg_get_expr(f.adbin, f.adrelid), 'generated', a.attgenerated <> '',
    'domain_closed', t.closed, 'domains', (
      SELECT coalesce(jsonb_agg(jsonb_build_object('id', k.oid::bigint, 'name', k.conname,
        'expression', pg_get_expr(k.conbin, 0), 'pretty', pg_get_expr(k.conbin, 0, true),
        'comment', obj_description(k.oid, 'pg_constraint')) ORDER BY k.conname), '[]')
      FROM pg_constraint k WHERE k.contype = 'c' AND k.contypid = ANY (t.domains))) ORDER BY a.attnum)
  FROM pg_attribute a
  LEFT JOIN pg_attrdef f ON f.adrelid = a.attrelid AND f.adnum = a.attnum
  CROSS JOIN LATERAL (
    WITH RECURSIVE layer AS (
      SELECT t.oid, t.typname, t.typtype, t.typbasetype, t.typtypmod, t.typcategory, a.atttypmod AS modifier,
        t.typnotnull AS closed, CASE WHEN t.typtype = 'd' THEN ARRAY[t.oid] ELSE '{{}}' END AS domains
      FROM pg_type t WHERE t.oid = a.atttypid
      UNION ALL
      SELECT t.oid, t.typname, t.typtype, t.typbasetype, t.typtypmod, t.typcategory,
        CASE WHEN l.modifier = -1 THEN l.typtypmod ELSE l.modifier END, l.closed OR t.typnotnull,
        CASE WHEN t.typtype = 'd' THEN l.domains || t.oid ELSE l.domains END
      FROM layer l JOIN pg_type t ON t.oid = l.typbasetype WHERE l.typtype = 'd')
    SELECT * FROM layer WHERE typtype <> 'd') t
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS columns, (
  -- Also one that is NOT VALID holds for a new row. Before PostgreSQL 18 all are enforced, and no column says so.
  SELECT coalesce(jsonb_agg(jsonb_build_object('id', k.oid::bigint, 'name', k.conname,
    'expression', pg_get_expr(k.conbin, k.conrelid), 'pretty', pg_get_expr(k.conbin, k.conrelid, true),
    'comment', obj_description(k.oid, 'pg_constraint'), 'columns', ARRAY(
      SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY (k.conkey) ORDER BY a.attnum))
    ORDER BY k.conname), '[]')
  FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'c' AND 0 < ALL (k.conkey)
    AND coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true') AS checks, (
  -- Row (1), before (2), insert (4).
  SELECT coalesce(jsonb_agg(jsonb_build_object('language', l.lanname, 'source', p.prosrc,
    'arguments', encode(g.tgargs, 'escape'))), '[]')
  FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_language l ON l.oid = p.prolang
  WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled IN ('O', 'A') AND g.tgtype & 7 = 7) AS triggers
FROM pg_class c WHERE c.oid = to_regclass({table})
