"""Tables that were there before the worker: what of them is adopted, and what is named. SPEC 2."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import guide
import pytest
from conftest import as_role
from declared import ENTITIES
from records import (
    add_companies,
    add_master,
    add_people,
    add_slot,
    company,
    complete,
    edit,
    everything,
    invalid,
    ledger,
    master,
    person,
    work,
)

from worker.domain.model import utc

WORKSPACE = "public.company_needs_enrichment"


def made(neon, supabase, *, there=str, here=str) -> None:
    """The guide's tables, changed as these say."""
    neon.execute("CREATE SCHEMA marketing;" + "".join(there(guide.invalid_table(kind)) for kind in guide.KEYS))
    supabase.execute("".join(here(guide.workspace_table(kind)) for kind in guide.KEYS))


def statements(line: str) -> str:
    """What a line of the worker's offers to be pasted."""
    found = re.search(r"((?:DROP|ALTER|SELECT setval|CREATE POLICY).*;)\s*$", line)
    assert found, line
    return found[1]


def named(done, about: str) -> list[str]:
    assert done.returncode == 1, done.stdout + done.stderr
    return [line for line in done.stderr.splitlines() if about in line]


def same(before, *connections) -> bool:
    return before == [everything(one) for one in connections]


def goes_round(cli, neon, supabase, number: int = 1) -> None:
    """A pull, a repair that is refused, one that passes, and a person after it."""
    add_companies(neon, number, number + 1, phone="+13045550100", employee_count=12)
    add_people(neon, number, of=number, first_name="Robin", last_name="Alder")
    assert cli("pull").returncode == 0
    assert work(supabase, company(number))["phone"] == "+13045550100"
    complete(supabase, company(number), website="n/a")
    complete(supabase, company(number + 1), website="https://b.example")
    assert cli("pipeline", "--yes").returncode == 0
    assert work(supabase, company(number))["enrichment_status"] == "failed"
    assert master(neon, company(number + 1))["website_url"] == "https://b.example"
    complete(supabase, company(number), website="https://a.example", employee_count=40)
    add_slot(neon, number, number)
    complete(supabase, person(number), email="robin@a.example", title="CEO")
    assert cli("pipeline", "--yes").returncode == 0
    assert work(supabase, company(number))["promoted_at"] is not None
    assert master(neon, company(number))["employee_count"] == 40
    assert master(neon, person(number))["email"] == "robin@a.example"


# What is read as what it is


@pytest.mark.parametrize(
    ("there", "here"),
    [(guide.with_zones, guide.with_zones), (guide.with_zones, str), (str, guide.with_zones)],
    ids=["both", "Neon's", "the workspace's"],
)
def test_dates_with_time_zones_are_read_as_what_they_are(
    cli, databases, neon, supabase, daemon, eventually, there, here
) -> None:
    made(neon, supabase, there=there, here=here)
    for connection, database in ((neon, databases.neon_url), (supabase, databases.supabase_url)):
        name = database.rpartition("/")[2]
        connection.execute(f"ALTER DATABASE {name} SET TimeZone = 'Pacific/Auckland'")
        connection.execute("SET TimeZone = 'Asia/Kolkata'")
    assert cli("setup").returncode == 0
    assert cli("doctor").returncode == 0
    goes_round(cli, neon, supabase)
    for command in (("status",), ("status", "--json"), ("history", company(1)), ("history", person(1))):
        assert cli(*command).returncode == 0, command
    assert cli("undo", company(2)).returncode == 0
    assert work(supabase, company(2))["enrichment_status"] == "pending"
    # An edit in any session's time zone moves updated_at on, by the clock.
    edit(supabase, company(2), website="https://c.example")
    moved = work(supabase, company(2))["updated_at"]
    assert abs(utc(moved) - datetime.now(UTC).replace(tzinfo=None)) < timedelta(minutes=5)
    # The trigger counts in UTC, and leaves the session, and its transaction, in the zone that it was in.
    with supabase.transaction():
        supabase.execute("SET LOCAL TimeZone = 'Asia/Tokyo'")
        edit(supabase, company(2), city="Kolkata")
        assert supabase.execute("SHOW TimeZone").fetchone() == {"TimeZone": "Asia/Tokyo"}
    assert supabase.execute("SHOW TimeZone").fetchone() == {"TimeZone": "Asia/Kolkata"}
    # Newer wins: Neon's change was before the enricher's.
    neon.execute("UPDATE marketing.company_invalid SET website = 'https://neon.example', updated_at = now() AT TIME ZONE 'UTC' - interval '1 hour'"
                 " WHERE company_unique_id = %s", [company(2)])  # fmt: skip
    worker = daemon()
    complete(supabase, company(2), website="https://d.example")
    eventually(lambda: work(supabase, company(2))["promoted_at"])
    assert master(neon, company(2))["website_url"] == "https://d.example"
    assert worker.health("/status.json")[0] == worker.health("/")[0] == worker.health("/readyz")[0] == 200
    assert cli("pull", "--full").returncode == 0


