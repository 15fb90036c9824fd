"""Events to N8N_WEBHOOK_URL: at least once, in order, holding up nobody. A real HTTP server that fails, hangs and returns."""

from __future__ import annotations

import json
import re
import secrets
import signal
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, Databases, connect
from embedded import embedded
from pydantic import TypeAdapter
from receiver import Receiver
from records import add_companies, add_people, company, complete, person, work
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from worker.demo.embedded import EmbeddedServer
from worker.supabase.outbox import OutcomesEvent, PullEvent, schema

EVENTS: TypeAdapter[OutcomesEvent | PullEvent] = TypeAdapter(OutcomesEvent | PullEvent)


SECRETS = [f"whsec_{b64encode(secrets.token_bytes(size)).decode()}" for size in (24, 64)]
"""While a receiver changes its secret, it may have either."""


@pytest.fixture
def receiver(env) -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        env.update(N8N_WEBHOOK_URL=server.url, N8N_WEBHOOK_TOKEN="token-of-nobody", WORKER_SWEEP_INTERVAL="0.2")
        env["N8N_WEBHOOK_SECRET"] = " ".join(SECRETS)
        yield server
        server.hang.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def filled(cli, prepared, receiver, neon) -> None:
    add_companies(neon, 1, 2, 3, 4, 5)
    add_people(neon, 1, of=9)
    assert cli("pull").returncode == 0


def test_outcomes_and_pulls_are_posted_as_the_schema_says(filled, daemon, receiver, neon, supabase, eventually) -> None:
    worker = daemon()
    assert eventually(lambda: receiver.taken("pull"))[0]["counts"]["new"] == 5
    complete(supabase, company(1), website="c1.example")
    complete(supabase, company(2), website="n/a")
    complete(supabase, person(1), email="robin@alder.example")
    eventually(lambda: sum(len(e["records"]) for e in receiver.taken()) == 2 and receiver.taken(entity="people"))
    told = {r["key"]: (r["outcome"], r["reason_code"]) for e in receiver.taken() for r in e["records"]}
    assert told == {company(1): ("promoted", None), company(2): ("flagged", "PLACEHOLDER_WEBSITE")}
    assert receiver.taken(entity="people")[0]["counts"] == {"waiting": 1}
    assert receiver.taken()[0]["run_id"] == neon.execute(
        "SELECT run_id FROM marketing.enrichment_ledger WHERE key = %s", [company(1)]
    ).fetchone()["run_id"]  # fmt: skip
    for (headers, event, _), body in zip(receiver.attempts, receiver.bodies, strict=True):
        EVENTS.validate_python(event)
        for secret in SECRETS:
            assert Webhook(secret).verify(body, headers) == event
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRETS[0]).verify(body + b" ", headers)
        assert headers["Idempotency-Key"] == event["id"]
        assert headers["Authorization"] == "Bearer token-of-nobody"
        assert headers["Content-Type"] == "application/json"
        assert not {"Alder Works", "c1.example", "robin"} & set(json.dumps(event).split('"')), "nothing personal"
        assert "example" not in json.dumps(event)
    # An event goes when its receiver has answered.
    eventually(lambda: supabase.execute("SELECT count(*) AS n FROM enrichment_outbox").fetchone()["n"] == 0)
    assert worker.terminate() == 0
    assert "token-of-nobody" not in json.dumps(worker.events)
    assert not [secret for secret in SECRETS if secret.removeprefix("whsec_") in json.dumps(worker.events)]
    assert "secret-path" not in json.dumps(worker.events)


def test_the_schema_in_deploy_is_that_of_the_events() -> None:
    stored = json.loads((Path(ROOT) / "deploy" / "webhook.schema.json").read_text())
    assert stored == schema(), "write it anew: python -m worker.supabase.outbox > deploy/webhook.schema.json"


