-- Key → numbers of the demands that a record does not meet. Executed by demands.sql: $1 are the records.
WITH given AS MATERIALIZED (
  SELECT key, data, enriched_by FROM jsonb_to_recordset($1) AS g (key text, data jsonb, enriched_by text)
), here AS MATERIALIZED (
  SELECT i.*::{invalid} AS row, i.{key}{key_text} AS key FROM {invalid} i WHERE i.{key} = ANY (ARRAY(SELECT key{key_cast} FROM given))
), prior AS MATERIALIZED (
  SELECT m.*::{master} AS old, m.{key}{key_text} AS key FROM {master} m WHERE m.{key} = ANY (ARRAY(SELECT key{key_cast} FROM given))
), todo AS MATERIALIZED (
  SELECT g.key, g.enriched_by, p.old, p.key IS NOT NULL AS there, jsonb_populate_record(h.row, g.data) AS r
  FROM given g JOIN here h USING (key) LEFT JOIN prior p USING (key)
)
SELECT coalesce(jsonb_object_agg(q.key, q.numbers) FILTER (WHERE q.numbers <> '{{}}'), '{{}}') FROM (
  SELECT d.key, array_remove(ARRAY[/* demands */], NULL) AS numbers
  FROM todo d CROSS JOIN LATERAL (SELECT (d.r).*) r
    CROSS JOIN LATERAL (SELECT {requirement} IS NOT NULL AS waits) w
    CROSS JOIN LATERAL (SELECT {values}) v) q
