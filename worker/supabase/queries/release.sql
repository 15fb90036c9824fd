-- Puts waiting rows back in the queue: the parts of a statement. What is due and was not freed, another transaction holds.
{due} AS MATERIALIZED (
  SELECT id FROM {workspace} WHERE waiting_for IS NOT NULL AND {column} = ANY(%(keys)s{keys_cast})
), {freed} AS (
  UPDATE {workspace} w SET waiting_for = NULL, sync_note = %(note)s, sync_code = 'released'
  WHERE w.id = ANY (ARRAY(SELECT id FROM {workspace} WHERE id = ANY (ARRAY(SELECT id FROM {due}))
    AND waiting_for IS NOT NULL AND {column} = ANY(%(keys)s{keys_cast}) FOR UPDATE SKIP LOCKED))
  RETURNING w.id
)
