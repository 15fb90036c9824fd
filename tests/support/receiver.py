"""Who takes events at N8N_WEBHOOK_URL: a real HTTP server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver(ThreadingHTTPServer):
    """Answers as configured, and remembers every attempt."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = 200
        self.hang = threading.Event()
        self.hang.set()
        self.begun: list[str] = []
        """Keys of the records whose event arrived, also where it has no answer yet."""
        self.attempts: list[tuple[dict[str, str], dict[str, Any], int]] = []
        self.bodies: list[bytes] = []
        """Of the attempts, as they came."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/webhook/secret-path"

    def taken(self, kind: str = "outcomes", entity: str = "company") -> list[dict[str, Any]]:
        """The events that were taken, each once, in the order of their first arrival."""
        events = {
            event["id"]: event
            for _, event, status in self.attempts
            if status == 200 and event["type"] == kind and event["entity"] == entity
        }
        return list(events.values())


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        event = json.loads(body)
        server.begun += [record["key"] for record in event.get("records", [])] or [event["type"]]
        server.hang.wait()
        status = server.answer
        server.bodies.append(body)
        server.attempts.append((dict(self.headers), event, status))
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
