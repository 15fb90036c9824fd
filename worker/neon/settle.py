"""Neon: promote, flag or push a batch, with its ledger and its log, in one transaction. Knows no rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from worker.domain.messages import LEDGER_NOTES
from worker.domain.model import Action, Data, NoteCode, Receipt
from worker.domain.steps import Answer, Judged
from worker.entities.declaration import Entity
from worker.neon.answers import answers_of, plain_answers_of
from worker.neon.books import EXECUTED_BY, LOCK_SECONDS, PLANNER, Run
from worker.neon.demands import asking
from worker.neon.duplicates import identities
from worker.neon.settlement import Settlement
from worker.postgres.binary import Texts
from worker.postgres.connection import Connection
from worker.postgres.transaction import Step, begin, transact


async def settle(
    connection: Connection,
    how: Settlement,
    batch: Sequence[Judged],
    run: Run,
    known: Receipt | None = None,
    *,
    shortly: bool = False,
) -> dict[str, Answer]:
    """Promote, flag or push the batch in one transaction and one round trip.

    A delivery takes effect only if Neon's row is still the one it was merged with, and only once.

    Args:
        connection: to Neon.
        how: the entity's statements.
        batch: merged and judged.
        run: the run that they are booked under.
        known: the latest ledger row whose outcome the workspace shows; Neon must have it.
        shortly: promote what nothing special is known of with the short statement. What Neon knows more of than the
            workspace does is left, and has no answer.

    Returns:
        The answer to each delivery, by key.

    Raises:
        Restored: Neon has forgotten ``known``: nothing took effect.
        psycopg.Error: nothing took effect, or, if the connection broke, that is unknown: settle again.
            What did take effect is answered as a repeat.
    """
    if not batch:
        return {}
    plain: list[Judged] = []
    others: list[Judged] = []
    for judged in batch:
        (plain if shortly and run.rehearsal is None and _is_plain(judged) else others).append(judged)
    asked = asking(how.demands, others)
    steps: list[Step] = [(how.plain, parameters(how, plain, run, known))] if plain else []
    if others:
        steps += [*asked, (how.settle_flags if asked else how.settle, parameters(how, others, run, known))]
    *_, settled = results = await transact(
        connection,
        *((CHECK_AT_ONCE, *run.rehearsal) if run.rehearsal is not None else ()),
        locks(how, batch),
        *steps,
        opening=begin(lock=LOCK_SECONDS, planner=PLANNER, planned_once=True),
        rehearse=run.rehearsal is not None,
    )
    answers = plain_answers_of(how.entity, plain, results[1].fetchall()) if plain else {}
    return answers | (answers_of(how.entity, others, settled.fetchall()) if others else {})


def _is_plain(judged: Judged) -> bool:
    """Whether nothing special is known of a record that passed: it has not been settled before."""
    claimed = judged.claimed
    return (
        judged.action is Action.PROMOTE
        and judged.expected_hash is not None
        and claimed.receipt is None
        and not claimed.in_neon
        and judged.as_of is None
        and judged.note is None
    )


def locks(how: Settlement, batch: Sequence[Judged]) -> Step:
    """The step that locks what a settlement will touch.

    A statement of its own, so that the settlement's snapshot is newer than the locks.
    """
    return how.lock, {"keys": Texts.of([judged.key for judged in batch]), **identities(how.entity, batch)}


# A deferred constraint must fail while it is still known which record it was.
CHECK_AT_ONCE: Step = (sql.SQL("SET CONSTRAINTS ALL IMMEDIATE"), None)


def parameters(how: Settlement, batch: Sequence[Judged], run: Run, known: Receipt | None = None) -> dict[str, Any]:
    """The parameters of the settling statement."""
    return {
        "known_id": known.id if known else None,
        "known_hash": known.hash if known else None,
        "records": Jsonb([_as_record(how.entity, judged) for judged in batch]),
        "rehearse": run.rehearsal is not None,
        "entity": how.entity.name,
        "run_id": run.run_id,
        "source": run.source,
        "target": run.target,
        "executed_by": EXECUTED_BY,
        "notes": run.notes,
        "rules_version": how.entity.rules.version(),
    }


def _changes(entity: Entity, judged: Judged) -> Data:
    """What a settlement changes in Neon's data columns."""
    neon, verbatim = judged.expected, entity.verbatim
    return {
        name: value
        for name, value in judged.merged.data.items()
        if name not in verbatim or name not in neon or value != neon[name]
    }


def _as_record(entity: Entity, judged: Judged) -> dict[str, Any]:
    claimed, merged, verdict = judged.claimed, judged.merged, judged.verdict
    record: dict[str, Any] = {
        "key": claimed.key,
        "hash": claimed.delivery_hash,
        "expected": judged.expected_hash,
        "action": judged.action,
        "changes": _changes(entity, judged),
        "enriched_by": claimed.enriched_by,
        "enriched_at": claimed.enriched_at,
        "enriched_fields": merged.enriched_fields,
    }
    if claimed.distinct:
        record["apart"] = True
    if version := judged.as_of or claimed.version:
        record["version"] = version
    # Empty values are left out: they would be half of a record's bytes.
    if judged.action is Action.FLAG:
        record |= {"errors": dict(verdict.errors), "reason_code": verdict.reason_code}
    if verdict.warnings:
        record["warnings"] = dict(verdict.warnings)
    if merged.conflicts:
        record["conflicts"] = [asdict(conflict) for conflict in merged.conflicts]
    if code := NoteCode.PUSHED if judged.action is Action.PUSH else judged.note:
        record |= {"note": LEDGER_NOTES[code], "note_code": code}
    return record