def test_retention_works_by_dates_with_time_zones(cli, env, databases, neon, supabase, daemon, eventually) -> None:
    made(neon, supabase, there=guide.with_zones, here=guide.with_zones)
    assert cli("setup").returncode == 0
    goes_round(cli, neon, supabase)
    supabase.execute("ALTER TABLE company_needs_enrichment DISABLE TRIGGER USER")
    supabase.execute("UPDATE company_needs_enrichment SET promoted_at = now() - interval '40 days',"
                     " pushed_to_neon_at = now() - interval '40 days' WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    supabase.execute("ALTER TABLE company_needs_enrichment ENABLE TRIGGER USER")
    supabase.execute("UPDATE enrichment_pull_position SET last_pull_at = NULL")
    env["WORKER_WORKSPACE_RETENTION"] = "30"
    daemon()
    eventually(lambda: not supabase.execute("SELECT 1 FROM company_needs_enrichment WHERE company_unique_id = %s",
                                            [company(1)]).fetchall())  # fmt: skip
    assert work(supabase, company(2))["promoted_at"] is not None


def _varchars(made: str) -> str:
    return made.replace("unique_id TEXT UNIQUE", "unique_id VARCHAR(30) UNIQUE").replace("enrichment_status TEXT",
        "enrichment_status VARCHAR(20)").replace("state TEXT", "state VARCHAR(200)").replace(
        "last_sync_hash TEXT", "last_sync_hash CHAR(32)")  # fmt: skip


def _domains(made: str) -> str:
    return ("CREATE DOMAIN public.key_text AS VARCHAR(40) CHECK (VALUE <> ''); CREATE DOMAIN public.many AS INTEGER;"
            + made.replace("unique_id TEXT UNIQUE", "unique_id public.key_text UNIQUE")
            .replace("employee_count INTEGER", "employee_count public.many")) if "company_invalid" in made or "company_needs" in made else made  # fmt: skip


def _numbers(made: str) -> str:
    return made.replace("employee_count INTEGER", "employee_count NUMERIC").replace("id BIGSERIAL", "id SERIAL")


def _identity(made: str) -> str:
    return made.replace("id BIGSERIAL PRIMARY KEY", "id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY")


def _index(made: str) -> str:
    kind = "company" if "company_unique_id TEXT UNIQUE" in made else "people"
    table = re.search(r"CREATE TABLE (\S+)", made)[1]
    return (made.replace(" TEXT UNIQUE NOT NULL", " TEXT NOT NULL")
            + f"CREATE UNIQUE INDEX their_key ON {table} ({guide.KEYS[kind]}) INCLUDE (id);").replace("their_key", f"their_{kind}")  # fmt: skip


def _parts(made: str) -> str:
    kind = "company" if "company_unique_id TEXT UNIQUE" in made else "people"
    table = re.search(r"CREATE TABLE (\S+)", made)[1]
    whole, _, rest = made.partition(");")
    whole = whole.replace("id BIGSERIAL PRIMARY KEY", "id BIGSERIAL", 1)
    return (f"{whole}) PARTITION BY HASH ({guide.KEYS[kind]});"
            f"CREATE TABLE {table}_0 PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
            f"CREATE TABLE {table}_1 PARTITION OF {table} FOR VALUES WITH (MODULUS 2, REMAINDER 1);{rest}")  # fmt: skip


def _bare(made: str) -> str:
    return made.replace(" DEFAULT 'pending'", "").replace(" TIMESTAMP DEFAULT now()", " TIMESTAMP")


def _secured(made: str) -> str:
    return made + "".join(
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;" for table in re.findall(r"CREATE TABLE (\S+)", made)
    )


@pytest.mark.parametrize("change", [_varchars, _domains, _numbers, _identity, _index, _parts, _bare, _secured])
def test_a_table_that_is_made_otherwise_and_can_work_does(cli, databases, neon, supabase, change) -> None:
    made(neon, supabase, there=change, here=change)
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    found = cli("doctor")
    assert found.returncode == 0, found.stdout
    goes_round(cli, neon, supabase)


# What cannot work

# Changes of the guide's tables that go together, each with what its line says. Its statement is pasted, and then all works.
UNFIT = {
    "keys and numbers": {
        "here": {
            "ALTER COLUMN id DROP DEFAULT, ALTER COLUMN id TYPE UUID USING gen_random_uuid()": ".id is of type uuid",
            "DROP CONSTRAINT company_needs_enrichment_company_unique_id_key": ".company_unique_id is not unique",
            "ALTER COLUMN company_unique_id TYPE CHAR(30)": ".company_unique_id is of type character(30)",
            "ALTER COLUMN employee_count TYPE TEXT": ".employee_count is of type text",
            "ALTER COLUMN industry TYPE TEXT[] USING ARRAY[industry]": ".industry is of type text[]",
            "ALTER COLUMN updated_at TYPE DATE": ".updated_at is of type date",
            "ALTER COLUMN state TYPE CHAR(2)": ".state is of type character(2)",
            "ADD COLUMN source_repo TEXT NOT NULL": ".source_repo is NOT NULL",
            'ADD COLUMN "Source Repo" UUID NOT NULL': ".Source Repo is NOT NULL",
            "ADD COLUMN validation_errors JSON NOT NULL DEFAULT '{}'": ".validation_errors is of type json",
            "ALTER COLUMN pushed_to_neon_at SET DEFAULT now()": ".pushed_to_neon_at has a default",
        },
        "there": {
            "DROP CONSTRAINT company_invalid_company_unique_id_key": ".company_unique_id is not unique",
            "ALTER COLUMN company_unique_id DROP NOT NULL": ".company_unique_id may be empty",
            "ALTER COLUMN id DROP DEFAULT, ALTER COLUMN id TYPE UUID USING gen_random_uuid()": ".id is of type uuid",
            "ALTER COLUMN employee_count TYPE TEXT": ".employee_count is of type text",
            "ALTER COLUMN validation_errors TYPE JSON": ".validation_errors is of type json",
            "ALTER COLUMN updated_at TYPE DATE": ".updated_at is of type date",
            "ADD COLUMN still_invalid TEXT DEFAULT 'f'": ".still_invalid is of type text",
            "ADD COLUMN enrichment_status status DEFAULT 'pending'": ".enrichment_status is of type status",
            "DROP COLUMN zip": " lacks zip",
        },
    },
    "constraints": {
        "here": {
            "ALTER COLUMN id DROP DEFAULT": ".id has no default",
            "DROP CONSTRAINT company_needs_enrichment_company_unique_id_key, ADD UNIQUE (company_unique_id) DEFERRABLE": ".company_unique_id is unique by a DEFERRABLE",
            "ALTER COLUMN company_unique_id DROP NOT NULL": ".company_unique_id may be empty",
            "ALTER COLUMN phone SET NOT NULL": ".phone is NOT NULL, and may be empty in Neon",
            "ALTER COLUMN employee_count TYPE NUMERIC(10, 2)": ".employee_count is of type numeric(10,2)",
            "ALTER COLUMN industry TYPE status USING NULL": ".industry is of type status",
            "ALTER COLUMN enrichment_status DROP DEFAULT, ALTER COLUMN enrichment_status TYPE status USING 'pending', ALTER COLUMN enrichment_status SET DEFAULT 'pending'": ".enrichment_status is of type status",
            "ALTER COLUMN updated_at TYPE TIMESTAMPTZ(0)": ".updated_at is of type timestamp(0) with time zone",
            "ADD COLUMN validation_errors JSONB NOT NULL": ".validation_errors is NOT NULL",
            "ADD COLUMN promoted_at TIMESTAMP NOT NULL": ".promoted_at is NOT NULL",
            "DROP COLUMN domain, ADD COLUMN domain TEXT GENERATED ALWAYS AS (lower(website)) STORED": ".domain is generated",
        },
        "there": {
            "ALTER COLUMN company_unique_id TYPE UUID USING gen_random_uuid()": ".company_unique_id is of type uuid",
            "ALTER COLUMN validation_warnings TYPE TEXT[] USING NULL": ".validation_warnings is of type text[]",
            "ALTER COLUMN zip TYPE INTEGER USING 1": ".zip is of type integer",
            "DROP COLUMN domain, ADD COLUMN domain TEXT GENERATED ALWAYS AS (lower(website)) STORED": ".domain is generated",
        },
    },
    "small and odd": {
        "here": {
            "ALTER COLUMN id DROP DEFAULT, ALTER COLUMN id TYPE UUID USING gen_random_uuid(), ALTER COLUMN id SET DEFAULT gen_random_uuid()": ".id is of type uuid",
            "ALTER COLUMN company_unique_id TYPE VARCHAR(12)": ".company_unique_id is of type character varying(12)",
            "ALTER COLUMN employee_count TYPE SMALLINT": ".employee_count is of type smallint",
            "ALTER COLUMN zip TYPE INTEGER USING 1": ".zip is of type integer",
            "ALTER COLUMN enrichment_status TYPE VARCHAR(8)": ".enrichment_status is of type character varying(8)",
            "ALTER COLUMN updated_at DROP DEFAULT, ALTER COLUMN updated_at TYPE TEXT, ALTER COLUMN updated_at SET DEFAULT ''": ".updated_at is of type text",
            "ADD COLUMN validation_errors TEXT DEFAULT '{}'": ".validation_errors is of type text",
            "DROP COLUMN city, ADD COLUMN city BIGINT GENERATED ALWAYS AS IDENTITY": ".city is GENERATED ALWAYS AS IDENTITY",
        },
    },
    "no way between the types": {
        "here": {
            "ALTER COLUMN id DROP DEFAULT, ALTER COLUMN id TYPE SMALLINT": ".id has no default",
            "ALTER COLUMN company_unique_id TYPE BIGINT USING 1": ".company_unique_id is of type bigint",
            "ALTER COLUMN employee_count TYPE INT4RANGE USING NULL": ".employee_count is of type int4range",
            "ALTER COLUMN enriched_at TYPE BOOLEAN USING NULL": ".enriched_at is of type boolean",
        },
    },
}  # fmt: skip


@pytest.mark.parametrize("group", UNFIT)
def test_what_cannot_work_is_named_with_the_statement_that_fixes_it(cli, databases, neon, supabase, group) -> None:
    made(neon, supabase)
    sides = {"there": (neon, "marketing.company_invalid"), "here": (supabase, WORKSPACE)}
    wanted = []
    for side, changes in UNFIT[group].items():
        connection, table = sides[side]
        connection.execute("CREATE TYPE public.status AS ENUM ('pending', 'in_progress', 'complete', 'failed')")
        for change, said in changes.items():
            connection.execute(f"ALTER TABLE {table} {change}")
            wanted.append((connection, table + said))
    before = [everything(neon), everything(supabase)]
    done = cli("setup")
    lines = {said: named(done, said) for _, said in wanted}
    assert {said: len(of) for said, of in lines.items()} == dict.fromkeys(lines, 1), done.stderr
    assert len(done.stderr.splitlines()) == len(wanted), done.stderr
    assert named(cli("setup", "--dry-run"), "") == done.stderr.splitlines()
    for command in ("pull", "run"):
        assert set(done.stderr.splitlines()) <= set(cli(command).stderr.splitlines()), command
    found = {
        one["text"]: one["hint"] for one in json.loads(cli("doctor", "--json").stdout) if one["level"] == "problem"
    }
    for said, (line,) in lines.items():
        assert [statements(fix) for text, fix in found.items() if said in text] == [statements(line)]
    assert same(before, neon, supabase)
    for connection, said in wanted:
        connection.execute(statements(lines[said][0]))
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    goes_round(cli, neon, supabase)


def test_all_that_cannot_work_is_named_at_once_and_nothing_is_done_in_either_database(
    cli, databases, neon, supabase
) -> None:
    made(neon, supabase)
    neon.execute("ALTER TABLE marketing.people_invalid DROP CONSTRAINT people_invalid_unique_id_key")
    supabase.execute("ALTER TABLE company_needs_enrichment ALTER COLUMN id DROP DEFAULT, ADD COLUMN source_repo TEXT NOT NULL,"
                     " ALTER COLUMN employee_count TYPE TEXT")  # fmt: skip
    before = [everything(neon), everything(supabase)]
    for command in (("setup",), ("setup", "--dry-run"), ("pull",), ("push",), ("revalidate",), ("run",)):
        done = cli(*command)
        for said in (
            "people_invalid.unique_id is not unique",
            ".id has no default",
            ".source_repo is NOT NULL",
            ".employee_count",
        ):
            assert len(named(done, said)) == 1, (command, said)
        assert same(before, neon, supabase)
    assert "run `enrichment-worker setup`" not in cli("setup").stderr


def test_a_master_that_cannot_take_what_is_promoted_is_named(cli, databases, neon, supabase) -> None:
    made(neon, supabase)
    neon.execute("CREATE TABLE marketing.company_master (company_unique_id CHAR(21), company_name TEXT NOT NULL,"
                 " website_url TEXT NOT NULL, source_system TEXT NOT NULL, source_record_id BIGINT NOT NULL,"
                 " employee_count INTEGER, validated_at DATE, region TEXT NOT NULL, tier TEXT NOT NULL)")  # fmt: skip
    before = [everything(neon), everything(supabase)]
    for _ in range(2):  # types are compared where all else is as it has to be
        done = cli("setup")
        assert done.returncode == 1
        assert same(before, neon, supabase)
        for line in done.stderr.splitlines():
            neon.execute(statements(line))
        before = [everything(neon), everything(supabase)]
    done = cli("setup")
    assert done.returncode == 0, done.stderr
    goes_round(cli, neon, supabase)


SCRIPTS = """
CREATE TABLE company_needs_enrichment (id UUID PRIMARY KEY DEFAULT gen_random_uuid(), source_repo TEXT NOT NULL,
  source_id TEXT NOT NULL, source_table TEXT NOT NULL, batch_id TEXT NOT NULL, company_name TEXT,
  validation_status TEXT DEFAULT 'PENDING', updated_at DATE);
CREATE INDEX idx_company_enrichment_status ON company_needs_enrichment (validation_status);
INSERT INTO company_needs_enrichment (source_repo, source_id, source_table, batch_id) VALUES ('r', '1', 't', 'b');
"""
FOREIGN = (
    "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w;"
    "CREATE FOREIGN TABLE company_needs_enrichment (company_unique_id TEXT) SERVER s"
)
PARTED = (
    "CREATE TABLE company_needs_enrichment (id BIGSERIAL, company_unique_id TEXT NOT NULL, state TEXT)"
    " PARTITION BY LIST (state)"
)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (SCRIPTS, "it has no company_unique_id"),
        ("CREATE VIEW company_needs_enrichment AS SELECT 1 AS id", "is a view"),
        (FOREIGN, "is a foreign table"),
        (PARTED, "partitioned by state"),
    ],
)
def test_what_no_statement_makes_fit_is_to_be_renamed(cli, databases, neon, supabase, table, said) -> None:
    supabase.execute(table)
    before = [everything(neon), everything(supabase)]
    done = cli("setup")
    lines = named(done, said)
    assert len(lines) == 1
    assert "let `setup` make its own" in lines[0]
    assert same(before, neon, supabase)
    supabase.execute(statements(lines[0]))
    assert cli("setup").returncode == 0
    goes_round(cli, neon, supabase)
    indexes = supabase.execute("SELECT 1 FROM pg_indexes WHERE tablename = 'company_needs_enrichment'"
                               " AND indexname = 'idx_company_enrichment_status'").fetchall()  # fmt: skip
    assert len(indexes) == 1


