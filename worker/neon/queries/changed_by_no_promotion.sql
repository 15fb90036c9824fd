-- Whether a promotion's ledger row was written by something other than that promotion.
-- What else the same transaction wrote shows this: a restore in one transaction, or an ALTER TABLE that rewrote the
-- tables, writes nearly all rows. So a few rows are proof enough.
SELECT EXISTS (SELECT FROM pg_attribute a
    WHERE a.attrelid IN (%(ledger)s::regclass, %(master)s::regclass) AND a.xmin::text = %(written_in)s)
  OR EXISTS (SELECT FROM (
      (SELECT o.xmin AS written_in FROM {ledger} o, {ledger} l
        WHERE l.id = %(id)s AND o.id < l.id AND o.recorded_at <> l.recorded_at ORDER BY o.id DESC LIMIT 1)
      UNION ALL
      (SELECT o.xmin AS written_in FROM {ledger} o, {ledger} l
        WHERE l.id = %(id)s AND o.id > l.id AND o.recorded_at <> l.recorded_at ORDER BY o.id LIMIT 1)) o
    WHERE o.written_in::text = %(written_in)s)
  OR EXISTS (SELECT FROM (SELECT xmin AS written_in, validation_run_id FROM {log} LIMIT 100) g
    WHERE g.written_in::text = %(written_in)s AND g.validation_run_id <> %(run)s) AS found
