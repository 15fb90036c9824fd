-- The oldest event of an entity, locked.
-- Whoever holds the oldest event of an entity is the one that posts: the events of an entity keep their order. What
-- was posted before is not looked through: the index keeps it until the next vacuum.
WITH first AS (SELECT min(id) AS id FROM {outbox} WHERE entity = %(entity)s AND id > %(after)s)
SELECT first.id AS first, o.id, o.event,
  greatest(0, extract(epoch FROM clock_timestamp() - o.created_at))::float8 AS age
FROM first LEFT JOIN LATERAL (SELECT * FROM {outbox} WHERE id = first.id FOR UPDATE SKIP LOCKED) o ON true
