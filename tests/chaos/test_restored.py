"""A database that was restored to an earlier moment. SPEC 13."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import partial

import anyio
import psycopg
import pytest
from conftest import connect
from copies import Copy
from declared import COMPANY
from psycopg import sql
from records import (
    add_companies,
    add_master,
    add_people,
    add_slot,
    company,
    complete,
    edit,
    everything,
    invalid,
    ledger,
    master,
    person,
    row,
    untell,
    work,
)

from worker.domain.progress import Progress
from worker.postgres.errors import Restored, SetupMissing
from worker.postgres.pool import Database
from worker.postgres.transaction import COMMIT, begin, send
from worker.sync.prune import prune
from worker.sync.pull import pull


@pytest.fixture
def neon_copy(steps, databases) -> Iterator[Copy]:
    """Of Neon, when five companies had been pulled, and nothing had been done with them."""
    with connect(databases.neon_url) as neon:
        add_companies(neon, 1, 2, 3, 4, 5)
    steps.pull()
    with Copy(databases.neon_url) as copy:
        yield copy


@pytest.fixture
def here(databases):
    with connect(databases.supabase_url) as supabase:
        yield supabase


@pytest.fixture
def there(databases):
    """Neon as it is by then: asked after a restore."""
    return lambda: connect(databases.neon_url)


def test_what_neon_forgot_takes_effect_again_and_nothing_typed_is_lost(steps, neon_copy, here, there) -> None:
    complete(here, company(1), website="a.example", phone="(304) 555-0101")
    complete(here, company(2), website="n/a", company_name="Beech Works", city="Elkins")
    with there() as neon:
        add_companies(neon, 6)
    steps.deliver()
    steps.pull()
    complete(here, company(6), website="c.example")
    steps.deliver()
    neon_copy.put_back()
    pulled = steps.pull()
    assert "Neon was restored to an earlier moment" in pulled.restored
    with there() as neon:
        # A: promoted again, as it was carried.
        assert master(neon, company(1))["website_url"] == "https://a.example"
        assert invalid(neon, company(1)) is None
        assert [entry["outcome"] for entry in ledger(neon, company(1))] == ["promoted"]
        row = work(here, company(1))
        assert (row["enrichment_status"], row["phone"]) == ("complete", "+13045550101")
        assert row["promoted_at"] is not None
        # B: his values are edits against what Neon has.
        row = work(here, company(2))
        assert (row["company_name"], row["city"], row["website"]) == ("Beech Works", "Elkins", "n/a")
        assert row["enrichment_status"] == "failed"
        assert row["neon_snapshot"]["city"] is None
        # C: in no Neon table, and kept.
        row = work(here, company(6))
        assert row["website"] == "https://c.example"
        assert row["promoted_at"] is None
        assert "restored" in row["sync_note"]
        assert invalid(neon, company(6)) is None
        assert pulled.lost == [company(6)]
    # Repaired and set complete again, B goes with all that was typed.
    complete(here, company(2), website="b.example")
    steps.deliver()
    with there() as neon:
        row = master(neon, company(2))
        assert (row["company_name"], row["address_city"], row["website_url"]) == (
            "Beech Works", "Elkins", "https://b.example",
        )  # fmt: skip
    # The intake brings C again: it goes on by itself.
    with there() as neon:
        add_companies(neon, 6)
    steps.pull()
    steps.deliver()
    with there() as neon:
        assert master(neon, company(6))["website_url"] == "https://c.example"
    assert work(here, company(6))["promoted_at"] is not None
    again = steps.pull(full=True)
    assert (again.restored, again.changed, again.withdrawn, again.told) == (None, 0, 0, 0)


def test_nothing_is_settled_before_a_restore_is_recognised(steps, databases, here, there) -> None:
    with there() as neon:
        add_companies(neon, 1, 2, 3)
    steps.pull()
    complete(here, company(3), website="c.example")
    steps.deliver()
    with Copy(databases.neon_url) as copy:
        complete(here, company(1), website="a.example")
        steps.deliver()
        copy.put_back()
    complete(here, company(2), website="b.example")
    with pytest.raises(Restored):
        steps.deliver()
    with there() as neon:
        assert ledger(neon, company(2)) == []
    steps.pull()
    steps.deliver()
    with there() as neon:
        assert {master(neon, company(n))["website_url"] for n in (1, 2)} == {"https://a.example", "https://b.example"}


def test_a_daemon_brings_both_together_by_itself(steps, neon_copy, here, there, daemon, env, eventually) -> None:
    env["WORKER_SWEEP_INTERVAL"] = "0.2"
    worker = daemon()
    complete(here, company(1), website="a.example")
    eventually(lambda: work(here, company(1))["promoted_at"])
    neon_copy.put_back()
    complete(here, company(2), website="b.example")
    eventually(lambda: work(here, company(2))["promoted_at"])
    worker.wait_event("database.restored", side="Neon")
    with there() as neon:
        assert {master(neon, company(n))["website_url"] for n in (1, 2)} == {"https://a.example", "https://b.example"}


def test_a_neon_that_is_restored_in_the_middle_of_a_pull_ends_no_worker(
    steps, neon_copy, here, there, daemon, env, eventually
) -> None:
    """After the pull has looked whether it was, and before it judges what somebody pushed by hand."""
    complete(here, company(1), website="a.example")
    steps.deliver()
    with there() as neon:
        neon.execute(
            "CREATE FUNCTION forget() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " DELETE FROM marketing.enrichment_ledger; RETURN NULL; END $$;"
            "CREATE TRIGGER forget AFTER INSERT ON public.shq_validation_log EXECUTE FUNCTION forget()"
        )
        neon.execute("UPDATE marketing.company_invalid SET enrichment_status = 'complete', website = 'b.example'"
                     " WHERE company_unique_id = %s", [company(2)])  # fmt: skip
        here.execute("UPDATE enrichment_pull_position SET last_pull_at = last_pull_at - interval '1 day'")
        env["WORKER_SWEEP_INTERVAL"] = "0.2"
        worker = daemon()
        assert "restored" in worker.wait_event("worker.fault", task="pull of company")["error"]
        neon.execute("DROP TRIGGER forget ON public.shq_validation_log")
        complete(here, company(3), website="c.example")
        eventually(lambda: work(here, company(3))["promoted_at"])
        assert master(neon, company(1)) is not None
    assert work(here, company(1))["promoted_at"] is not None


def test_records_that_only_a_forgotten_pull_brought_are_kept(steps, neon_copy, here, there) -> None:
    with there() as neon:
        add_companies(neon, 6, 7)
    steps.pull()
    edit(here, company(7), website="typed.example")
    neon_copy.put_back()
    pulled = steps.pull()
    assert sorted(pulled.lost) == [company(6), company(7)]
    assert pulled.withdrawn == 0
    assert work(here, company(7))["website"] == "typed.example"
    assert work(here, company(6))["company_name"] == "Alder Works 6"


def test_a_lost_record_that_was_flipped_is_told_the_truth(steps, neon_copy, here, there) -> None:
    with there() as neon:
        add_companies(neon, 6)
    steps.pull()
    neon_copy.put_back()
    complete(here, company(6), website="c.example")
    with pytest.raises(Restored):
        steps.deliver()
    steps.pull()
    assert "restored" in work(here, company(6))["sync_note"]
    # Whatever he does with it, it waits for its record.
    edit(here, company(6), city="Elkins")
    complete(here, company(6))
    assert steps.deliver().claimed == 0
    assert "restored" in work(here, company(6))["sync_note"]


def test_a_lost_person_who_was_flipped_waits_for_the_record_alone(steps, databases, here, there) -> None:
    """The company that people wait for is there: that is not what this one waits for."""
    with there() as neon:
        add_master(neon, 1)
        add_slot(neon, 1, of=1)
    steps.pull("people")
    with Copy(databases.neon_url) as copy:
        with there() as neon:
            add_people(neon, 1, of=1)
        steps.pull("people")
        copy.put_back()
    complete(here, person(1), email="robin@alder.example")
    with pytest.raises(Restored):
        steps.deliver("people")
    for _ in range(2):
        steps.pull("people")
        assert work(here, person(1))["waiting_for"] == "the record itself"
        assert steps.deliver("people").claimed == 0
        assert "does not have this record any more" in work(here, person(1))["sync_note"]


def test_an_older_master_row_is_no_proof_of_a_promotion_that_neon_forgot(steps, databases, here, there) -> None:
    """It holds the same name, and not what was carried: the record and its values would be lost."""
    with there() as neon:
        add_master(neon, 6)
    steps.pull()
    with Copy(databases.neon_url) as copy:
        with there() as neon:
            add_companies(neon, 6)
        steps.pull()
        complete(here, company(6), website="c.example")
        steps.deliver()
        assert work(here, company(6))["promoted_at"] is not None
        copy.put_back()
        pulled = steps.pull()
    assert pulled.lost == [company(6)]
    row = work(here, company(6))
    assert (row["promoted_at"], row["website"]) == (None, "https://c.example")
    assert "does not have this record any more" in row["sync_note"]


def test_a_restored_workspace_is_told_what_became_of_its_rows(steps, neon_copy, databases, there) -> None:
    with connect(databases.supabase_url) as here:
        edit(here, company(4), city="typed before the backup", enrichment_status="in_progress")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(1), website="a.example")
            complete(here, company(2), website="n/a", city="Elkins")
            complete(here, company(4), website="d.example", city="Ripley")
            steps.deliver()
            edit(here, company(3), website="typed and never carried")
        backup.put_back()
        pulled = steps.pull(full=True)
    assert "Supabase was restored" in pulled.restored
    assert pulled.withdrawn == 0
    with connect(databases.supabase_url) as here:
        for number, website, city in ((1, "https://a.example", None), (4, "https://d.example", "Ripley")):
            row = work(here, company(number))
            assert (row["enrichment_status"], row["website"], row["city"]) == ("complete", website, city)
            assert row["promoted_at"] is not None
            assert "romoted" in row["sync_note"]
        row = work(here, company(2))
        assert (row["enrichment_status"], row["website"], row["city"]) == ("failed", "n/a", "Elkins")
        assert "website" in row["validation_errors"]
        assert row["reason_code"] == "PLACEHOLDER_WEBSITE"
        row = work(here, company(3))
        assert (row["enrichment_status"], row["website"]) == ("pending", None)
    assert steps.pull(full=True).told == 0


def test_a_row_that_was_worked_on_before_the_backup_reads_that_it_was_flagged_after_it(
    steps, neon_copy, databases
) -> None:
    with connect(databases.supabase_url) as here:
        edit(here, company(4), city="typed before the backup", enrichment_status="in_progress")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(4), website="n/a", city="Ripley")
            steps.deliver()
        backup.put_back()
        steps.pull()
    with connect(databases.supabase_url) as here:
        row = work(here, company(4))
    assert (row["enrichment_status"], row["website"], row["city"]) == ("failed", "n/a", "Ripley")
    assert "website" in row["validation_errors"]
    assert row["sync_note"].startswith("Not promoted: website.")


def test_what_waits_in_a_restored_workspace_comes_back_with_its_values(steps, databases, there, here) -> None:
    with there() as neon:
        add_people(neon, 1, of=1)
    steps.pull("people")
    here.close()
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as supabase:
            complete(supabase, person(1), email="robin@alder.example", phone="(304) 555-0101")
            assert steps.deliver("people").outcomes == {"waiting": 1}
        backup.put_back()
    steps.pull("people")
    with connect(databases.supabase_url) as supabase:
        row = work(supabase, person(1))
        assert (row["enrichment_status"], row["email"]) == ("complete", "robin@alder.example")
        steps.deliver("people")
        assert work(supabase, person(1))["waiting_for"] == company(1)


def test_what_waits_and_was_pulled_after_the_backup_comes_back_with_its_values(steps, databases, there) -> None:
    with Copy(databases.supabase_url) as backup:
        with there() as neon:
            add_people(neon, 1, of=1)
        steps.pull("people")
        with connect(databases.supabase_url) as supabase:
            complete(supabase, person(1), email="robin@alder.example")
        assert steps.deliver("people").outcomes == {"waiting": 1}
        backup.put_back()
    steps.pull("people")
    with connect(databases.supabase_url) as supabase:
        row = work(supabase, person(1))
        assert (row["enrichment_status"], row["email"]) == ("complete", "robin@alder.example")


def test_an_undo_that_died_before_it_told_is_told_by_the_next_pull(steps, neon_copy, here, there, databases) -> None:
    complete(here, company(1), website="a.example", company_name="Renamed")
    steps.deliver()
    with Copy(databases.supabase_url) as before:
        steps.undo(company(1))
        before.put_back()  # the workspace was never told
    steps.pull(full=True)
    with connect(databases.supabase_url) as supabase:
        row = work(supabase, company(1))
        assert (row["enrichment_status"], row["promoted_at"]) == ("pending", None)
        assert (row["website"], row["company_name"]) == ("https://a.example", "Renamed")
        assert "taken back" in row["sync_note"]
        assert row["neon_snapshot"]["website"] is None


def test_a_settlement_waits_for_the_disk_whatever_the_default(steps, neon_copy, there, databases) -> None:
    name = databases.neon_url.rsplit("/", 1)[1]
    with there() as neon:
        neon.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")

    async def seen() -> str:
        async with Database("Neon", databases.neon_url) as one, one.connection() as connection:
            show = sql.SQL("SELECT current_setting('synchronous_commit') AS it"), None
            return (await send(connection, *begin(), show, COMMIT))[2].fetchone()["it"]

    assert anyio.run(seen) == "on"


def test_retention_is_no_restore(steps, neon_copy, here, there, daemon, env, databases) -> None:
    complete(here, company(1), website="a.example")
    steps.deliver()
    with there() as neon:
        neon.execute("UPDATE marketing.enrichment_ledger SET recorded_at = now() - interval '40 days'")
    pruned = steps.run(lambda opened: prune(opened, COMPANY, ledger_days=30, workspace_days=None))
    assert pruned.ledger == 1
    complete(here, company(2), website="b.example")
    assert steps.deliver().outcomes == {"promoted": 1}
    # And a record that turned invalid again, of which the ledger knows nothing any more, is not promoted by itself.
    with there() as neon:
        add_companies(neon, 1)
    pulled = steps.pull(full=True)
    assert pulled.restored is None
    row = work(here, company(1))
    assert (row["enrichment_status"], row["promoted_at"], row["website"]) == ("pending", None, "https://a.example")
    with there() as neon:
        assert invalid(neon, company(1)) is not None


def test_a_record_that_turned_invalid_again_is_no_restore(steps, neon_copy, here, there) -> None:
    complete(here, company(1), website="a.example", city="Elkins")
    steps.deliver()
    with there() as neon:
        add_companies(neon, 1, city="Ripley", reason_code="ODD", validation_errors='{"city": "odd"}')
    pulled = steps.pull(full=True)
    assert pulled.restored is None
    row = work(here, company(1))
    assert (row["enrichment_status"], row["promoted_at"], row["reason_code"]) == ("pending", None, "ODD")
    # What Neon says is newer; what it lacks is kept.
    assert (row["city"], row["website"]) == ("Ripley", "https://a.example")
    assert "website" in row["sync_note"]


def test_a_copied_branch_is_no_restore(steps, neon_copy, here, there, databases) -> None:
    complete(here, company(1), website="a.example")
    steps.deliver()
    steps.pull()
    with Copy(databases.neon_url) as copy:
        copy.put_back()
    complete(here, company(2), website="b.example")
    assert steps.deliver().outcomes == {"promoted": 1}
    assert steps.pull(full=True).restored is None


def test_a_pull_that_ended_before_its_position_was_kept_is_no_restore(steps, neon_copy, here, there) -> None:
    """Neon counts a pull before the workspace does."""
    here.execute(
        "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;"
        "CREATE TRIGGER theirs BEFORE UPDATE OF pulls ON enrichment_pull_position EXECUTE FUNCTION theirs()"
    )
    with pytest.raises(psycopg.errors.RaiseException, match="not now"):
        steps.pull()
    here.execute("DROP TRIGGER theirs ON enrichment_pull_position")
    for _ in range(2):
        assert steps.pull().restored is None


def test_two_pulls_of_one_number_are_told_apart_after_both_were_restored(steps, neon_copy, databases, there) -> None:
    """Each of them to a moment of its own, so that neither has fewer pulls than the other."""
    with Copy(databases.supabase_url) as first:
        with there() as neon:
            neon.execute("UPDATE marketing.company_invalid SET city = 'Elkins', updated_at = now()")
            add_companies(neon, 6)
        steps.pull()
        with Copy(databases.supabase_url, "second") as second:
            neon_copy.put_back()
            first.put_back()
            assert steps.pull().restored is None
            second.put_back()
        pulled = steps.pull()
    assert pulled.restored.startswith("Neon was restored")
    assert pulled.lost == [company(6)]
    with connect(databases.supabase_url) as here:
        assert [work(here, company(number))["city"] for number in (1, 5)] == [None, None]
    again = steps.pull()
    assert (again.restored, again.full) == (None, False)


def test_what_a_pull_brought_that_did_not_end_is_compared_after_a_restore(steps, neon_copy, here, there) -> None:
    with there() as neon:
        neon.execute("UPDATE marketing.company_invalid SET city = 'Elkins', updated_at = now()")
        add_companies(neon, 6)
        neon.execute(
            "CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;"
            "CREATE TRIGGER theirs BEFORE INSERT ON marketing.enrichment_receipts EXECUTE FUNCTION theirs()"
        )
    with pytest.raises(psycopg.errors.RaiseException, match="not now"):
        steps.pull()
    assert work(here, company(6))["promoted_at"] is None
    neon_copy.put_back()
    pulled = steps.pull()
    assert (pulled.full, pulled.withdrawn) == (True, 1)
    assert {work(here, company(number))["city"] for number in range(1, 6)} == {None}
    assert steps.pull().full is False


def test_a_pull_is_not_counted_by_a_neon_that_was_restored_while_it_read(steps, neon_copy, here, there) -> None:
    """Behind a pooler nothing is cut then. What is left of the restore is what Neon counts."""

    class Restoring(Progress):
        def advance(self, records: int) -> None:
            with there() as neon:
                neon.execute("DELETE FROM marketing.enrichment_pulls")
                neon.execute("UPDATE marketing.enrichment_receipts SET pulls = 0")

    with there() as neon:
        add_companies(neon, 6)
    before = here.execute("SELECT pulls, position FROM enrichment_pull_position").fetchone()
    with pytest.raises(Restored):
        steps.run(lambda opened: pull(opened, COMPANY, progress=Restoring()))
    assert here.execute("SELECT pulls, position FROM enrichment_pull_position").fetchone() == before
    assert steps.pull().restored.startswith("Neon was restored")


def test_a_pull_that_brought_nothing_is_followed_by_no_full_comparison(steps, neon_copy, here, there) -> None:
    """It is refused again and again until the operator has mended it."""
    here.execute("ALTER TABLE company_needs_enrichment ADD COLUMN theirs INTEGER")
    here.execute("ALTER TABLE company_needs_enrichment ADD CONSTRAINT theirs CHECK (theirs IS NOT NULL) NOT VALID")
    with there() as neon:
        add_companies(neon, *range(6, 300))
    with pytest.raises(SetupMissing):
        steps.pull()
    here.execute("ALTER TABLE company_needs_enrichment DROP CONSTRAINT theirs")
    pulled = steps.pull()
    assert (pulled.full, pulled.new) == (False, 294)


def test_people_promoted_and_forgotten_wait_for_their_company_again(steps, databases, here, there) -> None:
    with there() as neon:
        add_companies(neon, 1)
        add_people(neon, 1, of=1)
        add_slot(neon, 1, of=1)
    steps.pull()
    steps.pull("people")
    with Copy(databases.neon_url) as copy:
        complete(here, company(1), website="a.example")
        complete(here, person(1), email="robin@alder.example")
        steps.deliver()
        steps.deliver("people")
        assert work(here, person(1))["promoted_at"]
        copy.put_back()
    steps.pull("people")
    assert work(here, person(1))["waiting_for"] == company(1)
    steps.pull()
    steps.deliver("people")
    with there() as neon:
        assert master(neon, person(1))["email"] == "robin@alder.example"
    assert work(here, person(1))["promoted_at"] is not None


def test_edits_after_a_promotion_that_neon_forgot_stay_in_their_cells(steps, neon_copy, here, there) -> None:
    complete(here, company(1), website="a.example")
    steps.deliver()
    edit(here, company(1), city="typed later", enrichment_status="in_progress")
    neon_copy.put_back()
    steps.pull()
    row = work(here, company(1))
    assert row["city"] == "typed later"
    assert row["promoted_at"] is not None
    assert "not carried" in row["sync_note"]
    with there() as neon:
        assert master(neon, company(1))["address_city"] is None


def test_reconcile_lists_what_disagrees_and_settles_it(steps, neon_copy, here, there, cli) -> None:
    assert cli("reconcile").returncode == 0
    with there() as neon:
        add_companies(neon, 6)
    steps.pull()
    complete(here, company(1), website="a.example")
    complete(here, company(6), website="c.example", city="Elkins")
    steps.deliver()
    assert cli("reconcile").returncode == 0
    neon_copy.put_back()
    with there() as neon:
        before = everything(neon), everything(here)
        done = cli("reconcile")
        assert done.returncode == 1
        assert "Neon was restored to an earlier moment" in done.stdout
        assert company(1) in done.stdout
        assert (everything(neon), everything(here)) == before, "looking changes nothing"
        steps.pull()
        done = cli("reconcile")
        assert done.returncode == 1
        assert f"{company(6)} is not in Neon any more" in done.stdout
        assert "Elkins" in done.stdout, "with its data"
        done = cli("reconcile", "--repair")
        assert done.returncode == 0, done.stdout
        (entry,) = ledger(neon, company(6))
        assert (entry["outcome"], entry["record"]["city"]) == ("withdrawn", "Elkins")
    row = work(here, company(6))
    assert (row["enrichment_status"], row["city"]) == ("failed", "Elkins")
    assert row["waiting_for"] is None, "it waits for its record no longer"
    assert "restored" in row["sync_note"]
    assert cli("reconcile").returncode == 0
    assert "lost when Neon was restored" in cli("history", company(6)).stdout


@pytest.mark.parametrize(
    "harm",
    ["the master row", "the workspace row", "an unheard promotion", "an undo that pulls passed over", "a quiet edit"],
)
def test_reconcile_sees(steps, neon_copy, here, there, cli, harm, databases) -> None:
    complete(here, company(1), website="a.example")
    with Copy(databases.supabase_url) as backup:
        steps.deliver()
        match harm:
            case "the master row":
                with there() as neon:
                    neon.execute("DELETE FROM marketing.company_master")
            case "the workspace row":
                with connect(databases.supabase_url) as again:
                    again.execute("DELETE FROM company_needs_enrichment WHERE company_unique_id = %s", [company(2)])
            case "an unheard promotion":
                backup.put_back()
                with connect(databases.supabase_url) as again:
                    edit(again, company(1), enrichment_status="in_progress")
            case "an undo that pulls passed over":
                with Copy(databases.supabase_url) as before:
                    steps.undo(company(1))
                    before.put_back()
                with connect(databases.supabase_url) as again:
                    again.execute("UPDATE enrichment_pull_position SET ledger_id = 1000")
            case "a quiet edit":
                with there() as neon:
                    neon.execute(
                        "UPDATE marketing.company_invalid SET city = 'Quiet' WHERE company_unique_id = %s", [company(2)]
                    )
    done = cli("reconcile")
    assert done.returncode == 1
    assert company(2 if harm in ("the workspace row", "a quiet edit") else 1) in done.stdout
    repaired = cli("reconcile", "--repair")
    assert repaired.returncode == (1 if harm == "the master row" else 0), repaired.stdout


def findings(cli) -> tuple[int, dict[str, dict]]:
    done = cli("doctor", "--json")
    return done.returncode, {one["check"]: one for one in json.loads(done.stdout)}


def test_doctor_and_readyz_name_the_restore_until_it_is_settled(
    steps, neon_copy, here, there, cli, daemon, env, eventually
) -> None:
    with there() as neon:
        add_companies(neon, 6)
    steps.pull()
    complete(here, company(1), website="a.example")
    complete(here, company(6), website="c.example")
    steps.deliver()
    assert findings(cli)[1]["restored databases"]["level"] == "ok"
    neon_copy.put_back()
    status, found = findings(cli)
    said = found["restored databases"]
    assert (status, said["level"]) == (1, "problem")
    assert "Neon was restored to an earlier moment (not before" in said["text"]
    assert "reconcile" in said["hint"]
    steps.pull()
    status, found = findings(cli)
    assert "1 company is not in Neon any more" in found["restored databases"]["text"] or status == 1
    env["WORKER_SWEEP_INTERVAL"] = "0.2"
    worker = daemon()

    def warned() -> list[str]:
        code, text = worker.health("/readyz")
        assert code in (200, 503)
        return [one for one in json.loads(text).get("warnings", []) if "Neon was restored" in one]

    eventually(warned)
    assert cli("reconcile", "--repair").returncode == 0
    eventually(lambda: not warned())
    assert findings(cli)[1]["restored databases"]["level"] == "ok"


def test_doctor_names_a_restored_workspace(steps, neon_copy, databases, cli) -> None:
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(1), website="a.example")
            steps.deliver()
        backup.put_back()
        status, found = findings(cli)
        assert status == 1
        assert "Supabase was restored" in found["restored databases"]["text"]
        steps.pull()
        assert findings(cli)[1]["restored databases"]["level"] == "ok"


def test_of_a_backup_with_an_older_version_in_the_queue_the_newest_word_counts(
    steps, neon_copy, databases, there
) -> None:
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="older.example", city="Older")
        complete(here, company(2), website="n/a", city="Older")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            edit(here, company(1), website="newer.example", city="Newer")
            edit(here, company(2), city="Newer")
            steps.deliver()
        backup.put_back()
        steps.deliver()
    with connect(databases.supabase_url) as here, there() as neon:
        row = work(here, company(1))
        assert (row["website"], row["city"]) == ("https://newer.example", "Newer")
        assert row["promoted_at"] is not None
        assert "not carried" not in row["sync_note"]
        row = work(here, company(2))
        assert (row["enrichment_status"], row["city"]) == ("failed", "Newer")
        assert "newer value" not in row["sync_note"]
        assert invalid(neon, company(2))["city"] == "Newer"


@pytest.mark.parametrize("how", ["delivered", "pulled"])
def test_the_newest_word_counts_after_a_restore_of_either_side_and_one_more(
    steps, neon_copy, databases, there, how
) -> None:
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="older.example", city="Older")
    tell = steps.deliver if how == "delivered" else partial(steps.pull, full=True)
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            if how == "pulled":
                edit(here, company(1), enrichment_status="in_progress")
        with Copy(databases.supabase_url) as worked_on:
            older = backup if how == "delivered" else worked_on
            with connect(databases.supabase_url) as here:
                complete(here, company(1), website="newer.example", city="Newer")
            steps.deliver()
            older.put_back()
            tell()
            neon_copy.put_back()
            steps.pull()
            older.put_back()
            tell()
            steps.pull()
    with connect(databases.supabase_url) as here, there() as neon:
        row = work(here, company(1))
        assert (row["website"], row["city"]) == ("https://newer.example", "Newer")
        assert "not carried" not in row["sync_note"]
        assert master(neon, company(1))["address_city"] == "Newer"


def test_what_only_a_forgotten_pull_brought_is_told_from_what_was_settled_since_the_restore(
    steps, neon_copy, here, there
) -> None:
    with there() as neon:
        add_companies(neon, 6, 7)
    steps.pull()
    edit(here, company(7), website="typed.example")
    neon_copy.put_back()
    # Nothing that was told is forgotten, so that this is settled as any other.
    complete(here, company(2), website="b.example")
    assert steps.deliver().outcomes == {"promoted": 1}
    pulled = steps.pull()
    assert (sorted(pulled.lost), pulled.withdrawn) == ([company(6), company(7)], 0)
    assert "restored" in work(here, company(7))["sync_note"]
    with there() as neon:
        assert ledger(neon, company(6)) == []


def test_rows_that_were_held_when_a_restore_was_recognised_are_told_of_it_later(
    steps, neon_copy, here, databases, there, cli
) -> None:
    with there() as neon:
        add_companies(neon, 6, 7)
    steps.pull()
    edit(here, company(7), website="typed.example")
    complete(here, company(1), website="a.example")
    steps.deliver()
    neon_copy.put_back()
    held = "SELECT FROM company_needs_enrichment WHERE company_unique_id = ANY(%s) FOR UPDATE"
    with connect(databases.supabase_url) as other, other.transaction():
        other.execute(held, [[company(n) for n in (1, 6, 7)]])
        first = steps.pull()
        again = steps.pull()
        assert findings(cli)[1]["restored databases"]["level"] == "problem"
    assert first.restored == again.restored, "and to the same moment"
    pulled = steps.pull()
    assert (sorted(pulled.lost), pulled.withdrawn) == ([company(6), company(7)], 0)
    for number in (6, 7):
        assert "restored" in work(here, company(number))["sync_note"]
    with there() as neon:
        assert master(neon, company(1))["website_url"] == "https://a.example"
    repaired = cli("reconcile", "--repair")
    assert repaired.returncode == 0, repaired.stdout
    assert findings(cli)[1]["restored databases"]["level"] == "ok"
    assert steps.pull(full=True).restored is None


# One that was flagged before the backup, and delivered before a pull, cannot be told from one edited on its way.
@pytest.mark.parametrize(
    ("stage", "outcome"),
    [("pull", "flagged"), ("pull", "flagged again"), ("pull", "pushed"), ("deliver", "flagged"), ("deliver", "pushed")],
)
def test_what_had_reached_neon_is_kept_where_a_backup_is_worked_on_before_it_is_looked_at(
    steps, neon_copy, databases, there, stage, outcome
) -> None:
    with connect(databases.supabase_url) as here:
        if outcome == "flagged again":
            complete(here, company(2), website="n/a", phone="(304) 555-0101")
            steps.deliver()
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(2), website="none", city="Elkins")
            (steps.push if outcome == "pushed" else steps.deliver)()
        backup.put_back()
    with connect(databases.supabase_url) as here:
        edit(here, company(2), company_name="Renamed", enrichment_status="in_progress")
        if stage == "pull":
            steps.pull()
            assert work(here, company(2))["city"] == "Elkins"
        complete(here, company(2), website="good.example")
        steps.deliver()
        with there() as neon:
            row = master(neon, company(2))
            assert (row["company_name"], row["address_city"], row["website_url"]) == (
                "Renamed", "Elkins", "https://good.example",
            )  # fmt: skip
        assert work(here, company(2))["city"] == "Elkins"


@pytest.mark.parametrize("first", ["deliver", "pull"])
@pytest.mark.parametrize("enriched", [True, False], ids=["by name", "by role"])
def test_what_was_promoted_comes_back_beside_what_is_typed_into_a_backup(
    steps, neon_copy, databases, there, first, enriched
) -> None:
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(1), website="https://c1.example", city="Elkins", company_name="Renamed")
            steps.deliver()
        backup.put_back()
    with connect(databases.supabase_url) as here:
        edit(here, company(1), website="other.example", **({"enriched_by": "kim@alder.example"} if enriched else {}))
        complete(here, company(1))
        (steps.deliver if first == "deliver" else steps.pull)()
        steps.deliver()
        row = work(here, company(1))
        assert (row["website"], row["city"], row["company_name"]) == ("other.example", "Elkins", "Renamed")
        assert row["promoted_at"] is not None
        assert "Edits after promotion are not carried" in row["sync_note"]
        with there() as neon:
            assert master(neon, company(1))["website_url"] == "https://c1.example"


@pytest.mark.parametrize("city", [None, "Ripley"], ids=["as before", "changed"])
@pytest.mark.parametrize("first", ["deliver", "pull"])
@pytest.mark.parametrize("how", ["came back", "undone"])
def test_what_was_queued_in_a_backup_does_not_go_over_what_was_promoted_since(
    steps, neon_copy, databases, there, how, first, city
) -> None:
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="n/a")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(1), website="good.example")
            steps.deliver()
        with there() as neon:
            if how == "undone":
                steps.undo(company(1))
            else:
                add_companies(neon, 1)
            # No later pull sees it by its date.
            neon.execute(
                "UPDATE marketing.company_invalid SET city = %s, updated_at = now() AT TIME ZONE 'UTC'"
                " - make_interval(hours => %s) WHERE company_unique_id = %s",
                [city, int(how == "came back"), company(1)],
            )
        backup.put_back()
    with connect(databases.supabase_url) as here:
        (steps.deliver if first == "deliver" else steps.pull)()
        steps.deliver()
        for full in (False, True, True):
            assert steps.pull(full=full).full is full
            row = work(here, company(1))
            assert row["enrichment_status"] == "pending"
            assert (row["website"], row["city"], row["promoted_at"]) == ("https://good.example", city, None)
        with there() as neon:
            outcomes = [entry["outcome"] for entry in ledger(neon, company(1)) if entry["outcome"] != "merged"]
            assert outcomes == ["promoted", "undone"][: 1 + (how == "undone")]


@pytest.mark.parametrize("city", [None, "Ripley"], ids=["as before", "changed"])
@pytest.mark.parametrize("first", ["deliver", "pull"])
@pytest.mark.parametrize("how", ["stays", "came anew"])
def test_what_was_queued_in_a_backup_does_not_go_over_what_was_flagged_since(
    steps, neon_copy, databases, there, how, first, city
) -> None:
    """The enricher's latest version did not pass: the older one must not reach the master and undo Neon's corrections."""
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="good.example", phone="(304) 555-0101")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(1), website="n/a", address="1 Mill Road")
            steps.deliver()
        with there() as neon:
            if how == "came anew":
                neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
                add_companies(neon, 1)
            if city:
                neon.execute(
                    "UPDATE marketing.company_invalid SET city = %s, updated_at = now() AT TIME ZONE 'UTC'"
                    " WHERE company_unique_id = %s", [city, company(1)]
                )  # fmt: skip
        backup.put_back()
    with connect(databases.supabase_url) as here:
        (steps.deliver if first == "deliver" else steps.pull)()
        steps.deliver()
        for full in (False, True, True):
            steps.pull(full=full)
            steps.deliver()
            row = work(here, company(1))
            # What is said of the record that left, Neon does not say of the one that came.
            status = "failed" if how == "stays" else "pending"
            assert (row["enrichment_status"], row["city"]) == (status, city)
            assert (row["website"], row["address"]) == (("n/a", "1 Mill Road") if how == "stays" else (None, None))
        with there() as neon:
            assert master(neon, company(1)) is None


@pytest.mark.parametrize("how", ["waits", "was pushed"])
@pytest.mark.parametrize("city", [None, "Ripley"], ids=["as before", "changed"])
@pytest.mark.parametrize("first", ["deliver", "pull"])
def test_what_was_queued_in_a_backup_goes_on_with_what_waited_since(
    steps, neon_copy, databases, there, first, city, how
) -> None:
    with there() as neon:
        add_people(neon, 1, of=1)
    steps.pull("people")
    with connect(databases.supabase_url) as here:
        complete(here, person(1), email="kim@alder.example", phone="(304) 555-0101")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, person(1), email="robin@alder.example", title="Buyer")
            (steps.deliver if how == "waits" else steps.push)("people")
        if city:
            with there() as neon:
                neon.execute(
                    "UPDATE marketing.people_invalid SET city = %s, updated_at = now() AT TIME ZONE 'UTC'"
                    " WHERE unique_id = %s", [city, person(1)]
                )  # fmt: skip
        backup.put_back()
    same = {"email": "robin@alder.example", "title": "Buyer", "phone": "+13045550101", "city": city}
    with connect(databases.supabase_url) as here:
        (steps.deliver if first == "deliver" else steps.pull)("people")
        steps.deliver("people")
        for full in (False, True):
            steps.pull("people", full=full)
            steps.deliver("people")
            row = work(here, person(1))
            assert {name: row[name] for name in same} == same
            assert row["waiting_for"]
        with there() as neon:
            add_master(neon, 1)
            add_slot(neon, 1, 1)
            steps.pull("people")
            steps.deliver("people")
            row = work(here, person(1))
            assert {name: row[name] for name in same} == same
            assert row["promoted_at"]
            assert master(neon, person(1))["email"] == "robin@alder.example"


@pytest.mark.parametrize("outcome", ["flagged", "waiting", "promoted"])
def test_what_waits_in_a_backup_hears_of_its_newer_version(steps, neon_copy, databases, there, outcome) -> None:
    with there() as neon:
        add_people(neon, 1, of=1)
    steps.pull("people")
    with connect(databases.supabase_url) as here:
        complete(here, person(1), email="kim@alder.example")
        steps.deliver("people")
        assert work(here, person(1))["waiting_for"]
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            if outcome == "promoted":
                with there() as neon:
                    add_master(neon, 1)
                    add_slot(neon, 1, 1)
            email = "n/a" if outcome == "flagged" else "robin@alder.example"
            complete(here, person(1), email=email, title="Buyer")
            steps.deliver("people")
        backup.put_back()
    with connect(databases.supabase_url) as here:
        if outcome == "promoted":
            with there() as neon:
                neon.execute("DELETE FROM marketing.company_slots")
        for _ in range(2):
            steps.pull("people")
            steps.deliver("people")
            row = work(here, person(1))
            assert (row["email"], row["title"]) == (email, "Buyer")
            assert row["enrichment_status"] == ("failed" if outcome == "flagged" else "complete")
            assert bool(row["waiting_for"]) is (outcome == "waiting")
            assert bool(row["promoted_at"]) is (outcome == "promoted")


def test_what_was_queued_in_a_backup_and_flagged_as_it_is_hears_of_the_promotion_after_that(
    steps, neon_copy, databases, there
) -> None:
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="n/a")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            steps.deliver()
            assert work(here, company(1))["enrichment_status"] == "failed"
            complete(here, company(1), website="good.example")
            steps.deliver()
        backup.put_back()
    with connect(databases.supabase_url) as here:
        steps.deliver()
        told = work(here, company(1))
        assert (told["enrichment_status"], told["website"]) == ("complete", "https://good.example")
        assert told["promoted_at"]


def test_what_was_queued_in_a_backup_is_told_when_it_was_promoted_though_its_record_came_back(
    steps, neon_copy, databases, there
) -> None:
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="n/a")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(1), website="good.example")
            steps.deliver()
            told = work(here, company(1))
        with there() as neon:
            add_companies(neon, 1)
        backup.put_back()
    with connect(databases.supabase_url) as here:
        steps.deliver()
        row = work(here, company(1))
        same = ("website", "enrichment_status", "promoted_at", "receipt_id", "neon_snapshot")
        assert {name: row[name] for name in same} == {name: told[name] for name in same}


@pytest.mark.parametrize("status", ["failed", "in_progress", "complete"])
def test_what_neon_had_as_waiting_before_it_was_restored_comes_back_over_no_later_word(
    steps, neon_copy, databases, there, status
) -> None:
    """Its ledger ends with what waited; the row has said something else since, which is not to be seen in it."""
    with there() as neon:
        add_people(neon, 1, of=1)
    steps.pull("people")
    with connect(databases.supabase_url) as here:
        complete(here, person(1), email="n/a", city="Elkins")
        steps.deliver("people")
        complete(here, person(1), email="robin@alder.example", city="Ripley")
        steps.deliver("people")
        assert work(here, person(1))["waiting_for"]
        with Copy(databases.neon_url) as copy:
            complete(here, person(1), email="n/a", city="Elkins")
            steps.deliver("people")
            assert work(here, person(1))["enrichment_status"] == "failed"
            copy.put_back()
            if status != "failed":
                edit(here, person(1), enrichment_status=status)
            for full in (False, True):
                steps.pull("people", full=full)
                row = work(here, person(1))
                assert (row["email"], row["city"], row["enrichment_status"]) == ("n/a", "Elkins", status)
        steps.deliver("people")
        row = work(here, person(1))
        assert (row["email"], row["city"]) == ("n/a", "Elkins")


@pytest.mark.parametrize("status", ["as it was", "taken back"])
@pytest.mark.parametrize("outcome", ["flagged", "promoted", "undone", "left"])
def test_a_backup_that_was_told_what_a_restored_neon_forgot_hears_what_that_neon_knows_since(
    steps, neon_copy, databases, there, outcome, status
) -> None:
    """Neon is restored, the enricher goes on, then the workspace is restored: the latest version counts, not the backup's."""
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="first.example", city="Elkins")
        steps.deliver()
    with Copy(databases.supabase_url) as backup:
        neon_copy.put_back()
        with connect(databases.supabase_url) as here:
            complete(here, company(1), website="n/a" if outcome in ("flagged", "left") else "latest.example")
            steps.pull()
            steps.deliver()
            if outcome == "undone":
                steps.undo(company(1))
            if outcome == "left":
                with there() as neon:
                    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
        backup.put_back()
    with connect(databases.supabase_url) as here:
        if status == "taken back":
            here.execute("SET enrichment_worker.writer = on")
            here.execute("UPDATE company_needs_enrichment SET enrichment_status = 'in_progress'")
            here.execute("RESET enrichment_worker.writer")
        with there() as neon:
            before = master(neon, company(1)), len(ledger(neon, company(1)))
            steps.pull()
            row = work(here, company(1))
            assert (master(neon, company(1)), len(ledger(neon, company(1)))) == before
            for full in (False, True):
                steps.pull(full=full)
                assert work(here, company(1)) == row
            steps.deliver()
            assert (master(neon, company(1)), len(ledger(neon, company(1)))) == before
        if outcome in ("flagged", "left"):
            assert (row["website"], row["city"], row["promoted_at"]) == ("n/a", "Elkins", None)
            assert row["enrichment_status"] == "failed"
        else:
            assert (row["website"], row["city"]) == ("https://latest.example", "Elkins")
            assert (row["enrichment_status"], row["promoted_at"] is not None) == (
                ("pending", False) if outcome == "undone" else ("complete", True)
            )


