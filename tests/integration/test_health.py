"""The health address: what it says is what the databases say, and asking costs Neon nothing."""

import http.client
import json
import re
import socket
import sys
import threading
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import anyio
import psycopg
import pytest
from conftest import PATIENCE, connect
from declared import ENTITIES
from prometheus_client.parser import text_string_to_metric_families
from psycopg import sql
from records import add_companies, add_people, add_slot, company, complete, edit, ledger, master, person, work

from worker import __version__
from worker.domain import recent as recent_module
from worker.domain.model import OutcomeSummary
from worker.domain.pulled import Pulled
from worker.domain.recent import BUCKET_SECONDS, BUCKETS, LATEST, Recent
from worker.observe import page as page_module
from worker.observe.broadcast import BACKLOG, WATCHERS
from worker.observe.health import LATE, LATE_SECONDS, MISSED_NOTIFICATIONS, STUCK_SECONDS
from worker.observe.host_guard import CONNECTIONS
from worker.observe.metrics import PREFIX, Metrics
from worker.observe.monitor import Monitor
from worker.postgres import transaction
from worker.postgres.errors import metric_label
from worker.settings import load_settings
from worker.sync.databases import open_databases
from worker.sync.deliver import Tally, deliver

ADDRESSES = ("/healthz", "/readyz", "/metrics", "/status.json", "/")
STATES = {
    "pending": "enrichment_status = 'pending'",
    "in_progress": "enrichment_status = 'in_progress'",
    "complete": "enrichment_status = 'complete' AND promoted_at IS NULL AND waiting_for IS NULL",
    "waiting": "waiting_for IS NOT NULL",
    "promoted": "enrichment_status = 'complete' AND promoted_at IS NOT NULL AND pushed_to_neon_at IS NOT NULL",
    "failed": "enrichment_status = 'failed'",
}


