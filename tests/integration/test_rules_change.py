"""A change of rules: what an older version refused is judged again, and first shown what would become of it."""

from __future__ import annotations

import json

import pytest
from declared import COMPANY, rules_of
from records import add_companies, company, complete, everything, invalid, ledger, master, work

OLD = "0123456789ab"


@pytest.fixture
def refused(cli, prepared, neon, supabase) -> None:
    """1 passes today's rules, 2 and 3 do not; an older version refused all three, 3 for the reason of today.
    4 was refused by today's rules.
    """
    add_companies(neon, 1, 2, 3, 4)
    assert cli("pull").returncode == 0
    for number in (1, 2, 3, 4):
        complete(supabase, company(number), website="n/a")
    assert cli("push").returncode == 0
    assert cli("revalidate").returncode == 0
    old = json.dumps({"website": "is of a kind that nobody liked"})
    keys = [company(1), company(2)]
    neon.execute(
        "UPDATE marketing.company_invalid SET validation_errors = %s WHERE company_unique_id = ANY(%s)", [old, keys]
    )
    neon.execute(
        "UPDATE marketing.company_invalid SET website = 'https://c1.example' WHERE company_unique_id = %s", [company(1)]
    )
    neon.execute("UPDATE marketing.enrichment_ledger SET rules_version = %s WHERE key <> %s", [OLD, company(4)])
    assert cli("pull", "--full").returncode == 0


def test_what_an_older_version_refused_is_judged_again_and_passed_on(cli, refused, neon, supabase) -> None:
    done = cli("revalidate", "--stale")
    assert done.stdout.split() == [company(1)]
    assert "PASSED: 1 company" in done.stderr
    assert "FAILED: 2 companies (validation_errors still present), 1 for other reasons than before" in done.stderr
    assert invalid(neon, company(2))["validation_errors"] == work(supabase, company(2))["validation_errors"]
    for number in (2, 3):
        assert ledger(neon, company(number))[-1]["rules_version"] == COMPANY.rules.version()
    assert len(ledger(neon, company(4))) == 2, "refused by today's rules: left alone"
    # It is told when it is promoted, as ever.
    assert cli("promote", input=done.stdout).returncode == 0
    assert master(neon, company(1))["website_url"] == "https://c1.example"
    row = work(supabase, company(1))
    assert (row["enrichment_status"], row["promoted_at"] is not None) == ("complete", True)
    again = cli("revalidate", "--stale")
    assert again.stdout == ""
    assert "FAILED: 0 companies" in again.stderr


def test_a_dry_run_says_what_a_change_of_rules_would_do_and_writes_nothing(cli, refused, neon, supabase) -> None:
    before = everything(neon, locks=False), everything(supabase)
    done = cli("revalidate", "--stale", "--dry-run", "--json")
    found = json.loads(done.stdout)["company"]
    assert found["passed"] == [company(1)]
    assert set(found["failed"]) == {company(2), company(3)}
    assert found["otherwise"] == [company(2)]
    assert (everything(neon, locks=False), everything(supabase)) == before


def test_history_and_status_tell_the_version_of_the_rules(cli, refused, daemon) -> None:
    assert f"by the rules of version {OLD}" in cli("history", company(1)).stdout
    worker = daemon()
    version = COMPANY.rules.version()
    assert json.loads(worker.health("/status.json")[1])["worker"]["rules_versions"]["company"] == version
    assert f'rules_info{{entity="company",rules_version="{version}"}} 1.0' in worker.health("/metrics")[1]


def test_the_same_rules_for_phones_of_another_region_are_another_version() -> None:
    def version(region: str) -> str:
        return rules_of({"phone": "TEXT"}, {"field": "phone", "rule": "phone", "region": region}).version()

    assert version("US") == version("US") != version("DE")
