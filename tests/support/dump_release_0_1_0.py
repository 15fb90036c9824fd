"""Makes the dump of both databases as release 0.1.0 leaves them, with rows in every state that it stored.

How the dump was made, and can be made again, with embedded PostgreSQL 16 (what it writes loads on 16 and on 18):

    python tests/support/dump_release_0_1_0.py

The source of the release comes from git. Its own commands and its own daemon bring the records of
``release_0_1_0.py`` to where they are; they are killed where a row is to be left untold. Moments, run ids and event
ids are those of the day, all else is the same each time. What it stores in words is looked for in the dump.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from psycopg import sql
from psycopg.types.json import Jsonb
from records import (
    Connection,
    add_companies,
    add_master,
    add_people,
    add_slot,
    complete,
    edit,
    insert,
    invalid,
    kind,
    ledger,
    work,
    workspace_of,
)
from release_0_1_0 import COMMIT, COMPANIES, DATA, PEOPLE, checkout, co, connect, number_of, pe, start

from worker.demo.embedded import EmbeddedServer

# Python imports a module of this name by itself where it finds one. `HOLD` is a part of the statement before which the
# process is killed, when so many tasks have come to one.
HOOK = """
import asyncio, os, signal

hold, most = os.environ.get("HOLD"), int(os.environ.get("HOLD_TASKS", "1"))
if hold:
    from worker import database

    honest, held = database.send, []

    async def send(connection, *steps, **options):
        if any(hold in step.as_string(connection) for step, _ in steps):
            held.append(1)
            if len(held) == most:
                os.kill(os.getpid(), signal.SIGKILL)
            await asyncio.sleep(60)
        return await honest(connection, *steps, **options)

    database.send = send

if name := os.environ.get("CRASH_ON"):
    from worker.rules import CompanyRules

    judge = CompanyRules.judge.__func__

    def crash(rules, data):
        if data["company_name"] == name:
            raise RuntimeError("no rule can judge this")
        return judge(rules, data)

    CompanyRules.judge = classmethod(crash)
"""
TELLS = "sync_note = a.note"
"""In the statement that tells rows what became of their records."""
REOPENS = "The promotion was taken back"
"""In the statement by which ``undo`` tells."""

# What a customer's own tables may look like: nothing of it is the worker's.
CUSTOMERS_NEON = """
ALTER TABLE marketing.company_invalid ADD CONSTRAINT company_invalid_zip CHECK (length(zip) <= 10) NOT VALID;
ALTER TABLE marketing.company_master ALTER COLUMN address_city TYPE VARCHAR(40);
CREATE UNIQUE INDEX company_master_website ON marketing.company_master (website_url);
CREATE TABLE marketing.states (code TEXT PRIMARY KEY);
INSERT INTO marketing.states VALUES ('OH'), ('WV');
ALTER TABLE marketing.company_master ADD CONSTRAINT company_master_state
  FOREIGN KEY (address_state) REFERENCES marketing.states;
CREATE TABLE marketing.calls (company TEXT REFERENCES marketing.company_invalid (company_unique_id));
CREATE FUNCTION marketing.look_at_company() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.industry = 'Smuggling' THEN RAISE EXCEPTION 'we do not deal with %', NEW.industry; END IF;
  RETURN CASE NEW.industry WHEN 'Whispering' THEN NULL ELSE NEW END;
END $$;
CREATE TRIGGER look_at_company BEFORE INSERT ON marketing.company_master
  FOR EACH ROW EXECUTE FUNCTION marketing.look_at_company();
