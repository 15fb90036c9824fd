"""What the master will say of a record is told with the rules' errors, all at once. SPEC 2, 3, 4, 7."""

from __future__ import annotations

import json

import pytest
from declared import ENTITIES
from records import (
    add_companies,
    add_master,
    add_people,
    add_slot,
    company,
    complete,
    invalid,
    ledger,
    master,
    person,
    slot,
    work,
)

from worker.postgres import transaction
from worker.sync.deliver import deliver

NEEDED = "the master table needs a value for {}"
NEGATIVE = "the master table refuses this value: enter a number of 0 or more"
WEBSITE = "empty or blank"


def alter(neon, *actions: str, table: str = "company_master") -> None:
    for action in actions:
        neon.execute(f"ALTER TABLE marketing.{table} {action}")


def told(steps, neon, supabase, *, number: int = 1, **columns) -> dict[str, str]:
    """What the enricher of a company reads after a delivery; Neon and the ledger say the same."""
    if invalid(neon, company(number)) is None:
        add_companies(neon, number)
        steps.pull()
    complete(supabase, company(number), **columns)
    steps.deliver()
    row = work(supabase, company(number))
    if row["validation_errors"]:
        assert row["enrichment_status"] == "failed"
        assert invalid(neon, company(number))["validation_errors"] == row["validation_errors"]
        assert ledger(neon, company(number))[-1]["errors"] == row["validation_errors"]
    return row["validation_errors"]


def test_the_rules_and_the_masters_faults_are_told_together(steps, neon, supabase) -> None:
    errors = told(steps, neon, supabase, company_name=None, employee_count=-1)
    assert errors == {
        "company_name": "is empty: enter the company's name", "website": WEBSITE, "employee_count": NEGATIVE,
    }  # fmt: skip
    row = invalid(neon, company(1))
    assert (row["reason_code"], row["still_invalid"]) == ("EMPTY_COMPANY_NAME", True)
    assert told(steps, neon, supabase, company_name="Alder Works", website="alder.example", employee_count=0) == {}
    assert master(neon, company(1))["employee_count"] == 0


def test_all_that_the_master_refuses_is_told_though_its_refusal_names_one(steps, neon, supabase) -> None:
    alter(
        neon, "ALTER employee_count SET NOT NULL", "ALTER address_state SET NOT NULL",
        "ADD CONSTRAINT town CHECK (address_city <> 'Nowhere')",
    )  # fmt: skip
    errors = told(steps, neon, supabase, website="alder.example", city="Nowhere")
    assert errors.keys() == {"employee_count", "state", "city"}
    assert errors["employee_count"] == NEEDED.format("employee_count")
    assert errors["state"] == NEEDED.format("state")
    assert invalid(neon, company(1))["reason_code"] == "REFUSED_BY_MASTER"
    errors = told(steps, neon, supabase, website=None, city="Elkins", employee_count=-5)
    assert errors == {"website": WEBSITE, "employee_count": NEGATIVE, "state": NEEDED.format("state")}
    assert told(steps, neon, supabase, website="alder.example", employee_count=5, state="WV") == {}


@pytest.mark.parametrize("website", [None, "alder.example"])
def test_one_fault_has_one_sentence_wherever_it_is_found(steps, neon, supabase, website) -> None:
    alter(neon, "ALTER address_state SET NOT NULL", "ALTER address_zip TYPE VARCHAR(5)")
    errors = told(steps, neon, supabase, website=website, employee_count=-1, zip="26501-1234")
    assert errors == {
        **({} if website else {"website": WEBSITE}), "employee_count": NEGATIVE, "state": NEEDED.format("state"),
        "zip": "is too long for the master table: enter at most 5 characters",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("check", "sentence"),
    [
        ("address_state IN ('WV', 'OH')", "enter one of WV, OH"),
        ("address_state ~ '^[A-Z]{2}$'", "it is not in the form that is asked for there"),
        ("length(address_state) <= 2", "enter text whose number of characters is 2 or less"),
        ("address_state IS NULL OR length(trim(address_state)) BETWEEN 2 AND 3",
         "enter text whose number of characters is 2 or more and 3 or less"),
        ("lower(address_state) <> 'west virginia'", "ask the operator about its rule theirs"),
    ],
)  # fmt: skip
def test_a_rule_of_the_master_is_told_without_sql(steps, neon, supabase, check, sentence) -> None:
    alter(neon, f"ADD CONSTRAINT theirs CHECK ({check})")
    errors = told(steps, neon, supabase, state="West Virginia")
    assert errors == {"website": WEBSITE, "state": f"the master table refuses this value: {sentence}"}
    assert told(steps, neon, supabase, website="a.example") == {"state": errors["state"]}


