"""Neon: what can be settled of a batch that was refused as a whole. Knows no rules."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from worker.catalogue import SWALLOWED, Refusal
from worker.database import COMMIT, Connection, begin, send
from worker.faults import NOBODYS
from worker.model import Answer, Delivery, Receipt
from worker.neon import Run
from worker.receipts import moment
from worker.settlement import PLANNER, Settlement, answers_of, locks, parameters

APART_SECONDS = 20.0
# Settles a batch by halves, each in a subtransaction, until every refused record stands alone: its cost
# grows with the number of refused records. One round trip, however many there are.
_APART = """
CREATE OR REPLACE FUNCTION pg_temp.enrichment_settle(the_records jsonb, the_again boolean DEFAULT false)
RETURNS SETOF jsonb
LANGUAGE plpgsql AS $enrichment$
#variable_conflict use_column
DECLARE
  the_half int := jsonb_array_length(the_records) / 2;
  the_answer record; the_answers jsonb[] := '{}'; the_part jsonb;
  the_code text; the_message text; the_constraint text; the_schema text; the_table text; the_column text;
BEGIN
  BEGIN
    FOR the_answer IN %(settle)s LOOP
      the_answers := array_append(the_answers, to_jsonb(the_answer));
    END LOOP;
    RETURN QUERY SELECT unnest(the_answers);
    RETURN;
  EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS the_code = RETURNED_SQLSTATE, the_message = MESSAGE_TEXT,
      the_constraint = CONSTRAINT_NAME, the_schema = SCHEMA_NAME, the_table = TABLE_NAME, the_column = COLUMN_NAME;
    -- What is no record's fault is everybody's.
    IF left(the_code, 2) = ANY (ARRAY[%(nobodys)s]) THEN
      RAISE;
    END IF;
  END;
  -- A master row that came in that very moment is seen by the next look.
  IF the_half = 0 AND the_constraint = %(swallowed)s AND NOT the_again THEN
    RETURN QUERY SELECT * FROM pg_temp.enrichment_settle(the_records, true);
    RETURN;
  END IF;
  IF the_half = 0 THEN
    RETURN NEXT jsonb_build_object('key', the_records -> 0 ->> 'key', 'refused', jsonb_build_object(
      'sqlstate', the_code, 'message', the_message, 'constraint', nullif(the_constraint, ''),
      'schema', nullif(the_schema, ''), 'table', nullif(the_table, ''), 'column', nullif(the_column, '')));
    RETURN;
  END IF;
  FOREACH the_part IN ARRAY ARRAY[
    (SELECT jsonb_agg(r ORDER BY n) FROM jsonb_array_elements(the_records) WITH ORDINALITY x (r, n)
      WHERE n <= the_half),
    (SELECT jsonb_agg(r ORDER BY n) FROM jsonb_array_elements(the_records) WITH ORDINALITY x (r, n)
      WHERE n > the_half)]
  LOOP
    RETURN QUERY SELECT * FROM pg_temp.enrichment_settle(the_part);
  END LOOP;
END $enrichment$
"""


async def settle_apart(
    connection: Connection, how: Settlement, deliveries: Sequence[Delivery], run: Run, known: Receipt | None = None
) -> tuple[dict[str, Answer], dict[str, Refusal]]:
    """Settle what can be settled of a batch that was refused as a whole.

    Returns:
        The answers, and for each record that the database refuses by itself, why; by key.

    Raises:
        Restored, psycopg.Error: as :func:`settle`.
    """
    params = parameters(how, deliveries, run, known)
    records = params.pop("records")
    literals = {name: sql.Literal(value).as_string(connection) for name, value in params.items()}
    statement = how.settle.as_string(connection) % {**literals, "records": "the_records"}
    nobodys = ", ".join(sql.Literal(code).as_string(connection) for code in NOBODYS)
    swallowed = sql.Literal(SWALLOWED).as_string(connection)
    function = sql.SQL(_APART % {"settle": statement, "nobodys": nobodys, "swallowed": swallowed})
    call = sql.SQL("SELECT * FROM pg_temp.enrichment_settle(%(records)s) AS answer")
    results = await send(
        connection,
        # Parts of a batch come back often.
        *begin(statement=APART_SECONDS, planner=PLANNER, planned_once=True),
        *locks(how, deliveries),
        (function, None),
        (call, {"records": records}),
        (sql.SQL("DROP FUNCTION pg_temp.enrichment_settle(jsonb, boolean)"), None),
        COMMIT,
        seconds=APART_SECONDS + 5.0,
    )
    rows = [row["answer"] for row in results[-3].fetchall()]
    refused = {row["key"]: Refusal(**row["refused"]) for row in rows if "refused" in row}
    answered = (
        row | {"at": moment(row["at"]), "row_version": moment(row["row_version"])}
        for row in rows
        if "refused" not in row
    )
    return answers_of(how.entity, deliveries, answered), refused
