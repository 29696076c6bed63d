"""The recording and alerting rules: promtool on them and their tests, and what both must hold."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests.tools import require

from worker_exporter.metrics.family import FAMILIES
from worker_sidecar.cli.program import cli as sidecar
from worker_sidecar.metrics import SidecarMetrics

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "alerts"
RUNBOOKS = ROOT / "docs/runbooks"
TESTS = sorted((ALERTS / "tests").glob("*.yml"))
SCRAPE_SECONDS = 15
"""How often deploy/prometheus/prometheus.yml scrapes; a window needs four of them."""

OF_PROMETHEUS = {"up", "scrape_duration_seconds"}
"""Series that Prometheus itself writes for each target."""

OWN = (
    "worker_exporter_build_info",
    "worker_exporter_workers",
    "worker_exporter_duplicate_workers",
    "worker_exporter_dropped_workers",
    "worker_exporter_memory_source",
    "worker_exporter_collector_duration_seconds",
    "worker_exporter_collector_success",
    "worker_exporter_read_errors_total",
    "worker_exporter_scrape_duration_seconds",
)

LEVELS = {
    "worker": {"node", "service", "instance"},
    "service": {"node", "service"},
    "node": {"node"},
    "gpu": {"node", "gpu", "uuid", "mig"},
    "threshold": set[str](),
}
SEVERITIES = {"critical", "warning", "info"}
WITHOUT_NODE = {"WorkerWatchdog"}
"""Alerts about no node; they always fire, so there is nothing to fire just below, either."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a file. `record` or `alert` is empty."""

    record: str
    alert: str
    expression: str
    labels: dict[str, str]
    annotations: dict[str, str]


def rules_of(name: str) -> list[Rule]:
    document = yaml.safe_load((ALERTS / name).read_text())
    return [
        Rule(
            rule.get("record", ""),
            rule.get("alert", ""),
            rule["expr"],
            rule.get("labels", {}),
            rule.get("annotations", {}),
        )
        for group in document["groups"]
        for rule in group["rules"]
    ]


RULES = [*rules_of("recording.yml"), *rules_of("alerts.yml")]
FIRING = [rule for rule in RULES if rule.alert]
RECORDING = [rule for rule in RULES if rule.record]


