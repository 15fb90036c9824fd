"""What release 0.1.0 stored stays understood: a dump of both databases as it leaves them, with rows in every state."""

from __future__ import annotations

import itertools
import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from declared import ENTITIES
from oracle import Known, check
from receiver import Receiver
from records import (
    add_companies,
    add_people,
    add_slot,
    company,
    complete,
    edit,
    invalid,
    kind,
    ledger,
    master,
    person,
    row,
    work,
    workspace_of,
)
from release_0_1_0 import COMMIT, COMPANIES, PEOPLE, checkout, co, load, number_of, pe, start

PROMOTED = "Promoted to the master table."
PROMOTED_BEFORE = "This record was promoted on "
FLAGGED = "Not promoted: "
GONE = "This record is no longer in the invalid table"
LEFT = "This record left Neon's invalid table by another way."
UNDONE = "The promotion was taken back"
WAITING = "Waiting: "

# What becomes of the records of the dump: the row's status, how its note begins, and what the ledger says beyond what
# release 0.1.0 had said. All other rows stay as they are, to the letter.
ENDS: dict[str, tuple[str | None, str | None, list[str]]] = {
    co("queued"): ("complete", PROMOTED, ["promoted"]),
    co("queued_bad"): ("failed", FLAGGED, ["flagged"]),
    co("corrected"): ("in_progress", None, []),
    co("flagged_queued"): ("complete", PROMOTED, ["promoted"]),
    co("flagged_corrected"): ("failed", FLAGGED, []),
    co("promoted_edited_queued"): ("complete", PROMOTED_BEFORE, []),
    co("promoted_pruned_queued"): ("complete", PROMOTED_BEFORE, []),
    co("undone_untold"): ("pending", UNDONE, []),
    co("invalid_again_queued"): ("complete", PROMOTED, ["promoted"]),
    co("invalid_again_unpulled"): ("pending", "This record turned invalid again", []),
    co("left_back"): ("in_progress", None, []),
    co("gone_back"): ("pending", None, []),
    co("deleted"): (None, None, ["withdrawn"]),
    co("deleted_edited"): ("in_progress", LEFT, []),
    co("deleted_queued"): ("failed", GONE, []),
    co("pushed"): ("complete", PROMOTED, ["promoted"]),
    co("pushed_bad"): ("failed", FLAGGED, ["flagged"]),
    co("pushed_conflict"): ("complete", PROMOTED, ["promoted"]),
    co("pushed_deleted"): ("failed", GONE, []),
    co("pushed_untold"): ("complete", PROMOTED, ["promoted"]),
    co("revalidated_untold"): ("failed", FLAGGED, []),
    co("stage_promoted_untold"): ("complete", PROMOTED, []),
    co("promoted_untold"): ("complete", PROMOTED, []),
    co("flagged_untold"): ("failed", FLAGGED, []),
    co("promoted_untold_edited"): ("complete", PROMOTED_BEFORE, []),
    co("flagged_untold_edited"): ("complete", PROMOTED, ["promoted"]),
    co("promoted_untold_in_progress"): ("complete", PROMOTED_BEFORE, []),
    co("flagged_untold_in_progress"): ("in_progress", "As it was sent before, it was not promoted: website.", []),
    pe("queued"): ("complete", PROMOTED, ["promoted"]),
    pe("waits_queued"): ("complete", PROMOTED, ["promoted"]),
    pe("waits_came"): ("complete", PROMOTED, ["promoted"]),
    pe("waits_edited"): ("complete", WAITING, ["waiting"]),
    pe("waits_corrected"): ("complete", WAITING, []),
    pe("waits_deleted"): ("failed", GONE, []),
    pe("waits_untold"): ("complete", WAITING, []),
    pe("promoted_untold"): ("complete", PROMOTED, []),
    pe("released"): ("complete", PROMOTED, ["promoted"]),
    pe("pushed"): ("complete", PROMOTED, ["promoted"]),
    pe("pushed_waits"): ("complete", WAITING, []),
    pe("pushed_released"): ("complete", PROMOTED, ["promoted"]),
}
KNOWN = Known(
    absent={
        *(co(n) for n in ("withdrawn", "left", "gone", "never_pulled", "deleted", "deleted_edited", "deleted_queued",
                          "pushed_deleted")),
        pe("waits_deleted"),
    },
    both={co(n) for n in ("undone_over", "invalid_again", "invalid_again_queued", "invalid_again_unpulled")},
    pruned={co("promoted_pruned"), co("promoted_pruned_queued")},
    theirs={co("undone_over"), company(900), company(901)},
    unfit={co(n) for n in ("kept_revalidated", "stuck", "promoted_unfit")},
)  # fmt: skip
# What people had brought back by hand: its record is not in Neon.
KNOWN.absent.add(co("withdrawn_back"))
KEYS = [*map(co, COMPANIES), *map(pe, PEOPLE)]
NEW = ("sync_code", "receipt_id", "receipt_hash", "queued_versions", "times_returned", "returned_at")
"""Columns of the workspace that release 0.1.0 does not know."""


