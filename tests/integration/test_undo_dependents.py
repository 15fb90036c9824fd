"""``undo`` when other rows reference the master row: each is named, none is touched. SPEC 7."""

from __future__ import annotations

import json
import subprocess
import sys

import psycopg
import pytest
from conftest import _environment, as_role
from records import (
    add_companies,
    add_people,
    add_slot,
    company,
    complete,
    everything,
    invalid,
    ledger,
    master,
    person,
    slot,
    work,
)

COMPANY_OF_PEOPLE = (
    "ALTER TABLE marketing.people_master ADD FOREIGN KEY (company_unique_id) REFERENCES marketing.company_master"
)


@pytest.fixture
def promoted(cli, prepared, neon, supabase) -> str:
    """A company, and its person with a slot, both promoted; the company's key."""
    add_companies(neon, 1, employee_count=7)
    add_slot(neon, 1, of=1)
    add_people(neon, 1, of=1)
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="c1.example")
    complete(supabase, person(1), email="robin@alder.example")
    assert cli("pipeline", "--yes").returncode == 0
    assert master(neon, person(1)) is not None
    return company(1)


def refused(cli, neon, supabase, key: str) -> tuple[str, list[dict[str, object]]]:
    """What an undo says that is refused: for a dry run the same, both databases untouched, the data beside."""
    before = everything(neon), everything(supabase)
    done, dry = cli("undo", key, "--json"), cli("undo", key, "--dry-run")
    assert (done.returncode, dry.returncode) == (1, 1)
    assert done.stderr == dry.stderr
    assert done.stderr.count("\n") == 1
    now = everything(neon), everything(supabase)
    for here, there in zip(now, before, strict=True):
        assert _without_locks(here) == _without_locks(there)
    told = json.loads(done.stdout)
    assert (told["undone"], list(told["refused"])) == ({}, [key])
    return done.stderr, told["dependents"][key]


def _without_locks(state):
    """A lock leaves its mark in a row's xmax."""
    return {name: [{k: v for k, v in row.items() if k != "xmax"} for row in rows] for name, rows in state.items()}


def named(rows) -> set[tuple[str, str, str]]:
    return {(one["table"], " ".join(map(str, one["key"].values())), one["action"]) for one in rows}


def test_slots_and_people_that_a_cascade_would_take_are_named_and_stay(cli, promoted, neon, supabase) -> None:
    neon.execute(f"{COMPANY_OF_PEOPLE} ON DELETE CASCADE")
    neon.execute("ALTER TABLE marketing.company_slots ADD FOREIGN KEY (company_unique_id)"
                 " REFERENCES marketing.company_master ON DELETE CASCADE")  # fmt: skip
    said, rows = refused(cli, neon, supabase, promoted)
    assert said == (
        f"refused {promoted}: 2 rows hang on its master row: marketing.company_slots, which ON DELETE CASCADE would"
        f" delete: company_slot_unique_id={slot(1)}; marketing.people_master, which ON DELETE CASCADE would delete:"
        f" unique_id={person(1)}\n"
    )
    assert len(rows) == 2
    done = cli("undo", person(1))
    assert done.returncode == 0, done.stderr
    assert invalid(neon, person(1)) is not None


