"""The slot that a record takes: a row of another table whose role its title names. SQL over ``r``, the record."""

from __future__ import annotations

from worker.domain.model import Requirement
from worker.entities.file_format import Slot
from worker.entities.names import in_sql, literal
from worker.entities.worker_tables import Table


def quoted(table: Table) -> str:
    """A table's name as SQL writes it."""
    return f"{in_sql(table.schema)}.{in_sql(table.name)}"


def slot_sql(slot: Slot) -> str:
    """The key of the slot: of the role that the title names, else of type ``default``, else the only one without a
    role. NULL if none fits: a record is never put into a slot of another role.
    """
    # OFFSET 0: each role is found once. Either column may carry a slot's role; read together, two could make a third.
    named = ", ".join(_role(slot, f"translate(s.{in_sql(name)}, '_-', '  ')", of_slot=True) for name in slot.named_by)
    default = " OR ".join(f"lower(s.{in_sql(name)}) = 'default'" for name in slot.named_by[:1])
    since = f"s.{in_sql(slot.since)}" if slot.since else "NULL::timestamptz"
    return f"""(
  SELECT c.slot
  FROM (SELECT o.*, count(*) FILTER (WHERE o.named IS NULL) OVER () AS nameless FROM (
      SELECT s.{in_sql(slot.key)} AS slot, {default} AS by_default, {since} AS since,
        coalesce({named}) AS named
      FROM {quoted(slot.table)} s WHERE s.{in_sql(slot.owner)} = r.{in_sql(slot.owner)} OFFSET 0) o OFFSET 0) c
    CROSS JOIN (SELECT {_role(slot, f"r.{in_sql(slot.title)}")} AS wanted OFFSET 0) t
  WHERE c.named = t.wanted OR c.named IS NULL AND (c.by_default OR c.nameless = 1)
  ORDER BY (c.named = t.wanted) DESC NULLS LAST, c.by_default DESC NULLS LAST, c.since, c.slot
  LIMIT 1
)"""  # noqa: S608 - made of checked names and quoted literals


def slot_requirements(slot: Slot, singular: str, plural: str, new: str, possible: str) -> tuple[Requirement, ...]:
    """What a record waits for until it has a slot.

    Args:
        slot: as declared.
        singular: what the record is called in a sentence.
        plural: what several are called.
        new: SQL: whether the record is not in the master yet; one that is keeps its slot.
        possible: SQL: whether there may be an owner.
    """
    owner = f"r.{in_sql(slot.owner)}"
    there_is_none = f"NOT EXISTS (SELECT FROM {quoted(slot.table)} s WHERE s.{in_sql(slot.owner)} = {owner})"
    owner_is, title, several = (
        text.replace("{", "{{").replace("}", "}}") for text in (slot.owner_is, slot.title, plural)
    )
    waiting = f"Waiting: {owner_is} {{key}} has no slot for"
    return (
        Requirement(
            waits_for=f"{owner}::text",
            unmet=f"{possible} AND {there_is_none} AND {new}",
            note=f"{waiting} {several} yet. The record goes on by itself when it has.",
        ),
        Requirement(
            waits_for=f"{owner}::text",
            unmet=f"{possible} AND {slot_sql(slot)} IS NULL AND {new}",
            about=_title_and_slots(slot, singular),
            note=(
                f"{waiting} {{about}}. Correct the {title}, or wait: the record goes on by itself when there is a"
                " slot for it."
            ),
        ),
    )


def _role(slot: Slot, text: str, *, of_slot: bool = False) -> str:
    """The role that a text names."""
    whens = [
        f"WHEN {text} ~* {literal(words)} THEN {literal(role.name)}"
        for role in slot.roles
        if (words := "|".join((*role.titles, *role.slots) if of_slot else role.titles).replace(" ", r"\s+"))
    ]
    return f"CASE {' '.join(whens)} END" if whens else "NULL::text"


def _title_and_slots(slot: Slot, singular: str) -> str:
    """In words: the title, and the slots that there are."""
    title = f"r.{in_sql(slot.title)}"
    label = slot.named_by[-1]
    names = [f"CASE WHEN s.{in_sql(label)} <> 'Primary Slot' THEN s.{in_sql(label)} END"]
    names += [f"s.{in_sql(name)}" for name in slot.named_by]
    return f"""concat(
  CASE WHEN nullif({title}, '') IS NULL THEN {literal(f"a {singular} without a {slot.title}")}
    ELSE concat({literal(f'the {slot.title} "')}, left({title}, 200), '"') END,
  '; it has ',
  left((
    SELECT string_agg(DISTINCT left(coalesce({", ".join(names)}, 'one without a name'), 60), ', ')
    FROM {quoted(slot.table)} s WHERE s.{in_sql(slot.owner)} = r.{in_sql(slot.owner)}), 500))"""  # noqa: S608
