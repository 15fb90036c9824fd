-- Supabase: what happens when an enricher writes a workspace row. The triggers are in entity.sql; the
-- functions serve every entity. State diagram:
--
--   pending ──▶ in_progress ──▶ complete ──▶ (promoted: stays complete)
--      ▲              ▲            │  ▲
--      └─ undo        └── edit ── failed (flagged: edit, set complete again)

-- An enricher's insert or update, before it is stored. Its arguments are the data columns.
SELECT pg_temp.enrichment_function('enrichment_row', $$
DECLARE
  zone text := pg_catalog.current_setting('timezone');
  utc_now timestamp := pg_catalog.clock_timestamp() AT TIME ZONE 'UTC';
  typed text := NEW.enrichment_status;
  generated text[];
  was jsonb;
  becomes jsonb;
  own text[];
BEGIN
  -- A column with a time zone takes what is written here as the session's own time. A SET of the function would do the
  -- same, and cost every row a tenth of its trigger's time, though nearly every session is in UTC already.
  IF zone <> 'UTC' THEN
    PERFORM pg_catalog.set_config('timezone', 'UTC', true);
  END IF;
  <<row>>
  BEGIN
    IF TG_OP = 'INSERT' AND typed IS NULL THEN
      typed := 'pending';
    END IF;
    -- Blanks of any kind around the word, and its case, are slips of the hand, not another status.
    IF typed IN ('pending', 'in_progress', 'complete', 'failed') THEN
      NEW.enrichment_status := typed;
    ELSE
      NEW.enrichment_status := pg_catalog.lower(pg_catalog.regexp_replace(
        typed, '^[\s\u00a0\u200b\ufeff]+|[\s\u00a0\u200b\ufeff]+$', '', 'g'));
    END IF;
    IF NEW.enrichment_status IS NULL
       OR NEW.enrichment_status NOT IN ('pending', 'in_progress', 'complete', 'failed') THEN
      RAISE EXCEPTION 'enrichment_status cannot be %: use pending, in_progress, complete or failed',
        coalesce(pg_catalog.quote_literal(pg_catalog.left(typed, 60)), 'empty')
        USING ERRCODE = 'check_violation', HINT = 'Set complete when the record is repaired.';
    END IF;

    IF TG_OP = 'UPDATE' THEN
      -- What Neon and the workspace last agreed on is the worker's to say, whatever an import brings.
      NEW.neon_snapshot := OLD.neon_snapshot;
      NEW.last_sync_hash := OLD.last_sync_hash;
      NEW.sync_code := OLD.sync_code;
      NEW.receipt_id := OLD.receipt_id;
      NEW.receipt_hash := OLD.receipt_hash;
      NEW.queued_versions := OLD.queued_versions;
      NEW.times_returned := OLD.times_returned;
      NEW.returned_at := OLD.returned_at;
      IF NEW.enrichment_status = OLD.enrichment_status THEN
        -- A generated column is made after this: until then it is NULL in NEW, which is no change.
        generated := ARRAY(SELECT attname::text FROM pg_catalog.pg_attribute
          WHERE attrelid = TG_RELID AND attgenerated <> '');
        was := pg_catalog.to_jsonb(OLD) - generated;
        becomes := pg_catalog.to_jsonb(NEW) - generated;
        IF becomes = was THEN
          EXIT row;
        END IF;
      END IF;
      -- Moves by itself, and never backwards: the worker tells one version of the row from the next by it. From a
      -- day that is far off, such as infinity, it comes back to the present: no later one could be told from it.
      NEW.updated_at := CASE WHEN OLD.updated_at < utc_now + interval '1 day'
        THEN greatest(utc_now, OLD.updated_at + interval '1 microsecond') ELSE utc_now END;
      IF TG_NARGS = 0 THEN
        own := ARRAY['enrichment_status', 'enrichment_notes', 'enriched_by', 'enriched_at', 'updated_at',
          'created_at', 'pulled_from_neon_at', 'pushed_to_neon_at', 'promoted_at', 'waiting_for', 'sync_note',
          'validation_errors', 'validation_warnings', 'original_validation_errors',
          'original_validation_warnings', 'reason_code', 'neon_snapshot', 'last_sync_hash', 'neon_id', 'id',
          'source_batch_id', 'sync_code', 'receipt_id', 'receipt_hash', 'queued_versions', 'times_returned',
          'returned_at'];
      END IF;
      IF NEW.enrichment_status = 'complete' AND OLD.enrichment_status = 'complete'
         AND OLD.pushed_to_neon_at IS NOT NULL AND NEW.pushed_to_neon_at IS NOT NULL
         AND (CASE WHEN TG_NARGS = 0 THEN becomes - own = was - own ELSE NOT EXISTS (
           SELECT FROM pg_catalog.unnest(TG_ARGV) c WHERE becomes -> c IS DISTINCT FROM was -> c) END) THEN
        EXIT row;  -- notes, and columns that the worker does not carry, on a row that is done
      END IF;
    ELSE
      NEW.updated_at := utc_now;
      NEW.neon_snapshot := NULL;
      NEW.last_sync_hash := NULL;
      NEW.sync_code := NULL;
      NEW.receipt_id := NULL;
      NEW.receipt_hash := NULL;
      NEW.queued_versions := NULL;
      NEW.times_returned := 0;
      NEW.returned_at := NULL;
    END IF;

    IF TG_OP = 'UPDATE' AND OLD.sync_code = 'lost' THEN
      -- Neon was restored and does not have the record: it goes on when it is there again.
      NEW.sync_note := OLD.sync_note;
      NEW.waiting_for := CASE WHEN NEW.enrichment_status = 'complete' THEN 'the record itself' END;
      EXIT row;
    END IF;
    IF NEW.enrichment_status = 'complete' THEN
      NEW.pushed_to_neon_at := NULL;  -- the worker's to say: it is what takes a row out of the queue
      IF TG_OP = 'INSERT' OR OLD.enrichment_status IS DISTINCT FROM 'complete'
         OR OLD.pushed_to_neon_at IS NOT NULL OR OLD.waiting_for IS NOT NULL THEN
        NEW.sync_note := 'Queued: the record is on its way to be checked.';
        NEW.sync_code := 'queued';
      END IF;
      NEW.waiting_for := NULL;
      -- The last 32 of them: each has 26 characters, and a comma before the next.
      NEW.queued_versions := pg_catalog.concat_ws(',', pg_catalog.right(NEW.queued_versions, 31 * 27 - 1),
        pg_catalog.to_char(NEW.updated_at, 'YYYY-MM-DD HH24:MI:SS.US'));
      NEW.enriched_at := coalesce(NEW.enriched_at, utc_now);
      NEW.enriched_by := coalesce(
        nullif(pg_catalog.btrim(NEW.enriched_by), ''),
        nullif(pg_catalog.current_setting('request.jwt.claims', true), '')::jsonb ->> 'email',
        nullif(pg_catalog.current_setting('enrichment_worker.dashboard_user', true), ''),
        session_user::text);
    ELSE
      NEW.waiting_for := NULL;
      IF TG_OP = 'UPDATE' AND OLD.enrichment_status = 'complete' AND OLD.pushed_to_neon_at IS NULL THEN
        NEW.sync_note := NULL;  -- taken back before it went
        NEW.sync_code := NULL;
      ELSIF TG_OP = 'UPDATE' AND OLD.enrichment_status = 'complete'
         AND (OLD.sync_code = 'carried' OR OLD.sync_note LIKE 'Carried to Neon, %') THEN
        NEW.sync_note := NULL;  -- taken back before it was judged: it waits for that no longer
        NEW.sync_code := 'carried';  -- release 0.1.0 had said so in words only
      END IF;
    END IF;
  END row;
  IF zone <> 'UTC' THEN
    PERFORM pg_catalog.set_config('timezone', zone, true);
  END IF;
  RETURN NEW;
END $$);