@pytest.mark.parametrize("outcome", ["undone", "waiting"])
def test_what_was_sent_before_comes_back_beside_what_is_typed_into_a_backup(
    steps, neon_copy, databases, there, outcome
) -> None:
    with there() as neon:
        add_people(neon, 1, of=1)
    steps.pull("people")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            if outcome == "undone":
                complete(here, company(1), website="https://a.example", city="Elkins")
                steps.deliver()
                steps.undo(company(1))
            else:
                complete(here, person(1), email="robin@alder.example", city="Elkins")
                steps.deliver("people")
        backup.put_back()
    entity, key, sent = (
        ("company", company(1), ("website", "https://a.example"))
        if outcome == "undone"
        else ("people", person(1), ("email", "robin@alder.example"))
    )
    with connect(databases.supabase_url) as here:
        edit(here, key, phone="(304) 555-0101", enrichment_status="in_progress")
        steps.pull(entity)
        row = work(here, key)
        assert (row[sent[0]], row["city"], row["phone"]) == (sent[1], "Elkins", "(304) 555-0101")
        assert row["enrichment_status"] == ("pending" if outcome == "undone" else "in_progress")
        steps.pull(entity, full=True)
        assert work(here, key) == row


@pytest.mark.parametrize("first", ["deliver", "pull"])
def test_what_was_flagged_comes_back_beside_what_is_typed_into_a_backup_of_a_flagged_row(
    steps, neon_copy, databases, there, first
) -> None:
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="n/a", city="Elkins")
        steps.deliver()
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(1), website="test.com", phone="(304) 555-0101")
            steps.deliver()
        backup.put_back()
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="good.example")
        (steps.deliver if first == "deliver" else steps.pull)()
        steps.deliver()
        row = work(here, company(1))
        assert (row["website"], row["phone"], row["city"]) == ("https://good.example", "+13045550101", "Elkins")
    with there() as neon:
        assert master(neon, company(1))["company_phone"] == "+13045550101"


