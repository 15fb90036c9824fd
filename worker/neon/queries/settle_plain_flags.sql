-- The part of the plain settlement that gives duplicates back.
), kept AS (
  UPDATE {invalid} i SET {invalid_updates}, validation_errors = x.said,
    validation_warnings = coalesce(t.warnings, '{{}}') - ARRAY(SELECT jsonb_object_keys(x.said)), reason_code = x.code,
    still_invalid = true, enrichment_status = 'complete',
    enriched_at = coalesce(t.enriched_at, i.enriched_at, now() AT TIME ZONE 'UTC'),
    enriched_by = coalesce(t.enriched_by, i.enriched_by), updated_at = now() AT TIME ZONE 'UTC'
  FROM todo t JOIN twin x USING (key)
  WHERE i.{key} = t.key{key_cast} AND i.{key} = ANY (ARRAY(SELECT key{key_cast} FROM twin))
  RETURNING i.{key}{key_text} AS key, {data_i} AS data
