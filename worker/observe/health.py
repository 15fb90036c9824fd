"""Whether the worker does its job: the reasons and warnings of ``/healthz`` and ``/readyz``. Asks no database."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from worker.domain.postponed import Cause, Postponed
from worker.observe import output

STALLED_SECONDS = 180.0
"""A task without a heartbeat for this long hangs: every batch is bounded well below."""
STUCK_SECONDS = 120.0
"""A queue from which nothing has gone for this long does not move."""
LATE = 3
"""A pull is missed when none came for so many times the interval,"""
LATE_SECONDS = 15.0
"""and so much longer: a pull takes its time."""
MISSED_NOTIFICATIONS = 3
"""So many times in a row the sweep finds work before there is a warning: once is chance."""


@dataclass
class _EntityHealth:
    """What is known of one entity. Moments are of the monotonic clock, in seconds."""

    moved_at: float
    """When a record last left the queue, or there was none in it."""
    pulled_at: float
    """When it was last known that some worker pulls it."""
    pull_run: str | None = None
    """The run id of its last pull, by any worker."""
    oldest_queued: str | None = None
    """When the oldest record of its queue was queued, as last counted."""
    missed_notifications: int = 0
    """How often the sweep found work since a notification came."""
    not_posted: str | None = None
    """Why its events are not taken."""
    restored: str | None = None
    """A restore of a database that is not settled."""
    paused_since: str | None = None
    """Since when it is paused, as ISO 8601."""


class Health:
    """What works and what does not, as the tasks reported it. Durations are of the monotonic clock, in seconds."""

    def __init__(
        self,
        entities: Iterable[str],
        clock: Callable[[], float] = time.monotonic,
        rest: float = 0.0,
        pull_interval: float | None = None,
        postponed: Mapping[str, Postponed] | None = None,
    ) -> None:
        """Begin with a worker that does not listen yet.

        Args:
            entities: their names.
            clock: the monotonic clock.
            rest: seconds a task may rest between two heartbeats when there is nothing to do.
            pull_interval: seconds after which an entity is pulled again, by any worker; None: nobody pulls.
            postponed: entity → its rows that are postponed.
        """
        self._clock, self._rest, self._pull_interval = clock, rest, pull_interval
        self._postponed = {} if postponed is None else postponed
        self._entities = {name: _EntityHealth(clock(), clock()) for name in entities}
        self._faults = {"listener": "not listening yet"}
        """Task → why it does not do its work right now."""
        self._heartbeats: dict[str, float] = {}
        """Task → when its last heartbeat was."""

    # What is reported

    def fault(self, task: str, reason: str | None) -> bool:
        """Note why a task does not do its work; None: it does. Returns whether that is a change."""
        before = self._faults.get(task)
        if reason is None:
            self._faults.pop(task, None)
        else:
            self._faults[task] = reason
        return reason != before

    def heartbeat(self, task: str) -> None:
        """Note that a task is alive."""
        self._heartbeats[task] = self._clock()

    def notified(self, entity: str) -> None:
        """Note that a notification came."""
        self._entities[entity].missed_notifications = 0

    def swept(self, entity: str) -> bool:
        """Note that the sweep found work without a notification; returns whether that is a warning from now on."""
        one = self._entities[entity]
        one.missed_notifications += 1
        return one.missed_notifications == MISSED_NOTIFICATIONS

    def delivered(self, entity: str) -> None:
        """Note that records left the queue."""
        self._entities[entity].moved_at = self._clock()

    def pulling(self, *entities: str) -> None:
        """Note that these are being pulled; none given: a pull of this process goes on, which the others wait for."""
        for entity in entities or self._entities:
            self._entities[entity].pulled_at = self._clock()

    def posted(self, entity: str) -> bool:
        """Note that the receiver takes events; returns whether that is a change."""
        one = self._entities[entity]
        before, one.not_posted = one.not_posted, None
        return before is not None

    def not_posted(self, entity: str, reason: str, pending: int) -> bool:
        """Note why the receiver does not take events, and how many wait; returns whether that is a change."""
        one = self._entities[entity]
        before = one.not_posted
        one.not_posted = f"{entity}: N8N_WEBHOOK_URL does not take events: {reason}; {pending} waiting, none is lost"
        return one.not_posted != before

    def paused(self, entity: str, since: str | None) -> bool:
        """Note since when an entity is paused, None: it is not; returns whether that is a change."""
        one = self._entities[entity]
        before, one.paused_since = one.paused_since, since
        if before and not since:
            # What did not move while it was paused has had no time yet.
            self.delivered(entity)
            self.pulling(entity)
        return before != since

    def counted(self, entities: Mapping[str, Any]) -> None:
        """Note where the records of these entities stand, as :func:`worker.operate.status.read_status` says it."""
        for name, counted in entities.items():
            one, oldest = self._entities[name], counted["oldest_queued_at"]
            # A queue moves when it is empty, or another worker took its oldest.
            if oldest is None or oldest != one.oldest_queued:
                one.moved_at = self._clock()
            one.oldest_queued = oldest
            if (run := counted["last_pull"].get("run_id")) != one.pull_run:
                one.pull_run = run
                self.pulling(name)
            one.restored = counted.get("restored")
            self.paused(name, counted.get("paused_since"))

    # What that means

    def stalled(self) -> list[str]:
        """The tasks that hang."""
        latest = self._clock() - STALLED_SECONDS - self._rest
        return [f"{task} hangs" for task, at in self._heartbeats.items() if at < latest]

    def unready(self) -> list[str]:
        """Why the worker does not do its job at the moment; tasks with the same reason together."""
        blocked = [
            (name, text) for name, _, text in self._postponed_for(Cause.FAULT) if not self._entities[name].paused_since
        ]
        tasks: dict[str, list[str]] = {}
        for task, reason in [*self._faults.items(), *blocked]:
            if task not in tasks.setdefault(reason, []):
                tasks[reason].append(task)
        reasons = [f"{', '.join(names)}: {reason}" for reason, names in tasks.items()]
        return [*reasons, *self._stuck(), *self._not_pulled(), *self.stalled()]

    def warnings(self) -> list[str]:
        """What is wrong although the worker does its job."""
        entities = self._entities.values()
        return [
            *self._not_notified(),
            *[one.not_posted for one in entities if one.not_posted],
            *[f"{name}: {one.restored}" for name, one in self._entities.items() if one.restored],
            *[f"{name}: {rows} records wait: {text}" for name, rows, text in self._postponed_for(Cause.HELD)],
            *[
                f"{name}: the workspace refuses what {rows} rows are to be told: {text}"
                for name, rows, text in self._postponed_for(Cause.REPLY)
            ],
            *_lost_lines(),
        ]

    def pauses(self) -> list[str]:
        """What an operator has paused: it is as it was meant to be."""
        return [
            f"{name}: paused since {one.paused_since[:16].replace('T', ' ')} UTC, nothing is claimed or pulled;"
            f" `enrichment-worker resume {name}` lets it go on"
            for name, one in self._entities.items()
            if one.paused_since
        ]

    def _stuck(self) -> Iterator[str]:
        now = self._clock()
        for name, one in self._entities.items():
            if one.oldest_queued and not one.paused_since and now - one.moved_at > STUCK_SECONDS:
                yield (
                    f"{name}: the queue does not move, nothing was answered for {now - one.moved_at:.0f} s;"
                    " look for a transaction that holds the oldest rows"
                )

    def _not_pulled(self) -> Iterator[str]:
        """Entities of which no pull came for much longer than the interval: by this clock, which does not jump."""
        if self._pull_interval is None:
            return
        now, late = self._clock(), LATE * self._pull_interval + 2 * self._rest + LATE_SECONDS
        for name, one in self._entities.items():
            if now - one.pulled_at > late and not one.paused_since:
                yield (
                    f"{name}: no pull came for {now - one.pulled_at:.0f} s, and one is due every"
                    f" {self._pull_interval:g} s; look for a long pull of another worker, or a transaction that holds"
                    " its row of enrichment_pull_position"
                )

    def _not_notified(self) -> Iterator[str]:
        for name, one in self._entities.items():
            if one.missed_notifications >= MISSED_NOTIFICATIONS:
                yield (
                    f"{name}: {one.missed_notifications} times in a row the sweep found work that no notification had"
                    " told of: answers are late. `enrichment-worker doctor` says whether the trigger is missing or the"
                    " listen address is a transaction pooler"
                )

    def _postponed_for(self, cause: Cause) -> Iterator[tuple[str, int, str]]:
        """Entity, number of rows and latest reason, where rows are postponed for this cause."""
        for name, postponed in self._postponed.items():
            rows, text = postponed.summary(cause)
            if rows:
                yield name, rows, text


def _lost_lines() -> list[str]:
    lines = output.lost()
    return [f"{lines} lines of the log are lost: stderr cannot be written, or nobody reads it"] if lines else []
