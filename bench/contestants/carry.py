"""What the handlers of the two queues and the naive scripts share: the statements of the job, and the rules.

Less than the worker does, in their favour: no merge by field, no ledger, no log, no proof against repeats
beyond the queue's own; one statement each, so that a job is three round trips beside the queue's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from worker.entities.loader import load_entities

COMPANY = load_entities()["company"]
COLUMNS = COMPANY.columns
_SET = ", ".join(f"{column} = %({column})s" for column in COLUMNS)
_MASTER = {**COMPANY.mapping, "validated_by": "enriched_by"}
_INTO = ", ".join(_MASTER)

# OFFSET 0: by its key first. The statistics are from before the flip, when no row was complete: the planner would take the
# index on the status, and read the whole backlog for each record.
READ = f"""
SELECT company_unique_id AS key, {", ".join(COLUMNS)}, enriched_by FROM (
  SELECT * FROM public.company_needs_enrichment WHERE company_unique_id = %(key)s OFFSET 0) w
WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL"""

PROMOTE = f"""
WITH gone AS (
  DELETE FROM marketing.company_invalid WHERE company_unique_id = %(key)s RETURNING id, batch_id
)
INSERT INTO marketing.company_master AS m (company_unique_id, {_INTO}, import_batch_id, source_record_id,
  source_system, validated_at)
SELECT %(key)s, {", ".join(f"%({source})s" for source in _MASTER.values())}, batch_id, id::text, 'enrichment', now()
FROM gone ON CONFLICT (company_unique_id) DO UPDATE SET
  {", ".join(f"{column} = coalesce(EXCLUDED.{column}, m.{column})" for column in _MASTER)}, updated_at = now()"""

FLAG = f"""
UPDATE marketing.company_invalid SET {_SET}, validation_errors = %(errors)s::jsonb,
  validation_warnings = %(warnings)s::jsonb, reason_code = %(reason_code)s, still_invalid = true,
  enrichment_status = 'complete', enriched_at = now(), enriched_by = %(enriched_by)s, updated_at = now()
WHERE company_unique_id = %(key)s"""

ACKNOWLEDGE = f"""
UPDATE public.company_needs_enrichment SET {_SET}, enrichment_status = %(status)s,
  validation_errors = %(errors)s::jsonb, validation_warnings = %(warnings)s::jsonb, reason_code = %(reason_code)s,
  pushed_to_neon_at = now(), promoted_at = CASE WHEN %(status)s = 'complete' THEN now() END, sync_note = %(note)s
WHERE company_unique_id = %(key)s"""


def judged(row: Mapping[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Normalise and judge a workspace row: whether it passed, and the parameters of the other statements."""
    rules = COMPANY.rules
    data = rules.normalise({column: row[column] for column in COLUMNS})
    verdict = rules.judge(data)
    return verdict.passed, {
        "key": row["key"], **data, "enriched_by": row["enriched_by"], "errors": json.dumps(dict(verdict.errors)),
        "warnings": json.dumps(dict(verdict.warnings)), "reason_code": verdict.reason_code,
        "status": "complete" if verdict.passed else "failed",
        "note": "Promoted to the master table." if verdict.passed else "Not promoted; see validation_errors.",
    }  # fmt: skip


def numbered(statement: str) -> tuple[str, list[str]]:
    """A statement with asyncpg's placeholders, and the names of its parameters in order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        name = match[1]
        if name not in names:
            names.append(name)
        return f"${names.index(name) + 1}::{'integer' if name == 'employee_count' else 'text'}"

    return re.sub(r"%\((\w+)\)s", number, statement), names