@pytest.mark.parametrize("order", ["deliver", "pull", "pull before", "full pull before"])
@pytest.mark.parametrize("backup_of", ["pulled", "flagged", "queued"])
def test_what_was_flagged_twice_as_it_was_comes_back_beside_what_is_typed_into_a_backup(
    steps, neon_copy, databases, there, order, backup_of
) -> None:
    """The second time nothing had changed: what was carried then names no field of the enricher's."""
    with connect(databases.supabase_url) as here:
        if backup_of != "pulled":
            complete(here, company(1), website="n/a", industry="Retail")
        if backup_of == "flagged":
            steps.deliver()
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            steps.deliver()
            complete(here, company(1), website="n/a", city="Elkins", company_name="Beech Works")
            steps.deliver()
            complete(here, company(1))
            steps.deliver()
        backup.put_back()
    with connect(databases.supabase_url) as here:
        if order.endswith("before"):
            steps.pull(full=order.startswith("full"))
        complete(here, company(1), website="good.example")
        (steps.pull if order == "pull" else steps.deliver)()
        steps.deliver()
        row = work(here, company(1))
        assert (row["website"], row["company_name"], row["city"]) == ("https://good.example", "Beech Works", "Elkins")
    with there() as neon:
        assert master(neon, company(1))["company_name"] == "Beech Works"


