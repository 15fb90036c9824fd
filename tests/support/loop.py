"""The base of the state machine: the databases of an example and the links to them, its workers, the model, and the
quiet moment in which all three are compared.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import psycopg
from conftest import ROOT, _environment, as_role, connect
from copies import Copy
from declared import ENTITIES
from expected import Backup, Expected, Theirs, Typed, entity_of
from forks import Fork
from ground import ROLE, Ground
from hypothesis.stateful import RuleBasedStateMachine
from oracle import check, left_again, neon_of, workspace_of
from proxy import Proxy
from psycopg import sql
from psycopg.rows import dict_row
from records import company, insert

T = TypeVar("T")
QUIET_SECONDS = 120.0
LOCK_SECONDS = 0.3
"""So long people wait for a row that somebody holds."""
struck: Counter[str] = Counter()
"""What was done to it, over all examples."""


@dataclass
class Held:
    """A transaction of somebody's own that is open."""

    side: int
    connection: psycopg.Connection[Any]
    commits: bool
    """Whether it will be committed; else rolled back."""
    then: Callable[[], None]
    """What is so when it was committed."""


class Base(RuleBasedStateMachine):
    """An example's databases, workers and model."""

    ground: ClassVar[Ground]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.urls = self.ground.databases()
        self.links = [self.stack.enter_context(Proxy(url)) for url in (*self.urls, self.urls[1])]
        self.workers: list[Fork] = []
        self.role = False
        """Whether the workers run as the role of ``sql/roles/``."""
        self.held: list[Held] = []
        self.expected = Expected()
        self.struck_before = struck.total()
        self.left: set[str] = set()
        """Records that left the invalid table and stand in the master: a full comparison alone finds that."""
        self.copies: dict[tuple[int, int], tuple[Copy, Any]] = {}
        """Side and number → a copy of the database, and what was known then."""

    def teardown(self) -> None:
        try:
            self.settle_and_compare()
            if self.lost:
                assert self.run_command("reconcile", "--repair") == 0
                self.compare()
        finally:
            self.let_go(roll_back=(0, 1))
            for worker in self.workers:
                self.end(worker)
            self.stack.close()
            names = [url.rsplit("/", 1)[1] for url in self.urls]
            self.ground.drop([*names, *(copy.copy for copy, _ in self.copies.values())])

    # -- workers -----------------------------------------------------------------------------------

    def fork(self, *command: str) -> Fork:
        """A command of the worker."""
        neon, supabase, ear = (as_role(link.url, ROLE, "") if self.role else link.url for link in self.links)
        settings = {
            "NEON_DATABASE_URL": neon, "SUPABASE_DATABASE_URL": supabase, "SUPABASE_LISTEN_URL": ear,
            "WORKER_HEALTH_ADDRESS": "127.0.0.1:0", "WORKER_LOG_FORMAT": "json", "WORKER_SWEEP_INTERVAL": "0.2",
            "WORKER_PULL_INTERVAL": "0.5", "WORKER_BATCH_SIZE": "5", "WORKER_LEDGER_RETENTION": "30",
            "WORKER_WORKSPACE_RETENTION": "30", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        return Fork(self.ground.nursery, list(command), _environment(settings), self.folder)

    def end(self, worker: Fork) -> None:
        """Kill it, if it lives."""
        struck["workers killed"] += worker.kill()
        worker.close()
        assert not [line for line in worker.noise if not line.startswith("enrichment-worker: ")], worker.noise

    def end_all(self) -> None:
        for worker in self.workers:
            self.end(worker)
        self.workers.clear()

    def run_command(self, *command: str) -> int | None:
        """A command, to its end; a database that went away in the middle of it is there again by now."""
        for _ in range(3):
            fork = self.fork(*command)
            assert fork.wait(60) is not None, (command, fork.events[-3:])
            fork.close()
            self.said = fork.noise
            if fork.returncode != 3:
                break
        assert fork.returncode in (0, 1), (command, fork.returncode, fork.events[-3:], fork.noise)
        return fork.returncode

    # -- the quiet moment --------------------------------------------------------------------------

    def settle_and_compare(self) -> None:
        """Let everything settle, and compare both databases with each other and with the model."""
        self.let_go()
        with connect(self.urls[1]) as supabase:
            supabase.execute("ALTER TABLE company_needs_enrichment DROP CONSTRAINT IF EXISTS never_failed")
        for link in self.links:
            link.delay, link.deaf = 0.0, False
            link.cut_on_answer(b"\xff never")
        deadline = time.monotonic() + QUIET_SECONDS
        while True:
            self._wait_until_settled(deadline)
            # Nothing moves while it is compared.
            self.end_all()
            # What only a full comparison finds: what left the invalid table.
            assert self.run_command("pull", "--full") == 0, self.said
            self.left.clear()
            if not self._unsettled():
                break
            assert time.monotonic() < deadline, self._unsettled()
        self.compare()
        struck["quiet moments compared"] += 1
        self.struck_before = struck.total()

    def compare(self) -> None:
        """Both databases with each other and with the model; and the worker's own comparison with all of it."""
        with connect(self.urls[0]) as neon, connect(self.urls[1]) as supabase:
            here, there = {}, {}
            for entity in ENTITIES.values():
                check(neon, supabase, entity, self.expected.known())
                here |= workspace_of(supabase, entity)
                there |= neon_of(neon, entity)
            self.expected.compare(here, there)
        self.lost = [key for key, row in here.items() if row["sync_code"] == "lost"]
        agrees = self.run_command("reconcile") == 0
        assert agrees != bool(self.lost), (self.lost, self.said)

    def _wait_until_settled(self, deadline: float) -> None:
        while True:
            for worker in [one for one in self.workers if one.poll() is not None]:
                # A database was down when it started, or gone for a moment: systemd would start it again.
                said = [*worker.events[-3:], *worker.noise]
                assert worker.returncode == 3 or "does not exist" in str(said), (worker.returncode, said)
                self.workers.remove(worker)
                self.end(worker)
            if not self.workers:
                self.workers.append(self.fork("run"))
                struck["workers started"] += 1
            if not (left := self._unsettled()):
                return
            assert time.monotonic() < deadline, (left, [worker.events[-3:] for worker in self.workers])
            time.sleep(0.03)  # between two looks

    def _unsettled(self) -> list[str]:
        """What is still on its way."""
        left = []
        theirs = self.expected.theirs.foreign
        try:
            with connect(self.urls[1], connect_timeout=5) as supabase, connect(self.urls[0]) as neon:
                slots = {
                    row["it"] for row in neon.execute("SELECT company_unique_id AS it FROM marketing.company_slots")
                }
                companies = neon_of(neon, ENTITIES["company"])
                for entity in ENTITIES.values():
                    there = companies if entity.name == "company" else neon_of(neon, entity)
                    here = workspace_of(supabase, entity)
                    left += [f"{key} has not come" for key, row in there.items() if row["invalid"] and key not in here]
                    for key, row in here.items():
                        of = row["waiting_for"]
                        met = of and companies.get(of, {}).get("master") and of in slots
                        waits = of and (row["sync_code"] == "lost" or not met)
                        if row["queued"] and not waits:
                            left.append(f"{key} is queued")
                        elif key in self.left and not there[key]["invalid"]:
                            continue
                        elif key in there and not waits and not _as_in(row, there[key], key in theirs):
                            left.append(f"{key} is not as in Neon: {row}; {there[key]}")
        except psycopg.OperationalError as error:
            return [str(error)]
        return left

    # -- people's transactions ---------------------------------------------------------------------

    def let_go(self, *, roll_back: tuple[int, ...] = ()) -> None:
        """End all transactions that somebody holds; of some sides without effect."""
        for held in self.held:
            if held.commits and held.side not in roll_back:
                held.connection.commit()
                held.then()
                struck["late commits"] += 1
            held.connection.close()
        self.held.clear()

    def write(self, side: int, work: Callable[[psycopg.Connection[Any]], T]) -> T | None:
        """Do it unless somebody holds a row that it needs. What it touched."""
        with connect(self.urls[side]) as connection:
            connection.execute(f"SET lock_timeout = {int(LOCK_SECONDS * 1000)}")
            return touched(connection, work)

    # -- restores ----------------------------------------------------------------------------------

    def nobody_connected(self, side: int) -> ExitStack:
        """The address does not answer, and nobody's transaction goes on."""
        links = [
            link for link, url in zip(self.links, (*self.urls, self.urls[1]), strict=True) if url == self.urls[side]
        ]
        stack = ExitStack()
        for link in links:
            link.closed = True
            stack.callback(setattr, link, "closed", False)
            link.cut()
        name = self.urls[side].rsplit("/", 1)[1]
        with connect(self.ground.servers[side].url()) as admin:
            while admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            ).rowcount:
                time.sleep(0.002)  # between two looks
        return stack

    def restored(self, moment: Backup | Theirs) -> None:
        """What of the model is so now, by what had reached Neon."""
        with connect(self.urls[0]) as neon, connect(self.urls[1]) as supabase:
            here, there, ledger = {}, {}, {}
            for entity in ENTITIES.values():
                here |= workspace_of(supabase, entity)
                there |= {key: row["data"] for key, row in neon_of(neon, entity).items() if row["invalid"]}
            # What had been carried when a backup was made is no news to it: its rows are newer.
            for row in neon.execute(
                "SELECT DISTINCT ON (key) key, record, row_version FROM marketing.enrichment_ledger"
                " WHERE outcome IN ('promoted', 'flagged', 'waiting') ORDER BY key, id DESC"
            ):
                if row["key"] in here and row["row_version"] and row["row_version"] > here[row["key"]]["updated_at"]:
                    ledger[row["key"]] = row["record"] or {}
        if isinstance(moment, Theirs):
            self.expected.neon_restored(moment, there, ledger)
        else:
            self.expected.workspace_restored(moment, here, there, ledger)