@pytest.mark.parametrize("website", [None, "a.example"])
def test_a_field_that_the_master_needs_has_no_warning_beside(steps, neon, supabase, website) -> None:
    alter(neon, "ALTER employee_count SET NOT NULL")
    assert "employee_count" in told(steps, neon, supabase, website=website)
    row, neons = work(supabase, company(1)), invalid(neon, company(1))
    assert row["validation_warnings"].keys() == {"industry", "phone"}
    assert row["validation_warnings"] == neons["validation_warnings"] == ledger(neon, company(1))[-1]["warnings"]


def test_a_comment_on_a_constraint_is_what_the_enricher_reads(steps, neon, supabase) -> None:
    alter(neon, "ADD CONSTRAINT theirs CHECK (address_state = upper(address_state))")
    neon.execute("COMMENT ON CONSTRAINT theirs ON marketing.company_master IS 'enter the state in capital letters'")
    errors = told(steps, neon, supabase, state="wv")
    assert errors["state"] == "the master table refuses this value: enter the state in capital letters"


def test_a_rule_over_two_columns_is_told_at_both(steps, neon, supabase) -> None:
    alter(neon, "ADD CONSTRAINT theirs CHECK (industry IS NULL OR employee_count IS NOT NULL)")
    errors = told(steps, neon, supabase, industry="Mining")
    assert errors == {
        "website": WEBSITE,
        "industry": "the master table refuses this value together with employee_count: ask the operator about its rule theirs",
        "employee_count": "the master table refuses this value together with industry: ask the operator about its rule theirs",
    }
    assert told(steps, neon, supabase, website="a.example").keys() == {"industry", "employee_count"}
    assert told(steps, neon, supabase, employee_count=5) == {}


def test_a_rule_over_a_column_that_only_others_fill_is_asked_of_its_default(steps, neon, supabase) -> None:
    alter(
        neon, "ALTER description SET DEFAULT 'none yet'",
        "ADD CONSTRAINT theirs CHECK (description <> 'none yet' OR address_city IS NOT NULL)",
    )  # fmt: skip
    add_master(neon, 2, description="A mill", address_city="Elkins")
    assert told(steps, neon, supabase).keys() == {"website", "city"}
    assert told(steps, neon, supabase, number=2).keys() == {"website"}
    assert told(steps, neon, supabase, number=2, website="b.example") == {}


def test_a_domain_asks_as_its_column_would(steps, neon, supabase) -> None:
    neon.execute(
        "CREATE DOMAIN marketing.code AS varchar(5) NOT NULL CONSTRAINT digits CHECK (VALUE ~ '^[0-9]+$');"
        "CREATE DOMAIN marketing.zip AS marketing.code CONSTRAINT no_zero CHECK (VALUE <> '0')"
    )
    alter(neon, "ALTER address_zip TYPE marketing.zip")
    form = "the master table refuses this value: it is not in the form that is asked for there"
    assert told(steps, neon, supabase)["zip"] == NEEDED.format("zip")
    assert told(steps, neon, supabase, zip="wild")["zip"] == form
    assert told(steps, neon, supabase, zip="265011")["zip"].startswith("is too long")
    assert (
        told(steps, neon, supabase, zip="0")["zip"]
        == "the master table refuses this value: ask the operator about its rule no_zero"
    )
    assert told(steps, neon, supabase, zip="wild", website="a.example") == {"zip": form}
    assert told(steps, neon, supabase, zip=None) == {"zip": NEEDED.format("zip")}
    assert told(steps, neon, supabase, zip="26501") == {}


@pytest.mark.parametrize(
    ("type_", "least", "most"), [("SMALLINT", "-32768", "32767"), ("NUMERIC(4, 1)", "-999.9", "999.9")]
)
def test_a_number_that_the_masters_type_does_not_hold_is_told_at_its_field(
    steps, neon, supabase, type_, least, most
) -> None:
    alter(neon, f"ALTER employee_count TYPE {type_}", "ALTER address_state SET NOT NULL")
    sentence = f"the master table refuses this value: enter a number from {least} to {most}"
    errors = told(steps, neon, supabase, website="a.example", employee_count=40000)
    assert errors == {"employee_count": sentence, "state": NEEDED.format("state")}
    assert told(steps, neon, supabase, website=None)["employee_count"] == sentence
    assert told(steps, neon, supabase, employee_count=999)["website"] == WEBSITE


