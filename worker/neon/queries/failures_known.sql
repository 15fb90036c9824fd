-- Whether the ledger has the row up to which failures were counted; the first week of which it has everything, NULL where
-- retention has left none; and the id up to which all its rows are committed.
SELECT EXISTS (SELECT FROM {ledger} WHERE id = %(id)s AND run_id = %(run_id)s) AS known,
  CASE WHEN coalesce(r.pruned_id, 0) = 0 THEN '0001-01-01'::date ELSE (
    SELECT date_trunc('week', l.recorded_at AT TIME ZONE 'UTC')::date + 7 FROM {ledger} l
    WHERE l.id > r.pruned_id ORDER BY l.id LIMIT 1) END AS whole_from,
  date_trunc('week', now() AT TIME ZONE 'UTC')::date - 7 * ({weeks} - 1) AS oldest,
  -- A running settlement already has its ids, but shows them only when it commits.
  coalesce((SELECT id FROM {ledger} WHERE recorded_at < now() - interval '5 minutes' ORDER BY id DESC LIMIT 1), 0)
    AS settled
FROM (SELECT) one LEFT JOIN {receipts} r ON r.entity = %(entity)s
