"""The metrics: their names, labels and help. ``deploy/metrics.md`` has the same list with what to make of each.

Every set has a registry of its own. Nothing here asks a database anything.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

from worker import __version__
from worker.domain.recent import BOUNDS

PREFIX = "enrichment_worker"
OUTCOMES = ("promoted", "flagged", "waiting", "withdrawn", "gone")
STATES = ("pending", "in_progress", "complete", "waiting", "promoted", "failed")
"""Where a workspace row stands; every row is in one. ``complete`` is on its way."""
STAGES = ("claim", "judge", "settle", "acknowledge")
WINNERS = ("enricher", "neon")
CHANGES = ("new", "changed", "withdrawn")
STAGE_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)

disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """What ``/metrics`` tells."""

    def __init__(self, entities: Iterable[str]) -> None:
        """Make all metrics, those of these entities at zero."""
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        each = ("entity",)

        self.build = self._gauge("build_info", "Always 1; the labels say what runs.", ("version", "python"))
        self.rules = self._gauge(
            "rules_info",
            "Always 1; the label is the version of the rules.",
            ("entity", "rules_version"),
        )
        self.ready = self._gauge("ready", "1 while /readyz answers 200, else 0.")
        self.fault = self._gauge("task_fault", "1 while this task cannot do its work, else 0.", ("task",))
        self.retries = self._counter("retries", "Faults that were waited out and tried again.", ("task", "kind"))

        self.outcomes = self._counter("outcomes", "Records that had this outcome.", ("entity", "outcome"))
        self.flagged = self._counter("flagged", "Records given back, by the first reason.", ("entity", "reason_code"))
        self.postponed = self._counter(
            "postponed", "Records left in the queue because somebody else holds or keeps changing them in Neon.",
            ("entity", "state"),
        )  # fmt: skip
        self.batches = self._counter("batches", "Batches that held at least one record.", each)
        self.delay = self._histogram(
            "flip_to_outcome_seconds", "From an enricher's `complete` to the answer in the row.", BOUNDS,
            ("entity", "outcome"),
        )  # fmt: skip
        self.stage = self._histogram(
            "stage_seconds", "How long a stage of a batch took.", STAGE_BOUNDS, ("entity", "stage")
        )
        self.conflicts = self._counter(
            "conflicts", "Fields that both sides had changed, by whose value was kept.", ("entity", "winner")
        )

        self.records = self._gauge("records", "Records in the workspace, by where they stand.", ("entity", "state"))
        self.queue = self._gauge("queue_records", "Records on their way: complete and not answered.", each)
        self.oldest = self._gauge("queue_oldest_seconds", "Age of the oldest record of the queue; 0: empty.", each)
        self.counted = self._gauge("count_timestamp_seconds", "When the workspace was last counted.")
        self.count_seconds = self._gauge("count_duration_seconds", "How long the last count took.")

        self.pulled = self._counter(
            "pulled_records", "Records that pulls of this process brought or removed.", ("entity", "change")
        )
        self.last_pull = self._gauge("last_pull_timestamp_seconds", "When any worker last pulled.", each)
        self.last_full = self._gauge(
            "last_full_pull_timestamp_seconds", "When any worker last compared every record.", each
        )
        self.position = self._gauge(
            "pull_position_timestamp_seconds", "What committed in Neon before this moment is in the workspace.", each
        )
        self.last_records = self._gauge(
            "last_pull_records", "What the last pull, by any worker, brought or removed.", ("entity", "change")
        )
        self.neon = self._gauge(
            "neon_records", "Records in Neon's tables, as the last pull found them.", ("entity", "table")
        )

        self.pruned = self._counter(
            "pruned_rows", "Rows that were older than retention keeps them.", ("entity", "table")
        )

        self.listening = self._gauge("listener_up", "1 while the worker hears notifications, else 0.")
        self.reconnects = self._counter("listener_reconnects", "Times the listener listened again after a loss.")
        self.notifications = self._counter("notifications", "Notifications heard.", each)
        self.swept = self._counter("swept", "Times the sweep found work that no notification had told of.", each)

        self.posts = self._counter(
            "webhook_posts", "Events posted to N8N_WEBHOOK_URL, and attempts that failed.", ("entity", "result")
        )
        self.pending = self._gauge("webhook_pending_events", "Events that wait to be posted.", each)
        self.oldest_event = self._gauge("webhook_oldest_seconds", "Age of the oldest event that was not taken.", each)

        self.pool = self._gauge("pool_connections", "Pooled connections.", ("database", "state"))
        self.pool_waiting = self._gauge("pool_requests_waiting", "Tasks that wait for a connection.", ("database",))
        self.pool_errors = self._gauge(
            "pool_connection_errors", "Connections that could not be had since the start.", ("database",)
        )
        self.lost = self._gauge("log_lost_lines", "Lines of the log that could not be written, since the start.")
        self.watchers = self._gauge("page_watchers", "Status pages that are open.")
        self._start(list(entities))

    def _start(self, entities: list[str]) -> None:
        """Series that start at zero: a rate of what was never there is no rate."""
        self.build.labels(__version__, platform.python_version()).set(1)
        self.fault.labels("listener")
        for entity in entities:
            self.batches.labels(entity)
            self.notifications.labels(entity)
            self.swept.labels(entity)
            for result in ("posted", "failed"):
                self.posts.labels(entity, result)
            for outcome in OUTCOMES:
                self.outcomes.labels(entity, outcome)
            for outcome in ("promoted", "flagged"):
                self.delay.labels(entity, outcome)
            for stage in STAGES:
                self.stage.labels(entity, stage)
            for winner in WINNERS:
                self.conflicts.labels(entity, winner)
            for table in ("ledger", "workspace"):
                self.pruned.labels(entity, table)
            for change in CHANGES:
                self.pulled.labels(entity, change)
            for state in ("busy", "changed"):
                self.postponed.labels(entity, state)

    def text(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type, in the format that ``accept`` asks for."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # it asks for a version that is no number
            encode, content_type = choose_encoder("")
        return encode(self.registry), content_type

    def _counter(self, name: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"{PREFIX}_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, bounds: tuple[float, ...], labels: tuple[str, ...]) -> Histogram:
        return Histogram(f"{PREFIX}_{name}", what, labels, registry=self.registry, buckets=bounds)
