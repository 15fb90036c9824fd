"""A ledger whose sequence is behind its rows: an outcome without its ledger row is none. SPEC 3."""

from __future__ import annotations

from contextlib import suppress

import psycopg
import pytest
from conftest import Databases, connect
from copies import Copy
from records import add_companies, company, complete, invalid, ledger, master, work


def put_behind(neon, rows: int) -> None:
    """Ledger rows up to a number, and a sequence that begins before them, as a copy of the rows alone leaves it."""
    neon.execute(
        "INSERT INTO marketing.enrichment_ledger (id, run_id, entity, key, outcome) OVERRIDING SYSTEM VALUE"
        " SELECT n, 'r', 'company', '04.04.01.07.00007.' || n, 'merged' FROM generate_series(1, %s) n",
        [rows],
    )


@pytest.mark.parametrize("value", ["good.example", "n/a"], ids=["promoted", "flagged"])
def test_a_sequence_behind_the_ledger_stops_outcomes_says_so_and_setup_fixes_it(
    cli, prepared, neon, supabase, daemon, eventually, value
) -> None:
    add_companies(neon, 1, 2)
    put_behind(neon, 3000)
    worker = daemon()
    assert worker.wait_event("schema.mismatch")["hint"] == "run `enrichment-worker setup`"
    eventually(lambda: supabase.execute("SELECT count(*) AS n FROM company_needs_enrichment").fetchone()["n"] == 2)
    before = invalid(neon, company(1))
    complete(supabase, company(1), website=value)
    eventually(lambda: "its sequence is behind its rows: run `enrichment-worker setup`" in worker.health("/readyz")[1])
    assert (master(neon, company(1)), ledger(neon, company(1))) == (None, [])
    assert invalid(neon, company(1)) == before
    said = cli("doctor")
    assert said.returncode == 1
    assert "marketing.enrichment_ledger has rows up to id 3000" in said.stdout
    assert "Neon: changed sequence of marketing.enrichment_ledger\n" in cli("setup").stdout
    eventually(lambda: work(supabase, company(1))["pushed_to_neon_at"])
    assert [entry["id"] for entry in ledger(neon, company(1))] == [3001]
    eventually(lambda: worker.health("/readyz")[0] == 200)
    assert cli("doctor").returncode == 0
    assert "everything is in place" in cli("setup").stdout


def test_a_sequence_behind_the_outbox_is_fixed_by_setup(cli, env, prepared, supabase) -> None:
    supabase.execute("INSERT INTO enrichment_outbox (id, entity, event) OVERRIDING SYSTEM VALUE"
                     " SELECT n, 'company', '{}' FROM generate_series(1, 9) n")  # fmt: skip
    assert "Supabase: changed sequence of public.enrichment_outbox\n" in cli("setup").stdout
    assert supabase.execute("INSERT INTO enrichment_outbox (entity, event) VALUES ('company', '{}') RETURNING id"
                            ).fetchone()["id"] == 10  # fmt: skip


class TestACrash:
    @pytest.fixture
    def databases(self, own_servers) -> Databases:
        for server, name in zip(own_servers, ("neon", "supabase"), strict=True):
            server.create_database(name)
        return Databases(own_servers[0].url("neon"), own_servers[1].url("supabase"))

    def test_a_crash_after_the_copying_of_a_database_costs_no_outcome_its_ledger_row(
        self, steps, databases, own_servers, supabase, eventually
    ) -> None:
        """PostgreSQL itself leaves a sequence behind then: what it counted since the copy is in no log."""
        with connect(databases.neon_url) as neon:
            add_companies(neon, *range(1, 10))
        steps.pull()
        for number in (1, 2, 3):
            complete(supabase, company(number), website=f"c{number}.example")
            steps.deliver()
        Copy(databases.neon_url).put_back()
        for number in (4, 5, 6):
            complete(supabase, company(number), website=f"c{number}.example")
            steps.deliver()
        own_servers[0].stop("immediate")
        own_servers[0].start()
        for number in (7, 8, 9):
            complete(supabase, company(number), website=f"c{number}.example")
        with connect(databases.neon_url) as neon:
            last = neon.execute("SELECT max(l.id) AS id, max(s.last_value) AS last FROM marketing.enrichment_ledger l,"
                                " marketing.enrichment_ledger_id_seq s").fetchone()  # fmt: skip
            assert last["last"] < last["id"]

            def all_promoted() -> bool:
                with suppress(psycopg.errors.UniqueViolation):  # each try takes one number
                    steps.deliver()
                for number in range(1, 10):
                    booked = [entry["outcome"] for entry in ledger(neon, company(number))].count("promoted")
                    assert booked == bool(master(neon, company(number))) == (invalid(neon, company(number)) is None)
                return all(work(supabase, company(number))["promoted_at"] for number in range(1, 10))

            eventually(all_promoted)
