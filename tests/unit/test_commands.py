"""What is declared of the commands is what does their work, and help is answered without loading that."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import click
import pytest
from conftest import ROOT
from declared import ENTITIES

from worker.cli.commands import WORK, EntityName, commands

SLOW = ("psycopg", "anyio", "asyncio", "pydantic", "rich", "structlog", "uvloop", "starlette", "orjson", "worker.sync")
FRESH = f"""
import json, os, sys
from worker.__main__ import main

lines, folder = json.loads(sys.argv[1])
for number, line, environment in lines:
    if os.fork() == 0:
        for stream in (1, 2):
            os.dup2(os.open(f"{{folder}}/{{number}}.{{stream}}", os.O_WRONLY | os.O_CREAT), stream)
        os.environ |= environment
        sys.argv = ["enrichment-worker", *line]
        status = 70
        try:
            main()
        except SystemExit as end:
            status = end.code
        finally:
            with open(f"{{folder}}/{{number}}.json", "w") as said:
                json.dump([status, sorted({{*{SLOW!r}}} & {{*sys.modules}})], said)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
for _ in lines:
    os.wait()
"""
"""An interpreter that has loaded what every command line needs, and a copy of it for each line."""
HELP = [
    ["--help"],
    ["--version"],
    ["pul"],
    ["pull", "--nothing"],
    *([*name.split(), "--help"] for name in sorted(WORK)),
]
COMPLETED = [("", "reconcile"), ("pull --", "--full"), ("pull --entity ", "people")]


@dataclass
class Ended:
    """What came of a command line."""

    returncode: int | None
    stdout: str
    stderr: str
    slow: list[str]
    """What of the slow modules was loaded by its end."""


def ended(folder: Path, *lines: tuple[list[str], dict[str, str]], before: str = "") -> list[Ended]:
    """What each command line ends with; ``before`` is a folder whose modules come before all others."""
    numbered = [(number, *line) for number, line in enumerate(lines)]
    subprocess.run(
        [sys.executable, "-c", FRESH, json.dumps([numbered, str(folder)])], check=True, timeout=60,
        env={"PYTHONPATH": f"{before}:{ROOT}" if before else str(ROOT)},
    )  # fmt: skip
    return [
        Ended(status, *((folder / f"{number}.{stream}").read_text() for stream in (1, 2)), slow)
        for number in range(len(lines))
        for status, slow in [json.loads((folder / f"{number}.json").read_text())]
    ]


@pytest.fixture(scope="module")
def helped(tmp_path_factory) -> dict[str, Ended]:
    lines = [(line, {}) for line in HELP]
    return dict(zip(map(" ".join, HELP), ended(tmp_path_factory.mktemp("help"), *lines), strict=True))


@pytest.mark.parametrize("line", HELP, ids=" ".join)
def test_help_the_version_and_a_mistyped_line_load_nothing_slow(helped, line) -> None:
    done = helped[" ".join(line)]
    assert done.returncode == (0 if line[-1] in ("--help", "--version") else 2), done
    assert done.slow == []


def test_completion_loads_nothing_slow(tmp_path) -> None:
    typed = [f"enrichment-worker {typed}" for typed, _ in COMPLETED]
    lines = [
        ([], {"_ENRICHMENT_WORKER_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))})
        for line in typed
    ]
    for (_, offered), done in zip(COMPLETED, ended(tmp_path, *lines), strict=True):
        assert f"plain,{offered}" in done.stdout.splitlines()
        assert done.slow == []


def test_what_is_looked_for_is_loaded_where_a_command_runs(tmp_path) -> None:
    """So that the tests above would see it."""
    (done,) = ended(tmp_path, (["setup", "--dry-run"], {"WORKER_HEALTH_ADDRESS": "none"}))
    assert done.returncode == 0, done
    assert set(done.slow) >= {"psycopg", "anyio", "pydantic", "rich", "structlog", "worker.sync"}


def test_what_cannot_be_loaded_is_told_without_a_traceback(tmp_path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ImportError('no pq wrapper available.\\n- no libpq')")
    (done,) = ended(tmp_path, (["status"], {}), before=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "enrichment-worker: cannot be loaded: no pq wrapper available. - no libpq"
    assert "Traceback" not in done.stderr


def _declared(group: click.Group, path: str = "") -> dict[str, click.Command]:
    found = {}
    for name, one in group.commands.items():
        found[f"{path}{name}"] = one
        if isinstance(one, click.Group):
            found |= _declared(one, f"{path}{name} ")
    return found


def test_every_command_is_declared_with_what_does_its_work() -> None:
    assert set(WORK) == set(_declared(commands))


@pytest.mark.parametrize("name", sorted(WORK))
def test_a_command_declares_what_its_work_takes(name) -> None:
    module, _, function = WORK[name].partition(":")
    work = getattr(import_module(module), function)
    assert set(inspect.signature(work).parameters) == {one.name for one in _declared(commands)[name].params}


def test_the_entities_that_can_be_named_are_those_of_the_files(monkeypatch, tmp_path) -> None:
    def named(value: str) -> str:
        return EntityName().convert(value, None, None)

    assert [named(name) for name in ENTITIES] == list(ENTITIES)
    with pytest.raises(click.UsageError, match="there is no entity 'peple'; did you mean people"):
        named("peple")
    (tmp_path / "shop.toml").touch()
    monkeypatch.setenv("WORKER_ENTITIES", str(tmp_path))
    assert named("shop") == "shop"
    with pytest.raises(click.UsageError, match="there is no entity 'company'; choose from shop"):
        named("company")
    parameter = click.Option(["--entity"])
    assert [one.value for one in EntityName().shell_complete(click.Context(commands), parameter, "s")] == ["shop"]
