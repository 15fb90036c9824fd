"""Three delivery loops for each entity: the next batches are claimed while the first is settled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from oracle import check
from records import add_companies, company, ledger, master, work

FREE = "SELECT FROM company_needs_enrichment WHERE enrichment_status = 'complete' FOR UPDATE SKIP LOCKED"


@pytest.fixture
def backlog(cli, prepared, env, neon, supabase) -> list[str]:
    """Nine companies on their way, in batches of two."""
    env["WORKER_BATCH_SIZE"] = "2"
    keys = add_companies(neon, *range(1, 10))
    assert cli("pull").returncode == 0
    supabase.execute(
        "UPDATE company_needs_enrichment SET enrichment_status = 'complete', website = 'c' || neon_id || '.example'"
    )
    return keys


@contextmanager
def batches_held(databases: Any, daemon: Any, supabase: psycopg.Connection[Any], eventually: Any) -> Iterator[Any]:
    """A daemon with three batches on their way, which the intake's lock holds up in Neon."""
    with psycopg.connect(databases.neon_url) as intake:
        intake.execute("LOCK TABLE marketing.company_invalid IN ACCESS EXCLUSIVE MODE")
        worker = daemon()
        eventually(lambda: len(supabase.execute(FREE).fetchall()) == 3)
        yield worker


def answered(supabase: psycopg.Connection[Any], keys: list[str]) -> bool:
    return all(work(supabase, key)["promoted_at"] for key in keys)


def test_the_next_batches_are_claimed_while_the_first_is_settled(
    backlog, databases, daemon, neon, supabase, eventually
) -> None:
    with batches_held(databases, daemon, supabase, eventually) as worker:
        assert master(neon, company(1)) is None
    eventually(lambda: answered(supabase, backlog))
    assert [len(ledger(neon, key)) for key in backlog] == [1] * 9
    assert worker.terminate() == 0
    check(neon, supabase)


def test_all_batches_on_their_way_are_finished_when_the_worker_stops(
    backlog, databases, daemon, neon, supabase, eventually
) -> None:
    with batches_held(databases, daemon, supabase, eventually) as worker:
        worker.process.terminate()
        worker.wait_event("worker.stopping")
    assert worker.process.wait(30) == 0
    assert [answered(supabase, [key]) for key in backlog] == [True] * 6 + [False] * 3
    daemon()
    eventually(lambda: answered(supabase, backlog))
    check(neon, supabase)


def test_what_a_loop_ahead_cannot_deliver_the_first_does(
    backlog, databases, daemon, neon, supabase, eventually
) -> None:
    with batches_held(databases, daemon, supabase, eventually) as worker:
        ended = neon.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND datname = current_database() ORDER BY xact_start DESC LIMIT 1"
        ).fetchall()
        assert len(ended) == 1
    eventually(lambda: answered(supabase, backlog))
    assert [len(ledger(neon, key)) for key in backlog] == [1] * 9
    assert worker.process.poll() is None
    check(neon, supabase)