def test_every_action_of_a_foreign_key_is_told_by_name(cli, promoted, neon, supabase) -> None:
    actions = ["CASCADE", "NO ACTION", "RESTRICT", "SET DEFAULT", "SET NULL"]
    for number, action in enumerate(actions):
        neon.execute(f"CREATE TABLE marketing.deals_{number} (id int PRIMARY KEY, of text DEFAULT NULL"
                     f" REFERENCES marketing.company_master ON DELETE {action} DEFERRABLE INITIALLY DEFERRED)")  # fmt: skip
        neon.execute(f"INSERT INTO marketing.deals_{number} VALUES (7, %s), (8, NULL)", [promoted])
    said, rows = refused(cli, neon, supabase, promoted)
    expected = {(f"marketing.deals_{number}", "7", f"ON DELETE {action}") for number, action in enumerate(actions)}
    assert named(rows) == expected
    assert "5 rows hang on its master row: marketing.deals_0, which ON DELETE CASCADE would delete: id=7; " in said
    assert "marketing.deals_1, for which ON DELETE NO ACTION refuses: id=7; " in said
    assert "marketing.deals_4, which ON DELETE SET NULL would change: id=7\n" in said
    for number in range(len(actions)):
        neon.execute(f"UPDATE marketing.deals_{number} SET of = NULL")
    assert cli("undo", promoted).returncode == 0
    assert master(neon, promoted) is None


def test_the_customers_own_slots_are_named_once_though_two_ways_lead_there(cli, promoted, neon, supabase) -> None:
    neon.execute(
        f"""{COMPANY_OF_PEOPLE} ON DELETE CASCADE;
        CREATE TABLE marketing.company_slot (company_slot_unique_id TEXT PRIMARY KEY,
          company_unique_id TEXT NOT NULL REFERENCES marketing.company_master ON DELETE CASCADE,
          person_unique_id TEXT REFERENCES marketing.people_master ON DELETE SET NULL, slot_type TEXT,
          UNIQUE (company_unique_id, slot_type));
        CREATE TABLE marketing.calls (id int PRIMARY KEY,
          slot TEXT REFERENCES marketing.company_slot ON DELETE SET NULL)"""
    )
    neon.execute("INSERT INTO marketing.company_slot VALUES ('s1', %s, %s, 'CEO'), ('s2', %s, NULL, 'HR')",
                 [promoted, person(1), promoted])  # fmt: skip
    neon.execute("INSERT INTO marketing.calls VALUES (1, 's1'), (2, 's2'), (3, NULL)")
    _, rows = refused(cli, neon, supabase, promoted)
    assert len(rows) == 5
    assert named(rows) == {
        ("marketing.company_slot", "s1", "ON DELETE CASCADE"),
        ("marketing.company_slot", "s2", "ON DELETE CASCADE"),
        ("marketing.people_master", person(1), "ON DELETE CASCADE"),
        ("marketing.calls", "1", "ON DELETE SET NULL"),
        ("marketing.calls", "2", "ON DELETE SET NULL"),
    }
    _, rows = refused(cli, neon, supabase, person(1))
    assert named(rows) == {("marketing.company_slot", "s1", "ON DELETE SET NULL")}


