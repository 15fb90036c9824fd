-- Promotes the records of a batch that Neon has as they were merged, that have no history and no master row, and that wait for
-- nothing; one that is a duplicate it may flag. Returns a row for each of them; what it leaves, settle.sql settles: that has three times as many parts.
WITH d AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset(%(records)s) AS d (key text, hash text, expected text, changes jsonb, warnings jsonb,
    enriched_by text, enriched_at timestamp, enriched_fields jsonb, conflicts jsonb, version timestamp,
    apart boolean)
), gate AS MATERIALIZED (
  -- The ledger must have the latest outcome that the workspace shows: else Neon was restored to an earlier moment.
  SELECT %(known_id)s::bigint IS NULL OR EXISTS (SELECT FROM {ledger} l WHERE l.id = %(known_id)s::bigint
    AND l.delivery_hash IS NOT DISTINCT FROM %(known_hash)s::text) AS open
), known AS MATERIALIZED (
  SELECT l.key FROM {ledger} l
  WHERE l.entity = %(entity)s AND l.key = ANY (ARRAY(SELECT key FROM d)) AND l.outcome <> 'merged'
  UNION ALL SELECT m.{key}{key_text} FROM {master} m WHERE m.{key} = ANY (ARRAY(SELECT key{key_cast} FROM d)){contended}
), here AS MATERIALIZED (
  SELECT i.*::{invalid} AS row, i.{key}{key_text} AS key, {data_i} AS data
  FROM {invalid} i WHERE i.{key} = ANY (ARRAY(SELECT key{key_cast} FROM d)) AND (SELECT open FROM gate)
  FOR UPDATE OF i SKIP LOCKED
), found AS MATERIALIZED (
  SELECT d.*, h.row AS before, h.data || d.changes AS sent, jsonb_populate_record(h.row, d.changes) AS r
  FROM d JOIN here h USING (key) WHERE md5(h.data::text) = d.expected AND h.key NOT IN (SELECT key FROM known)
), todo AS MATERIALIZED (
  SELECT d.* FROM found d{waits}
{duplicates}), going AS (
  DELETE FROM {invalid} i WHERE i.{key} = ANY (ARRAY(SELECT key{key_cast} FROM todo{but}))
  RETURNING i.{key}{key_text} AS key
), placed AS (
  INSERT INTO {master} AS m ({key}, {master_columns})
  SELECT d.key{key_cast}, {master_values}
  FROM todo d JOIN going USING (key) CROSS JOIN LATERAL (SELECT (d.r).*) r
  RETURNING m.{key}{key_text} AS key, to_jsonb(m.*) AS row
{flagged}), booked AS (
  INSERT INTO {ledger} (run_id, entity, key, outcome, delivery_hash, invalid_before, master_after, record, errors, reason_code,
    warnings, enriched_fields, conflicts, enriched_by, enriched_at, rules_version, row_version)
  SELECT %(run_id)s, %(entity)s, t.key, {outcome}, t.hash, to_jsonb(t.before), m.row, {booked}, {errors}, {code},
    {warnings}, t.enriched_fields, coalesce(t.conflicts, '[]'), t.enriched_by, t.enriched_at, %(rules_version)s, t.version
  FROM todo t LEFT JOIN placed m USING (key){joined}
  RETURNING key, id, outcome
), logged AS (
  INSERT INTO {log} AS g (validation_run_id, source_table, target_table, total_records,
    passed_records, failed_records, executed_by, executed_at, notes)
  SELECT %(run_id)s, %(source)s, %(target)s, count(*), count(*) FILTER (WHERE outcome = 'promoted'),
    count(*) FILTER (WHERE outcome <> 'promoted'), %(executed_by)s, now(), %(notes)s
  FROM booked HAVING count(*) > 0
  ON CONFLICT (validation_run_id) DO UPDATE SET total_records = g.total_records + EXCLUDED.total_records,
    passed_records = g.passed_records + EXCLUDED.passed_records,
    failed_records = g.failed_records + EXCLUDED.failed_records
)
SELECT {answers}
