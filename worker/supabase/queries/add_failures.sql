-- Adds what a pull has counted of failures.
INSERT INTO {failures} AS f (entity, week, reason_code, field, records, recent)
SELECT %(entity)s, a.week, a.reason_code, a.field, a.records, a.recent
FROM jsonb_to_recordset(%(rows)s) AS a (week date, reason_code text, field text, records bigint, recent bigint)
ON CONFLICT (entity, week, reason_code, field) DO UPDATE
  SET records = f.records + EXCLUDED.records, recent = EXCLUDED.recent
