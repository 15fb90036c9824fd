-- What Neon knows about the pulls of an entity.
SELECT coalesce(r.pulls, 0) AS pulls, coalesce(r.confirmed, 0) AS confirmed, coalesce(s.id, 0) AS settled_id,
  (SELECT run_id FROM {pulls} WHERE entity = %(entity)s AND slot = r.pulls %% {slots} AND number = r.pulls) AS run_id,
  EXISTS (SELECT FROM {pulls} WHERE entity = %(entity)s AND slot = %(number)s %% {slots} AND run_id = %(run_id)s)
    AS knows,
  r.pulled_at AT TIME ZONE 'UTC' AS moment
FROM (SELECT) one LEFT JOIN {receipts} r ON r.entity = %(entity)s
  -- A running settlement already has its ids, but shows them only when it commits.
  LEFT JOIN (SELECT id FROM {ledger} WHERE recorded_at < now() - interval '5 minutes' ORDER BY id DESC LIMIT 1) s
    ON true