"""
CUSTOMERS_SUPABASE = "ALTER TABLE company_needs_enrichment ADD CONSTRAINT website_length CHECK (length(website) <= 30);"

# All that release 0.1.0 writes into rows and into its ledger in words.
SENTENCES = (
    # sync_note
    "Queued: the record is on its way to be checked.",
    "Queued: what the record waited for is there.",
    "Promoted to the master table.",
    "Promoted to the master table. Your change to city was not kept: Neon has a newer value.",
    "Not promoted: website. See validation_errors, repair it, and set complete again.",
    "set complete again. Your change to city was not kept: Neon has a newer value.",
    "Not promoted: record. See validation_errors",
    "Carried to Neon, where it waits for re-validation.",
    "Carried to Neon, where it waits for re-validation. Your change to city was not kept",
    "is not in the master yet. The record goes on by itself when it is.",
    "has no slot for people yet. The record goes on by itself when it has.",
    "This record was promoted on ",
    "Edits after promotion are not carried to the master table; `enrichment-worker undo` brings the record back.",
    "This record is no longer in the invalid table: it was withdrawn on ",
    "(left the invalid table by another way). Nothing was carried; your edit is still here.",
    "it left by another way than this worker, which does not know why. Nothing was carried; your edit is still here.",
    "This record left Neon''s invalid table by another way. Your edit is kept here, but there is nothing to carry it to.",
    "This record turned invalid again after it was promoted: see original_validation_errors.",
    "'Your change to city was not kept: Neon has a newer value.'",
    "The promotion was taken back: check the record, and set complete again.",
    "The values as they were carried do not fit this table: ",
    # the ledger's note
    "'waits for re-validation'",
    "'waits for 04.04.01.",
    "'left the invalid table by another way'",
    "'took back DELIVER-",
    "the enricher''s values are kept in the workspace only",
    "'Neon cannot take this record back: ",
    # validation_errors
    "the rules could not judge this record; tell the operator",
    "REFUSED_BY_MASTER",
    "RULES_CRASHED",
    "the master table refuses this value: its rule is ",
    "the table marketing.company_invalid refuses this value: its rule is ",
    "a value is too long for the master table: ",
    "another record in the master table already has this website",
    "refers to a row that is not in marketing.states",
    "the master table refuses this record: we do not deal with Smuggling",
    "a trigger of the master table does not let this record in, without a reason: tell the operator",
    "the table marketing.calls refers to this record, which keeps it where it is: tell the operator",
    "the master table needs a value for last_name",
    "leads to no company_slot_unique_id, which the master table needs: check this value",
)


class Story:
    """Two servers, both databases, and release 0.1.0 beside them."""

    def __init__(self, folder: Path, neon_url: str, supabase_url: str, neon: Connection, supabase: Connection) -> None:
        self.folder, self.neon, self.supabase, self.supabase_url = folder, neon, supabase, supabase_url
        self.environment = {
            "NEON_DATABASE_URL": neon_url, "SUPABASE_DATABASE_URL": supabase_url, "WORKER_LOG_FORMAT": "json",
            "WORKER_HEALTH_ADDRESS": "127.0.0.1:0", "WORKER_PULL_INTERVAL": "30d",
        }  # fmt: skip

    def command(self, *command: str, status: int = 0, input: str = "", **settings: str) -> None:
        """Run a command of the release to its end; ``HOLD`` kills it."""
        process = start(
            self.folder, *command, environment={**self.environment, **settings}, path=str(self.folder / "hook"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, said = process.communicate(input, timeout=60)
        expected = -signal.SIGKILL if "HOLD" in settings else status
        assert process.returncode == expected, (command, process.returncode, out, said)

    @contextmanager
    def daemon(self, **settings: str) -> Any:
        """Run the daemon until the block ends."""
        process = start(
            self.folder, "run", environment={**self.environment, **settings}, path=str(self.folder / "hook"),
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()

    def deliver(self, **settings: str) -> None:
        """Let the daemon carry all that is queued."""
        with self.daemon(**settings):
            self.until(lambda: not self.queue())

    def queue(self) -> list[str]:
        """What is work."""
        rows = self.supabase.execute(
            " UNION ALL ".join(
                f"SELECT {key} AS key FROM {table} WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL"
                " AND waiting_for IS NULL"
                for table, key in (
                    ("company_needs_enrichment", "company_unique_id"),
                    ("people_needs_enrichment", "unique_id"),
                )
            )
        ).fetchall()
        return [row["key"] for row in rows]

    @staticmethod
    def until(at: Callable[[], object]) -> None:
        """Wait for it."""
        deadline = time.monotonic() + 60
        while not at():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.02)  # between two looks

    def set(self, key: str, **columns: Any) -> None:
        """Complete a row as an enricher does: what is not said passes."""
        good = {"website": f"https://c{int(key.split('.')[4])}.example"} if kind(key) == "company" else {
            "email": f"robin{int(key.split('.')[4])}@alder.example"
        }  # fmt: skip
        complete(self.supabase, key, **{**good, **columns})

    def correct(self, key: str, **columns: Any) -> None:
        """Change a record in Neon."""
        self.neon.execute(
            sql.SQL("UPDATE {} SET {}, updated_at = now() AT TIME ZONE 'UTC' WHERE {} = %(key)s").format(
                sql.Identifier("marketing", f"{kind(key)}_invalid"),
                sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in columns),
                sql.Identifier("company_unique_id" if kind(key) == "company" else "unique_id"),
            ),
            {**columns, "key": key},
        )

    def delete(self, *keys: str) -> None:
        """Delete records from Neon's invalid table."""
        for key in keys:
            column = "company_unique_id" if kind(key) == "company" else "unique_id"
            done = self.neon.execute(f"DELETE FROM marketing.{kind(key)}_invalid WHERE {column} = %s", [key])
            assert done.rowcount == 1, key

    def again(self, name: str, **columns: Any) -> None:
        """The intake brings a company once more."""
        add_companies(self.neon, number_of(name), **columns)


