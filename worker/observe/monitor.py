"""What the worker knows of itself: the tasks report here, and the health address tells. Asks no database."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from worker import __version__
from worker.domain.postponed import Cause, Postponed
from worker.domain.pulled import Pulled
from worker.domain.recent import Recent
from worker.entities.declaration import ENTITIES
from worker.observe import output
from worker.observe.broadcast import Feed
from worker.observe.metrics import CHANGES, Metrics
from worker.postgres.errors import metric_label
from worker.postgres.pool import Database
from worker.sync.deliver import Tally
from worker.sync.prune import Pruned

STALLED_SECONDS = 180.0
"""A loop that has not turned for this long hangs: every batch is bounded well below."""
STUCK_SECONDS = 120.0
"""A queue from which nothing has gone for this long does not move."""
LATE = 3
"""A pull is missed when none came for so many times the interval,"""
LATE_SECONDS = 15.0
"""and so much longer: a pull takes its time."""
SHOWN = 25
"""Outcomes of one batch that are sent to a page one by one."""
UNHEARD = 3
"""So many times in a row the sweep finds work before it is said that notifications do not come: once is chance."""

log = structlog.get_logger("worker.monitor")


class Monitor:
    """What the tasks report, in one place. Durations are of the monotonic clock, in seconds."""

    def __init__(
        self,
        entities: Iterable[str],
        pools: Iterable[Database] = (),
        clock: Callable[[], float] = time.monotonic,
        rest: float = 0.0,
        pull_interval: float | None = None,
        postponed: Mapping[str, Postponed] | None = None,
    ) -> None:
        """Begin with a worker that does not listen yet.

        Args:
            entities: their names.
            pools: whose figures to tell.
            clock: the monotonic clock.
            rest: seconds a task may rest between two turns when there is nothing to do.
            pull_interval: seconds after which an entity is pulled again, by any worker; None: nobody pulls.
            postponed: entity → the rows that are passed over for a while.
        """
        self.entities, self.pools = list(entities), list(pools)
        self.metrics = Metrics(self.entities)
        for name in self.entities:
            if name in ENTITIES:
                self.metrics.rules.labels(name, ENTITIES[name].rules.version()).set(1)
        self.recent, self.feed = Recent(), Feed()
        self.started_at = datetime.now(UTC)
        self.faults: dict[str, str] = {"listener": "not listening yet"}
        """Task → why it does not do its work right now."""
        self.turned: dict[str, float] = {}
        """Task → when its loop last turned."""
        self.uncounted: str | None = "not counted yet"
        """Cause the counts are old."""
        self._clock, self._rest = clock, rest
        self._count: dict[str, Any] = {"at": None, "entities": {}}
        self._counted_at = clock()
        self._moved = dict.fromkeys(self.entities, clock())
        self._oldest: dict[str, str | None] = {}
        self._pull_interval = pull_interval
        self._postponed = {} if postponed is None else postponed
        self._pulled_at = dict.fromkeys(self.entities, clock())
        """Entity → when it was last known that somebody pulls it."""
        self._pulled_run: dict[str, str | None] = {}
        """Entity → the run id of its last pull, by any worker."""
        self._heard = False
        self._unposted: dict[str, str] = {}
        """Entity → why its events are not taken."""
        self._unheard: Counter[str] = Counter()
        """Entity → how often the sweep found work since a notification came."""

    # What the tasks report

    def fault(self, task: str, reason: str | None) -> None:
        """Say why a task does not do its work; None: it does."""
        before = self.faults.get(task)
        if reason is None:
            self.faults.pop(task, None)
        else:
            self.faults[task] = reason
        self.metrics.fault.labels(task).set(reason is not None)
        if reason != before:
            self._tell()

    def retry(self, task: str, error: BaseException) -> None:
        """Say that a task waits a fault out and tries again."""
        self.metrics.retries.labels(task, metric_label(error)).inc()

    def heartbeat(self, task: str) -> None:
        """Say that a task's loop turned."""
        self.turned[task] = self._clock()

    def listening(self, reason: str | None) -> None:
        """Say that the listener listens, or why it does not."""
        if reason is None and self._heard:
            self.metrics.reconnects.inc()
        self._heard = self._heard or reason is None
        self.metrics.listening.set(reason is None)
        self.fault("listener", reason)

    def notified(self, entity: str | None) -> None:
        """Say that a notification came."""
        if entity in self.entities:
            self.metrics.notifications.labels(entity).inc()
            self._unheard.pop(entity, None)

    def swept(self, entity: str) -> None:
        """Say that the sweep found work that no notification had told of."""
        self.metrics.swept.labels(entity).inc()
        self._unheard[entity] += 1
        if self._unheard[entity] == UNHEARD:
            log.warning("sweep.missed_notification", entity=entity, times=UNHEARD)

    def delivered(self, entity: str, tally: Tally) -> None:
        """Say what became of a batch."""
        if not tally.claimed:
            return
        metrics = self.metrics
        metrics.batches.labels(entity).inc()
        for stage, seconds in tally.seconds.items():
            metrics.stage.labels(entity, stage).observe(seconds)
        for winner, fields in tally.conflicts.items():
            metrics.conflicts.labels(entity, winner).inc(fields)
        for state in ("busy", "changed"):
            metrics.postponed.labels(entity, state).inc(tally.outcomes[state])
        for outcome, records in Counter(told.outcome for told in tally.summaries).items():
            metrics.outcomes.labels(entity, outcome).inc(records)
            delay = metrics.delay.labels(entity, outcome)
            for told in tally.summaries:
                if told.outcome == outcome and told.delay is not None:
                    delay.observe(max(0.0, told.delay))  # the server's clock may have gone back meanwhile
        flagged = Counter(told.reason_code or "OTHER" for told in tally.summaries if told.outcome == "flagged")
        for code, records in flagged.items():
            metrics.flagged.labels(entity, code).inc(records)
        if tally.summaries:
            self._moved[entity] = self._clock()
            shown = self.recent.add(entity, tally.summaries)
            self.feed.publish("outcomes", {"records": shown[-SHOWN:], "more": max(0, len(tally.summaries) - SHOWN)})

    def pulling(self, *entities: str) -> None:
        """Say that these are being pulled; none given: a pull of this process goes on, which the others wait for."""
        for entity in entities or self.entities:
            self._pulled_at[entity] = self._clock()

    def pulled(self, pulled: Pulled) -> None:
        """Say what a pull did."""
        self.pulling(pulled.entity)
        for change, records in zip(CHANGES, (pulled.new, pulled.changed, pulled.withdrawn), strict=True):
            self.metrics.pulled.labels(pulled.entity, change).inc(records)
        ended = {
            "withdrawn": pulled.withdrawn,
            "promoted": pulled.promoted,
            "flagged": pulled.judged - pulled.promoted,
        }
        for outcome, records in ended.items():
            self.metrics.outcomes.labels(pulled.entity, outcome).inc(records)

    def pruned(self, pruned: Pruned) -> None:
        """Say how many rows retention removed."""
        self.metrics.pruned.labels(pruned.entity, "ledger").inc(pruned.ledger)
        self.metrics.pruned.labels(pruned.entity, "workspace").inc(pruned.workspace)

    def not_counted(self, reason: str) -> None:
        """Say why the records could not be counted."""
        self.uncounted = reason
        self._tell()

    def _tell(self) -> None:
        """Bring open pages up to date: trouble is told when it comes, also where nothing can be counted."""
        if self.feed.watchers:
            self.feed.publish("status", self.status())

    def counted(self, status: dict[str, Any], seconds: float) -> None:
        """Say where the records stand, and how long it took to count them."""
        self._count, self._counted_at, self.uncounted = status, self._clock(), None
        self.metrics.count_seconds.set(seconds)
        self.metrics.counted.set(datetime.fromisoformat(status["at"]).timestamp())
        for name, entity in status["entities"].items():
            oldest = entity["oldest_queued_at"]
            # A queue moves when it is empty, or another worker took its oldest.
            if oldest is None or oldest != self._oldest.get(name):
                self._moved[name] = self._clock()
            self._oldest[name] = oldest
            if (run := entity["last_pull"].get("run_id")) != self._pulled_run.get(name):
                self._pulled_run[name] = run
                self.pulling(name)
            self._show_count(name, entity)
        self._tell()

    def _show_count(self, name: str, entity: Mapping[str, Any]) -> None:
        metrics, pull = self.metrics, entity["last_pull"]
        for state, records in entity["counts"].items():
            metrics.records.labels(name, state).set(records)
        metrics.queue.labels(name).set(entity["queue"])
        for table in ("invalid", "master"):
            if entity[table] is not None:
                metrics.neon.labels(name, table).set(entity[table])
        for gauge, at in (
            (metrics.last_pull, pull["at"]),
            (metrics.last_full, pull["full_at"]),
            (metrics.position, pull["position"]),
        ):
            if at is not None:
                gauge.labels(name).set(datetime.fromisoformat(at).timestamp())
        for change in CHANGES:
            if pull[change] is not None:
                metrics.last_records.labels(name, change).set(pull[change])

    # What the health address tells

    def stalled(self) -> list[str]:
        """The tasks whose loop hangs."""
        latest = self._clock() - STALLED_SECONDS - self._rest
        return [f"{task} hangs" for task, at in self.turned.items() if at < latest]

    def unready(self) -> list[str]:
        """Cause the worker does not do its job at the moment; tasks with the same reason together."""
        tasks: dict[str, list[str]] = {}
        for task, reason in [*self.faults.items(), *self._blocked()]:
            if task not in tasks.setdefault(reason, []):
                tasks[reason].append(task)
        reasons = [f"{', '.join(names)}: {reason}" for reason, names in tasks.items()]
        return reasons + self._stuck() + self._unpulled() + self.stalled()

    def in_words(self) -> str:
        """What the worker is doing, in one line: its trouble, or its queue as last counted."""
        trouble = self.unready() or ([f"count: {self.uncounted}"] if self.uncounted else [])
        if trouble:
            return f"Trouble: {'; '.join(trouble)}"
        queues = [f"{entity['queue']} {name}" for name, entity in self._count["entities"].items()]
        return f"Listening; in the queue: {', '.join(queues)}"

    def _blocked(self) -> list[tuple[str, str]]:
        """Entities of which Neon refuses every record, and why."""
        return [
            (name, rows.summary(Cause.FAULT)[1])
            for name, rows in self._postponed.items()
            if rows.summary(Cause.FAULT)[0]
        ]

    def _put_aside(self) -> list[str]:
        """What holds up single rows, and nobody else."""
        said = {
            Cause.HELD: "{name}: {rows} records wait: {text}",
            Cause.REPLY: "{name}: the workspace refuses what {rows} rows are to be told: {text}",
        }
        return [
            words.format(name=name, rows=rows.summary(why)[0], text=rows.summary(why)[1])
            for name, rows in self._postponed.items()
            for why, words in said.items()
            if rows.summary(why)[0]
        ]

    def _stuck(self) -> list[str]:
        now = self._clock()
        return [
            f"{name}: the queue does not move, nothing was answered for {now - at:.0f} s;"
            " look for a transaction that holds the oldest rows"
            for name, at in self._moved.items()
            if self._oldest.get(name) and now - at > STUCK_SECONDS
        ]

    def _unpulled(self) -> list[str]:
        """Entities of which no pull came for much longer than the interval: by this clock, which does not jump."""
        if self._pull_interval is None:
            return []
        now, late = self._clock(), LATE * self._pull_interval + 2 * self._rest + LATE_SECONDS
        return [
            f"{name}: no pull came for {now - at:.0f} s, and one is due every {self._pull_interval:g} s; look for a"
            " long pull of another worker, or a transaction that holds its row of enrichment_pull_position"
            for name, at in self._pulled_at.items()
            if now - at > late
        ]

    def warnings(self) -> list[str]:
        """What is wrong although the worker does its job."""
        return [
            f"{name}: {times} times in a row the sweep found work that no notification had told of: answers are late."
            " `enrichment-worker doctor` says whether the trigger is missing or the listen address is a transaction"
            " pooler"
            for name, times in self._unheard.items()
            if times >= UNHEARD
        ] + [*self._unposted.values(), *self._restored(), *self._put_aside(), *_lost_lines()]

    def _restored(self) -> list[str]:
        """Restores of a database that are not settled."""
        counted = self._count["entities"].items()
        return [f"{name}: {entity['restored']}" for name, entity in counted if entity.get("restored")]

    def posted(self, entity: str, pending: int | None) -> None:
        """Say that an event was posted and how many wait; None: there was none to post."""
        if pending is not None:
            self.metrics.posts.labels(entity, "posted").inc()
        self.metrics.pending.labels(entity).set(pending or 0)
        self.metrics.oldest_event.labels(entity).set(0)
        if self._unposted.pop(entity, None):
            self._tell()

    def not_posted(self, entity: str, reason: str, pending: int, age: float) -> None:
        """Say why the receiver did not take an event, how many wait, and how many seconds the oldest does."""
        self.metrics.posts.labels(entity, "failed").inc()
        self.metrics.pending.labels(entity).set(pending)
        self.metrics.oldest_event.labels(entity).set(age)
        before = self._unposted.get(entity)
        self._unposted[entity] = (
            f"{entity}: N8N_WEBHOOK_URL does not take events: {reason}; {pending} waiting, none is lost"
        )
        if before != self._unposted[entity]:
            self._tell()

    def status(self) -> dict[str, Any]:
        """What ``/status.json`` says: the last count, and what only this process knows."""
        reasons = self.unready()
        count_age = self._clock() - self._counted_at
        return {
            **self._count,
            "worker": {
                "version": __version__,
                "rules_versions": {name: entity.rules.version() for name, entity in ENTITIES.items()},
                "ready": not reasons,
                "reasons": reasons,
                "warnings": self.warnings(),
                "uncounted": self.uncounted,
                "started_at": self.started_at.isoformat(timespec="seconds"),
                "now": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "count_age_seconds": round(count_age, 1),
                "latest": self.recent.latest(),
                "history": self.recent.history(),
            },
        }

    def exposition(self, accept: str = "") -> tuple[bytes, str]:
        """What ``/metrics`` says, and its content type."""
        metrics, since_count = self.metrics, self._clock() - self._counted_at
        metrics.ready.set(not self.unready())
        metrics.watchers.set(self.feed.watchers)
        metrics.lost.set(output.lost())
        for name, entity in self._count["entities"].items():
            age = entity["oldest_queued_seconds"]
            metrics.oldest.labels(name).set(0 if age is None else age + since_count)
        for pool in self.pools:
            stats, database = pool.stats, pool.name.lower()
            free, size = stats.get("pool_available", 0), stats.get("pool_size", 0)
            metrics.pool.labels(database, "free").set(free)
            metrics.pool.labels(database, "used").set(size - free)
            metrics.pool.labels(database, "limit").set(stats.get("pool_max", 0))
            metrics.pool_waiting.labels(database).set(stats.get("requests_waiting", 0))
            metrics.pool_errors.labels(database).set(
                stats.get("connections_errors", 0) + stats.get("connections_lost", 0)
            )
        return metrics.text(accept)


def _lost_lines() -> list[str]:
    lines = output.lost()
    return [f"{lines} lines of the log are lost: stderr cannot be written, or nobody reads it"] if lines else []
