"""Every crash point by name: the worker kills itself before and after each statement of a delivery.

The worker has no code for this: ``crash/sitecustomize.py``, on the path of its process only, wraps the one
function through which statements go.
"""

from __future__ import annotations

import os

import pytest
from conftest import ROOT, Daemon, _environment
from oracle import check
from records import add_companies, company, ledger, master, work

STATEMENTS = (
    "claim: BEGIN", "claim: settings", "claim: SELECT FOR UPDATE",
    # Its COMMIT is the sync that ends what was sent together.
    "settle: settings", "settle: lock", "settle: promote what is plain", "settle: what is to be flagged",
    "settle: ask the master's demands", "settle: promote, flag, ledger, log", "settle: COMMIT",
    "acknowledge: UPDATE, wake who waits", "acknowledge: COMMIT",
)  # fmt: skip
# The last claim finds nothing: killing there kills an idle worker.
POINTS = [f"{when} {name}" for name in STATEMENTS for when in ("before", "after")]


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_killed_at_any_statement_loses_nothing(
    point, cli, prepared, env, tmp_path, daemon, neon, supabase, eventually, record_property, nursery
) -> None:
    add_companies(neon, 1, 2)
    assert cli("pull").returncode == 0
    supabase.execute(
        "UPDATE company_needs_enrichment SET enrichment_status = 'complete', website = CASE neon_id WHEN 1 THEN"
        " 'https://c1.example' ELSE 'n/a' END"
    )
    number = STATEMENTS.index(point.partition(" ")[2]) + 1
    path = os.pathsep.join([str(ROOT / "tests" / "support" / "crash"), str(ROOT)])
    crash = {"PYTHONPATH": path, "CRASH_AT": f"{number}:{point.split()[0]}"}
    victim = Daemon({**_environment(env), **crash}, tmp_path, nursery)
    assert victim.process.wait(30) == -9, victim.events
    victim._reader.join(10)
    victim.process.stderr.close()
    settled, told = bool(ledger(neon, company(1))), work(supabase, company(1))["promoted_at"] is not None
    found = f"Neon {'settled' if settled else 'untouched'}, row {'answered' if told else 'queued'}"
    # What the other database knows commits first, and with it the proof.
    assert settled or not told
    assert settled == (number > STATEMENTS.index("settle: COMMIT") + 1 or point == "after settle: COMMIT")
    daemon()
    eventually(lambda: all(work(supabase, company(n))["pushed_to_neon_at"] for n in (1, 2)))
    check(neon, supabase)
    assert master(neon, company(1)) is not None
    assert [len(ledger(neon, company(n))) for n in (1, 2)] == [1, 1]
    did = "nothing to do" if told else "answered from the ledger" if settled else "delivered"
    # conftest prints the table at the end of the run.
    record_property("crash point", f"{point:42}  found: {found:32}  recovery: {did}")