@pytest.mark.parametrize("then", ["nothing", "edited"])
@pytest.mark.parametrize("second", ["n/a", "good.example"])
def test_what_reached_neon_stays_though_a_backup_was_sent_and_not_told(
    steps, neon_copy, databases, there, second, then
) -> None:
    """The row from the backup is set to complete, and again before its answer comes: the second version descends from
    the first, and neither ever held what Neon has.
    """
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website="n/a")
        steps.deliver()
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(1), city="Elkins", company_name="Beech Works")
            steps.deliver()
        backup.put_back()
    with connect(databases.supabase_url) as here:
        complete(here, company(1), website=second)
        before = work(here, company(1))
        steps.deliver()
        untell(here, company(1), before)
        complete(here, company(1), website="better.example", **({"zip": "26241"} if then == "edited" else {}))
        steps.deliver()
        steps.pull()
        row = work(here, company(1))
        assert row["promoted_at"]
        if second == "n/a":
            assert (row["company_name"], row["city"]) == ("Beech Works", "Elkins")
    with there() as neon:
        row = master(neon, company(1))
        assert (row["company_name"], row["address_city"]) == ("Beech Works", "Elkins")


def test_who_erases_what_was_sent_before_he_was_told_has_erased_it(steps, neon_copy, here, there) -> None:
    """The same to look at, but for the versions: this row was the one that was carried."""
    complete(here, company(1), website="n/a", city="Elkins")
    steps.deliver()
    complete(here, company(1), website="test.com", phone="(304) 555-0101")
    before = work(here, company(1))
    steps.deliver()
    untell(here, company(1), before)
    complete(here, company(1), website="good.example", phone=None)
    steps.deliver()
    with there() as neon:
        assert master(neon, company(1))["company_phone"] is None
    assert work(here, company(1))["phone"] is None


