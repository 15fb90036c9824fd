-- Master columns whose type does not fit what the worker writes there.
SELECT a.attname::text AS name, format_type(v.type, NULL) AS value FROM (VALUES {pairs}) AS v (name, type)
JOIN pg_attribute a ON a.attrelid = {master}::regclass AND a.attname = v.name
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_type u ON u.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
JOIN pg_type f ON f.oid = v.type
JOIN pg_type s ON s.oid = coalesce(nullif(f.typbasetype, 0), f.oid)
-- INSERT casts anything to text, and otherwise uses assignment casts.
WHERE NOT (s.oid = u.oid OR s.typname = 'unknown' OR u.typcategory = 'S'
  OR (s.typcategory = 'A' AND u.typcategory = 'A')
  OR EXISTS (SELECT FROM pg_cast WHERE castsource = s.oid AND casttarget = u.oid AND castcontext IN ('a', 'i')))
