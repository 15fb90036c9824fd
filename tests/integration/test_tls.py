"""TLS to another machine, and secrets that stay secret. The server with TLS and a password is PgBouncer's."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pooler
import psycopg
import pytest
from conftest import leaks
from records import add_companies, company, complete, everything, work

from worker import settings as worker_settings

pytestmark = pytest.mark.skipif(not pooler.installed(), reason="pgbouncer is not installed: apt install pgbouncer")
PASSWORD = "correct-horse-9d1c"


@pytest.fixture(scope="module")
def here() -> str:
    """An address of this machine that is not its loopback: to the worker, another machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no address but its loopback")
        address: str = probe.getsockname()[0]
    return address


@pytest.fixture(scope="module")
def authority(tmp_path_factory, here) -> Path:
    """A folder with a CA, a certificate of this machine, and another CA that signed nothing."""
    folder = tmp_path_factory.mktemp("ca")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-keyout", f"{name}.key", "-out", f"{name}.crt")  # fmt: skip
    (folder / "san").write_text(f"subjectAltName=IP:{here}\n")
    openssl(
        "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=server", "-keyout", "server.key", "-out", "server.csr"
    )
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "san", "-out", "server.crt")  # fmt: skip
    return folder


@pytest.fixture
def far(prepared, env, databases, here, authority) -> Iterator[dict[str, str]]:
    """Both databases on another machine, with TLS and a password."""
    certificate = authority / "server.crt", authority / "server.key"
    with (
        pooler.Pooler(databases.neon_url, host=here, certificate=certificate, password=PASSWORD) as neon,
        pooler.Pooler(
            databases.supabase_url, host=here, mode="session", certificate=certificate, password=PASSWORD
        ) as supabase,
    ):
        env.pop("WORKER_ALLOW_INSECURE", None)
        env.update(NEON_DATABASE_URL=neon.url, SUPABASE_DATABASE_URL=supabase.url)
        yield env


def tls_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.split(": ", 1)[1] for line in done.stdout.splitlines() if " TLS: " in line]


def test_tls_is_required_where_the_address_does_not_say(cli, far, daemon, neon, supabase, eventually) -> None:
    assert tls_of(cli("doctor")) == ["on (sslmode=require)"] * 2
    add_companies(neon, 1)
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT id FROM company_needs_enrichment").fetchone())
    complete(supabase, company(1), website="c1.example")
    eventually(lambda: work(supabase, company(1))["promoted_at"])
    # What a neighbour on this machine, or a reader of the databases, can see.
    assert PASSWORD not in Path(f"/proc/{worker.process.pid}/cmdline").read_text()
    assert PASSWORD not in str(everything(neon)) + str(everything(supabase))
    for path in ("/", "/status.json", "/metrics", "/readyz"):
        assert worker.health(path)[0] == 200  # the fixture looks for the password in each answer


@pytest.mark.parametrize("how", ["file", "system"])
def test_the_servers_identity_is_verified_where_asked_for(cli, far, authority, how) -> None:
    root = authority / "ca.crt" if how == "file" else "system"
    far["SSL_CERT_FILE"] = str(authority / "ca.crt")  # what a system's roots are to OpenSSL
    for name in ("NEON_DATABASE_URL", "SUPABASE_DATABASE_URL"):
        far[name] += f"?sslmode=verify-full&sslrootcert={root}"
    assert tls_of(cli("doctor")) == ["on (sslmode=verify-full)"] * 2


def test_the_systems_roots_are_found_although_psycopgs_wheel_looks_elsewhere(
    far, authority, monkeypatch, tmp_path
) -> None:
    for name in ("NEON_DATABASE_URL", "SUPABASE_DATABASE_URL"):
        far[name] += "?sslmode=verify-full&sslrootcert=system"
    for name, value in {**far, "SSL_CERT_FILE": "", "SSL_CERT_DIR": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(worker_settings, "SYSTEM_ROOTS", (str(tmp_path / "none"), str(authority / "ca.crt")))
    with psycopg.connect(worker_settings.load_settings().neon_conninfo) as connection:
        assert connection.pgconn.ssl_in_use


@pytest.mark.parametrize("name", ["NEON_DATABASE_URL", "SUPABASE_DATABASE_URL"])
def test_a_server_that_somebody_else_signed_is_refused_in_one_line(cli, far, authority, name) -> None:
    far[name] += f"?sslmode=verify-full&sslrootcert={authority / 'other.crt'}"
    done = cli("pull")
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1
    assert name in done.stderr
    assert "certificate" in done.stderr


def test_a_server_without_tls_is_refused_and_no_password_sent(cli, prepared, env, databases, here) -> None:
    with pooler.Pooler(databases.neon_url, host=here) as plain:
        env.pop("WORKER_ALLOW_INSECURE", None)
        env["NEON_DATABASE_URL"] = plain.url.replace("postgres@", f"postgres:{PASSWORD}@")
        done = cli("pull")
        assert done.returncode == 3
        assert "SSL" in done.stderr
        env["NEON_DATABASE_URL"] += "?sslmode=prefer"
        done = cli("pull")
        assert done.returncode == 2
        assert "WORKER_ALLOW_INSECURE" in done.stderr
        env["WORKER_ALLOW_INSECURE"] = "1"
        assert cli("pull").returncode == 0
        done = cli("doctor")
        assert done.returncode == 0, done.stdout
        assert "warning   Neon TLS: off, as WORKER_ALLOW_INSECURE=1 allows" in done.stdout


def test_a_wrong_password_is_one_line_without_it(cli, far) -> None:
    far["NEON_DATABASE_URL"] = far["NEON_DATABASE_URL"].replace(PASSWORD, "guess-5511")
    done = cli("pull")
    assert done.returncode == 3
    assert "NEON_DATABASE_URL" in done.stderr
    assert "guess-5511" not in done.stderr


def test_secrets_from_files_and_credentials_work_and_are_not_shown(cli, far, tmp_path) -> None:
    (tmp_path / "neon").write_text(far.pop("NEON_DATABASE_URL") + "\n")
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "SUPABASE_DATABASE_URL").write_text(far.pop("SUPABASE_DATABASE_URL"))
    far.update(NEON_DATABASE_URL_FILE=str(tmp_path / "neon"), CREDENTIALS_DIRECTORY=str(folder))
    done = cli("doctor")
    assert tls_of(done) == ["on (sslmode=require)"] * 2
    assert PASSWORD not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "text", ["log in with p%40ss-word", "password=p@ss-word", '{"error": "p@ss-word"}', "Bearer t0ken"]
)
def test_a_secret_that_is_shown_fails_any_test(text) -> None:
    env = {"NEON_DATABASE_URL": "postgresql://me:p%40ss-word@db.example/neon", "N8N_WEBHOOK_TOKEN": "t0ken"}
    assert not leaks(env, "me is told nothing of it at db.example")
    assert len(leaks(env, text)) == 1
