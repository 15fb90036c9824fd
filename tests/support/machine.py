"""A hypothesis state machine that breaks everything on purpose, against a model that knows what must hold.

Enrichers edit and flip, Neon's people insert, correct and delete, also in transactions that commit late; workers start
and are killed, servers stop at once and start again, links go deaf or slow or are cut; promotions are taken back, and
either database is restored to an earlier moment; transactions of somebody's own hold rows; old rows go by retention. At every quiet moment both databases are compared with the model,
record by record.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from typing import Any

import psycopg
from conftest import connect
from copies import Copy
from declared import ENTITIES
from expected import Typed, entity_of
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule
from inputs import (
    CELLS,
    COMPANIES,
    EDITS,
    EMAILS,
    KEYS,
    NUMBERS,
    PEOPLE,
    STATUSES,
    TIMES,
    WEBSITES,
    Edit,
    Time,
    with_names,
)
from loop import MOVED, Base, Held, correct, insert_record, struck, touched, type_into
from proxy import COMMITTED
from psycopg import sql
from records import add_master, add_slot, company, person

AT_LEAST = 12
"""So much is done to it between two quiet moments."""


class Loop(Base):
    """The loop, and whatever may befall it."""

    @initialize(role=st.booleans())
    def begin(self, role: bool) -> None:
        self.role = role
        with connect(self.urls[0]) as neon:
            for key in [*map(company, range(1, COMPANIES + 1)), *map(person, range(1, PEOPLE + 1))]:
                self.expected.inserted(key, insert_record(neon, key, {}))
            add_slot(neon, 1, of=1)
        self.start_a_worker()

    # -- what people do --------------------------------------------------------------------------------

    @rule(edited=EDITS, status=STATUSES)
    def an_enricher_edits(self, edited: Edit, status: str) -> None:
        key, values = edited
        typed = self.write(1, lambda here: type_into(here, key, {**values, "enrichment_status": status}))
        if typed is not None:
            self.expected.typed(key, typed, status)
            struck["edits"] += 1

    @rule(key=NUMBERS.map(company), website=WEBSITES, count=st.sampled_from([None, 5, -5]))
    def an_enricher_completes(self, key: str, website: str, count: int | None) -> None:
        self.an_enricher_edits((key, {"website": website, "employee_count": count}), "complete")

    @rule(website=WEBSITES, email=EMAILS, part=st.integers(1, 3))
    def an_enricher_completes_many(self, website: str, email: str, part: int) -> None:
        with connect(self.urls[1]) as supabase:
            for table, name, value in (("company", "website", website), ("people", "email", email)):
                entity = ENTITIES[table]
                statement = sql.SQL(
                    "UPDATE {workspace} w SET {column} = %s, enrichment_status = 'complete' FROM (SELECT {key}, {column}"
                    " FROM {workspace} WHERE promoted_at IS NULL AND id %% %s = 0 FOR UPDATE SKIP LOCKED) was"
                    " WHERE w.{key} = was.{key} RETURNING w.{key} AS key, w.neon_snapshot, {moved} AS moved,"
                    " w.{column} IS DISTINCT FROM was.{column} AS changed"
                ).format(
                    workspace=entity.workspace_table.sql, column=sql.Identifier(name), key=sql.Identifier(entity.key),
                    moved=MOVED,
                )  # fmt: skip
                for row in filter(lambda row: row["moved"], supabase.execute(statement, [value, part]).fetchall()):
                    typed = Typed({name: value} if row["changed"] else {}, row["neon_snapshot"] or {})
                    self.expected.typed(row["key"], typed, "complete")
        struck["bulk flips"] += 1

    @rule(edited=EDITS)
    def neon_corrects(self, edited: Edit) -> None:
        key, values = edited
        if values and self.write(0, lambda there: correct(there, key, values)):
            self.expected.corrected(key, values)
            struck["corrections in Neon"] += 1

    @rule(key=KEYS, values=st.one_of(*CELLS.values()), number=st.integers(1, 3))
    def neon_inserts(self, key: str, values: dict[str, Any], number: int) -> None:
        """A new record, or one that had left, or that was promoted, or that Neon has lost."""
        columns = entity_of(key).columns
        values = {name: value for name, value in with_names(dict(values)).items() if name in columns}
        if key.startswith("04.04.02."):
            values |= {"company_unique_id": company(number)}

        def bring(there: Any) -> int:
            self.expected.inserted(key, insert_record(there, key, values))
            return 1

        struck["records"] += self.write(0, bring) or 0

    @rule(number=st.integers(1, 3))
    def neon_adds_a_slot(self, number: int) -> None:
        self.write(0, lambda there: bool(add_slot(there, number, of=number)))

    @rule(key=KEYS)
    def neon_deletes(self, key: str) -> None:
        entity = entity_of(key)
        names = {
            "invalid": entity.invalid_table.sql,
            "master": entity.master_table.sql,
            "key": sql.Identifier(entity.key),
        }

        def delete(there: Any) -> int:
            with there.transaction():
                gone = there.execute(sql.SQL("DELETE FROM {invalid} WHERE {key} = %s").format(**names), [key]).rowcount
                master = there.execute(sql.SQL("SELECT FROM {master} WHERE {key} = %s").format(**names), [key]).rowcount
            if gone:
                (self.left if master else self.expected.theirs.deleted).add(key)
            return gone

        struck["deletions in Neon"] += self.write(0, delete) or 0

    @rule(kind=st.sampled_from(["correction", "record", "master key", "edit", "lock in Neon", "lock in Supabase"]),
          edited=EDITS, number=NUMBERS, commits=st.booleans())  # fmt: skip
    def somebody_holds(self, kind: str, edited: Edit, number: int, commits: bool) -> None:
        """A transaction of somebody's own stays open: what it holds or has written, nobody else sees or gets."""
        if len(self.held) >= 3:
            self.let_go()
        key, values = edited
        known, entity = self.expected, entity_of(key)
        side = int(kind in ("edit", "lock in Supabase"))
        lock = sql.SQL("SELECT FROM {} WHERE {} = %s FOR UPDATE")
        written, typed = len(known.written), []

        def edit(one: Any) -> bool:
            typed.append(type_into(one, key, {**values, "enrichment_status": "complete"}))
            return typed[0] is not None

        work, then = {
            "correction": (lambda one: correct(one, key, values or {"city": "Ripley"}),
                           partial(known.corrected, key, values or {"city": "Ripley"})),
            "record": (lambda one: bool(insert_record(one, key, {})), partial(self._inserted, key)),
            "master key": (lambda one: add_master(one, number) or 1, partial(known.theirs_now, company(number))),
            "edit": (edit, lambda: known.typed(key, typed[0], "complete", written)),
            "lock in Neon": (lambda one: one.execute(lock.format(entity.invalid_table.sql, sql.Identifier(entity.key)), [key]).rowcount,
                             lambda: None),
            "lock in Supabase": (lambda one: one.execute(lock.format(entity.workspace_table.sql, sql.Identifier(entity.key)), [key]).rowcount,
                                 lambda: None),
        }[kind]  # fmt: skip
        connection = psycopg.connect(self.urls[side], options="-c lock_timeout=300ms")
        if touched(connection, work):
            self.held.append(Held(side, connection, commits, then))
            struck[f"held: {kind}"] += 1
        else:
            connection.close()

    def _inserted(self, key: str) -> None:
        number = int(key.split(".")[4])
        values = {"company_name": f"Alder Works {number}"} if key.startswith("04.04.01.") else {
            "full_name": f"Robin Alder{number}", "company_unique_id": company((number - 1) % 3 + 1)
        }  # fmt: skip
        self.expected.inserted(key, values)

    @rule(number=NUMBERS, refuses=st.booleans())
    def the_workspace_refuses_a_reply(self, number: int, refuses: bool) -> None:
        """A constraint of the customer's own: this record's row may not become ``failed``, until it is dropped."""

        def alter(supabase: Any) -> bool:
            supabase.execute("ALTER TABLE company_needs_enrichment DROP CONSTRAINT IF EXISTS never_failed")
            if refuses:
                check = f"company_unique_id <> '{company(number)}' OR enrichment_status <> 'failed'"
                supabase.execute(
                    f"ALTER TABLE company_needs_enrichment ADD CONSTRAINT never_failed CHECK ({check}) NOT VALID"
                )
            return True

        # Not where somebody of this very example holds a row: nobody would let go.
        if self.write(1, alter):
            struck["refused replies"] += refuses

    @rule()
    def they_let_go(self) -> None:
        self.let_go()

    @rule(key=KEYS, seconds=st.sampled_from([None, None, 0.0, 0.02, 0.05, 0.1, 0.2]))
    def an_operator_takes_a_promotion_back(self, key: str, seconds: float | None) -> None:
        """With ``undo``, which is killed after so many seconds."""
        command = self.fork("undo", key)
        if seconds is None and not self.held:
            assert command.wait(60) in (0, 1, 3), command.noise
        else:
            command.wait(seconds or 0.5)
            struck["undos killed"] += command.kill()
        command.close()
        struck["undos"] += 1

    @rule(old=st.integers(0, 5))
    def time_passes(self, old: int) -> None:
        """All that happened is older than retention keeps. It is rare: what is gone is not there to be tested."""
        if old:
            return
        self.settle_and_compare()
        with connect(self.urls[0]) as neon, connect(self.urls[1]) as supabase:
            neon.execute("UPDATE marketing.enrichment_ledger SET recorded_at = recorded_at - interval '40 days'")
            supabase.execute("SET enrichment_worker.writer = on")
            for entity in ENTITIES.values():
                supabase.execute(
                    sql.SQL("UPDATE {} SET promoted_at = promoted_at - interval '40 days',"
                            " pushed_to_neon_at = pushed_to_neon_at - interval '40 days' WHERE promoted_at IS NOT NULL"
                            ).format(entity.workspace_table.sql))  # fmt: skip
        self.expected.time_passed()
        # No backup is as old as that.
        self.ground.drop([copy.copy for copy, _ in self.copies.values()])
        self.copies.clear()
        self.expected.backups.clear()
        struck["retentions"] += 1

    # -- what befalls ----------------------------------------------------------------------------------

    @rule()
    def start_a_worker(self) -> None:
        if len(self.workers) < 3:
            self.workers.append(self.fork("run"))
            struck["workers started"] += 1

    @rule(which=st.integers(0, 2))
    def kill_a_worker(self, which: int) -> None:
        if self.workers:
            self.end(self.workers.pop(which % len(self.workers)))

    @rule(website=WEBSITES, email=EMAILS, times=st.lists(TIMES, min_size=2, max_size=8))
    def workers_are_killed_while_busy(self, website: str, email: str, times: list[Time]) -> None:
        """Flip many rows, do something else, and kill all workers after the first few of the lines they log meanwhile;
        over and over.
        """
        for lines, part, what, edited in times:
            for _ in range(3):
                self.start_a_worker()
            self.an_enricher_completes_many(website, email, part)
            seen = [len(worker.events) for worker in self.workers]
            self._do(what, edited)
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and all(
                len(worker.events) < before + lines and worker.poll() is None
                for worker, before in zip(self.workers, seen, strict=True)
            ):
                time.sleep(0.001)  # between two looks
            struck["workers killed while busy"] += len(self.workers)
            self.end_all()
            website, email = {"n/a": "good.example"}.get(website, "n/a"), {"n/a": "kim@alder.example"}.get(email, "n/a")

    def _do(self, what: str, edited: Edit) -> None:
        key, values = edited
        match what:
            case "edit" | "take back":
                self.an_enricher_edits(edited, "complete" if what == "edit" else "in_progress")
            case "correct":
                self.neon_corrects(edited)
            case "insert":
                self.neon_inserts(key, values, 1)
            case "delete":
                self.neon_deletes(key)
            case "undo":
                self.an_operator_takes_a_promotion_back(key, 0.05)

    @rule(side=st.integers(0, 1))
    def a_server_dies_and_comes_back(self, side: int) -> None:
        self.let_go(roll_back=(side,))
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
        self.links[link].cut_on_answer([*COMMITTED.values()][link])
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
        self.let_go(roll_back=(side,))
        with self.nobody_connected(side):
            copy = Copy(self.urls[side], f"copy_{number}")
        self.copies[side, number] = copy, (
            self.expected.workspace_moment() if side else self.expected.neon_moment()
        )  # fmt: skip
        self.expected.backups = {n: moment for (s, n), (_, moment) in self.copies.items() if s}
        struck["copies"] += 1

    @rule(number=st.integers(0, 1), gone=st.booleans())
    def neon_is_restored(self, number: int, gone: bool) -> None:
        self._restore(0, number, gone)

    @rule(number=st.integers(0, 1), gone=st.booleans())
    def the_workspace_is_restored(self, number: int, gone: bool) -> None:
        self._restore(1, number, gone)

    @rule(
        first=st.integers(0, 1), numbers=st.tuples(st.integers(0, 1), st.integers(0, 1)),
        times=st.lists(TIMES, min_size=1, max_size=3),
    )  # fmt: skip
    def a_database_is_restored_after_kills(self, first: int, numbers: tuple[int, int], times: list[Time]) -> None:
        """One side in the middle of everything, and then, after some more of it, the other."""
        for side in (first, 1 - first):
            self.workers_are_killed_while_busy("good.example", "n/a", times)
            self._restore(side, numbers[side], True)

    def _restore(self, side: int, number: int, gone: bool) -> None:
        """To one of its copies; the database is not there at all for a moment, or its address does not answer."""
        if (side, number) not in self.copies:
            self.a_database_is_copied(side, number)
            return
        self.let_go(roll_back=(0, side))
        copy, moment = self.copies[side, number]
        with ExitStack() as stack:
            if side or not gone:
                stack.enter_context(self.nobody_connected(0))
            if side and not gone:
                stack.enter_context(self.nobody_connected(1))
            copy.put_back()
            self.restored(moment)
        struck[f"restores of {'Supabase' if side else 'Neon'}"] += 1

    # -- what must hold --------------------------------------------------------------------------------

    @rule()
    def be_quiet_and_compare(self) -> None:
        """Not twice for the same."""
        if struck.total() - self.struck_before > AT_LEAST:
            self.settle_and_compare()