@pytest.mark.parametrize("outcome", ["flagged", "waiting"])
@pytest.mark.parametrize("backup_of", ["pulled", "queued", "edited"])
def test_what_had_reached_neon_comes_back_though_its_record_left_since(
    steps, neon_copy, databases, there, outcome, backup_of
) -> None:
    entity, key = ("company", company(1)) if outcome == "flagged" else ("people", person(1))
    with there() as neon:
        add_people(neon, 1, of=1)
    steps.pull("people")
    with connect(databases.supabase_url) as here:
        if backup_of == "queued":
            complete(here, key, city="Ripley")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            sent = {"website": "n/a"} if outcome == "flagged" else {"email": "robin@alder.example"}
            complete(here, key, city="Elkins", phone="+13045550101", **sent)
            steps.deliver(entity)
        backup.put_back()
    with there() as neon:
        neon.execute(f"DELETE FROM marketing.{entity}_invalid")
    with connect(databases.supabase_url) as here:
        if backup_of == "edited":
            complete(here, key, city="Buckhannon")
        steps.deliver(entity)
        steps.pull(entity, full=True)
        row = work(here, key)
        assert row["phone"] == "+13045550101"
        assert row["city"] == ("Buckhannon" if backup_of == "edited" else "Elkins")
        assert "invalid table" in row["sync_note"]
        steps.pull(entity, full=True)
        assert work(here, key) == row


