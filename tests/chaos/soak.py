"""The state machine's long profile: ``python tests/chaos/soak.py [MINUTES [SEED]]``.

Prints its seed, with which it can be repeated as far as the machine's own timing goes, and what was done and compared.
"""

from __future__ import annotations

import re
import secrets
import sys
import time
from pathlib import Path

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS / "support"), str(TESTS), str(TESTS.parent)]

from conftest import connect  # noqa: E402 - the path comes first
from expected import entity_of  # noqa: E402
from ground import Ground  # noqa: E402
from machine import Loop, struck  # noqa: E402

LONG = settings(
    max_examples=2, stateful_step_count=60, deadline=None, database=None, derandomize=False,
    suppress_health_check=list(HealthCheck), phases=[Phase.generate],
)  # fmt: skip
"""Of one seed; the next one is a seed more."""


class Soak(Loop):
    """The loop, which tells at once what it finds: what hypothesis repeats may go another way."""

    def settle_and_compare(self) -> None:
        try:
            super().settle_and_compare()
        except BaseException as error:
            print(f"found: {error!r}", flush=True)
            self.tell_all(error)
            raise

    def tell_all(self, error: BaseException) -> None:
        """What both databases and the model hold of the record that was found wrong."""
        named = re.search(r"04\.04\.0[12]\.\d\d\.\d{5}\.\d{3}", str(error))
        if not named:
            return
        key, entity = named[0], entity_of(named[0])
        params = {"key": key}
        ledger = "SELECT * FROM marketing.enrichment_ledger WHERE key = %(key)s ORDER BY id"
        for url, queries in (
            (self.urls[0], [ledger, *(f"SELECT * FROM {table} WHERE {entity.key} = %(key)s"
                                      for table in (entity.invalid_table, entity.master_table))]),
            (self.urls[1], [f"SELECT * FROM {entity.workspace_table} WHERE {entity.key} = %(key)s"]),
        ):  # fmt: skip
            with connect(url) as connection:
                for query in queries:
                    for row in connection.execute(query, params):
                        print({name: str(value) for name, value in row.items() if value is not None}, flush=True)
        print(self.expected.cells.get(key), self.expected.known(), flush=True)


def main() -> int:
    """Run for so many minutes, ten by default."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    first = int(sys.argv[2]) if len(sys.argv) > 2 else secrets.randbelow(1_000_000) * 1000
    number, begun = first, time.monotonic()
    print(f"seed {first}", flush=True)
    try:
        with Ground() as Soak.ground:
            while time.monotonic() - begun < minutes * 60:
                run_state_machine_as_test(seed(number)(Soak), settings=LONG)
                number += 1
    except BaseException:
        print(f"FAILED after {time.monotonic() - begun:.0f} s, with seed {number}")
        raise
    finally:
        print(f"seeds {first} to {number}: " + ", ".join(f"{times} {what}" for what, times in sorted(struck.items())))
    print(f"Nothing was lost, and nothing done twice, in {(time.monotonic() - begun) / 60:.1f} minutes.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
