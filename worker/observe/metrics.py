"""The metrics: their names, labels and help, and how they follow from what is reported. ``deploy/metrics.md`` has the
same list with what to make of each.

Every set has a registry of its own. Nothing here asks a database anything.
"""

from __future__ import annotations

import platform
from collections import Counter as Counts
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

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
from worker.domain.pulled import Pulled
from worker.domain.recent import BOUNDS
from worker.sync.deliver import Tally

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
    """What ``/metrics`` says."""

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
        self.weekly = self._gauge(
            "weekly_failures", "Records given back this week and last week (from Monday, UTC), as the last pull read.",
            ("entity", "reason_code", "week"),
        )  # fmt: skip
        self.conflicts = self._counter(
            "conflicts", "Fields that both sides had changed, by whose value was kept.", ("entity", "winner")
        )

        self.records = self._gauge("records", "Records in the workspace, by where they stand.", ("entity", "state"))
        self.often = self._gauge(
            "returned_often_records", "Failed records that came back four times or more within 30 days.", each
        )
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

        self.paused = self._gauge("paused", "1 while an operator has paused this entity, else 0.", each)

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
        self.pool_errors = self._counter(
            "pool_connection_errors", "Connections that could not be had, or were lost.", ("database",)
        )
        self.lost = self._counter("log_lost_lines", "Lines of the log that could not be written.")
        self._totals: dict[Counter, int] = {}
        self.watchers = self._gauge("page_watchers", "Status pages that are open.")
        self._start(list(entities))

    def _start(self, entities: list[str]) -> None:
        """Series that start at zero: a rate of what was never there is no rate."""
        self.build.labels(__version__, platform.python_version()).set(1)
        self.fault.labels("listener")
        for entity in entities:
            self.batches.labels(entity)
            self.paused.labels(entity)
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

    def observe_batch(self, entity: str, tally: Tally) -> None:
        """What became of a batch that held at least one record."""
        self.batches.labels(entity).inc()
        for stage, seconds in tally.seconds.items():
            self.stage.labels(entity, stage).observe(seconds)
        for winner, fields in tally.conflicts.items():
            self.conflicts.labels(entity, winner).inc(fields)
        for state in ("busy", "changed"):
            self.postponed.labels(entity, state).inc(tally.outcomes[state])
        for outcome, records in Counts(summary.outcome for summary in tally.summaries).items():
            self.outcomes.labels(entity, outcome).inc(records)
            delay = self.delay.labels(entity, outcome)
            for summary in tally.summaries:
                if summary.outcome == outcome and summary.delay is not None:
                    delay.observe(max(0.0, summary.delay))  # the server's clock may have gone back meanwhile
        flagged = Counts(summary.reason_code or "OTHER" for summary in tally.summaries if summary.outcome == "flagged")
        for code, records in flagged.items():
            self.flagged.labels(entity, code).inc(records)

    def observe_pull(self, pulled: Pulled) -> None:
        """What a pull of this process did."""
        for change, records in zip(CHANGES, (pulled.new, pulled.changed, pulled.withdrawn), strict=True):
            self.pulled.labels(pulled.entity, change).inc(records)
        ended = {
            "withdrawn": pulled.withdrawn,
            "promoted": pulled.promoted,
            "flagged": pulled.judged - pulled.promoted,
        }
        for outcome, records in ended.items():
            self.outcomes.labels(pulled.entity, outcome).inc(records)

    def observe_count(self, status: Mapping[str, Any], seconds: float) -> None:
        """Where the records stand, as :func:`worker.operate.status.read_status` says it, and how long that took."""
        self.count_seconds.set(seconds)
        self.counted.set(datetime.fromisoformat(status["at"]).timestamp())
        self.weekly.clear()  # a reason of an earlier week is none of this one
        for name, entity in status["entities"].items():
            for reason in entity["failures_by_week"]:
                *_, last, this = reason["weeks"].values()
                self.weekly.labels(name, reason["reason_code"], "last").set(last)
                self.weekly.labels(name, reason["reason_code"], "this").set(this)
            self._observe_entity(name, entity, entity["last_pull"])

    def _observe_entity(self, name: str, entity: Mapping[str, Any], pull: Mapping[str, Any]) -> None:
        for state, records in entity["counts"].items():
            self.records.labels(name, state).set(records)
        self.queue.labels(name).set(entity["queue"])
        self.often.labels(name).set(entity["returned_often"])
        self.paused.labels(name).set(entity["paused_since"] is not None)
        for table in ("invalid", "master"):
            if entity[table] is not None:
                self.neon.labels(name, table).set(entity[table])
        moments = {"at": self.last_pull, "full_at": self.last_full, "position": self.position}
        for moment, gauge in moments.items():
            if pull[moment] is not None:
                gauge.labels(name).set(datetime.fromisoformat(pull[moment]).timestamp())
        for change in CHANGES:
            if pull[change] is not None:
                self.last_records.labels(name, change).set(pull[change])

    def observe_pool(self, database: str, stats: Mapping[str, int]) -> None:
        """A connection pool's own figures, by psycopg_pool's names."""
        free, size = stats.get("pool_available", 0), stats.get("pool_size", 0)
        self.pool.labels(database, "free").set(free)
        self.pool.labels(database, "used").set(size - free)
        self.pool.labels(database, "limit").set(stats.get("pool_max", 0))
        self.pool_waiting.labels(database).set(stats.get("requests_waiting", 0))
        errors = stats.get("connections_errors", 0) + stats.get("connections_lost", 0)
        self._follow(self.pool_errors.labels(database), errors)

    def observe_lost(self, lines: int) -> None:
        """How many lines of the log were lost since the start."""
        self._follow(self.lost, lines)

    def _follow(self, counter: Counter, total: int) -> None:
        """Bring a counter to a total that is kept elsewhere, and may begin again."""
        before = self._totals.get(counter, 0)
        self._totals[counter] = total
        counter.inc(total - before if total >= before else total)

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
