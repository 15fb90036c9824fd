"""The demo's progress: the states of the records, drawn on the terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from psycopg import sql
from rich.live import Live
from rich.table import Table

from worker.demo.process import PATIENCE, DemoFailed
from worker.demo.stage import ENTITIES, Stage

_STATE = sql.SQL("""
SELECT CASE WHEN promoted_at IS NOT NULL AND enrichment_status = 'complete' THEN 'promoted'
  WHEN waiting_for IS NOT NULL THEN 'waiting' WHEN enrichment_status = 'complete' THEN 'queued'
  ELSE enrichment_status END AS state, count(*) AS number
FROM {} GROUP BY 1
""")


def count_records(stage: Stage) -> dict[str, dict[str, int]]:
    """Entity → state → records."""
    return {
        entity.name: {
            row["state"]: row["number"]
            for row in stage.supabase.execute(_STATE.format(entity.workspace_table.sql)).fetchall()
        }
        for entity in ENTITIES.values()
    }


def idle(stage: Stage) -> bool:
    """Whether nothing is left in the queue."""
    return not any(counts.get("queued") for counts in count_records(stage).values())


def watch(stage: Stage, title: str, done: Callable[[], Any]) -> None:
    """Show the states of the records until ``done``."""
    deadline = time.monotonic() + PATIENCE
    with Live(_state_table(stage, title), console=stage.console, refresh_per_second=8, transient=True) as live:
        while not done():
            if stage.worker.process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed("the worker stopped answering: " + " / ".join(stage.worker.last_lines))
            live.update(_state_table(stage, title))
            time.sleep(0.1)  # the refresh rate


def _state_table(stage: Stage, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    states = ("pending", "queued", "waiting", "failed", "promoted")
    table.add_column("")
    for state in states:
        table.add_column(state, justify="right", min_width=8)
    for name, counts in count_records(stage).items():
        table.add_row(ENTITIES[name].plural, *(str(counts.get(state, 0) or "·") for state in states))
    return table