def test_foreign_keys_of_every_shape_are_followed_to_the_end(cli, promoted, neon, supabase) -> None:
    neon.execute(
        """ALTER TABLE marketing.company_master ADD UNIQUE (company_unique_id, company_name),
          ADD UNIQUE (website_url), ADD parent text REFERENCES marketing.company_master ON DELETE CASCADE;
        CREATE SCHEMA "Our ""own"" sales";
        -- Two columns, quoted names, a key of two.
        CREATE TABLE "Our ""own"" sales"."Deals, all" ("Of" text, name varchar(99), "No." int, PRIMARY KEY (name, "No."),
          FOREIGN KEY ("Of", name) REFERENCES marketing.company_master (company_unique_id, company_name) ON DELETE CASCADE);
        -- Rows that hang on themselves, and a circle of two tables.
        CREATE TABLE marketing.notes (id int PRIMARY KEY, deal int, deal_name text, above int REFERENCES marketing.notes
          ON DELETE CASCADE, FOREIGN KEY (deal_name, deal) REFERENCES "Our ""own"" sales"."Deals, all" ON DELETE CASCADE);
        CREATE TABLE marketing.rings (id int PRIMARY KEY REFERENCES marketing.notes ON DELETE CASCADE);
        ALTER TABLE marketing.notes ADD ring int REFERENCES marketing.rings ON DELETE CASCADE;
        -- Partitioned, without a primary key; by another column than the master's key; in another collation.
        CREATE TABLE marketing.visits (site text REFERENCES marketing.company_master (website_url), year int)
          PARTITION BY LIST (year);
        CREATE TABLE marketing.visits_25 PARTITION OF marketing.visits FOR VALUES IN (2025);
        CREATE TABLE marketing.visits_26 PARTITION OF marketing.visits FOR VALUES IN (2026);
        CREATE TABLE marketing.links (id int PRIMARY KEY, site text COLLATE "C" REFERENCES marketing.company_master
          (website_url) ON DELETE SET NULL UNIQUE, other int);
        -- It would be changed because the one before it would be.
        CREATE TABLE marketing.hits (id int PRIMARY KEY, site text COLLATE "C" REFERENCES marketing.links (site)
          ON UPDATE CASCADE);
        -- It would not: it refers to another column of a row that stays.
        ALTER TABLE marketing.links ADD UNIQUE (other);
        CREATE TABLE marketing.others (id int PRIMARY KEY, other int REFERENCES marketing.links (other) ON DELETE CASCADE
          ON UPDATE CASCADE)"""
    )
    neon.execute("UPDATE marketing.company_master SET parent = NULL")
    key, site = promoted, master(neon, promoted)["website_url"]
    neon.execute('INSERT INTO "Our ""own"" sales"."Deals, all" VALUES (%s, %s, 1)', [key, "Alder Works 1"])
    neon.execute("INSERT INTO marketing.notes VALUES (1, 1, 'Alder Works 1', 2), (2, NULL, NULL, 1), (3, NULL, NULL, 2),"
                 " (4, NULL, NULL, 4); INSERT INTO marketing.rings VALUES (1), (2), (4);"
                 "UPDATE marketing.notes SET ring = 2 WHERE id = 1; UPDATE marketing.notes SET ring = 4 WHERE id = 4")  # fmt: skip
    neon.execute("INSERT INTO marketing.visits VALUES (%(s)s, 2025), (%(s)s, 2026), (NULL, 2026)", {"s": site})
    neon.execute("INSERT INTO marketing.links VALUES (1, %s, 9)", [site])
    neon.execute("INSERT INTO marketing.hits VALUES (1, %s), (2, NULL)", [site])
    neon.execute("INSERT INTO marketing.others VALUES (1, 9)")
    said, rows = refused(cli, neon, supabase, key)
    assert named(rows) == {
        ('Our "own" sales.Deals, all', "Alder Works 1 1", "ON DELETE CASCADE"),
        ("marketing.notes", "1", "ON DELETE CASCADE"),
        ("marketing.notes", "2", "ON DELETE CASCADE"),
        ("marketing.notes", "3", "ON DELETE CASCADE"),
        ("marketing.rings", "1", "ON DELETE CASCADE"),
        ("marketing.rings", "2", "ON DELETE CASCADE"),
        ("marketing.visits", f"{site} (0,1)", "ON DELETE NO ACTION"),
        ("marketing.links", "1", "ON DELETE SET NULL"),
        ("marketing.hits", "1", "ON UPDATE CASCADE"),
    }
    assert len(rows) == 10, "a row of each partition"
    assert f"site={site} ctid=(0,1)" in said


def test_a_row_that_refers_to_itself_does_not_hold_itself(cli, promoted, neon) -> None:
    neon.execute("ALTER TABLE marketing.company_master ADD parent text GENERATED ALWAYS AS (company_unique_id) STORED"
                 " REFERENCES marketing.company_master ON DELETE RESTRICT")  # fmt: skip
    # The column rewrote the table, and what came since is no change of the row that anybody made.
    neon.execute("UPDATE marketing.enrichment_ledger l SET master_after = to_jsonb(m) FROM marketing.company_master m"
                 " WHERE l.key = m.company_unique_id")  # fmt: skip
    done = cli("undo", promoted)
    assert done.returncode == 0, done.stderr
    assert master(neon, promoted) is None