def test_a_rule_that_raises_breaks_nothing(steps, neon, supabase) -> None:
    alter(
        neon, "ADD CONSTRAINT theirs CHECK (100 / employee_count > 0)", "ADD CONSTRAINT sound CHECK (address_city <> 'Nowhere')",
    )  # fmt: skip
    add_companies(neon, 1, 2, 3)
    steps.pull()
    complete(supabase, company(1), employee_count=0, city="Nowhere")
    complete(supabase, company(2), employee_count=200, city="Nowhere")
    complete(supabase, company(3), employee_count=50)
    assert steps.deliver().outcomes == {"flagged": 3}
    rows = [work(supabase, company(number))["validation_errors"] for number in (1, 2, 3)]
    assert [row.keys() for row in rows] == [{"website", "city", "employee_count"}] * 2 + [{"website"}]
    complete(supabase, company(1), website="a.example")
    steps.deliver()
    assert work(supabase, company(1))["validation_errors"].keys() == {"city", "employee_count"}


@pytest.mark.parametrize(
    ("language", "body"),
    [
        ("plpgsql", "BEGIN INSERT INTO public.seen VALUES (1); RETURN true; END"),
        ("plpgsql", "BEGIN PERFORM 1 FROM public.nowhere; RETURN true; END"),
        ("plpgsql", "BEGIN RAISE insufficient_privilege; END"),
    ],
)
def test_a_rule_that_writes_or_may_not_be_asked_hides_no_other(steps, neon, supabase, language, body) -> None:
    add_companies(neon, 1)
    steps.pull()
    neon.execute(
        "CREATE TABLE public.seen (n int);"
        f"CREATE FUNCTION public.theirs(text) RETURNS boolean LANGUAGE {language} AS $$ {body} $$"
    )
    alter(neon, "ADD CONSTRAINT theirs CHECK (public.theirs(address_city))")
    assert told(steps, neon, supabase, employee_count=-1) == {"website": WEBSITE, "employee_count": NEGATIVE}
    assert neon.execute("SELECT count(*) AS n FROM public.seen").fetchone() == {"n": 0}


def test_a_person_who_waits_for_a_slot_is_not_told_of_it(steps, neon, supabase) -> None:
    add_people(neon, 1, title="Gardener")
    steps.pull("people")
    complete(supabase, person(1), email="none", company_unique_id="Alder Works")
    steps.deliver("people")
    errors = work(supabase, person(1))["validation_errors"]
    assert errors.keys() == {"email", "company_unique_id"}, "no company can ever have this key"
    complete(supabase, person(1), company_unique_id=company(1))
    steps.deliver("people")
    assert work(supabase, person(1))["validation_errors"].keys() == {"email"}
    add_master(neon, 1)
    add_slot(neon, 1, of=1, slot_type="CEO")
    add_slot(neon, 2, of=1, slot_type="CFO")
    complete(supabase, person(1))
    steps.deliver("people")
    assert work(supabase, person(1))["validation_errors"].keys() == {"email"}


def test_a_person_without_a_name_is_told_of_the_name_alone(steps, neon, supabase) -> None:
    add_master(neon, 1)
    add_slot(neon, 1, of=1)
    add_people(neon, 1, full_name=None)
    steps.pull("people")
    complete(supabase, person(1))
    steps.deliver("people")
    assert work(supabase, person(1))["validation_errors"].keys() == {"full_name", "email"}
    complete(supabase, person(1), full_name="Cher", email="n/a@n/a.com")
    steps.deliver("people")
    errors = work(supabase, person(1))["validation_errors"]
    assert errors.keys() == {"last_name", "email"}
    assert errors["last_name"] == NEEDED.format("last_name")


def test_what_the_master_has_already_is_not_asked_for(steps, neon, supabase) -> None:
    alter(
        neon, "ALTER employee_count SET NOT NULL", "ADD CONSTRAINT theirs CHECK (industry IS NULL OR address_state IS NOT NULL)",
    )  # fmt: skip
    add_master(neon, 1, employee_count=12, address_state="WV")
    assert told(steps, neon, supabase, industry="Mining") == {"website": WEBSITE}
    assert told(steps, neon, supabase, website="a.example") == {}
    row = master(neon, company(1))
    assert (row["employee_count"], row["address_state"], row["industry"]) == (12, "WV", "Mining")


