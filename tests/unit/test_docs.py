"""The pages: links lead somewhere, alerts have their section, and what they list is what there is."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from worker.domain.model import Code
from worker.domain.rule import Rule
from worker.domain.vocabulary import KINDS, name_of
from worker.entities.file_format import (
    Alike,
    Duplicates,
    EntityFile,
    Key,
    Mapped,
    Master,
    Part,
    Role,
    Slot,
    Tables,
    Wait,
)
from worker.observe import health, monitor, runbook
from worker.operate import status
from worker.postgres import hints
from worker.postgres.errors import Restored
from worker.settings import Settings

PAGES = sorted(
    page for page in ROOT.rglob("*.md") if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
)
OPERATING = (ROOT / "docs" / "operating.md").read_text()
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
ENTITIES = (ROOT / "docs" / "entities.md").read_text()
REASONS = RUNBOOK.partition("## Reasons in /readyz")[2]


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """As code hosts make them of headings."""
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings(page)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{target} is not there"
        assert not anchor or anchor in anchors(there), f"{target} has no such heading"


def rows_of(page: str, heading: str) -> list[str]:
    """The rows of the table below a heading."""
    section = (ROOT / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("| ")][2:]


def test_a_file_that_a_page_sends_to_is_there() -> None:
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        for path in re.findall(r"`((?:worker|sql|tests|deploy|bench|docs)/[\w./]+)`", (ROOT / page).read_text()):
            assert (ROOT / path).exists(), f"{page}: {path}"


def test_a_name_in_the_table_of_changes_is_in_a_file_of_its_row() -> None:
    rows = rows_of("CONTRIBUTING.md", "Where to begin a change")
    assert len(rows) > 20
    for row in rows:
        change, where = row.strip("| ").split(" | ", 1)
        said = re.findall("`([^`]+)`", where)
        files = [one for path in said if (ROOT / path).is_file() for one in [ROOT / path]]
        text = "".join(file.read_text() for file in files)
        for name in said:
            if files and (found := re.fullmatch(r"([A-Za-z_]+)(?:\(\))?", name)):
                # A function has to be defined there, not only called.
                defined = (
                    rf"(?:def |enrichment_function\('|^\s*){found[1]}(?:\(|'| text)"
                    if name.islower()
                    else rf"\b{found[1]}\b"
                )
                assert re.search(defined, text, re.MULTILINE), f"{change}: {name}"


def test_the_readme_fits_on_a_page_or_two() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


def test_every_alert_has_its_section_in_the_runbook() -> None:
    rules = (ROOT / "deploy" / "prometheus-alerts.yml").read_text().split("- alert: ")[1:]
    urls = {rule.split("\n")[0]: (re.findall(r'runbook_url: "(.+)"', rule) or [""])[0] for rule in rules}
    runbook = ROOT / "docs" / "runbook.md"
    for alert, url in urls.items():
        page, _, anchor = url.partition("#")
        assert page.endswith("/docs/runbook.md")
        assert anchor in anchors(runbook), alert
    assert {text for text in headings(runbook) if text.startswith("Enrichment")} == set(urls)


def texts_of_readyz() -> Iterator[str]:
    """What it may say in ``/readyz`` in its own words; what it composes of these returns a ``str``."""
    source = "\n".join(inspect.getsource(module) for module in (health, monitor))
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef) or (function.returns and ast.unparse(function.returns) == "str"):
            continue
        # Docstrings, and what is a part of an f-string.
        inside = {id(node.value) for node in ast.walk(function) if isinstance(node, ast.Expr)}
        inside |= {id(part) for node in ast.walk(function) if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in ast.walk(function):
            text = ""
            if isinstance(node, ast.JoinedStr):
                text = "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
                text = node.value
            if " " in text and re.search(r"[a-z]{2}", text):
                yield text


def documented_reasons() -> list[str]:
    """What the headings of the runbook's sections quote."""
    return re.findall("`(.+?)`", "\n".join(re.findall(r"^### (.+)$", REASONS, re.MULTILINE)))


def test_every_reason_of_the_workers_own_has_its_section_in_the_runbook() -> None:
    restored = {"side": "Neon", "lost": 3}
    texts = [
        *texts_of_readyz(),
        *(str(Restored("company", side)) for side in ("Neon", "Supabase")),
        *filter(None, (status._restored(restored), status._restored(restored | {"lost": 0, "held": True}))),
    ]
    assert len(texts) > 10
    known = documented_reasons()
    for text in texts:
        assert any(words in text for words in known), f"docs/runbook.md has no section for: {text}"


