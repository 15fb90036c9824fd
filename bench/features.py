"""What single features cost: a look for duplicates, and to say who set a row to complete."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import worker.entities
from bench import flips, records
from bench.contestants import CONTESTANTS
from bench.lab import Lab, connect

POLICIES = ("off", "hold")
STATEMENTS = ("silent", "who")
FIRST, PLANTED_EVERY = 3, 10
"""From the first on, every so many-th record has the host of a company in the master; all of these are repaired well."""

_PLANT = f"""
INSERT INTO marketing.company_master (company_unique_id, company_name, website_url, source_system, source_record_id)
SELECT left({records.KEY}, -1) || '2', 'Beech Works ' || n, 'http://c' || n || '.example/about',
  'intake', n::text FROM generate_series({FIRST}, {{rows}}, {PLANTED_EVERY}) n"""
_HELD = "SELECT count(*) FROM marketing.company_invalid WHERE reason_code LIKE 'DUPLICATE\\_OF %'"
_DASHBOARD = "\n-- source: dashboard\n-- user: 5b1f6c58-6a0e-4f0e-9c55-0d6a4d7a8f10\n"
_FLIP = records.FLIP_ALL.replace(f"enriched_by = '{records.ENRICHER}', ", "")


def duplicates(lab: Lab, policy: str, rows: int) -> dict[str, Any]:
    """A backlog with planted duplicates, under a policy of the entity file.

    Raises:
        Failed: it was not done in time, or not exactly the planted ones were held.
    """
    contestant = CONTESTANTS["worker"]
    with ExitStack() as stack:
        pair = stack.enter_context(lab.databases(lab.template(rows, contestant)))
        neon, enricher = (stack.enter_context(connect(url)) for url in (pair.neon, pair.supabase))
        neon.execute(_PLANT.format(rows=rows))
        neon.execute("ANALYZE marketing.company_master")
        processes = flips.start(stack, lab, contestant, pair, WORKER_ENTITIES=_entity_files(lab.folder, policy))
        enricher.execute(records.FLIP_ALL)
        began = time.perf_counter()
        flips.wait_done(enricher, processes, began, 60 + rows / 40)
        took = time.perf_counter() - began
        held = neon.execute(_HELD).fetchone()[0]  # type: ignore[index]
    planted = len(range(FIRST, rows + 1, PLANTED_EVERY)) if policy == "hold" else 0
    if held != planted:
        raise flips.Disqualified(f"{held} records were held, not {planted}")
    return {"rows": rows, "seconds": round(took, 4), "rows_per_second": round(rows / took, 1), "held": held}


def _entity_files(folder: Path, policy: str) -> str:
    """A folder with the product's entity files, with this policy."""
    theirs = folder / f"entities-{policy}"
    theirs.mkdir(exist_ok=True)
    for file in Path(worker.entities.__file__).parent.glob("*.toml"):
        (theirs / file.name).write_text(file.read_text().replace('policy = "warn"', f'policy = "{policy}"'))
    return str(theirs)


def flip(lab: Lab, name: str, rows: int) -> dict[str, Any]:
    """The milliseconds of one statement, as the dashboard sends it, that sets all rows to complete: ``who`` with the trigger
    that looks who it is, ``silent`` without it.
    """
    with lab.databases(lab.template(rows, CONTESTANTS["worker"])) as pair, connect(pair.supabase) as enricher:
        if name == "silent":
            enricher.execute("ALTER TABLE public.company_needs_enrichment DISABLE TRIGGER enrichment_a_statement")
        began = time.perf_counter()
        enricher.execute(_FLIP + _DASHBOARD)
        return {"milliseconds": [round((time.perf_counter() - began) * 1000, 1)]}
