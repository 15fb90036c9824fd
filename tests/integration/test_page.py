"""The status page in a real, headless Chromium. Issue 5."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from conftest import connect
from records import add_companies, add_people, company, complete, edit, master, work

from worker.domain.model import OutcomeSummary
from worker.domain.recent import Recent

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
STATES = ("pending", "in_progress", "complete", "waiting", "promoted", "failed")
PATIENCE = 30_000  # milliseconds
FAILURES_OF_WEEKS = """
INSERT INTO enrichment_failures (entity, week, reason_code, field, records)
SELECT e.entity, date_trunc('week', now() AT TIME ZONE 'UTC')::date - 7 * (12 - w), e.code, f.field, w * e.many
FROM generate_series(1, 12) w, (VALUES ('company', 'EMPTY_WEBSITE', 'website', 1), ('company', 'REFUSED_BY_MASTER',
    'employee_count', 2), ('people', 'PLACEHOLDER_EMAIL', 'email', 1.5), ('people', 'EMPTY_FULL_NAME', 'full_name', 0.2),
    ('company', 'LONG_' || repeat('REASON_', 5) || 'NAME', 'company_name', 0.4)) e (entity, code, name, many),
  LATERAL (VALUES (''), (e.name)) f (field)
WHERE e.many = 1 OR w % 4 = 0
"""
SIZES = [(390, 844), (1400, 900)]


@dataclass
class Seen:
    """A page, and what the browser said of it."""

    page: object
    requests: list[str] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    def number(self, name: str, state: str) -> int:
        return int(self.page.locator(f"#{name}-{state}").inner_text().replace(",", ""))

    def wait_number(self, name: str, state: str, number: int) -> None:
        self.page.wait_for_function(
            "([id, number]) => document.getElementById(id)?.textContent === String(number)",
            arg=[f"{name}-{state}", number],
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Its sandbox needs privileges that a container does not give; it sees this worker's own page only.
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def running(cli, prepared, neon, daemon, env, supabase, eventually):
    env["WORKER_SWEEP_INTERVAL"] = "0.2"
    add_companies(neon, *range(1, 8))
    add_people(neon, 1, of=7, company_name="<b>Bold & Sons</b>")
    worker = daemon()
    eventually(lambda: supabase.execute("SELECT FROM people_needs_enrichment").fetchall())
    eventually(lambda: supabase.execute("SELECT count(*) AS n FROM company_needs_enrichment").fetchone()["n"] == 7)
    for number in (1, 2):
        complete(supabase, company(number), website=f"https://c{number}.example")
    for number in (3, 4):
        complete(supabase, company(number), website="test.com")
    complete(supabase, company(5), website="https://c5.example", company_name="n/a")
    edit(supabase, company(6), enrichment_status="in_progress")
    for number in range(1, 6):
        eventually(lambda number=number: work(supabase, company(number))["pushed_to_neon_at"])
    return worker


@pytest.fixture
def opened(running, browser):
    """Opens the status page; what a browser would complain of fails the test."""
    contexts, all_seen = [], []

    def open_page(width: int = 1400, height: int = 900, scheme: str = "light") -> Seen:
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        seen = Seen(page)
        all_seen.append(seen)
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("console", lambda message: seen.trouble.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: seen.trouble.append(f"error: {error}"))
        page.goto(f"http://{running.address}/", wait_until="domcontentloaded")
        seen.wait_number("company", "promoted", 2)
        seen.wait_number("company", "failed", 3)
        return seen

    yield open_page
    for context in contexts:
        context.close()
    for seen in all_seen:
        assert seen.trouble == []
        assert [url for url in seen.requests if not url.startswith((f"http://{running.address}/", "data:"))] == []


def test_the_numbers_are_those_of_the_databases(opened, supabase) -> None:
    seen = opened()
    row = supabase.execute(
        "SELECT count(*) AS total, count(*) FILTER (WHERE enrichment_status = 'pending') AS pending,"
        " count(*) FILTER (WHERE enrichment_status = 'in_progress') AS in_progress,"
        " count(*) FILTER (WHERE promoted_at IS NOT NULL) AS promoted,"
        " count(*) FILTER (WHERE enrichment_status = 'failed') AS failed FROM company_needs_enrichment"
    ).fetchone()
    assert {name: seen.number("company", name) for name in row} == row
    assert [seen.number("people", state) for state in STATES] == [1, 0, 0, 0, 0, 0]
    # In one go: a count that comes in between replaces the rows.
    lines = seen.page.evaluate("() => [...document.querySelectorAll('#why tbody tr')].map((line) => line.innerText)")
    reasons = [line.split() for line in lines]
    assert [(line[0], line[1]) for line in reasons] == [("2", "PLACEHOLDER_WEBSITE"), ("1", "PLACEHOLDER_COMPANY_NAME")]
    assert {company(3), company(4)} <= set(reasons[0])
    assert seen.page.locator("#state").inner_text() == "Ready"
    assert seen.page.locator("#trouble").is_hidden()
    assert "2 promoted, 3 flagged" in seen.page.locator("#throughput-said").inner_text()
    assert seen.page.locator("#throughput .mark").count() >= 2
    assert seen.page.locator("#delay .middle").count() >= 1


def test_an_outcome_appears_without_a_reload(opened, supabase, neon) -> None:
    seen = opened()
    seen.page.evaluate("window.untouched = true")
    complete(supabase, company(6), website="https://c6.example")
    row = seen.page.locator("#news tbody tr", has_text=company(6))
    row.wait_for()
    assert "promoted" in row.inner_text()
    seen.wait_number("company", "promoted", 3)
    seen.wait_number("company", "in_progress", 0)
    assert master(neon, company(6)) is not None
    assert seen.page.evaluate("window.untouched") is True
    seen.page.wait_for_function("() => document.getElementById('said').textContent === '1 promoted'")


def test_an_enricher_follows_a_label_to_what_he_sent_and_sees_that_only(opened, running, supabase) -> None:
    seen = opened()
    complete(supabase, company(6), website="https://c6.example", enriched_by="kim@alder.example")
    link = seen.page.locator("#news tbody tr", has_text=company(6)).locator("a")
    label = link.inner_text()
    link.click()
    seen.page.locator("#news-whose", has_text=f"only of {label}").wait_for()
    complete(supabase, company(7), website="https://c7.example", enriched_by="robin@alder.example")
    complete(supabase, company(3), website="https://c3.example", enriched_by=" Kim@Alder.example ")
    seen.page.locator("#news tbody tr", has_text=company(3)).wait_for()
    assert seen.page.locator("#news tbody .who code").all_inner_texts() == [company(3), company(6)]
    seen.page.reload(wait_until="domcontentloaded")
    seen.page.locator("#news tbody tr", has_text=company(6)).wait_for()
    assert seen.page.locator("#news tbody .who code").all_inner_texts() == [company(3), company(6)]
    assert seen.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    seen.page.get_by_role("link", name="show all").click()
    seen.page.locator("#news tbody tr", has_text=company(7)).wait_for()
    assert "alder.example" not in running.health("/status.json")[1].lower()
    # Another process has another key: whoever knows the address cannot compute the label.
    same = OutcomeSummary(company(6), "promoted", enriched_by="kim@alder.example")
    assert Recent().add("company", [same])[0]["by"] != label


def test_trouble_is_told_and_goes_away(opened, pg_server, supabase) -> None:
    seen = opened()
    with connect(pg_server.url()) as admin:
        admin.execute(f"ALTER DATABASE {supabase.info.dbname} ALLOW_CONNECTIONS false")
    # Nothing can be counted then, and the page is told all the same.
    supabase.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                     " WHERE datname = current_database() AND application_name = 'enrichment-worker'")  # fmt: skip
    seen.page.locator("#state", has_text="Not ready").wait_for()
    seen.page.locator("#reasons", has_text="sweep").wait_for()
    assert "listener" in seen.page.locator("#reasons").inner_text()
    address = seen.page.locator("#reasons a").first.get_attribute("href")
    beside = seen.page.context.new_page()
    beside.goto(f"{seen.page.url}{address}")
    assert beside.locator(":target").inner_text()
    assert "What each alert and each reason" in beside.locator("body").inner_text()
    assert beside.evaluate("document.documentElement.scrollWidth <= innerWidth")
    beside.close()
    with connect(pg_server.url()) as admin:
        admin.execute(f"ALTER DATABASE {supabase.info.dbname} ALLOW_CONNECTIONS true")
    seen.page.locator("#state", has_text="Ready").filter(has_not_text="Not").wait_for(timeout=4 * PATIENCE)
    # It is ready before the next count; until then the page says that its numbers are old.
    seen.page.locator("#trouble").wait_for(state="hidden", timeout=4 * PATIENCE)


def test_the_page_says_when_the_worker_is_gone(opened, running) -> None:
    seen = opened()
    assert running.terminate() == 0
    seen.page.locator("#state", has_text="No connection to the worker").wait_for()
    # That it is refused is what the browser is expected to complain of here.
    seen.trouble[:] = [line for line in seen.trouble if "ERR_" not in line]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_it_fits_the_screen_and_can_be_read(opened, cli, supabase, width, height, scheme) -> None:
    # Also what is rarely there: a pause, weeks of failures, what came back often.
    supabase.execute(FAILURES_OF_WEEKS)
    with supabase.transaction():
        supabase.execute("SELECT set_config('enrichment_worker.writer', 'on', true)")
        supabase.execute("UPDATE company_needs_enrichment SET times_returned = 7, returned_at ="
                         " array_fill(now() AT TIME ZONE 'UTC', ARRAY[4]) WHERE company_unique_id = %s", [company(3)])  # fmt: skip
    assert cli("pause", "people").returncode == 0
    page = opened(width, height, scheme).page
    page.locator("#people-paused").wait_for()
    page.locator("#weeks tbody tr").nth(4).wait_for()
    assert page.locator("#trouble").is_hidden(), "it is as it was meant to be"
    assert "1 failed, four times or more" in page.locator("article", has_text="companies").inner_text()
    first = page.locator("#weeks tbody tr").first
    assert re.split(r"\s+", first.inner_text().strip()) == ["EMPTY_WEBSITE", "company", "·", "website", "11", "12"]
    assert first.locator("rect").count() == 12
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    clipped = page.evaluate("""() => [...document.querySelectorAll("dt, dd, td, h1, h2, h3, p")].filter((node) =>
        node.offsetParent && node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).display !== "inline"
        && !node.closest(".unseen")).map((node) => node.textContent)""")
    assert clipped == []
    # WCAG's contrast of text on its ground, computed as the browser drew it.
    faint = page.evaluate("""() => {
        const parts = (colour) => colour.match(/[0-9.]+/g).map(Number);
        const light = ([r, g, b]) => { const [x, y, z] = [r, g, b].map((c) => { c /= 255;
          return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; });
          return 0.2126 * x + 0.7152 * y + 0.0722 * z; };
        const ground = (node) => { for (; node; node = node.parentElement) {
          const colour = parts(getComputedStyle(node).backgroundColor);
          if (colour.length < 4 || colour[3] === 1) return colour; } return [255, 255, 255]; };
        return [...document.querySelectorAll("h1, h2, h3, p, dt, dd, th, td, code, span, a, strong")]
          .filter((node) => node.offsetParent && node.textContent.trim() && !node.closest(".unseen, .skip, tr.new"))
          .map((node) => { const [a, b] = [light(parts(getComputedStyle(node).color)), light(ground(node))]
            .sort((x, y) => y - x); return [node.textContent, (a + 0.05) / (b + 0.05)]; })
          .filter(([, contrast]) => contrast < 4.5); }""")
    assert faint == []


def test_it_can_be_used_by_keyboard_and_heard(opened) -> None:
    seen = opened()
    page = seen.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.name") == "range"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.querySelector('input[name=range]:checked').value") in {"600", "3600"}
    tree = page.locator("body").aria_snapshot()
    for part in (
        "banner:", "main:", "contentinfo:", 'navigation "Other addresses"', 'heading "enrichment-worker" [level=1]',
        'region "Where records stand"', 'region "What fails, and why"', 'columnheader "Reason"',
        'radio "10 minutes"', 'img "Records answered"', "status: Ready",
    ):  # fmt: skip
        assert part in tree, f"{part} is not in\n{tree}"
    assert page.locator("[aria-live=polite]").count() == 1
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.title() == "Ready · enrichment-worker"
