"""A day in its life: ``python tests/chaos/day.py``.

The customer's 119 companies and 5 people, on two real servers, from release 0.1.0 to this one, with what a bad day brings.
Prints each hour and the section of the customer's guide that it shows; ends with exit status 1 at the first line that is not true.
"""

from __future__ import annotations

import csv
import io
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

TESTS = Path(__file__).parent.parent
ROOT = TESTS.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS), str(ROOT)]

import release_0_1_0 as release  # noqa: E402 - the path comes first
from copies import Copy  # noqa: E402
from embedded import embedded  # noqa: E402
from guide import invalid_table  # noqa: E402
from receiver import Receiver  # noqa: E402
from records import add_companies, add_people, add_slot, company, complete, edit, master, person, work  # noqa: E402

PATIENCE = 60.0
GOOD, ALL, PEOPLE = 85, 119, 5
"""How many companies are repaired well at first, as the guide's success metrics have it; how many there are."""
SETTINGS = {"WORKER_PULL_INTERVAL": "2", "WORKER_SWEEP_INTERVAL": "1", "WORKER_LOG_FORMAT": "json"}


class Untrue(Exception):
    """A line that does not hold."""


def say(hour: str, section: str, text: str) -> None:
    print(f"{hour}  {section:<34} {text}", flush=True)


def check(truth: object, text: str) -> None:
    """Go on only if it holds."""
    if not truth:
        raise Untrue(text)


def until(look: Callable[[], Any], text: str) -> Any:
    """Look again until there is something to see."""
    end = time.monotonic() + PATIENCE
    while not (seen := look()):
        check(time.monotonic() < end, f"within {PATIENCE:.0f} s: {text}")
        time.sleep(0.05)  # between two looks
    return seen


