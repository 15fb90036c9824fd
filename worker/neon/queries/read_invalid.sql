-- Rows of an invalid table, each with the ledger row of the undo of its last promotion.
SELECT i.{key}{key_text} AS key, i.id, {data} AS data, md5({data}::text) AS hash, i.updated_at, i.reason_code,
  i.validation_errors AS errors, i.validation_warnings AS warnings, i.enriched_by, i.enriched_at,
  i.still_invalid IS TRUE AS still_invalid,
  i.enrichment_status IS NOT DISTINCT FROM 'complete' AND i.still_invalid IS NOT TRUE AS unjudged,
  (SELECT max(u.id) FROM {ledger} u WHERE u.entity = {entity} AND u.key = i.{key}{key_text} AND u.outcome = 'undone') AS undone_id
FROM {invalid} i