def test_a_person_keeps_the_slot_that_the_master_has(steps, neon, supabase) -> None:
    add_master(neon, 1)
    neon.execute(
        "INSERT INTO marketing.people_master (unique_id, company_unique_id, company_slot_unique_id, first_name, last_name,"
        " source_system) VALUES (%s, %s, %s, 'Robin', 'Alder1', 'intake')", [person(1), company(1), slot(1)]
    )  # fmt: skip
    add_people(neon, 1, company_unique_id=None)
    steps.pull("people")
    complete(supabase, person(1), email="none")
    steps.deliver("people")
    assert work(supabase, person(1))["validation_errors"].keys() == {"email"}


def test_what_a_trigger_fills_is_not_asked_for(steps, neon, supabase) -> None:
    neon.execute(
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " NEW.address_state := coalesce(NEW.address_state, 'WV'); RETURN NEW; END $$;"
        "CREATE TRIGGER fill BEFORE INSERT ON marketing.company_master FOR EACH ROW EXECUTE FUNCTION fill()"
    )
    alter(neon, "ALTER address_state SET NOT NULL", "ALTER address_city SET NOT NULL")
    assert told(steps, neon, supabase) == {"website": WEBSITE, "city": NEEDED.format("city")}
    assert told(steps, neon, supabase, website="a.example", city="Elkins") == {}


def test_a_rule_that_is_dropped_while_the_worker_runs_is_not_told(
    prepared, cli, daemon, neon, supabase, eventually
) -> None:
    alter(neon, "ADD CONSTRAINT theirs CHECK (address_city <> 'Nowhere')", "ALTER address_state SET NOT NULL")
    add_companies(neon, 1, 2)
    daemon().wait_event("pull.done", entity="company")

    def errors(number: int) -> dict[str, str]:
        eventually(lambda: work(supabase, company(number))["pushed_to_neon_at"])
        return work(supabase, company(number))["validation_errors"]

    complete(supabase, company(1), city="Nowhere")
    assert errors(1).keys() == {"website", "city", "state"}
    alter(
        neon,
        "DROP CONSTRAINT theirs",
        "ALTER address_state DROP NOT NULL",
        "ADD CONSTRAINT new CHECK (address_zip <> '0')",
    )
    complete(supabase, company(1))
    complete(supabase, company(2), website="a.example", zip="0", employee_count=-1)
    assert errors(1).keys() == {"website"}
    assert errors(2).keys() == {"employee_count"}, "its refusal came first: what is new is found one by one"
    complete(supabase, company(2), employee_count=1)
    assert errors(2).keys() == {"zip"}


def test_all_ways_of_asking_agree_with_the_real_run(steps, cli, daemon, neon, supabase, eventually) -> None:
    alter(neon, "ALTER address_state SET NOT NULL", "ALTER address_zip TYPE VARCHAR(5)")
    add_companies(neon, 1, 2, 3)
    steps.pull()
    for number, website in ((1, None), (2, "b.example"), (3, "c.example")):
        bad = {"employee_count": -1, "zip": "26501-1234"} if number < 3 else {"employee_count": 1, "state": "WV"}
        complete(supabase, company(number), website=website, **bad)
    steps.push()
    keys = "\n".join(company(number) for number in (1, 2, 3))
    said = [
        cli("promote", "--dry-run", input=keys), cli("revalidate", "--entity", "company", "--dry-run"),
        cli("pipeline", "--yes", "--dry-run"), cli("promote", input=keys),
    ]  # fmt: skip
    steps.revalidate()
    rows = {number: work(supabase, company(number))["validation_errors"] for number in (1, 2)}
    assert rows[1].keys() == {"website", "employee_count", "state", "zip"}
    assert rows[2].keys() == {"employee_count", "state", "zip"}
    for done in said:
        for number in (1, 2):
            (line,) = (line for line in done.stderr.splitlines() if company(number) in line)
            assert all(f"{name}: {message}" in line for name, message in rows[number].items()), done.args
            assert company(number) not in done.stdout
    assert master(neon, company(3)) is not None
    daemon()
    for number in (1, 2):
        complete(supabase, company(number))
        eventually(lambda n=number: work(supabase, company(n))["pushed_to_neon_at"])
        assert work(supabase, company(number))["validation_errors"] == rows[number]