def samples(worker) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    status, text = worker.health("/metrics")
    assert status == 200
    return {
        (sample.name.removeprefix(f"{PREFIX}_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(found, name, **labels) -> float:
    return found[name, tuple(sorted(labels.items()))]


def status_of(worker):
    status, text = worker.health("/status.json")
    assert status == 200
    return json.loads(text)


def counts_in(supabase, table) -> dict[str, int]:
    columns = sql.SQL(", ").join(
        sql.SQL("count(*) FILTER (WHERE {}) AS {}").format(sql.SQL(where), sql.Identifier(state))
        for state, where in STATES.items()
    )
    return supabase.execute(sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(table))).fetchone()


@pytest.fixture
def running(cli, prepared, neon, daemon, env, supabase, eventually):
    env["WORKER_SWEEP_INTERVAL"] = "0.2"
    add_companies(neon, *range(1, 13))
    add_people(neon, 1, of=1)
    add_people(neon, 2, of=2)
    add_slot(neon, 1, of=1)
    add_slot(neon, 2, of=2)
    worker = daemon()
    eventually(lambda: status_of(worker)["entities"].get("people", {}).get("total") == 2)
    eventually(lambda: status_of(worker)["entities"].get("company", {}).get("total") == 12)
    return worker


@pytest.fixture
def worked(running, neon, supabase, eventually):
    """Eight promoted, two flagged, one in progress, one pending; one person promoted, one waits."""
    for number in (1, *range(3, 10)):
        complete(supabase, company(number), website=f"https://c{number}.example")
    complete(supabase, company(10), website="test.com")
    complete(supabase, company(11), website="n/a", company_name="test")
    edit(supabase, company(12), enrichment_status="in_progress")
    eventually(lambda: master(neon, company(1)))
    complete(supabase, person(1), email="robin@c1.example")
    complete(supabase, person(2), email="robin@c2.example")
    eventually(lambda: master(neon, person(1)) and work(supabase, person(2))["waiting_for"])
    for number in range(3, 12):
        eventually(lambda number=number: work(supabase, company(number))["pushed_to_neon_at"])
    expected = {table: counts_in(supabase, table) for table in ("company_needs_enrichment", "people_needs_enrichment")}
    assert list(expected["company_needs_enrichment"].values()) == [1, 1, 0, 0, 8, 2]
    assert list(expected["people_needs_enrichment"].values()) == [0, 0, 0, 1, 1, 0]
    eventually(lambda: {
        f"{name}_needs_enrichment": entity["counts"] for name, entity in status_of(running)["entities"].items()
    } == expected)  # fmt: skip
    return running


def test_metrics_agree_with_the_databases(worked, neon, supabase) -> None:
    found = samples(worked)
    booked = neon.execute("SELECT entity, outcome, count(*) AS n FROM marketing.enrichment_ledger GROUP BY 1, 2")
    for row in booked.fetchall():
        assert of(found, "outcomes_total", entity=row["entity"], outcome=row["outcome"]) == row["n"], row
        delays = of(found, "flip_to_outcome_seconds_count", entity=row["entity"], outcome=row["outcome"])
        assert delays == row["n"], row
    for name in ("company", "people"):
        for state, records in counts_in(supabase, f"{name}_needs_enrichment").items():
            assert of(found, "records", entity=name, state=state) == records, (name, state)
        assert of(found, "queue_records", entity=name) == 0
        assert of(found, "queue_oldest_seconds", entity=name) == 0
    assert of(found, "flagged_total", entity="company", reason_code="PLACEHOLDER_WEBSITE") == 1
    assert of(found, "flagged_total", entity="company", reason_code="PLACEHOLDER_COMPANY_NAME") == 1
    batches = of(found, "batches_total", entity="company")
    assert 1 <= batches <= 10
    for stage in ("claim", "judge", "settle", "acknowledge"):
        assert of(found, "stage_seconds_count", entity="company", stage=stage) == batches
    assert of(found, "listener_up") == 1
    assert of(found, "ready") == 1
    assert of(found, "notifications_total", entity="company") >= 1
    assert of(found, "pulled_records_total", entity="company", change="new") == 12
    assert of(found, "last_pull_records", entity="people", change="new") == 2
    assert of(found, "pool_connections", database="supabase", state="limit") > 0
    assert ("build_info", (("python", sys.version.split()[0]), ("version", __version__))) in found


def test_the_delay_is_that_between_the_flip_and_the_answer(running, neon, supabase, eventually) -> None:
    with supabase.transaction():
        supabase.execute("SET LOCAL session_replication_role = replica")
        complete(supabase, company(1), website="https://c1.example", updated_at=datetime.now(UTC) - timedelta(hours=1))
    eventually(lambda: master(neon, company(1)))
    labels = {"entity": "company", "outcome": "promoted"}
    eventually(lambda: of(samples(running), "flip_to_outcome_seconds_count", **labels) == 1)
    # An hour, and what the worker took: the clock is Supabase's, in UTC.
    assert 0 <= of(samples(running), "flip_to_outcome_seconds_sum", **labels) - 3600 < PATIENCE


def test_a_record_that_waited_does_not_count_as_slow(worked, neon, supabase, eventually) -> None:
    complete(supabase, company(2), website="https://c2.example")
    eventually(lambda: master(neon, person(2)))
    eventually(lambda: of(samples(worked), "outcomes_total", entity="people", outcome="promoted") == 2)
    assert of(samples(worked), "flip_to_outcome_seconds_count", entity="people", outcome="promoted") == 1


def test_status_agrees_with_the_databases(worked, neon) -> None:
    status = status_of(worked)
    companies = status["entities"]["company"]
    assert (companies["total"], companies["queue"], companies["oldest_queued_at"]) == (12, 0, None)
    assert companies["last_pull"]["new"] == 12
    assert companies["last_pull"]["run_id"].startswith("PULL-")
    # What Neon held when it was last asked: before anything was promoted.
    assert (companies["invalid"], companies["master"], companies["totals_estimated"]) == (12, 0, False)
    assert [(f["reason_code"], f["fields"], f["records"], f["keys"]) for f in companies["failures"]] == [
        ("PLACEHOLDER_COMPANY_NAME", ["company_name", "website"], 1, [company(11)]),
        ("PLACEHOLDER_WEBSITE", ["website"], 1, [company(10)]),
    ]
    latest = {(one["key"], one["outcome"]) for one in status["worker"]["latest"]}
    booked = neon.execute("SELECT key, outcome FROM marketing.enrichment_ledger").fetchall()
    assert latest == {(row["key"], row["outcome"]) for row in booked}
    buckets = status["worker"]["history"]["buckets"]
    assert sum(bucket["outcomes"].get("promoted", 0) for bucket in buckets) == 9


def test_counts_are_there_after_a_restart(worked, daemon, eventually) -> None:
    before = status_of(worked)["entities"]
    assert worked.terminate() == 0
    again = daemon()
    after = eventually(lambda: status_of(again)["entities"])
    assert after["company"] == before["company"]
    assert status_of(again)["worker"]["latest"] == []


def test_nothing_of_a_record_but_its_key_is_told(worked, supabase, eventually) -> None:
    # What people type goes everywhere an enricher can type it.
    secret = "secretvalue"
    edit(supabase, company(12), company_name=f"{secret} Inc", city=secret, phone=secret, website="test.com",
         enriched_by=f"{secret}@enrichers.example", reason_code=secret, enrichment_status="complete")  # fmt: skip
    eventually(lambda: work(supabase, company(12))["pushed_to_neon_at"])
    supabase.execute("INSERT INTO company_needs_enrichment (company_unique_id, website, reason_code, enrichment_status)"
                     " VALUES ('secretvalue@person.example', 'x', 'secretvalue of a person', 'complete')")  # fmt: skip
    supabase.execute("UPDATE company_needs_enrichment SET validation_errors = '{\"secretvalue\": \"secretvalue\"}',"
                     " reason_code = 'secretvalue' WHERE company_unique_id = %s", [company(10)])  # fmt: skip
    eventually(lambda: status_of(worked)["entities"]["company"]["counts"]["failed"] == 4)
    with open_events(worked) as stream:
        first = read_event(stream)
    for text in (*(worked.health(address)[1] for address in ADDRESSES), json.dumps(first)):
        assert secret not in text
    keys = {key for one in status_of(worked)["entities"]["company"]["failures"] for key in one["keys"]}
    assert keys == {company(10), company(11), company(12), "(no valid key)"}


def test_no_probe_reaches_neon_and_an_idle_worker_holds_no_connection_to_it(
    running, databases, neon, supabase, eventually
) -> None:
    complete(supabase, company(1), website="https://c1.example")
    eventually(lambda: master(neon, company(1)))
    neon.close()
    name = psycopg.conninfo.conninfo_to_dict(databases.neon_url)["dbname"]

    def sessions() -> int:
        return supabase.execute(
            "SELECT count(*) AS n FROM pg_stat_activity WHERE datname = %s AND backend_type = 'client backend'", [name]
        ).fetchone()["n"]

    def begun() -> int:
        supabase.execute("SELECT pg_stat_clear_snapshot()")
        return supabase.execute("SELECT sessions FROM pg_stat_database WHERE datname = %s", [name]).fetchone()[
            "sessions"
        ]

    # Statements need a session: where none is and none begins, none was sent.
    eventually(lambda: sessions() == 0, 90)
    before = begun()
    for _ in range(50):
        for address in ADDRESSES:
            assert running.health(address)[0] == 200
        assert sessions() == 0
    assert begun() == before
    # The figure does move when somebody asks Neon.
    with connect(databases.neon_url) as somebody:
        somebody.execute("SELECT 1")
    eventually(lambda: begun() == before + 1)


def test_unknown_addresses_are_404_and_other_methods_405_and_bodies_are_short(running) -> None:
    for address in (*ADDRESSES, "/events"):
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            status, headers, body = ask(running, method, address)
            assert status == 405, (method, address)
            assert len(body) < 100
            assert "GET" in headers["allow"]
        status, headers, body = ask(running, "HEAD", address)
        assert (status, body) == (200, b""), address
    for address in ("/nothing", "/healthz/", "/status", "/../etc/passwd", "/events/1", "/%00"):
        status, _, body = ask(running, "GET", address)
        assert status == 404, address
        assert len(body) < 100


def test_the_page_may_load_nothing_from_anywhere(running) -> None:
    _, headers, body = ask(running, "GET", "/")
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]+'", policy["script-src"])
    assert re.fullmatch(r"'sha256-[A-Za-z0-9+/=]+'", policy["style-src"])
    assert policy["connect-src"] == "'self'"
    text = body.decode()
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", text))
    assert addresses == {"http://www.w3.org"}, "only the name of SVG's namespace"
    assert " style=" not in text
    assert "innerHTML" not in text


def ask(worker, method, address):
    host, _, port = worker.address.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=10)) as link:
        link.request(method, address)
        answer = link.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


