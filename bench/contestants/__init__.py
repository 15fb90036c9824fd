"""Who takes part: the same job on the same tables, each in the way its makers recommend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.contestants import graphile_worker
from bench.contestants.set_based import set_based
from bench.lab import Pair, connect
from bench.process import run


@dataclass(frozen=True)
class Contestant:
    """One way to do the job."""

    name: str
    what: str
    command: tuple[str, ...] = ()
    """Module and arguments of its process."""
    once: Callable[[Pair], None] | None = None
    """Instead of a process: what is done after the flip, to its end."""
    ready: str = "ready\n"
    """What it prints when it is."""
    install: Callable[[Pair], None] | None = None
    """Prepare the databases after ``setup``; raises Skipped where what it needs cannot be had."""
    rules: bool = True
    """Whether it applies the rules of SPEC 4."""
    most: int = 10**9
    """The largest backlog that it is given."""
    hidden: bool = False
    """Takes part only when named: it proves that the bench disqualifies."""


def without_triggers(pair: Pair, more: str = "") -> None:
    """Take the worker's own triggers from the workspace, so that nobody pays for them, and run ``more``."""
    with connect(pair.supabase) as supabase:
        for trigger in ("a_key", "b_row", "notify_insert", "notify_update"):
            supabase.execute(f"DROP TRIGGER enrichment_{trigger} ON public.company_needs_enrichment")
        if more:
            supabase.execute(more)


# One insert a statement, as fast as a trigger can be: it sees all rows of a flip at once.
_ENQUEUE = """
CREATE FUNCTION bench_enqueue() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  {enqueue};
  RETURN NULL;
END $$;
CREATE TRIGGER bench_enqueue AFTER UPDATE ON public.company_needs_enrichment
  REFERENCING OLD TABLE AS was NEW TABLE AS now_is FOR EACH STATEMENT EXECUTE FUNCTION bench_enqueue();
"""
_FLIPPED = """FROM now_is JOIN was USING (id)
    WHERE now_is.enrichment_status = 'complete' AND was.enrichment_status IS DISTINCT FROM 'complete'"""


def _pgqueuer(pair: Pair) -> None:
    for arguments in (["install"], ["autovac"], ["durability", "balanced"]):
        run(["pgqueuer", "--pg-dsn", pair.supabase, *arguments], pair.env(), seconds=60)
    enqueue = f"""WITH jobs AS (
    INSERT INTO pgqueuer (priority, entrypoint, payload, status)
    SELECT 0, 'carry', convert_to(now_is.company_unique_id, 'UTF8'), 'queued' {_FLIPPED} RETURNING id)
  INSERT INTO pgqueuer_log (job_id, status, entrypoint, priority) SELECT id, 'queued', 'carry', 0 FROM jobs"""
    without_triggers(pair, _ENQUEUE.format(enqueue=enqueue))


def _procrastinate(pair: Pair) -> None:
    run(["bench.contestants.procrastinate_worker", "install"], pair.env(), seconds=60)
    enqueue = f"""PERFORM procrastinate_defer_jobs_v1(array_agg(ROW('carry', 'carry', 0, NULL, NULL,
    jsonb_build_object('key', now_is.company_unique_id), NULL)::procrastinate_job_to_defer_v1)) {_FLIPPED}
    HAVING count(*) > 0"""
    without_triggers(pair, _ENQUEUE.format(enqueue=enqueue))


def _graphile(pair: Pair) -> None:
    graphile_worker.installed()
    run(["bench.contestants.graphile_worker", "install"], pair.env(), seconds=60)
    enqueue = f"""PERFORM graphile_worker.add_jobs(array_agg(
    ROW('carry', keys, NULL, NULL, NULL, NULL, NULL, NULL)::graphile_worker.job_spec))
  FROM (SELECT json_agg(key) AS keys FROM (
      SELECT now_is.company_unique_id AS key, row_number() OVER () AS n {_FLIPPED}) f
    GROUP BY (n - 1) / {graphile_worker.KEYS}) jobs HAVING count(*) > 0"""
    without_triggers(pair, _ENQUEUE.format(enqueue=enqueue))


PEERS = ("pgqueuer", "procrastinate", "graphile-worker")
"""The queues that do the same job; at each line, the best of them is the best peer."""

CONTESTANTS = {
    one.name: one
    for one in (
        Contestant("worker", "this project: python -m worker run", ("worker", "run"), ready='"worker.ready"'),
        Contestant(
            "pgqueuer", "PgQueuer, a job a record", ("bench.contestants.pgqueuer_worker",), install=_pgqueuer
        ),
        Contestant(
            "procrastinate", "Procrastinate, a job a record", ("bench.contestants.procrastinate_worker", "run"),
            install=_procrastinate, most=50_000,
        ),
        Contestant(
            "graphile-worker", "graphile-worker, batch jobs, in Node.js",
            ("bench.contestants.graphile_worker", "run"), install=_graphile,
        ),
        Contestant(
            "naive", "the guide's scripts, row by row, polling once a second", ("bench.contestants.naive",),
            install=without_triggers, most=1_000,
        ),
        Contestant(
            "floor", "psycopg by hand: LISTEN, pipelines, no rules, no ledger", ("bench.contestants.floor",),
            rules=False,
        ),
        Contestant(
            "set-based", "psql: COPY | COPY and one statement a database, no rules",
            once=set_based, install=without_triggers, rules=False,
        ),
        Contestant("loses", "loses a record", ("bench.contestants.floor", "lose"), rules=False, hidden=True),
        Contestant("repeats", "promotes twice", ("bench.contestants.floor", "repeat"), rules=False, hidden=True),
        Contestant("breaks", "ends at once", ("bench.contestants.floor", "break"), rules=False, hidden=True),
    )
}  # fmt: skip