@pytest.mark.parametrize("status", [500, 302, 404])
def test_a_receiver_that_fails_holds_up_nobody_and_gets_everything_in_order_when_it_returns(
    filled, daemon, receiver, neon, supabase, eventually, status
) -> None:
    receiver.answer = status
    worker = daemon()
    failed = worker.wait_event("webhook.failed", entity="company")
    assert str(status) in failed["error"]
    for number in (1, 2, 3):
        complete(supabase, company(number), website=f"c{number}.example")
        eventually(lambda number=number: work(supabase, company(number))["promoted_at"])
    assert not receiver.taken()
    assert worker.health("/readyz")[0] == 200
    assert [w for w in json.loads(worker.health("/status.json")[1])["worker"]["warnings"] if str(status) in w]
    assert 'webhook_posts_total{entity="company",result="failed"}' in worker.health("/metrics")[1]

    def attempts() -> int:
        return len([event for _, event, _ in receiver.attempts if event["entity"] == "company"])

    made = eventually(lambda: (number := attempts()) > 3 and number)
    oldest = "SELECT attempts, last_error FROM enrichment_outbox WHERE entity = 'company' ORDER BY id LIMIT 1"
    kept = supabase.execute(oldest).fetchone()
    assert kept["attempts"] >= made - 1, "all but the one under way are for good"
    assert str(status) in kept["last_error"], "doctor tells it"
    receiver.answer = 200
    eventually(lambda: len(receiver.taken()) == 3)
    assert [event["records"][0]["key"] for event in receiver.taken()] == [company(1), company(2), company(3)]
    eventually(lambda: not json.loads(worker.health("/status.json")[1])["worker"]["warnings"])