class Day:
    """Both servers, the worker, and who works with them."""

    def __init__(self, stack: ExitStack) -> None:
        self.servers = [stack.enter_context(embedded(version)) for version in (18, 16)]
        for server, name in zip(self.servers, ("neon", "supabase"), strict=True):
            server.create_database(name)
        self.urls = [server.url(name) for server, name in zip(self.servers, ("neon", "supabase"), strict=True)]
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.n8n = stack.enter_context(Receiver())
        threading.Thread(target=self.n8n.serve_forever, daemon=True).start()
        stack.callback(self.n8n.shutdown)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.env = {
            "NEON_DATABASE_URL": self.urls[0], "SUPABASE_DATABASE_URL": self.urls[1], "N8N_WEBHOOK_URL": self.n8n.url,
            "WORKER_HEALTH_ADDRESS": f"127.0.0.1:{self.port}", **SETTINGS,
        }  # fmt: skip
        self.worker: subprocess.Popen[str] | None = None
        stack.callback(self.stop)

    # -- the worker

    def command(self, *arguments: str, text: str = "", source: Path = ROOT) -> str:
        """What a command prints."""
        pipe = subprocess.PIPE
        running = release.start(source, *arguments, environment=self.env, stdin=pipe, stdout=pipe, stderr=pipe)
        printed, said = running.communicate(text, timeout=120)
        check(running.returncode == 0, f"{arguments} ends with {running.returncode}: {printed}{said}")
        return str(printed)

    def start(self, source: Path = ROOT) -> None:
        """Start the worker, and wait until it is ready."""
        with (self.folder / "log").open("a") as log:
            self.worker = release.start(source, "run", environment=self.env, stdout=log, stderr=log)
        until(lambda: self.asks("/readyz").get("ok"), "the worker is ready")

    def stop(self) -> None:
        """Stop the worker as systemd does."""
        if self.worker:
            worker, self.worker = self.worker, None
            worker.send_signal(signal.SIGTERM)
            check(worker.wait(30) == 0, "the worker ends well")

    def asks(self, path: str) -> dict[str, Any]:
        """What a health address says; nothing where nobody answers."""
        try:
            return dict(httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=5).json())
        except httpx.HTTPError:
            return {}

    # -- the databases

    def neon(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with release.connect(self.urls[0]) as there:
            done = there.execute(statement, values or None)
            return done.fetchall() if done.description else []

    def supabase(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with release.connect(self.urls[1]) as here:
            done = here.execute(statement, values or None)
            return done.fetchall() if done.description else []

    def status(self, key: str) -> dict[str, Any]:
        with release.connect(self.urls[1]) as here:
            return work(here, key)

    def is_promoted(self, *numbers: int) -> bool:
        return all(self.status(company(number))["promoted_at"] for number in numbers)

    def repair(self, *numbers: int) -> None:
        """As an enricher in the dashboard, one row after the other."""
        with release.connect(self.urls[1]) as here:
            for number in numbers:
                complete(here, company(number), website=f"https://c{number}.example", enriched_by="Kim")

    def counts(self) -> dict[str, int]:
        """Companies by status; ``master`` and ``invalid`` in Neon."""
        rows = self.supabase("SELECT enrichment_status AS s, count(*) AS n FROM company_needs_enrichment GROUP BY 1")
        found = {row["s"]: row["n"] for row in rows}
        for table in ("master", "invalid"):
            found[table] = self.neon(f"SELECT count(*) AS n FROM marketing.company_{table}")[0]["n"]
        return found


def morning(day: Day) -> None:
    """Release 0.1.0, the pull, and an upgrade while people work."""
    day.neon("CREATE SCHEMA marketing;" + invalid_table("company") + invalid_table("people"))
    old = day.folder / "release-0.1.0"
    old.mkdir()
    source = old if release.checkout(old) else ROOT
    day.command("setup", source=source)
    with release.connect(day.urls[0]) as neon:
        add_companies(neon, *range(1, ALL + 1))
        for number in range(1, PEOPLE + 1):
            add_slot(neon, number, of=number)
            add_people(neon, number, of=number)
    say("08:00", "Tables & Schemas", f"{ALL} companies and {PEOPLE} people are invalid; Supabase is empty")
    day.start(source)
    many = "SELECT count(*) AS n, bool_and(enrichment_status = 'pending') AS p FROM {}_needs_enrichment"
    for table, count in (("company", ALL), ("people", PEOPLE)):
        until(lambda t=table, c=count: day.supabase(many.format(t))[0]["n"] == c, f"{count} of {table} are pulled")
        check(day.supabase(many.format(table))[0]["p"], "all are pending")
    which = "release 0.1.0" if source == old else "this release (this checkout has no history of 0.1.0)"
    say("08:05", "What Gets Pulled", f"pulled by {which}: {ALL} companies and {PEOPLE} people, all pending")

    first, during = range(1, 11), range(11, 31)
    day.repair(*first)
    until(lambda: day.is_promoted(*first), "ten are promoted")
    working = threading.Thread(target=lambda: [(day.repair(number), time.sleep(0.2)) for number in during])
    working.start()
    day.stop()
    day.command("setup")
    day.start()
    working.join()
    until(lambda: day.is_promoted(*during), "what was repaired meanwhile is promoted")
    check(not day.neon(_TWICE), "none twice")
    say("09:00", "Next Steps", "upgraded while Kim repaired twenty: all thirty are in the master, none twice")


def enrichment(day: Day) -> None:
    """By the dashboard, and by a spreadsheet; the guide's success metrics."""
    say("09:30", "Enrichment Workflow", "Kim goes on in the dashboard, Ada exports the rest into a spreadsheet")
    day.repair(*range(31, 61))
    sheet = io.StringIO()
    rows = csv.DictWriter(sheet, ["company_unique_id", "website", "enrichment_status", "enriched_by"])
    rows.writeheader()
    for number in range(61, ALL + 1):
        good = number <= GOOD
        rows.writerow(
            {"company_unique_id": company(number), "website": f"c{number}.example" if good else "n/a",
             "enrichment_status": "complete", "enriched_by": "Ada"}
        )  # fmt: skip
    sheet.seek(0)
    with release.connect(day.urls[1]) as here:
        repairs = json.dumps(list(csv.DictReader(sheet)))
        here.execute(
            "INSERT INTO company_repairs (company_unique_id, website, enrichment_status, enriched_by) SELECT"
            " company_unique_id, website, enrichment_status, enriched_by"
            " FROM jsonb_populate_recordset(null::company_repairs, %s)", [repairs],
        )  # fmt: skip
    left = ALL - GOOD
    until(lambda: day.counts().get("failed") == left and day.counts()["master"] == GOOD, "the guide's numbers")
    found = day.counts()
    check(found == {"complete": GOOD, "failed": left, "master": GOOD, "invalid": left}, f"they are {found}")
    say(
        "10:00",
        "Success Metrics",
        f"{GOOD} passed and are in company_master, {left} failed and remain in company_invalid",
    )
    row = day.status(company(ALL))
    check(row["enriched_by"] == "Ada" and "website" in row["validation_errors"], f"the reasons: {row}")
    say("10:01", "Scripts: re-validation", f"{company(ALL)}: {row['sync_note']}")

    with release.connect(day.urls[1]) as here:
        for number in range(1, PEOPLE + 1):
            complete(here, person(number), email=f"robin@c{number}.example")
    until(lambda: all(day.status(person(n))["promoted_at"] for n in range(1, PEOPLE + 1)), "people are promoted")
    say("10:30", "What Gets Pushed Back", f"{PEOPLE} people are in the master, each with a company that is there")

    with release.connect(day.urls[1]) as here:
        edit(here, company(86), phone="(304) 555-0100", city="Elkins")
    day.neon("UPDATE marketing.company_invalid SET phone = '(304) 555-0199', updated_at = now() WHERE id = 86")
    until(lambda: day.status(company(86))["phone"] == "(304) 555-0199", "Neon's correction is pulled")
    row = day.status(company(86))
    check(row["city"] == "Elkins" and "phone was not kept" in row["sync_note"], f"{row}")
    say(
        "11:00",
        "Notes: Conflict Resolution",
        "both change a phone number: the newest wins, and Ada reads that; her city stays",
    )


def by_hand(day: Day) -> None:
    """The guide's five scripts, with the worker stopped; and one promotion taken back."""
    day.stop()
    day.repair(86, 87)
    look = (
        "SELECT md5(string_agg(i::text, '' ORDER BY id)) AS rows, (SELECT count(*) FROM marketing.enrichment_ledger) AS told"
        " FROM marketing.company_invalid i"
    )
    before = day.neon(look), day.status(company(86))
    for stage in ("pull", "push"):
        rehearsed = day.command(stage, "--dry-run")
        check(rehearsed, f"{stage} --dry-run says what it would do")
    check((day.neon(look), day.status(company(86))) == before, "a rehearsal writes nothing")
    day.command("push")
    passed = day.command("revalidate")
    check(set(passed.split()) == {company(86), company(87)}, f"these passed: {passed}")
    day.command("promote", text=passed)
    check(day.is_promoted(86, 87), "they are told")
    day.command("undo", company(87))
    check(day.status(company(87))["enrichment_status"] == "pending", "it is taken back")
    say("12:00", "Scripts to Build", "stages by hand: two pushed, passed and promoted; one taken back by undo")
    day.start()
    day.repair(87)
    until(lambda: day.is_promoted(87), "it is promoted once more")
    logged = day.neon("SELECT count(*) AS n FROM public.shq_validation_log")[0]["n"]
    check(logged, "there is a log")
    say("12:10", "Notes: Logging, Rollback", f"promoted once more; the log has {logged} runs")


def trouble(day: Day) -> None:
    """Neon sleeps, Supabase fails over, a rule is wrong, and Neon is restored."""
    neon, supabase = day.servers
    neon.stop("fast")
    day.repair(*range(88, 98))
    until(lambda: "Neon" in str(day.asks("/readyz").get("reasons")), "the worker says that Neon is away")
    neon.start()
    until(lambda: day.is_promoted(*range(88, 98)), "what waited is promoted")
    say("13:00", "Overview", "Neon slept while ten were repaired; it woke, and they are in the master")

    day.repair(98, 99, 100)
    supabase.stop("immediate")
    supabase.start()
    day.repair(101, 102)
    until(lambda: day.is_promoted(*range(98, 103)), "what was on its way is promoted")
    until(lambda: day.asks("/readyz").get("ok"), "the worker is ready again")
    say("14:00", "Overview", "Supabase failed over between five repairs: all five are in the master")

    wrong = day.folder / "entities"
    wrong.mkdir()
    for file in (ROOT / "worker" / "entities").glob("*.toml"):
        (wrong / file.name).write_text(file.read_text())
    rules = wrong / "company.toml"
    right = rules.read_text()
    rules.write_text(right.replace("length = 2\n", "length = 200\n"))
    check(rules.read_text() != right, "there is a rule to be got wrong")
    day.stop()
    day.env["WORKER_ENTITIES"] = str(wrong)
    day.start()
    day.repair(103, 104)
    until(lambda: day.status(company(104))["enrichment_status"] == "failed", "the wrong rule refuses them")
    day.stop()
    del day.env["WORKER_ENTITIES"]
    passed = day.command("revalidate", "--stale")
    check({company(103), company(104)} <= set(passed.split()), f"by the right rules these pass: {passed}")
    day.command("promote", text="\n".join([company(103), company(104)]))
    check(day.is_promoted(103, 104), "they are told")
    day.start()
    say(
        "15:00",
        "Scripts: re-validation",
        "a release of rules refused two wrongly; taken back, revalidate --stale finds them",
    )

    with Copy(day.urls[0], "an_hour_ago") as copy:
        day.repair(*range(105, 110))
        until(lambda: day.is_promoted(*range(105, 110)), "five more are promoted")
        before, sent = day.counts(), [_master(day, n) for n in range(105, 110)]
        day.stop()
        copy.put_back()
        check(day.counts()["master"] == before["master"] - 5, "Neon has forgotten five")
    day.start()
    until(lambda: day.counts() == before and day.asks("/readyz").get("ok"), "they are in the master again")
    for was, now in zip(sent, [_master(day, n) for n in range(105, 110)], strict=True):
        check(
            all(now[name] == was[name] for name in ("website_url", "company_name", "validated_by")),
            "as Kim had sent them",
        )
    check(not day.neon(_TWICE), "none twice")
    say("16:00", "Notes: Rollback", "Neon was restored to an hour ago: what it had forgotten was promoted again")


_TWICE = """
SELECT key FROM marketing.enrichment_ledger GROUP BY 1
HAVING count(*) FILTER (WHERE outcome = 'promoted') - count(*) FILTER (WHERE outcome = 'undone') > 1"""
"""What was promoted once more without having been taken back."""


def _master(day: Day, number: int) -> dict[str, Any]:
    with release.connect(day.urls[0]) as there:
        return master(there, company(number)) or {}


def evening(day: Day) -> None:
    """All counts agree, and both databases too."""
    left = range(110, ALL + 1)
    says = until(
        lambda: (found := day.asks("/status.json")["entities"]["company"])["counts"]["promoted"] == 109 and found,
        "the status page has counted",
    )
    counts = day.counts()
    check(says["counts"]["failed"] == counts["failed"] == counts["invalid"] == len(left), f"{says}; {counts}")
    check(counts["complete"] == counts["master"] == ALL - len(left), f"{counts}")
    told = [record for event in day.n8n.taken() for record in event["records"] if record["outcome"] == "promoted"]
    check({record["key"] for record in told} >= {company(n) for n in range(1, 110)}, "n8n was told of each")
    say(
        "17:00",
        "Notes: n8n Automation",
        f"n8n was told of every outcome: {len(told)} promotions, an undo and a restore",
    )
    day.stop()
    say("17:05", "Success Metrics", day.command("reconcile").strip().replace("\n", "; "))
    day.command("doctor")
    say("17:06", "Environment Variables Needed", "doctor finds nothing wrong")


def main() -> int:
    """The whole day."""
    begun = time.monotonic()
    with ExitStack() as stack:
        day = Day(stack)
        try:
            for part in (morning, enrichment, by_hand, trouble, evening):
                part(day)
        except Untrue as error:
            log = (day.folder / "log").read_text() if (day.folder / "log").exists() else ""
            print(f"NOT SO: {error}", *log.splitlines()[-15:], sep="\n", file=sys.stderr)
            if day.worker:
                day.worker.kill()
                day.worker = None
            return 1
    print(f"A day in {time.monotonic() - begun:.0f} s.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
