"""What Supabase's REST API shows to anybody on the internet: queried as a stranger would, table by table.

Only a refusal by the API or the database itself proves anything. A rejected key, a wrong address, or an error on the
way is no refusal: then the query did not arrive.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any

import psycopg
from anyio import to_thread
from psycopg import sql

from worker.domain.findings import Finding, ok, problem, warning
from worker.entities.declaration import Entity
from worker.entities.worker_tables import FAILURES, OUTBOX, PAUSED, POSITION
from worker.postgres.connection import Connection
from worker.postgres.statements import statement
from worker.settings import Settings

CHECK = "public API"
VIEW = "needs_attention"
SECONDS = 10
LONGEST = 1_000_000
"""At most this many bytes of an answer are read."""
NOT_SERVED = ("PGRST106", "PGRST205")
"""PostgREST's codes for a schema or a table that it does not serve."""
BAD_TOKEN = ("PGRST300", "PGRST301", "PGRST302", "PGRST303")


class Shown(Enum):
    """What a table's answer means."""

    HIDDEN = "hidden"
    EMPTY = "empty"
    """A list without rows."""
    ROWS = "rows"
    UNPROVED = "unproved"


@dataclass(frozen=True)
class Answer:
    """The result of querying a table."""

    shown: Shown
    why: str = ""
    hint: str = ""


@dataclass(frozen=True)
class TableFacts:
    """What the database says about a table that strangers could query."""

    rows: bool
    """Whether it has any."""
    closed: bool
    """Whether row level security hides all rows from strangers."""


_TABLES = statement("worker.operate", "shown_tables")


async def read_tables(connection: Connection, entities: Iterable[Entity]) -> dict[str, TableFacts]:
    """The tables and views in ``public`` that ``setup`` creates, as they are in the database.

    Raises:
        psycopg.Error: the query failed.
    """
    cursor = await connection.execute(_TABLES, {"names": _names(entities)})
    found: dict[str, TableFacts] = {}
    closed = True
    for row in await cursor.fetchall():
        some = sql.SQL("SELECT EXISTS (SELECT FROM {}) AS rows").format(sql.Identifier("public", row["name"]))
        one = None
        with suppress(psycopg.errors.InsufficientPrivilege):  # then it is unknown, which counts as no rows
            cursor = await connection.execute(some)
            one = await cursor.fetchone()
        closed &= row["view"] or row["closed"]
        found[row["name"]] = TableFacts(bool(one and one["rows"]), closed if row["view"] else row["closed"])
    return found


def _names(entities: Iterable[Entity]) -> list[str]:
    """The API serves the schema ``public``."""
    workspaces = [entity.workspace_table for entity in entities]
    own = [table.name for table in (POSITION, OUTBOX, PAUSED, FAILURES)]
    return [*(table.name for table in workspaces if table.schema == "public"), *own, VIEW]


async def ask(settings: Settings, entities: Iterable[Entity], tables: Mapping[str, TableFacts] | None) -> Finding:
    """Query every table through the API, as anybody on the internet could.

    Args:
        settings: its address and key.
        entities: whose workspace tables.
        tables: what the database has; None if that could not be read.
    """
    url, key = settings.supabase_url, settings.supabase_api_key
    if not (url and key):
        return warning(CHECK, "not tried", "set SUPABASE_URL and SUPABASE_API_KEY (the anon key) to prove it")
    if _role_of(key) == "service_role":
        text = "not tried: SUPABASE_API_KEY is the service key, which sees everything"
        return warning(CHECK, text, "give the anon key instead")
    answers = {}
    for name in tables or _names(entities):
        answer = await to_thread.run_sync(_ask, url, key, name)
        answers[name] = _interpret(answer, tables[name] if tables else None)
    return _found(answers)


