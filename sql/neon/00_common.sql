-- Neon: what every entity shares. Safe to run again: it makes what is missing, and drops and retypes nothing.
SELECT pg_temp.enrichment_schema('marketing');

-- One row for each batch that the worker handled, and for each pull.
SELECT pg_temp.enrichment_if(to_regclass('public.shq_validation_log') IS NULL, $make$
CREATE TABLE public.shq_validation_log (
  validation_run_id TEXT PRIMARY KEY,
  source_table      TEXT NOT NULL,
  target_table      TEXT NOT NULL,
  total_records     INTEGER,
  passed_records    INTEGER,
  failed_records    INTEGER,
  executed_by       TEXT,
  executed_at       TIMESTAMPTZ DEFAULT now(),
  notes             TEXT
)$make$);

-- The history of every record, the backup that undo works from, and the proof that makes a repeated
-- delivery harmless: a row commits in the same transaction as the outcome it describes.
SELECT pg_temp.enrichment_if(to_regclass('marketing.enrichment_ledger') IS NULL, $make$
CREATE TABLE marketing.enrichment_ledger (
  id              BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  run_id          TEXT NOT NULL,
  entity          TEXT NOT NULL,
  key             TEXT NOT NULL,
  outcome         TEXT NOT NULL,
  -- promoted, flagged, waiting, withdrawn; merged: a pull resolved a conflict
  delivery_hash   TEXT,           -- MD5 of the key, the workspace row's updated_at and its data
  invalid_before  JSONB,          -- the invalid row as it was
  master_before   JSONB,          -- the master row as it was, NULL if there was none
  master_after    JSONB,          -- the master row as it became
  record          JSONB,          -- the data columns as they became
  errors          JSONB NOT NULL DEFAULT '{}',
  warnings        JSONB NOT NULL DEFAULT '{}',
  enriched_fields JSONB NOT NULL DEFAULT '[]',  -- names of the fields that came from the enricher
  conflicts       JSONB NOT NULL DEFAULT '[]',  -- [{field, enricher, neon, winner}]
  note            TEXT,
  enriched_by     TEXT,
  enriched_at     TIMESTAMP,
  rules_version   TEXT,
  recorded_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
  CONSTRAINT enrichment_ledger_outcome_check
    CHECK (outcome IN ('promoted', 'flagged', 'waiting', 'withdrawn', 'merged', 'undone')),
  -- A master trigger that swallows the row must not take the record with it.
  CONSTRAINT enrichment_ledger_promoted_check CHECK (outcome <> 'promoted' OR master_after IS NOT NULL)
)$make$);
SELECT pg_temp.enrichment_columns('marketing.enrichment_ledger', ARRAY[
  -- The workspace row's updated_at that was carried: a row that is older now was restored from a backup.
  'row_version TIMESTAMP',
  -- What the note says, for programs. Rows of release 0.1.0 have only the note.
  'note_code TEXT',
  -- That of the first error of a flagged record. Rows of release 0.1.0 lack it.
  'reason_code TEXT'
]);
-- Most rows are a little over two kilobytes. Compressing them would fit four into a page instead of three, but cost a
-- tenth of a settlement's time. Larger rows are still compressed. What the owner has set instead stays.
SELECT pg_temp.enrichment_if(
  NOT EXISTS (SELECT FROM pg_class, unnest(reloptions) o
              WHERE oid = 'marketing.enrichment_ledger'::regclass AND o LIKE 'toast_tuple_target=%'),
  'ALTER TABLE marketing.enrichment_ledger SET (toast_tuple_target = 2700)');
SELECT pg_temp.enrichment_index('marketing.enrichment_ledger', 'enrichment_ledger_key_idx', '(entity, key, id)');
SELECT pg_temp.enrichment_index('marketing.enrichment_ledger', 'enrichment_ledger_run_idx', '(run_id)');
-- A delivery has one final outcome, however often it is repeated.
SELECT pg_temp.enrichment_unique_index('marketing.enrichment_ledger', 'enrichment_ledger_delivery_idx', $index$
  (entity, key, delivery_hash) WHERE outcome IN ('promoted', 'flagged')$index$);
SELECT pg_temp.enrichment_unique_index('marketing.enrichment_ledger', 'enrichment_ledger_waiting_idx', $index$
  (entity, key, delivery_hash, outcome) WHERE outcome IN ('waiting', 'withdrawn', 'merged', 'undone')$index$);

-- A copy of the database, or of its rows, may have left the sequence behind them.
SELECT setval(sequence, highest) FROM (
  SELECT pg_get_serial_sequence('marketing.enrichment_ledger', 'id')::regclass AS sequence, max(id) AS highest FROM marketing.enrichment_ledger) t
WHERE highest > coalesce(pg_sequence_last_value(sequence), 0);
-- By these, one database recognises that the other was restored to an earlier moment; one row for each entity.
SELECT pg_temp.enrichment_if(to_regclass('marketing.enrichment_receipts') IS NULL, $make$
CREATE TABLE marketing.enrichment_receipts (
  entity    TEXT PRIMARY KEY,
  pulls     BIGINT NOT NULL DEFAULT 0,  -- the number of the last pull that reached this step
  confirmed BIGINT NOT NULL DEFAULT 0,  -- the number of the last pull that the workspace certainly kept
  pruned_id BIGINT NOT NULL DEFAULT 0,  -- retention may have removed ledger rows up to this id
  pulled_at TIMESTAMPTZ
)$make$);
-- The latest 10,000 pulls of each entity: one that the workspace counts and that is not here was forgotten in a restore.
-- The number alone does not tell, for after a restore it may be given again.
SELECT pg_temp.enrichment_if(to_regclass('marketing.enrichment_pulls') IS NULL, $make$
CREATE TABLE marketing.enrichment_pulls (
  entity    TEXT NOT NULL,
  slot      INTEGER NOT NULL,  -- the number modulo 10,000: the worker needs no DELETE here
  number    BIGINT NOT NULL,
  run_id    TEXT NOT NULL,
  pulled_at TIMESTAMPTZ NOT NULL DEFAULT now(),
  PRIMARY KEY (entity, slot)
)$make$);

-- Which tables each entity has, for `sql/roles/neon.sql`. The worker itself goes by the entity files.
SELECT pg_temp.enrichment_if(to_regclass('marketing.enrichment_entities') IS NULL, $make$
CREATE TABLE marketing.enrichment_entities (
  entity  TEXT PRIMARY KEY,
  invalid TEXT NOT NULL,
  master  TEXT NOT NULL,
  reads   TEXT[] NOT NULL DEFAULT '{}'  -- tables that a promotion only looks at
)$make$);

-- The slots of each company, which people are assigned to.
SELECT pg_temp.enrichment_if(to_regclass('marketing.company_slots') IS NULL, $make$
CREATE TABLE marketing.company_slots (
  company_slot_unique_id TEXT PRIMARY KEY,
  company_unique_id TEXT NOT NULL,
  slot_type TEXT DEFAULT 'default',
  slot_label TEXT DEFAULT 'Primary Slot',
  created_at TIMESTAMPTZ DEFAULT now()
)$make$);
SELECT pg_temp.enrichment_index('marketing.company_slots', 'company_slots_company_idx', '(company_unique_id)');