def tell(story: Story) -> None:
    """Bring every record to where it is to be."""
    begin(story)
    merge_by_pull(story)
    deliver(story)
    undo_and_return(story)
    leave(story)
    push_and_judge(story)
    die_untold(story)
    release(story)
    stop(story)


def begin(story: Story) -> None:
    neon = story.neon
    story.command("setup")
    for name in COMPANIES:
        if name != "never_pulled":
            add_companies(neon, number_of(name), zip="no ZIP code at all" if name == "stuck" else None)
    neon.execute(CUSTOMERS_NEON)
    story.supabase.execute(CUSTOMERS_SUPABASE)
    insert(neon, "marketing.calls", {"company": co("referred_to")})
    for name in ("promoted_over", "undone_over"):
        add_master(neon, number_of(name), website_url=f"https://{name.replace('_', '-')}.example", industry="Timber")
    add_master(neon, 900, website_url="https://taken.example")
    employers = {
        "waits_company": "pending", "waits_slot": "promoted", "waits_queued": "queued", "waits_came": 901,
        "waits_edited": "flagged", "waits_corrected": "pending", "waits_deleted": "pending", "waits_untold": "pending",
        "released": "stage_promoted", "pushed_waits": "flagged", "pushed_released": "stage_promoted",
    }  # fmt: skip
    for number, name in enumerate(PEOPLE, 1):
        of = employers.get(name, "employer")
        add_people(neon, number, of=of if isinstance(of, int) else number_of(of))
    for number, name in enumerate(("employer", "queued", "stage_promoted"), 1):
        add_slot(neon, number, of=number_of(name))
    story.command("pull")


def merge_by_pull(story: Story) -> None:
    edit(story.supabase, co("merged_neon"), city="Elkins", website="merged.example", enrichment_status="in_progress")
    story.correct(co("merged_neon"), city="Ripley")
    story.correct(co("merged_enricher"), city="Ripley")
    edit(story.supabase, co("merged_enricher"), city="Elkins", enrichment_status="in_progress")
    story.command("pull")


