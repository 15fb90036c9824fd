-- Puts waiting rows back in the queue; returns whether another transaction holds one.
WITH due AS MATERIALIZED (
  SELECT id FROM {workspace} WHERE waiting_for IS NOT NULL AND {column} = ANY(%(keys)s{keys_cast})
), freed AS (
  UPDATE {workspace} w SET waiting_for = NULL, sync_note = %(note)s, sync_code = 'released'
  WHERE w.id = ANY (ARRAY(SELECT id FROM {workspace} WHERE id = ANY (ARRAY(SELECT id FROM due))
    AND waiting_for IS NOT NULL AND {column} = ANY(%(keys)s{keys_cast}) FOR UPDATE SKIP LOCKED))
  RETURNING w.id
)
-- An edited row goes back by itself.
SELECT EXISTS (SELECT id FROM due EXCEPT SELECT id FROM freed) AS held
