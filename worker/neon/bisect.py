"""Neon: what can be settled of a batch that was refused as a whole. Knows no rules."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from worker.domain.model import Answer, Judged, Receipt, moment
from worker.neon.catalogue import SWALLOWED, Refusal
from worker.neon.invalid import Run
from worker.neon.settle import PLANNER, Settlement, answers_of, locks, parameters
from worker.postgres.connection import Connection
from worker.postgres.errors import LOCKED, TRANSIENT_CLASSES, TRANSIENT_CODES
from worker.postgres.transaction import begin, transact

APART_SECONDS = 20.0
HELD_SECONDS = 0.05
"""How long each part waits for a lock."""
MOST_WAITS = 64
"""Locks that are waited for; what is left then counts as held."""
# Settles a batch part by part, each in a subtransaction, until every record stands alone that is refused or held: its
# cost grows with the number of these. One round trip, however many there are. No function is made for it: DDL may be
# forbidden. What DO is given, and what it says, are settings of the transaction.
_APART = """
DO $enrichment$
#variable_conflict use_column
DECLARE
  the_all jsonb[] := ARRAY(SELECT jsonb_array_elements(current_setting('enrichment_worker.records')::jsonb));
  the_from int[] := ARRAY[1]; the_to int[] := ARRAY[cardinality(the_all)];
  the_first int; the_last int; the_size int; the_step int; the_again int := 0; the_waits int := 0;
  the_records jsonb; the_answer record; the_part jsonb[]; the_answers jsonb[] := '{}';
  the_code text; the_message text; the_constraint text; the_schema text; the_table text; the_column text;
BEGIN
  WHILE cardinality(the_from) > 0 LOOP
    the_first := the_from[1]; the_last := the_to[1]; the_size := the_last - the_first + 1;
    the_from := the_from[2:]; the_to := the_to[2:];
    IF the_waits > %(most_waits)s THEN
      the_answers := the_answers || ARRAY(SELECT jsonb_build_object('key', r ->> 'key', 'refused', jsonb_build_object(
        'sqlstate', %(locked)s, 'message', 'not waited for')) FROM unnest(the_all[the_first:the_last]) r);
      CONTINUE;
    END IF;
    the_records := to_jsonb(the_all[the_first:the_last]);
    BEGIN
      the_part := '{}';
      FOR the_answer IN %(settle)s LOOP
        the_part := array_append(the_part, to_jsonb(the_answer));
      END LOOP;
      the_answers := the_answers || the_part;
      CONTINUE;
    EXCEPTION WHEN OTHERS THEN
      GET STACKED DIAGNOSTICS the_code = RETURNED_SQLSTATE, the_message = MESSAGE_TEXT,
        the_constraint = CONSTRAINT_NAME, the_schema = SCHEMA_NAME, the_table = TABLE_NAME, the_column = COLUMN_NAME;
      -- What passes by itself is everybody's, but for somebody's lock.
      IF the_code <> %(locked)s AND (left(the_code, 2) = ANY (ARRAY[%(classes)s])
          OR the_code = ANY (ARRAY[%(codes)s])) THEN
        RAISE;
      END IF;
    END;
    the_waits := the_waits + (the_code = %(locked)s)::int;
    IF the_size > 1 THEN
      -- Each lock costs its wait on every level: fewer levels for them.
      the_step := greatest(1, ceil(the_size / CASE WHEN the_code = %(locked)s THEN 16.0 ELSE 2.0 END)::int);
      FOR the_start IN REVERSE the_first + (the_size - 1) / the_step * the_step .. the_first BY the_step LOOP
        the_from := the_start || the_from;
        the_to := least(the_start + the_step - 1, the_last) || the_to;
      END LOOP;
    ELSIF the_constraint = %(swallowed)s AND the_again <> the_first THEN
      -- A master row that came in that very moment is seen by the next look.
      the_again := the_first;
      the_from := the_first || the_from; the_to := the_last || the_to;
    ELSE
      the_answers := array_append(the_answers, jsonb_build_object('key', the_all[the_first] ->> 'key', 'refused',
        jsonb_build_object('sqlstate', the_code, 'message', the_message, 'constraint', nullif(the_constraint, ''),
          'schema', nullif(the_schema, ''), 'table', nullif(the_table, ''), 'column', nullif(the_column, ''))));
    END IF;
  END LOOP;
  PERFORM set_config('enrichment_worker.answers', to_jsonb(the_answers)::text, true);
END $enrichment$
"""
_GIVE = sql.SQL("SELECT set_config('enrichment_worker.records', %(records)s::jsonb::text, true)")
_TAKE = sql.SQL("SELECT jsonb_array_elements(current_setting('enrichment_worker.answers')::jsonb) AS answer")


async def settle_by_bisection(
    connection: Connection, how: Settlement, batch: Sequence[Judged], run: Run, known: Receipt | None = None
) -> tuple[dict[str, Answer], dict[str, Refusal]]:
    """Settle what can be settled of a batch that was refused as a whole.

    Returns:
        The answers, and for each record that the database refuses by itself, why; by key. One that somebody's lock
        stands in the way of has the SQLSTATE ``55P03``.

    Raises:
        Restored, psycopg.Error: as :func:`settle`.
    """
    params = parameters(how, batch, run, known)
    records = params.pop("records")
    literals = {name: sql.Literal(value).as_string(connection) for name, value in params.items()}
    words = {
        "settle": how.settle.as_string(connection) % {**literals, "records": "the_records"},
        "classes": ", ".join(map(_quoted, TRANSIENT_CLASSES)),
        "codes": ", ".join(map(_quoted, TRANSIENT_CODES)),
        "locked": _quoted(LOCKED),
        "swallowed": _quoted(SWALLOWED),
        "most_waits": MOST_WAITS,
    }
    *_, taken = await transact(
        connection,
        *locks(how, batch),
        (_GIVE, {"records": records}),
        (sql.SQL(_APART % words), None),
        (_TAKE, None),
        # Parts of a batch come back often.
        opening=begin(statement=APART_SECONDS, lock=HELD_SECONDS, planner=PLANNER, planned_once=True),
        seconds=APART_SECONDS + 5.0,
    )
    rows = [row["answer"] for row in taken.fetchall()]
    refused = {row["key"]: Refusal(**row["refused"]) for row in rows if "refused" in row}
    answered = (
        row | {name: moment(row[name]) for name in ("at", "row_version", "enriched_at")}
        for row in rows
        if "refused" not in row
    )
    return answers_of(how.entity, batch, answered), refused


def _quoted(text: str) -> str:
    return f"'{text}'"
