"""Where the tasks report what they do. It goes to health, metrics, the latest outcomes and open pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from worker import __version__
from worker.domain.model import utc_text
from worker.domain.postponed import Postponed
from worker.domain.pulled import Pulled
from worker.domain.recent import Recent
from worker.observe import output, runbook
from worker.observe.broadcast import Feed
from worker.observe.health import MISSED_NOTIFICATIONS, Health
from worker.observe.metrics import Metrics
from worker.postgres.errors import metric_label
from worker.postgres.pool import Database
from worker.sync.deliver import Tally
from worker.sync.prune import Pruned

SHOWN = 25
"""Outcomes of one batch that are sent to a page one by one."""

log = structlog.get_logger("worker.monitor")


class Monitor:
    """What the tasks report, and what the status page, ``/metrics`` and the service manager get of it."""

    def __init__(
        self,
        entities: Iterable[str],
        pools: Iterable[Database] = (),
        clock: Callable[[], float] = time.monotonic,
        rest: float = 0.0,
        pull_interval: float | None = None,
        postponed: Mapping[str, Postponed] | None = None,
        rules_versions: Mapping[str, str] | None = None,
    ) -> None:
        """Begin with a worker that does not listen yet.

        Args:
            entities: their names.
            pools: the connection pools that ``/metrics`` describes.
            clock: the monotonic clock.
            rest: see :class:`~worker.observe.health.Health`, and the following two.
            pull_interval: likewise.
            postponed: likewise.
            rules_versions: entity → the version of its rules.
        """
        self._rules_versions = dict(rules_versions or {})
        self._names, self._pools, self._clock = list(entities), list(pools), clock
        self.health = Health(self._names, clock, rest, pull_interval, postponed)
        self.metrics = Metrics(self._names)
        for name in self._names:
            if name in self._rules_versions:
                self.metrics.rules.labels(name, self._rules_versions[name]).set(1)
        self.recent, self.feed = Recent(), Feed()
        self._started_at = datetime.now(UTC)
        self._has_listened = False
        self._count: dict[str, Any] = {"at": None, "entities": {}}
        self._counted_at = clock()
        self._uncounted: str | None = "not counted yet"
        """Why the counts are old."""

    # What the tasks report

    def fault(self, task: str, reason: str | None) -> None:
        """Report why a task does not do its work; None: it does."""
        changed = self.health.fault(task, reason)
        self.metrics.fault.labels(task).set(reason is not None)
        if changed:
            self._update_pages()

    def retry(self, task: str, error: BaseException) -> None:
        """Report that a task tries again after a fault."""
        self.metrics.retries.labels(task, metric_label(error)).inc()

    def heartbeat(self, task: str) -> None:
        """Report that a task is alive."""
        self.health.heartbeat(task)

    def listening(self, reason: str | None) -> None:
        """Report that the listener listens, or why it does not."""
        if reason is None and self._has_listened:
            self.metrics.reconnects.inc()
        self._has_listened = self._has_listened or reason is None
        self.metrics.listening.set(reason is None)
        self.fault("listener", reason)

    def notified(self, entity: str | None) -> None:
        """Report that a notification came; one that names no known entity is not counted."""
        if entity in self._names:
            self.metrics.notifications.labels(entity).inc()
            self.health.notified(entity)

    def swept(self, entity: str) -> None:
        """Report that the sweep found work without a notification."""
        self.metrics.swept.labels(entity).inc()
        if self.health.swept(entity):
            log.warning("sweep.missed_notification", entity=entity, times=MISSED_NOTIFICATIONS)

    def delivered(self, entity: str, tally: Tally) -> None:
        """Report what became of a batch."""
        if not tally.claimed:
            return
        self.metrics.observe_batch(entity, tally)
        if tally.summaries:
            self.health.delivered(entity)
            shown = self.recent.add(entity, tally.summaries)
            self.feed.publish("outcomes", {"records": shown[-SHOWN:], "more": max(0, len(tally.summaries) - SHOWN)})

    def pulling(self) -> None:
        """Report that a pull of this process goes on."""
        self.health.pulling()

    def pulled(self, pulled: Pulled) -> None:
        """Report what a pull did."""
        self.health.pulling(pulled.entity)
        self.metrics.observe_pull(pulled)

    def pruned(self, pruned: Pruned) -> None:
        """Report how many rows retention removed."""
        self.metrics.pruned.labels(pruned.entity, "ledger").inc(pruned.ledger)
        self.metrics.pruned.labels(pruned.entity, "workspace").inc(pruned.workspace)

    def paused(self, entity: str, since: datetime | None) -> None:
        """Report since when an entity is paused, UTC without zone; None: it is not."""
        self.metrics.paused.labels(entity).set(since is not None)
        if self.health.paused(entity, utc_text(since)):
            self._update_pages()

    def counted(self, status: dict[str, Any], seconds: float) -> None:
        """Report where the records stand, and how long it took to count them."""
        self._count, self._counted_at, self._uncounted = status, self._clock(), None
        self.health.counted(status["entities"])
        self.metrics.observe_count(status, seconds)
        self._update_pages()

    def not_counted(self, reason: str) -> None:
        """Report why the records could not be counted."""
        self._uncounted = reason
        self._update_pages()

    def posted(self, entity: str, pending: int | None) -> None:
        """Report that an event was posted and how many wait; None: there was none to post."""
        if pending is not None:
            self.metrics.posts.labels(entity, "posted").inc()
        self.metrics.pending.labels(entity).set(pending or 0)
        self.metrics.oldest_event.labels(entity).set(0)
        if self.health.posted(entity):
            self._update_pages()

    def not_posted(self, entity: str, reason: str, pending: int, age: float) -> None:
        """Report why the receiver did not take an event, how many wait, and how many seconds the oldest does."""
        self.metrics.posts.labels(entity, "failed").inc()
        self.metrics.pending.labels(entity).set(pending)
        self.metrics.oldest_event.labels(entity).set(age)
        if self.health.not_posted(entity, reason, pending):
            self._update_pages()

    def _update_pages(self) -> None:
        """Send the status to open pages: a fault is shown when it comes, also where nothing can be counted."""
        if self.feed.watchers:
            self.feed.publish("status", self.status())

    # What others get of it

    def in_words(self) -> str:
        """What the worker is doing, in one line: its faults, or its queue as last counted."""
        faults = self.health.unready() or ([f"count: {self._uncounted}"] if self._uncounted else [])
        if faults:
            return f"Trouble: {'; '.join(faults)}"
        queues = [f"{entity['queue']} {name}" for name, entity in self._count["entities"].items()]
        paused = [name for name, entity in self._count["entities"].items() if entity["paused_since"]]
        return f"Listening; in the queue: {', '.join(queues)}" + (f"; paused: {', '.join(paused)}" if paused else "")

    def status(self) -> dict[str, Any]:
        """What ``/status.json`` says: the last count, and what only this process knows."""
        reasons, warnings = self.health.unready(), self.health.warnings()
        count_age = self._clock() - self._counted_at
        return {
            **self._count,
            "worker": {
                "version": __version__,
                "rules_versions": self._rules_versions,
                "ready": not reasons,
                "reasons": reasons,
                "warnings": warnings,
                "uncounted": self._uncounted,
                "runbook": {text: runbook.section(text) for text in (*reasons, *warnings)},
                "started_at": self._started_at.isoformat(timespec="seconds"),
                "now": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "count_age_seconds": round(count_age, 1),
                "latest": self.recent.latest(),
                "history": self.recent.history(),
            },
        }

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What ``/metrics`` says, and its content type."""
        metrics, since_count = self.metrics, self._clock() - self._counted_at
        metrics.ready.set(not self.health.unready())
        metrics.watchers.set(self.feed.watchers)
        metrics.observe_lost(output.lost())
        for name, entity in self._count["entities"].items():
            age = entity["oldest_queued_seconds"]
            metrics.oldest.labels(name).set(0 if age is None else age + since_count)
        for pool in self._pools:
            metrics.observe_pool(pool.name.lower(), pool.stats)
        return metrics.text(accept)