def test_a_worker_killed_while_it_posts_posts_again_under_the_same_key(
    filled, daemon, receiver, supabase, eventually
) -> None:
    worker = daemon()
    eventually(lambda: receiver.taken("pull") and receiver.taken("pull", "people"))
    eventually(lambda: not supabase.execute("SELECT id FROM enrichment_outbox").fetchone())
    receiver.hang.clear()
    complete(supabase, company(1), website="c1.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    # The event is on its way, and the outbox row is held, when the worker dies.
    eventually(lambda: company(1) in receiver.begun)
    worker.kill()
    receiver.hang.set()
    eventually(receiver.taken)
    # The next worker comes an hour later.
    supabase.execute("UPDATE enrichment_outbox SET created_at = created_at - interval '1 hour', event = jsonb_set(event,"
                     " '{at}', to_jsonb((event ->> 'at')::timestamptz - interval '1 hour'))"
                     " WHERE event ->> 'type' = 'outcomes'")  # fmt: skip
    assert supabase.execute("SELECT id FROM enrichment_outbox WHERE event ->> 'type' = 'outcomes'").fetchone()
    daemon()
    eventually(
        lambda: not supabase.execute("SELECT id FROM enrichment_outbox").fetchone() and len(receiver.attempts) > 2
    )
    keys = [(h["Idempotency-Key"], h["webhook-id"]) for h, event, _ in receiver.attempts if event["type"] == "outcomes"]
    assert len(keys) == 2
    assert len(set(keys)) == 1
    # An attempt is signed with the moment at which it is made: an old event is not refused as too old.
    Webhook(SECRETS[1]).verify(receiver.bodies[-1], receiver.attempts[-1][0])


def test_a_receiver_that_hangs_does_not_hold_up_the_stop(filled, daemon, receiver, supabase, eventually) -> None:
    receiver.hang.clear()
    worker = daemon()
    complete(supabase, company(1), website="c1.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    eventually(lambda: "pull" in receiver.begun)
    assert worker.terminate() == 0
    # It was given up, and not waited for until the receiver's time was over.
    kept = supabase.execute("SELECT count(*) AS n, max(attempts) AS attempts FROM enrichment_outbox").fetchone()
    assert kept["n"] >= 1
    assert kept["attempts"] == 0
    assert not [event for event in worker.events if event["event"] == "webhook.failed"]


def test_two_workers_post_in_order_and_each_event_once(filled, daemon, receiver, supabase, eventually) -> None:
    daemon()
    daemon()
    for number in (1, 2, 3, 4, 5):
        complete(supabase, company(number), website=f"c{number}.example")
        eventually(lambda number=number: work(supabase, company(number))["promoted_at"])
    eventually(lambda: not supabase.execute("SELECT id FROM enrichment_outbox").fetchone())
    posts = [event for _, event, _ in receiver.attempts if event["type"] == "outcomes"]
    assert [event["records"][0]["key"] for event in posts] == [company(n) for n in (1, 2, 3, 4, 5)]


def test_no_worker_posts_past_an_event_that_another_is_posting(filled, daemon, receiver, supabase, eventually) -> None:
    one = daemon()
    eventually(lambda: not supabase.execute("SELECT id FROM enrichment_outbox").fetchone())
    held = receiver.hang
    held.clear()
    complete(supabase, company(1), website="c1.example")
    eventually(lambda: company(1) in receiver.begun)
    # It holds the event, does nothing else from now on, and whatever comes is the other's.
    one.process.send_signal(signal.SIGSTOP)
    receiver.hang = threading.Event()
    receiver.hang.set()
    daemon()
    for number in (2, 3, 4):
        complete(supabase, company(number), website=f"c{number}.example")
        eventually(lambda number=number: work(supabase, company(number))["promoted_at"])
        # The other's events go: it looks at the company's as often.
        supabase.execute(EVENT.replace("'company'", "'people'"), [number, number])
        eventually(lambda number=number: len(receiver.taken(entity="people")) == number - 1)
    assert not set(receiver.begun) & {company(n) for n in (2, 3, 4)}
    held.set()
    one.process.send_signal(signal.SIGCONT)
    eventually(lambda: not supabase.execute("SELECT id FROM enrichment_outbox").fetchone())
    assert [event["records"][0]["key"] for event in receiver.taken()] == [company(n) for n in (1, 2, 3, 4)]


class TestCrash:
    """Of a server that writes what it need not keep as late as it may."""

    @pytest.fixture
    def server(self) -> Iterator[EmbeddedServer]:
        with embedded(18, wal_writer_delay="10s") as server:
            yield server

    @pytest.fixture
    def databases(self, server) -> Databases:
        for name in ("neon", "supabase"):
            server.create_database(name)
        return Databases(server.url("neon"), server.url("supabase"))

    def test_what_was_posted_outlives_a_crash_of_the_server(
        self, filled, server, databases, daemon, receiver, supabase, eventually
    ) -> None:
        """Else it would be acknowledged and announced again, under another key."""
        daemon()
        eventually(lambda: not supabase.execute("SELECT id FROM enrichment_outbox").fetchone())
        receiver.hang.clear()
        complete(supabase, company(1), website="c1.example")
        eventually(lambda: company(1) in receiver.begun)
        server.stop("immediate")
        server.start()
        receiver.hang.set()
        with connect(databases.supabase_url) as again:
            left = "SELECT id FROM enrichment_outbox UNION ALL SELECT id FROM company_needs_enrichment WHERE"
            left += " enrichment_status = 'complete' AND pushed_to_neon_at IS NULL"
            eventually(lambda: not again.execute(left).fetchone(), 60)
            assert work(again, company(1))["promoted_at"] is not None
        posts = [h["Idempotency-Key"] for h, event, _ in receiver.attempts if event["type"] == "outcomes"]
        assert len(set(posts)) == 1


def test_doctor_and_history_tell_of_events_that_wait(cli, filled, receiver, supabase) -> None:
    complete(supabase, company(1), website="c1.example")
    assert cli("push").returncode == 0
    assert "1 of its events wait to be posted" in cli("history", company(1)).stdout
    found = {one["check"]: one for one in json.loads(cli("doctor", "--json").stdout)}["events to N8N_WEBHOOK_URL"]
    assert found["level"] == "ok"
    supabase.execute("UPDATE enrichment_outbox SET created_at = now() - interval '1 hour', last_error = 'HTTP 500'")
    found = {one["check"]: one for one in json.loads(cli("doctor", "--json").stdout)}["events to N8N_WEBHOOK_URL"]
    assert (found["level"], "HTTP 500" in found["text"]) == ("warning", True)
    supabase.execute("DROP TABLE enrichment_outbox")
    found = {one["check"]: one for one in json.loads(cli("doctor", "--json").stdout)}["events to N8N_WEBHOOK_URL"]
    assert (found["level"], found["hint"]) == ("problem", "run `enrichment-worker setup`")
    assert "enrichment-worker setup" in cli("status").stderr + cli("push").stderr


def test_what_stages_undo_and_withdrawals_did_is_posted_by_the_daemon(
    cli, filled, daemon, receiver, neon, supabase, eventually
) -> None:
    complete(supabase, company(1), website="c1.example")
    assert cli("push").returncode == 0
    assert cli("promote", input=company(1)).returncode == 0
    assert cli("undo", company(1)).returncode == 0
    neon.execute("DELETE FROM marketing.company_invalid WHERE company_unique_id = %s", [company(3)])
    assert cli("pull", "--full").returncode == 0
    assert not receiver.attempts, "a command does not wait for the receiver"
    daemon()
    eventually(lambda: len(receiver.taken()) == 4)
    told = [(r["key"], r["outcome"]) for e in receiver.taken() for r in e["records"]]
    assert told == [
        (company(1), "waiting"),
        (company(1), "promoted"),
        (company(1), "undone"),
        (company(3), "withdrawn"),
    ]


def test_what_became_of_a_batch_is_posted_though_one_row_refuses_its_reply(
    filled, daemon, receiver, supabase, eventually
) -> None:
    supabase.execute("ALTER TABLE company_needs_enrichment ADD CHECK (enrichment_status <> 'failed')")
    with supabase.transaction():
        complete(supabase, company(1), website="n/a")
        complete(supabase, company(2), website="c2.example")
    daemon()
    eventually(lambda: work(supabase, company(2))["promoted_at"])
    eventually(lambda: receiver.taken() and not supabase.execute("SELECT FROM enrichment_outbox").rowcount)
    told = {r["key"]: r["outcome"] for e in receiver.taken() for r in e["records"]}
    assert told == {company(1): "flagged", company(2): "promoted"}


def test_a_large_batch_is_several_events(cli, prepared, env, daemon, receiver, neon, supabase, eventually) -> None:
    env["WORKER_BATCH_SIZE"] = "5000"
    neon.execute(
        "INSERT INTO marketing.company_invalid (company_unique_id, company_name, reason_code, validation_errors)"
        " SELECT format('04.04.01.01.%s.001', lpad(i::text, 5, '0')), 'Alder Works ' || i, 'EMPTY_WEBSITE', '{}'"
        " FROM generate_series(1, 2500) i"
    )
    assert cli("pull").returncode == 0
    supabase.execute("UPDATE company_needs_enrichment SET enrichment_status = 'complete'")
    daemon()
    eventually(lambda: sum(len(event["records"]) for event in receiver.taken()) == 2500)
    assert max(len(event["records"]) for event in receiver.taken()) == 1000
    assert all(sum(event["counts"].values()) == len(event["records"]) for event in receiver.taken())


def test_a_proxy_that_cannot_be_used_is_refused_at_start_in_one_line(cli, prepared, env) -> None:
    env.update(N8N_WEBHOOK_URL="https://n8n.example/hunter2", ALL_PROXY="socks5://user:hunter2@127.0.0.1:1")
    done = cli("run")
    assert done.returncode == 2
    assert "set an http:// proxy" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


def test_a_worker_that_finds_another_posting_does_not_take_the_trouble_for_over(
    filled, env, daemon, receiver, supabase, eventually
) -> None:
    receiver.answer = 500
    worker = daemon()
    worker.wait_event("webhook.failed", entity="company")
    with supabase.transaction():
        eventually(lambda: supabase.execute(
            "SELECT id FROM enrichment_outbox WHERE entity = 'company' FOR UPDATE SKIP LOCKED").fetchone())  # fmt: skip
        failed = worker.health("/metrics")[1].split('webhook_posts_total{entity="company",result="failed"} ')[1][:5]
        turns = len(receiver.begun)
        eventually(lambda: len(receiver.begun) > turns + 2)  # people's events; company's are looked at as often
        assert failed in worker.health("/metrics")[1]
        assert [w for w in json.loads(worker.health("/status.json")[1])["worker"]["warnings"] if "company" in w]


def test_what_nobody_could_announce_is_announced_by_who_finds_it(cli, filled, receiver, neon, supabase) -> None:
    complete(supabase, company(1), website="c1.example")
    assert cli("push").returncode == 0
    assert cli("promote", input=company(1)).returncode == 0
    promoted = work(supabase, company(1))
    assert cli("undo", company(1)).returncode == 0
    # As an undo left it that died before it told the row, and was said again.
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute(
            "UPDATE company_needs_enrichment SET enrichment_status = 'complete', pushed_to_neon_at = now(),"
            " promoted_at = now(), receipt_id = %(receipt_id)s, receipt_hash = %(receipt_hash)s WHERE neon_id = 1",
            promoted,
        )
    supabase.execute("DELETE FROM enrichment_outbox")
    assert "taken back before" in cli("undo", company(1)).stderr
    assert "taken back before" in cli("undo", company(1)).stderr
    told = [row["event"] for row in supabase.execute("SELECT event FROM enrichment_outbox").fetchall()]
    assert [(e["records"][0]["outcome"], e["run_id"]) for e in told] == [
        ("undone", neon.execute("SELECT run_id FROM marketing.enrichment_ledger WHERE outcome = 'undone'").fetchone()["run_id"])
    ]  # fmt: skip


@pytest.mark.parametrize(("website", "became"), [("c1.example", "promoted"), ("n/a", "flagged")])
def test_a_stage_that_died_before_it_told_is_announced_as_what_it_was(
    cli, filled, daemon, receiver, supabase, eventually, website, became
) -> None:
    complete(supabase, company(1), website=website)
    assert cli("push").returncode == 0
    carried = supabase.execute("SELECT * FROM company_needs_enrichment WHERE neon_id = 1").fetchone()
    assert cli(*(("promote",) if became == "promoted" else ("revalidate",)), input=company(1)).returncode == 0
    # Neon has it, and the workspace is as it was before.
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute(
            "UPDATE company_needs_enrichment SET enrichment_status = %(enrichment_status)s, promoted_at = NULL,"
            " pushed_to_neon_at = %(pushed_to_neon_at)s, updated_at = %(updated_at)s, website = %(website)s,"
            " sync_note = %(sync_note)s WHERE neon_id = 1",
            carried,
        )
    supabase.execute("DELETE FROM enrichment_outbox")
    assert cli("pull").returncode == 0
    told = supabase.execute("SELECT event -> 'records' AS r FROM enrichment_outbox WHERE event ? 'records'").fetchall()
    assert [(r["key"], r["outcome"]) for row in told for r in row["r"]] == [(company(1), became)]


EVENT = """
INSERT INTO enrichment_outbox (entity, event)
SELECT 'company', jsonb_build_object('id', gen_random_uuid(), 'type', 'outcomes', 'entity', 'company', 'records',
  jsonb_build_array(jsonb_build_object('key', '04.04.01.01.' || i || '.001', 'outcome', 'promoted')))
FROM generate_series(%s::int, %s::int) i
"""


def test_what_a_post_reads_does_not_follow_what_waits(
    cli, prepared, daemon, receiver, neon, supabase, eventually
) -> None:
    waiting = 400
    supabase.execute("SELECT pg_stat_reset()")
    supabase.execute(EVENT, [1, waiting])
    daemon()
    eventually(lambda: len(receiver.taken()) >= waiting, 120)  # a look at the table would be counted
    figures = (
        "SELECT t.n_tup_del AS posted, t.seq_tup_read + sum(i.idx_tup_read) AS read FROM pg_stat_user_tables t"
        " JOIN pg_stat_user_indexes i USING (relid) WHERE t.relname = 'enrichment_outbox' GROUP BY 1, t.seq_tup_read"
    )
    # The server's figures come a moment later.
    found = eventually(lambda: (row := supabase.execute(figures).fetchone())["posted"] >= waiting and row)
    assert found["read"] < waiting * waiting / 8, "half of its square, where each post reads all that wait"


def test_an_event_that_commits_after_later_ones_is_posted_too(
    cli, prepared, databases, daemon, receiver, supabase, eventually
) -> None:
    with connect(databases.supabase_url) as slow, slow.transaction():
        slow.execute(EVENT, [1, 1])
        supabase.execute(EVENT, [2, 3])
        daemon()
        eventually(lambda: len(receiver.taken()) == 2)
    eventually(lambda: len(receiver.taken()) == 3)
    assert [event["records"][0]["key"][12] for event in receiver.taken()] == ["2", "3", "1"]
    eventually(lambda: not supabase.execute("SELECT id FROM enrichment_outbox").fetchone())


def test_how_many_wait_is_told_while_the_receiver_takes_none(
    cli, prepared, daemon, receiver, supabase, eventually
) -> None:
    receiver.answer = 500
    supabase.execute(EVENT, [1, 25])
    worker = daemon()

    def told() -> int:
        """How many wait, as it says; 0 before it does."""
        said = re.findall(r"; (\d+) waiting", str(json.loads(worker.health("/status.json")[1])["worker"]["warnings"]))
        return int(said[0]) if said else 0

    # The daemon's own first pull is an event too, and may be put there before or after they are counted.
    assert eventually(told) in (25, 26)
    receiver.answer = 200
    eventually(lambda: len(receiver.taken()) == 25)
    eventually(lambda: 'webhook_pending_events{entity="company"} 0.0' in worker.health("/metrics")[1])


def test_without_the_setting_nothing_is_written(cli, prepared, neon, supabase) -> None:
    add_companies(neon, 1)
    assert cli("pull").returncode == 0
    complete(supabase, company(1), website="c1.example")
    assert cli("push").returncode == 0
    assert supabase.execute("SELECT count(*) AS n FROM enrichment_outbox").fetchone()["n"] == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"N8N_WEBHOOK_URL": "http://n8n.example/hook", "N8N_WEBHOOK_TOKEN": "hunter2"}, "without TLS"),
        ({"N8N_WEBHOOK_URL": "https://n8n.example/hook", "N8N_WEBHOOK_TOKEN": "hunter2 x"}, "N8N_WEBHOOK_TOKEN"),
        ({"N8N_WEBHOOK_URL": "http://127.0.0.1:99999/hunter2"}, "N8N_WEBHOOK_URL"),
        ({"N8N_WEBHOOK_URL": "ftp://n8n.example/hunter2"}, "N8N_WEBHOOK_URL"),
        ({"N8N_WEBHOOK_URL": "https://n8n.example/hook", "N8N_WEBHOOK_SECRET": "whsec_hunter2!"}, "N8N_WEBHOOK_SECRET"),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused_by_name_and_not_shown(cli, env, settings, said) -> None:
    env.update(settings, WORKER_ALLOW_INSECURE="0")
    done = cli("status")
    assert done.returncode == 2
    assert said in done.stderr
    assert "hunter2" not in done.stderr