def _as_in(row: dict[str, Any], neons: dict[str, Any], foreign: bool) -> bool:
    """Whether a workspace row shows what Neon holds of its record."""
    if neons["invalid"]:
        return not row["promoted_at"] and row["last_sync_hash"] == neons["hash"]
    return bool(foreign or not neons["master"] or row["promoted_at"] or left_again(row, neons))


MOVED = sql.SQL("w.updated_at >= now() AT TIME ZONE 'UTC'")
"""Whether the statement before changed the row."""


def touched(connection: psycopg.Connection[Any], work: Callable[[psycopg.Connection[Any]], T]) -> T | None:
    """What somebody's statement touched: nothing, where somebody holds a row that it needs."""
    try:
        return work(connection)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.UniqueViolation):
        return None


def insert_record(connection: psycopg.Connection[Any], key: str, values: dict[str, Any]) -> dict[str, Any]:
    """A record of the intake's, and what it says of it."""
    entity, number = entity_of(key), int(key.split(".")[4])
    if entity.name == "company":
        reason, values = "EMPTY_WEBSITE", {"company_name": f"Alder Works {number}", **values}
    else:
        reason = "EMPTY_EMAIL"
        values = {"full_name": f"Robin Alder{number}", "company_unique_id": company((number - 1) % 3 + 1), **values}
    row = {entity.key: key, "reason_code": reason, "validation_errors": "{}", **values}
    insert(connection, str(entity.invalid_table), row)
    return values