def test_revalidate_tells_the_same_list_and_leaves_alone_what_fails_as_before(steps, neon, supabase) -> None:
    alter(neon, "ALTER address_state SET NOT NULL")
    add_companies(neon, 1, 2)
    steps.pull()
    complete(supabase, company(1), employee_count=-1)
    complete(supabase, company(2), employee_count=-1, website="b.example")
    steps.push()
    first = steps.revalidate()
    assert (first.passed, first.failed.keys()) == ([], {company(1), company(2)})
    rows = [work(supabase, company(number))["validation_errors"] for number in (1, 2)]
    assert [row.keys() for row in rows] == [{"website", "employee_count", "state"}, {"employee_count", "state"}]
    booked = [len(ledger(neon, company(number))) for number in (1, 2)]
    again = steps.revalidate()
    assert {key: set(why.split("; ")) for key, why in again.failed.items()} == {
        key: set(why.split("; ")) for key, why in first.failed.items()
    }
    assert again.otherwise == []
    assert [len(ledger(neon, company(number))) for number in (1, 2)] == booked


def test_a_record_that_not_even_the_invalid_table_holds_hides_nothing_of_the_others(steps, neon, supabase) -> None:
    alter(neon, "ALTER zip TYPE VARCHAR(5)", table="company_invalid")
    add_companies(neon, 1, 2)
    steps.pull()
    complete(supabase, company(1), zip="26501-1234", employee_count=-1)
    complete(supabase, company(2), zip="26501", employee_count=-1)
    assert steps.deliver().outcomes == {"flagged": 2}
    assert "too long" in json.dumps(work(supabase, company(1))["validation_errors"])
    assert work(supabase, company(2))["validation_errors"] == {"website": WEBSITE, "employee_count": NEGATIVE}


def test_a_rule_over_a_generated_column_is_told_at_what_it_is_made_of(steps, neon, supabase) -> None:
    alter(neon, "ADD CONSTRAINT theirs CHECK (length(full_name) < 30)", table="people_master")
    add_master(neon, 1)
    add_slot(neon, 1, of=1)
    add_people(neon, 1, full_name="Robin " + "Alder" * 9)
    steps.pull("people")
    complete(supabase, person(1), email="none")
    steps.deliver("people")
    row = work(supabase, person(1))
    assert row["validation_errors"].keys() == {"email", "full_name"}
    assert row["validation_errors"]["full_name"].endswith("enter text whose number of characters is less than 30")
    complete(supabase, person(1), email="robin@alder.example")
    steps.deliver("people")
    assert work(supabase, person(1))["validation_errors"] == {"full_name": row["validation_errors"]["full_name"]}


@pytest.mark.parametrize("website", ["n/a", "a.example"])
def test_telling_all_costs_no_round_trip(steps, neon, supabase, monkeypatch, website) -> None:
    add_companies(neon, 1, 2)
    steps.pull()
    complete(supabase, company(1), website="n/a", employee_count=-1)
    complete(supabase, company(2), website=website)
    sent = []
    exchange = transaction.exchange

    async def counted(connection, statements):
        sent.append(connection.info.dbname)
        return await exchange(connection, statements)

    async def deliver_one_batch(opened) -> None:
        monkeypatch.setattr(transaction, "exchange", counted)
        await deliver(opened, ENTITIES["company"])

    steps.run(deliver_one_batch)
    here, there = supabase.info.dbname, neon.info.dbname
    assert sent == [here, there, here]
    assert work(supabase, company(1))["validation_errors"].keys() == {"website", "employee_count"}


def test_a_refused_record_among_many_costs_its_part_only(steps, neon, supabase) -> None:
    add_companies(neon, *range(1, 501))
    steps.pull()
    supabase.execute("UPDATE company_needs_enrichment SET enrichment_status = 'complete', website = 'c' || neon_id || '.example',"
                     " employee_count = CASE neon_id WHEN 250 THEN -1 END")  # fmt: skip
    supabase.execute("UPDATE company_needs_enrichment SET website = NULL, employee_count = -1 WHERE neon_id = 300")
    assert steps.deliver().outcomes == {"promoted": 498, "flagged": 2}
    flagged = supabase.execute("SELECT validation_errors FROM company_needs_enrichment WHERE enrichment_status = 'failed'"
                               " ORDER BY neon_id").fetchall()  # fmt: skip
    assert json.dumps(flagged[0]["validation_errors"]).count("0 or more") == 1
    assert flagged[1]["validation_errors"] == {"website": WEBSITE, "employee_count": NEGATIVE}
