"""The demo's worker: the real one, as a separate process, as a service would run it."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path

PATIENCE = 120.0
"""Each step of the demo must finish within this many seconds."""


class DemoFailed(Exception):
    """The databases do not show what the demo promises. The text is one line."""


class Worker:
    """``enrichment-worker run`` as a separate process."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker", "run"], env=environment, cwd=folder, stderr=subprocess.PIPE, text=True
        )
        self.last_lines: list[str] = []
        self._addresses: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self.last_lines = [*self.last_lines[-4:], line.rstrip()]
            if '"worker.ready"' in line:
                self._addresses.put(json.loads(line)["health_address"])
        self._addresses.put(None)

    def address(self) -> str:
        """The health address, as soon as it listens.

        Raises:
            DemoFailed: it ended, or did not start.
        """
        try:
            address = self._addresses.get(timeout=PATIENCE)
        except queue.Empty:
            address = None
        if address is None:
            raise DemoFailed("the worker did not come up: " + " / ".join(self.last_lines))
        return address

    def stop(self) -> int:
        """Stop it as systemd would, and return its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
