"""What the guide's five scripts would have been: batches of 100, then row by row: push, re-validate, promote.

It sleeps a second where there is nothing to do; the guide starts the scripts by hand or by n8n.
"""

from __future__ import annotations

import os
import sys
import time

import psycopg
from psycopg.rows import dict_row

from bench.contestants import carry

_LOOK = f"""
SELECT company_unique_id AS key, {", ".join(carry.COLUMNS)}, enriched_by FROM public.company_needs_enrichment
WHERE enrichment_status = 'complete' AND pushed_to_neon_at IS NULL ORDER BY id LIMIT 100"""
_PUSH = f"""
UPDATE marketing.company_invalid SET {", ".join(f"{column} = %({column})s" for column in carry.COLUMNS)},
  updated_at = now(), enrichment_status = 'complete', enriched_at = now(), enriched_by = %(enriched_by)s
WHERE company_unique_id = %(key)s"""
_PUSHED = f"""
SELECT company_unique_id AS key, {", ".join(carry.COLUMNS)}, enriched_by FROM marketing.company_invalid
WHERE company_unique_id = %(key)s AND enrichment_status = 'complete'"""


def _main() -> None:
    with (
        psycopg.connect(os.environ["SUPABASE_DATABASE_URL"], row_factory=dict_row) as here,
        psycopg.connect(os.environ["NEON_DATABASE_URL"], row_factory=dict_row) as there,
    ):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while True:
            rows = here.execute(_LOOK).fetchall()
            here.commit()
            for row in rows:
                there.execute(_PUSH, row)
                there.commit()
                pushed = there.execute(_PUSHED, row).fetchone()
                assert pushed is not None
                passed, params = carry.judged(pushed)
                there.execute(carry.PROMOTE if passed else carry.FLAG, params)
                there.commit()
                here.execute(carry.ACKNOWLEDGE, params)
                here.commit()
            if not rows:
                time.sleep(1)


if __name__ == "__main__":
    _main()