def correct(connection: psycopg.Connection[Any], key: str, values: dict[str, Any]) -> int:
    """What Neon's people write into a record."""
    entity = entity_of(key)
    names = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in values)
    return connection.execute(
        sql.SQL("UPDATE {} SET {}, updated_at = now() AT TIME ZONE 'UTC' WHERE {} = %(key)s").format(
            entity.invalid_table.sql, names, sql.Identifier(entity.key)
        ),
        {**values, "key": key},
    ).rowcount


def type_into(connection: psycopg.Connection[Any], key: str, values: dict[str, Any]) -> Typed | None:
    """What an enricher saves in the dashboard, where it was an edit; a status alone is one too.

    Who saves a value that stood there already has not typed it, and where the row stays as it is says nothing new at all.
    """
    entity = entity_of(key)
    edits = {name: value for name, value in values.items() if name in entity.columns}
    names = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in values)
    changed = [sql.SQL("w.{0} IS DISTINCT FROM was.{0} AS {0}").format(sql.Identifier(name)) for name in edits]
    statement = sql.SQL(
        "UPDATE {table} w SET {names} FROM (SELECT * FROM {table} WHERE {key} = %(key)s FOR UPDATE) was"
        " WHERE w.{key} = was.{key} RETURNING {what}"
    ).format(
        table=entity.workspace_table.sql, names=names, key=sql.Identifier(entity.key),
        what=sql.SQL(", ").join([sql.SQL("{} AS moved, w.neon_snapshot").format(MOVED), *changed]),
    )  # fmt: skip
    found = connection.cursor(row_factory=dict_row).execute(statement, {**values, "key": key}).fetchone()
    if not found or not found["moved"]:
        return None
    return Typed({name: value for name, value in edits.items() if found[name]}, found["neon_snapshot"] or {})
