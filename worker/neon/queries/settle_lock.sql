-- Locks the rows of the invalid and the master table that a settlement will touch. Rows that another transaction holds are
-- skipped, so that they block no other record.
WITH invalid AS MATERIALIZED (
  SELECT FROM {invalid} WHERE {key} = ANY(%(keys)s{keys_cast}) FOR UPDATE SKIP LOCKED
), master AS MATERIALIZED (
  SELECT FROM {master} WHERE {key} = ANY(%(keys)s{keys_cast}) FOR UPDATE SKIP LOCKED
){identities}
SELECT (SELECT count(*) FROM invalid) + (SELECT count(*) FROM master) AS rows{contended}
