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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb
from rich.console import Console

from worker.daemon.signals import stopping
from worker.demo import data
from worker.demo.embedded import EmbeddedServer, EmbeddedUnavailable
from worker.demo.process import DemoFailed, Worker
from worker.demo.progress import count_records, idle, watch
from worker.demo.stage import COMPANY, ENRICHERS, PEOPLE, Connection, Stage, connect_to
from worker.demo.summary import print_invitation, print_summary

ROOT = Path(__file__).parents[2]
"""The folder of the package."""
THINKING = 0.09
"""Seconds an enricher takes for a record, on average."""


def main(*, keep: bool, echo: Callable[[str], None]) -> int:
    """Run the demo.

    Args:
        keep: stay up after the first round and let the user be the enricher.
        echo: prints a line to stdout.

    Returns:
        The exit status: 0 if the databases confirm the summary; 1 if they do not, or there is no embedded Postgres.
    """
    # Every stop signal ends the demo like Ctrl-C: servers and files are cleaned up on the way out.
    for number in stopping():
        signal.signal(number, signal.default_int_handler)
    console = Console(stderr=True)
    try:
        with _stage(console, echo) as stage:
            _first_round(stage)
            if keep:
                print_invitation(stage)
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
            # It runs in a separate folder, without the operator's .env; the package is still found.
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "NEON_DATABASE_URL": neon_url,
            "SUPABASE_DATABASE_URL": supabase_url,
            "WORKER_HEALTH_ADDRESS": "127.0.0.1:0",
            "WORKER_LOG_FORMAT": "json",
        }
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="enrichment-demo-")))
        _command(environment, folder, "setup")
        neon = stack.enter_context(connect_to(neon_url))
        supabase = stack.enter_context(connect_to(supabase_url))
        _fill(neon)
        echo("Neon (PostgreSQL 18) and the Supabase workspace (PostgreSQL 16) are up and set up.")
        worker = Worker(environment, folder)
        stack.callback(lambda: worker.process.poll() is None and worker.stop())
        address = worker.address()
        echo(f"The worker listens. Status page: http://{address}/")
        yield Stage(neon, supabase, neon_url, supabase_url, worker, console, echo)


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
    watch(stage, "The worker pulls …", lambda: count_records(stage) and all(
        sum(count_records(stage)[name].values()) == number for name, number in expected.items()))  # fmt: skip
    stage.echo(f"Pulled: {expected['company']} companies and {expected['people']} people, all pending.")
    repairs, mistakes = data.repairs(), data.mistakes()
    _enrich(stage, {**repairs, **mistakes}, "Three simulated enrichers repair them, and make mistakes …")
    counts = count_records(stage)
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
    repairs = data.repairs()
    _enrich(stage, {key: repairs[key] for key in failed}, "They read the reasons and repair what came back …")
    print_summary(stage)


def _enrich(stage: Stage, edits: dict[str, dict[str, Any]], title: str) -> None:
    """Simulated enrichers share the edits; returns when every row is acknowledged or waits for a company."""
    todo: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
    order = list(edits.items())
    random.Random(7).shuffle(order)  # noqa: S311 - the same demo every time
    for item in order:
        todo.put(item)
    threads = [threading.Thread(target=_simulate_enricher, args=(stage.supabase_url, name, todo)) for name in ENRICHERS]
    for thread in threads:
        thread.start()
    watch(stage, title, lambda: not any(thread.is_alive() for thread in threads) and idle(stage))


def _simulate_enricher(url: str, name: str, todo: queue.SimpleQueue[tuple[str, dict[str, Any]]]) -> None:
    rng = random.Random(name)  # noqa: S311 - as above
    with connect_to(url) as dashboard:
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
