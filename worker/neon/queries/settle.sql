-- Promotes, flags or pushes a batch, with its ledger and its log. Returns a row with the outcome of each record.
-- A whole row is `m.*`, never `m`: a column of that name would be taken for it.
WITH d AS MATERIALIZED (
  SELECT key, hash, expected, action, changes, {errors} AS errors, {warnings} AS warnings,
    reason_code, enriched_by, enriched_at, enriched_fields, coalesce(conflicts, '[]') AS conflicts, note, note_code,
    version, coalesce(apart, false) AS apart
  FROM jsonb_to_recordset(%(records)s) AS d (key text, hash text, expected text, action text,
    changes jsonb, errors jsonb, warnings jsonb, reason_code text, enriched_by text, enriched_at timestamp,
    enriched_fields jsonb, conflicts jsonb, note text, note_code text, version timestamp,
    apart boolean){demanded}
), gate AS MATERIALIZED (
  -- The ledger must have the latest outcome that the workspace shows: else Neon was restored to an earlier moment.
  SELECT CASE WHEN %(known_id)s::bigint IS NULL THEN true
    WHEN EXISTS (SELECT FROM {ledger} l WHERE l.id = %(known_id)s::bigint
                 AND l.delivery_hash IS NOT DISTINCT FROM %(known_hash)s::text) THEN true
    ELSE EXISTS (SELECT FROM {receipts} r WHERE r.entity = %(entity)s AND r.pruned_id >= %(known_id)s::bigint)
    END AS open
), told AS MATERIALIZED (
  SELECT l.id, l.key, l.outcome, l.delivery_hash, l.row_version FROM {ledger} l
  WHERE l.entity = %(entity)s AND l.key = ANY (ARRAY(SELECT key FROM d)) AND l.outcome <> 'merged'
), sent AS MATERIALIZED (
  -- If its record came back, a delivery is booked again: under its hash and the id of the previous row (`became`).
  -- LIMIT keeps the planner from joining: with a young ledger's statistics it would read the whole ledger.
  SELECT l.*, EXISTS (SELECT FROM told u WHERE u.key = s.key AND u.id > s.id AND u.outcome = 'undone') AS undone
  FROM (SELECT DISTINCT ON (t.key) t.key, t.id FROM told t JOIN d USING (key)
    WHERE t.outcome IN ('promoted', 'flagged') AND left(t.delivery_hash, 32) = left(d.hash, 32)
    ORDER BY t.key, t.id DESC) s
  CROSS JOIN LATERAL (SELECT * FROM {ledger} l WHERE l.id = s.id LIMIT 1) l
), older AS MATERIALIZED (
  -- The workspace was restored, and a newer version was carried before that. The row gets the outcome of that version.
  SELECT d.key, l.outcome
  FROM (SELECT DISTINCT ON (key) key, outcome, row_version FROM told ORDER BY key, id DESC) l JOIN d USING (key)
  WHERE l.outcome IN ('flagged', 'waiting') AND l.row_version > d.version
    OR l.outcome IN ('promoted', 'undone') AND EXISTS (
      SELECT FROM told n WHERE n.key = d.key AND n.outcome = 'promoted' AND n.row_version > d.version)
), here AS MATERIALIZED (
  SELECT i.*::{invalid} AS row, i.{key}{key_text} AS key, {data_i} AS data, md5({data_i}::text) AS hash, i.updated_at
  FROM {invalid} i WHERE i.{key} = ANY (ARRAY(SELECT key{key_cast} FROM d)) FOR UPDATE OF i SKIP LOCKED
), past AS MATERIALIZED (
  -- A record that was promoted and is in the invalid table has come back: that is no repeat, unless it was undone.
  -- An older version of a row that gets the outcome of a newer one is no repeat, either.
  SELECT s.* FROM sent s WHERE NOT EXISTS (SELECT FROM older o WHERE o.key = s.key)
    AND (s.outcome = 'flagged' OR s.undone OR NOT EXISTS (SELECT FROM here h WHERE h.key = s.key))
), prior AS MATERIALIZED (
  SELECT m.{key}{key_text} AS key, to_jsonb(m.*) AS row, m.*::{master} AS old FROM {master} m
  WHERE m.{key} = ANY (ARRAY(SELECT key{key_cast} FROM d WHERE action = 'promote')) FOR UPDATE OF m SKIP LOCKED
), held AS MATERIALIZED (
  -- In the master, and locked by another transaction; or what would make it a duplicate is.
  SELECT m.{key}{key_text} AS key FROM {master} m
  WHERE m.{key} = ANY (ARRAY(SELECT key{key_cast} FROM d WHERE action = 'promote' EXCEPT SELECT key{key_cast} FROM prior)){contended}
), todo AS MATERIALIZED (
  SELECT d.*, h.row AS before, h.data || d.changes AS sent, jsonb_populate_record(h.row, d.changes) AS r
  FROM d JOIN here h USING (key)
  WHERE h.hash = d.expected AND (SELECT open FROM gate) AND NOT EXISTS (SELECT FROM past p WHERE p.key = d.key)
    AND NOT EXISTS (SELECT FROM older o WHERE o.key = d.key)
    AND NOT EXISTS (SELECT FROM held m WHERE m.key = d.key)
), waits AS MATERIALIZED (
  SELECT q.key, q.requirement, {waits_for} AS waits_for, {about} AS about
  FROM (
    SELECT d.key, d.r, {requirement} AS requirement
    FROM todo d CROSS JOIN LATERAL (SELECT (d.r).*) r WHERE d.action = 'promote' AND {may_wait} OFFSET 0) q
  CROSS JOIN LATERAL (SELECT (q.r).*) r
  WHERE q.requirement IS NOT NULL
{duplicates}), going AS (
  DELETE FROM {invalid} i
  WHERE i.{key} = ANY (ARRAY(SELECT key{key_cast} FROM todo WHERE action = 'promote' EXCEPT SELECT key{key_cast} FROM waits
    EXCEPT SELECT key{key_cast} FROM twin WHERE held EXCEPT SELECT key{key_cast} FROM unsure))
  RETURNING i.{key}{key_text} AS key
), placed AS (
  INSERT INTO {master} AS m ({key}, {master_columns})
  SELECT d.key{key_cast}, {master_values}
  FROM todo d JOIN going USING (key) LEFT JOIN prior p USING (key) CROSS JOIN LATERAL (SELECT (d.r).*) r
  -- A row that another transaction has just inserted is not in `prior`: then the CHECK on the ledger fails, nothing is
  -- settled, and the batch is settled again.
  ON CONFLICT ({key}) DO UPDATE SET {master_updates} WHERE m.{key} = ANY (ARRAY(SELECT key{key_cast} FROM prior))
  RETURNING m.{key}{key_text} AS key, to_jsonb(m.*) AS row
), kept AS (
  UPDATE {invalid} i SET {invalid_updates},
    validation_errors = CASE WHEN x.held THEN x.said WHEN t.action = 'flag' THEN t.errors ELSE i.validation_errors END,
    validation_warnings = CASE WHEN x.held THEN t.warnings - ARRAY(SELECT jsonb_object_keys(x.said))
      WHEN t.action = 'flag' THEN t.warnings ELSE i.validation_warnings END,
    reason_code = coalesce(x.code, t.reason_code, i.reason_code),
    still_invalid = (t.action <> 'push'), enrichment_status = 'complete',
    enriched_at = coalesce(t.enriched_at, i.enriched_at, now() AT TIME ZONE 'UTC'),
    enriched_by = coalesce(t.enriched_by, i.enriched_by), updated_at = now() AT TIME ZONE 'UTC'
  FROM todo t LEFT JOIN twin x ON x.key = t.key AND x.held
  WHERE i.{key} = t.key{key_cast} AND (t.action IN ('flag', 'push') OR x.held)
    AND i.{key} = ANY (ARRAY(SELECT key{key_cast} FROM todo WHERE action IN ('flag', 'push')
      UNION ALL SELECT key{key_cast} FROM twin WHERE held))
  RETURNING i.{key}{key_text} AS key, {data_i} AS data
), became AS MATERIALIZED (
  SELECT t.*, w.waits_for, w.requirement, w.about, p.row AS master_before, m.row AS master_after,
    CASE WHEN s.id IS NULL THEN t.hash ELSE left(t.hash, 32) || '|' || s.id END AS booked_as,
    coalesce(k.data, {record}) AS record, x.said, x.code,
    CASE WHEN x.held THEN x.said ELSE t.errors END AS all_errors,
    CASE WHEN x.held THEN x.code ELSE t.reason_code END AS all_reason_code,
    CASE WHEN x.held THEN t.warnings - ARRAY(SELECT jsonb_object_keys(x.said))
         WHEN x.key IS NOT NULL THEN t.warnings || x.said ELSE t.warnings END AS all_warnings,
    CASE WHEN x.held THEN 'flagged' WHEN w.key IS NOT NULL OR t.action = 'push' THEN 'waiting'
         WHEN t.action = 'promote' THEN 'promoted' ELSE 'flagged' END AS outcome
  FROM todo t LEFT JOIN waits w USING (key) LEFT JOIN prior p USING (key) LEFT JOIN placed m USING (key)
    LEFT JOIN kept k USING (key) LEFT JOIN sent s USING (key) LEFT JOIN twin x USING (key)
  WHERE NOT EXISTS (SELECT FROM unsure u WHERE u.key = t.key)
), booked AS (
  -- What a repeat finds booked stays; a number that is taken is no repeat, and takes all of it back. A rehearsal takes
  -- no number: those do not come back.
  {book} WHERE b.outcome <> 'waiting' AND NOT %(rehearse)s
  {once}
  RETURNING key, id, delivery_hash
), noted AS (
  {book} WHERE b.outcome = 'waiting' AND NOT %(rehearse)s
  {once_each}
  RETURNING key, id, delivery_hash
), logged AS (
  INSERT INTO {log} AS g (validation_run_id, source_table, target_table, total_records,
    passed_records, failed_records, executed_by, executed_at, notes)
  SELECT %(run_id)s, %(source)s, %(target)s, count(*), count(*) FILTER (WHERE b.outcome <> 'flagged'),
    count(*) FILTER (WHERE b.outcome = 'flagged'), %(executed_by)s, now(), %(notes)s
  FROM became b HAVING count(*) > 0
  ON CONFLICT (validation_run_id) DO UPDATE SET total_records = g.total_records + EXCLUDED.total_records,
    passed_records = g.passed_records + EXCLUDED.passed_records,
    failed_records = g.failed_records + EXCLUDED.failed_records
)
SELECT d.key,
  CASE WHEN NOT (SELECT open FROM gate) THEN 'restored'
       WHEN v.outcome = 'promoted' THEN 'gone'
       -- A waiting record goes on, with the values that waited.
       WHEN h.key IS NOT NULL AND v.outcome = 'waiting' THEN 'changed'
       WHEN h.key IS NOT NULL AND v.key IS NOT NULL THEN 'repeat'
       WHEN p.key IS NOT NULL THEN 'repeat' WHEN b.key IS NOT NULL THEN 'applied'
       WHEN h.hash IS DISTINCT FROM d.expected AND h.key IS NOT NULL THEN 'changed'
       -- OFFSET keeps the planner from hashing the whole table.
       WHEN EXISTS (SELECT FROM {invalid} i WHERE i.{key} = d.key{key_cast} OFFSET 0) THEN 'busy' ELSE 'gone' END AS state,
  CASE WHEN v.key IS NOT NULL AND h.key IS NOT NULL THEN v.outcome WHEN p.undone THEN 'undone'
       ELSE coalesce(p.outcome, b.outcome,
         CASE WHEN l.outcome IN ('promoted', 'withdrawn', 'undone') THEN l.outcome END) END AS outcome,
  -- What was applied unchanged is not returned.
  CASE WHEN v.outcome = 'promoted' THEN l.record WHEN v.key IS NOT NULL AND h.key IS NOT NULL THEN h.data
       WHEN b.key IS NULL THEN coalesce(CASE WHEN NOT p.undone THEN p.record END, h.data, l.record)
       WHEN {rewritten} AND b.record <> b.sent THEN b.record END AS record,
  coalesce(p.errors, {told}l.errors) AS errors, coalesce(p.warnings, {told_warnings}l.warnings) AS warnings,
  p.conflicts,
  b.outcome = 'promoted' AND b.master_after IS NULL AS swallowed, {altered} AS altered,
  b.said, b.code,
  b.waits_for, b.requirement, b.about, coalesce(p.note, b.note, l.note) AS note,
  -- Release 0.1.0 has no codes.
  coalesce(p.note_code, CASE WHEN p.note = {kept} THEN 'kept' END, b.note_code) AS note_code,
  CASE WHEN h.key IS NOT NULL AND v.outcome = 'waiting' THEN h.updated_at
       WHEN v.key IS NOT NULL THEN l.recorded_at AT TIME ZONE 'UTC'
       WHEN h.key IS NOT NULL AND p.key IS NULL AND b.key IS NULL THEN h.updated_at
       ELSE coalesce(p.recorded_at, l.recorded_at, now()) AT TIME ZONE 'UTC' END AS at,
  h.hash, coalesce(k.id, p.id, l.id, CASE WHEN b.outcome = 'waiting' THEN (
    -- A waiting record is settled again each time; its ledger row is from the first time.
    SELECT e.id FROM {ledger} e WHERE e.entity = %(entity)s AND e.key = d.key AND e.delivery_hash = b.booked_as
      AND e.outcome = 'waiting') END) AS receipt_id,
  nullif(coalesce(k.delivery_hash, b.booked_as, p.delivery_hash, l.delivery_hash), d.hash) AS receipt_hash,
  CASE WHEN h.key IS NULL AND b.key IS NULL AND p.key IS NULL
    THEN EXISTS (SELECT FROM {master} m WHERE m.{key} = d.key{key_cast} OFFSET 0) END AS in_master,
  o.record AS sent, o.id AS sent_id, o.row_version, o.enriched_fields, o.enriched_at,
  CASE WHEN l.outcome IN ('flagged', 'waiting') THEN (SELECT max(e.recorded_at) AT TIME ZONE 'UTC' FROM {ledger} e
    WHERE e.entity = %(entity)s AND e.key = d.key AND e.outcome = 'promoted') END AS promoted_before
FROM d LEFT JOIN past p USING (key) LEFT JOIN became b USING (key) LEFT JOIN here h USING (key)
LEFT JOIN older v USING (key) LEFT JOIN (SELECT * FROM booked UNION ALL SELECT * FROM noted) k USING (key)
LEFT JOIN LATERAL (
  SELECT * FROM {ledger} l WHERE l.entity = %(entity)s AND l.key = d.key AND (h.key IS NULL OR v.key IS NOT NULL)
    -- A record that was flagged or waited after its promotion had come back: the promotion does not say how it left.
    AND l.outcome IN ('promoted', 'flagged', 'waiting', 'withdrawn', 'undone') ORDER BY l.id DESC LIMIT 1) l ON true
LEFT JOIN LATERAL (
  SELECT o.id, o.record, o.row_version, o.enriched_fields, o.enriched_at FROM {ledger} o
  WHERE o.entity = %(entity)s AND o.key = d.key AND (h.key IS NULL OR v.key IS NOT NULL)
    AND o.outcome IN ('promoted', 'flagged', 'waiting')
  ORDER BY o.id DESC LIMIT 1) o ON true