def test_of_thousands_some_are_named_the_others_counted_and_the_data_have_them_all(
    cli, promoted, neon, supabase
) -> None:
    neon.execute(
        """CREATE TABLE marketing.events (id int PRIMARY KEY, of text REFERENCES marketing.company_master ON DELETE CASCADE);
        CREATE TABLE marketing.parts (id int PRIMARY KEY, event int REFERENCES marketing.events ON DELETE CASCADE)"""
    )
    neon.execute("INSERT INTO marketing.events SELECT n, %s FROM generate_series(1, 5000) n", [promoted])
    neon.execute("INSERT INTO marketing.parts SELECT n, n FROM generate_series(1, 3000) n")
    said, rows = refused(cli, neon, supabase, promoted)
    assert "8,000 rows hang on its master row" in said
    assert "id=20 and 4,980 more; marketing.parts" in said
    assert "and 2,980 more" in said
    assert len(said) < 2000
    assert len(rows) == 8000


def test_a_table_that_the_role_may_not_read_is_named_with_its_grant(
    cli, promoted, neon, supabase, databases, env
) -> None:
    neon.execute('CREATE TABLE marketing."Deals" (id int PRIMARY KEY, of text REFERENCES marketing.company_master'
                 " ON DELETE CASCADE); CREATE SCHEMA vault; CREATE TABLE vault.notes (id int PRIMARY KEY, deal int"
                 ' REFERENCES marketing."Deals" ON DELETE CASCADE);'
                 ' INSERT INTO marketing."Deals" SELECT 1, company_unique_id FROM marketing.company_master;'
                 "INSERT INTO vault.notes VALUES (1, 1)")  # fmt: skip
    role = f"clerk_{neon.info.dbname}"
    neon.execute(f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA marketing TO {role};"
                 f"GRANT SELECT, INSERT, UPDATE, DELETE ON marketing.company_invalid, marketing.company_master,"
                 f" marketing.people_invalid, marketing.people_master, public.shq_validation_log TO {role};"
                 f"GRANT SELECT, INSERT ON marketing.enrichment_ledger, marketing.enrichment_receipts TO {role};"
                 f"GRANT SELECT ON marketing.company_slots TO {role}")  # fmt: skip
    env["NEON_DATABASE_URL"] = as_role(databases.neon_url, role, "any")
    try:
        said, rows = refused(cli, neon, supabase, promoted)
        assert rows == []
        grant = f'GRANT SELECT ON marketing."Deals" TO {role}'
        assert said == f"refused {promoted}: it cannot see what hangs on it in marketing.Deals: {grant}\n"
        neon.execute(grant)
        said, rows = refused(cli, neon, supabase, promoted)
        assert named(rows) == {("marketing.Deals", "1", "ON DELETE CASCADE")}
        grants = f"GRANT USAGE ON SCHEMA vault TO {role}; GRANT SELECT ON vault.notes TO {role}"
        assert said.endswith(f"; it cannot see what hangs on it in vault.notes: {grants}\n")
        neon.execute(grants)
        # Row level security hides rows without a word.
        neon.execute('ALTER TABLE marketing."Deals" ENABLE ROW LEVEL SECURITY')
        said, rows = refused(cli, neon, supabase, promoted)
        assert rows == []
        policy = said.strip().partition("marketing.Deals: ")[2]
        assert policy.startswith("CREATE POLICY")
        neon.execute(policy)
        said, rows = refused(cli, neon, supabase, promoted)
        assert len(rows) == 2
        assert "cannot see" not in said
        neon.execute('CREATE POLICY part ON marketing."Deals" AS RESTRICTIVE USING (id > 1)')
        said, rows = refused(cli, neon, supabase, promoted)
        assert said.endswith(f"ALTER ROLE {role} BYPASSRLS\n")
        neon.execute(f"ALTER ROLE {role} BYPASSRLS")
        neon.execute('DELETE FROM marketing."Deals"')
        done = cli("undo", promoted)
        assert done.returncode == 0, done.stderr
    finally:
        neon.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_master_row_that_stood_before_goes_back_unless_a_value_that_rows_refer_to_would_change(
    cli, promoted, neon, supabase
) -> None:
    actions = ["CASCADE", "NO ACTION", "SET NULL"]
    neon.execute("ALTER TABLE marketing.company_master ADD UNIQUE (website_url);"
                 "CREATE TABLE marketing.deals (id int PRIMARY KEY, of text REFERENCES marketing.company_master)")  # fmt: skip
    neon.execute("INSERT INTO marketing.deals VALUES (1, %s)", [promoted])
    for number, action in enumerate(actions):
        neon.execute(f"CREATE TABLE marketing.sites_{number} (id int PRIMARY KEY, of text REFERENCES"
                     f" marketing.company_master (website_url) ON UPDATE {action})")  # fmt: skip
    add_companies(neon, 1, website="n/a", industry="Timber")
    assert cli("pull", "--full").returncode == 0
    complete(supabase, promoted, website="https://new.example")
    assert cli("pipeline", "--yes").returncode == 0
    assert master(neon, promoted)["website_url"] == "https://new.example"
    for number in range(3):
        neon.execute(f"INSERT INTO marketing.sites_{number} VALUES (1, 'https://new.example')")
    said, rows = refused(cli, neon, supabase, promoted)
    expected = {(f"marketing.sites_{number}", "1", f"ON UPDATE {action}") for number, action in enumerate(actions)}
    assert named(rows) == expected, said
    for number in range(3):
        neon.execute(f"DELETE FROM marketing.sites_{number}")
    done = cli("undo", promoted)
    assert "as it was" in done.stdout, done.stderr
    assert master(neon, promoted)["website_url"] == "https://c1.example"


