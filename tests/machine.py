"""A hypothesis state machine that breaks everything on purpose, against a model that knows what must hold.

Enrichers edit and flip, Neon's people insert, correct and delete, also in transactions that commit late; workers start
and are killed, servers stop at once and start again, links go deaf or slow or are cut; promotions are taken back, and
either database is restored to an earlier moment. At every quiet moment both databases are compared with the model,
record by record.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from conftest import ROOT, _environment, connect
from copies import Copy
from expected import Backup, Expected, Theirs, entity_of
from forks import Fork
from ground import Ground
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from oracle import check, neon_of, workspace_of
from proxy import Proxy
from psycopg import sql
from records import add_slot, company, edit, insert, person

from worker.entities import ENTITIES

COMPANIES, PEOPLE = 10, 4
QUIET_SECONDS = 120.0
AT_LEAST = 12
"""So much is done to it between two quiet moments."""
NUMBERS = st.integers(1, COMPANIES + 2)
WEBSITES = st.sampled_from(["good.example", "https://better.example/x", "n/a", " ", "test.com", "two words"])
KEYS = st.one_of(NUMBERS.map(company), NUMBERS.map(company), st.integers(1, PEOPLE + 1).map(person))
STATUSES = st.sampled_from(["pending", "in_progress", "complete", "complete"])
PLACES = {
    "phone": st.sampled_from(["(304) 555-0101", "+13045550102"]), "city": st.sampled_from(["Elkins", "Ripley"]),
    "state": st.sampled_from(["WV", "OH"]),
}  # fmt: skip
CELLS = {
    "company": st.fixed_dictionaries({}, optional={
        **PLACES, "company_name": st.sampled_from(["Alder Mills", "Beech Works"]), "website": WEBSITES,
        "industry": st.sampled_from(["Timber", "Retail"]), "employee_count": st.sampled_from([None, 5, -5]),
        "address": st.sampled_from(["1 Mill Road", "2 Hill Road"]), "zip": st.sampled_from(["26501", "26241"]),
        "domain": st.sampled_from(["good.example", "old.example"]),
    }),
    "people": st.fixed_dictionaries({}, optional={
        **PLACES, "email": st.sampled_from(["robin@alder.example", "kim@alder.example", "n/a", "robin at alder"]),
        "title": st.sampled_from(["Clerk", "Buyer"]), "company_name": st.sampled_from(["Alder Mills", "Beech Works"]),
        "company_unique_id": st.integers(1, 3).map(company),
        "linkedin_url": st.sampled_from(["https://www.linkedin.com/in/robin", "https://www.linkedin.com/in/kim"]),
        "names": st.sampled_from([("Robin", "Alder"), ("Kim", "Beech")]),
    }),
}  # fmt: skip
struck: Counter[str] = Counter()
"""What was done to it, over all examples."""


def _with_names(values: dict[str, Any]) -> dict[str, Any]:
    if names := values.pop("names", None):
        values |= {"full_name": " ".join(names), "first_name": names[0], "last_name": names[1]}
    return values


EDITS = KEYS.flatmap(lambda key: st.tuples(st.just(key), CELLS[entity_of(key).name].map(_with_names)))


class Loop(RuleBasedStateMachine):
    """The loop, and whatever may befall it."""

    ground: ClassVar[Ground]

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.urls = self.ground.databases()
        self.links = [self.stack.enter_context(Proxy(url)) for url in (*self.urls, self.urls[1])]
        self.workers: list[Fork] = []
        self.late: psycopg.Connection[Any] | None = None
        self.expected = Expected()
        self.struck_before = struck.total()
        self.copies: dict[tuple[int, int], tuple[Copy, Any]] = {}
        """Side and number → a copy of the database, and what was known then."""

    def teardown(self) -> None:
        try:
            self._be_quiet_and_compare()
        finally:
            self._drop_late()
            for worker in self.workers:
                self._end(worker)
            self.stack.close()
            names = [url.rsplit("/", 1)[1] for url in self.urls]
            self.ground.drop([*names, *(copy.copy for copy, _ in self.copies.values())])

    # -- what people do --------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        with connect(self.urls[0]) as neon:
            for number in range(1, COMPANIES + 1):
                self._insert(neon, company(number), {})
            for number in range(1, PEOPLE + 1):
                self._insert(neon, person(number), {})
            add_slot(neon, 1, of=1)
        self.start_a_worker()

    @rule(edited=EDITS, status=STATUSES)
    def an_enricher_edits(self, edited: tuple[str, dict[str, Any]], status: str) -> None:
        key, values = edited
        with connect(self.urls[1]) as supabase:
            if workspace_row(supabase, key):
                edit(supabase, key, **values, enrichment_status=status)
                self.expected.typed(key, values, status)
                struck["edits"] += 1

    @rule(key=NUMBERS.map(company), website=WEBSITES, count=st.sampled_from([None, 5, -5]))
    def an_enricher_completes(self, key: str, website: str, count: int | None) -> None:
        self.an_enricher_edits((key, {"website": website, "employee_count": count}), "complete")

    @rule(website=WEBSITES, email=st.sampled_from(["robin@alder.example", "n/a"]))
    def an_enricher_completes_all(self, website: str, email: str) -> None:
        with connect(self.urls[1]) as supabase:
            for table, name, value in (("company", "website", website), ("people", "email", email)):
                entity = ENTITIES[table]
                done = supabase.execute(
                    sql.SQL("UPDATE {} SET {} = %s, enrichment_status = 'complete' WHERE promoted_at IS NULL"
                            " RETURNING {} AS key").format(
                        entity.workspace_table.sql, sql.Identifier(name), sql.Identifier(entity.key)), [value]
                )  # fmt: skip
                for row in done.fetchall():
                    self.expected.typed(row["key"], {name: value}, "complete")
        struck["bulk flips"] += 1

    @rule(edited=EDITS)
    def neon_corrects(self, edited: tuple[str, dict[str, Any]]) -> None:
        key, values = edited
        with connect(self.urls[0]) as neon:
            if self._correct(neon, key, values):
                self.expected.corrected(key, values)
                struck["corrections in Neon"] += 1

    @rule(edited=EDITS)
    def neon_corrects_in_a_transaction_that_commits_late(self, edited: tuple[str, dict[str, Any]]) -> None:
        if self.late is not None:
            self._commit_late()
            return
        self.late, (self.late_key, self.late_values) = psycopg.connect(self.urls[0]), edited
        if not self._correct(self.late, *edited):
            self._drop_late()

    @rule(key=KEYS, values=st.one_of(*CELLS.values()), number=st.integers(1, 3))
    def neon_inserts(self, key: str, values: dict[str, Any], number: int) -> None:
        """A new record, or one that had left, or that was promoted, or that Neon has lost."""
        columns = entity_of(key).columns
        values = {name: value for name, value in _with_names(dict(values)).items() if name in columns}
        if key.startswith("04.04.02."):
            values |= {"company_unique_id": company(number)}
        with connect(self.urls[0]) as neon:
            self._insert(neon, key, values)

    @rule(number=st.integers(1, 3))
    def neon_adds_a_slot(self, number: int) -> None:
        with connect(self.urls[0]) as neon:
            if not neon.execute(
                "SELECT FROM marketing.company_slots WHERE company_unique_id = %s", [company(number)]
            ).rowcount:
                add_slot(neon, number, of=number)

    @rule(key=KEYS)
    def neon_deletes(self, key: str) -> None:
        entity = entity_of(key)
        names = {
            "invalid": entity.invalid_table.sql,
            "master": entity.master_table.sql,
            "key": sql.Identifier(entity.key),
        }
        with connect(self.urls[0]) as neon, neon.transaction():
            neon.execute("SET LOCAL lock_timeout = '2s'")
            try:
                with neon.transaction():
                    gone = neon.execute(
                        sql.SQL("DELETE FROM {invalid} WHERE {key} = %s").format(**names), [key]
                    ).rowcount
            except psycopg.errors.LockNotAvailable:
                return  # held by the transaction that commits late
            master = neon.execute(sql.SQL("SELECT FROM {master} WHERE {key} = %s").format(**names), [key]).rowcount
        if gone:
            struck["deletions in Neon"] += 1
            if not master:
                self.expected.theirs.deleted.add(key)

    @rule(key=KEYS, seconds=st.sampled_from([None, None, 0.0, 0.02, 0.05, 0.1, 0.2]))
    def an_operator_takes_a_promotion_back(self, key: str, seconds: float | None) -> None:
        """With ``undo``, which is killed after so many seconds."""
        command = self._fork("undo", key)
        if seconds is None:
            assert command.wait(60) in (0, 1, 3), command.noise
        else:
            command.wait(seconds)
            struck["undos killed"] += command.kill()
        command.close()
        struck["undos"] += 1

    # -- what befalls ----------------------------------------------------------------------------------

    @rule()
    def start_a_worker(self) -> None:
        if len(self.workers) < 3:
            self.workers.append(self._fork("run"))
            struck["workers started"] += 1

    @rule(which=st.integers(0, 2))
    def kill_a_worker(self, which: int) -> None:
        if self.workers:
            self._end(self.workers.pop(which % len(self.workers)))

    @rule(website=WEBSITES, email=st.sampled_from(["robin@alder.example", "n/a"]),
          events=st.lists(st.integers(0, 4), min_size=2, max_size=8))  # fmt: skip
    def workers_are_killed_while_busy(self, website: str, email: str, events: list[int]) -> None:
        """Flip everything, and kill all workers after the first few of the lines they log meanwhile; over and over."""
        for number in events:
            for _ in range(3):
                self.start_a_worker()
            self.an_enricher_completes_all(website, email)
            seen = [len(worker.events) for worker in self.workers]
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and all(
                len(worker.events) < before + number and worker.poll() is None
                for worker, before in zip(self.workers, seen, strict=True)
            ):
                time.sleep(0.001)  # between two looks
            struck["workers killed while busy"] += len(self.workers)
            for worker in self.workers:
                self._end(worker)
            self.workers.clear()
            website, email = {"n/a": "good.example"}.get(website, "n/a"), {"n/a": "kim@alder.example"}.get(email, "n/a")

    @rule(side=st.integers(0, 1))
    def a_server_dies_and_comes_back(self, side: int) -> None:
        self._drop_late()
        self.ground.servers[side].stop("immediate")
        self.ground.servers[side].start()
        struck["servers restarted"] += 1

    @rule(link=st.integers(0, 2))
    def a_link_is_cut(self, link: int) -> None:
        self.links[link].cut()
        struck["links cut"] += 1

    @rule(link=st.integers(0, 1), after=st.integers(1, 3000))
    def a_link_is_cut_mid_message(self, link: int, after: int) -> None:
        self.links[link].cut_after(after)
        struck["links cut mid-message"] += 1

    @rule(link=st.integers(0, 1))
    def the_answer_to_a_commit_never_arrives(self, link: int) -> None:
        self.links[link].cut_on_answer(b"COMMIT\0")
        struck["COMMITs unanswered"] += 1

    @rule(link=st.integers(0, 2))
    def a_link_goes_deaf_and_hears_again(self, link: int) -> None:
        self.links[link].deaf = True
        time.sleep(0.05)  # deaf for a while: this is the fault, nothing waits for it
        self.links[link].hear_again()
        struck["links deaf"] += 1

    @rule(link=st.integers(0, 1))
    def a_link_is_slow_for_a_while(self, link: int) -> None:
        self.links[link].delay = 0.0 if self.links[link].delay else 0.01
        struck["links slowed"] += 1

    # -- restores --------------------------------------------------------------------------------------

    @rule(side=st.integers(0, 1), number=st.integers(0, 1))
    def a_database_is_copied(self, side: int, number: int) -> None:
        self._drop_late()
        with self._nobody_connected(side):
            copy = Copy(self.urls[side], f"copy_{number}")
        self.copies[side, number] = copy, (
            self.expected.workspace_moment() if side else self.expected.neon_moment()
        )  # fmt: skip
        self.expected.backups = {n: moment for (s, n), (_, moment) in self.copies.items() if s}
        struck["copies"] += 1

    @rule(side=st.integers(0, 1), number=st.integers(0, 1), gone=st.booleans())
    def a_database_is_restored(self, side: int, number: int, gone: bool) -> None:
        """To one of its copies; the database is not there at all for a moment, or its address does not answer."""
        if (side, number) not in self.copies:
            self.a_database_is_copied(side, number)
            return
        self._drop_late()
        copy, moment = self.copies[side, number]
        with ExitStack() as stack:
            if side or not gone:
                stack.enter_context(self._nobody_connected(0))
            if side and not gone:
                stack.enter_context(self._nobody_connected(1))
            copy.put_back()
            if isinstance(moment, Theirs):
                self.expected.neon_restored(moment)
            else:
                self._workspace_restored(moment)
        struck[f"restores of {'Supabase' if side else 'Neon'}"] += 1

    def _workspace_restored(self, moment: Backup) -> None:
        with connect(self.urls[0]) as neon, connect(self.urls[1]) as supabase:
            here, there, ledger = {}, {}, {}
            for entity in ENTITIES.values():
                here |= workspace_of(supabase, entity)
                there |= {key: row["data"] for key, row in neon_of(neon, entity).items() if row["invalid"]}
            for row in neon.execute(
                "SELECT DISTINCT ON (key) key, record FROM marketing.enrichment_ledger"
                " WHERE outcome IN ('promoted', 'flagged', 'waiting', 'undone') ORDER BY key, id DESC"
            ):
                ledger[row["key"]] = row["record"] or {}
        self.expected.workspace_restored(moment, here, there, ledger)

    def _nobody_connected(self, side: int) -> ExitStack:
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

    # -- what must hold --------------------------------------------------------------------------------

    @rule()
    def be_quiet_and_compare(self) -> None:
        """Let everything settle, and compare both databases with each other and with the model."""
        if struck.total() - self.struck_before > AT_LEAST:
            self._be_quiet_and_compare()

    def _be_quiet_and_compare(self) -> None:
        self._commit_late()
        for link in self.links:
            link.delay, link.deaf = 0.0, False
            link.cut_on_answer(b"\xff never")
        deadline = time.monotonic() + QUIET_SECONDS
        while True:
            self._wait_until_settled(deadline)
            # Nothing moves while it is compared.
            for worker in self.workers:
                self._end(worker)
            self.workers.clear()
            # What only a full comparison finds: what left the invalid table.
            command = self._fork("pull", "--full")
            assert command.wait(60) in (0, 3), (command.returncode, command.events[-3:], command.noise)
            command.close()
            if command.returncode == 0 and not self._unsettled():
                break
            assert time.monotonic() < deadline, self._unsettled()
        with connect(self.urls[0]) as neon, connect(self.urls[1]) as supabase:
            here, there = {}, {}
            for entity in ENTITIES.values():
                check(neon, supabase, entity, self.expected.known())
                here |= workspace_of(supabase, entity)
                there |= neon_of(neon, entity)
            self.expected.compare(here, there)
        struck["quiet moments compared"] += 1
        self.struck_before = struck.total()

    def _wait_until_settled(self, deadline: float) -> None:
        while True:
            for worker in [one for one in self.workers if one.poll() is not None]:
                # A database was down when it started, or gone for a moment: systemd would start it again.
                said = [*worker.events[-3:], *worker.noise]
                assert worker.returncode == 3 or "does not exist" in str(said), (worker.returncode, said)
                self.workers.remove(worker)
                self._end(worker)
            if not self.workers:
                self.start_a_worker()
            if not (left := self._unsettled()):
                return
            assert time.monotonic() < deadline, (left, [worker.events[-3:] for worker in self.workers])
            time.sleep(0.03)  # between two looks

    def _unsettled(self) -> list[str]:
        """What is still on its way."""
        try:
            with connect(self.urls[1], connect_timeout=5) as supabase, connect(self.urls[0]) as neon:
                companies = neon_of(neon, ENTITIES["company"])
                slots = {
                    row["it"] for row in neon.execute("SELECT company_unique_id AS it FROM marketing.company_slots")
                }
                left = []
                for entity in ENTITIES.values():
                    there = companies if entity.name == "company" else neon_of(neon, entity)
                    here = workspace_of(supabase, entity)
                    left += [f"{key} has not come" for key, row in there.items() if row["invalid"] and key not in here]
                    for key, row in here.items():
                        of = row["waiting_for"]
                        waits = of and (
                            row["sync_code"] == "lost" or not (companies.get(of, {}).get("master") and of in slots)
                        )
                        neons = there.get(key)
                        if row["queued"] and not waits:
                            left.append(f"{key} is queued")
                        elif (
                            neons
                            and neons["invalid"]
                            and not waits
                            and (row["promoted_at"] or row["last_sync_hash"] != neons["hash"])
                        ):
                            left.append(f"{key} is not as in Neon")
                        elif neons and neons["master"] and not neons["invalid"] and not row["promoted_at"]:
                            left.append(f"{key} is not told that it was promoted")
        except psycopg.OperationalError as error:
            return [str(error)]
        return left

    # -- small parts -----------------------------------------------------------------------------------

    def _fork(self, *command: str) -> Fork:
        neon, supabase, ear = (link.url for link in self.links)
        settings = {
            "NEON_DATABASE_URL": neon, "SUPABASE_DATABASE_URL": supabase, "SUPABASE_LISTEN_URL": ear,
            "WORKER_HEALTH_ADDRESS": "127.0.0.1:0", "WORKER_LOG_FORMAT": "json", "WORKER_SWEEP_INTERVAL": "0.2",
            "WORKER_PULL_INTERVAL": "0.5", "WORKER_BATCH_SIZE": "5", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        return Fork(self.ground.nursery, list(command), _environment(settings), self.folder)

    def _insert(self, neon: Any, key: str, values: dict[str, Any]) -> None:
        entity = entity_of(key)
        number = int(key.split(".")[4])
        if entity.name == "company":
            reason, values = "EMPTY_WEBSITE", {"company_name": f"Alder Works {number}", **values}
        else:
            reason = "EMPTY_EMAIL"
            values = {"full_name": f"Robin Alder{number}", "company_unique_id": company((number - 1) % 3 + 1), **values}
        row = {entity.key: key, "reason_code": reason, "validation_errors": "{}", **values}
        try:
            neon.execute("SET lock_timeout = '2s'")
            insert(neon, str(entity.invalid_table), row)
        except (psycopg.errors.UniqueViolation, psycopg.errors.LockNotAvailable):
            return  # it is there
        self.expected.inserted(key, values)
        struck["records"] += 1

    @staticmethod
    def _correct(neon: Any, key: str, values: dict[str, Any]) -> bool:
        if not values:
            return False
        entity = entity_of(key)
        neon.execute("SET lock_timeout = '2s'")
        names = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in values)
        try:
            done = neon.execute(
                sql.SQL("UPDATE {} SET {}, updated_at = now() AT TIME ZONE 'UTC' WHERE {} = %(key)s").format(
                    entity.invalid_table.sql, names, sql.Identifier(entity.key)
                ),
                {**values, "key": key},
            )
        except psycopg.errors.LockNotAvailable:
            return False  # held by the transaction that commits late
        return bool(done.rowcount)

    def _commit_late(self) -> None:
        if self.late:
            self.late.commit()
            self.late.close()
            self.late = None
            self.expected.corrected(self.late_key, self.late_values)
            struck["late commits"] += 1

    def _drop_late(self) -> None:
        if self.late:
            self.late.close()
            self.late = None

    @staticmethod
    def _end(worker: Fork) -> None:
        struck["workers killed"] += worker.kill()
        worker.close()
        assert not [line for line in worker.noise if not line.startswith("enrichment-worker: ")], worker.noise


def workspace_row(supabase: Any, key: str) -> bool:
    """Whether the workspace has the record."""
    entity = entity_of(key)
    look = sql.SQL("SELECT FROM {} WHERE {} = %s").format(entity.workspace_table.sql, sql.Identifier(entity.key))
    return bool(supabase.execute(look, [key]).rowcount)
