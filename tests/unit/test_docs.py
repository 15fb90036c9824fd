"""The pages: links lead somewhere, alerts have their section, and what they list is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import ROOT

from worker.settings import Settings

PAGES = sorted(
    page for page in ROOT.rglob("*.md") if not any(part.startswith(".") for part in page.relative_to(ROOT).parts)
)
OPERATING = (ROOT / "docs" / "operating.md").read_text()


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


def test_every_setting_is_described() -> None:
    for field in Settings.model_fields.values():
        assert f"`{field.validation_alias}`" in OPERATING


def test_every_event_of_the_log_is_described_and_no_other() -> None:
    said = {
        event
        for module in (ROOT / "worker").rglob("*.py")
        for event in re.findall(r"\.(?:info|warning|error|exception)\(\s*\"([a-z]+\.[a-z_]+)\"", module.read_text())
    }
    table = re.search(r"^\| event \| fields \|\n(?:\|.*\n)+", OPERATING, re.MULTILINE)
    assert table
    cells = [line.split("|")[1] for line in table[0].splitlines()[2:]]
    described = {event for cell in cells for event in re.findall(r"`([a-z_.]+)`", cell)}
    assert said - described == set()
