"""The runbook as the worker shows it: which section a reason has, and the page that its link leads to."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from functools import cache
from pathlib import Path

from starlette.responses import Response

# In a wheel the page is in the package, in a checkout next to it.
_HERE = Path(__file__).parents[1]
_FILES = (_HERE / "docs" / "runbook.md", _HERE.parent / "docs" / "runbook.md")
ADDRESS = "docs/runbook.md"
"""Relative, so that it leads to the section on the status page, behind a proxy, and in a checkout."""
COUNTS_ARE_OLD = "not counted yet"
OTHER = "Other words of a database"
_REASONS = "## Reasons in /readyz"
_STYLE = (
    ":root{color-scheme:light dark;--line:#8885}body{max-width:820px;margin:0 auto;padding:20px 16px 60px;"
    "font:16px/1.55 system-ui,sans-serif;overflow-wrap:anywhere}h3{margin-top:2em}:target{outline:3px solid #2f6bd3;"
    "outline-offset:6px;border-radius:4px}code{font:.88em ui-monospace,Menlo,Consolas,monospace}table{border-collapse:"
    "collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:6px 10px 6px 0;border-bottom:1px solid"
    " var(--line)}h3 code{font-size:1em;font-weight:700}"
)
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; img-src data:; style-src"
        f" 'sha256-{b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
    ),
}


@cache
def text() -> str:
    """The page as it was written; nothing where it was not installed."""
    return next((file.read_text(encoding="utf-8") for file in _FILES if file.is_file()), "")


def anchor(heading: str) -> str:
    """The anchor of a heading, as code hosts make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def _sections() -> list[tuple[re.Pattern[str], str]]:
    """What a reason has to contain → its section, the most telling first."""
    found: list[tuple[str, str]] = []
    place = ""
    for line in text().partition(_REASONS)[2].splitlines():
        if line.startswith("### "):
            place = anchor(line.removeprefix("### "))
            found += [(words, place) for words in re.findall("`(.+?)`", line)]
        elif line.startswith("| `"):
            found += [(words, place) for words in re.findall("`(.+?)`", line.split("|")[1])]
    found.sort(key=lambda one: -len(one[0]))
    return [(re.compile(re.escape(words).replace('"x"', '".+?"'), re.IGNORECASE), place) for words, place in found]


def section(reason: str) -> str:
    """The address of the section about a reason or warning of ``/readyz``, relative to that of the worker."""
    place = next((place for pattern, place in _sections() if pattern.search(reason)), anchor(OTHER))
    return f"{ADDRESS}#{place}"


@cache
def _html() -> str:
    from markdown_it import MarkdownIt  # noqa: PLC0415 - hardly ever asked for

    body = str(MarkdownIt("commonmark", {"html": False}).enable("table").render(text()))
    body = re.sub(
        r"<(h[1-6])>(.*?)</\1>",
        lambda found: f'<{found[1]} id="{anchor(re.sub("<.*?>|&quot;", "", found[2]))}">{found[2]}</{found[1]}>',
        body,
    )
    # The other pages are not here.
    body = re.sub(r'<a href="(?!#)[^"]*">(.*?)</a>', r"\1", body)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += '<link rel="icon" href="data:,">'
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>Runbook</title><style>{_STYLE}</style></head>{body}</html>'
    )


def page() -> Response:
    """The runbook, each section with the anchor that :func:`section` names."""
    if not text():
        return Response("the runbook was not installed\n", status_code=404, media_type="text/plain")
    return Response(_html(), media_type="text/html", headers=_HEADERS)
