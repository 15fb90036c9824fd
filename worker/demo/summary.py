"""The results of the demo, as read from both databases."""

from __future__ import annotations

import subprocess

from psycopg import sql

from worker.demo import data
from worker.demo.process import DemoFailed
from worker.demo.stage import ENTITIES, Connection, Stage
from worker.entities.declaration import Entity
from worker.entities.worker_tables import LEDGER


def print_summary(stage: Stage) -> None:
    """Read both databases, and print the summary only if they agree.

    Raises:
        DemoFailed: they do not.
    """
    rows = {entity.name: _totals(stage.neon, entity) for entity in ENTITIES.values()}
    outcomes = {
        row["outcome"]: row["number"]
        for row in stage.neon.execute(
            sql.SQL("SELECT outcome, count(*) AS number FROM {} GROUP BY 1").format(LEDGER.sql)
        ).fetchall()
    }
    [delay] = stage.supabase.execute(
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY d) AS half, percentile_cont(0.95) WITHIN GROUP"
        " (ORDER BY d) AS most FROM (SELECT extract(epoch FROM pushed_to_neon_at - updated_at) * 1000 AS d"
        " FROM company_needs_enrichment WHERE promoted_at IS NOT NULL) answered"
    ).fetchall()
    wanted = {
        "company": (0, len(data.companies())),
        "people": (0, len(data.people())),
    }
    if rows != wanted:
        raise DemoFailed(f"(invalid, master) should be {wanted}, and Neon says {rows}")
    stage.echo(
        f"In the end, Neon says: {rows['company'][1]} companies and {rows['people'][1]} people in the master"
        " tables, none left invalid."
    )
    stage.echo("Ledger: " + ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items())) + ".")
    stage.echo(
        f"From an enricher's `complete` to the answer in his row: {delay['half']:.0f} ms at the median,"
        f" {delay['most']:.0f} ms for 95 %."
    )


def _totals(neon: Connection, entity: Entity) -> tuple[int, int]:
    [row] = neon.execute(
        sql.SQL("SELECT (SELECT count(*) FROM {}) AS invalid, (SELECT count(*) FROM {}) AS master").format(
            entity.invalid_table.sql, entity.master_table.sql
        )
    ).fetchall()
    return row["invalid"], row["master"]


def print_invitation(stage: Stage) -> None:
    """Say how to be the enricher, with a record to begin with."""
    [example] = stage.supabase.execute(
        "SELECT company_unique_id AS key FROM company_needs_enrichment WHERE enrichment_status = 'failed'"
        " ORDER BY id LIMIT 1"
    ).fetchall()
    key = example["key"]
    stage.echo(
        f"""
Now you are the enricher. Two connection strings, for psql or any other client:

  workspace (Supabase)  {stage.supabase_url}
  marketing (Neon)      {stage.neon_url}

What came back, and why:
  SELECT company_unique_id, company_name, website, validation_errors, sync_note
  FROM company_needs_enrichment WHERE enrichment_status = 'failed';

Repair one and say so:
  UPDATE company_needs_enrichment SET company_name = 'Alder & Sons', website = 'alder.example',
    enrichment_status = 'complete' WHERE company_unique_id = '{key}';

See what became of it, in the same row:
  SELECT enrichment_status, promoted_at, validation_errors, sync_note
  FROM company_needs_enrichment WHERE company_unique_id = '{key}';

Ctrl-C ends the demo and removes everything."""  # noqa: S608 - for the user to type, not to run
    )
    while stage.worker.process.poll() is None:
        try:
            stage.worker.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            continue
    raise DemoFailed("the worker ended: " + " / ".join(stage.worker.last_lines))
