"""PgBouncer in transaction mode, as Neon's and Supabase's poolers are; with TLS and a password where asked for."""

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

    def __init__(
        self,
        url: str,
        *,
        host: str = "127.0.0.1",
        mode: str = "transaction",
        certificate: tuple[Path, Path] | None = None,
        password: str | None = None,
    ) -> None:
        """Stand before the server of ``url``, with the certificate and key of these files."""
        self.host, self.password = host, password
        # Not pytest's folder: the server's user could not reach into it.
        self._url, self._folder = url, Path(tempfile.mkdtemp(prefix="enrichment-pooler-"))
        folder = self._folder
        with socket.socket() as probe:
            probe.bind((host, 0))
            self.port = probe.getsockname()[1]
        parts = urlsplit(url)
        (folder / "users").write_text(f'"postgres" "{password or ""}"\n', encoding="utf-8")
        login = f" user={parts.username} password={parts.password}" if parts.password else ""
        tls = ""
        if certificate:
            for name, path in zip(("cert", "key"), certificate, strict=True):
                shutil.copy(path, folder / name)
            tls = (
                f"client_tls_sslmode = require\nclient_tls_cert_file = {folder}/cert\n"
                f"client_tls_key_file = {folder}/key\n"
            )
        (folder / "ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={parts.port}{login}\n[pgbouncer]\nlisten_addr = {host}\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = {'scram-sha-256' if password else 'trust'}\n"
            f"auth_file = {folder}/users\n{tls}pool_mode = {mode}\ndefault_pool_size = {3 if mode == 'transaction' else 50}\nmax_client_conn = 100\nadmin_users = postgres\n"
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
                psycopg.connect(self.url, connect_timeout=2, sslmode="prefer").close()
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
        user = f"{parts.username}:{self.password}" if self.password else parts.username
        return urlunsplit(parts._replace(netloc=f"{user}@{self.host}:{self.port}"))


def _program() -> str:
    found = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found is not None
    return found


def installed() -> bool:
    return shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin") is not None