def _interpret(answer: Answer, facts: TableFacts | None) -> Answer:
    """What an empty list proves: that rows are hidden, if there are any, or if none could ever be seen."""
    if answer.shown is not Shown.EMPTY:
        return answer
    if facts and (facts.rows or facts.closed):
        return Answer(Shown.HIDDEN)
    why = "it holds no rows that could be shown" if facts else "whether it holds rows is not known"
    hint = "run doctor again when it holds some" if facts else "run doctor again when Supabase can be reached"
    return Answer(Shown.UNPROVED, f"an empty list, and {why}", hint)


def _found(answers: Mapping[str, Answer]) -> Finding:
    open_ = [f"public.{name}" for name, answer in answers.items() if answer.shown is Shown.ROWS]
    if open_:
        hint = (
            "run `enrichment-worker setup`, which closes them to strangers; where a policy of your own lets them in,"
            " it stays: drop or narrow it"
        )
        return problem(CHECK, f"shows {_listed(open_)} to anybody", hint)
    unproved: dict[tuple[str, str], list[str]] = {}
    for name, answer in answers.items():
        if answer.shown is Shown.UNPROVED:
            unproved.setdefault((answer.why, answer.hint), []).append(f"public.{name}")
    if unproved:
        texts = [f"{_listed(names)}: {why}" for (why, _), names in unproved.items()]
        fixes = dict.fromkeys(hint for _, hint in unproved if hint)
        return warning(CHECK, f"not proved that it hides {'; '.join(texts)}", "; ".join(fixes))
    hidden = [f"public.{name}" for name in answers]
    return ok(CHECK, f"shows nobody the workspace: it refuses or hides {_listed(hidden)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _ask(url: str, key: str, table: str) -> Answer:
    address = f"{url.rstrip('/')}/rest/v1/{table}?select=*&limit=1"
    check = "check SUPABASE_URL: it is https://PROJECT.supabase.co, of the same project as SUPABASE_DATABASE_URL"
    try:
        request = urllib.request.Request(address, headers={"apikey": key, "Authorization": f"Bearer {key}"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:  # noqa: S310 - settings allow http(s) only
            status, body = answer.status, answer.read(LONGEST)
    except urllib.error.HTTPError as error:
        body = b""
        with error, suppress(OSError, http.client.HTTPException):
            body = error.read(LONGEST)
        return _refusal(error.code, body, check)
    except (ValueError, UnicodeError):  # the text would quote the key
        return Answer(Shown.UNPROVED, "SUPABASE_API_KEY holds what no header carries", "copy the public key alone")
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        return Answer(Shown.UNPROVED, f"no answer ({reason})", check)
    rows = _json(body)
    if not isinstance(rows, list):
        return Answer(Shown.UNPROVED, f"HTTP {status} with an answer that is not the REST API's", check)
    return Answer(Shown.ROWS if rows else Shown.EMPTY)


def _refusal(status: int, body: bytes, check: str) -> Answer:
    """Whether the database or PostgREST refused: they answer with their own codes."""
    answer = _json(body)
    code = answer.get("code") if isinstance(answer, dict) else None
    if (code == "42501" and status in (401, 403)) or code in NOT_SERVED:
        return Answer(Shown.HIDDEN)
    if code in BAD_TOKEN or (status == 401 and code != "42501"):
        hint = "check SUPABASE_API_KEY: it is the public (publishable) key of the project that SUPABASE_URL names"
        return Answer(Shown.UNPROVED, f"HTTP {status}: SUPABASE_API_KEY is not taken", hint)
    hint = check if status in (301, 302, 307, 308, 403, 404) else "run doctor again when the API answers"
    return Answer(Shown.UNPROVED, f"HTTP {status}, which is no refusal of the database's", hint)


def _json(body: bytes) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


def _role_of(key: str) -> str | None:
    """The role of a Supabase key: a JWT's claim, or the prefix of the new kind of key."""
    if key.startswith("sb_secret_"):
        return "service_role"
    with suppress(ValueError, IndexError, AttributeError):
        part = key.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        return str(claims.get("role"))
    return None
