"""Invented people by number, as SQL: a workspace full of them, of whom many wait, beside a queue that does not move."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import psycopg

from bench import records
from bench.contestants import CONTESTANTS
from bench.flips import Disqualified, start
from bench.lab import Lab, Pair, connect, sessions_ended
from bench.process import TimedOut, run
from bench.records import ENRICHER, Kind

HELD_SECONDS = 10.0
"""At most, until a worker has met a queue that is held, and tries it at its longer pauses only."""
PULL_SECONDS = 5
"""Between two pulls where waiting rows are looked at: each pull looks at all of them."""
_EACH = 10
"""People of one company that is waited for; and of so many companies, one has come."""
_OWNERS, _ABSENT = 5_000_000, 6_000_000
"""Where the numbers of companies that are in the master begin, and of those that are not."""
_KEY = "'04.04.{}.' || lpad(({} / 100000)::text, 2, '0') || '.' || lpad(({} % 100000)::text, 5, '0') || '.001'"
_OLD = "timestamp '2025-11-07 16:32:09'"
_COLUMNS = (
    "full_name", "first_name", "last_name", "email", "phone", "title", "company_name", "company_unique_id",
    "linkedin_url", "city", "state",
)  # fmt: skip
_LIST = ", ".join(_COLUMNS)
_ERRORS = """'{"email": "is empty"}'::jsonb"""


def _key(family: str, number: str) -> str:
    return _KEY.format(family, number, number)


def _data(pending: int) -> str:
    """People of which those after ``pending`` wait, as columns."""
    company = f"CASE WHEN n <= {pending} THEN {_OWNERS} + n % 1000 ELSE {_ABSENT} + (n - {pending} - 1) / {_EACH} END"
    return f"""SELECT n, n > {pending} AS waits, 'Robin Alder' || n AS full_name, NULL::text AS first_name,
      NULL::text AS last_name, NULL::text AS email, '(304) 200-' || lpad((n % 10000)::text, 4, '0') AS phone,
      'Buyer' AS title, NULL::text AS company_name, {_key("01", f"({company})")} AS company_unique_id,
      NULL::text AS linkedin_url, 'Fernhollow' AS city, 'WV' AS state"""


def _fill_invalid(rows: int, waiting: int) -> str:
    return f"""
    INSERT INTO marketing.people_invalid (id, unique_id, {_LIST}, reason_code, validation_errors, batch_id, created_at,
      updated_at)
    SELECT n, {_key("02", "n")}, {_LIST}, 'EMPTY_EMAIL', {_ERRORS}, '{records.BATCH}', {_OLD}, {_OLD}
    FROM ({_data(rows - waiting)} FROM generate_series(1, {rows}) n) d"""


def _fill_workspace(rows: int, waiting: int) -> str:
    """As a pull has brought them, and as a worker has left those that wait."""
    snapshot = ", ".join(f"'{column}', {column}" for column in _COLUMNS)
    typed = ", ".join(
        "CASE WHEN waits THEN 'p' || n || '@c.example' END" if column == "email" else column for column in _COLUMNS
    )
    note = "'Waiting: company ' || company_unique_id || ' is not in the master yet. The record goes on by itself when it is.'"
    return f"""
    INSERT INTO public.people_needs_enrichment (neon_id, unique_id, source_batch_id, {_LIST}, original_validation_errors,
      reason_code, enrichment_status, created_at, updated_at, neon_snapshot, last_sync_hash, waiting_for, sync_code,
      sync_note, enriched_by, enriched_at, queued_versions)
    SELECT n, {_key("02", "n")}, '{records.BATCH}', {typed}, {_ERRORS}, 'EMPTY_EMAIL',
      CASE WHEN waits THEN 'complete' ELSE 'pending' END, {_OLD}, {_OLD}, s, md5(s::text),
      CASE WHEN waits THEN company_unique_id END, CASE WHEN waits THEN 'waiting' END, CASE WHEN waits THEN {note} END,
      CASE WHEN waits THEN '{ENRICHER}' END, CASE WHEN waits THEN {_OLD} END,
      CASE WHEN waits THEN to_char({_OLD}, 'YYYY-MM-DD HH24:MI:SS.US') END
    FROM ({_data(rows - waiting)} FROM generate_series(1, {rows}) n) d, jsonb_build_object({snapshot}) s"""


def _companies(numbers: str) -> tuple[str, str]:
    """The statements that put companies, and a slot for each, into Neon: ``numbers`` is a set of n."""
    return (
        f"""INSERT INTO marketing.company_master (company_unique_id, company_name, website_url, source_system,
          source_record_id) SELECT {_key("01", "n")}, 'Alder Works ' || n, 'https://c' || n || '.example', 'intake', n::text
        FROM {numbers} n""",
        f"""INSERT INTO marketing.company_slots (company_slot_unique_id, company_unique_id)
        SELECT {_key("05", "n")}, {_key("01", "n")} FROM {numbers} n""",
    )


PEOPLE = Kind(
    "public.people_needs_enrichment", "marketing.people_invalid", "marketing.people_master", "unique_id",
    f"UPDATE public.people_needs_enrichment SET email = 'p' || neon_id || '@c.example', enriched_by = '{ENRICHER}',"
    " enrichment_status = 'complete' WHERE unique_id = %s",
    lambda number: f"04.04.02.{number // 100_000:02}.{number % 100_000:05}.001",
)  # fmt: skip

# Nothing fills it, so Neon takes no company any more: they stay queued until the operator acts, while everything else is
# to go on. A lock of another transaction would hold them, too, but not for this long in anybody's production; a backlog
# that is worked off takes the same two processors, which is another question.
_HOLD = """
ALTER TABLE marketing.company_master ADD COLUMN approved_by TEXT;
UPDATE marketing.company_master SET approved_by = 'intake';
ALTER TABLE marketing.company_master ALTER COLUMN approved_by SET NOT NULL"""
_QUEUE = f"""
UPDATE public.company_needs_enrichment SET website = 'c' || neon_id || '.example', enriched_by = '{ENRICHER}',
  enrichment_status = 'complete'"""


def _fill(pair: Pair, rows: int, waiting: int, held: int) -> None:
    run(["worker", "setup"], pair.env(), seconds=60)
    with connect(pair.neon) as neon, connect(pair.supabase) as supabase:
        neon.execute(_fill_invalid(rows, waiting))
        for statement in _companies(f"generate_series({_OWNERS}, {_OWNERS + 999})"):
            neon.execute(statement)
        if held:
            neon.execute(records.fill_invalid(1, held))
        with supabase.transaction():
            supabase.execute("SET LOCAL enrichment_worker.writer = 'on'")
            supabase.execute(_fill_workspace(rows, waiting))
            supabase.execute(records.POSITION, [rows])
            if held:
                supabase.execute(records.fill_workspace(held))


def hold_companies(pair: Pair, number: int) -> None:
    """Queue the companies of a crowd, and let Neon take none. A worker has to run already: it refuses to start so."""
    with connect(pair.neon) as neon, connect(pair.supabase) as supabase:
        neon.execute(_HOLD)
        supabase.execute(_QUEUE)
    time.sleep(min(HELD_SECONDS, 2 + number / 10_000))


def crowd(lab: Lab, rows: int, others: int) -> str:
    """The template with ``rows`` people, ``others`` of them waiting, and ``others`` companies."""
    return lab.made(f"crowd{rows}", lambda pair: _fill(pair, rows, others, others))


def judge_crowd(
    neon: psycopg.Connection[Any], supabase: psycopg.Connection[Any], rows: int, others: int, flipped: int
) -> list[str]:
    """What is wrong after the first ``flipped`` people of a crowd went; empty if nothing."""
    params = {"flipped": flipped, "rows": rows, "others": others}
    return _true_ones(neon, _NEON_SAYS, params) + _true_ones(supabase, _WORKSPACE_SAYS, params)


_NEON_SAYS = """
SELECT (SELECT count(*) FROM marketing.people_invalid) <> %(rows)s - %(flipped)s AS "not exactly the flipped people left",
  (SELECT count(*) FILTER (WHERE email = 'p' || source_record_id || '@c.example' AND updated_at = created_at)
   FROM marketing.people_master) <> %(flipped)s AS "people are missing in the master, wrong, or written twice",
  (SELECT count(*) FROM marketing.people_master) <> %(flipped)s AS "too many people in the master",
  (SELECT count(*) FROM marketing.company_invalid) <> %(others)s AS "a company left that was to be held" """
_WORKSPACE_SAYS = """
SELECT count(*) FILTER (WHERE promoted_at IS NOT NULL) <> %(flipped)s AS "rows were not told",
  count(*) FILTER (WHERE waiting_for IS NOT NULL) <> %(others)s AS "waiting rows went on",
  (SELECT count(*) FROM public.company_needs_enrichment WHERE enrichment_status = 'complete'
     AND pushed_to_neon_at IS NULL) <> %(others)s AS "queued companies went on"
