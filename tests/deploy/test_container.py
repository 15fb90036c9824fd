"""The container image: built by a real engine, and run as deploy/compose.yaml runs it."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from base_system import Unavailable, base, copy_sources, program
from conftest import ROOT
from records import add_companies, company, complete, master, work

from worker import __version__

LARGEST = 75
"""Megabytes that the worker may add to its base. 14 are uvloop's library, which comes with its debug symbols."""


def _docker(*arguments: str, check: bool = True, timeout: float = 120) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False, timeout=timeout)
    assert not check or done.returncode == 0, (arguments, done.stdout[-2000:], done.stderr[-2000:])
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
