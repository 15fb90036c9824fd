"""The floor: what psycopg can do by hand without rules, merge, ledger or guarantee. LISTEN; a batch is a claim in
one round trip, one statement in Neon, and an acknowledgement with its COMMIT in one round trip.

``lose``, ``repeat`` and ``break`` make it do what the bench must notice.
"""

from __future__ import annotations

import os
import sys

import psycopg

BATCH = 500
_DATA = "company_name, industry, employee_count, website, phone, address, city, state, zip, enriched_by"
_CLAIM = f"""
SELECT company_unique_id, {_DATA} FROM public.company_needs_enrichment
WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL AND waiting_for IS NULL
ORDER BY updated_at, id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"""
_MOVE = f"""
WITH moved (key, {_DATA}) AS (
  SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::int[], %s::text[], %s::text[], %s::text[], %s::text[],
    %s::text[], %s::text[], %s::text[])
), gone AS (
  DELETE FROM marketing.company_invalid i USING moved m WHERE i.company_unique_id = m.key
  RETURNING i.id, i.batch_id, m.*
)
INSERT INTO marketing.company_master (company_unique_id, company_name, website_url, industry, employee_count,
  company_phone, address_street, address_city, address_state, address_zip, import_batch_id, source_record_id,
  source_system, validated_at, validated_by)
SELECT key, company_name, website, industry, employee_count, phone, address, city, state, zip, batch_id, id::text,
  'enrichment', now(), enriched_by
FROM gone"""
_TOLD = """
UPDATE public.company_needs_enrichment SET pushed_to_neon_at = now(), promoted_at = now(), validation_errors = '{}',
  sync_note = 'Promoted to the master table.'
WHERE company_unique_id = ANY(%s)"""
_LOST = "DELETE FROM marketing.company_master WHERE company_unique_id = %s"
_AGAIN = "UPDATE marketing.company_master SET updated_at = clock_timestamp() WHERE company_unique_id = %s"


def _main(trick: str) -> None:
    if trick == "break":
        sys.exit("floor: told to break")
    urls = os.environ["SUPABASE_DATABASE_URL"], os.environ["NEON_DATABASE_URL"]
    with (
        psycopg.connect(urls[0], autocommit=True) as listening,
        psycopg.connect(urls[0], autocommit=True) as here,
        psycopg.connect(urls[1], autocommit=True) as there,
    ):
        listening.execute("LISTEN enrichment_complete")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            while _carry(here, there, trick) == BATCH:
                pass
            for _ in listening.notifies(timeout=5, stop_after=1):
                pass


def _carry(here: psycopg.Connection, there: psycopg.Connection, trick: str) -> int:
    with here.pipeline():
        here.execute("BEGIN")
        here.execute("SET LOCAL enrichment_worker.writer = 'on'")
        claim = here.execute(_CLAIM)
    rows = claim.fetchall()
    if rows:
        keys = [row[0] for row in rows]
        there.execute(_MOVE, [list(column) for column in zip(*rows, strict=True)])
        if trick in ("lose", "repeat"):
            there.execute(_LOST if trick == "lose" else _AGAIN, [keys[0]])
        with here.pipeline():
            here.execute(_TOLD, [keys])
            here.execute("COMMIT")
    else:
        here.execute("ROLLBACK")
    return len(rows)


if __name__ == "__main__":
    _main(sys.argv[1] if len(sys.argv) > 1 else "")
