"""What is declared of the commands is what does their work, and help is answered without loading that."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib import import_module

import pytest
from conftest import ROOT

from worker.cli.commands import WORK, commands
from worker.entities.declaration import ENTITIES
from worker.entities.names import NAMES

SLOW = ("psycopg", "anyio", "asyncio", "pydantic", "rich", "structlog", "uvloop", "starlette", "orjson", "worker.sync")
LOADED = f"""
import json, sys
sys.argv = ["enrichment-worker", *json.loads(sys.argv[1])]
from worker.__main__ import main
try:
    main()
finally:
    print(json.dumps(sorted({{*{SLOW!r}}} & {{*sys.modules}})), file=sys.__stderr__)
"""


def loaded(*line: str, **environment: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """What a fresh interpreter says to a command line, and what of the slow modules it has loaded by its end."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, json.dumps(line)], capture_output=True, text=True, timeout=60,
        env={"PYTHONPATH": str(ROOT)} | environment,
    )  # fmt: skip
    return done, json.loads(done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    "line", [["--help"], ["--version"], ["pul"], ["pull", "--nothing"], *([name, "--help"] for name in sorted(WORK))],
    ids=" ".join,
)  # fmt: skip
def test_help_the_version_and_a_mistyped_line_load_nothing_slow(line) -> None:
    done, slow = loaded(*line)
    assert done.returncode == (0 if line[-1] in ("--help", "--version") else 2), done
    assert slow == []


@pytest.mark.parametrize(
    ("typed", "offered"), [("", "reconcile"), ("pull --", "--full"), ("pull --entity ", "people")]
)  # fmt: skip
def test_completion_loads_nothing_slow(typed, offered) -> None:
    words = f"enrichment-worker {typed}"
    done, slow = loaded(
        _ENRICHMENT_WORKER_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))
    )  # fmt: skip
    assert f"plain,{offered}" in done.stdout.splitlines()
    assert slow == []


def test_what_is_looked_for_is_loaded_where_a_command_runs() -> None:
    """So that the tests above would see it."""
    done, slow = loaded("setup", "--dry-run", WORKER_HEALTH_ADDRESS="none")
    assert done.returncode == 0, done
    assert set(slow) >= {"psycopg", "anyio", "pydantic", "rich", "structlog", "worker.sync"}


def test_what_cannot_be_loaded_is_told_without_a_traceback(tmp_path) -> None:
    (tmp_path / "psycopg.py").write_text("raise ImportError('no pq wrapper available.\\n- no libpq')")
    done, _ = loaded("status", PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "enrichment-worker: cannot be loaded: no pq wrapper available. - no libpq"
    assert "Traceback" not in done.stderr


def test_every_command_is_declared_with_what_does_its_work() -> None:
    assert set(WORK) == set(commands.commands)


@pytest.mark.parametrize("name", sorted(WORK))
def test_a_command_declares_what_its_work_takes(name) -> None:
    module, _, function = WORK[name].partition(":")
    work = getattr(import_module(module), function)
    assert set(inspect.signature(work).parameters) == {one.name for one in commands.commands[name].params}


def test_the_entities_that_can_be_named_are_those_declared() -> None:
    assert tuple(ENTITIES) == NAMES