def test_every_reason_leads_to_its_section_of_the_page_that_the_worker_serves() -> None:
    served = runbook.page().body.decode()
    led = {}
    for words in documented_reasons():
        path, _, anchor = runbook.section(f"company: {words}; and so on").partition("#")
        assert path == runbook.ADDRESS
        assert (ROOT / path).is_file()
        assert anchor in anchors(ROOT / path), words
        assert f'id="{anchor}"' in served, words
        led[words] = anchor
    assert len(set(led.values())) == len(re.findall("^### `", REASONS, re.MULTILINE)), "each section is led to"
    said = 'no such luck: database "hush" does not exist'
    assert runbook.section(said) == f"{runbook.ADDRESS}#no-connection-within"
    assert runbook.section("deadlock detected") == f"{runbook.ADDRESS}#other-words-of-a-database"
    assert runbook.section(runbook.COUNTS_ARE_OLD) in (ROOT / "worker" / "observe" / "page.html").read_text()
    assert "<ol" not in served, "a status is no number of a list"
    for target in re.findall('<a href="(.+?)"', served):
        assert f'id="{target.removeprefix("#")}"' in served, f"{target} leads nowhere"


def test_every_sqlstate_with_a_hint_is_in_the_runbook() -> None:
    for sqlstate in hints._HELP:
        assert f"`{sqlstate}`" in REASONS


def test_every_reason_for_no_connection_is_in_the_runbook() -> None:
    said = re.findall(
        r"`([^`]+)`", "".join(line.split("|")[1] for line in REASONS.splitlines() if line.startswith("| `"))
    )
    for pattern in hints._UNREACHED:
        assert any(re.search(pattern, words, re.IGNORECASE) for words in said), pattern


def test_every_code_of_a_workspace_row_is_in_the_state_machine() -> None:
    page = (ROOT / "docs" / "state-machine.md").read_text()
    rows = [line.split("|")[2] for line in page.splitlines() if line.startswith("|")]
    described = {code for cell in rows for code in re.findall(r"`([a-z_]+)`", cell)}
    assert {*Code} - described == set()


def test_every_setting_is_described() -> None:
    for field in Settings.model_fields.values():
        assert f"`{field.validation_alias}`" in OPERATING


def test_every_event_of_the_log_is_described_and_no_other() -> None:
    sources = [module.read_text() for module in (ROOT / "worker").rglob("*.py")]
    logged = {
        event
        for source in sources
        for event in re.findall(r"\.(?:info|warning|error|exception)\(\s*\"([a-z]+\.[a-z_.]+)\"", source)
    }
    written = {text for source in sources for text in re.findall(r"\"([a-z_.]+)\"", source)}
    table = re.search(r"^\| event \| level \| fields \|\n(?:\|.*\n)+", OPERATING, re.MULTILINE)
    assert table
    cells = [line.split("|")[1] for line in table[0].splitlines()[2:]]
    described = {event for cell in cells for event in re.findall(r"`([a-z_.]+)`", cell)}
    assert logged - described == set()
    assert described - written == set()


SECTIONS = {
    EntityFile: "At the top", Key: "key", Tables: "tables", Master: "master", Mapped: "mapping", Wait: "waits",
    Slot: "slot", Role: "slot.roles", Duplicates: "duplicates", Alike: "duplicates.by", Rule: "The rules",
}  # fmt: skip
"""What an entity file is made of → its heading in docs/entities.md."""


def table_below(heading: str, first: str) -> list[list[str]]:
    """The cells of the first table below a heading whose first column is called so."""
    section = re.search(rf"^##+ {re.escape(heading)}\n(.*?)(?=^##+ |\Z)", ENTITIES, re.MULTILINE | re.DOTALL)
    table = section and re.search(rf"^\| {first} \|.*\n((?:\|.*\n)+)", section[1], re.MULTILINE)
    assert table, heading
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[1].splitlines()[1:]]


def test_every_part_of_an_entity_file_has_its_section() -> None:
    assert {*Part.__subclasses__(), Rule} == set(SECTIONS)


@pytest.mark.parametrize("part", SECTIONS, ids=lambda part: part.__name__)
def test_every_key_of_an_entity_file_is_described_and_no_other(part) -> None:
    described = [cells[0].strip("`") for cells in table_below(SECTIONS[part], "key")]
    assert sorted(described) == sorted(part.model_fields)


def test_every_kind_of_rule_is_described_and_no_other() -> None:
    rows = {cells[0].strip("`"): cells for cells in table_below("The rules", "kind")}
    assert set(rows) == {name_of(kind) for kind in KINDS}
    for kind in KINDS:
        _, keys, _, _, code = rows[name_of(kind)]
        for key in kind.model_fields.keys() - Rule.model_fields.keys():
            assert f"`{key}`" in keys, f"{name_of(kind)}: {key}"
        assert code == f"`{kind.CODE}_…`", name_of(kind)