@pytest.mark.parametrize(
    "index", ["(company_unique_id) WHERE id > 0", "(lower(company_unique_id))", "(company_unique_id, id)"]
)
def test_an_index_that_does_not_make_every_key_unique_does_not_count(cli, databases, neon, supabase, index) -> None:
    made(neon, supabase)
    supabase.execute("ALTER TABLE company_needs_enrichment DROP CONSTRAINT company_needs_enrichment_company_unique_id_key;"
                     f"CREATE UNIQUE INDEX ON company_needs_enrichment {index}")  # fmt: skip
    (line,) = named(cli("setup"), "is not unique")
    supabase.execute(statements(line))
    assert cli("setup").returncode == 0


def test_keys_that_stand_twice_or_not_at_all_are_told_with_the_statement_they_are_in_the_way_of(
    cli, databases, neon, supabase
) -> None:
    made(neon, supabase)
    supabase.execute("ALTER TABLE company_needs_enrichment DROP CONSTRAINT company_needs_enrichment_company_unique_id_key,"
                     " ALTER COLUMN company_unique_id DROP NOT NULL;"
                     "INSERT INTO company_needs_enrichment (company_unique_id) VALUES (NULL), ('k'), ('k')")  # fmt: skip
    done = cli("setup")
    assert "2 rows with the key k" in named(done, "is not unique")[0]
    assert "1 row has none" in named(done, "may be empty")[0]


