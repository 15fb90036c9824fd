"""Set-based SQL without rules: what a DBA would type into psql. Rows go from COPY to COPY, then one statement in Neon
deletes and inserts them all, and one in Supabase acknowledges them. (One statement for both databases would
need dblink, which the embedded servers do not have, and which would carry them row by row.)
"""

from __future__ import annotations

from bench.lab import Pair
from bench.process import run
from bench.psql import pipe, psql

_WORK = "enrichment_status = 'complete' AND pushed_to_neon_at IS NULL"
_DATA = (
    "company_unique_id, company_name, website, industry, employee_count, phone, address, city, state, zip, enriched_by"
)
_OUT = f"COPY (SELECT {_DATA} FROM public.company_needs_enrichment WHERE {_WORK}) TO STDOUT"
_STAGE = """CREATE TEMP TABLE moved (company_unique_id text, company_name text, website text, industry text,
  employee_count integer, phone text, address text, city text, state text, zip text, enriched_by text) ON COMMIT DROP"""
_MOVE = """
WITH gone AS (
  DELETE FROM marketing.company_invalid i USING moved m WHERE i.company_unique_id = m.company_unique_id
  RETURNING i.id, i.batch_id, m.*
)
INSERT INTO marketing.company_master (company_unique_id, company_name, website_url, industry, employee_count,
  company_phone, address_street, address_city, address_state, address_zip, import_batch_id, source_record_id,
  source_system, validated_at, validated_by)
SELECT company_unique_id, company_name, website, industry, employee_count, phone, address, city, state, zip,
  batch_id, id::text, 'enrichment', now(), enriched_by
FROM gone"""
_TOLD = f"""
UPDATE public.company_needs_enrichment SET pushed_to_neon_at = now(), promoted_at = now(), validation_errors = '{{}}',
  sync_note = 'Promoted to the master table.'
WHERE {_WORK}"""


def set_based(pair: Pair) -> None:
    """Move the whole backlog.

    Raises:
        Failed: psql ended with an error.
    """
    pipe(psql(pair.supabase, _OUT), psql(pair.neon, _STAGE, "COPY moved FROM STDIN", _MOVE))
    run(psql(pair.supabase, _TOLD), pair.env(), seconds=3600, python=False)