def deliver(story: Story) -> None:
    """What the daemon carries in one go."""
    neon, supabase = story.neon, story.supabase
    story.correct(co("promoted_enricher_won"), city="Ripley")
    for name in (
        "promoted", "employer", "promoted_edited", "promoted_edited_queued", "promoted_in_progress", "promoted_pruned",
        "promoted_pruned_queued", "undone", "undone_edited", "undone_again", "undone_untold", "invalid_again",
        "invalid_again_queued", "invalid_again_unpulled",
    ):  # fmt: skip
        story.set(co(name), enriched_by="kim@alder.example")
    story.set(co("promoted_over"), city="Elkins", state="WV")
    story.set(co("undone_over"), city="Elkins")
    story.set(
        co("promoted_tidied"), website=" Tidied.example ", phone="(304) 555-0101", employee_count=12, industry="Retail"
    )
    story.set(co("promoted_unfit"), website="alder-works-of-kew.example")
    story.set(co("promoted_neon_won"), city="Elkins")
    story.set(co("promoted_enricher_won"), city="Elkins")
    story.set(co("flagged_conflict"), city="Elkins", website="n/a")
    for name in ("promoted_neon_won", "flagged_conflict"):
        story.correct(co(name), city="Ripley")
    for name in ("flagged", "flagged_again", "flagged_edited", "flagged_queued", "flagged_corrected"):
        story.set(co(name), website="n/a")
    story.set(co("refused"), employee_count=-5)
    story.set(co("refused_length"), city="Llanfair" * 6)
    story.set(co("refused_unique"), website="https://taken.example")
    story.set(co("refused_reference"), state="Ohio")
    story.set(co("refused_trigger"), industry="Smuggling")
    story.set(co("swallowed"), industry="Whispering")
    story.set(co("referred_to"))
    story.set(co("kept_revalidated"), website="n/a", zip="no ZIP code at all")
    story.set(co("stuck"), website="n/a")
    for name in ("promoted", "undone"):
        story.set(pe(name), phone="(304) 555-0102", title="CEO")
    story.set(pe("promoted_extension"), phone="304 555 0102 ext. 7")
    story.set(pe("flagged"), email="robin at alder")
    story.set(pe("one_word"), full_name="Cher", last_name=None, first_name=None)
    story.set(pe("no_company"), company_unique_id="unknown")
    for name in PEOPLE:
        if (name.startswith("waits") and name not in ("waits_untold", "waits_slot")) or name == "released":
            story.set(pe(name), city="Elkins")
    # Nobody takes the events: they wait.
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        nobody.setblocking(False)
        port = nobody.getsockname()[1]
    story.deliver(N8N_WEBHOOK_URL=f"http://127.0.0.1:{port}/")
    story.set(co("flagged_again"), website="two words")
    edit(supabase, co("promoted_edited"), city="Elkins", enrichment_status="complete")
    story.set(pe("waits_slot"))
    story.deliver()
    assert work(supabase, pe("waits_slot"))["waiting_for"]
    assert neon.execute("SELECT FROM marketing.company_master").rowcount == 21


def undo_and_return(story: Story) -> None:
    for name in ("undone", "undone_over", "undone_edited", "undone_again"):
        story.command("undo", co(name))
    story.command("undo", pe("undone"))
    story.command("undo", co("undone_untold"), HOLD=REOPENS)
    edit(story.supabase, co("undone_edited"), city="Elkins", enrichment_status="in_progress")
    story.set(co("undone_again"))
    story.deliver()
    for name in ("invalid_again", "invalid_again_queued"):
        story.again(name, website="https://wrong.example", reason_code="DEAD_WEBSITE", validation_errors='["is dead"]')


