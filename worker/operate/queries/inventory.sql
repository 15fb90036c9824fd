-- The objects of the kinds that `setup` creates: a name and a shape for each.
SELECT 'schema ' || quote_ident(nspname) AS thing, '' AS shape FROM pg_namespace WHERE nspname = ANY({schemas})
UNION ALL
SELECT CASE relkind WHEN 'v' THEN 'view ' ELSE 'table ' END || c.oid::regclass,
  concat_ws(', ', CASE WHEN relrowsecurity THEN 'row level security' END,
    CASE WHEN relacl::text ~ '(anon|authenticated)=' THEN 'open to strangers' END)
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = ANY({schemas}) AND relkind IN ('r', 'p', 'v')
UNION ALL
SELECT 'index ' || c.relname || ' on ' || i.indrelid::regclass, ''
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = ANY({schemas})
UNION ALL
SELECT 'column ' || attrelid::regclass || '.' || attname, format_type(atttypid, atttypmod)
FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = ANY({schemas}) AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
UNION ALL
SELECT 'constraint ' || conname || ' on ' || conrelid::regclass, pg_get_constraintdef(k.oid)
FROM pg_constraint k JOIN pg_namespace n ON n.oid = connamespace
WHERE nspname = ANY({schemas}) AND conrelid <> 0 AND contype = 'c'
UNION ALL
SELECT 'trigger ' || tgname || ' on ' || tgrelid::regclass,
  pg_get_triggerdef(t.oid) || CASE tgenabled WHEN 'D' THEN ' disabled' WHEN 'R' THEN ' in replicas only' ELSE '' END
FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid JOIN pg_namespace n ON n.oid = relnamespace
WHERE nspname = ANY({schemas}) AND NOT tgisinternal
UNION ALL
SELECT 'function ' || p.oid::regprocedure, md5(pg_get_functiondef(p.oid))
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE nspname = ANY({schemas}) AND prokind = 'f' AND proname LIKE 'enrichment%'