def test_a_sequence_behind_its_rows_is_named_and_does_not_end_deliveries(
    cli, prepared, neon, supabase, daemon, eventually
) -> None:
    add_companies(neon, 1)
    assert cli("pull").returncode == 0
    supabase.execute("INSERT INTO company_needs_enrichment (id, company_unique_id) VALUES (2, 'by hand')")
    (line,) = named(cli("setup"), "sequence goes on with 2")
    assert named(cli("setup", "--dry-run"), "sequence goes on with 2")
    assert statements(line) == (
        "SELECT setval('company_needs_enrichment_id_seq', (SELECT max(id) FROM public.company_needs_enrichment));"
    )
    assert cli("doctor").returncode == 1
    worker = daemon()
    assert worker.wait_event("schema.mismatch")["hint"] == statements(line)
    complete(supabase, company(1), website="https://a.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    supabase.execute(statements(line))
    assert cli("setup").returncode == 0
    assert cli("doctor").returncode == 0


def test_rows_that_row_level_security_hides_from_the_worker_are_named(cli, prepared, env, neon, databases) -> None:
    add_companies(neon, 1)
    neon.execute("DO $$ BEGIN CREATE ROLE dim LOGIN PASSWORD 'only-dim'; EXCEPTION WHEN duplicate_object THEN NULL; END $$;"
                 "GRANT USAGE ON SCHEMA marketing TO dim; GRANT ALL ON ALL TABLES IN SCHEMA marketing, public TO dim;"
                 "ALTER TABLE marketing.company_invalid ENABLE ROW LEVEL SECURITY")  # fmt: skip
    env["NEON_DATABASE_URL"] = as_role(databases.neon_url, "dim", "only-dim")
    # Unseen, every record would pass for one that had left, and be withdrawn.
    (line,) = named(cli("pull"), "hides rows from this role")
    # What may only be read can be neither locked nor changed.
    neon.execute("CREATE POLICY readers ON marketing.company_invalid FOR SELECT TO dim USING (true)")
    assert named(cli("pull"), "hides rows from this role") == [line]
    assert cli("doctor").returncode == 1
    neon.execute(statements(line))
    assert cli("doctor").returncode == 0
    neon.execute("DROP OWNED BY dim")


@pytest.mark.needs_view
def test_the_setups_own_view_and_triggers_make_room_for_a_fix(cli, prepared, neon, supabase) -> None:
    supabase.execute("DROP VIEW needs_attention; ALTER TABLE company_needs_enrichment ALTER COLUMN updated_at TYPE DATE;"
                     "DROP TRIGGER enrichment_notify_update ON company_needs_enrichment;"
                     "DROP TRIGGER enrichment_notify_insert ON company_needs_enrichment;"
                     "ALTER TABLE company_needs_enrichment ALTER COLUMN pushed_to_neon_at TYPE DATE")  # fmt: skip
    # As release 0.1.0 left it: its setup did not look at types.
    from worker.operate import setup

    supabase.execute(setup.script("Supabase", ENTITIES.values()))
    lines = cli("setup").stderr.splitlines()
    assert len(lines) == 2, lines
    for line in lines:
        supabase.execute(statements(line))
    assert cli("setup").returncode == 0
    goes_round(cli, neon, supabase)


def test_a_database_error_in_setup_does_not_advise_setup(cli, databases, neon, supabase) -> None:
    supabase.execute("CREATE TYPE public.enrichment_outbox_id_seq AS ENUM ('x'); CREATE FUNCTION enrichment_notify() RETURNS int"
                     " LANGUAGE sql AS 'SELECT 1'")  # fmt: skip
    done = cli("setup")
    assert done.returncode == 1
    assert "Supabase: " in done.stderr
    assert "enrichment-worker setup" not in done.stderr


# What a data column holds when it was away


def _phones(neon) -> dict[str, str]:
    return {row["company_unique_id"]: row["phone"] for row in neon.execute(
        "SELECT company_unique_id, phone FROM marketing.company_invalid"
        " UNION ALL SELECT company_unique_id, company_phone FROM marketing.company_master").fetchall()}  # fmt: skip


@pytest.mark.parametrize("away", ["DROP COLUMN phone, DROP COLUMN employee_count", "RENAME COLUMN phone TO telephone"])
def test_a_data_column_that_was_dropped_or_renamed_costs_no_value(cli, prepared, neon, supabase, away) -> None:
    for number in range(1, 7):
        add_companies(neon, number, phone=f"+1304555010{number}", employee_count=number, industry="Mining")
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="https://a.example")
    complete(supabase, company(2), website="n/a")
    assert cli("pipeline", "--yes").returncode == 0  # promoted, failed
    edit(supabase, company(3), industry="Coal")  # a pending edit
    complete(supabase, company(4), website="https://d.example")  # in the queue
    supabase.execute(
        "INSERT INTO company_needs_enrichment (company_unique_id, company_name) VALUES ('by hand', 'Alder')"
    )
    supabase.execute("CREATE FUNCTION theirs() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.updated_at := now();"
                     " NEW.enrichment_notes := 'touched'; RETURN NEW; END $$;"
                     "CREATE TRIGGER theirs BEFORE UPDATE ON company_needs_enrichment FOR EACH ROW EXECUTE FUNCTION theirs();"
                     "CREATE TRIGGER asleep BEFORE UPDATE ON company_needs_enrichment FOR EACH ROW EXECUTE FUNCTION theirs();"
                     "ALTER TABLE company_needs_enrichment DISABLE TRIGGER asleep;"
                     "ALTER TABLE company_needs_enrichment ENABLE ALWAYS TRIGGER theirs")  # fmt: skip
    phones, before = _phones(neon), {n: work(supabase, company(n)) for n in range(1, 7)}
    supabase.execute(f"ALTER TABLE company_needs_enrichment {away}")
    for command in ("pull", "push", "run"):
        assert named(cli(command), "lacks phone")
    done = cli("setup")
    assert "added column company_needs_enrichment.phone" in done.stdout, done.stderr
    for number, row in before.items():
        now = work(supabase, company(number))
        assert {name: now[name] for name in row} == row
    by = supabase.execute("SELECT tgname::text, tgenabled::text FROM pg_trigger WHERE tgname IN ('theirs', 'asleep')"
                          " AND tgrelid = 'company_needs_enrichment'::regclass ORDER BY 1").fetchall()  # fmt: skip
    assert [row["tgenabled"] for row in by] == ["D", "A"]
    supabase.execute("DROP TRIGGER theirs ON company_needs_enrichment")
    complete(supabase, company(2), website="https://b.example")
    assert cli("pull", "--full").returncode == 0
    assert cli("pipeline", "--yes").returncode == 0
    assert _phones(neon) == phones
    assert master(neon, company(4))["company_phone"] == phones[company(4)]
    assert {name for row in ledger(neon, company(4)) for name in row["enriched_fields"]} == {"website"}
    assert work(supabase, company(3))["industry"] == "Coal"


