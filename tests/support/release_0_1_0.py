"""What release 0.1.0 left behind: a dump of both databases with rows in every state that it stored, and the release itself.

``dump_release_0_1_0.py`` makes the dump. Each record has a name here, for what had become of it.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import psycopg
from records import Connection, company, person

ROOT = Path(__file__).parent.parent.parent
COMMIT = "ed90148"
"""The commit of release 0.1.0."""
DATA = ROOT / "tests" / "data" / "release_0_1_0"

COMPANIES = {
    # -- not carried yet
    "pending": "as it was pulled",
    "noted": "pending, with an enricher's notes",
    "in_progress": "an enricher works on it",
    "queued": "set to complete, with the worker stopped",
    "queued_bad": "the same, and it will not pass",
    "corrected": "an enricher works on it, and Neon has corrected another field since the last pull",
    "merged_neon": "a pull settled a conflict: Neon's value was the newer",
    "merged_enricher": "a pull settled a conflict: the enricher's value was the newer",
    # -- flagged
    "flagged": "did not pass",
    "flagged_again": "did not pass twice",
    "flagged_edited": "did not pass; an enricher works on it",
    "flagged_queued": "did not pass, is repaired and queued",
    "flagged_corrected": "did not pass; Neon has corrected it since the last pull",
    "flagged_conflict": "did not pass, and Neon's newer value won over the enricher's",
    "refused": "the master's CHECK refused it",
    "refused_length": "too long for the master's column",
    "refused_unique": "the master has another record with its website",
    "refused_reference": "the master's foreign key refused it",
    "refused_trigger": "a trigger of the master refused it, in words",
    "swallowed": "a trigger of the master refused it, without a word",
    "referred_to": "another table refers to the invalid row",
    "kept": "its values fit neither of Neon's tables",
    "kept_revalidated": "the same, and revalidate has judged what Neon holds",
    "stuck": "the invalid table does not even take the flag",
    "crashed": "the rules could not judge it",
    # -- promoted
    "promoted": "has no slot for people",
    "employer": "has a slot for people",
    "promoted_over": "the master had it before",
    "promoted_tidied": "its values were normalised",
    "promoted_unfit": "its normalised values do not fit the workspace's own CHECK",
    "promoted_neon_won": "promoted with a conflict that Neon won",
    "promoted_enricher_won": "promoted with a conflict that the enricher won",
    "promoted_edited": "edited after its promotion, and told that this is not carried",
    "promoted_edited_queued": "edited after its promotion, and queued",
    "promoted_in_progress": "taken back after its promotion",
    "promoted_pruned": "retention has removed its ledger rows",
    "promoted_pruned_queued": "the same, and edited since and queued",
    # -- taken back by undo
    "undone": "told",
    "undone_over": "the master row is as it was before",
    "undone_edited": "an enricher works on it again",
    "undone_again": "promoted once more",
    "undone_untold": "undo was killed before it told the row",
    # -- turned invalid again
    "invalid_again": "pulled",
    "invalid_again_queued": "pulled, completed and queued",
    "invalid_again_unpulled": "inserted since the last pull",
    # -- left Neon's invalid table by another way
    "withdrawn": "untouched: removed from the workspace",
    "withdrawn_back": "withdrawn, imported into the workspace by hand, and told why it was gone",
    "left": "an enricher works on it, and is told",
    "left_back": "the same, and it is in Neon again since the last pull",
    "gone": "completed after it had left, and told",
    "gone_back": "the same, and it is in Neon again since the last pull",
    "never_pulled": "a row added by hand, completed",
    "deleted": "untouched, since the last pull",
    "deleted_edited": "an enricher works on it; since the last pull",
    "deleted_queued": "queued; since the last pull",
    # -- by the stages
    "pushed": "waits for re-validation",
    "pushed_bad": "the same, and it will not pass",
    "pushed_conflict": "the same, and Neon's newer value won over the enricher's",
    "pushed_in_progress": "taken back, with newer values",
    "pushed_pending": "taken back, without any",
    "pushed_deleted": "its record was deleted since",
    "pushed_untold": "push was killed before it told the row",
    "revalidated": "found still invalid",
    "revalidated_untold": "revalidate was killed before it told the row",
    "stage_promoted": "by promote",
    "stage_promoted_untold": "promote was killed before it told the row",
    # -- settled by a worker that was killed before it told the row
    "promoted_untold": "and queued as it was",
    "flagged_untold": "and queued as it was",
    "promoted_untold_edited": "edited since, and queued",
    "flagged_untold_edited": "repaired since, and queued",
    "promoted_untold_in_progress": "taken back since, with newer values",
    "flagged_untold_in_progress": "taken back since, with newer values",
    "undone_of_untold": "and its promotion was taken back",
}
"""Companies by name: what has become of them."""

PEOPLE = {
    "pending": "as it was pulled",
    "in_progress": "an enricher works on it",
    "queued": "set to complete, with the worker stopped",
    "flagged": "did not pass",
    "one_word": "has no last name, which the master needs",
    "no_company": "leads to no slot: its company is no key at all",
    "promoted": "with a phone that the master's column takes",
    "promoted_extension": "with a phone that the master's column does not take",
    "undone": "its promotion was taken back",
    "waits_company": "its company is not in the master",
    "waits_slot": "its company has no slot",
    "waits_queued": "its company is queued, and has a slot",
    "waits_came": "its company came into the master by another way since",
    "waits_edited": "edited while it waited, and queued again",
    "waits_corrected": "corrected in Neon while it waited",
    "waits_deleted": "its record was deleted while it waited",
    "waits_untold": "the worker was killed before it told the row",
    "promoted_untold": "the worker was killed before it told the row",
    "released": "queued again: its company was promoted",
    "pushed": "waits for re-validation",
    "pushed_waits": "carried by push, and promote found that its company is not there",
    "pushed_released": "the same, and then its company was promoted",
}
"""People by name: what has become of them."""


def number_of(name: str) -> int:
    """The number of a company."""
    return list(COMPANIES).index(name) + 1


def co(name: str) -> str:
    """The key of a company."""
    return company(number_of(name))


def pe(name: str) -> str:
    """The key of a person."""
    return person(list(PEOPLE).index(name) + 1)


def load(connection: Connection, side: str) -> None:
    """Load the dump of ``Neon`` or ``Supabase`` into an empty database."""
    connection.execute((DATA / f"{side.lower()}.sql").read_text(encoding="utf-8"))
    # The dump's text leaves the session without a search path.
    connection.execute("RESET ALL")


def checkout(folder: Path, *parts: str) -> bool:
    """Put the source of release 0.1.0 into a folder, or other parts of it; tell whether this checkout's history has it."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", COMMIT, *(parts or ("worker", "sql"))], capture_output=True, check=False
    )
    if archive.returncode:
        return False
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as source:
        # Python 3.11.3 and earlier know no filters; the archive is git's own.
        source.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return True


def start(
    folder: Path, *command: str, environment: dict[str, str], path: str = "", **options: Any
) -> subprocess.Popen[str]:
    """Start a command of release 0.1.0.

    Args:
        folder: where its source is.
        command: such as ``run``.
        environment: its settings.
        path: what Python looks into for modules before the source.
        options: see :class:`subprocess.Popen`.
    """
    outside = {n: v for n, v in os.environ.items() if not n.startswith(("WORKER_", "NEON_", "SUPABASE_", "N8N_", "PG"))}
    paths = os.pathsep.join(filter(None, [path, str(folder)]))
    return subprocess.Popen(
        [sys.executable, "-m", "worker", *command], cwd=folder, text=True,
        env={**outside, **environment, "PYTHONPATH": paths}, **options,
    )  # fmt: skip


def connect(url: str) -> Connection:
    """A connection as the tests have it."""
    return psycopg.connect(url, autocommit=True, row_factory=psycopg.rows.dict_row, options="-c TimeZone=UTC")