def test_a_record_that_neon_does_not_let_mark_is_told_that_it_was_flagged(steps, neon_copy, databases, there) -> None:
    """Its row in Neon looks as one that came again."""
    with there() as neon:
        neon.execute("ALTER TABLE marketing.company_invalid ADD CONSTRAINT theirs CHECK (still_invalid IS NOT TRUE)")
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            complete(here, company(1), website="n/a")
            steps.deliver()
            assert work(here, company(1))["enrichment_status"] == "failed"
        backup.put_back()
    steps.pull()
    with connect(databases.supabase_url) as here:
        assert work(here, company(1))["sync_code"] == "flagged"


@pytest.mark.parametrize(
    ("backup_of", "at_work"),
    [("nothing", False), *itertools.product(("pulled", "edited", "flagged"), (False, True))],
)
def test_a_record_that_came_again_is_not_told_that_the_one_before_it_was_flagged(
    steps, neon_copy, databases, there, cli, backup_of, at_work
) -> None:
    """It left and was inserted once more, and nobody has judged it since."""
    with connect(databases.supabase_url) as here:
        if backup_of == "nothing":
            here.execute("DELETE FROM company_needs_enrichment WHERE company_unique_id = %s", [company(1)])
        elif backup_of == "edited":
            edit(here, company(1), phone="(304) 555-0101", enrichment_status="in_progress")
        elif backup_of == "flagged":
            complete(here, company(1), website="test.com")
            steps.deliver()
    with Copy(databases.supabase_url) as backup:
        with connect(databases.supabase_url) as here:
            if backup_of == "nothing":
                steps.pull(full=True)
            complete(here, company(1), website="n/a", city="Elkins")
            steps.deliver()
            assert work(here, company(1))["enrichment_status"] == "failed"
        backup.put_back()
    with there() as neon:
        neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(1)])
        add_companies(neon, 1)
    with connect(databases.supabase_url) as here:
        if at_work:
            edit(here, company(1), phone="(304) 555-0102", enrichment_status="in_progress")
        read = here.execute("SELECT ledger_id FROM enrichment_pull_position WHERE entity = 'company'").fetchone()
        for _ in range(2):
            steps.pull(full=True)
            row = work(here, company(1))
            if at_work:
                assert (row["enrichment_status"], row["phone"]) == ("in_progress", "(304) 555-0102")
            else:
                assert (row["enrichment_status"], row["sync_code"]) == ("pending", None)
                assert not row["validation_errors"]
            # As if the pull had died at its end: the next one reads the ledger from there again.
            here.execute("UPDATE enrichment_pull_position SET ledger_id = %(ledger_id)s", read)
        assert cli("reconcile").returncode == 0
        complete(here, company(1), website="good.example")
        steps.deliver()
        assert work(here, company(1))["promoted_at"]
    with there() as neon:
        assert master(neon, company(1))["website_url"] == "https://good.example"