def leave(story: Story) -> None:
    neon, supabase = story.neon, story.supabase
    for name in ("left", "left_back", "gone", "gone_back"):
        edit(supabase, co(name), city="Elkins", enrichment_status="in_progress")
    story.delete(*(co(n) for n in ("withdrawn", "withdrawn_back", "left", "left_back", "gone", "gone_back")))
    # The row of a record whose undo was not told is left to be found.
    with untouched(story, "undone_untold"):
        story.command("pull", "--full")
        assert not supabase.execute(
            "SELECT FROM company_needs_enrichment WHERE company_unique_id = %s", [co("withdrawn")]
        ).rowcount
        for name in ("withdrawn_back", "never_pulled"):
            insert(supabase, "company_needs_enrichment", {
                "company_unique_id": co(name), "company_name": f"Alder Works {number_of(name)}",
                "website": "https://by-hand.example", "enrichment_status": "complete",
            })  # fmt: skip
        for name in ("gone", "gone_back"):
            story.set(co(name))
        pruned = [co("promoted_pruned"), co("promoted_pruned_queued")]
        neon.execute(
            "UPDATE marketing.enrichment_ledger SET recorded_at = recorded_at - interval '40 days' WHERE key = ANY(%s)",
            [pruned],
        )
        # A daemon that pulls, for it prunes after that.
        with story.daemon(WORKER_PULL_INTERVAL="0.5", WORKER_LEDGER_RETENTION="30"):
            story.until(lambda: not story.queue() and not any(ledger(neon, key) for key in pruned))


@contextmanager
def untouched(story: Story, name: str) -> Any:
    """Keep a record from being pulled for a while."""
    row = invalid(story.neon, co(name))
    assert row is not None
    story.delete(co(name))
    yield
    insert(story.neon, "marketing.company_invalid", {
        name: Jsonb(value) if name == "validation_errors" else value for name, value in row.items()
    })  # fmt: skip


def push_and_judge(story: Story) -> None:
    story.set(co("revalidated"), website="n/a")
    story.command("push")
    story.command("revalidate")
    assert work(story.supabase, co("revalidated"))["enrichment_status"] == "failed"
    story.set(co("revalidated_untold"), website="n/a")
    story.command("push")
    story.command("revalidate", "--entity", "company", HOLD=TELLS)
    # No stage has judged these since.
    story.set(co("kept"), website="n/a", zip="no ZIP code at all")
    story.set(co("crashed"), company_name="Alder Riddles")
    story.deliver(CRASH_ON="Alder Riddles")
    for name in (
        "pushed",
        "pushed_in_progress",
        "pushed_pending",
        "pushed_deleted",
        "stage_promoted",
        "stage_promoted_untold",
    ):
        story.set(co(name))
    story.set(co("pushed_bad"), website="n/a")
    story.set(co("pushed_conflict"), city="Elkins")
    story.correct(co("pushed_conflict"), city="Ripley")
    for name in ("pushed", "pushed_waits", "pushed_released"):
        story.set(pe(name))
    story.command("push")
    edit(story.supabase, co("pushed_in_progress"), city="Elkins", enrichment_status="in_progress")
    edit(story.supabase, co("pushed_pending"), enrichment_status="pending")
    story.delete(co("pushed_deleted"))
    story.command("promote", input=co("stage_promoted_untold"), HOLD=TELLS)
    story.command("promote", input="\n".join(map(pe, ("pushed_waits", "pushed_released"))), status=1)


def die_untold(story: Story) -> None:
    names = [name for name in COMPANIES if "untold" in name and name.split("_untold")[0] in ("promoted", "flagged")]
    for name in (*names, "undone_of_untold"):
        story.set(co(name), **({"website": "n/a"} if name.startswith("flagged") else {}), city="Ripley")
    story.set(pe("promoted_untold"))
    story.set(pe("waits_untold"))
    # The two entities' batches are settled, and then it dies.
    with_hold = {"HOLD": TELLS, "HOLD_TASKS": "2"}
    story.command("run", **with_hold)
    assert all(ledger(story.neon, co(name)) for name in names)
    assert set(story.queue()) == {*map(co, names), co("undone_of_untold"), pe("promoted_untold"), pe("waits_untold")}
    story.command("undo", co("undone_of_untold"))
    # Push would tell the others.
    with connect(story.supabase_url) as holder, holder.transaction():
        for table in map(workspace_of, (co("pending"), pe("pending"))):
            holder.execute(f"SELECT FROM {table} WHERE enrichment_status = 'complete' FOR UPDATE")
        story.set(co("pushed_untold"))
        story.command("push", HOLD=TELLS)
    for name in ("promoted_untold_edited", "flagged_untold_edited"):
        story.set(
            co(name), city="Elkins", website="https://better.example" if "promoted" in name else "https://good.example"
        )
    for name in ("promoted_untold_in_progress", "flagged_untold_in_progress"):
        edit(story.supabase, co(name), city="Elkins", enrichment_status="in_progress")