def promtool(*arguments: str | Path) -> None:
    """Run promtool; its words are the failure."""
    said = subprocess.run(
        [require("promtool"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    assert said.returncode == 0, said.stdout


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", ALERTS / "recording.yml", ALERTS / "alerts.yml")


@pytest.mark.parametrize("file", TESTS, ids=lambda file: file.stem)
def test_the_rules_pass_their_tests(file: Path) -> None:
    promtool("test", "rules", file)


def metrics_in(expression: str) -> set[str]:
    """The metric names in a PromQL expression, recorded ones too."""
    text = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    text = re.sub(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", text)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    return set(re.findall(r"\b(?:[a-z]+:[\w:]+|worker_\w+|up\b|scrape_\w+)", text))


def served() -> set[str]:
    """The names of all samples that the exporter and the sidecar can serve."""
    metrics = SidecarMetrics(CollectorRegistry())
    metrics.desired([("llm", "8080", 1)])
    metrics.probing(["llm"])
    metrics.launched("llm", "started")
    metrics.launch_took(1, "llm")
    metrics.probe_took(1, "llm")
    metrics.requested("GET", 200)
    text = metrics.exposition("text/plain")[0].decode()
    names = {
        sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("worker_")
    }
    return names | {family.name for family in FAMILIES} | set(OWN)


def test_every_metric_in_a_rule_exists() -> None:
    known = served() | OF_PROMETHEUS | {rule.record for rule in RECORDING}
    for rule in RULES:
        for text in (rule.expression, *queries_of(rule)):
            unknown = metrics_in(text) - known
            assert not unknown, (rule.record or rule.alert, unknown)


def queries_of(rule: Rule) -> list[str]:
    """The queries in an alert's annotations, as the templates print them."""
    templates = re.findall(r'printf\s+"((?:[^"\\]|\\.)*)"', " ".join(rule.annotations.values()))
    return [text.replace('\\"', '"').replace("%q", '"x"') for text in templates if text != "%q"]


def test_every_family_of_the_exporters_own_exists() -> None:
    document = (ROOT / "docs/metrics.md").read_text()
    assert set(re.findall(r"^\| `(worker_exporter_\w+)`", document, re.MULTILINE)) == set(OWN)


@pytest.mark.parametrize("rule", RECORDING, ids=lambda rule: rule.record)
def test_a_recorded_name_tells_its_labels(rule: Rule) -> None:
    level, metric, operations = rule.record.split(":")
    assert level in LEVELS
    assert re.fullmatch(r"worker_[a-z_]+", metric)
    assert not metric.endswith("_total")
    assert re.fullmatch(r"[a-z0-9_]+", operations)
    assert "percent" not in rule.record
    clauses = labels_of(rule.expression)
    if level == "threshold":
        assert rule.expression.startswith("vector(")
    else:
        assert all(set(labels) == LEVELS[level] for labels in clauses)
        assert clauses or rule.expression.startswith(f"{level}:"), "it keeps labels of the target"
    for window in re.findall(r"(?:rate|increase)(\d+[sm])$", operations):
        assert f"[{window}]" in rule.expression or ":" in rule.expression


def labels_of(expression: str) -> list[tuple[str, ...]]:
    """The labels of each `by (...)` in an expression."""
    return [
        tuple(re.split(r",\s*", labels)) for labels in re.findall(r"\bby\s*\(([^)]*)\)", expression)
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.record or rule.alert)
def test_windows_hold_four_scrapes(rule: Rule) -> None:
    units = {"s": 1, "m": 60, "h": 3600}
    for count, unit in re.findall(r"\[(\d+)([smh])(?::\w+)?\]", rule.expression):
        assert int(count) * units[unit] >= 4 * SCRAPE_SECONDS


@pytest.mark.parametrize("rule", FIRING, ids=lambda rule: rule.alert)
def test_an_alert_says_all_it_should(rule: Rule) -> None:
    assert re.fullmatch(r"Worker[A-Za-z]+", rule.alert)
    assert set(rule.labels) == {"severity"}
    assert rule.labels["severity"] in SEVERITIES
    assert set(rule.annotations) == {"summary", "description", "runbook_url"}
    assert "{{" not in rule.annotations["summary"]
    assert "{{" in rule.annotations["description"]
    page = ROOT / rule.annotations["runbook_url"]
    assert page == RUNBOOKS / f"{rule.alert}.md"
    assert page.is_file()


@pytest.mark.parametrize(
    "rule", [rule for rule in FIRING if rule.alert not in WITHOUT_NODE], ids=lambda rule: rule.alert
)
def test_an_alert_has_labels_that_inhibition_can_compare(rule: Rule) -> None:
    """One that is aggregated has no `job`, which would differ between exporter and sidecar."""
    clauses = labels_of(rule.expression)
    assert clauses
    allowed = LEVELS["worker"] | LEVELS["gpu"]
    for labels in clauses:
        assert "node" in labels
        assert set(labels) <= allowed
        assert ("instance" in labels) <= ("service" in labels)


@dataclass(frozen=True, slots=True)
class Check:
    """What one test of a file expects of an alert at one moment."""

    test: str
    alert: str
    fires: bool
    flaps: bool


def is_missed(series: str, values: str) -> bool:
    """Whether a scrape in these values fails: `up` is 0 amid 1, or a series ends and goes on."""
    if series.startswith("up{"):
        return re.search(r"\b1(x\d+)? 0\b.* 1(x|\b)", values) is not None
    return re.search(r"\bstale\b.*\d", values) is not None


def checks() -> Iterator[Check]:
    for file in TESTS:
        document: dict[str, Any] = yaml.safe_load(file.read_text())
        for test in document["tests"]:
            flaps = any(is_missed(each["series"], each["values"]) for each in test["input_series"])
            for check in test.get("alert_rule_test", ()):
                fires = bool(check.get("exp_alerts"))
                yield Check(test["name"], check["alertname"], fires, flaps)


CHECKS = list(checks())


@pytest.mark.parametrize("rule", FIRING, ids=lambda rule: rule.alert)
def test_an_alert_is_tested(rule: Rule) -> None:
    """It fires, it does not fire just below, and it survives a flapping scrape."""
    mine = [check for check in CHECKS if check.alert == rule.alert]
    assert any(check.fires and check.test.startswith(f"{rule.alert} fires") for check in mine)
    survives = f"{rule.alert} survives a flapping scrape"
    assert any(check.fires and check.flaps and check.test.startswith(survives) for check in mine)
    below = [check for check in mine if check.test.startswith(f"{rule.alert} does not fire")]
    assert below or rule.alert in WITHOUT_NODE
    assert not any(check.fires for check in below)


def test_no_test_is_for_an_alert_that_is_not_there() -> None:
    """promtool takes an unknown alert for one that does not fire."""
    assert {check.alert for check in CHECKS} == {rule.alert for rule in FIRING}


PAGES = sorted(RUNBOOKS.glob("*.md"))


def test_there_is_no_page_without_its_alert() -> None:
    assert {page.stem for page in PAGES} - {"README"} == {rule.alert for rule in FIRING}


def test_the_list_of_runbooks_is_that_of_the_alerts() -> None:
    rows = re.findall(
        r"^\| \[(\w+)\]\(\1\.md\) \| (\w+) \| (.*) \|$",
        (RUNBOOKS / "README.md").read_text(),
        re.MULTILINE,
    )
    assert rows == [
        (rule.alert, rule.labels["severity"], rule.annotations["summary"]) for rule in FIRING
    ]


@pytest.mark.parametrize("rule", FIRING, ids=lambda rule: rule.alert)
def test_a_runbook_is_whole(rule: Rule) -> None:
    text = (RUNBOOKS / f"{rule.alert}.md").read_text()
    assert text.startswith(f"# {rule.alert}\n")
    assert f"\nSeverity: {rule.labels['severity']}" in text
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == ["What it means", "How to look", "What to do", "Silence"]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_runbook_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.is_file(), target
        assert not anchor or anchor in anchors(there), target


def test_the_queries_of_the_runbooks_are_right(tmp_path: Path) -> None:
    """promtool parses them as rules, and each of their metrics exists."""
    known = served() | OF_PROMETHEUS | {rule.record for rule in RECORDING}
    queries = [
        query
        for page in PAGES
        for block in re.findall(r"^```promql\n(.*?)^```", page.read_text(), re.M | re.S)
        for query in block.splitlines()
    ]
    assert len(queries) > len(PAGES)
    for query in queries:
        assert metrics_in(query), query
        assert metrics_in(query) <= known, query
    rules = [{"record": f"query:{n}", "expr": query} for n, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "runbooks", "rules": rules}]}))
    promtool("check", "rules", file)


def sidecar_commands() -> Iterator[list[str]]:
    """The words of every command of worker-sidecar in a runbook, comments left out."""
    for page in PAGES:
        for code in re.findall(
            r"`(worker-sidecar [^`]+)`|^(worker-sidecar .*)$", page.read_text(), re.M
        ):
            yield "".join(code).partition(" #")[0].split()[1:]


def test_the_sidecar_knows_the_commands_of_the_runbooks() -> None:
    context = click.Context(sidecar)
    seen = set()
    for command, *words in sidecar_commands():
        known = sidecar.get_command(context, command)
        assert known is not None, command
        options = {option for each in known.params for option in each.opts}
        words = words[: words.index("--")] if "--" in words else words
        used = {word.partition("=")[0] for word in words if word.startswith("-")}
        assert used <= options, (command, used)
        seen.add(command)
    assert {"ps", "logs", "run", "stop"} <= seen
