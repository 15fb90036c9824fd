"""Logs: one line an event, to stderr, as JSON or for a person to read. Never a traceback or a password.

The lines are written by :mod:`worker.observe.output`, which blocks no task.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

from worker.observe import output
from worker.postgres.errors import with_database, without_password


def configure(log_format: Literal["json", "console"], *, level: int = logging.INFO) -> None:
    """Set up structlog once, at the start of a command."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    processors: Sequence[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _error_in_one_line,
        _no_password,
        renderer,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    output.report_losses(lambda lines: _loss(processors, lines))
    # Libraries that use the standard library's logging write the same lines, and only errors.
    logging.basicConfig(handlers=[_StandardLibrary()], level=logging.ERROR, force=True)
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
    logging.getLogger("py.warnings").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    # So do exceptions that were not caught.
    threading.excepthook = lambda thrown: _uncaught(thrown.exc_value)
    sys.unraisablehook = lambda thrown: _uncaught(thrown.exc_value)


def _loss(processors: Sequence[structlog.typing.Processor], lines: int) -> str:
    event: Any = {"event": "log.lost", "lines": lines}
    for processor in processors:
        event = processor(None, "warning", event)
    return f"{event}\n"


def _uncaught(error: BaseException | None) -> None:
    structlog.get_logger("worker.telemetry").error("library", message="nobody caught this", exc_info=error)


def _error_in_one_line(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    elif isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        event["error"] = f"{type(error).__name__}: {with_database(error)}"
        if frames:
            event["at"] = f"{frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno}"
    return event


def _no_password(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str) and ("password" in value or "://" in value):
            event[name] = without_password(value)
    return event


class _StandardLibrary(logging.Handler):
    """Passes records of the standard library's logging to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        log.log(record.levelno, "library", message=record.getMessage().strip(), exc_info=record.exc_info)
