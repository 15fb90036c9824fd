"""Prints LICENCES.md: what the worker's dependencies are licensed under, as they say themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution

from packaging.requirements import Requirement

NAME = "enrichment-worker"
DEMO = "demo"


def closure(name: str, extras: frozenset[str] = frozenset(), seen: set[str] | None = None) -> Iterator[Distribution]:
    """The distributions that this one needs here, each once, itself left out."""
    seen = set() if seen is None else seen
    for text in distribution(name).requires or ():
        needed = Requirement(text)
        wanted = not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        if not wanted or canonical(needed.name) in seen:
            continue
        seen.add(canonical(needed.name))
        found = distribution(needed.name)
        yield found
        yield from closure(needed.name, frozenset(needed.extras), seen)


def canonical(name: str) -> str:
    """The name as package indexes compare it: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def licence(found: Distribution) -> str:
    """What a distribution says of its licence: the SPDX expression, the classifier, or its first line of text."""
    meta = found.metadata
    if expression := meta.get("License-Expression"):
        return str(expression)
    classifiers = [c.rpartition(" :: ")[2] for c in meta.get_all("Classifier") or () if c.startswith("License ::")]
    text = (meta.get("License") or "").strip().splitlines()
    return ", ".join(classifiers) or (text[0] if text else "not stated")


def page() -> str:
    """The whole file."""
    rows = sorted((canonical(one.name), licence(one)) for one in closure(NAME, frozenset({DEMO})))
    lines = ["# Licences", "", "Of what is installed with the worker and its demo, as the packages state them. Written by",
             "`.ci/lock`; a test compares it with what is installed.", "", "| package | licence |", "| --- | --- |",
             *(f"| {name} | {text} |" for name, text in rows)]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