-- Before a statement of anybody's but the worker's: notes who it is, and lets workers count anew when it commits.
-- The dashboard works as one role for all, and ends its statements with a comment that names the user. It is looked for once
-- a statement, not once a row: the text may be as long as an import.
SELECT pg_temp.enrichment_function('enrichment_statement', $$
DECLARE
  who text := pg_catalog.substring(pg_catalog.right(pg_catalog.current_query(), 1000),
    '(?i).*--\s*source:\s*dashboard\s*\n\s*--\s*user:\s*([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})');
BEGIN
  -- The dashboard can write as another role, which may not read the names.
  IF who IS NOT NULL AND pg_catalog.has_table_privilege('public.enrichment_enrichers', 'SELECT') THEN
    who := coalesce((SELECT e.name FROM public.enrichment_enrichers e WHERE e.user_id = who::uuid), who);
  END IF;
  PERFORM pg_catalog.set_config('enrichment_worker.dashboard_user', coalesce(who, ''), true),
    pg_catalog.pg_notify('enrichment_alive', 'changed');
  RETURN NULL;
END $$);

-- The key ties the row to its record in Neon.
SELECT pg_temp.enrichment_function('enrichment_refuse_key_change', $$
BEGIN
  RAISE EXCEPTION '% identifies the record and cannot be changed', TG_ARGV[0]
    USING ERRCODE = 'check_violation', HINT = 'Leave this cell as it is and edit the others.';
END $$);

-- A hint, never a guarantee: the table is the queue. Equal notifications of one transaction are
-- delivered once, so a statement that flips 100,000 rows makes one.
SELECT pg_temp.enrichment_function('enrichment_notify', $$
BEGIN
  PERFORM pg_catalog.pg_notify('enrichment_complete',
    pg_catalog.jsonb_build_object('entity', TG_ARGV[0])::text);
  RETURN NULL;
END $$);

