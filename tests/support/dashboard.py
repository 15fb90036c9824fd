"""Supabase's dashboard as the databases see it: its own backend, and the SQL that its Table Editor builds."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

PACKAGE, VERSION = "@supabase/postgres-meta", "0.99.0"
CHUNK = 100 * 1024
"""Bytes of a CSV that it sends in one statement."""
USER = "5f0c6a0e-8d7c-4b52-9a0e-3f0b7a8f1c11"


def backend() -> Path:
    """Its program, installed once for all runs, outside of the checkout; skips the test where it cannot be had."""
    if not (npm := shutil.which("npm")) or not shutil.which("node"):
        pytest.skip("no npm and node here: apt-get install npm")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enrichment-worker-tests"
    there = cache / f"postgres-meta-{VERSION}"
    if not there.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=cache))
        install = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(made), f"{PACKAGE}@{VERSION}"]
        done = subprocess.run(install, capture_output=True, text=True, timeout=170)
        if done.returncode:
            shutil.rmtree(made)
            pytest.skip(f"{PACKAGE} cannot be had from npm: {' '.join((done.stdout + done.stderr).split())[:200]}")
        try:
            made.rename(there)
        except OSError:  # another process was first
            shutil.rmtree(made)
    return there / "node_modules" / PACKAGE / "dist" / "server" / "server.js"


class Dashboard:
    """A user at the Table Editor."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)

    def listed(self, what: str) -> dict[str, dict[str, Any]]:
        """``tables`` or ``columns`` of the schema ``public``, by name."""
        found = self._http.get(f"/{what}", params={"included_schemas": "public"})
        assert found.status_code == 200, found.text
        return {".".join(filter(None, (one.get("table"), one["name"]))): one for one in found.json()}

    def query(self, statement: str) -> list[dict[str, Any]]:
        """Run a statement, as the dashboard marks it.

        Raises:
            Refused: with what its user reads.
        """
        marked = f"{statement};\n\n-- source: dashboard\n-- user: {USER}\n-- date: 2026-11-28T02:33:11.000Z"
        done = self._http.post("/query", json={"query": marked})
        if done.status_code != 200:
            raise Refused(done.json()["message"])
        return done.json()

    def edit(self, table: str, values: dict[str, Any], where: str) -> list[dict[str, Any]]:
        columns = ",".join(f'"{name}"' for name in values)
        return self.query(
            f'update "public"."{table}" set ({columns}) = (select {columns} from'
            f' json_populate_record(null::"public"."{table}", {literal(values)})) where {where} returning *'
        )

    def insert(self, table: str, rows: list[dict[str, Any]], returning: str = "") -> list[dict[str, Any]]:
        columns = ",".join(f'"{name}"' for name in rows[0])
        return self.query(
            f'insert into "public"."{table}" ({columns}) select {columns} from'
            f' jsonb_populate_recordset(null::"public"."{table}", {literal(rows)}){returning}'
        )

    def delete(self, table: str, where: str) -> list[dict[str, Any]]:
        return self.query(f'delete from "public"."{table}" where {where} returning *')

    def import_csv(self, table: str, text: str) -> int:
        """Import a CSV, in as many statements as it takes; what comes after one that is refused is not sent.

        Returns:
            How many statements there were.
        """
        head, *lines = text.splitlines(keepends=True)
        chunks = [head]
        for line in lines:
            if len(chunks[-1].encode()) >= CHUNK:
                chunks.append(head)
            chunks[-1] += line
        for one in chunks:
            rows = csv.DictReader(io.StringIO(one))
            self.insert(table, [{name: value or None for name, value in row.items()} for row in rows])
        return len(chunks)


class Refused(Exception):
    """What the dashboard shows where a statement fails."""


def free_ports() -> int:
    """A port that is free together with the next one, which it takes too."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except (OSError, OverflowError):
                continue
        return port


def literal(value: Any) -> str:
    return "'" + json.dumps(value).replace("'", "''") + "'"


@contextmanager
def dashboard(url: str) -> Iterator[Dashboard]:
    """The dashboard of a database, with its own backend."""
    program, port = backend(), free_ports()
    environment = os.environ | {"PG_META_HOST": "127.0.0.1", "PG_META_PORT": str(port), "PG_META_DB_URL": url}
    process = subprocess.Popen(
        ["node", str(program)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        limit = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.stdout and process.stdout.read()[-2000:]
            try:
                if httpx.get(f"{address}/health").status_code == 200:
                    break
            except httpx.TransportError:
                assert time.monotonic() < limit
                time.sleep(0.05)  # between two looks
        shown = Dashboard(address)
        with shown._http:
            yield shown
    finally:
        process.kill()
        process.communicate()
