"""Nothing lost, nothing done twice, whatever dies when: links, servers, workers. SPEC 6."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from itertools import islice

import psycopg
import pytest
from backlog import fill, flip, settled
from conftest import Databases, connect
from oracle import check
from proxy import COMMITTED, Proxy
from records import add_companies, company, complete, edit, invalid, ledger, master, work

from worker.domain.postponed import Cause, Postponed
from worker.postgres.backoff import backoff


@pytest.fixture
def databases(own_servers) -> Databases:
    """Here each side has a server of its own, Neon's the newer one."""
    neon_server, supabase_server = own_servers
    neon_server.create_database("neon")
    supabase_server.create_database("supabase")
    return Databases(neon_server.url("neon"), supabase_server.url("supabase"))


@pytest.fixture
def links(databases, env, prepared) -> Iterator[dict[str, Proxy]]:
    """A proxy on either link, and one on the listen connection alone."""
    env.update(WORKER_SWEEP_INTERVAL="0.5", WORKER_BATCH_SIZE="50")
    with (
        Proxy(databases.neon_url) as neon,
        Proxy(databases.supabase_url) as supabase,
        Proxy(databases.supabase_url) as ear,
    ):
        env.update(NEON_DATABASE_URL=neon.url, SUPABASE_DATABASE_URL=supabase.url, SUPABASE_LISTEN_URL=ear.url)
        yield {"neon": neon, "supabase": supabase, "listen": ear}


@pytest.mark.parametrize("link", ["neon", "supabase"])
def test_the_answer_to_a_commit_never_arrives(cli, links, daemon, neon, supabase, eventually, link) -> None:
    fill(cli, neon, 3)
    daemon()
    # Warm up, so that the next COMMIT on this link is the delivery's.
    complete(supabase, company(1), website="https://c1.example")
    eventually(lambda: work(supabase, company(1))["pushed_to_neon_at"])
    links[link].cut_on_answer(COMMITTED[link])
    struck = links[link].faults
    complete(supabase, company(2), website="https://c2.example")
    eventually(lambda: work(supabase, company(2))["pushed_to_neon_at"])
    # The row may show it before the link has swallowed the answer.
    eventually(lambda: links[link].faults > struck)
    assert len(ledger(neon, company(2))) == 1
    # What is recognised as a repeat is in the log of validations already.
    logged = "SELECT sum(total_records) AS n FROM shq_validation_log WHERE target_table = 'marketing.company_master'"
    assert neon.execute(logged).fetchone()["n"] == 2
    check(neon, supabase)


@pytest.mark.parametrize("link", ["neon", "supabase"])
@pytest.mark.parametrize("after", [1, 40, 200, 700, 2000])
def test_a_link_is_cut_in_the_middle_of_a_message(cli, links, daemon, neon, supabase, eventually, link, after) -> None:
    fill(cli, neon, 20)
    daemon()
    links[link].cut_after(after)
    flip(supabase, 1, 20)
    eventually(lambda: settled(supabase))
    assert links[link].faults > 0
    assert check(neon, supabase)["promoted"] == 18


@pytest.mark.parametrize("link", ["neon", "supabase"])
def test_a_link_that_is_down_for_a_while_is_waited_out(cli, links, daemon, neon, supabase, eventually, link) -> None:
    fill(cli, neon, 20)
    worker = daemon()
    links[link].closed = True
    links[link].cut()
    flip(supabase, 1, 20)

    def told() -> bool:
        """Whichever task meets it first, the company's consumer has work and meets it too."""
        status, text = worker.health("/readyz")
        return status == 503 and any("company" in reason.partition(":")[0] for reason in json.loads(text)["reasons"])

    eventually(told, 60)
    assert worker.health("/healthz")[0] == 200
    links[link].closed = False
    eventually(lambda: settled(supabase), 60)
    eventually(lambda: worker.health("/readyz")[0] == 200, 60)
    check(neon, supabase)


def test_a_deaf_listener_is_found_and_replaced_and_the_sweep_serves_meanwhile(
    cli, links, daemon, neon, supabase, eventually
) -> None:
    fill(cli, neon, 4)
    worker = daemon()
    links["listen"].deaf = True
    complete(supabase, company(1), website="https://c1.example")
    eventually(lambda: work(supabase, company(1))["pushed_to_neon_at"])
    assert not [event for event in worker.events if event["event"] == "listener.lost"], "the sweep was not needed"
    worker.wait_event("listener.lost")
    links["listen"].hear_again()
    eventually(lambda: [e["event"] for e in worker.events].count("listener.listening") == 2)
    complete(supabase, company(2), website="https://c2.example")
    eventually(lambda: work(supabase, company(2))["pushed_to_neon_at"])
    check(neon, supabase)


