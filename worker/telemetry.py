"""Logs: one line an event, to stderr, as JSON or for a person's eyes. Never a traceback or a password."""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Literal

import structlog
from structlog.typing import EventDict, WrappedLogger

from worker.faults import with_database, without_password


def configure(log_format: Literal["json", "console"], *, level: int = logging.INFO) -> None:
    """Set up structlog once, at the start of a command."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _error_in_one_line,
            _no_password,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    # Libraries that use the standard library's logging speak in the same lines, and only of trouble.
    logging.basicConfig(handlers=[_Bridge()], level=logging.ERROR, force=True)
    logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)


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


class _Bridge(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).error("library", message=record.getMessage(), exc_info=record.exc_info)
