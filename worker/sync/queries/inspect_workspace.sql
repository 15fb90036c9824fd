-- The workspace table when a pull begins: whether it is empty, whether COPY may fill it, and how a text becomes a value of each
-- column: nothing for a kind of text, else a cast to the type, or what a domain is made of, by its name in the catalogue. That
-- has no length: `character[]` would be `character(1)[]`, and a cast cuts. What is too long is refused when it is assigned.
SELECT NOT EXISTS (SELECT FROM {table}) AS vacant, NOT row_security_active({name}::regclass) AS direct, (
  SELECT jsonb_object_agg(a.attname, CASE t.typcategory WHEN 'S' THEN '' ELSE (
    WITH RECURSIVE base AS (
      SELECT t.typtype, t.typbasetype, t.typname, t.typnamespace
      UNION ALL
      SELECT u.typtype, u.typbasetype, u.typname, u.typnamespace FROM base b JOIN pg_type u ON u.oid = b.typbasetype
      WHERE b.typtype = 'd')
    SELECT format('::%I.%I', n.nspname, b.typname) FROM base b JOIN pg_namespace n ON n.oid = b.typnamespace
    WHERE b.typtype <> 'd') END)
  FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
  WHERE a.attrelid = {name}::regclass AND a.attnum > 0 AND NOT a.attisdropped) AS casts
