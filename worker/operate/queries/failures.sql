-- How often records came back in the latest weeks, by entity, week, reason and field; an empty field counts the records.
SELECT f.entity, f.week, f.reason_code AS code, f.field, sum(f.records + f.recent) AS records
FROM (SELECT date_trunc('week', clock_timestamp() AT TIME ZONE 'UTC')::date AS week) t
  JOIN {failures} f ON f.week > t.week - 7 * {weeks} AND f.week <= t.week
WHERE f.entity = ANY({entities}) AND f.records + f.recent > 0 GROUP BY 1, 2, 3, 4
