"""Neon: check that a record is as its promotion left it, and restore it as it was before. Knows no rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from worker.entities.declaration import Entity, key_sql
from worker.entities.worker_tables import LEDGER, LOG
from worker.neon import catalogue
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.postgres.transaction import COMMIT, Step, begin, send

REMOVED, AS_IT_WAS = "the master row is removed", "the master row is as it was"


class Refused(Exception):
    """A promotion cannot be undone. The text is one line."""


@dataclass(frozen=True)
class PromotedRecord:
    """What Neon has for a promoted record."""

    master: dict[str, Any] | None
    written_in: str
    """The transaction that wrote the master row last."""
    leaf: int
    """The table that holds the row: in a partitioned master, the partition."""
    ctid: str
    partitioned: bool
    invalid: bool
    """Whether it is in the invalid table again."""


_BY_NO_PROMOTION = statement("worker.neon", "changed_by_no_promotion").format(ledger=LEDGER.sql, log=LOG.sql)


@dataclass(frozen=True, slots=True)
class Reversal:
    """Undoes one promotion, in one transaction: :meth:`read`, :meth:`check_unchanged`, :meth:`restore`."""

    connection: Connection
    """To Neon."""
    entity: Entity
    entry: Mapping[str, Any]
    """The promotion's ledger row."""

    async def read(self, *, dry_run: bool) -> PromotedRecord:
        """Open a transaction and read the record. Unless it is a dry run, lock its master row until the end.

        Raises:
            psycopg.Error: it could not be read.
        """
        entity, connection, key = self.entity, self.connection, self.entry["key"]
        table, names = entity.master_table, {"table": entity.master_table.sql, **key_sql(entity)}
        lock = [
            # So that no foreign key is added, and no row starts to reference this one.
            (sql.SQL("LOCK TABLE {table} IN ROW EXCLUSIVE MODE").format(**names), None),
            (sql.SQL("SELECT FROM {table} WHERE {key} = %(key)s{key_cast} FOR UPDATE").format(**names), {"key": key}),
        ]
        seen_now = sql.SQL(
            "SELECT to_jsonb(m.*) AS master, m.xmin::text AS written_in, m.tableoid::bigint AS leaf,"
            " m.ctid::text AS ctid, (SELECT relkind = 'p' FROM pg_class WHERE oid = %(table)s::regclass) AS partitioned"
            " FROM {table} m WHERE {key} = %(key)s{key_cast}"
        ).format(**names)
        invalid = sql.SQL("SELECT 1 AS there FROM {invalid} WHERE {key} = %(key)s{key_cast}").format(
            invalid=entity.invalid_table.sql, **key_sql(entity)
        )
        steps: list[Step] = [
            *begin(read_only=dry_run, repeatable=dry_run),
            *([] if dry_run else lock),
            (seen_now, {"key": key, "table": table.sql.as_string(connection)}),
            (invalid, {"key": key}),
        ]
        *_, now, again = await send(connection, *steps)
        row = now.fetchone() or {"master": None, "written_in": "", "leaf": 0, "ctid": "", "partitioned": False}
        return PromotedRecord(**row, invalid=again.fetchone() is not None)

    async def check_unchanged(self, now: PromotedRecord) -> Mapping[str, Any]:
        """Make sure that the record is as the promotion left it, within the transaction that is open.

        Returns:
            The master row.

        Raises:
            Refused: it is not; the text names the difference.
        """
        if now.master is None:
            raise Refused("it is not in the master table any more")
        if now.invalid:
            raise Refused("it is in the invalid table again")
        row, after = now.master, self.entry["master_after"]
        dropped = [name for name in after if name not in row]
        changed = [name for name in row if row[name] != after.get(name)]
        if dropped and self.entry["master_before"]:
            raise Refused(f"its master row has changed since: the table has no {', '.join(dropped[:5])} any more")
        if changed and not await self._wrote_both(now):
            raise Refused(f"its master row has changed since: {_differences(changed, after, row)}")
        return row

    async def _wrote_both(self, now: PromotedRecord) -> bool:
        """Whether the promotion's own transaction was the last to write the master row: it wrote the ledger row, too.
        Then the differences come from the master's own triggers, or from a column that was added later. A trigger that
        catches errors writes in a subtransaction, which cannot be distinguished from another transaction.
        """
        connection, entry = self.connection, self.entry
        if entry["written_in"] != now.written_in:
            return False
        tables = {
            "ledger": LEDGER.sql.as_string(connection),
            "master": self.entity.master_table.sql.as_string(connection),
        }
        params = {**tables, "id": entry["id"], "run": entry["run_id"], "written_in": now.written_in}
        row = (await send(connection, (_BY_NO_PROMOTION, params)))[0].fetchone()
        return row is not None and not row["found"]

    async def restore(self, run_id: str) -> str:
        """Restore the master and invalid rows, book it, and commit.

        Returns:
            What became of the master row.

        Raises:
            Refused: a trigger prevents it.
        """
        entity, connection, entry = self.entity, self.connection, self.entry
        back, again, seen_now = await self._steps()
        immediate: Step = (sql.SQL("SET CONSTRAINTS ALL IMMEDIATE"), None)
        moved, placed, _, seen = await send(connection, back, again, immediate, seen_now)
        returned, before = placed.fetchone(), entry["master_before"]
        if moved.rowcount < 1 or (seen.fetchone() is None) is bool(before):
            raise Refused(f"a trigger or a rule of {entity.master_table} does not let its row go back")
        if not returned or not returned["rows"]:
            raise Refused(f"a trigger or a rule of {entity.invalid_table} does not let its row in")
        book = sql.SQL(
            "INSERT INTO {ledger} (run_id, entity, key, outcome, delivery_hash, invalid_before, master_before,"
            " master_after, record, note, enriched_by, enriched_at, enriched_fields)"
            " SELECT %(run)s, entity, key, 'undone', md5('undo|' || id), NULL, master_after, master_before, record,"
            " 'took back ' || run_id, enriched_by, enriched_at, enriched_fields FROM {ledger} WHERE id = %(id)s"
        ).format(ledger=LEDGER.sql)
        _, seen, _ = await send(connection, (book, {"run": run_id, "id": entry["id"]}), seen_now, COMMIT)
        row = seen.fetchone()
        if row is None:
            return REMOVED
        now = row["row"]
        other = [name for name in before if name in now and now[name] != before[name]]
        return AS_IT_WAS + (f", but for its own triggers: {_differences(other, before, now)}" if other else "")

    async def _steps(self) -> tuple[Step, Step, Step]:
        """The steps that restore the master row and the invalid row, and one that reads the master row afterwards."""
        entity, connection, entry = self.entity, self.connection, self.entry
        # From the ledger itself: a number that passed through Python would have lost its last digits.
        params = {"key": entry["key"], "id": entry["id"]}
        if entry["master_before"]:
            # A column that was added since then is left alone.
            columns = [
                c.name
                for c in await catalogue.columns(connection, entity.master_table)
                if c.writable and c.name in entry["master_before"]
            ]
            listed = sql.SQL(", ").join(map(sql.Identifier, columns))
            back = sql.SQL(
                "UPDATE {table} m SET ({columns}) = (SELECT {columns} FROM jsonb_populate_record("
                "NULL::{table}, (SELECT master_before FROM {ledger} WHERE id = %(id)s)))"
                " WHERE m.{key} = %(key)s{key_cast}"
            ).format(table=entity.master_table.sql, columns=listed, ledger=LEDGER.sql, **key_sql(entity))
        else:
            back = sql.SQL("DELETE FROM {table} WHERE {key} = %(key)s{key_cast}").format(
                table=entity.master_table.sql, **key_sql(entity)
            )
        columns = [c.name for c in await catalogue.columns(connection, entity.invalid_table) if c.writable]
        # Otherwise the next pull would judge and promote a record that the stages had pushed.
        values = sql.SQL(", ").join(
            sql.SQL("CASE WHEN r.enrichment_status = 'complete' AND r.still_invalid IS NOT TRUE THEN 'pending'"
                    " ELSE r.enrichment_status END")
            if name == "enrichment_status" else sql.Identifier("r", name)
            for name in columns
        )  # fmt: skip
        again = sql.SQL(
            "WITH again AS (INSERT INTO {table} ({columns}) SELECT {values} FROM {ledger} l"
            " CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, l.invalid_before) r WHERE l.id = %(id)s"
            " RETURNING 1) SELECT count(*) AS rows FROM again"
        ).format(
            table=entity.invalid_table.sql,
            columns=sql.SQL(", ").join(map(sql.Identifier, columns)),
            values=values,
            ledger=LEDGER.sql,
        )
        seen_now = sql.SQL("SELECT to_jsonb(m.*) AS row FROM {table} m WHERE {key} = %(key)s{key_cast}").format(
            table=entity.master_table.sql, **key_sql(entity)
        )
        return (back, params), (again, params), (seen_now, {"key": entry["key"]})


def _differences(names: Iterable[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return "; ".join(f"{name} was {before.get(name)!r} and is {now.get(name)!r}" for name in list(names)[:5])
