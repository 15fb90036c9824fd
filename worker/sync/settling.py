"""Settle a batch in Neon, so that a record that is refused or locked affects no other record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import psycopg
import structlog

from worker.domain.model import Action, NoteCode, Outcome, State
from worker.domain.steps import Answer, Judged, Merged, Settled, Verdict
from worker.neon import demands
from worker.neon.bisect import MOST_WAITS, settle_by_bisection
from worker.neon.books import Entry, Run
from worker.neon.catalogue import SWALLOWED, Refusal, explain_refusal
from worker.neon.duplicates import parts_of
from worker.neon.invalid import InvalidRow
from worker.neon.settle import settle
from worker.postgres.connection import Connection
from worker.postgres.errors import LOCKED, NOT_ABOUT_RECORDS, Kind, kind_of
from worker.postgres.transaction import roll_back_refusal
from worker.sync.judging import judge
from worker.sync.route import Route

log = structlog.get_logger("worker.delivery")

ROUNDS = 5
"""How often a batch retries a Neon row that keeps changing, before it leaves it to the next batch."""
REFUSED = "REFUSED_BY_MASTER"
_BOOKS = ("enrichment_ledger", "shq_validation_log")
_DOUBTS = 10_000
"""At most this many records of an entity are remembered as refused in a way that may concern all."""


@dataclass
class Blocked:
    """Records that Neon refuses like any other of their entity. Their answers are ``BUSY``; they stay in the queue."""

    error: psycopg.Error
    keys: set[str] = field(default_factory=set)


def raise_blocked(blocked: Blocked | None) -> None:
    """Raise the error that an operator must fix, if there is one.

    Raises:
        psycopg.Error: there is.
    """
    if blocked:
        raise blocked.error


@dataclass
class _Round:
    """The results for some records."""

    settled: dict[str, Settled] = field(default_factory=dict)
    blocked: Blocked | None = None

    def add(self, other: _Round) -> _Round:
        """Add results for other records, or newer ones for the same records."""
        self.settled |= other.settled
        if self.blocked and other.blocked:
            self.blocked.keys |= other.blocked.keys
        self.blocked = self.blocked or other.blocked
        return self


async def settle_batch(
    route: Route,
    neon: Connection,
    batch: Sequence[Judged],
    run: Run,
    apply: Collection[Action] = frozenset(Action),
) -> tuple[list[Settled], Blocked | None]:
    """Settle a batch in Neon; a record whose row has changed meanwhile is merged and judged again.

    A rehearsal (:attr:`worker.neon.books.Run.rehearsal`) writes nothing: it says what the master table would say, its
    constraints and triggers included, and what a record would wait for.

    Where the second judgement asks for an action that is not in ``apply``, its answer stays ``CHANGED``. A record that
    somebody else's transaction holds is ``BUSY``.

    Returns:
        The batch, settled, and what an operator must fix, if all records are refused in the same way.

    Raises:
        psycopg.Error: nothing took effect, or that is unknown; settle again.
        Restored: Neon was restored to an earlier moment.
    """
    settling = _Settling(route, neon, run)
    pushes = {judged.key for judged in batch if judged.action is Action.PUSH}
    todo, done = list(batch), _Round()
    for _ in range(ROUNDS):
        if not todo:
            break
        for part in parts_of(route.entity, todo):
            done.add(await settling.settle(part))
        moved = [one for judged in todo if (one := done.settled[judged.key]).answer.state is State.CHANGED]
        neon_states = await route.ledger.neon_states(neon, {one.key: one.claimed.receipt for one in moved})
        todo = []
        for one in moved:
            current = one.answer
            if current.record is None:
                continue
            again = judge(
                route.entity, one.claimed, current.record, current.hash, current.at,
                Action.PUSH if one.key in pushes else Action.PROMOTE, neon_states[one.key],
            )  # fmt: skip
            done.settled[one.key] = Settled(again, current)
            if again.action in apply:
                todo.append(again)
    return [done.settled[judged.key] for judged in batch], done.blocked


@dataclass(frozen=True, slots=True)
class _Settling:
    """The settling of one batch: on which connection, and for which run."""

    route: Route
    neon: Connection
    run: Run

    async def settle(self, batch: Sequence[Judged], *, shortly: bool = True, promoted: bool = False) -> _Round:
        """Settle a batch; if Neon refuses it as a whole, bisect it.

        Args:
            batch: merged and judged.
            shortly: see :func:`worker.neon.settle.settle`; what that leaves is settled after it.
            promoted: whether a record beside these was promoted just now.
        """
        how = self.route.settlement
        try:
            answers = await settle(self.neon, how, batch, self.run, self.route.known, shortly=shortly)
        except psycopg.Error as error:
            await roll_back_refusal(self.neon, error, or_locked=True)
            if how.cannot_fill(error):
                return await self._without_promotions(batch, error)
            return await self._bisect(batch, error, promoted=promoted)
        done = self._take(batch, answers)
        if left := [judged for judged in batch if judged.key not in answers]:
            # What was answered stays answered, whatever becomes of these.
            done.add(await self.settle(left, shortly=False, promoted=_applied(batch, answers, Action.PROMOTE)))
        return done

    def _take(self, batch: Sequence[Judged], answers: Mapping[str, Answer]) -> _Round:
        """The records that were answered."""
        answered = [judged for judged in batch if judged.key in answers]
        if self.run.rehearsal is None:
            for judged in answered:
                self.route.doubted.pop(judged.key, None)
            if _applied(batch, answers, Action.PROMOTE):
                self.route.promotions += 1
        return _Round({judged.key: Settled(judged, answers[judged.key]) for judged in answered})

    async def _without_promotions(self, batch: Sequence[Judged], error: psycopg.Error) -> _Round:
        """The master has a NOT NULL column that nothing fills: no record of the entity can be promoted."""
        promotions = [judged for judged in batch if judged.action is Action.PROMOTE]
        others = [judged for judged in batch if judged.action is not Action.PROMOTE]
        blocked = _Round(_busy(promotions), Blocked(error, {judged.key for judged in promotions}))
        return blocked.add(await self.settle(others)) if others else blocked

    async def _bisect(self, batch: Sequence[Judged], error: psycopg.Error, *, promoted: bool) -> _Round:
        """Settle what can be settled, and flag exactly the records that Neon refuses."""
        route = self.route
        answers, refused = await settle_by_bisection(self.neon, route.settlement, batch, self.run, route.known)
        if not answers and len(refused) > MOST_WAITS and all(why.sqlstate == LOCKED for why in refused.values()):
            raise error  # it is no record that is locked, but a table
        done = self._take(batch, answers)
        everybodys = self._no_records_fault(batch, answers, refused, error, promoted=promoted)
        if everybodys:
            done.blocked = Blocked(error, everybodys)
        late = {key for key, why in refused.items() if why.sqlstate == LOCKED} | everybodys
        done.settled |= _busy(judged for judged in batch if judged.key in late)
        again = [judged for judged in batch if judged.key in refused and judged.key not in late]
        if again:
            stuck, flags = await self._make_flags(again, refused)
            if self.run.rehearsal is None:
                await self._book_stuck(stuck)
            done.settled |= {one.key: one for one in stuck}
            if flags:
                done.add(await self.settle(flags))
        return done

    def _no_records_fault(
        self,
        batch: Sequence[Judged],
        answers: Mapping[str, Answer],
        refused: Mapping[str, Refusal],
        error: psycopg.Error,
        *,
        promoted: bool,
    ) -> set[str]:
        """The keys of the refused records that Neon refuses like any other: for an operator to fix, not an enricher.

        A missing privilege, or a missing function in a trigger, has a SQLSTATE that is not about a record. So has a row
        level security policy or a trigger that refuses a single record. They are distinguished by the results of the
        other records: in this batch, and in later ones.
        """
        found, doubted, promotions = set(), self.route.doubted, self.route.promotions
        for judged in batch:
            why = refused.get(judged.key)
            if why is None or why.sqlstate == LOCKED:
                continue
            if why.table in _BOOKS and why.constraint != SWALLOWED:
                found.add(judged.key)
                continue
            by_its_values = kind_of(error) is Kind.REFUSED and why.sqlstate == error.sqlstate
            if why.sqlstate[:2] not in NOT_ABOUT_RECORDS or by_its_values or _applied(batch, answers, judged.action):
                continue
            if promoted and judged.action is Action.PROMOTE:
                continue
            may_doubt = judged.action is Action.PROMOTE and len(doubted) < _DOUBTS
            if may_doubt and doubted.setdefault(judged.key, promotions) < promotions:
                del doubted[judged.key]
                continue
            found.add(judged.key)
        return found

    async def _make_flags(
        self, batch: Sequence[Judged], refused: Mapping[str, Refusal]
    ) -> tuple[list[Settled], list[Judged]]:
        """Turn refused records into flags. If the values do not even fit the invalid table, only the workspace keeps
        them, where the enricher sees them, and Neon keeps what it has. If the invalid table refuses a flag even with
        its own values, the flag is only in the ledger and the workspace.

        Returns:
            The records whose flag is only there, and the flags that are still to be settled.
        """
        entity = self.route.entity
        reasons = {reason: await explain_refusal(self.neon, entity, reason) for reason in set(refused.values())}
        unfit = [judged.key for judged in batch if judged.action is not Action.PROMOTE]
        rows = await self.route.invalid.read(self.neon, unfit) if unfit else {}
        stuck: list[Settled] = []
        flags: list[Judged] = []
        for judged in batch:
            errors = reasons[refused[judged.key]]
            row = rows.get(judged.key)
            if row and judged.note is NoteCode.KEPT:
                why = f"Neon cannot take this record back: {'; '.join(errors.values())}; tell the operator"
                stuck.append(Settled(judged, replace(flagged(row, {"record": why}, {}, REFUSED), kept=True)))
                continue
            flag = replace(judged, verdict=Verdict(errors, judged.verdict.warnings, REFUSED), action=Action.FLAG)
            if row:
                flag = replace(
                    flag, merged=Merged(row.data), expected=row.data, expected_hash=row.hash, note=NoteCode.KEPT
                )
            elif judged.action is not Action.PROMOTE:  # it has just left, and is answered as gone when it is settled
                flag = replace(flag, expected_hash=None)
            flags.append(flag)
        states = {key: why.sqlstate for key, why in refused.items()}
        flags = await demands.with_all_reasons(self.neon, self.route.settlement.demands, flags, states)
        codes = Counter(refused[judged.key].sqlstate for judged in batch)
        names = Counter(name for judged in batch if (name := refused[judged.key].constraint))
        log.warning(
            "delivery.refused", entity=entity.name, records=len(batch), sqlstates=dict(codes), constraints=dict(names)
        )
        return stuck, flags

    async def _book_stuck(self, stuck: Sequence[Settled]) -> None:
        entries = [
            Entry(
                one.key, Outcome.FLAGGED, one.claimed.delivery_hash, one.answer.record,
                note=one.answer.errors["record"], note_code=NoteCode.STUCK, reason_code=one.answer.reason_code,
            )
            for one in stuck
        ]  # fmt: skip
        await self.route.ledger.book(self.neon, self.run.run_id, entries)


def _applied(batch: Sequence[Judged], answers: Mapping[str, Answer], action: Action) -> bool:
    """Whether Neon applied this action to a record of the batch."""
    return any(
        judged.action is action and (answer := answers.get(judged.key)) is not None
        and answer.state is State.APPLIED and answer.outcome is not Outcome.WAITING
        for judged in batch
    )  # fmt: skip


def _busy(batch: Iterable[Judged]) -> dict[str, Settled]:
    """Records that are left for a retry."""
    return {
        judged.key: Settled(judged, Answer(judged.key, State.BUSY, None, None, {}, {}, None, (), None, None, None))
        for judged in batch
    }


def flagged(row: InvalidRow, errors: Mapping[str, str], warnings: Mapping[str, str], reason_code: str | None) -> Answer:
    """The answer for a row that is flagged, without a settlement now."""
    return Answer(
        row.key, State.REPEAT, Outcome.FLAGGED, row.data, errors, warnings, reason_code, (), None, None,
        row.updated_at, row.hash,
    )  # fmt: skip
