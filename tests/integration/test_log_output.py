"""A log that cannot be written, or that nobody reads, costs lines and never a delivery. Real processes and pipes. SPEC 11."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import PATIENCE, ROOT, _environment
from records import add_companies, company, complete, work

from worker.daemon.systemd import Supervisor
from worker.observe import logs, output
from worker.postgres.errors import with_database

pytestmark = pytest.mark.one_version


class Mute:
    """``run`` whose stderr is what a test gives it; it is known by its health address alone."""

    def __init__(self, env: dict[str, str], folder: Path, stderr: int, **options: Any) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = _environment({**env, "WORKER_HEALTH_ADDRESS": f"127.0.0.1:{self.port}"})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker", "run"], env=environment, cwd=folder, stdin=subprocess.DEVNULL,
            stdout=options.pop("stdout", subprocess.DEVNULL), stderr=stderr, **options,
        )  # fmt: skip

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)


@pytest.fixture
def mute(cli, prepared, env, neon, tmp_path, eventually) -> Iterator[Callable[..., Mute]]:
    started: list[Mute] = []
    env["WORKER_SWEEP_INTERVAL"] = "0.2"
    add_companies(neon, *range(1, 41))
    assert cli("pull").returncode == 0

    def start(stderr: int, **options: Any) -> Mute:
        one = Mute(env, tmp_path, stderr, **options)
        started.append(one)
        eventually(lambda: one.get("/readyz")[0] == 200)
        return one

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


def flip(supabase, eventually, *numbers: int) -> None:
    for number in numbers:
        complete(supabase, company(number), website=f"https://c{number}.example")
        eventually(lambda number=number: work(supabase, company(number))["promoted_at"])


def warnings_of(worker: Mute) -> list[str]:
    return json.loads(worker.get("/status.json")[1])["worker"]["warnings"]


def test_a_log_on_a_full_disk_costs_lines_and_no_delivery(mute, supabase, eventually) -> None:
    with Path("/dev/full").open("wb") as full:
        worker = mute(full.fileno())
    flip(supabase, eventually, 1, 2, 3)
    assert worker.get("/readyz")[0] == 200
    assert [w for w in warnings_of(worker) if "lines of the log are lost" in w]
    lost = worker.get("/metrics")[1].split("enrichment_worker_log_lost_lines_total ")[3].split()[0]
    assert float(lost) >= 3
    assert worker.stop() == 0


def small_pipe() -> tuple[int, int]:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    return reader, writer


def fill(writer: int) -> int:
    os.set_blocking(writer, False)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += os.write(writer, b"x" * 64)
    os.set_blocking(writer, True)
    return filled


def read_until(reader: int, wanted: bytes) -> bytes:
    """What is read up to and with the line that holds what is wanted."""
    seen = b""
    while wanted not in seen or not seen.endswith(b"\n"):
        piece = os.read(reader, 65536)
        assert piece, seen[-500:]
        seen += piece
    return seen


def test_a_pipe_that_nobody_reads_holds_up_no_delivery_and_no_stop(mute, supabase, eventually) -> None:
    reader, writer = small_pipe()
    fill(writer)
    worker = mute(writer)
    os.close(writer)
    flip(supabase, eventually, 1, 2, 3)
    assert worker.get("/healthz")[0] == 200
    assert worker.stop() == 0
    os.close(reader)


def test_a_pipe_that_is_read_again_hears_all_that_waited(mute, supabase, eventually) -> None:
    reader, writer = small_pipe()
    filled = fill(writer)
    worker = mute(writer)
    os.close(writer)
    flip(supabase, eventually, 1, 2, 3)
    while filled:
        filled -= len(os.read(reader, filled))
    seen = read_until(reader, b"worker.ready")
    while seen.count(b'"delivery.batch"') < 3:
        seen += os.read(reader, 65536)
    worker.process.terminate()
    seen += read_until(reader, b"worker.stopped")
    assert worker.process.wait(PATIENCE) == 0
    events = [json.loads(line) for line in seen.splitlines()]
    assert [e["event"] for e in events].count("delivery.batch") == 3
    assert "log.lost" not in [e["event"] for e in events]
    os.close(reader)


def test_the_reader_of_a_pipe_may_go_away(mute, supabase, eventually) -> None:
    reader, writer = os.pipe()
    worker = mute(writer)
    os.close(writer)
    read_until(reader, b"worker.ready")
    os.close(reader)
    flip(supabase, eventually, 1, 2)
    assert worker.get("/readyz")[0] == 200
    assert worker.stop() == 0


@pytest.mark.parametrize("closed", [1, 2])
def test_run_needs_neither_stdout_nor_stderr(mute, supabase, eventually, closed) -> None:
    with Path(os.devnull).open("wb") as nothing:
        worker = mute(nothing.fileno(), preexec_fn=lambda: os.close(closed))
    flip(supabase, eventually, 1)
    assert worker.stop() == 0


def test_run_writes_nothing_to_stdout(mute, supabase, eventually) -> None:
    with Path("/dev/full").open("wb") as full:
        worker = mute(subprocess.DEVNULL, stdout=full.fileno())
    flip(supabase, eventually, 1)
    assert worker.stop() == 0


@pytest.fixture
def piped() -> Iterator[tuple[output.BackgroundWriter, int, int]]:
    reader, descriptor = small_pipe()
    yield output.BackgroundWriter(descriptor, limit=2000), reader, descriptor
    os.close(reader)
    with suppress(OSError):
        os.close(descriptor)


def put_in_a_loop(writer: output.BackgroundWriter, lines: list[str]) -> None:
    async def put() -> None:
        for line in lines:
            writer.put(f"{line}\n".encode())

    anyio.run(put)


def test_lines_that_found_no_room_are_counted_and_told_when_there_is_room_again(piped) -> None:
    writer, reader, descriptor = piped
    filled = fill(descriptor)
    began = time.monotonic()
    put_in_a_loop(writer, [f"line {number:03} " + "." * 90 for number in range(100)])
    writer.finish(0.1)
    assert time.monotonic() - began < output.STALL_SECONDS, "nobody waits"
    assert 50 < writer.lost < 100
    seen = read_until(reader, b"could not be written")[filled:]
    lines = seen.decode().splitlines()
    assert len(lines) == 100 - writer.lost + 1
    assert lines[:-1] == [f"line {number:03} " + "." * 90 for number in range(100 - writer.lost)]
    assert lines[-1] == f"enrichment-worker: {writer.lost} lines that belong here could not be written"


def test_outside_a_loop_a_reader_that_reads_gets_every_line(piped) -> None:
    writer, reader, _ = piped
    seen: list[bytes] = []
    done = threading.Thread(target=lambda: seen.append(read_until(reader, b"line 999")))
    done.start()
    for number in range(1000):
        writer.put(f"line {number:03}\n".encode())
    done.join(PATIENCE)
    assert seen[0].decode().splitlines() == [f"line {number:03}" for number in range(1000)]
    assert writer.lost == 0


def test_what_a_full_disk_cut_short_begins_a_line_of_its_own_when_there_is_room(tmp_path, eventually) -> None:
    # A limit on the size of files is a disk that fills up, and can be emptied.
    path = tmp_path / "log"
    script = (
        "import resource, signal, sys, os\n"
        "from worker.observe import output\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (150, resource.RLIM_INFINITY))\n"
        "writer = output.BackgroundWriter(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND))\n"
        "writer.put(b'a' * 99 + b'\\n'); writer.finish()\n"
        "writer.put(b'b' * 99 + b'\\n'); writer.finish()\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "writer.put(b'c' * 99 + b'\\n'); writer.finish()\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=ROOT, stdin=subprocess.PIPE)
    lines = eventually(lambda: path.exists() and "could not" in path.read_text() and path.read_text().splitlines())
    child.communicate()
    # What was lost is told before or after the first line that there is room for.
    assert sorted(lines) == [
        "a" * 99,
        "b" * 50,
        "c" * 99,
        "enrichment-worker: 1 lines that belong here could not be written",
    ]


def test_warnings_and_what_nobody_caught_are_lines_of_the_log_too() -> None:
    script = (
        "import threading, warnings, logging, sys\n"
        "from worker.observe import logs, output\n"
        "output.prepare(); logs.configure('json')\n"
        "warnings.warn('old ways', RuntimeWarning)\n"
        "thread = threading.Thread(target=lambda: 1 / 0); thread.start(); thread.join()\n"
        "class Bad:\n"
        "    def __del__(self): raise ValueError('on the way out')\n"
        "Bad()\n"
        "logging.getLogger('uvicorn.error').error('no such thing')\n"
        "logging.getLogger('uvicorn.error').info('nobody asked')\n"
        "output.finish()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stderr.splitlines()]
    said = [e["message"] + e.get("error", "") for e in events]
    assert len(said) == 4
    assert "old ways" in said[0]
    assert [e["level"] for e in events] == ["warning", "error", "error", "error"]
    assert said[1:] == [
        "nobody caught thisZeroDivisionError: division by zero",
        "nobody caught thisValueError: on the way out",
        "no such thing",
    ]


@pytest.mark.parametrize("address", ["postgresql://ana:hush-3b@db.example/neon", "host=db.example password=hush-3b",
                                     "host=db.example password = 'hush-3b x'"])  # fmt: skip
def test_a_password_is_masked_in_whatever_is_logged_or_told(address: str) -> None:
    said = logs._no_password(None, "info", {"event": "library", "message": f"no route to {address}"})
    # /readyz, the page and a command's stderr have it from there.
    told = with_database(OSError(f"no route to {address}"))
    for text in (said["message"], told):
        assert "db.example" in text
        assert "hush" not in text


def test_a_manager_that_reads_nothing_holds_up_nobody_and_hears_at_last_that_it_is_ready(tmp_path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as noise:
            noise.setblocking(False)
            noise.connect(address)
            with suppress(BlockingIOError):
                while True:
                    noise.send(b"noise")
        supervisor = Supervisor(address)
        began = time.monotonic()
        supervisor.ready()
        supervisor.stopping()
        assert time.monotonic() - began < 0.5
        manager.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                assert manager.recv(100) == b"noise"
        supervisor.waiting("a word", 1)
        assert manager.recv(1000).decode().split("\n")[:2] == ["READY=1", "STOPPING=1"]
        supervisor.waiting("another", 1)
        assert "READY=1" not in manager.recv(1000).decode(), "once is enough"
