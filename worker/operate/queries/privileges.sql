-- Which of the privileges that the worker needs its role has.
-- A missing object has its own finding: NULL, not an error.
SELECT n.nr, t.target, CASE n.kind
    WHEN 'DATABASE' THEN has_database_privilege(current_database(), n.privilege)
    WHEN 'SCHEMA' THEN has_schema_privilege(s.oid, n.privilege)
    WHEN 'TABLE' THEN has_table_privilege(c.oid, n.privilege)
    WHEN 'SEQUENCE' THEN has_sequence_privilege(q.oid, n.privilege)
  END AS may
FROM jsonb_to_recordset(%(needs)s) AS n (nr int, kind text, privilege text, schema text, name text)
  LEFT JOIN pg_namespace s ON s.nspname = n.schema
  LEFT JOIN pg_class c ON c.relnamespace = s.oid AND c.relname = n.name
  LEFT JOIN LATERAL (
    SELECT q.oid, q.relname FROM pg_depend d JOIN pg_class q ON q.oid = d.objid AND q.relkind = 'S'
    WHERE n.kind = 'SEQUENCE' AND d.refobjid = c.oid AND d.deptype = 'a'
      AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass) q ON true
  CROSS JOIN LATERAL (SELECT CASE n.kind WHEN 'DATABASE' THEN quote_ident(current_database())
    WHEN 'SCHEMA' THEN quote_ident(n.schema)
    ELSE format('%%I.%%I', n.schema, coalesce(q.relname, n.name)) END AS target) t
ORDER BY n.nr
