-- What Neon knows about the pulls of an entity.
SELECT coalesce(r.pulls, 0) AS pulls, coalesce(r.confirmed, 0) AS confirmed, coalesce(s.id, 0) AS settled_id,
  r.run_id, r.confirmed_run_id,
  r.pulled_at AT TIME ZONE 'UTC' AS moment
FROM (SELECT) one LEFT JOIN {receipts} r ON r.entity = %(entity)s
  -- A running settlement already has its ids, but shows them only when it commits.
  LEFT JOIN (SELECT id FROM {ledger} WHERE recorded_at < now() - interval '5 minutes' ORDER BY id DESC LIMIT 1) s
    ON true
