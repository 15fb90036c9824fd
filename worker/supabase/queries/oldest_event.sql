-- The oldest event of an entity, locked.
-- The worker that holds the oldest event of an entity posts: so the events of an entity keep their order. `after` skips
-- the index entries of events that were posted before, which stay until the next vacuum.
WITH first AS (SELECT min(id) AS id FROM {outbox} WHERE entity = %(entity)s AND id > %(after)s)
SELECT first.id AS first, o.id, o.event,
  greatest(0, extract(epoch FROM clock_timestamp() - o.created_at))::float8 AS age
FROM first LEFT JOIN LATERAL (SELECT * FROM {outbox} WHERE id = first.id FOR UPDATE SKIP LOCKED) o ON true
