-- Flagged outcomes in a part of the ledger, by week, reason and field, each row with the last id of that part.
-- In id order, of every entity: searching for the few rows of a rare entity would read the whole ledger.
WITH part AS MATERIALIZED (
  SELECT l.id, l.run_id, l.id <= %(settled)s AS settled,
    CASE WHEN l.entity = %(entity)s AND l.outcome = 'flagged' THEN date_trunc('week', l.recorded_at AT TIME ZONE 'UTC')::date
      END AS week,
    -- Rows of release 0.1.0 have no code; what follows a code names a record.
    left(split_part(coalesce(l.reason_code, ''), ' ', 1), 64) AS reason_code,
    CASE WHEN l.entity = %(entity)s AND l.outcome = 'flagged' THEN l.errors END AS errors
  FROM {ledger} l WHERE l.id > %(after)s ORDER BY l.id LIMIT %(limit)s
), last AS (
  SELECT max(id) AS id, count(*) AS rows FROM part
), upto AS (
  SELECT id, run_id FROM part WHERE settled ORDER BY id DESC LIMIT 1
), counted AS (
  SELECT week, reason_code, coalesce(f.field, '') AS field, settled, count(*) AS records
  FROM part CROSS JOIN LATERAL (
    SELECT '' AS field UNION ALL
    SELECT jsonb_object_keys(CASE WHEN jsonb_typeof(errors) = 'object' THEN errors ELSE '{{}}' END)) f
  WHERE week >= %(oldest)s AND (f.field = '' OR f.field = ANY(%(fields)s)) GROUP BY 1, 2, 3, 4
)
SELECT last.id AS last_id, last.rows, upto.id AS upto_id, upto.run_id AS upto_run_id, counted.*
FROM last LEFT JOIN upto ON true LEFT JOIN counted ON true
