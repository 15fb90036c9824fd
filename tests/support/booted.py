"""A real systemd that boots in a container, with Postgres beside it."""

from __future__ import annotations

import secrets
import subprocess
import time
from pathlib import Path

from base_system import Unavailable
from conftest import PATIENCE, connect
from records import Connection

from worker.demo.embedded import binaries

POSTGRES_UNIT = """\
[Service]
User=nobody
StateDirectory=postgres
StateDirectoryMode=0700
TimeoutStartSec=30
ExecStartPre=/bin/sh -c '[ -e /var/lib/postgres/PG_VERSION ] || \
  {bin}/initdb -D /var/lib/postgres -U postgres -A scram-sha-256 --pwfile=/etc/postgres-password -E UTF8 --locale=C'
ExecStartPre=/bin/rm -f /var/lib/postgres/postmaster.pid
ExecStart={bin}/postgres -D /var/lib/postgres -c listen_addresses=127.0.0.1 -c unix_socket_directories=/shared \
  -c fsync=off -c shared_buffers=32MB
ExecStartPost=/bin/sh -c 'until grep -q ready /var/lib/postgres/postmaster.pid; do sleep 0.05; done'
KillSignal=SIGINT
"""


class Machine:
    """A booted Debian with Postgres, without network; its Postgres is reached through a shared folder."""

    def __init__(self, root: Path, shared: Path) -> None:
        self.root, self.shared, self.password = root, shared, secrets.token_hex(12)
        programs = binaries(18)
        site = programs.parent.parent.parent
        self._log = (shared.parent / "console").open("w+")
        (root / "etc/postgres-password").write_text(self.password)
        (root / "etc/postgres-password").chmod(0o644)
        (root / "etc/systemd/system/postgres.service").write_text(
            POSTGRES_UNIT.format(bin=Path("/mnt/site") / programs.relative_to(site))
        )
        self._process = subprocess.Popen(
            ["systemd-nspawn", "--quiet", f"--directory={root}", "--boot", "--register=no", "--keep-unit",
             "--private-network", "--console=pipe", "--kill-signal=SIGRTMIN+3", "--link-journal=no",
             f"--bind={shared}:/shared", f"--bind-ro={site}:/mnt/site"],
            stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log,
        )  # fmt: skip

    def wait_booted(self) -> None:
        """Raises Unavailable where systemd cannot boot in a container here."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        deadline = time.monotonic() + PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            if (found := children.read_text().split()) and Path(f"/proc/{found[0]}/comm").read_text() == "systemd\n":
                self._leader = found[0]
                if self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip() in (
                    "running", "degraded",
                ):  # fmt: skip
                    return
            time.sleep(0.1)  # it has no other way to say that it is up
        self._log.seek(0)
        raise Unavailable(f"systemd does not boot in a container here: {self._log.read().strip()[-300:]}")

    def run(self, *command: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root."""
        done = subprocess.run(
            ["nsenter", f"--target={self._leader}", "--all", "env", "-i",
             "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
             "--chdir=/", *(f"{name}={value}" for name, value in env.items()), *command],
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr, self.journal()[-3000:])
        return done

    def show(self, unit: str = "enrichment-worker") -> dict[str, str]:
        """What systemd knows of a unit."""
        lines = self.run("systemctl", "show", unit).stdout.splitlines()
        return {name: value for line in lines for name, _, value in [line.partition("=")]}

    def journal(self, unit: str = "*") -> str:
        return self.run("journalctl", "--no-pager", "-o", "cat", "-u", unit, check=False).stdout

    def install(self, *arguments: str, source: str = "/src", check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `deploy/install` of a checkout inside; packages come from the wheels beside this release."""
        wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/src/wheels"}
        return self.run(f"{source}/deploy/install", *arguments, check=check, **wheels)

    def get(self, port: int, path: str) -> str:
        """An answer of a health address inside."""
        look = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}{path}').read().decode())"
        return self.run("/opt/enrichment-worker/current/bin/python", "-c", look).stdout

    def connect(self, database: str) -> Connection:
        return connect(f"host={self.shared} user=postgres password={self.password} dbname={database}")

    def address(self, database: str) -> str:
        return f"postgresql://postgres:{self.password}@127.0.0.1:5432/{database}"

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
