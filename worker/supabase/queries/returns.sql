-- How often the record of a row came back after the reply `a`: since it was last promoted, the last four times, and whether
-- these are of the last 30 days. A part of the statements that write replies: `w` is the row.
SELECT CASE WHEN n.ended THEN 0 ELSE w.times_returned + n.returns::int END AS times, l.at,
  coalesce(a.code = 'flagged' AND cardinality(l.at) >= {often}
    AND l.at[1] > clock_timestamp() AT TIME ZONE 'UTC' - interval {span}, false) AS often
FROM (
  SELECT coalesce(a.code IN ('promoted', 'undone', 'invalid_again'), false) AS ended,
    -- A reply that is repeated has the receipt that the row shows: it counts once.
    coalesce(a.code = 'flagged' AND a.receipt_id IS NOT NULL, false)
      AND (a.receipt_id, a.receipt_hash) IS DISTINCT FROM (w.receipt_id, w.receipt_hash) AS returns) n
  CROSS JOIN LATERAL (
    SELECT CASE WHEN n.ended THEN NULL WHEN NOT n.returns THEN w.returned_at
      ELSE (array_append(w.returned_at, clock_timestamp() AT TIME ZONE 'UTC'))[
        greatest(1, coalesce(cardinality(w.returned_at), 0) + 2 - {often}):] END AS at) l