@contextmanager
def open_events(worker):
    host, _, port = worker.address.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=30)) as link:
        link.request("GET", "/events")
        with closing(link.getresponse()) as stream:
            assert stream.status == 200
            assert stream.headers["content-type"].startswith("text/event-stream")
            yield stream


def _line(stream) -> str:
    line = stream.readline().decode()
    assert line, "the stream has ended"
    return line.rstrip("\n")


def read_event(stream) -> tuple[str, dict]:
    name, data = "", ""
    while (line := _line(stream)) or not data:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
    return name, json.loads(data)


def test_outcomes_come_as_events_as_they_happen(running, supabase) -> None:
    with open_events(running) as stream:
        name, first = read_event(stream)
        assert (name, first["worker"]["latest"]) == ("status", [])
        complete(supabase, company(1), website="https://c1.example")
        while (event := read_event(stream))[0] != "outcomes":
            pass
        (record,) = event[1]["records"]
        assert (record["key"], record["outcome"], record["entity"]) == (company(1), "promoted", "company")
        # And the counts follow by themselves.
        while (event := read_event(stream))[1].get("entities", {}).get("company", {}).get("counts", {}).get(
            "promoted"
        ) != 1:
            pass


def test_sigterm_ends_open_events_and_the_worker(running) -> None:
    with open_events(running) as stream:
        read_event(stream)
        ended = threading.Event()

        def read_to_the_end() -> None:
            while stream.readline():
                pass
            ended.set()

        reader = threading.Thread(target=read_to_the_end, daemon=True)
        reader.start()
        assert running.terminate() == 0
        assert ended.wait(10)
        reader.join()