-- An import of repairs: lays its rows over those of the workspace, as an enricher's edit, all or none. Its arguments are
-- the workspace, its key column, and the data columns. A cell that is empty changes nothing.
SELECT pg_temp.enrichment_function('enrichment_lay_over', $$
DECLARE
  workspace constant regclass := TG_ARGV[0];
  key constant text := TG_ARGV[1];
  names constant text[] := TG_ARGV[2:] || ARRAY['enrichment_status', 'enrichment_notes', 'enriched_by'];
  key_type constant text := (SELECT pg_catalog.format_type(atttypid, NULL) FROM pg_catalog.pg_attribute
    WHERE attrelid = workspace AND attname = key);
  none constant text := 'nothing of this import was taken';
  found text;
  others bigint;
  cells text;
  one record;
BEGIN
  EXECUTE pg_catalog.format(
    'SELECT pg_catalog.count(*) FROM rows_in WHERE (pg_catalog.btrim(%I) <> '''') IS NOT TRUE', key) INTO others;
  IF others > 0 THEN
    RAISE EXCEPTION '%: % rows have no %; %', TG_TABLE_NAME, others, key, none
      USING ERRCODE = 'not_null_violation', HINT = 'Export the rows that you repair, and keep the column of the key.';
  END IF;
  EXECUTE pg_catalog.format('SELECT pg_catalog.min(k), pg_catalog.count(*) - 1 FROM (SELECT pg_catalog.btrim(%I) AS k'
    ' FROM rows_in GROUP BY 1 HAVING pg_catalog.count(*) > 1) t', key) INTO found, others;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION '%: % % is there more than once%; %', TG_TABLE_NAME, key, found,
      CASE WHEN others > 0 THEN ', and ' || others || ' others' ELSE '' END, none
      USING ERRCODE = 'unique_violation', HINT = 'Leave one row for each record.';
  END IF;
  EXECUTE pg_catalog.format('SELECT pg_catalog.min(k), pg_catalog.count(*) - 1 FROM (SELECT pg_catalog.btrim(%1$I) AS k'
    ' FROM rows_in EXCEPT SELECT w.%1$I::text FROM %2$s w) t', key, workspace) INTO found, others;
  IF found IS NOT NULL THEN
    RAISE EXCEPTION '%: no row of % has the % %; %', TG_TABLE_NAME, workspace, key,
      found || CASE WHEN others > 0 THEN ', nor one of ' || others || ' others' ELSE '' END, none
      USING ERRCODE = 'foreign_key_violation',
        HINT = 'Keys are copied, never typed. A record that has left the workspace cannot be repaired there.';
  END IF;
  EXECUTE pg_catalog.format('SELECT pg_catalog.btrim(%I) AS key, enrichment_status AS value FROM rows_in'
    ' WHERE pg_catalog.lower(pg_catalog.btrim(enrichment_status)) NOT IN ('''', ''pending'', ''in_progress'','
    ' ''complete'', ''failed'') LIMIT 1', key) INTO one;
  IF one.key IS NOT NULL THEN
    RAISE EXCEPTION '%: %: enrichment_status cannot be %: use pending, in_progress, complete or failed; %',
      TG_TABLE_NAME, one.key, pg_catalog.quote_literal(pg_catalog.left(one.value, 60)), none
      USING ERRCODE = 'check_violation';
  END IF;
  SELECT pg_catalog.string_agg(pg_catalog.format(
      '%1$I = CASE WHEN pg_catalog.btrim(r.%1$I) <> '''' THEN r.%1$I::%2$s ELSE w.%1$I END', n,
      pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ')
    INTO cells FROM pg_catalog.unnest(names) n JOIN pg_catalog.pg_attribute a ON a.attrelid = workspace AND a.attname = n;
  BEGIN
    EXECUTE pg_catalog.format('UPDATE %s w SET %s FROM rows_in r WHERE w.%I = pg_catalog.btrim(r.%I)::%s',
      workspace, cells, key, key, key_type);
  EXCEPTION WHEN data_exception THEN
    -- Which cell it was, one by one: only after a refusal.
    FOREACH found IN ARRAY names LOOP
      FOR one IN EXECUTE pg_catalog.format('SELECT pg_catalog.btrim(%I) AS key, %I AS value, (SELECT'
        ' pg_catalog.format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute WHERE attrelid = %L::regclass'
        ' AND attname = %L) AS type FROM rows_in WHERE pg_catalog.btrim(%I) <> ''''', key, found, workspace, found, found)
      LOOP
        BEGIN
          EXECUTE pg_catalog.format('SELECT %L::%s', one.value, one.type);
        EXCEPTION WHEN data_exception THEN
          RAISE EXCEPTION '%: %: % cannot be %: it is of type %; %', TG_TABLE_NAME, one.key, found,
            pg_catalog.quote_literal(pg_catalog.left(one.value, 60)), one.type, none
            USING ERRCODE = 'invalid_text_representation';
        END;
      END LOOP;
    END LOOP;
    RAISE;
  END;
  EXECUTE pg_catalog.format('DELETE FROM %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME);
  RETURN NULL;
END $$);