def test_what_was_flipped_while_it_could_not_listen_is_heard_of_when_it_listens_again(
    cli, links, env, daemon, neon, supabase, eventually
) -> None:
    env["WORKER_SWEEP_INTERVAL"] = "600"  # no sweep finds it
    fill(cli, neon, 2)
    worker = daemon()
    complete(supabase, company(1), website="https://c1.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    links["listen"].closed = True
    links["listen"].cut()
    worker.wait_event("listener.lost")
    complete(supabase, company(2), website="https://c2.example")
    links["listen"].closed = False
    eventually(lambda: work(supabase, company(2))["promoted_at"])


def test_repeated_failures_are_summed_up(cli, links, daemon, neon, supabase, eventually) -> None:
    worker = daemon()
    links["listen"].closed = True
    links["listen"].cut()
    # The pause between its tries grows beyond two seconds: so it failed several times by then.
    eventually(lambda: worker.health("/readyz")[0] == 503)
    fill(cli, neon, 1)
    complete(supabase, company(1), website="https://c1.example")
    eventually(lambda: work(supabase, company(1))["pushed_to_neon_at"])
    assert len([event for event in worker.events if event["event"] == "listener.lost"]) <= 3


def test_pauses_grow_and_have_a_bound() -> None:
    waits = list(islice(backoff(first=1.0, longest=8.0), 40))
    assert waits[0] == 0, "the first try again is at once"
    for wait, most in zip(waits[1:], (1.0, 2.0, 4.0, *[8.0] * 36), strict=True):
        assert most / 2 <= wait <= most


def test_what_is_put_aside_again_and_again_is_tried_less_often_and_an_edit_at_once() -> None:
    now = [0.0]
    aside, version = Postponed(lambda: now[0]), datetime(2025, 11, 7)
    first, longest = Cause.HELD.value
    pause = first
    for _ in range(10):
        aside.put(Cause.HELD, [(company(1), version)], "held")
        assert aside.next_due() == pause
        now[0] += pause
        assert aside.due(10, acknowledge=False) == [company(1)]
        pause = min(2 * pause, longest)
    assert pause == longest
    edited = version + timedelta(seconds=1)
    aside.put(Cause.HELD, [(company(1), edited)], "held")
    assert aside.next_due() == first
    aside.put(Cause.HELD, [(company(1), edited)], "held")
    assert aside.next_due() == 2 * first
    aside.put(Cause.HELD, [(company(2), version)], "held")
    assert aside.next_due() == first, "the first that is due counts"


@pytest.mark.parametrize("link", ["neon", "supabase"])
def test_a_link_goes_deaf_under_a_delivery(cli, links, daemon, neon, supabase, eventually, link) -> None:
    fill(cli, neon, 20)
    worker = daemon()
    links[link].deaf = True
    flip(supabase, 1, 20)
    worker.wait_event("worker.fault", timeout=60)
    links[link].hear_again()
    eventually(lambda: settled(supabase), 90)
    check(neon, supabase)


@pytest.mark.parametrize("side", [0, 1], ids=["neon", "supabase"])
def test_a_server_stops_immediately_and_starts_again_in_a_backlog(
    cli, links, daemon, own_servers, databases, eventually, side
) -> None:
    with connect(databases.neon_url) as neon, connect(databases.supabase_url) as supabase:
        fill(cli, neon, 2000)
        worker = daemon()
        flip(supabase, 1, 2000)
        worker.wait_event("delivery.batch")
    for _ in range(3):
        own_servers[side].stop("immediate")
        own_servers[side].start()
    with connect(databases.neon_url) as neon, connect(databases.supabase_url) as supabase:
        eventually(lambda: settled(supabase), 90)
        assert check(neon, supabase)["promoted"] == 1800
        assert worker.terminate() == 0


def test_workers_are_killed_in_a_backlog(cli, links, daemon, neon, supabase, eventually) -> None:
    fill(cli, neon, 3000)
    flip(supabase, 1, 3000)
    for _ in range(8):
        one, other = daemon(), daemon()
        one.wait_event("delivery.batch", timeout=60)
        one.kill()
        other.kill()
        if settled(supabase):
            break
    daemon()
    eventually(lambda: settled(supabase), 90)
    assert check(neon, supabase)["promoted"] == 2700


def test_many_workers_share_the_queue_and_none_waits_for_a_dead_one(
    cli, links, daemon, neon, supabase, eventually
) -> None:
    fill(cli, neon, 3000)
    workers = [daemon() for _ in range(3)]
    flip(supabase, 1, 3000)
    workers[0].wait_event("delivery.batch")
    workers[0].kill()
    eventually(lambda: settled(supabase), 60)
    assert check(neon, supabase)["promoted"] == 2700
    delivered = [sum(e["claimed"] for e in worker.events if e["event"] == "delivery.batch") for worker in workers[1:]]
    assert all(delivered), "one of them did nothing"


def test_another_worker_pulls_when_the_puller_dies(
    cli, links, env, databases, daemon, neon, supabase, eventually
) -> None:
    # The puller's place is taken: as if by a worker in the middle of a pull.
    holder = psycopg.connect(databases.supabase_url)
    holder.execute("INSERT INTO enrichment_pull_position (entity) VALUES ('company'), ('people')")
    holder.commit()
    holder.execute("SELECT FROM enrichment_pull_position FOR UPDATE")
    add_companies(neon, 1)
    worker = daemon()
    add_companies(neon, 2)
    complete_nothing = supabase.execute("SELECT count(*) AS n FROM company_needs_enrichment").fetchone()
    assert complete_nothing["n"] == 0
    holder.close()
    worker.wait_event("pull.done", entity="company")
    assert work(supabase, company(2))["enrichment_status"] == "pending"


def test_sigterm_in_a_backlog_exits_0_with_nothing_half_done(cli, links, daemon, neon, supabase, eventually) -> None:
    fill(cli, neon, 3000)
    worker = daemon()
    flip(supabase, 1, 3000)
    worker.wait_event("delivery.batch")
    assert worker.terminate() == 0
    assert not settled(supabase), "the backlog was too small to be interrupted"
    half = supabase.execute(
        "SELECT array_agg(company_unique_id) AS keys FROM company_needs_enrichment WHERE promoted_at IS NULL"
        " AND pushed_to_neon_at IS NULL"
    ).fetchone()["keys"]
    assert not neon.execute(
        "SELECT FROM marketing.enrichment_ledger WHERE key = ANY(%s) AND outcome IN ('promoted', 'flagged')", [half]
    ).fetchall()
    daemon()
    eventually(lambda: settled(supabase), 60)
    check(neon, supabase)


def test_rows_that_keep_failing_do_not_hold_up_a_good_one(cli, links, env, daemon, neon, supabase, eventually) -> None:
    env["WORKER_BATCH_SIZE"] = "500"
    fill(cli, neon, 10_001)
    daemon()
    # Refused by the master table only: the costly kind of failure.
    supabase.execute("UPDATE company_needs_enrichment SET website = 'https://x.example', employee_count = -1,"
                     " enrichment_status = 'complete' WHERE neon_id <= 10000")  # fmt: skip
    complete(supabase, company(10_001), website="https://good.example")
    eventually(lambda: work(supabase, company(10_001))["promoted_at"], 60)


def test_what_somebody_else_holds_locked_holds_up_nobody_else(
    cli, links, databases, daemon, neon, supabase, eventually
) -> None:
    fill(cli, neon, 5)
    neon.execute("INSERT INTO marketing.company_master (company_unique_id, company_name, website_url, source_system,"
                 " source_record_id) VALUES (%s, 'Old', 'https://old.example', 'x', '1')", [company(2)])  # fmt: skip
    with psycopg.connect(databases.neon_url) as dba, psycopg.connect(databases.supabase_url) as enricher:
        dba.execute("SELECT FROM marketing.company_invalid WHERE company_unique_id = %s FOR UPDATE", [company(1)])
        dba.execute("SELECT FROM marketing.company_master WHERE company_unique_id = %s FOR UPDATE", [company(2)])
        daemon()
        flip(supabase, 1, 5)
        enricher.execute("SELECT FROM company_needs_enrichment WHERE company_unique_id = %s FOR UPDATE", [company(3)])
        for number in (4, 5):
            eventually(lambda number=number: work(supabase, company(number))["promoted_at"])
        assert work(supabase, company(1))["pushed_to_neon_at"] is None
        assert work(supabase, company(2))["pushed_to_neon_at"] is None
        dba.rollback()
        enricher.rollback()
    eventually(lambda: settled(supabase))
    assert check(neon, supabase)["promoted"] == 5


def test_an_edit_made_on_the_way_is_not_lost(cli, links, databases, daemon, neon, supabase, eventually) -> None:
    fill(cli, neon, 1)
    worker = daemon()
    claimed = "SELECT FROM company_needs_enrichment FOR UPDATE SKIP LOCKED"
    waits = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND pid = %s"
    with (
        psycopg.connect(databases.neon_url) as intake,
        connect(databases.supabase_url) as enricher,
        ThreadPoolExecutor() as others,
    ):
        # The settlement waits for the table, so that the edit falls between claim and acknowledgement.
        intake.execute("LOCK TABLE marketing.company_invalid IN ACCESS EXCLUSIVE MODE")
        complete(supabase, company(1), website="n/a")
        eventually(lambda: not supabase.execute(claimed).fetchall())
        editing = others.submit(edit, enricher, company(1), city="Elkins")
        eventually(lambda: supabase.execute(waits, [enricher.info.backend_pid]).rowcount)
        assert not editing.done()
        intake.rollback()
        worker.wait_event("delivery.batch")
        editing.result()
    row = work(supabase, company(1))
    assert row["city"] == "Elkins"
    assert row["enrichment_status"] == "failed"
    complete(supabase, company(1), website="https://c1.example")
    eventually(lambda: master(neon, company(1)))
    assert master(neon, company(1))["address_city"] == "Elkins"


def test_an_operators_fault_is_told_and_waited_for(cli, links, daemon, neon, supabase, eventually) -> None:
    fill(cli, neon, 1)
    worker = daemon()
    neon.execute("ALTER TABLE marketing.enrichment_ledger RENAME TO elsewhere")
    complete(supabase, company(1), website="https://c1.example")
    fault = worker.wait_event("worker.fault", task="company")
    assert fault["error"].startswith(
        'Neon: relation "marketing.enrichment_ledger" does not exist; `enrichment-worker doctor`'
    )
    status, text = worker.health("/readyz")
    assert (status, "does not exist; `enrichment-worker doctor` names" in text) == (503, True)
    assert worker.health("/healthz")[0] == 200
    assert invalid(neon, company(1)) is not None
    neon.execute("ALTER TABLE marketing.elsewhere RENAME TO enrichment_ledger")
    eventually(lambda: settled(supabase), 60)
    eventually(lambda: worker.health("/readyz")[0] == 200)
    check(neon, supabase)
    with urllib.request.urlopen(f"http://{worker.address}/events", timeout=30) as page:
        assert worker.terminate() == 0
        assert page.read().startswith(b"event: status"), "an open page ends in order"
    assert not [event for event in worker.events if event["event"] == "library"]


@pytest.mark.parametrize("lost", [b"applied", b"INSERT 0 1"])
def test_a_stage_whose_answer_never_arrives_goes_on_and_reports_what_it_did(cli, links, neon, supabase, lost) -> None:
    fill(cli, neon, 4)
    flip(supabase, 1, 3)
    assert cli("push").returncode == 0
    links["neon"].cut_on_answer(lost)
    done = cli("promote", input="\n".join([company(1), company(2), company(4)]))
    assert links["neon"].faults
    assert "trying again" in done.stderr
    assert "promoted 2 records" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(f"refused {company(4)}: website: ")
    for number in (1, 2):
        assert work(supabase, company(number))["promoted_at"] is not None
        assert [entry["outcome"] for entry in ledger(neon, company(number))] == ["waiting", "promoted"]
    said = neon.execute(
        "SELECT * FROM shq_validation_log WHERE validation_run_id LIKE 'PROMOTE%%' AND total_records > 0"
    ).fetchall()
    assert [(run["total_records"], run["passed_records"], run["failed_records"]) for run in said] == [(3, 2, 1)]


def test_an_undo_whose_answer_never_arrives_reports_what_it_did(cli, links, neon, supabase) -> None:
    fill(cli, neon, 3)
    flip(supabase, 1, 3)
    assert cli("push").returncode == 0
    assert cli("promote", input="\n".join(company(n) for n in (1, 2, 3))).returncode == 0
    links["neon"].cut_on_answer(b"INSERT 0 1")
    done = cli("undo", company(1), company(2))
    assert links["neon"].faults
    assert "trying again" in done.stderr
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2), done
    for number in (1, 2):
        assert [entry["outcome"] for entry in ledger(neon, company(number))] == ["waiting", "promoted", "undone"]
        assert work(supabase, company(number))["enrichment_status"] == "pending"
        assert master(neon, company(number)) is None


def test_a_row_that_did_not_hear_of_an_undo_hears_when_it_is_asked_for_again(cli, links, neon, supabase) -> None:
    fill(cli, neon, 1)
    flip(supabase, 1, 1)
    assert cli("push").returncode == 0
    assert cli("promote", input=company(1)).returncode == 0
    promoted = work(supabase, company(1))
    assert cli("undo", company(1)).returncode == 0
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        edit(
            supabase,
            company(1),
            promoted_at=promoted["promoted_at"],
            enrichment_status="complete",
            pushed_to_neon_at=promoted["pushed_to_neon_at"],
            receipt_id=promoted["receipt_id"],
            receipt_hash=promoted["receipt_hash"],
        )
    assert cli("undo", company(1)).returncode == 1
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["promoted_at"]) == ("pending", None)