@pytest.mark.parametrize("first", [0, 1])
def test_what_hangs_on_a_record_that_is_taken_back_too_goes_before_it(cli, promoted, neon, supabase, first) -> None:
    neon.execute(f"{COMPANY_OF_PEOPLE} ON DELETE CASCADE")
    keys = [promoted, person(1)][:: -1 if first else 1]
    before = everything(neon), everything(supabase)
    dry = cli("undo", "--dry-run", *keys)
    assert dry.returncode == 0, dry.stderr
    assert [line.split(":")[0] for line in dry.stdout.splitlines()] == [
        f"would undo {person(1)}", f"would undo {promoted}"
    ]  # fmt: skip
    assert (everything(neon), everything(supabase)) == before
    done = cli("undo", *keys)
    assert done.returncode == 0, done.stderr
    for key in keys:
        assert (master(neon, key), ledger(neon, key)[-1]["outcome"]) == (None, "undone")
        assert work(supabase, key)["enrichment_status"] == "pending"


def test_a_dry_run_holds_a_company_whose_person_the_real_run_would_not_take_back(cli, promoted, neon, supabase) -> None:
    neon.execute(f"{COMPANY_OF_PEOPLE} ON DELETE CASCADE")
    neon.execute("UPDATE marketing.people_master SET title = 'Boss'")
    dry, done = cli("undo", "--dry-run", promoted, person(1)), cli("undo", promoted, person(1))
    assert (dry.returncode, done.returncode) == (1, 1)
    assert dry.stderr == done.stderr
    assert f"refused {person(1)}: its master row has changed since" in dry.stderr
    assert f"refused {promoted}: 1 row hangs on its master row" in dry.stderr
    assert master(neon, promoted) is not None