def release(story: Story) -> None:
    """The worker is stopped: who waited for this company is queued, and stays so."""
    story.command("promote", input=co("stage_promoted"))


def stop(story: Story) -> None:
    """What people do while no worker runs."""
    supabase, neon = story.supabase, story.neon
    edit(supabase, co("noted"), enrichment_notes="Ask Kim.")
    for name in ("in_progress", "corrected", "flagged_edited", "deleted_edited"):
        edit(supabase, co(name), website=f"c{number_of(name)}.example", enrichment_status="in_progress")
    edit(supabase, pe("in_progress"), email="robin at work", enrichment_status="in_progress")
    for name in ("queued", "flagged_queued", "deleted_queued"):
        story.set(co(name))
    story.set(co("queued_bad"), website="n/a")
    story.set(pe("queued"))
    story.set(co("invalid_again_queued"), website="https://right.example")
    for name in ("promoted_edited_queued", "promoted_pruned_queued"):
        edit(supabase, co(name), city="Elkins", enrichment_status="complete")
    edit(supabase, co("promoted_in_progress"), city="Elkins", enrichment_status="in_progress")
    edit(supabase, pe("waits_edited"), city="Ripley")
    story.correct(co("corrected"), phone="(304) 555-0103")
    story.correct(co("flagged_corrected"), city="Ripley")
    story.correct(pe("waits_corrected"), state="OH")
    story.delete(*(co(n) for n in ("deleted", "deleted_edited", "deleted_queued")), pe("waits_deleted"))
    story.again("invalid_again_unpulled", website="https://wrong.example")
    for name in ("left_back", "gone_back"):
        story.again(name)
    add_master(neon, 901, website_url="https://came.example")
    add_slot(neon, 4, of=901)


def write(server: EmbeddedServer, side: str) -> str:
    """Write the dump of a side; its text."""
    dump = subprocess.run(
        [server.bin / "pg_dump", "--no-owner", "--no-privileges", "--column-inserts", "--rows-per-insert=1000",
         "--no-comments", server.url(side.lower())],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    # psql's own commands, and what tells the version of the program that wrote it.
    lines = [line for line in dump.splitlines() if not re.match(r"\\|--|$", line)]
    where = "tests/support/dump_release_0_1_0.py"
    text = f"-- {side} as release 0.1.0 (commit {COMMIT}) leaves it. Made by {where}.\n" + "\n".join(lines) + "\n"
    (DATA / f"{side.lower()}.sql").write_text(text, encoding="utf-8")
    return text


def main() -> None:
    """Make the dump."""
    with EmbeddedServer(16) as server:
        folder = Path(tempfile.mkdtemp(prefix="release-0.1.0-"))
        try:
            assert checkout(folder), f"this checkout's history does not have {COMMIT}"
            (folder / "hook").mkdir()
            (folder / "hook" / "sitecustomize.py").write_text(HOOK)
            for name in ("neon", "supabase"):
                server.create_database(name)
            urls = server.url("neon"), server.url("supabase")
            with connect(urls[0]) as neon, connect(urls[1]) as supabase:
                tell(Story(folder, *urls, neon, supabase))
            text = "".join(write(server, side) for side in ("Neon", "Supabase"))
        finally:
            shutil.rmtree(folder)
        missing = [sentence for sentence in SENTENCES if sentence not in text]
        assert not missing, missing
        leaked = [
            word for word in (str(folder), str(server.folder), socket.gethostname(), str(server.port)) if word in text
        ]
        assert not leaked, leaked


if __name__ == "__main__":
    main()
