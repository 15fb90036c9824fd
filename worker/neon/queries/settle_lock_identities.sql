-- The part of the locking statement that locks by what records would be duplicates: of two settlements at a time, one
-- promotes it, and for the other the record is busy. Nothing is waited for, so nothing can deadlock.
, identity AS MATERIALIZED (
  SELECT v.key, hashtextextended(v.value, ({seeds})[v.place + 1]) AS hash
  FROM (
    SELECT k.key, k.place, CASE k.place {forms} END AS value
    FROM unnest(%(promoted)s::text[], %(places)s::integer[], %(texts)s::text[]) AS k (key, place, text) OFFSET 0) v
  WHERE CASE v.place {known} END
), tried AS MATERIALIZED (
  SELECT h.hash, pg_try_advisory_xact_lock(h.hash) AS locked FROM (SELECT DISTINCT hash FROM identity) h
)
