"""``demo``: the whole loop on two embedded Postgres servers, with invented records and simulated enrichers.

The worker is the real one, in a process of its own, as a service would run it.
"""

from __future__ import annotations

import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.live import Live
from rich.table import Table

from worker.daemon.signals import stopping
from worker.demo import data
from worker.demo.embedded import EmbeddedServer, EmbeddedUnavailable
from worker.demo.process import PATIENCE, DemoFailed, Worker
from worker.entities.declaration import COMPANY, ENTITIES, PEOPLE, Entity

Connection = psycopg.Connection[DictRow]
ROOT = Path(__file__).parents[2]
"""Where the package lies."""
ENRICHERS = ("ana@enrichers.example", "ben@enrichers.example", "chi@enrichers.example")
THINKING = 0.09
"""Seconds an enricher takes for a record, on average."""


@dataclass
class Stage:
    """What the demo works with."""

    neon: Connection
    supabase: Connection
    neon_url: str
    supabase_url: str
    worker: Worker
    console: Console
    echo: Callable[[str], None]


def main(*, keep: bool, echo: Callable[[str], None]) -> int:
    """Run the demo.

    Args:
        keep: stay up after the first round and let the user be the enricher.
        echo: prints a line to stdout.

    Returns:
        The exit status: 0 where the databases confirm the summary, 1 where they do not, or there is no
        embedded Postgres.
    """
    # Whatever asks it to stop ends the demo as Ctrl-C does: servers and files are cleaned up on the way out.
    for number in stopping():
        signal.signal(number, signal.default_int_handler)
    console = Console(stderr=True)
    try:
        with _stage(console, echo) as stage:
            _first_round(stage)
            if keep:
                _be_the_enricher(stage)
            else:
                _second_round(stage)
            status = stage.worker.stop()
            if status != 0:
                raise DemoFailed(f"the worker ended with status {status}")
            echo("The worker drained and exited 0. Both servers and their files are removed.")
    except (EmbeddedUnavailable, DemoFailed) as error:
        console.print(f"enrichment-worker: {error}", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        echo("\nStopped. Both servers and their files are removed.")
    return 0


@contextmanager
def _stage(console: Console, echo: Callable[[str], None]) -> Iterator[Stage]:
    with ExitStack() as stack:
        with console.status("Starting two Postgres servers …"):
            neon_server = stack.enter_context(EmbeddedServer(18))
            supabase_server = stack.enter_context(EmbeddedServer(16))
            neon_server.create_database("neon")
            supabase_server.create_database("supabase")
        neon_url, supabase_url = neon_server.url("neon"), supabase_server.url("supabase")
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("WORKER_", "NEON_", "SUPABASE_", "N8N_")) and name != "CREDENTIALS_DIRECTORY"
            },
            # It runs in a folder of its own, where no .env of the operator's lies; the package is found all the same.
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "NEON_DATABASE_URL": neon_url,
            "SUPABASE_DATABASE_URL": supabase_url,
            "WORKER_HEALTH_ADDRESS": "127.0.0.1:0",
            "WORKER_LOG_FORMAT": "json",
        }
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="enrichment-demo-")))
        _command(environment, folder, "setup")
        neon = stack.enter_context(_connect(neon_url))
        supabase = stack.enter_context(_connect(supabase_url))
        _fill(neon)
        echo("Neon (PostgreSQL 18) and the Supabase workspace (PostgreSQL 16) are up and set up.")
        worker = Worker(environment, folder)
        stack.callback(lambda: worker.process.poll() is None and worker.stop())
        address = worker.address()
        echo(f"The worker listens. Status page: http://{address}/")
        yield Stage(neon, supabase, neon_url, supabase_url, worker, console, echo)


def _connect(url: str) -> Connection:
    return psycopg.connect(url, autocommit=True, row_factory=dict_row, options="-c TimeZone=UTC")


def _command(environment: dict[str, str], folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "worker", *arguments],
        env=environment, cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise DemoFailed(f"`enrichment-worker {' '.join(arguments)}` failed: {done.stderr.strip()}")


def _fill(neon: Connection) -> None:
    rows = (
        (COMPANY.invalid_table.sql, data.companies()),
        (PEOPLE.invalid_table.sql, data.people()),
        (sql.Identifier("marketing", "company_slots"), data.slots()),
    )
    with neon.transaction():
        for table, records in rows:
            for record in records:
                values = {
                    name: Jsonb(value) if isinstance(value, dict | list) else value for name, value in record.items()
                }
                neon.execute(
                    sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
                        table,
                        sql.SQL(", ").join(map(sql.Identifier, values)),
                        sql.SQL(", ").join(map(sql.Placeholder, values)),
                    ),
                    values,
                )


def _first_round(stage: Stage) -> None:
    expected = {COMPANY.name: len(data.companies()), PEOPLE.name: len(data.people())}
    _watch(stage, "The worker pulls …", lambda: _counts(stage) and all(
        sum(_counts(stage)[name].values()) == number for name, number in expected.items()))  # fmt: skip
    stage.echo(f"Pulled: {expected['company']} companies and {expected['people']} people, all pending.")
    answers, mistakes = data.answers(), data.mistakes()
    _enrich(stage, {**answers, **mistakes}, "Three simulated enrichers repair them, and make mistakes …")
    counts = _counts(stage)
    stage.echo(
        f"First round: {counts['company'].get('promoted', 0)} companies promoted,"
        f" {counts['company'].get('failed', 0)} flagged; {counts['people'].get('promoted', 0)} people promoted,"
        f" {counts['people'].get('waiting', 0)} wait for their company."
    )
    if counts["company"] != {"promoted": expected["company"] - len(mistakes), "failed": len(mistakes)}:
        raise DemoFailed(f"the workspace says {counts['company']} instead")


