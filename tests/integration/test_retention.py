"""Retention: what is old goes, in small batches, by the daemon that pulls; what is needed stays."""

from __future__ import annotations

import pytest
from declared import COMPANY
from records import add_companies, company, complete, edit, ledger, master, work

from worker.sync.prune import prune


def as_the_worker(supabase, statement: str) -> None:
    """The triggers let nobody else write the sync columns."""
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute(statement)


@pytest.fixture
def aged(cli, prepared, neon, supabase, daemon, eventually) -> None:
    """1 promoted a hundred days ago, 2 flagged then, 3 promoted today."""
    add_companies(neon, 1, 2, 3)
    worker = daemon()
    eventually(lambda: len(supabase.execute("SELECT id FROM company_needs_enrichment").fetchall()) == 3)
    for number, website in ((1, "c1.example"), (2, "n/a"), (3, "c3.example")):
        complete(supabase, company(number), website=website)
        eventually(lambda number=number: work(supabase, company(number))["pushed_to_neon_at"])
    assert worker.terminate() == 0
    old = [company(1), company(2)]
    neon.execute(
        "UPDATE marketing.enrichment_ledger SET recorded_at = recorded_at - interval '100 days' WHERE key = ANY(%s)",
        [old],
    )
    as_the_worker(
        supabase,
        "UPDATE company_needs_enrichment SET pushed_to_neon_at = pushed_to_neon_at - interval '100 days',"
        " promoted_at = promoted_at - interval '100 days' WHERE neon_id IN (1, 2)",
    )
    supabase.execute("UPDATE enrichment_pull_position SET last_pull_at = last_pull_at - interval '1 day'")


def in_workspace(supabase) -> list[str]:
    rows = supabase.execute("SELECT company_unique_id AS key FROM company_needs_enrichment ORDER BY 1").fetchall()
    return [row["key"] for row in rows]


def in_ledger(neon) -> set[str]:
    return {row["key"] for row in neon.execute("SELECT key FROM marketing.enrichment_ledger").fetchall()}


def test_nothing_goes_unless_it_is_asked_for(aged, daemon, neon, supabase, eventually) -> None:
    worker = daemon()
    worker.wait_event("pull.done", entity="company")
    assert worker.terminate() == 0
    assert in_workspace(supabase) == [company(1), company(2), company(3)]
    assert in_ledger(neon) == {company(1), company(2), company(3)}


def test_what_is_old_goes_and_commands_say_that_the_backup_is_gone(cli, aged, env, daemon, neon, supabase) -> None:
    env.update(WORKER_LEDGER_RETENTION="90", WORKER_WORKSPACE_RETENTION="90d")
    run = ledger(neon, company(1))[0]["run_id"]
    worker = daemon()
    worker.wait_event("retention.pruned", entity="company", ledger=2, workspace=1)
    assert worker.terminate() == 0
    assert in_workspace(supabase) == [company(2), company(3)], "a row that waits for its enricher stays"
    assert in_ledger(neon) == {company(3)}
    assert master(neon, company(1)) is not None
    done = cli("undo", company(1))
    assert done.returncode == 1
    assert "the ledger has no backup of it: retention removed that" in done.stderr
    assert "retention has removed its backup" in cli("undo", "--run", run).stderr
    assert "retention removed its ledger rows" in cli("history", company(1)).stdout


def test_an_edit_of_a_promoted_row_is_answered_when_the_ledger_has_forgotten(
    aged, env, daemon, neon, supabase, eventually
) -> None:
    env["WORKER_LEDGER_RETENTION"] = "90"
    worker = daemon()
    worker.wait_event("retention.pruned", entity="company")
    promoted_at = work(supabase, company(1))["promoted_at"]
    edit(supabase, company(1), website="https://later.example", enrichment_status="in_progress")
    edit(supabase, company(1), enrichment_status="complete")
    row = eventually(lambda: (row := work(supabase, company(1)))["pushed_to_neon_at"] and row)
    assert row["enrichment_status"] == "complete"
    assert row["promoted_at"] == promoted_at
    assert "Edits after promotion are not carried" in row["sync_note"]
    assert master(neon, company(1))["website_url"] == "https://c1.example"


def test_the_proof_of_an_outcome_stays_until_the_row_was_told(aged, env, daemon, neon, supabase, eventually) -> None:
    env["WORKER_LEDGER_RETENTION"] = "90"
    # As a worker left it that died before the acknowledgement, a hundred days ago.
    as_the_worker(
        supabase, "UPDATE company_needs_enrichment SET pushed_to_neon_at = NULL, promoted_at = NULL WHERE neon_id = 1"
    )
    with supabase.transaction():
        # Held, so that nobody delivers it again before retention comes by.
        supabase.execute("SELECT id FROM company_needs_enrichment WHERE neon_id = 1 FOR UPDATE")
        worker = daemon()
        worker.wait_event("retention.pruned", entity="company", ledger=1)
        assert in_ledger(neon) == {company(1), company(3)}
    row = eventually(lambda: (row := work(supabase, company(1)))["pushed_to_neon_at"] and row)
    assert row["promoted_at"] is not None
    assert len(ledger(neon, company(1))) == 1


