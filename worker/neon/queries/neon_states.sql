-- What Neon knows about records, compared with what their workspace rows show.
SELECT t.key, g.forgotten,
  -- Rows written by releases without row_version count as acknowledged: nothing shows otherwise.
  coalesce(w.written, '{{}}') AS written, coalesce(w.written_in, '{{}}') AS written_in,
  (SELECT jsonb_agg(jsonb_build_array(l.recorded_at, l.invalid_before -> 'updated_at')) FROM {ledger} l WHERE {wrote})
    AS writes,
  to_jsonb(n) AS latest, to_jsonb(c) AS carried,
  (SELECT to_jsonb(m.*) FROM {master} m WHERE m.{key} = t.key{key_cast}) AS master
FROM unnest(%(keys)s::text[], %(ids)s::bigint[], %(hashes)s::text[]) AS t (key, id, hash)
  LEFT JOIN {receipts} p ON p.entity = %(entity)s
  CROSS JOIN LATERAL (
    SELECT coalesce(t.id > coalesce(p.pruned_id, 0) AND NOT EXISTS (
      SELECT FROM {ledger} l WHERE l.id = t.id AND l.delivery_hash IS NOT DISTINCT FROM t.hash), false) AS forgotten) g
  -- A forgotten id says nothing about the row that this ledger has under it.
  CROSS JOIN LATERAL (SELECT CASE WHEN g.forgotten THEN 0 ELSE coalesce(t.id, 0) END AS since) s
  CROSS JOIN LATERAL (
    SELECT jsonb_object_agg(f.name, f.value ORDER BY l.id) AS written,
      jsonb_object_agg(f.name, l.row_version ORDER BY l.id) AS written_in
    FROM {ledger} l CROSS JOIN LATERAL jsonb_each(l.record) f (name, value)
    WHERE {wrote} AND (l.enriched_fields ? f.name OR l.invalid_before ->> f.name IS DISTINCT FROM f.value #>> '{{}}')) w
  LEFT JOIN LATERAL (
    SELECT {said} FROM {ledger} l WHERE l.entity = %(entity)s AND l.key = t.key
      AND l.outcome IN ('promoted', 'flagged', 'waiting', 'undone', 'withdrawn') ORDER BY l.id DESC LIMIT 1) n ON true
  LEFT JOIN LATERAL (
    SELECT {said} FROM {ledger} l WHERE l.entity = %(entity)s AND l.key = t.key AND l.id > s.since
      AND l.outcome = 'promoted' ORDER BY l.id DESC LIMIT 1) c ON true