def _second_round(stage: Stage) -> None:
    failed = [
        row["key"]
        for row in stage.supabase.execute(
            "SELECT company_unique_id AS key FROM company_needs_enrichment WHERE enrichment_status = 'failed'"
        )
    ]
    answers = data.answers()
    _enrich(stage, {key: answers[key] for key in failed}, "They read the reasons and repair what came back …")
    _summary(stage)


def _enrich(stage: Stage, edits: dict[str, dict[str, Any]], title: str) -> None:
    """Simulated enrichers share the edits; returns when every row has its answer or waits for a company."""
    todo: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
    order = list(edits.items())
    random.Random(7).shuffle(order)  # noqa: S311 - the same demo every time
    for item in order:
        todo.put(item)
    threads = [threading.Thread(target=_work_at, args=(stage.supabase_url, name, todo)) for name in ENRICHERS]
    for thread in threads:
        thread.start()
    _watch(stage, title, lambda: not any(thread.is_alive() for thread in threads) and _idle(stage))


def _work_at(url: str, name: str, todo: queue.SimpleQueue[tuple[str, dict[str, Any]]]) -> None:
    rng = random.Random(name)  # noqa: S311 - as above
    with _connect(url) as dashboard:
        while True:
            try:
                key, edit = todo.get_nowait()
            except queue.Empty:
                return
            entity = PEOPLE if key.startswith("04.04.02.") else COMPANY
            time.sleep(rng.uniform(0, 2 * THINKING))  # a person thinks; nothing waits for this
            values = {**edit, "enriched_by": name, "enrichment_status": "complete"}
            dashboard.execute(
                sql.SQL("UPDATE {} SET {} WHERE {} = %(key)s").format(
                    entity.workspace_table.sql,
                    sql.SQL(", ").join(
                        sql.SQL("{} = {}").format(sql.Identifier(c), sql.Placeholder(c)) for c in values
                    ),
                    sql.Identifier(entity.key),
                ),
                {**values, "key": key},
            )


_STATE = sql.SQL("""
SELECT CASE WHEN promoted_at IS NOT NULL AND enrichment_status = 'complete' THEN 'promoted'
  WHEN waiting_for IS NOT NULL THEN 'waiting' WHEN enrichment_status = 'complete' THEN 'queued'
  ELSE enrichment_status END AS state, count(*) AS number
FROM {} GROUP BY 1
""")


def _counts(stage: Stage) -> dict[str, dict[str, int]]:
    return {
        entity.name: {
            row["state"]: row["number"]
            for row in stage.supabase.execute(_STATE.format(entity.workspace_table.sql)).fetchall()
        }
        for entity in ENTITIES.values()
    }


def _idle(stage: Stage) -> bool:
    return not any(counts.get("queued") for counts in _counts(stage).values())


def _watch(stage: Stage, title: str, done: Callable[[], Any]) -> None:
    """Show where the records stand until ``done``."""
    deadline = time.monotonic() + PATIENCE
    with Live(_picture(stage, title), console=stage.console, refresh_per_second=8, transient=True) as live:
        while not done():
            if stage.worker.process.poll() is not None or time.monotonic() > deadline:
                raise DemoFailed("the worker stopped answering: " + " / ".join(stage.worker.last_lines))
            live.update(_picture(stage, title))
            time.sleep(0.1)  # the picture's pace


def _picture(stage: Stage, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    states = ("pending", "queued", "waiting", "failed", "promoted")
    table.add_column("")
    for state in states:
        table.add_column(state, justify="right", min_width=8)
    for name, counts in _counts(stage).items():
        table.add_row(ENTITIES[name].plural, *(str(counts.get(state, 0) or "·") for state in states))
    return table


def _summary(stage: Stage) -> None:
    """Ask both databases, and say it only where they agree.

    Raises:
        DemoFailed: they do not.
    """
    rows = {entity.name: _totals(stage.neon, entity) for entity in ENTITIES.values()}
    outcomes = {
        row["outcome"]: row["number"]
        for row in stage.neon.execute(
            "SELECT outcome, count(*) AS number FROM marketing.enrichment_ledger GROUP BY 1"
        ).fetchall()
    }
    delay = stage.supabase.execute(
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY d) AS half, percentile_cont(0.95) WITHIN GROUP"
        " (ORDER BY d) AS most FROM (SELECT extract(epoch FROM pushed_to_neon_at - updated_at) * 1000 AS d"
        " FROM company_needs_enrichment WHERE promoted_at IS NOT NULL) answered"
    ).fetchone()
    assert delay is not None
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
    row = neon.execute(
        sql.SQL("SELECT (SELECT count(*) FROM {}) AS invalid, (SELECT count(*) FROM {}) AS master").format(
            entity.invalid_table.sql, entity.master_table.sql
        )
    ).fetchone()
    assert row is not None
    return row["invalid"], row["master"]


def _be_the_enricher(stage: Stage) -> None:
    example = stage.supabase.execute(
        "SELECT company_unique_id AS key FROM company_needs_enrichment WHERE enrichment_status = 'failed' ORDER BY id"
    ).fetchone()
    assert example is not None
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
