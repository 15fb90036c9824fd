-- The part of a settlement that writes the ledger.
INSERT INTO {ledger} (run_id, entity, key, outcome, delivery_hash, invalid_before, master_before,
    master_after, record, errors, reason_code, warnings, enriched_fields, conflicts, note, note_code, enriched_by,
    enriched_at, rules_version, row_version)
  SELECT %(run_id)s, %(entity)s, b.key, b.outcome, b.booked_as, to_jsonb(b.before),
    b.master_before, b.master_after, b.record, b.all_errors, b.all_reason_code, b.all_warnings, b.enriched_fields,
    b.conflicts,
    CASE WHEN b.waits_for IS NOT NULL THEN 'waits for ' || b.waits_for ELSE b.note END,
    CASE WHEN b.waits_for IS NOT NULL THEN 'waits' ELSE b.note_code END,
    b.enriched_by, b.enriched_at, %(rules_version)s, b.version
  FROM became b