def test_a_row_that_came_anew_is_not_told_of_the_promotion_before_that(steps, neon_copy, here, there, cli) -> None:
    complete(here, company(1), website="a.example")
    steps.deliver()
    here.execute("DELETE FROM company_needs_enrichment WHERE company_unique_id = %s", [company(1)])  # as retention does
    with there() as neon:
        add_companies(neon, 1, updated_at="2025-01-01")
    for _ in range(2):
        assert steps.pull(full=True).restored is None
        row = work(here, company(1))
        assert (row["enrichment_status"], row["promoted_at"]) == ("pending", None)
    assert cli("reconcile").returncode == 0
    assert cli("reconcile", "--repair").returncode == 0
    assert work(here, company(1))["enrichment_status"] == "pending"


def test_what_a_restored_neon_brought_back_comes_again_to_a_workspace_that_is_restored_after_it(
    steps, neon_copy, databases, there, here
) -> None:
    """Its date and its number are from before all that the workspace remembers."""
    with there() as neon:
        neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(5)])
    steps.pull(full=True)
    assert row(here, "public.company_needs_enrichment", company(5)) is None
    with Copy(databases.supabase_url) as backup:
        neon_copy.put_back()
        steps.pull()
        here.close()
        with connect(databases.supabase_url) as before:
            assert row(before, "public.company_needs_enrichment", company(5))
        backup.put_back()
    with connect(databases.supabase_url) as after:
        assert row(after, "public.company_needs_enrichment", company(5)) is None
        assert steps.pull().full
        assert row(after, "public.company_needs_enrichment", company(5))
        assert not steps.pull().full