def test_a_running_worker_takes_a_missing_column_for_no_edit(cli, prepared, neon, supabase, daemon, eventually) -> None:
    add_companies(neon, 1, 2, phone="+13045550101")
    assert cli("pull").returncode == 0
    worker = daemon()
    complete(supabase, company(1), website="https://a.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    before = everything(neon)
    supabase.execute("ALTER TABLE company_needs_enrichment DROP COLUMN phone")
    complete(supabase, company(2), website="https://b.example")
    eventually(lambda: "phone" in worker.health("/readyz")[1])
    assert everything(neon) == before
    assert cli("setup").returncode == 0
    eventually(lambda: work(supabase, company(2))["promoted_at"], 60)
    assert master(neon, company(2))["company_phone"] == "+13045550101"


def test_a_column_that_the_snapshots_do_not_know_yet_overwrites_nothing_in_neon(cli, prepared, neon, supabase) -> None:
    # As after an upgrade to a release that carries `phone` too: Neon has it, the rows and their snapshots do not.
    add_companies(neon, 1, 2, 3, phone="+13045550101")
    assert cli("pull").returncode == 0
    edit(supabase, company(2), industry="Coal")
    supabase.execute("ALTER TABLE company_needs_enrichment DROP COLUMN phone; ALTER TABLE company_needs_enrichment DISABLE TRIGGER USER;"
                     "UPDATE company_needs_enrichment SET neon_snapshot = neon_snapshot - 'phone',"
                     " last_sync_hash = md5((neon_snapshot - 'phone')::text);"
                     "ALTER TABLE company_needs_enrichment ENABLE TRIGGER USER")  # fmt: skip
    complete(supabase, company(1), website="https://a.example")
    assert cli("setup").returncode == 0
    assert cli("push", "--entity", "company").returncode == 0
    assert invalid(neon, company(1))["phone"] == "+13045550101"
    assert "phone" not in ledger(neon, company(1))[-1]["enriched_fields"]
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(3)])
    assert cli("pull", "--full").returncode == 0
    assert work(supabase, company(2))["phone"] == "+13045550101"
    assert work(supabase, company(2))["industry"] == "Coal"
    # Nobody had edited it, so it goes with its record.
    assert not supabase.execute(
        "SELECT 1 FROM company_needs_enrichment WHERE company_unique_id = %s", [company(3)]
    ).fetchall()


def test_values_fit_for_one_side_only_are_that_records_alone(cli, databases, neon, supabase) -> None:
    made(neon, supabase, here=lambda text: text.replace("state TEXT", "state VARCHAR(3)"))
    assert cli("setup").returncode == 0
    add_master(neon, 9)
    add_companies(neon, 1, state="West Virginia")
    add_companies(neon, 2, state="WV")
    assert cli("pull").returncode == 0
    assert work(supabase, company(2))["state"] == "WV"
