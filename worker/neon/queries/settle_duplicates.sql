-- The part of a settlement that compares what it promotes with the master, and within the batch: `twin` has a row for each
-- record that stands there under another key. Of a batch, the one with the first key is promoted.
), identity AS MATERIALIZED (
  SELECT v.*, hashtextextended(v.value, 0) AS hash FROM ({identities}) v
), same AS MATERIALIZED (
  -- ANY: by the index; without it, the table is read once for the batch, never once for each record.
  {same}
), alike AS MATERIALIZED (
  SELECT i.key, i.place, coalesce(s.other, i.first) AS other, s.other IS NOT NULL AS certain
  FROM (SELECT y.*, min(y.key) OVER (PARTITION BY y.place, y.value) AS first FROM identity y) i
    LEFT JOIN (SELECT place, value, min(key) AS other FROM same GROUP BY 1, 2) s USING (place, value)
    -- A record that has it in the master already is no new duplicate.
    LEFT JOIN same o ON o.key = i.key AND o.place = i.place AND o.value = i.value
  WHERE i.apart IS NOT TRUE AND o.key IS NULL AND (s.other IS NOT NULL OR i.first <> i.key)
), twin AS MATERIALIZED (
  SELECT a.key, jsonb_object_agg(({fields})[a.place + 1], replace(({says})[a.place + 1], '{{key}}', a.other)) AS said,
    left({code} || ' ' || (array_agg(a.other ORDER BY a.place))[1], {most}) AS code, {holds} AS held
  FROM (
    SELECT y.*, y.certain OR y.other <> ALL (ARRAY(SELECT key FROM alike)) AS sure FROM alike y) a
  WHERE a.sure OR NOT {holds} GROUP BY a.key
), unsure AS MATERIALIZED (
  -- It is like one of the batch that may be held itself: the next batch knows.
  SELECT key FROM alike WHERE {holds} EXCEPT SELECT key FROM twin
