"""Neon: what the settling statement says of each record of a batch. Knows no rules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any

from worker.domain.model import Action, NoteCode, Outcome, Receipt, State
from worker.domain.steps import Answer, Conflict, Judged, Sent
from worker.entities.declaration import Entity
from worker.neon.catalogue import SWALLOWED_WORDS
from worker.postgres.errors import Restored


def answers_of(entity: Entity, batch: Sequence[Judged], rows: Iterable[Mapping[str, Any]]) -> dict[str, Answer]:
    """The rows of the settling statement's result, by key.

    Raises:
        Restored: Neon was restored to an earlier moment, and nothing was settled.
    """
    sent = {judged.key: judged for judged in batch}
    answers = {row["key"]: _answer(entity, sent[row["key"]], row) for row in rows}
    if any(answer.state is State.RESTORED for answer in answers.values()):
        raise Restored(entity.name, "Neon")
    return answers


def plain_answers_of(entity: Entity, batch: Sequence[Judged], rows: Iterable[Mapping[str, Any]]) -> dict[str, Answer]:
    """The rows of the plain settlement's result, by key: every one was promoted, or held as a duplicate."""
    sent = {judged.key: judged for judged in batch}
    return {row["key"]: _plain(entity, sent[row["key"]], row) for row in rows}


def _plain(entity: Entity, sent: Judged, row: Mapping[str, Any]) -> Answer:
    merged, record, altered, said = sent.merged, row["record"], row["altered"], row["said"] or {}
    warnings = _with_alike(sent.verdict.warnings, said, held=row["code"] is not None) if said else sent.verdict.warnings
    return Answer(
        sent.key, State.APPLIED, Outcome.FLAGGED if row["code"] else Outcome.PROMOTED,
        merged.data if record is None else record, said if row["code"] else {}, warnings,
        row["code"], merged.conflicts, None, None, row["at"], None, Receipt(row["id"], sent.claimed.delivery_hash),
        altered=(*_rounded(entity, sent, row), *(altered or ())) if record or altered else (),
    )  # fmt: skip


def _with_alike(warnings: Mapping[str, str], said: Mapping[str, str], *, held: bool) -> dict[str, str]:
    """The warnings of a record that the master has under another key; where it is held for that, those are errors."""
    return {n: m for n, m in warnings.items() if n not in said} if held else {**warnings, **said}


def _rounded(entity: Entity, sent: Judged, row: Mapping[str, Any]) -> Iterator[str]:
    """The fields whose number the invalid table has otherwise than it was sent."""
    record, data = row["record"] or {}, sent.merged.data
    for name in entity.numeric if record else ():
        value, was = record.get(name), data.get(name)
        if was is not None and (value is None or Decimal(str(value)) != Decimal(str(was))):
            yield name


_SPECIAL = ("record", "errors", "warnings", "requirement", "note", "note_code", "altered", "receipt_hash", "said")
"""What is NULL of a record that was promoted or flagged just as it was sent, as nearly every one is."""


_special = itemgetter(*_SPECIAL)
_NOTHING = (None,) * len(_SPECIAL)


def _as_sent(row: Mapping[str, Any]) -> bool:
    return bool(_special(row) == _NOTHING)


def _answer(entity: Entity, sent: Judged, row: Mapping[str, Any]) -> Answer:
    if row["state"] == State.APPLIED and not row["swallowed"] and _as_sent(row):
        verdict, flagged = sent.verdict, sent.action is Action.FLAG
        return Answer(
            sent.key, State.APPLIED, Outcome(row["outcome"]), sent.merged.data, verdict.errors if flagged else {},
            verdict.warnings, verdict.reason_code if flagged else None, sent.merged.conflicts, None, None, row["at"],
            row["hash"], Receipt(row["receipt_id"], sent.claimed.delivery_hash) if row["receipt_id"] else None,
        )  # fmt: skip
    note, state = row["note"], State(row["state"])
    if row["requirement"] is not None:
        note = entity.requirements[row["requirement"]].note.format(key=row["waits_for"], about=row["about"])
    merged, verdict = sent.merged, sent.verdict
    if row["swallowed"]:  # only a rehearsal comes so far: the ledger refuses it
        return Answer(
            sent.key, state, Outcome.FLAGGED, None, {"record": SWALLOWED_WORDS}, {}, None, (), None, None, None
        )
    applied, flagged = state is State.APPLIED, sent.action is Action.FLAG
    errors, warnings, reason_code = dict(verdict.errors), dict(verdict.warnings), verdict.reason_code
    if said := row["said"]:  # a duplicate: the master has it under another key
        flagged = row["outcome"] == Outcome.FLAGGED
        errors, reason_code = said, row["code"]
        warnings = _with_alike(warnings, said, held=flagged)
    return Answer(
        key=sent.key,
        state=state,
        outcome=Outcome(row["outcome"]) if row["outcome"] else None,
        record=merged.data if applied and row["record"] is None else row["record"],
        errors=((said or row["errors"] or errors) if flagged else {}) if applied else row["errors"] or {},
        warnings=warnings if applied and (said or row["warnings"] is None) else row["warnings"] or {},
        reason_code=reason_code if applied and flagged else None,
        conflicts=merged.conflicts if applied else tuple(Conflict(**one) for one in row["conflicts"] or ()),
        waits_for=row["waits_for"],
        note=note,
        at=row["at"],
        hash=row["hash"],
        receipt=Receipt(row["receipt_id"], row["receipt_hash"] or sent.claimed.delivery_hash)
        if row["receipt_id"]
        else None,
        in_master=bool(row["in_master"]),
        promoted_before=row["promoted_before"],
        altered=(*_rounded(entity, sent, row), *(row["altered"] or ())) if applied else (),
        kept=row["note_code"] == NoteCode.KEPT,
        sent=Sent(row["sent"], row["row_version"], row["enriched_at"], row["enriched_fields"] or (), row["sent_id"])
        if row["sent"]
        else None,
    )
