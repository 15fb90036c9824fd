"""What makes a duplicate, and what follows: SPEC 4 and 12."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, connect
from records import (
    add_companies,
    add_master,
    add_people,
    add_slot,
    company,
    complete,
    edit,
    invalid,
    ledger,
    master,
    person,
    work,
)

from worker.entities.declaration import Entity
from worker.entities.loader import load_entities
from worker.neon import duplicates
from worker.postgres import transaction
from worker.sync import stages
from worker.sync.deliver import deliver

SHIPPED = ROOT / "worker" / "entities"
Policy = Callable[[str], dict[str, Entity]]


@pytest.fixture
def policy(prepared, tmp_path, env, monkeypatch) -> Policy:
    """Makes the shipped files say another policy; they keep their tables and indexes."""

    def say(word: str) -> dict[str, Entity]:
        folder = tmp_path / word
        folder.mkdir()
        for name in ("company", "people"):
            text = (SHIPPED / f"{name}.toml").read_text()
            assert 'policy = "warn"' in text
            (folder / f"{name}.toml").write_text(text.replace('policy = "warn"', f'policy = "{word}"'))
        env["WORKER_ENTITIES"] = str(folder)
        monkeypatch.setenv("WORKER_ENTITIES", str(folder))
        return load_entities(folder)

    return say


def deliver_as(steps, entity: Entity) -> None:
    steps.run(lambda opened: deliver(opened, entity))


def is_held(neon, supabase, key: str, other: str, field: str = "website") -> bool:
    """Whether a record is everywhere told as a duplicate of this one; else, that it is promoted."""
    row, there = work(supabase, key), invalid(neon, key)
    if there is None:
        assert row["promoted_at"]
        assert master(neon, key)
        return False
    assert (row["enrichment_status"], row["promoted_at"]) == ("failed", None)
    assert row["pushed_to_neon_at"]
    assert row["reason_code"] == there["reason_code"] == f"DUPLICATE_OF {other}"
    assert other in row["validation_errors"][field]
    assert row["validation_errors"] == there["validation_errors"] == ledger(neon, key)[-1]["errors"]
    assert field not in row["validation_warnings"]
    assert field in row["sync_note"]
    assert there["still_invalid"]
    assert there[field] == row[field] == ledger(neon, key)[-1]["record"][field]
    assert ledger(neon, key)[-1]["outcome"] == "flagged"
    assert master(neon, key) is None
    return True


def test_a_duplicate_is_promoted_with_a_warning_that_names_the_other_key(steps, cli, neon, supabase) -> None:
    add_master(neon, 1, website_url="http://WWW.Alder.example:80/about")
    sites = {
        2: "alder.example", 3: "birch.example", 4: "HTTPS://Birch.example./x", 5: "cedar.example",
        6: "https://facebook.com/alder", 7: "facebook.com/birch", 8: "alder.example",
    }  # fmt: skip
    add_companies(neon, *sites)
    steps.pull()
    for number, site in sites.items():
        complete(supabase, company(number), website=site)
    edit(supabase, company(8), enrichment_notes="Spoke with the owner; Distinct. ", enrichment_status="complete")
    steps.deliver()
    said = {number: work(supabase, company(number))["validation_warnings"].get("website", "") for number in sites}
    assert {number: text.split()[4].strip(",") for number, text in said.items() if text} == {
        2: company(1),
        4: company(3),
    }
    for number in sites:
        row = work(supabase, company(number))
        assert row["promoted_at"]
        entry = ledger(neon, company(number))[-1]
        assert entry["outcome"] == "promoted"
        assert entry["warnings"] == row["validation_warnings"]
        assert "industry" in entry["warnings"], "its other warnings stay"
    assert f"warning in website: has the host of {company(1)}" in cli("history", company(2)).stdout


def test_a_held_duplicate_comes_back_until_it_is_repaired_or_said_to_be_distinct(
    policy, steps, cli, neon, supabase, monkeypatch
) -> None:
    entity = policy("hold")["company"]
    add_master(neon, 1, website_url="alder.example")
    add_companies(neon, 2, 3, 4, 5, 6)
    steps.pull()
    trips = []
    honest = transaction.send

    async def send(connection, *sent, **options):
        trips.append(connection.info.dbname)
        return await honest(connection, *sent, **options)

    monkeypatch.setattr(transaction, "send", send)
    sites = {2: "https://www.alder.example", 3: "birch.example", 4: "birch.example/x", 5: "cedar.example"}
    for number, site in sites.items():
        complete(supabase, company(number), website=site)
    deliver_as(steps, entity)
    held = trips[:]
    trips.clear()
    assert is_held(neon, supabase, company(2), company(1))
    assert is_held(neon, supabase, company(4), company(3))
    assert not is_held(neon, supabase, company(3), "")
    assert not is_held(neon, supabase, company(5), "")
    complete(supabase, company(6), website="elm.example")
    deliver_as(steps, entity)
    [reason] = json.loads(cli("status", "--json").stdout)["entities"]["company"]["failures"]
    assert (reason["reason_code"], reason["records"]) == ("DUPLICATE_OF", 2), "they are one reason, whatever the key"
    assert trips == held, "a batch with held records takes as many round trips as one without"

    # The same again is held again; so is what says that it is not distinct. Repaired, it goes.
    complete(supabase, company(2), enrichment_notes="not distinct, is it?")
    complete(supabase, company(4), website="fir.example")
    deliver_as(steps, entity)
    assert is_held(neon, supabase, company(2), company(1))
    assert not is_held(neon, supabase, company(4), "")
    assert f"error in website: has the host of {company(1)}" in cli("history", company(2)).stdout

    # Said to be distinct, it is promoted, and so it is when it comes back.
    complete(supabase, company(2), enrichment_notes="asked them\n DISTINCT ")
    deliver_as(steps, entity)
    assert not is_held(neon, supabase, company(2), "")
    for number in (2, 5):  # 5 is promoted without it: its own row is no duplicate of itself
        add_companies(neon, number)
    steps.pull()
    for number in (2, 5):
        complete(supabase, company(number), website=sites[number], industry="Timber")
    deliver_as(steps, entity)
    for number in (2, 5):
        assert not is_held(neon, supabase, company(number), "")
        assert master(neon, company(number))["industry"] == "Timber"


def test_stages_and_their_rehearsal_say_what_a_delivery_says(policy, steps, cli, neon, supabase) -> None:
    entity = policy("hold")["company"]
    add_master(neon, 1, website_url="alder.example")
    add_companies(neon, 2, 3)
    steps.pull()
    for number in (2, 3):
        complete(supabase, company(number), website=f"{'alder' if number == 2 else 'birch'}.example")
    steps.run(lambda opened: stages.push(opened, entity, stages.Pushed()))
    before = ledger(neon, company(2))
    dry = cli("revalidate", "--dry-run")
    assert dry.stdout.split() == [company(3)]
    assert f"{company(2)} would be flagged: website: has the host of {company(1)}" in dry.stderr
    assert ledger(neon, company(2)) == before
    assert cli("promote", "--dry-run", input=f"{company(2)}\n").returncode == 1
    assert cli("revalidate").stdout.split() == [company(3)]
    assert is_held(neon, supabase, company(2), company(1))
    assert cli("promote", input=f"{company(2)}\n{company(3)}\n").returncode == 1
    entries = ledger(neon, company(2))
    assert cli("revalidate").returncode == 0
    assert ledger(neon, company(2)) == entries, "what failed as before is not booked again"
    assert not is_held(neon, supabase, company(3), "")


def test_a_rehearsal_names_the_warning(steps, cli, neon, supabase) -> None:
    add_master(neon, 1, website_url="alder.example")
    add_companies(neon, 2)
    steps.pull()
    complete(supabase, company(2), website="alder.example")
    steps.push()
    dry = cli("revalidate", "--dry-run")
    assert dry.stdout.split() == [company(2)]
    assert f"{company(2)} would be promoted with a warning: website: has the host of {company(1)}" in dry.stderr


def test_people_are_compared_by_each_column_and_none_is_held_for_one_that_is_held(
    policy, steps, neon, supabase
) -> None:
    entity = policy("hold")["people"]
    add_master(neon, 1)
    add_slot(neon, 1, of=1)
    add_people(neon, *range(1, 6))
    steps.pull("people")
    profile = "https://www.linkedin.com/in/"
    repairs = {
        1: ("robin@alder.example", f"{profile}one"), 2: ("ROBIN@Alder.example", f"{profile}two"),
        3: ("kim@alder.example", "de.linkedin.com/in/Two/?trk=x"), 4: ("sam@alder.example", f"{profile}One/"),
        5: ("ash@alder.example", None),
    }  # fmt: skip
    for number, (email, url) in repairs.items():
        complete(supabase, person(number), email=email, linkedin_url=url)
    for _ in range(2):  # 3 is like 2 only, which is held: the next batch knows that
        deliver_as(steps, entity)
    assert is_held(neon, supabase, person(2), person(1), "email")
    assert is_held(neon, supabase, person(4), person(1), "linkedin_url")
    for number in (1, 3, 5):
        assert not is_held(neon, supabase, person(number), "", "email")


def test_off_compares_nothing_and_a_master_without_index_is_read_once(policy, steps, cli, neon, supabase) -> None:
    add_companies(neon, 1, 2, 3, 4)
    steps.pull()
    for number in (1, 2):
        complete(supabase, company(number), website="alder.example")
    deliver_as(steps, policy("off")["company"])
    assert not is_held(neon, supabase, company(1), "")
    assert not is_held(neon, supabase, company(2), "")
    assert "website" not in work(supabase, company(2))["validation_warnings"]
    neon.execute("DROP INDEX marketing.company_master_website_url_host_idx")
    entity = policy("hold")["company"]
    for number in (3, 4):
        complete(supabase, company(number), website="alder.example")
    deliver_as(steps, entity)
    assert is_held(neon, supabase, company(3), company(1))
    assert is_held(neon, supabase, company(4), company(1))
    found = cli("doctor").stdout
    [statement] = [line for line in found.splitlines() if "CREATE INDEX CONCURRENTLY" in line]
    neon.execute("CREATE" + statement.partition("CREATE")[2])
    assert "CREATE INDEX" not in cli("doctor").stdout


def test_of_what_another_settlement_promotes_nothing_is_promoted_meanwhile(
    policy, steps, databases, neon, supabase
) -> None:
    entity = policy("hold")["company"]
    add_companies(neon, 1, 2)
    steps.pull()
    [alike] = entity.alike
    with connect(databases.neon_url) as other, other.transaction():
        lock = f"SELECT pg_advisory_xact_lock(hashtextextended({alike.of('%s')}, {alike.seed}))"
        other.execute(lock, ["alder.example"])
        complete(supabase, company(1), website="alder.example")
        complete(supabase, company(2), website="birch.example")
        deliver_as(steps, entity)
        assert work(supabase, company(1))["pushed_to_neon_at"] is None, "it is postponed, and waits for nobody"
        assert not is_held(neon, supabase, company(2), "")
        add_master(other, 9, website_url="alder.example")
    deliver_as(steps, entity)
    assert is_held(neon, supabase, company(1), company(9))


def test_of_10_000_records_two_workers_hold_the_1_000_duplicates_and_no_other(
    policy, cli, neon, supabase, daemon, eventually
) -> None:
    policy("hold")
    neon.execute(
        "INSERT INTO marketing.company_invalid (company_unique_id, company_name, reason_code, validation_errors)"
        " SELECT format('04.04.01.01.%s.001', lpad(i::text, 5, '0')), 'Alder Works ' || i, 'EMPTY_WEBSITE', '{}'"
        " FROM generate_series(1, 10000) i"
    )
    assert cli("pull").returncode == 0
    workers = [daemon() for _ in range(2)]
    # Every tenth is like another one: half like the one before, in the same batch, half like one far away.
    supabase.execute(
        "UPDATE company_needs_enrichment SET enrichment_status = 'complete', website = CASE neon_id % 20"
        " WHEN 0 THEN 'HTTP://WWW.C' || neon_id - 1 || '.Example/about'"
        " WHEN 10 THEN 'c' || (neon_id + 4996) % 10000 + 1 || '.example.' ELSE 'https://c' || neon_id || '.example' END"
    )
    left = "SELECT FROM company_needs_enrichment WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL LIMIT 1"
    eventually(lambda: supabase.execute(left).rowcount == 0)
    rows = supabase.execute(
        "SELECT neon_id AS id, promoted_at IS NOT NULL AS promoted, enrichment_status AS status, reason_code AS code"
        " FROM company_needs_enrichment"
    ).fetchall()
    state = {row["id"]: row for row in rows}
    pairs = {n: n - 1 if n % 20 == 0 else (n + 4996) % 10000 + 1 for n in range(10, 10001, 10)}
    for one, other in pairs.items():
        held, kept = (one, other) if not state[one]["promoted"] else (other, one)
        assert state[held]["code"] == f"DUPLICATE_OF {company(kept)}"
        assert state[kept]["promoted"]
    assert sum(row["status"] == "failed" for row in rows) == 1000
    assert sum(row["promoted"] for row in rows) == 9000
    count = neon.execute("SELECT count(*) FILTER (WHERE outcome = 'flagged') AS n FROM marketing.enrichment_ledger")
    assert count.fetchone()["n"] == 1000
    for worker in workers:
        assert worker.terminate() == 0
        assert any(event["event"] == "delivery.batch" for event in worker.events), "it took part"


def test_a_large_batch_is_settled_in_parts_that_the_servers_locks_have_room_for(
    policy, steps, neon, supabase, monkeypatch
) -> None:
    entity = policy("hold")["company"]
    monkeypatch.setattr(duplicates, "MOST", 2)
    add_companies(neon, *range(1, 6))
    steps.pull()
    for number in range(1, 6):
        complete(supabase, company(number), website="alder.example" if number in (1, 5) else f"c{number}.example")
    deliver_as(steps, entity)
    assert is_held(neon, supabase, company(5), company(1))
    assert not any(is_held(neon, supabase, company(number), "") for number in range(1, 5))


def test_a_wrong_section_is_told_with_its_line(cli, env, tmp_path) -> None:
    text = (SHIPPED / "people.toml").read_text()
    text = text.replace('"company"\nformat', '"people2"\nformat').replace('policy = "warn"', 'policy = "maybe"', 1)
    text = text.replace('form = "email"', 'form = "mail"').replace('field = "linkedin_url"\nform = "profile"', (
        'field = "linkedin"\nforms = "profile"\n[[duplicates.by]]\nfield = "email"\nform = "email"'))  # fmt: skip
    path = Path(tmp_path, "people.toml")
    path.write_text(text)
    done = cli("entities", "check", str(path))
    lines = text.split("\n")
    assert done.returncode == 1
    said = done.stdout + done.stderr
    for line, what in (
        ('policy = "maybe"', "duplicates.policy is 'warn', 'hold' or 'off'"),
        ('form = "mail"', "duplicates.by.form is 'host', 'email', 'profile' or 'text'"),
        ('forms = "profile"', "duplicates.by.forms: there is no such key; did you mean form?"),
    ):
        assert f"people.toml:{lines.index(line.split('  ')[0]) + 1}: {what}" in said, said
    text = (SHIPPED / "people.toml").read_text().replace('field = "email"\nform', 'field = "phone"\nform')
    text = text.replace('field = "linkedin_url"\nform = "profile"', 'field = "nickname"\nform = "text"')
    text = text.replace("[master]\n", '[[duplicates.by]]\nfield = "phone"\nform = "text"\n\n[master]\n', 1)
    path.write_text(text)
    done = cli("entities", "check", str(path))
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert "phone is mapped to no master column as it is" in said
    assert "nickname is none of the columns" in said
    assert "phone is compared already" in said
