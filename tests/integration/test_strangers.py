"""Whatever is sent to the health address: nothing is answered 5xx but by /readyz, and nothing is a line of the log."""

from __future__ import annotations

import random
import re
import socket
from contextlib import suppress

import pytest

from worker.observe.metrics import Metrics

pytestmark = pytest.mark.one_version

PATHS = ("/", "/healthz", "/readyz", "/metrics", "/status.json", "/events", "/nothing", "*", "//", "/%ff%00", "/a" * 900,
         "http://127.0.0.1/healthz", "/metrics?x=1#y", "/healthz/..")  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "BREW", "get")
VERSIONS = ("", "abc", "0.0.4", "1.0.0", "1", "1.", ".", "1.0.0.0", "2.0.0", "99999999999999999999", "-1", "1.0.0;escaping=x",
            "1.0.0;escaping=allow-utf-8", "1.0.0;escaping", "\xe9", "9" * 5000)  # fmt: skip
HEADERS = (
    b"Host: localhost", b"Host: 127.0.0.1", b"Host: [::1]:80", b"Host: evil.example", b"Host: [", b"Host: \xff\xfe", b"Host:",
    b"Connection: close", b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"Expect: 100-continue", b"Expect: x",
    b"Content-Length: 5", b"Content-Length: x", b"Content-Length: 99999999999999999999", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip", b"Accept: \xff", b"Accept: text/plain;version=abc", b"Range: bytes=0-1", b"X: " + b"y" * 9000,
    b": empty", b"no colon", b"Last-Event-ID: 7", b"Cookie: \x01",
)  # fmt: skip
BODIES = (b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"zz\r\nhello\r\n", b"5\r\nhello", b"\x00\xff" * 50, b"-1\r\n\r\n",
          b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"0\r\nX: y\r\n\r\nrubbish\r\n\r\n", b"ffffffffffffffffffff\r\n")  # fmt: skip
BAD_CHUNK = b"POST {} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"


def send(worker, *pieces: bytes) -> bytes:
    """What is answered to a connection that sends these, one after the other, and then says that it is done."""
    host, _, port = worker.address.rpartition(":")
    answer = b""
    # It may end the connection before it has heard all.
    with suppress(OSError), socket.create_connection((host, int(port)), timeout=20) as link:
        for number, piece in enumerate(pieces):
            if number:
                # The one before is being answered by then, or never will be.
                link.settimeout(0.05)
                with suppress(TimeoutError):
                    answer += link.recv(65536)
                link.settimeout(20)
            link.sendall(piece)
        link.shutdown(socket.SHUT_WR)
        while b"text/event-stream" not in answer and (more := link.recv(65536)):
            answer += more
    return answer


def statuses(answer: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", answer)]


def unruffled(worker) -> None:
    assert worker.health("/healthz")[0] == 200
    assert worker.health("/readyz")[0] == 200
    assert worker.process.poll() is None
    assert [e for e in worker.events if e["level"] not in ("info", "debug")] == []
    assert worker.noise == []


@pytest.mark.parametrize("path", ["/", "/metrics", "/nothing"])
@pytest.mark.parametrize("apart", [True, False], ids=["apart", "at once"])
def test_a_bad_chunk_is_refused_and_no_line_of_the_log(prepared, daemon, path, apart) -> None:
    worker = daemon()
    head = BAD_CHUNK.replace(b"{}", path.encode())
    for chunk in (b"zz\r\nhello\r\n", b"5\r\nhelloX\r\n", b"\x00\xff\r\n"):
        answer = send(worker, head, chunk) if apart else send(worker, head + chunk)
        assert statuses(answer)[:1] in ([400], [405], [404])
    unruffled(worker)


@pytest.mark.parametrize("kind", ["text/plain", "application/openmetrics-text"])
def test_metrics_are_told_whatever_version_is_asked_for(prepared, daemon, kind) -> None:
    worker = daemon()
    for version in VERSIONS:
        ask = (
            f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAccept: {kind};version={version}\r\n\r\n"
        )
        answer = send(worker, ask.encode("latin-1"))
        assert statuses(answer) == [200], version
        assert b"enrichment_worker_build_info" in answer
    unruffled(worker)
    for accept in (f"{kind};version", f"{kind};=", f"{kind};version==", ";,;", f"{kind};version=1;version=x"):
        assert b"enrichment_worker_build_info" in Metrics(["company"]).text(accept)[0]


def test_hundreds_of_odd_requests_make_no_error(prepared, daemon) -> None:
    worker = daemon()
    rng = random.Random(17)
    for _ in range(400):
        method, path = rng.choice(METHODS), rng.choice(PATHS)
        lines = [f"{method} {path} HTTP/{rng.choice(['1.1', '1.1', '1.0', '2.0', 'x'])}".encode()]
        lines += rng.sample(HEADERS, rng.randrange(5)) + rng.choice([[b"Host: localhost"], []])
        head, body = b"\r\n".join(lines) + b"\r\n\r\n", rng.choice(BODIES)
        pieces = rng.choice([[head + body], [head + body], [head[: rng.randrange(1, len(head))], body], [head, body]])
        answer = send(worker, *pieces)
        assert not [status for status in statuses(answer) if status >= 500], (pieces, answer[:500])
    unruffled(worker)
