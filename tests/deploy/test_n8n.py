"""``deploy/n8n-workflow.json`` in a real n8n: it takes what the worker signed, and nothing else. Passed with n8n 2.8.4."""

from __future__ import annotations

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from conftest import ROOT
from records import add_companies, company, complete, work

from worker.domain.signature import signature_headers, signing_keys

N8N = os.environ.get("N8N") or shutil.which("n8n")
WORKFLOW = ROOT / "deploy" / "n8n-workflow.json"
TEXT = secrets.token_hex(24)
"""The key: text, as n8n's credentials hold no bytes."""
SECRET = f"whsec_{base64.b64encode(TEXT.encode()).decode()}"
PATIENCE = 180.0
pytestmark = [
    pytest.mark.skipif(not N8N, reason="no n8n here: npm install n8n, and name its program in N8N"),
    pytest.mark.timeout(600),
    pytest.mark.one_version,
]


@dataclass
class Running:
    url: str
    executions: Callable[[], str]
    """The output of n8n so far."""


@pytest.fixture(scope="module")
def n8n(tmp_path_factory) -> Iterator[Running]:
    folder: Path = tmp_path_factory.mktemp("n8n")
    with socket.create_server(("127.0.0.1", 0)) as free, socket.create_server(("127.0.0.1", 0)) as another:
        port, broker = free.getsockname()[1], another.getsockname()[1]
    environment = os.environ | {
        "N8N_USER_FOLDER": str(folder), "N8N_PORT": str(port), "N8N_LISTEN_ADDRESS": "127.0.0.1",
        "N8N_DIAGNOSTICS_ENABLED": "false", "N8N_VERSION_NOTIFICATIONS_ENABLED": "false",
        "N8N_TEMPLATES_ENABLED": "false", "N8N_RUNNERS_BROKER_PORT": str(broker),
        "N8N_ENCRYPTION_KEY": secrets.token_hex(16),
    }  # fmt: skip
    workflow = json.loads(WORKFLOW.read_text())
    # What its user does by hand: makes the credential, and chooses it in the node.
    credential = {"id": "webhookSecret", "name": "enrichment-worker", "type": "crypto", "data": {"hmacSecret": TEXT}}
    (crypto,) = [node for node in workflow["nodes"] if node["type"] == "n8n-nodes-base.crypto"]
    crypto["credentials"] = {"crypto": {"id": credential["id"], "name": credential["name"]}}
    (folder / "credentials.json").write_text(json.dumps([credential]))
    (folder / "workflow.json").write_text(json.dumps([workflow]))

    def run(*arguments: str) -> None:
        done = subprocess.run([N8N, *arguments], env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    run("import:credentials", f"--input={folder / 'credentials.json'}")
    run("import:workflow", f"--input={folder / 'workflow.json'}")
    run("publish:workflow", f"--id={workflow['id']}")
    log = folder / "log"
    with log.open("w") as said:
        process = subprocess.Popen([N8N, "start"], env=environment, stdout=said, stderr=said, start_new_session=True)
    url = f"http://127.0.0.1:{port}/webhook/enrichment-worker"
    try:
        limit = time.monotonic() + PATIENCE
        while not answers(url):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < limit, log.read_text()[-2000:]
            time.sleep(0.2)  # between two looks
        yield Running(url, log.read_text)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def answers(url: str) -> bool:
    """Whether the workflow's address is there: it takes no GET."""
    try:
        return httpx.post(url, content=b"{}", timeout=30).status_code == 401
    except httpx.TransportError:
        return False


def post(url: str, body: bytes, headers: dict[str, str]) -> httpx.Response:
    return httpx.post(url, content=body, headers={"Content-Type": "application/json", **headers}, timeout=30)


def test_what_is_not_signed_or_old_is_refused_and_what_is_signed_taken(n8n) -> None:
    body = '{"id": "1",  "type": "other", "text": "Wüst"}'.encode()
    keys, now = signing_keys(SECRET), int(time.time())
    signed = signature_headers(keys, "1", now, body)
    assert post(n8n.url, body, signed).json() == {"taken": "1"}
    both = signature_headers((secrets.token_bytes(32), *keys), "1", now, body)
    assert post(n8n.url, body, both).status_code == 200, "while the secret is changed"
    stranger = signature_headers([secrets.token_bytes(32)], "1", now, body)
    for wrong in (
        {}, stranger, signed | {"webhook-id": "2"}, signed | {"webhook-timestamp": str(now + 1)},
        signed | {"webhook-timestamp": "soon"}, signature_headers(keys, "1", now - 400, body),
        signature_headers(keys, "1", now + 400, body), signed | {"webhook-signature": "v1,"},
    ):  # fmt: skip
        refused = post(n8n.url, body, wrong)
        assert refused.status_code == 401, (wrong, refused.text)
    assert post(n8n.url, body.replace(b"  ", b" "), signed).status_code == 401
    assert post(n8n.url, b"no JSON", signed).status_code == 422, "n8n itself asks for JSON"


def test_a_workers_events_are_taken(n8n, cli, env, prepared, neon, supabase, daemon, eventually) -> None:
    env.update(N8N_WEBHOOK_URL=n8n.url, N8N_WEBHOOK_SECRET=SECRET, WORKER_SWEEP_INTERVAL="0.2")
    add_companies(neon, 1)
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT id FROM company_needs_enrichment").fetchone())
    complete(supabase, company(1), website="c1.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    eventually(lambda: not supabase.execute("SELECT id FROM enrichment_outbox").fetchone())
    assert not [event for event in worker.events if event["event"] == "webhook.failed"]
    taken = 'webhook_posts_total{entity="company",result="posted"} '
    eventually(lambda: float(worker.health("/metrics")[1].split(taken)[1].split("\n")[0]) >= 2)