@pytest.fixture
def left(neon, supabase) -> None:
    """Both databases as release 0.1.0 left them."""
    load(neon, "Neon")
    load(supabase, "Supabase")
    for connection in (neon, supabase):
        connection.prepare_threshold = None  # an upgrade changes what the tables look like


@pytest.fixture
def old(env, tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts commands of release 0.1.0 itself, whose source is in git."""
    folder = tmp_path / "release"
    folder.mkdir()
    if not checkout(folder):
        pytest.skip(f"the history of this checkout does not have {COMMIT}, release 0.1.0")
    with ExitStack() as stack:

        def begin(*command: str) -> subprocess.Popen[str]:
            process = start(
                folder, *command, environment=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )  # fmt: skip
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield begin


def rows_of(supabase: Any) -> dict[str, dict[str, Any] | None]:
    """The workspace rows of the dump by key, as release 0.1.0 sees them."""
    rows = {key: row(supabase, f"public.{workspace_of(key)}", key) for key in KEYS}
    return {key: {n: v for n, v in r.items() if n not in NEW} if r else None for key, r in rows.items()}


def data_of(key: str, cells: dict[str, Any]) -> dict[str, Any]:
    return {name: cells[name] for name in ENTITIES[kind(key)].columns}


def outcomes(neon: Any, key: str) -> list[str]:
    return [entry["outcome"] for entry in ledger(neon, key)]


def settled(supabase: Any) -> bool:
    """Whether nothing is queued."""
    return not any(
        supabase.execute(f"SELECT FROM {entity.workspace_table} WHERE enrichment_status = 'complete'"
                         " AND pushed_to_neon_at IS NULL AND waiting_for IS NULL").rowcount
        for entity in ENTITIES.values()
    )  # fmt: skip


def compare(cli: Any, neon: Any, supabase: Any, known: Known = KNOWN) -> None:
    """Both databases agree, by the oracle, by the worker's own comparison, and by the doctor."""
    for entity in ENTITIES.values():
        check(neon, supabase, entity, known)
    for command in ("reconcile", "doctor"):
        done = cli(command)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_record_that_release_0_1_0_left_comes_to_its_end(
    left, cli, daemon, env, neon, supabase, eventually
) -> None:
    env["WORKER_PULL_INTERVAL"] = "0.5"
    before, entries = rows_of(supabase), {key: ledger(neon, key) for key in KEYS}
    invalids = {key: invalid(neon, key) for key in KEYS}
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    assert "added column company_needs_enrichment.sync_code" in done.stdout
    assert cli("setup").stdout.count("\n") <= 2, "twice is harmless"
    assert cli("doctor").returncode == 0
    assert rows_of(supabase) == before, "setup rewrites nothing"

    worker = daemon()
    for name in ENTITIES:
        worker.wait_event("pull.done", entity=name)
    eventually(lambda: settled(supabase) and not work(supabase, pe("waits_came"))["waiting_for"])
    assert worker.terminate() == 0
    assert cli("pull", "--full").returncode == 0
    assert not [event for event in worker.events if event["level"] not in ("debug", "info")]

    after = rows_of(supabase)
    for key in KEYS:
        status, note, news = ENDS.get(key, (None, None, []))
        now, was = after[key], before[key]
        assert outcomes(neon, key) == [entry["outcome"] for entry in entries[key]] + news, key
        # No row of the ledger is another than it was.
        stored = ledger(neon, key)[: len(entries[key])]
        new = dict.fromkeys(("row_version", "note_code", "reason_code"))
        assert [{**entry, **new} for entry in entries[key]] == stored, key
        if key not in ENDS:
            assert now == was, key
        elif status is None:
            assert now is None, key
        else:
            assert now["enrichment_status"] == status, key
            assert now["sync_note"] == note or (note and now["sync_note"].startswith(note)), now
            # What was typed is still there, or as it was carried.
            rules = ENTITIES[kind(key)].rules
            typed, tidy = data_of(key, was), rules.normalise(data_of(key, was))
            agreed = was["neon_snapshot"] or {}
            for name, value in data_of(key, now).items():
                if typed[name] != agreed.get(name):
                    assert value in (typed[name], tidy[name]), (key, name, value)
    assert work(supabase, co("corrected"))["phone"] == "(304) 555-0103"
    assert work(supabase, co("flagged_corrected"))["city"] == "Ripley"
    assert work(supabase, pe("waits_corrected"))["state"] == "OH"
    assert invalid(neon, co("pushed_pending")) == invalids[co("pushed_pending")]
    assert master(neon, co("promoted_edited_queued"))["address_city"] is None
    assert master(neon, co("promoted_untold_edited"))["address_city"] == "Ripley"
    # What a row was told is known by its receipt from now on.
    for key in KEYS:
        last = next(
            (one for one in reversed(ledger(neon, key)) if one["outcome"] in ("promoted", "flagged", "undone")), None
        )
        if after[key] and after[key]["enrichment_status"] in ("pending", "failed") and last and invalid(neon, key):
            assert work(supabase, key)["receipt_id"] == last["id"], key
    compare(cli, neon, supabase)


def test_after_the_upgrade_people_go_on_with_all_that_release_0_1_0_left(
    left, cli, daemon, env, neon, supabase, eventually
) -> None:
    """They repair what is left, what somebody waits for arrives, and promotions are taken back."""
    env["WORKER_PULL_INTERVAL"] = "0.5"
    assert cli("setup").returncode == 0
    worker = daemon()
    eventually(lambda: settled(supabase) and not work(supabase, pe("waits_came"))["waiting_for"])
    for key in (co("promoted_edited"), co("stuck"), pe("undone"), co("withdrawn_back"), co("promoted_pruned")):
        assert cli("history", key).returncode == 0, key
    assert "promoted" in cli("history", co("undone_again")).stdout

    # What 0.1.0 promoted is taken back, but where its ledger has no backup any more.
    assert cli("undo", co("promoted_over"), co("promoted_tidied"), pe("promoted")).returncode == 0
    assert master(neon, co("promoted_over"))["industry"] == "Timber"
    assert master(neon, co("promoted_tidied")) is None
    assert work(supabase, co("promoted_tidied"))["phone"] == "+13045550101"
    assert work(supabase, pe("promoted"))["enrichment_status"] == "pending"
    for name in ("promoted_pruned", "undone_untold", "promoted_untold_edited"):
        refused = cli("undo", co(name))
        assert refused.returncode == (name != "promoted_untold_edited"), refused.stdout

    for number, name in enumerate(("promoted", "pending", "flagged"), 10):
        add_slot(neon, number, of=number_of(name))
    neon.execute("DELETE FROM marketing.calls")
    for key in KEYS:
        cells = row(supabase, f"public.{workspace_of(key)}", key)
        if cells and cells["promoted_at"] is None and not cells["waiting_for"]:
            number = int(key.split(".")[4])
            good = (
                {"website": f"https://c{number}.example", "zip": None, "state": None, "city": "Elkins", "industry": None,
                 "employee_count": 3}
                if kind(key) == "company"
                else {"email": f"robin{number}@alder.example", "company_unique_id": co("employer"), "last_name": "Alder"}
            )  # fmt: skip
            complete(supabase, key, **good)
    gone = KNOWN.absent
    eventually(lambda: settled(supabase) and all(master(neon, key) for key in KEYS if key not in gone))
    assert worker.terminate() == 0
    assert cli("pull", "--full").returncode == 0
    for key in KEYS:
        if key not in gone:
            assert work(supabase, key)["promoted_at"], key
            assert invalid(neon, key) is None, key
        elif cells := row(supabase, f"public.{workspace_of(key)}", key):
            assert cells["enrichment_status"] == "failed", key
            assert cells["sync_note"].startswith((GONE, "This record never came from Neon")), key
    compare(cli, neon, supabase)


def test_events_that_waited_at_the_upgrade_are_posted(left, cli, daemon, env, supabase, eventually) -> None:
    waited = [r["event"] for r in supabase.execute("SELECT event FROM enrichment_outbox ORDER BY id").fetchall()]
    assert waited
    assert cli("setup").returncode == 0
    with Receiver() as receiver:
        serving = threading.Thread(target=receiver.serve_forever, daemon=True)
        serving.start()
        env["N8N_WEBHOOK_URL"] = receiver.url
        worker = daemon()
        eventually(lambda: all(event in receiver.taken(entity=event["entity"]) for event in waited))
        assert worker.terminate() == 0
        receiver.shutdown()
        serving.join()


def lines(process: subprocess.Popen[str], into: list[dict[str, Any]]) -> threading.Thread:
    """Read what an old worker logs."""

    def read() -> None:
        assert process.stderr is not None
        into.extend(map(json.loads, process.stderr))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    return reader


def test_a_worker_of_release_0_1_0_runs_beside_the_new_one(
    left, old, cli, daemon, env, neon, supabase, eventually
) -> None:
    env.update(WORKER_PULL_INTERVAL="0.5", WORKER_SWEEP_INTERVAL="0.1", WORKER_BATCH_SIZE="4")
    # The upgrade comes while it runs.
    elder, logged = old("run"), []
    reader = lines(elder, logged)
    eventually(lambda: any(event["event"] == "worker.ready" for event in logged))
    assert cli("setup").returncode == 0
    younger = daemon()

    numbers = range(1001, 1061)
    add_companies(neon, *numbers)
    add_people(neon, *numbers[:20], of=number_of("employer"))
    flips = dict.fromkeys([*map(company, numbers), *map(person, numbers[:20])], 0)
    eventually(lambda: all(row(supabase, f"public.{workspace_of(key)}", key) for key in flips))
    # Each is repaired badly first, every third twice, and then well.
    bad, good = ({"website": "n/a", "email": "n/a"}, {"website": "https://c{}.example", "email": "kim{}@alder.example"})
    for values, keys in ((bad, list(flips)), (bad, list(flips)[::3]), (good, list(flips))):
        for key in keys:
            name = "website" if kind(key) == "company" else "email"
            complete(supabase, key, **{name: values[name].format(key[-9:-4])})
            flips[key] += 1
        eventually(lambda: settled(supabase))
    for key in flips:
        assert work(supabase, key)["promoted_at"], key
        # Each time that it was set to complete took effect once.
        assert outcomes(neon, key) == ["flagged"] * (flips[key] - 1) + ["promoted"], key

    runs = neon.execute("SELECT DISTINCT run_id FROM marketing.enrichment_ledger WHERE key = ANY(%s)", [list(flips)])
    runs = {found["run_id"] for found in runs.fetchall()}
    by = {
        who: {event.get("run_id") for event in events} & runs
        for who, events in (("elder", logged), ("younger", younger.events))
    }
    assert by["elder"], "the old one has done its share"
    assert by["younger"], "so has the new one"
    assert by["elder"] | by["younger"] == runs
    elder.terminate()
    assert elder.wait(30) == 0
    reader.join()
    # What the old one would not follow, the new one does, once it is alone: Neon's corrections of what waits.
    eventually(lambda: settled(supabase) and work(supabase, pe("waits_corrected"))["state"] == "OH")
    assert younger.terminate() == 0
    # Setup may have come between two statements of its settlement.
    faults = {"Neon: deadlock detected", "Supabase: deadlock detected"}
    for event in itertools.chain(logged, younger.events):
        assert event["level"] in ("debug", "info") or event.get("error") in faults, event
    assert cli("pull", "--full").returncode == 0
    compare(cli, neon, supabase)


def test_what_release_0_1_0_writes_over_a_row_of_the_new_one_is_understood(
    prepared, old, cli, env, neon, supabase
) -> None:
    """It leaves the codes and receipts of the new one as they are."""

    def elder(*command: str) -> None:
        process = old(*command)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said

    gone, left, carried, undone, kept = map(company, range(1, 6))
    add_companies(neon, 1, 2, 3, 4, 5)
    assert cli("pull").returncode == 0
    # The new one has told some of them.
    for key, website in ((left, "n/a"), (undone, "https://c4.example"), (kept, "n/a")):
        complete(supabase, key, website=website)
    assert cli("push").returncode == 0
    assert cli("pull").returncode == 0
    assert [work(supabase, key)["sync_code"] for key in (left, undone, kept)] == ["flagged", "promoted", "flagged"]

    delete = "DELETE FROM marketing.company_invalid WHERE company_unique_id = %s"
    edit(supabase, left, city="Elkins", enrichment_status="in_progress")
    neon.execute(delete, [left])
    elder("pull", "--full")
    assert work(supabase, left)["sync_note"].startswith(LEFT)
    neon.execute(delete, [gone])
    complete(supabase, gone, website="https://c1.example")
    complete(supabase, carried, website="https://c3.example")
    elder("push")
    elder("undo", undone)
    assert work(supabase, gone)["sync_note"].startswith(GONE)
    assert work(supabase, carried)["sync_note"].startswith("Carried to Neon")
    edit(supabase, carried, enrichment_status="pending")
    edit(supabase, undone, city="Elkins", enrichment_status="in_progress")
    assert cli("pull", "--full").returncode == 0
    # Taken back after push: not promoted over him, with or without newer values.
    assert work(supabase, carried)["enrichment_status"] == "pending"
    assert outcomes(neon, carried) == ["waiting"]
    # He works on it already.
    assert (work(supabase, undone)["enrichment_status"], work(supabase, undone)["city"]) == ("in_progress", "Elkins")

    add_companies(neon, 1, 2)
    assert cli("pull").returncode == 0
    assert (work(supabase, gone)["enrichment_status"], work(supabase, gone)["sync_note"]) == ("pending", None)
    assert (work(supabase, left)["enrichment_status"], work(supabase, left)["sync_note"]) == ("in_progress", None)
    assert work(supabase, kept)["enrichment_status"] == "failed"
    for entity in ENTITIES.values():
        check(neon, supabase, entity)
    assert cli("reconcile").returncode == 0
