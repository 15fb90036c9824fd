"""The status page and the events that keep it live. One file, no address outside."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from worker.observe.broadcast import Event
from worker.observe.monitor import Monitor

HEARTBEAT_SECONDS = 15.0
"""Seconds between two heartbeats of a silent stream, so that both ends notice when the other is gone."""
PAGE = (Path(__file__).parent / "page.html").read_bytes()


def _hashes(tag: str) -> str:
    inside = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), PAGE, re.DOTALL)
    return " ".join(f"'sha256-{b64encode(hashlib.sha256(text).digest()).decode()}'" for text in inside)


HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hashes('script')}; style-src {_hashes('style')}; img-src data:;"
        " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def page() -> Response:
    """The status page."""
    return Response(PAGE, media_type="text/html", headers=HEADERS)


def events(request: Request, monitor: Monitor) -> Response:
    """Where records stand, at once and after every count; outcomes as they happen."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":
        return Response(media_type="text/event-stream", headers=headers)
    if monitor.feed.full:
        return PlainTextResponse("too many pages are open\n", status_code=503, headers={"Retry-After": "30"})
    return StreamingResponse(_frames(monitor), media_type="text/event-stream", headers=headers)


async def _frames(monitor: Monitor) -> AsyncIterator[str]:
    with monitor.feed.watch() as feed:
        yield _frame("status", monitor.status())
        while True:
            event: Event | None = None
            with anyio.move_on_after(HEARTBEAT_SECONDS):
                try:
                    event = await feed.receive()
                except anyio.EndOfStream:
                    return
            yield _frame(*event) if event else ": still here\n\n"


def _frame(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
