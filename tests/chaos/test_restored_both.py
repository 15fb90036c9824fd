"""Restores that follow one another: of both databases, to moments of their own, too far and back again; and pulls that
die, are overtaken or refused in the middle of it. SPEC 13.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import psycopg
import pytest
from conftest import connect
from copies import Copy
from declared import COMPANY
from records import add_companies, company, complete, invalid, master, work

from worker.domain.progress import Progress
from worker.postgres.errors import Restored
from worker.settings import load_settings
from worker.sync.databases import open_databases
from worker.sync.pull import pull

Connect = Callable[[], psycopg.Connection[Any]]


@pytest.fixture
def there(databases) -> Connect:
    """Neon as it is by then: asked after a restore."""
    return lambda: connect(databases.neon_url)


@pytest.fixture
def here(databases) -> Connect:
    """The workspace, likewise."""
    return lambda: connect(databases.supabase_url)


@pytest.fixture
def five(steps, there) -> None:
    """Five companies, pulled."""
    with there() as neon:
        add_companies(neon, 1, 2, 3, 4, 5)
    steps.pull()


def promote(steps, here: Connect, there: Connect, *numbers: int) -> None:
    """Have these promoted, so long ago that the position vouches for their ledger rows, and pull."""
    with here() as supabase:
        for number in numbers:
            complete(supabase, company(number), website=f"https://c{number}.example")
    steps.deliver()
    with there() as neon:
        neon.execute("UPDATE marketing.enrichment_ledger SET recorded_at = recorded_at - interval '1 hour'")
    steps.pull()


def agrees(cli) -> None:
    done = cli("reconcile")
    assert done.returncode == 0, done.stdout
    assert [line for line in cli("doctor").stdout.splitlines() if "neither database was restored" in line]


def in_master(there: Connect, number: int) -> bool:
    with there() as neon:
        return bool(master(neon, company(number))) and not invalid(neon, company(number))


REFUSE = (
    "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;"
    "CREATE TRIGGER theirs BEFORE UPDATE OF pulls ON enrichment_pull_position EXECUTE FUNCTION theirs()"
)
"""Lets a pull die between its two commits."""


def test_a_workspace_that_was_restored_too_far_and_then_right_is_no_restored_neon(
    steps, five, databases, here, there, cli
) -> None:
    with Copy(databases.supabase_url, "old") as old:
        for _ in range(3):
            steps.pull()
        with Copy(databases.supabase_url, "right") as right:
            old.put_back()
            steps.pull()
            with there() as neon:
                neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(5)])
            right.put_back()
    pulled = steps.pull()
    assert not (pulled.restored or "").startswith("Neon")
    assert (pulled.full, pulled.lost, pulled.withdrawn) == (True, [], 1)
    assert steps.pull().restored is None
    agrees(cli)


def test_a_pull_that_died_after_it_met_a_restored_neon_does_not_hide_it(
    steps, five, databases, here, there, cli
) -> None:
    with Copy(databases.neon_url) as copy:
        promote(steps, here, there, 1, 2, 3)
        copy.put_back()
    with here() as supabase, here() as somebody:
        supabase.execute(REFUSE)
        somebody.autocommit = False
        somebody.execute("SELECT FROM company_needs_enrichment WHERE id = 1 FOR UPDATE")
        with pytest.raises(psycopg.errors.RaiseException, match="not now"):
            steps.pull()
        somebody.rollback()
        supabase.execute("DROP TRIGGER theirs ON enrichment_pull_position")
    with there() as neon:
        neon.execute("UPDATE marketing.enrichment_ledger SET recorded_at = recorded_at - interval '1 hour'")
    assert steps.pull().restored.startswith("Neon")
    steps.pull()
    assert [in_master(there, number) for number in (1, 2, 3)] == [True] * 3
    agrees(cli)


def test_what_was_locked_when_another_history_was_met_is_brought_together_later(
    steps, five, databases, here, there, cli
) -> None:
    with Copy(databases.neon_url) as neon_1, Copy(databases.supabase_url, "first") as first:
        promote(steps, here, there, 1)
        with Copy(databases.supabase_url, "second") as second:
            neon_1.put_back()
            first.put_back()
            promote(steps, here, there, 2)
            second.put_back()
        with here() as somebody:
            somebody.autocommit = False
            somebody.execute("SELECT FROM company_needs_enrichment WHERE id = 1 FOR UPDATE")
            assert steps.pull().restored.startswith("Neon")
            somebody.rollback()
    steps.pull()
    assert (in_master(there, 1), in_master(there, 2)) == (True, True)
    assert steps.pull().full is False
    agrees(cli)


def test_a_restore_that_is_undone_loses_no_promotion(steps, five, databases, here, there, cli) -> None:
    with Copy(databases.neon_url) as neon_1, Copy(databases.supabase_url) as first:
        promote(steps, here, there, 2)
        for _ in range(3):
            steps.pull()
        with Copy(databases.neon_url, "later") as later:
            neon_1.put_back()
            first.put_back()
            promote(steps, here, there, 1)
            later.put_back()
    assert steps.pull().restored.startswith("Neon")
    assert (in_master(there, 1), in_master(there, 2)) == (True, True)
    steps.pull()
    agrees(cli)


@pytest.fixture
def of_another_history(steps, five, databases, here) -> Callable[..., None]:
    """Bring a backup back whose row shows an outcome that Neon forgot in a restore, after which something else was carried."""

    def make(forgets: str, **typed: str) -> None:
        with Copy(databases.neon_url) as neon_1, Copy(databases.supabase_url, "first") as first:
            with here() as supabase:
                complete(supabase, company(1), website="n/a" if forgets == "a flag" else "https://old.example")
            steps.deliver()
            steps.pull()
            with Copy(databases.supabase_url, "second") as second:
                neon_1.put_back()
                first.put_back()
                with here() as supabase:
                    complete(supabase, company(1), **typed)
                steps.deliver()
                steps.pull()
                second.put_back()

    return make


THEN = {
    "nothing": {},
    "a note": {"enrichment_notes": "asked Kim"},
    "an edit": {"zip": "26241"},
    "a flip": {"zip": "26241", "enrichment_status": "complete"},
    "an edit of the same": {"city": "Ripley"},
}
"""What an enricher does in the backup before the worker looks."""
BACK = {"city": "Elkins", "phone": "+13045550101"}


def do_then(here: Connect, then: str) -> None:
    with here() as supabase:
        for name, value in THEN[then].items():
            supabase.execute(
                f"UPDATE company_needs_enrichment SET {name} = %s WHERE company_unique_id = %s", [value, company(1)]
            )


def shown(here: Connect, then: str, **wanted: str) -> dict[str, Any]:
    """The row, which shows what came back and, over that, what was typed then."""
    wanted = {"zip": None, **BACK, **wanted, **typed_in(then)}
    with here() as supabase:
        row = work(supabase, company(1))
    assert {name: row[name] for name in wanted} == wanted
    return row


def typed_in(then: str) -> dict[str, str]:
    return {name: value for name, value in THEN[then].items() if name in ("zip", "city")}


@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("forgets", ["a flag", "a promotion"])
def test_a_backup_of_another_history_gets_what_was_promoted_in_this_one(
    steps, of_another_history, here, there, cli, forgets, then
) -> None:
    of_another_history(forgets, website="https://new.example", **BACK)
    assert in_master(there, 1)
    do_then(here, then)
    steps.pull()
    steps.deliver()
    with there() as neon:
        assert master(neon, company(1))["website_url"] == "https://new.example"
    row = shown(here, then, website="https://new.example")
    assert (row["enrichment_status"], row["sync_code"]) == ("complete", "promoted")
    assert ("not carried" in row["sync_note"]) == bool(typed_in(then))
    agrees(cli)


@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("forgets", ["a flag", "a promotion"])
def test_a_backup_of_another_history_takes_nothing_back_that_was_flagged_in_this_one(
    steps, of_another_history, here, there, cli, forgets, then
) -> None:
    of_another_history(forgets, website="n/a", **BACK)
    do_then(here, then)
    for _ in range(2):
        steps.pull()
        steps.deliver()
    shown(here, then)
    agrees(cli)


@pytest.mark.parametrize("then", THEN)
@pytest.mark.parametrize("forgets", ["a flag", "a promotion"])
def test_a_backup_of_another_history_keeps_what_reached_this_one_of_a_record_that_is_lost(
    steps, of_another_history, here, there, cli, forgets, then
) -> None:
    of_another_history(forgets, website="n/a", **BACK)
    with there() as neon:
        neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
    do_then(here, then)
    steps.pull()
    steps.deliver()
    row = shown(here, then)
    assert row["sync_code"] in ("lost", "left", "gone")
    assert not row["promoted_at"]


def test_a_workspace_from_before_the_pull_that_met_a_restored_neon_meets_it_again(
    steps, five, databases, here, there, cli
) -> None:
    with Copy(databases.neon_url) as copy:
        promote(steps, here, there, 1, 2, 3)
        with Copy(databases.supabase_url) as backup:
            copy.put_back()
            steps.pull()
            backup.put_back()
    assert "neither" not in next(line for line in cli("doctor").stdout.splitlines() if "restored databases" in line)
    pulled = steps.pull()
    assert pulled.restored.startswith("Neon")
    assert not ("not before" in pulled.restored and "and before" in pulled.restored), "it is not known since when"
    assert [in_master(there, number) for number in (1, 2, 3)] == [True] * 3
    agrees(cli)


@pytest.mark.parametrize("equal", [True, False])
def test_a_record_that_neon_lost_is_not_given_up_by_a_delivery(steps, five, databases, here, there, equal) -> None:
    with Copy(databases.neon_url) as neon_1, Copy(databases.supabase_url, "first") as first:
        with there() as neon:
            add_companies(neon, 6)
        steps.pull()
        with Copy(databases.supabase_url, "second") as second:
            neon_1.put_back()
            first.put_back()
            if equal:
                steps.pull()
            second.put_back()
    with here() as supabase:
        complete(supabase, company(6), website="f.example")
    with pytest.raises(Restored):
        steps.deliver()
    assert steps.pull().lost == [company(6)]
    with here() as supabase:
        assert work(supabase, company(6))["website"] == "f.example"
        assert work(supabase, company(6))["enrichment_status"] == "complete"


def test_a_puller_that_another_one_has_replaced_ends_and_says_nothing_of_a_restore(
    steps, five, here, there, cli, eventually
) -> None:
    with there() as neon:
        add_companies(neon, 6)
    done: dict[str, Any] = {}

    def pull_as(name: str) -> None:
        done[name] = cli("pull", "--entity", "company")

    def waiting(neon, count: int) -> bool:
        rows = neon.execute(
            "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ).fetchall()
        return len(rows) >= count

    with there() as lock, there() as neon, here() as supabase:
        lock.autocommit = False
        lock.execute("LOCK TABLE public.shq_validation_log IN ACCESS EXCLUSIVE MODE")
        threads = [threading.Thread(target=pull_as, args=(name,)) for name in ("first", "second")]
        threads[0].start()
        eventually(lambda: waiting(neon, 1))
        ended = supabase.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"
            " AND datname = current_database() AND application_name = 'enrichment-worker'"
        ).fetchall()
        assert ended
        threads[1].start()
        eventually(lambda: waiting(neon, 2))
        lock.rollback()
        for thread in threads:
            thread.join()
    said = "".join(one.stdout + one.stderr for one in done.values())
    assert "restored" not in said, said
    assert {done["second"].returncode} | {done["first"].returncode} <= {0, 3}, said
    assert steps.pull().restored is None
    with there() as neon:
        runs = neon.execute("SELECT count(*) AS n FROM public.shq_validation_log").fetchone()["n"]
        counted = neon.execute("SELECT count(*) AS n FROM marketing.enrichment_pulls").fetchone()["n"]
    assert runs == counted, "a pull that was not counted left no trace"


def test_a_pull_that_brings_nothing_marks_nothing(steps, five, here, there) -> None:
    """As where Neon can be read and not written: each try reads what is new, and not everything."""

    class Count(Progress):
        def __init__(self) -> None:
            self.records = 0

        def advance(self, records: int) -> None:
            self.records += records

    steps.pull()
    with there() as neon:
        neon.execute("UPDATE marketing.company_invalid SET updated_at = '2020-01-01', failed_at = '2020-01-01'")
        name = neon.info.dbname
        neon.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    for _ in range(2):
        seen = Count()
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            steps.run(lambda opened, seen=seen: pull(opened, COMPANY, progress=seen))
        assert seen.records == 0
    with here() as supabase:
        assert supabase.execute(
            "SELECT unfinished_run_id FROM enrichment_pull_position WHERE entity = 'company'"
        ).fetchone() == {"unfinished_run_id": None}


def test_two_workers_that_pull_at_once_make_no_full_comparison(steps, five) -> None:
    async def job() -> list[bool]:
        full = []
        async with open_databases(load_settings()) as one, open_databases(load_settings()) as other:
            for _ in range(20):

                async def bring(by: Any) -> None:
                    if pulled := await pull(by, COMPANY):
                        full.append(pulled.full)

                async with anyio.create_task_group() as both:
                    both.start_soon(bring, one)
                    both.start_soon(bring, other)
        return full

    full = anyio.run(job)
    assert len(full) >= 20
    assert not any(full)


@pytest.mark.parametrize("typed", ["https://c6.example", "n/a"], ids=["promoted", "flagged"])
@pytest.mark.parametrize("version", ["the same", "an older one", "not sent"])
def test_what_a_restored_neon_lost_and_another_one_has_judged_hears_of_it(
    steps, five, databases, here, there, cli, version, typed
) -> None:
    """Neon is restored too far and then right, the workspace once; the row waits for a record that was judged."""
    with Copy(databases.neon_url, "early") as early:
        with there() as neon:
            add_companies(neon, 6)
        steps.pull()
        with here() as supabase:
            if version != "not sent":
                complete(supabase, company(6), website=typed)
        with Copy(databases.supabase_url) as backup:
            with here() as supabase:
                if version != "the same":
                    complete(supabase, company(6), website=typed, city="Elkins")
            steps.deliver()
            with Copy(databases.neon_url, "late") as late:
                early.put_back()
                backup.put_back()
                assert steps.pull().lost == [company(6)]
                late.put_back()
    steps.pull()
    steps.deliver()
    steps.pull()
    with here() as supabase:
        row = work(supabase, company(6))
    told = ("failed", "flagged", None) if typed == "n/a" else ("complete", "promoted", None)
    assert (row["enrichment_status"], row["sync_code"], row["waiting_for"]) == told
    assert row["city"] == (None if version == "the same" else "Elkins")
    assert in_master(there, 6) is (typed != "n/a")
    agrees(cli)
