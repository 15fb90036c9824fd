"""The files in ``deploy/`` fit what the worker exposes. Issue 5."""

import json
import math
import re
import shutil
import subprocess

import pytest
from conftest import ROOT
from prometheus_client.parser import text_string_to_metric_families

from worker.observe import health
from worker.observe.metrics import PREFIX
from worker.observe.monitor import Monitor
from worker.operate import doctor
from worker.settings import SECRETS, Settings
from worker.sync import pull

DEPLOY = ROOT / "deploy"
KEYWORDS = {"instance", "job", "le"}  # labels that Prometheus adds
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    return Monitor(["company", "people"])


@pytest.fixture(scope="module")
def told(monitor) -> dict[str, set[str]]:
    """Every series of ``/metrics`` and its labels."""
    text = monitor.exposition()[0].decode()
    families = {family.name: family.type for family in text_string_to_metric_families(text)}
    labels = {
        metric._name: set(metric._labelnames)
        for metric in vars(monitor.metrics).values()
        if hasattr(metric, "_labelnames")
    }
    return {f"{name}{suffix}": labels.get(name, set()) for name, kind in families.items() for suffix in SUFFIXES[kind]}


def expressions(name: str) -> list[str]:
    text = (DEPLOY / name).read_text()
    if name.endswith(".json"):
        board = json.loads(text)
        variables = [one["query"]["query"] for one in board["templating"]["list"] if isinstance(one["query"], dict)]
        return variables + [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return re.findall(r"expr: (?:>-\n)?(.*?)\n {8}(?:for|labels):", text, re.DOTALL)


@pytest.mark.parametrize(("name", "least"), [("prometheus-alerts.yml", 14), ("grafana-dashboard.json", 25)])
def test_every_metric_and_label_that_is_asked_for_exists(told, name, least) -> None:
    found = expressions(name)
    assert len(found) >= least
    assert (DEPLOY / name).read_text().count("expr") <= len(found), "an expression was not found"
    for expression in found:
        series = re.findall(rf"((?:{PREFIX}|process)_\w+)(?:\{{(.*?)\}})?", expression)
        assert series, expression
        for metric, matchers in series:
            assert metric in told, f"{metric} is not in /metrics: {expression}"
            asked = set(re.findall(r"(\w+)(?:=~|!=|=)", matchers))
            grouped = re.findall(r"by \((.*?)\)", expression)
            asked |= {label.strip() for labels in grouped for label in labels.split(",")}
            assert asked - KEYWORDS <= told[metric], expression


def test_the_page_of_metrics_lists_every_metric_with_its_type_and_labels(monitor) -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \|", (DEPLOY / "metrics.md").read_text(), re.MULTILINE
    )
    written = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    there = {}
    for metric in vars(monitor.metrics).values():
        if hasattr(metric, "_labelnames"):
            name = metric._name.removeprefix(f"{PREFIX}_") + ("_total" if metric._type == "counter" else "")
            there[name] = (metric._type, tuple(metric._labelnames))
    assert written == there


def test_every_alert_says_what_to_do() -> None:
    text = (DEPLOY / "prometheus-alerts.yml").read_text()
    alerts = text.split("- alert: ")[1:]
    for alert in alerts:
        for part in ("expr:", "severity:", "summary:", "action:"):
            assert part in alert, alert
    names = [alert.split("\n")[0] for alert in alerts]
    assert len(set(names)) == len(names)


LIMITS = {
    "EnrichmentWebhookBehind": doctor.LATE_SECONDS,
    "EnrichmentPullOverdue": health.LATE * Settings.model_fields["pull_interval"].default,
    "EnrichmentFullPullOverdue": 2 * pull.FULL_EVERY.total_seconds(),
}
"""Alert → seconds, as the worker itself counts them and the alert's words say."""


@pytest.mark.parametrize("alert", LIMITS)
def test_an_alerts_limit_is_in_seconds_and_the_workers_own(alert) -> None:
    text = (DEPLOY / "prometheus-alerts.yml").read_text()
    limit = re.search(rf"- alert: {alert}\n +expr: (?:>-\n +)?.*_seconds\) > ([0-9 *]+)\n", text)
    assert limit, "its expression was not found"
    assert math.prod(map(int, limit[1].split("*"))) == LIMITS[alert]


def test_panels_do_not_lie_over_each_other() -> None:
    board = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


@pytest.mark.parametrize("unit", ["enrichment-worker.service", "enrichment-worker@.service"])
def test_a_unit_hands_over_every_secret_and_may_do_without_those_that_are_optional(unit) -> None:
    text = (DEPLOY / "systemd" / unit).read_text()
    folder = "/etc/enrichment-worker/credentials"
    for name in SECRETS:
        assert f"LoadCredential={name}:{folder}/{name}\n" in text
        assert (f"SetCredential={name}:\\n" in text) != (name in ("NEON_DATABASE_URL", "SUPABASE_DATABASE_URL"))
        assert name in (DEPLOY / "install").read_text()


PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: apt-get install prometheus")
def test_prometheus_own_checker_finds_nothing_in_the_metrics_the_alerts_and_the_dashboard(monitor, tmp_path) -> None:
    for database in ("neon", "supabase"):
        monitor.metrics.observe_pool(database, {"connections_errors": 1})
    texts = {"metrics": monitor.exposition()[0].decode(), "rules": (DEPLOY / "prometheus-alerts.yml").read_text()}
    # The dashboard's expressions, as rules that Prometheus could record.
    lines = ["groups:", "- name: board", "  rules:"]
    for number, expression in enumerate(expressions("grafana-dashboard.json")):
        if not expression.startswith("label_values("):
            known = expression.replace("$__rate_interval", "5m").replace("$__range", "1h")
            lines += [f"  - record: board:expression:{number}", f"    expr: {json.dumps(known)}"]
    texts["board"] = "\n".join(lines)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    for name in ("rules", "board"):
        done = subprocess.run([PROMTOOL, "check", "rules", tmp_path / name], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=texts["metrics"], capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_is_counted_since_the_start_is_a_counter(monitor) -> None:
    monitor.metrics.observe_pool("neon", {"connections_errors": 2, "connections_lost": 1})
    monitor.metrics.observe_pool("neon", {"connections_errors": 3, "connections_lost": 1})
    monitor.metrics.observe_pool("neon", {"connections_errors": 1})  # its pool is another one
    monitor.metrics.observe_lost(7)
    text = monitor.exposition()[0].decode()
    assert 'enrichment_worker_pool_connection_errors_total{database="neon"} 5.0' in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    for name, family in families.items():
        assert family.type == "counter" or "since the start" not in family.documentation, name
    assert families[f"{PREFIX}_log_lost_lines"].type == "counter"
