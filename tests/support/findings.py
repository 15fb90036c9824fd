"""What ``doctor`` finds."""

from __future__ import annotations

import json


def findings(cli) -> dict[str, dict[str, str]]:
    return {finding["check"]: finding for finding in json.loads(cli("doctor", "--json").stdout)}