def test_only_so_many_pages_may_be_open(running, supabase, eventually) -> None:
    with ExitStack() as stack:
        pages = [stack.enter_context(open_events(running)) for _ in range(WATCHERS)]
        for page in pages:
            read_event(page)
        assert ask(running, "GET", "/events")[0] == 503
        assert of(samples(running), "page_watchers") == WATCHERS
        # Strangers who ask nothing make room for each other: a page that is being answered stays open.
        host, _, port = running.address.rpartition(":")
        for _ in range(CONNECTIONS):
            stack.enter_context(closing(socket.create_connection((host, int(port)))))
        assert ask(running, "GET", "/healthz")[0] == 200
        supabase.execute("UPDATE company_needs_enrichment SET enrichment_notes = 'seen'")  # it is counted anew
        for page in pages:
            read_event(page)
        assert of(samples(running), "page_watchers") == WATCHERS
    eventually(lambda: of(samples(running), "page_watchers") == 0)


def test_work_nobody_notified_of_is_counted(running, neon, supabase, eventually) -> None:
    assert of(samples(running), "swept_total", entity="company") == 0
    with supabase.transaction():
        supabase.execute("SET LOCAL session_replication_role = replica")
        complete(supabase, company(1), website="https://quiet.example")
    eventually(lambda: master(neon, company(1)))
    assert of(samples(running), "swept_total", entity="company") == 1
    assert of(samples(running), "notifications_total", entity="company") == 0


def test_a_missing_trigger_is_told_and_the_warning_goes_with_the_next_notification(
    running, neon, supabase, eventually
) -> None:
    supabase.execute("ALTER TABLE company_needs_enrichment DISABLE TRIGGER enrichment_notify_update")
    for times in range(1, MISSED_NOTIFICATIONS + 1):
        assert not status_of(running)["worker"]["warnings"]
        complete(supabase, company(times), website="https://quiet.example")
        eventually(lambda times=times: of(samples(running), "swept_total", entity="company") == times)
    (warning,) = status_of(running)["worker"]["warnings"]
    assert warning.startswith("company: 3 times in a row the sweep found work")
    running.wait_event("sweep.missed_notification", entity="company")
    assert running.health("/readyz")[0] == 200, "it does its job, if late"
    supabase.execute("ALTER TABLE company_needs_enrichment ENABLE TRIGGER enrichment_notify_update")
    complete(supabase, company(MISSED_NOTIFICATIONS + 1), website="https://heard.example")
    eventually(lambda: not status_of(running)["worker"]["warnings"])


def test_a_listener_that_was_lost_is_seen(running, supabase, eventually) -> None:
    supabase.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
                     " AND pid <> pg_backend_pid() AND datname = current_database()")  # fmt: skip
    running.wait_event("listener.lost")
    eventually(lambda: of(samples(running), "listener_reconnects_total") == 1)
    eventually(lambda: of(samples(running), "listener_up") == 1)


