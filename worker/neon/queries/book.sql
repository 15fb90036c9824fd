-- Writes ledger rows that no settlement writes. Existing ones stay as they are.
WITH d AS MATERIALIZED (
  SELECT * FROM jsonb_to_recordset(%(entries)s) AS d (key text, outcome text, hash text, record jsonb, conflicts jsonb,
    note text, note_code text, reason_code text)
), final AS (
  {insert} WHERE d.outcome IN ('promoted', 'flagged')
  {once}
)
{insert} WHERE d.outcome NOT IN ('promoted', 'flagged')
{once_each}
