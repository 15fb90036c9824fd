-- How many records an invalid and a master table hold.
-- A million-row table is not read to learn that ten rows came: a large one is estimated from its last ANALYZE.
SELECT t.name, t.exact IS NULL AS estimated, coalesce(t.exact, t.guess::bigint) AS records
FROM (SELECT 'invalid' AS name, reltuples AS guess,
        CASE WHEN reltuples < 0 OR pg_relation_size(oid) < {small} THEN (SELECT count(*) FROM {invalid}) END AS exact
      FROM pg_class WHERE oid = {invalid_name}::regclass
      UNION ALL
      SELECT 'master', reltuples,
        CASE WHEN reltuples < 0 OR pg_relation_size(oid) < {small} THEN (SELECT count(*) FROM {master}) END
      FROM pg_class WHERE oid = {master_name}::regclass) t