def test_a_count_that_fails_is_told_and_holds_up_nobody(running, supabase, eventually) -> None:
    supabase.execute("ALTER TABLE enrichment_pull_position RENAME COLUMN last_full_at TO away")
    edit(supabase, company(2), city="Elkins")  # where nothing changes, nothing is counted
    said = eventually(lambda: status_of(running)["worker"]["uncounted"])
    assert "last_full_at" in said
    complete(supabase, company(1), website="https://c1.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    assert status_of(running)["entities"]["company"]["total"] == 12, "what was counted last is still there"
    supabase.execute("ALTER TABLE enrichment_pull_position RENAME COLUMN away TO last_full_at")
    eventually(lambda: status_of(running)["worker"]["uncounted"] is None)
    assert status_of(running)["entities"]["company"]["counts"]["promoted"] == 1


def test_what_changes_without_a_notification_is_counted_and_what_does_not_is_not(running, supabase, eventually) -> None:
    eventually(lambda: status_of(running)["entities"]["company"]["counts"]["pending"] == 12)
    edit(supabase, company(1), enrichment_status="in_progress")
    eventually(lambda: status_of(running)["entities"]["company"]["counts"]["in_progress"] == 1)
    # Another worker's pull, or an operator's hand.
    supabase.execute("UPDATE enrichment_pull_position SET last_run_id = 'PULL-by-another' WHERE entity = 'company'")
    eventually(lambda: status_of(running)["entities"]["company"]["last_pull"]["run_id"] == "PULL-by-another")
    # The sweep goes on all the while, and finds nothing changed.
    eventually(lambda: status_of(running)["worker"]["count_age_seconds"] > 3)


def test_conflicts_are_counted_by_who_won(running, neon, supabase, eventually) -> None:
    neon.execute("UPDATE marketing.company_invalid SET city = 'theirs', updated_at = '2020-01-01'"
                 " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    complete(supabase, company(1), city="mine", website="https://c1.example")
    eventually(lambda: master(neon, company(1)))
    (conflict,) = ledger(neon, company(1))[0]["conflicts"]
    assert conflict["winner"] == "enricher"
    eventually(lambda: of(samples(running), "conflicts_total", entity="company", winner="enricher") == 1)
    assert of(samples(running), "conflicts_total", entity="company", winner="neon") == 0


def test_what_a_pull_judged_counts_once() -> None:
    monitor = Monitor(["company"])
    monitor.pulled(Pulled("PULL-1", "company", full=False, withdrawn=4, judged=3, promoted=2))
    families = text_string_to_metric_families(monitor.exposition()[0].decode())
    found = {s.labels["outcome"]: s.value for f in families for s in f.samples if s.name == f"{PREFIX}_outcomes_total"}
    assert found == {"promoted": 2, "flagged": 1, "withdrawn": 4, "waiting": 0, "gone": 0}


def test_the_age_of_the_oldest_event_is_none_when_it_was_taken() -> None:
    monitor = Monitor(["company"])

    def told(name: str) -> float:
        families = text_string_to_metric_families(monitor.exposition()[0].decode())
        (value,) = (s.value for f in families for s in f.samples if s.name == f"{PREFIX}_{name}")
        return value

    monitor.not_posted("company", "HTTP 500", 3, 70.0)
    assert (told("webhook_oldest_seconds"), told("webhook_pending_events")) == (70, 3)
    monitor.posted("company", 2)
    assert (told("webhook_oldest_seconds"), told("webhook_pending_events")) == (0, 2)
    monitor.not_posted("company", "HTTP 500", 2, 90.0)
    monitor.posted("company", None)
    assert (told("webhook_oldest_seconds"), told("webhook_pending_events")) == (0, 0)


def test_a_queue_that_somebody_holds_shows_its_depth_and_its_age(
    running, daemon, databases, supabase, eventually
) -> None:
    assert running.terminate() == 0
    complete(supabase, company(1), website="https://c1.example")
    with connect(databases.supabase_url) as somebody, somebody.transaction():
        somebody.execute("SELECT FROM company_needs_enrichment WHERE company_unique_id = %s FOR UPDATE", [company(1)])
        worker = daemon()
        eventually(lambda: status_of(worker)["entities"])
        first = samples(worker)
        assert of(first, "queue_records", entity="company") == 1
        eventually(lambda: of(samples(worker), "queue_oldest_seconds", entity="company")
                   > of(first, "queue_oldest_seconds", entity="company") > 0)  # fmt: skip
        assert status_of(worker)["entities"]["company"]["counts"]["complete"] == 1
    eventually(lambda: of(samples(worker), "queue_records", entity="company") == 0)
    assert work(supabase, company(1))["promoted_at"] is not None


def test_an_outage_of_neon_is_told_with_its_reason_and_its_retries(cli, own_servers, env, daemon, eventually) -> None:
    neon_server, supabase_server = own_servers
    env.update(NEON_DATABASE_URL=neon_server.url(), SUPABASE_DATABASE_URL=supabase_server.url(),
               WORKER_SWEEP_INTERVAL="0.2")  # fmt: skip
    assert cli("setup").returncode == 0
    with connect(neon_server.url()) as neon:
        add_companies(neon, 1)
    worker = daemon()
    with connect(supabase_server.url()) as supabase:
        eventually(lambda: supabase.execute("SELECT FROM company_needs_enrichment").fetchall())
        neon_server.stop()
        complete(supabase, company(1), website="https://c1.example")
        (reason,) = eventually(lambda: [
            one for one in json.loads(worker.health("/readyz")[1])["reasons"] if "company" in one.partition(": ")[0].split(", ")
        ], 60)  # fmt: skip
        assert worker.health("/readyz")[0] == 503
        assert "Neon: " in reason
        assert "connect" in reason.lower() or "timeout" in reason.lower() or "terminat" in reason.lower()
        assert "This probably means" not in reason
        found = samples(worker)
        assert of(found, "task_fault", task="company") == 1
        assert of(found, "ready") == 0
        assert sum(value for (name, labels), value in found.items()
                   if name == "retries_total" and ("task", "company") in labels) >= 1  # fmt: skip
        assert status_of(worker)["worker"]["reasons"]
        eventually(lambda: of(samples(worker), "queue_records", entity="company") == 1)
        eventually(lambda: of(samples(worker), "queue_oldest_seconds", entity="company") > 0)
        assert worker.health("/healthz")[0] == 200
        neon_server.start()
        eventually(lambda: work(supabase, company(1))["promoted_at"], 90)
        eventually(lambda: worker.health("/readyz")[0] == 200, 60)


# The parts by themselves


def told(number: int, outcome: str = "promoted", **fields) -> OutcomeSummary:
    return OutcomeSummary(company(number), outcome, **fields)


def tally(*records: OutcomeSummary) -> Tally:
    return Tally("DELIVER-20251107-163209-b26be042", len(records), len(records), summaries=list(records))


def count(queue: int, oldest: str | None) -> dict:
    entity = {
        "counts": {}, "queue": queue, "oldest_queued_at": oldest, "oldest_queued_seconds": 1.0 if oldest else None,
        "invalid": None, "master": None, "failures_by_week": [], "returned_often": 0, "paused_since": None,
        "last_pull": dict.fromkeys(("at", "full_at", "position", "new", "changed", "withdrawn")),
    }  # fmt: skip
    return {"at": "2025-11-07T16:32:09+00:00", "entities": {"company": entity}}


def test_a_queue_that_does_not_move_makes_the_worker_unready() -> None:
    clock = [1000.0]
    monitor = Monitor(["company"], clock=lambda: clock[0])
    monitor.listening(None)
    monitor.counted(count(3, "2025-11-07T16:00:00+00:00"), 0.001)
    clock[0] += STUCK_SECONDS + 1
    monitor.counted(count(4, "2025-11-07T16:00:00+00:00"), 0.001)
    (reason,) = monitor.health.unready()
    assert reason.startswith("company: the queue does not move")
    # An answer moves it, another worker's too, and so does an empty queue.
    monitor.delivered("company", tally(told(1)))
    assert monitor.health.unready() == []
    for moved in (count(2, "2025-11-07T16:01:00+00:00"), count(0, None)):
        clock[0] += STUCK_SECONDS + 1
        monitor.counted(moved, 0.001)
        assert monitor.health.unready() == []


def test_a_loop_that_hangs_makes_the_worker_unhealthy() -> None:
    clock = [0.0]
    monitor = Monitor(["company"], clock=lambda: clock[0])
    monitor.listening(None)
    monitor.heartbeat("sweep")
    clock[0] = 200.0
    assert monitor.health.stalled() == ["sweep hangs"]
    assert "sweep hangs" in monitor.health.unready()
    monitor.heartbeat("sweep")
    assert monitor.health.unready() == []


def test_tasks_with_the_same_trouble_are_told_together() -> None:
    monitor = Monitor(["company"])
    monitor.listening(None)
    for task in ("company", "sweep", "pull"):
        monitor.fault(task, "connection refused")
    assert monitor.health.unready() == ["company, sweep, pull: connection refused"]


def test_a_page_that_does_not_keep_up_is_cut_off_and_holds_up_nobody() -> None:
    monitor = Monitor(["company"])
    with monitor.feed.watch() as slow, monitor.feed.watch() as quick:
        for number in range(BACKLOG + 1):
            monitor.delivered("company", tally(told(number)))
            quick.receive_nowait()
        assert slow.statistics().open_send_streams == 0
        assert quick.statistics().open_send_streams == 1
        monitor.feed.close()
        assert quick.statistics().open_send_streams == 0
    assert monitor.feed.watchers == 0
    assert monitor.feed.full


def test_a_silent_stream_of_events_says_now_and_then_that_it_is_there(monkeypatch) -> None:
    monkeypatch.setattr(page_module, "HEARTBEAT_SECONDS", 0.01)

    async def frames() -> list[str]:
        stream = page_module._frames(Monitor(["company"]))
        with anyio.fail_after(PATIENCE):
            return [(await anext(stream)).partition("\n")[0] for _ in range(3)]

    assert anyio.run(frames) == ["event: status", ": still here", ": still here"]


def test_what_is_remembered_is_bounded() -> None:
    recent = Recent()
    for _ in range(5):
        recent.add("company", [told(number, delay=0.2) for number in range(1000)])
    assert len(recent.latest()) == LATEST
    buckets = recent.history()["buckets"]
    assert len(buckets) <= 2
    assert sum(bucket["outcomes"]["promoted"] for bucket in buckets) == 5000
    assert BUCKETS * BUCKET_SECONDS == 3600
    assert recent.latest()[0]["key"] == company(999)


def test_a_delay_that_a_clock_made_negative_is_none() -> None:
    monitor = Monitor(["company"])
    for delay in (-3600.0, 0.2):
        monitor.delivered("company", tally(told(1, delay=delay)))
    text = monitor.exposition()[0].decode()
    labels = 'entity="company",outcome="promoted"'
    assert f"flip_to_outcome_seconds_sum{{{labels}}} 0.2\n" in text
    assert [one["seconds"] for one in monitor.status()["worker"]["latest"]] == [0.2, 0.0]


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_the_last_hour_stays_the_last_hour_when_the_clock_on_the_wall_jumps(monkeypatch, step) -> None:
    wall, run = [1_000_000_000.0], [5000.0]
    monkeypatch.setattr(recent_module.time, "time", lambda: wall[0])
    monkeypatch.setattr(recent_module.time, "monotonic", lambda: run[0])
    recent = Recent()
    for seconds in (10, 10, step, 10, 10):
        if seconds == 10:
            run[0] += 10
        wall[0] += seconds
        recent.add("company", [told(1, delay=0.2)])
    buckets = recent.history()["buckets"]
    starts = [bucket["start"] for bucket in buckets]
    assert sum(bucket["outcomes"]["promoted"] for bucket in buckets) == 5
    assert [later - earlier for earlier, later in pairwise(starts)] == [10, 10, 10]
    assert 0 <= wall[0] - starts[-1] < 2 * BUCKET_SECONDS


def test_a_pull_that_does_not_come_makes_the_worker_unready() -> None:
    clock = [1000.0]
    monitor = Monitor(["company", "people"], clock=lambda: clock[0], rest=5.0, pull_interval=60.0)
    monitor.listening(None)
    late = LATE * 60 + 2 * 5 + LATE_SECONDS
    clock[0] += late
    assert monitor.health.unready() == []
    clock[0] += 1
    assert [reason.split(":")[0] for reason in monitor.health.unready()] == ["company", "people"]
    assert "one is due every 60 s" in monitor.health.unready()[0]
    # Another worker's pull is one, and so is one of this process that goes on.
    for run in ("PULL-20251107-163209-b26be042", "PULL-20251107-173209-b26be042"):
        pulled = count(0, None)
        pulled["entities"]["company"]["last_pull"]["run_id"] = run
        monitor.counted(pulled, 0.001)
        assert [reason.split(":")[0] for reason in monitor.health.unready()] == ["people"]
        clock[0] += late + 1
        monitor.counted(pulled, 0.001)
        assert len(monitor.health.unready()) == 2
    monitor.pulling()
    assert monitor.health.unready() == []


def test_a_pull_that_somebody_holds_up_is_told_and_delivers_all_the_same(
    running, env, daemon, databases, supabase, eventually
) -> None:
    assert running.terminate() == 0
    env["WORKER_PULL_INTERVAL"] = "100ms"
    worker = daemon()
    with connect(databases.supabase_url) as dba, dba.transaction():
        dba.execute("SELECT FROM enrichment_pull_position WHERE entity = 'company' FOR UPDATE")
        reasons = eventually(lambda: (said := json.loads(worker.health("/readyz")[1])["reasons"]) and said, 60)
        assert [reason.split(":")[0] for reason in reasons] == ["company"]
        complete(supabase, company(1), website="https://a.example")
        eventually(lambda: work(supabase, company(1))["promoted_at"])
        assert worker.health("/healthz")[0] == 200
    eventually(lambda: worker.health("/readyz")[0] == 200)


def test_a_last_pull_dated_ahead_of_the_clock_is_due(running, env, daemon, neon, supabase, eventually) -> None:
    assert running.terminate() == 0
    # As a clock left it that was two days ahead for the length of a pull.
    supabase.execute("UPDATE enrichment_pull_position SET last_pull_at = last_pull_at + interval '2 days',"
                     " last_full_at = last_full_at + interval '2 days'")  # fmt: skip
    add_companies(neon, 70)
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(12)])
    worker = daemon()
    assert worker.wait_event("pull.clock")["entities"] == ["company", "people"]
    assert worker.wait_event("pull.done", entity="company")["full"] is True
    assert work(supabase, company(70))
    ahead = "SELECT FROM enrichment_pull_position WHERE greatest(last_pull_at, last_full_at) > now() AT TIME ZONE 'UTC'"
    eventually(lambda: not supabase.execute(ahead).fetchall())
    # Once is enough: now it is as long ago as it is.
    pulls = len([e for e in worker.events if e["event"] == "pull.done"])
    complete(supabase, company(1), website="https://a.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    assert len([e for e in worker.events if e["event"] == "pull.done"]) <= max(2, pulls)


def test_a_flip_dated_ahead_of_the_clock_has_no_negative_delay(running, supabase, eventually) -> None:
    with supabase.transaction():
        supabase.execute("SET LOCAL session_replication_role = replica")  # the trigger would date it by this clock
        edit(supabase, company(1), website="https://a.example", enrichment_status="complete")
        supabase.execute("UPDATE company_needs_enrichment SET updated_at = now() + interval '1 hour'"
                         " WHERE company_unique_id = %s", [company(1)])  # fmt: skip
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    latest = eventually(lambda: status_of(running)["worker"]["latest"])
    assert [one["seconds"] for one in latest] == [0.0]
    assert of(samples(running), "flip_to_outcome_seconds_sum", entity="company", outcome="promoted") >= 0


def test_many_flagged_records_are_summed_up_and_few_are_named(running, supabase, eventually) -> None:
    with supabase.transaction():
        for number in range(1, 13):
            complete(supabase, company(number), website="n/a" if number > 2 else "", company_name="Alder Works")
    for number in range(1, 13):
        eventually(lambda number=number: work(supabase, company(number))["enrichment_status"] == "failed")
    batch = running.wait_event("delivery.batch", claimed=12)
    assert batch["reasons"] == {"PLACEHOLDER_WEBSITE": 10, "EMPTY_WEBSITE": 2}
    assert {code: len(keys) for code, keys in batch["keys"].items()} == {"PLACEHOLDER_WEBSITE": 3, "EMPTY_WEBSITE": 2}
    assert not [e for e in running.events if e["event"] == "record.flagged"]
    complete(supabase, company(3), website="test.com")
    named = running.wait_event("record.flagged", key=company(3))
    assert (named["reason_code"], named["fields"]) == ("PLACEHOLDER_WEBSITE", ["website"])
    batch = running.wait_event("delivery.batch", claimed=1)
    assert batch["reasons"] == {"PLACEHOLDER_WEBSITE": 1}
    assert "keys" not in batch


def test_two_sets_of_metrics_share_nothing() -> None:
    one, other = Metrics(["company"]), Metrics(["company"])
    one.outcomes.labels("company", "promoted").inc()
    assert b'outcomes_total{entity="company",outcome="promoted"} 1.0' in one.text()[0]
    assert b'outcomes_total{entity="company",outcome="promoted"} 0.0' in other.text()[0]


@pytest.mark.parametrize(
    ("error", "sort"),
    [
        (psycopg.errors.DeadlockDetected(), "deadlock"),
        (psycopg.errors.SerializationFailure(), "serialization"),
        (psycopg.errors.QueryCanceled(), "timeout"),
        (psycopg.errors.AdminShutdown(), "shutdown"),
        (psycopg.errors.LockNotAvailable(), "lock"),
        (psycopg.errors.TooManyConnections(), "resources"),
        (psycopg.OperationalError("server closed the connection"), "connection"),
        (ConnectionRefusedError(), "connection"),
        (psycopg.errors.UndefinedTable(), "other"),
        (ValueError(), "other"),
    ],
)
def test_faults_are_sorted_into_few_words(error, sort) -> None:
    assert metric_label(error) == sort


@pytest.mark.parametrize("records", [1, 8])
def test_measuring_costs_no_round_trip(cli, prepared, env, neon, supabase, monkeypatch, records) -> None:
    add_companies(neon, *range(1, 9))
    assert cli("pull").returncode == 0
    for number in range(1, records + 1):
        complete(supabase, company(number), website=f"https://c{number}.example")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    sent = []
    exchange = transaction.exchange

    async def counted(connection, statements):
        sent.append(connection.info.dbname)
        return await exchange(connection, statements)

    async def deliver_one_batch() -> Tally:
        async with open_databases(load_settings()) as opened:
            # Each exchange is one trip there and back: test_bench counts it on the links themselves.
            monkeypatch.setattr(transaction, "exchange", counted)
            return await deliver(opened, ENTITIES["company"])

    done = anyio.run(deliver_one_batch)
    assert [one.outcome for one in done.summaries] == ["promoted"] * records
    assert sorted(done.seconds) == ["acknowledge", "claim", "judge", "settle"]
    here, there = supabase.info.dbname, neon.info.dbname
    assert sent == [here, there, here]