FROM public.people_needs_enrichment"""


def _true_ones(connection: psycopg.Connection[Any], question: str, params: dict[str, Any]) -> list[str]:
    cursor = connection.execute(question, params)
    assert cursor.description is not None
    return [column.name for column, it in zip(cursor.description, cursor.fetchone() or (), strict=True) if it]


def memory_of_waiting(lab: Lab, rows: int, *, seconds: float) -> dict[str, Any]:
    """Peak memory of a worker with ``rows`` people waiting, of whom a tenth goes on: their companies have come.

    Args:
        lab: the servers.
        rows: people, all of them waiting.
        seconds: the longest time.

    Raises:
        Failed: they did not go on in time, or others went.
    """
    template = lab.made(f"waiting{rows}", lambda pair: _fill(pair, rows, rows, 0))
    come = f"generate_series({_ABSENT}, {_ABSENT + rows // _EACH - 1}, {_EACH})"
    going = -(-(rows // _EACH) // _EACH) * _EACH
    with lab.databases(template) as pair:
        with connect(pair.neon) as neon:
            for statement in _companies(come):
                neon.execute(statement)
        with ExitStack() as running, connect(pair.supabase) as enricher:
            began = time.perf_counter()
            (process,) = start(
                running, lab, CONTESTANTS["worker"], pair, WORKER_PULL_INTERVAL=f"{PULL_SECONDS}s"
            )  # fmt: skip
            # A pull is counted when it has looked at every row that waits.
            while not _gone_on(enricher, going):
                process.check()
                if time.perf_counter() - began > seconds:
                    raise TimedOut(f"the waiting people did not go on within {seconds:.0f} s")
                time.sleep(0.5)
            took = time.perf_counter() - began
            peak = process.peak_memory()
        with connect(pair.neon) as neon, connect(pair.supabase) as supabase:
            sessions_ended(neon, supabase)
            params = {"going": going, "left": rows - going}
            if wrong := _true_ones(neon, _LEFT_IN_NEON, params) + _true_ones(supabase, _STILL_WAITING, params):
                raise Disqualified("; ".join(wrong))
    return {"rows": rows, "released": going, "seconds": round(took, 2), "peak_memory": peak}


def _gone_on(enricher: psycopg.Connection[Any], going: int) -> bool:
    row = enricher.execute(
        "SELECT pulls > 0 AND (SELECT count(*) = %s FROM public.people_needs_enrichment WHERE enrichment_status = 'complete'"
        " AND pushed_to_neon_at IS NOT NULL) FROM public.enrichment_pull_position WHERE entity = 'people'", [going]
    ).fetchone()  # fmt: skip
    assert row is not None
    return bool(row[0])


_LEFT_IN_NEON = """
SELECT (SELECT count(*) FROM marketing.people_invalid) <> %(left)s AS "not exactly those left whose company came",
  (SELECT count(*) FROM marketing.people_master WHERE email = 'p' || source_record_id || '@c.example')
    <> %(going)s AS "people are missing in the master" """
_STILL_WAITING = """
SELECT count(*) FILTER (WHERE waiting_for IS NOT NULL) <> %(left)s AS "not exactly the others wait",
  count(*) FILTER (WHERE promoted_at IS NOT NULL) <> %(going)s AS "rows were not told"
FROM public.people_needs_enrichment"""
