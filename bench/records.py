"""Invented companies by number, as SQL: what Neon holds, what enrichers type, and what must become of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

BAD_EVERY = 50
"""Every so many-th record is repaired badly: the rules must refuse it."""
BATCH = "INTAKE-20251107-163209-b26be042"
KEY = "'04.04.01.' || lpad((n / 100000)::text, 2, '0') || '.' || lpad((n % 100000)::text, 5, '0') || '.001'"
_PHONE = "(200 + n / 10000 % 800)::text, lpad((n % 10000)::text, 4, '0')"
_DATA = f"""
  'Alder Works ' || n AS company_name, NULL::text AS domain, CASE n % 3 WHEN 0 THEN NULL ELSE 'Timber' END AS industry,
  NULL::integer AS employee_count, NULL::text AS website, format('(304) %s-%s', {_PHONE}) AS phone,
  n || ' Alder Street' AS address, 'Fernhollow' AS city, 'WV' AS state, '26599' AS zip"""
COLUMNS = (
    "company_name", "domain", "industry", "employee_count", "website", "phone", "address", "city", "state", "zip",
)  # fmt: skip
_COLUMNS = ", ".join(COLUMNS)
_OLD = "timestamp '2025-11-07 16:32:09'"
_ERRORS = """'{"website": "empty or blank"}'::jsonb"""

# Typed in the ways there are; the rules bring them to one form.
TYPED = f"""(SELECT CASE WHEN n % {BAD_EVERY} = 0 THEN 'n/a' WHEN n % 3 = 0 THEN 'https://www.c' || n || '.example'
  WHEN n % 3 = 1 THEN 'c' || n || '.example' ELSE 'HTTPS://C' || n || '.Example' END FROM (SELECT neon_id) x (n))"""
NORMAL = "CASE n % 3 WHEN 0 THEN 'https://www.c' || n || '.example' ELSE 'https://c' || n || '.example' END"
PHONE = f"'+1304' || concat({_PHONE})"
EMPLOYEES = "10 + n % 90"
ENRICHER = "enricher@example.org"


def is_bad(number: int) -> bool:
    """Whether the enricher's repair of this record does not pass the rules."""
    return number % BAD_EVERY == 0


def key(number: int) -> str:
    """The Barton ID of the company ``number``."""
    return f"04.04.01.{number // 100_000:02}.{number % 100_000:05}.001"


def fill_invalid(first: int, last: int) -> str:
    """The statement that puts invalid companies into Neon, as an intake would have done."""
    return f"""
    INSERT INTO marketing.company_invalid (id, company_unique_id, {_COLUMNS}, reason_code, validation_errors,
      validation_warnings, batch_id, created_at, updated_at)
    SELECT n, {KEY}, {_COLUMNS}, 'EMPTY_WEBSITE', {_ERRORS}, '{{}}', '{BATCH}', {_OLD}, {_OLD}
    FROM (SELECT n, {_DATA} FROM generate_series({first}, {last}) n) d"""


def fill_workspace(last: int) -> str:
    """The statement that puts the same companies into the workspace, as a pull would have done."""
    snapshot = ", ".join(f"'{column}', {column}" for column in COLUMNS)
    return f"""
    INSERT INTO public.company_needs_enrichment (neon_id, company_unique_id, source_batch_id, {_COLUMNS},
      original_validation_errors, original_validation_warnings, reason_code, enrichment_status, created_at,
      updated_at, neon_snapshot, last_sync_hash)
    SELECT n, {KEY}, '{BATCH}', {_COLUMNS}, {_ERRORS}, '{{}}', 'EMPTY_WEBSITE', 'pending', {_OLD}, {_OLD}, s,
      md5(s::text)
    FROM (SELECT n, {_DATA} FROM generate_series(1, {last}) n) d, jsonb_build_object({snapshot}) s"""


POSITION = """
INSERT INTO public.enrichment_pull_position (entity, position, last_id, last_pull_at, last_full_at)
SELECT e, now() AT TIME ZONE 'UTC', %s, now() AT TIME ZONE 'UTC', now() AT TIME ZONE 'UTC'
FROM unnest(ARRAY['company', 'people']) e"""

_FLIP = f"""
UPDATE public.company_needs_enrichment SET website = {TYPED}, employee_count = 10 + neon_id % 90,
  enriched_by = '{ENRICHER}', enrichment_status = 'complete'"""
FLIP_ALL = f"{_FLIP} WHERE enrichment_status = 'pending'"
FLIP_ONE = f"{_FLIP.replace('%', '%%')} WHERE company_unique_id = %s"
"""Takes the key."""


@dataclass(frozen=True)
class Kind:
    """What trials of single flips know of an entity's records."""

    workspace: str
    invalid: str
    master: str
    column: str
    """The key's."""
    flip_one: str
    """Takes the key."""
    key: Callable[[int], str]


COMPANY = Kind(
    "public.company_needs_enrichment", "marketing.company_invalid", "marketing.company_master", "company_unique_id",
    FLIP_ONE, key,
)  # fmt: skip