@pytest.mark.parametrize("there", [True, False])
def test_a_dry_run_knows_where_a_person_would_be_who_is_put_back(cli, promoted, neon, supabase, there) -> None:
    """A person was moved to or from the company by a later promotion."""
    neon.execute(f"{COMPANY_OF_PEOPLE} ON DELETE CASCADE")
    add_companies(neon, 2)
    add_slot(neon, 2, of=2)
    assert cli("pull").returncode == 0
    complete(supabase, company(2), website="c2.example")
    assert cli("pipeline", "--yes").returncode == 0
    add_people(neon, 1, of=2)
    assert cli("pull", "--full").returncode == 0
    complete(supabase, person(1), email="robin@alder.example", company_unique_id=company(2))
    assert cli("pipeline", "--yes").returncode == 0
    assert master(neon, person(1))["company_unique_id"] == company(2)
    left, joined = (promoted, company(2)) if there else (company(2), promoted)
    keys = [joined if there else left, person(1)] if there else [promoted, person(1)]
    dry, done = cli("undo", "--dry-run", *keys), cli("undo", *keys)
    assert dry.stderr == done.stderr
    assert f"would undo {person(1)}" in dry.stdout
    if there:
        assert done.returncode == 0, done.stderr
        assert master(neon, company(2)) is None
    else:
        assert f"refused {promoted}: 1 row hangs on its master row" in dry.stderr
    assert master(neon, person(1))["company_unique_id"] == promoted


def test_a_reference_that_is_being_written_is_waited_for_and_seen(
    cli, promoted, neon, databases, env, tmp_path, eventually
) -> None:
    neon.execute("CREATE TABLE marketing.deals (id int PRIMARY KEY, of text REFERENCES marketing.company_master"
                 " ON DELETE CASCADE)")  # fmt: skip
    with psycopg.connect(databases.neon_url) as other:
        other.execute("INSERT INTO marketing.deals VALUES (1, %s)", [promoted])
        undo = subprocess.Popen([sys.executable, "-m", "worker", "undo", promoted], env=_environment(env), cwd=tmp_path,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # fmt: skip
        eventually(lambda: neon.execute(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'").fetchone()
            is not None)  # fmt: skip
        other.commit()
    _, said = undo.communicate(timeout=60)
    assert undo.returncode == 1
    assert "marketing.deals, which ON DELETE CASCADE would delete: id=1" in said
    assert neon.execute("SELECT count(*) AS n FROM marketing.deals").fetchone()["n"] == 1


def test_a_trigger_that_keeps_a_row_where_it_is_is_told_and_nothing_is_done(cli, promoted, neon, supabase) -> None:
    before = ledger(neon, promoted), master(neon, promoted), everything(supabase)
    for table, event, body in (
        ("company_master", "BEFORE DELETE", "RETURN NULL;"),
        ("company_master", "AFTER DELETE", "INSERT INTO marketing.company_master SELECT OLD.*; RETURN NULL;"),
        ("company_invalid", "BEFORE INSERT", "RETURN NULL;"),
    ):
        neon.execute(f"CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$;"
                     f"CREATE TRIGGER keep {event} ON marketing.{table} FOR EACH ROW EXECUTE FUNCTION keep()")  # fmt: skip
        done = cli("undo", promoted)
        assert done.returncode == 1
        assert f"a trigger or a rule of marketing.{table} does not let its row" in done.stderr
        assert (ledger(neon, promoted), master(neon, promoted), everything(supabase)) == before
        assert invalid(neon, promoted) is None
        neon.execute("DROP FUNCTION keep CASCADE")


def test_a_foreign_key_that_is_not_enforced_holds_nothing(cli, promoted, neon) -> None:
    if neon.info.server_version < 180000:
        pytest.skip("PostgreSQL 18 has them")
    neon.execute(
        "CREATE TABLE marketing.deals (of text, FOREIGN KEY (of) REFERENCES marketing.company_master NOT ENFORCED)"
    )
    neon.execute("INSERT INTO marketing.deals VALUES (%s)", [promoted])
    done = cli("undo", promoted)
    assert done.returncode == 0, done.stderr