def test_what_a_stage_carried_keeps_its_proof_until_it_is_judged(aged, steps, neon, supabase) -> None:
    """The row is complete and pushed, and its enricher waits for the outcome."""
    as_the_worker(supabase, "UPDATE company_needs_enrichment SET promoted_at = NULL WHERE neon_id = 1")
    done = steps.run(lambda opened: prune(opened, COMPANY, ledger_days=90, workspace_days=None))
    assert done.ledger == 1
    assert in_ledger(neon) == {company(1), company(3)}
    steps.pull()
    assert work(supabase, company(1))["promoted_at"] is not None
    # It goes after later ones then: those are no more forgotten than before.
    done = steps.run(lambda opened: prune(opened, COMPANY, ledger_days=90, workspace_days=None))
    assert done.ledger == 1
    assert in_ledger(neon) == {company(3)}
    assert steps.pull().restored is None


def test_an_old_promoted_row_that_was_set_to_complete_again_stays_until_it_is_answered(
    aged, steps, neon, supabase
) -> None:
    complete(supabase, company(1), website="https://later.example")
    assert work(supabase, company(1))["pushed_to_neon_at"] is None
    for _ in range(2):
        done = steps.run(lambda opened: prune(opened, COMPANY, ledger_days=None, workspace_days=90))
        assert done.workspace == 0
        assert work(supabase, company(1))["website"] == "https://later.example"
        steps.deliver()
        assert "Edits after promotion are not carried" in work(supabase, company(1))["sync_note"]


def test_many_rows_go_in_batches(aged, env, daemon, neon, supabase) -> None:
    env.update(WORKER_LEDGER_RETENTION="90", WORKER_WORKSPACE_RETENTION="90")
    neon.execute(
        "INSERT INTO marketing.enrichment_ledger (run_id, entity, key, outcome, delivery_hash, recorded_at)"
        " SELECT 'X', 'company', 'k' || i, 'flagged', i::text, now() - interval '91 days' FROM generate_series(1, 2500) i"
    )
    as_the_worker(
        supabase,
        "INSERT INTO company_needs_enrichment (company_unique_id, enrichment_status, pushed_to_neon_at, promoted_at)"
        " SELECT 'k' || i, 'complete', now() - interval '91 days', now() - interval '91 days' FROM generate_series(1, 2500) i",
    )
    worker = daemon()
    worker.wait_event("retention.pruned", entity="company", ledger=2502, workspace=2501)
    assert 'pruned_rows_total{entity="company",table="ledger"} 2502.0' in worker.health("/metrics")[1]


def test_a_ledger_that_lets_nobody_delete_stops_no_worker(aged, env, daemon, neon, supabase, eventually) -> None:
    env["WORKER_LEDGER_RETENTION"] = "90"
    neon.execute(
        "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE insufficient_privilege; END $$;"
        "CREATE TRIGGER no BEFORE DELETE ON marketing.enrichment_ledger EXECUTE FUNCTION no()"
    )
    worker = daemon()
    assert "doctor" in worker.wait_event("retention.failed", entity="company")["hint"]
    complete(supabase, company(2), website="c2.example")
    eventually(lambda: master(neon, company(2)))
    assert worker.terminate() == 0


def test_the_other_entity_s_young_rows_are_not_read_to_find_old_ones(aged, env, daemon, neon) -> None:
    env["WORKER_LEDGER_RETENTION"] = "90"
    neon.execute(
        "INSERT INTO marketing.enrichment_ledger (run_id, entity, key, outcome, delivery_hash)"
        " SELECT 'X', 'company', 'k' || i, 'flagged', i::text FROM generate_series(1, 3000) i"
    )
    neon.execute(
        "INSERT INTO marketing.enrichment_ledger (run_id, entity, key, outcome, delivery_hash, recorded_at)"
        " VALUES ('X', 'people', 'p', 'flagged', 'p', now() - interval '91 days')"
    )
    worker = daemon()
    worker.wait_event("retention.pruned", entity="company", ledger=2)
    worker.wait_event("pull.done", entity="people")
    assert worker.terminate() == 0
    # An old row behind a thousand young ones would take a walk over all of them, at every pull.
    assert "p" in in_ledger(neon)


@pytest.mark.parametrize("value", ["0", "-1", "soon", "1h", "1.5"])
def test_a_wrong_number_of_days_is_refused_by_name(cli, env, value) -> None:
    env["WORKER_LEDGER_RETENTION"] = value
    done = cli("status")
    assert done.returncode == 2
    assert "WORKER_LEDGER_RETENTION" in done.stderr
