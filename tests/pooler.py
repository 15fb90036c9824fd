"""PgBouncer in transaction mode, as Neon's and Supabase's poolers are."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest


class Pooler:
    """Debian's ``pgbouncer`` before one server, on a free port."""

    def __init__(self, url: str) -> None:
        # Not pytest's folder: the server's user could not reach into it.
        self._url, self._folder = url, Path(tempfile.mkdtemp(prefix="enrichment-pooler-"))
        folder = self._folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        parts = urlsplit(url)
        (folder / "users").write_text('"postgres" ""\n', encoding="utf-8")
        (folder / "ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={parts.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {folder}/users\n"
            "pool_mode = transaction\ndefault_pool_size = 3\nmax_client_conn = 100\nadmin_users = postgres\n"
            # The poolers of both services refuse start-up options.
            "ignore_startup_parameters = extra_float_digits\n",
            encoding="utf-8",
        )
        as_root = os.geteuid() == 0
        if as_root:  # it refuses to run as root
            for path in (folder, *folder.iterdir()):
                shutil.chown(path, "nobody")
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [_program(), str(folder / "ini")], stdout=log, stderr=log, user="nobody" if as_root else None, cwd="/"
            )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 20
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=2).close()
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "log").read_text()
                    self.__exit__()
                    pytest.fail(log)
                time.sleep(0.02)  # it has no other way to say that it is ready
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)
        shutil.rmtree(self._folder)

    @property
    def url(self) -> str:
        """The server's address, through the pooler."""
        parts = urlsplit(self._url)
        return urlunsplit(parts._replace(netloc=f"{parts.username}@127.0.0.1:{self.port}"))


def _program() -> str:
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found is not None
    return found


def installed() -> bool:
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is not None
