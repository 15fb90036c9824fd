"""A hypothesis state machine that breaks everything on purpose, against a model that knows what must hold.

Enrichers edit and flip, Neon's side edits, inserts and deletes, also in transactions that commit late; workers
start and are killed, servers stop at once and start again, links go deaf or slow or are cut. At every quiet
moment both databases are compared with the model, record by record.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
from conftest import ROOT, Daemon, _environment, connect
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from oracle import NEON, check
from proxy import Proxy
from records import company

from worker.embedded import EmbeddedServer
from worker.schema import files

RECORDS = 12
QUIET_SECONDS = 120.0
NUMBERS = st.integers(1, RECORDS)
WEBSITES = st.sampled_from(["good.example", "https://better.example/x", "n/a", " ", "test.com", "two words"])
struck: Counter[str] = Counter()
"""What was done to it, over all examples."""


class Loop(RuleBasedStateMachine):
    """The loop, and whatever may befall it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory()))
        self.servers = [self.stack.enter_context(EmbeddedServer(18)), self.stack.enter_context(EmbeddedServer(16))]
        self.urls = []
        for server, name, side in zip(self.servers, ("neon", "supabase"), ("Neon", "Supabase"), strict=True):
            server.create_database(name)
            self.urls.append(server.url(name))
            with connect(server.url(name)) as connection:
                for path in files(side):
                    connection.execute(path.read_text(encoding="utf-8"))
        self.links = [self.stack.enter_context(Proxy(url)) for url in (*self.urls, self.urls[1])]
        self.workers: list[Daemon] = []
        self.late: psycopg.Connection[Any] | None = None
        # The model: what the enrichers last typed into each record since it was last answered.
        self.next = RECORDS
        self.typed: dict[str, dict[str, Any]] = {}
        self.deleted: set[str] = set()

    def teardown(self) -> None:
        try:
            self.be_quiet_and_compare()
        finally:
            if self.late:
                self.late.close()
            for worker in self.workers:
                self._end(worker)
            self.stack.close()

    # -- what people do --------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        with connect(self.urls[0]) as neon:
            for number in range(1, RECORDS + 1):
                self._insert(neon, number)
        self.start_a_worker()

    @rule(number=NUMBERS, website=WEBSITES, count=st.sampled_from([None, 5, -5]))
    def an_enricher_completes(self, number: int, website: str, count: int | None) -> None:
        self._edit(number, website=website, employee_count=count, enrichment_status="complete")

    @rule(
        number=NUMBERS, city=st.sampled_from(["Elkins", "Ripley"]), status=st.sampled_from(["pending", "in_progress"])
    )
    def an_enricher_edits(self, number: int, city: str, status: str) -> None:
        self._edit(number, city=city, enrichment_status=status, only_unpromoted=True)

    @rule(website=WEBSITES)
    def an_enricher_completes_all(self, website: str) -> None:
        with connect(self.urls[1]) as supabase:
            supabase.execute(
                "UPDATE company_needs_enrichment SET website = %s, enrichment_status = 'complete'"
                " WHERE promoted_at IS NULL", [website]
            )  # fmt: skip
        struck["bulk flips"] += 1

    @rule(number=NUMBERS, zip_code=st.sampled_from(["26501", "26241"]))
    def neon_edits(self, number: int, zip_code: str) -> None:
        with connect(self.urls[0]) as neon:
            neon.execute("SET lock_timeout = '2s'")
            try:
                neon.execute("UPDATE marketing.company_invalid SET zip = %s, updated_at = now() AT TIME ZONE 'UTC'"
                             " WHERE company_unique_id = %s", [zip_code, company(number)])  # fmt: skip
            except psycopg.errors.LockNotAvailable:
                return  # held by the transaction that commits late
        struck["edits in Neon"] += 1

    @rule(number=NUMBERS)
    def neon_edits_in_a_transaction_that_commits_late(self, number: int) -> None:
        if self.late is None:
            self.late = psycopg.connect(self.urls[0])
            self.late.execute("SET lock_timeout = '2s'")
            try:
                self.late.execute("UPDATE marketing.company_invalid SET state = 'WV', updated_at = now() AT TIME ZONE"
                                  " 'UTC' WHERE company_unique_id = %s", [company(number)])  # fmt: skip
            except psycopg.errors.LockNotAvailable:
                self.late.rollback()
        else:
            self._commit_late()

    @rule()
    def neon_inserts(self) -> None:
        self.next += 1
        with connect(self.urls[0]) as neon:
            self._insert(neon, self.next)

    @rule(number=NUMBERS)
    def neon_deletes(self, number: int) -> None:
        with connect(self.urls[0]) as neon:
            neon.execute("SET lock_timeout = '2s'")
            try:
                gone = neon.execute(
                    "DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(number)]
                )
            except psycopg.errors.LockNotAvailable:
                return
        if gone.rowcount:
            self.deleted.add(company(number))
            struck["deletions in Neon"] += 1

    # -- what befalls ----------------------------------------------------------------------------------

    @rule()
    def start_a_worker(self) -> None:
        if len(self.workers) < 3:
            neon, supabase, ear = (link.url for link in self.links)
            settings = {
                "NEON_DATABASE_URL": neon, "SUPABASE_DATABASE_URL": supabase, "SUPABASE_LISTEN_URL": ear,
                "WORKER_HEALTH_ADDRESS": "127.0.0.1:0", "WORKER_LOG_FORMAT": "json", "WORKER_SWEEP_INTERVAL": "0.2",
                "WORKER_PULL_INTERVAL": "0.5", "WORKER_BATCH_SIZE": "5", "PYTHONPATH": str(ROOT),
            }  # fmt: skip
            self.workers.append(Daemon(_environment(settings), self.folder))
            struck["workers started"] += 1

    @rule(which=st.integers(0, 2))
    def kill_a_worker(self, which: int) -> None:
        if self.workers:
            self._end(self.workers.pop(which % len(self.workers)))

    @rule(website=WEBSITES, events=st.integers(0, 3))
    def workers_are_killed_while_busy(self, website: str, events: int) -> None:
        """Flip everything, and kill all workers after the first few of the lines they log meanwhile."""
        self.start_a_worker()
        self.an_enricher_completes_all(website)
        seen = [len(worker.events) for worker in self.workers]
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline and all(
            len(worker.events) < before + events and worker.process.poll() is None
            for worker, before in zip(self.workers, seen, strict=True)
        ):
            time.sleep(0.001)  # between two looks
        for worker in self.workers:
            self._end(worker)
        struck["workers killed while busy"] += len(self.workers)
        self.workers.clear()

    @rule(side=st.integers(0, 1))
    def a_server_dies_and_comes_back(self, side: int) -> None:
        self._drop_late()
        self.servers[side].stop("immediate")
        self.servers[side].start()
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

    # -- what must hold --------------------------------------------------------------------------------

    @rule()
    def be_quiet_and_compare(self) -> None:
        """Let everything settle, and compare both databases with each other and with the model."""
        self._commit_late()
        for link in self.links:
            link.delay, link.deaf = 0.0, False
            link.cut_on_answer(b"\xff never")
        deadline = time.monotonic() + QUIET_SECONDS
        while True:
            for worker in [one for one in self.workers if one.process.poll() is not None]:
                # A database was down when it started: systemd would start it again.
                assert worker.process.returncode == 3, worker.events[-3:]
                self.workers.remove(worker)
                self._end(worker)
            if not self.workers:
                self.start_a_worker()
            if self._settled():
                break
            assert time.monotonic() < deadline, [worker.events[-3:] for worker in self.workers]
            time.sleep(0.02)  # between two looks
        # Nothing moves while it is compared.
        for worker in self.workers:
            self._end(worker)
        self.workers.clear()
        with connect(self.urls[0]) as neon, connect(self.urls[1]) as supabase:
            check(neon, supabase, deleted=self.deleted)
            self._compare_with_the_model(neon, supabase)
        struck["quiet moments compared"] += 1

    def _compare_with_the_model(self, neon: Any, supabase: Any) -> None:
        """No edit is lost: what was last typed stands in the row, and in the master where it was promoted."""
        for key, typed in self.typed.items():
            row = supabase.execute(
                "SELECT * FROM company_needs_enrichment WHERE company_unique_id = %s", [key]
            ).fetchone()
            assert row is not None, f"{key} was edited and is gone"
            if key in self.deleted and row["enrichment_status"] == "failed":
                assert "no longer in the invalid table" in row["sync_note"] or row["validation_errors"], row
            for name, value in typed.items():
                assert row[name] == value, f"{key}: {name} was {value!r} and is {row[name]!r}"
            if row["promoted_at"] and "city" in typed:
                there = neon.execute(
                    "SELECT address_city FROM marketing.company_master WHERE company_unique_id = %s", [key]
                )
                assert there.fetchone()["address_city"] == typed["city"], f"{key}: the master has another city"

    def _settled(self) -> bool:
        try:
            with connect(self.urls[1], connect_timeout=5) as supabase, connect(self.urls[0]) as neon:
                queued = supabase.execute(
                    "SELECT count(*) AS n FROM company_needs_enrichment WHERE enrichment_status = 'complete'"
                    " AND pushed_to_neon_at IS NULL").fetchone()["n"]  # fmt: skip
                here = supabase.execute("SELECT count(*) AS n FROM company_needs_enrichment").fetchone()["n"]
                # Every inserted record has come, and every row's snapshot is Neon's.
                hashes = {row["key"]: row["hash"] for row in neon.execute(NEON).fetchall() if row["invalid"]}
                seen = {row["k"]: row["h"] for row in supabase.execute(
                    "SELECT company_unique_id AS k, last_sync_hash AS h FROM company_needs_enrichment"
                    " WHERE promoted_at IS NULL").fetchall()}  # fmt: skip
        except psycopg.OperationalError:
            return False
        seen = {key: value for key, value in seen.items() if key not in self.deleted}
        return queued == 0 and here >= self.next - len(self.deleted) and hashes == seen

    # -- small parts -----------------------------------------------------------------------------------

    def _insert(self, neon: Any, number: int) -> None:
        neon.execute(
            "INSERT INTO marketing.company_invalid (company_unique_id, company_name, reason_code, validation_errors)"
            " VALUES (%s, %s, 'EMPTY_WEBSITE', '{}')", [company(number), f"Alder {number}"]
        )  # fmt: skip
        struck["records"] += 1

    def _edit(self, number: int, *, only_unpromoted: bool = False, **values: Any) -> None:
        names = ", ".join(f"{name} = %({name})s" for name in values)
        guard = " AND promoted_at IS NULL AND enrichment_status <> 'complete'" if only_unpromoted else ""
        with connect(self.urls[1]) as supabase:
            done = supabase.execute(
                f"UPDATE company_needs_enrichment SET {names} WHERE company_unique_id = %(key)s{guard}",
                {**values, "key": company(number)},
            )
        if done.rowcount and only_unpromoted:
            self.typed.setdefault(company(number), {})["city"] = values["city"]
        struck["edits"] += done.rowcount

    def _commit_late(self) -> None:
        if self.late:
            self.late.commit()
            self.late.close()
            self.late = None
            struck["late commits"] += 1

    def _drop_late(self) -> None:
        if self.late:
            self.late.close()
            self.late = None

    @staticmethod
    def _end(worker: Daemon) -> None:
        if worker.process.poll() is None:
            worker.kill()
            struck["workers killed"] += 1
        worker._reader.join(10)
        assert not [line for line in worker.noise if not line.startswith("enrichment-worker: ")], worker.noise
        worker.process.stderr.close()
