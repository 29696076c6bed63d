"""The committed dashboards: what each has to hold, and that its rules refuse what does not."""

import copy
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from tests import dashboard_lint as lint
from tests.queries import Query, dashboards, interpolated, panels, queries, rules, selectors

from worker_exporter.metrics.family import FAMILIES, Family
from worker_sidecar.metrics import SidecarMetrics

DASHBOARDS = dashboards()
NAMES = ("exporter", "fleet", "gpu", "service", "worker")
ALL_QUERIES = [query for name, each in DASHBOARDS.items() for query in queries(name, each)]

WORKER = {"node", "service", "instance"}
LEVELS = {
    "worker": WORKER,
    "service": {"node", "service"},
    "node": {"node"},
    "gpu": {"node", "gpu", "uuid", "mig"},
    "threshold": set[str](),
}
OF_PROMETHEUS = {
    **{name: {"node", "job"} for name in ("up", "scrape_duration_seconds")},
    "scrape_samples_scraped": {"node", "job"},
    **{
        name: {"node", "job"}
        for name in (
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_open_fds",
            "process_max_fds",
        )
    },
    "ALERTS": {"alertname", "alertstate", "severity", *WORKER, "gpu", "uuid", "mig"},
    "ALERTS_FOR_STATE": {"alertname", "severity", *WORKER, "gpu", "uuid", "mig"},
}
"""Series of Prometheus itself, and those that each process has; with their labels."""


def labels_of_family(family: Family) -> set[str]:
    """The labels of a family of the exporter, as Prometheus has them."""
    if family.collector in ("exporter", "node") or family.name.startswith("worker_node_"):
        return {"node", *family.labels}
    if family.collector == "services":
        return {"node", "service", *family.labels}
    return {*WORKER, *family.labels}


def labels_of_sidecar() -> dict[str, set[str]]:
    """The labels of the sidecar's own series."""
    metrics = SidecarMetrics(CollectorRegistry())
    metrics.desired([("llm", "8080", 1)])
    metrics.probing(["llm"])
    metrics.launch_took(1, "llm")
    metrics.probe_took(1, "llm")
    metrics.requested("GET", 200)
    text = metrics.exposition("text/plain")[0].decode()
    return {
        sample.name: {"node", *sample.labels}
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("worker_")
    }


KNOWN = {
    **OF_PROMETHEUS,
    **{family.name: labels_of_family(family) for family in FAMILIES},
    **labels_of_sidecar(),
    **{rule.record: LEVELS[rule.record.partition(":")[0]] for rule in rules() if rule.record},
}


def test_they_are_those_that_are_promised() -> None:
    told = {name: (each["uid"], each["title"], each["tags"]) for name, each in DASHBOARDS.items()}
    assert told == {
        name: (
            f"worker-{name}",
            f"Workers / {'GPU' if name == 'gpu' else name.capitalize()}",
            ["worker-exporter"],
        )
        for name in NAMES
    }
    names = {"datasource", "node", "service", "instance", "gpu"}
    assert {each for one in DASHBOARDS.values() for each in lint.variables(one)} == names


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rule", lint.RULES, ids=lambda rule: rule.__name__)
def test_it_keeps_the_rule(name: str, rule: lint.Rule) -> None:
    assert list(rule(DASHBOARDS[name])) == []


def test_no_link_is_broken() -> None:
    assert list(lint.broken_links(DASHBOARDS)) == []


@pytest.mark.parametrize("query", ALL_QUERIES, ids=lambda query: query.place)
def test_its_series_and_their_labels_exist(query: Query) -> None:
    named = selectors(query.expression)
    assert named
    assert {name for name, _ in named if name not in KNOWN} == set()
    for name, matchers in named:
        text = re.sub(r'"(?:[^"\\]|\\.)*"', "", matchers)
        assert set(re.findall(r"\w+", text)) <= KNOWN[name], name
    made = set(re.findall(r'label_replace\(.*?, "(\w+)"', query.expression))
    there = set[str]().union(*(KNOWN[name] for name, _ in named), made)
    for clause in re.findall(r"\b(?:by|on) \(([^)]*)\)", query.expression):
        assert set(re.split(r",\s*", clause)) <= there


def test_each_family_is_somewhere() -> None:
    """A family that no dashboard and no rule shows would be measured for nobody."""
    shown = {name for query in ALL_QUERIES for name, _ in selectors(query.expression)}
    shown |= {name for rule in rules() for name, _ in selectors(rule.expression)}
    for_people_with_curl = {
        "worker_cpu_pct",
        "worker_io_read_bytes_per_second",
        "worker_io_written_bytes_per_second",
    }
    assert {family.name for family in FAMILIES} - shown == for_people_with_curl


def test_each_recorded_series_of_thresholds_is_drawn_where_its_alert_is_explained() -> None:
    drawn = {name for query in ALL_QUERIES for name, _ in selectors(query.expression)}
    undrawn = {
        "threshold:worker_collector_success:ratio",
        "threshold:worker_gpu_idle_memory:bytes",
        "threshold:worker_gpu_idle_utilization:ratio",
        "threshold:worker_launches_failed:count",
        "threshold:worker_read_errors:count",
        "threshold:worker_start_grace:seconds",
    }
    assert {name for name in KNOWN if name.startswith("threshold:")} - drawn == undrawn


def thresholds_of(panel: dict[str, Any], column: str) -> dict[str, Any]:
    """Those of a table's column."""
    [found] = [
        each["value"]
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if override["matcher"]["options"] == column and each["id"] == "thresholds"
    ]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("name", "title", "threshold"),
    [
        ("service", "Of limit", "worker_memory_limit:ratio"),
        ("worker", "Of limit", "worker_memory_limit:ratio"),
        ("gpu", "Hottest", "worker_gpu_temperature:celsius"),
        ("gpu", "Unattributed", "worker_gpu_unattributed_memory:bytes"),
        ("exporter", "Slowest", "worker_scrape:seconds"),
        ("fleet", "Nodes / IO stalled", "worker_io_stalled:ratio"),
        ("fleet", "Nodes / VRAM unattributed", "worker_gpu_unattributed_memory:bytes"),
        ("service", "Workers / IO stalled", "worker_io_stalled:ratio"),
        ("service", "Workers / Memory of limit", "worker_memory_limit:ratio"),
        ("exporter", "Each exporter / Scrape", "worker_scrape:seconds"),
    ],
)
def test_its_last_colour_begins_where_the_alert_fires(
    name: str, title: str, threshold: str
) -> None:
    title, _, column = title.partition(" / ")
    [panel] = [each for each in panels(DASHBOARDS[name]) if each["title"] == title]
    found = (
        thresholds_of(panel, column) if column else panel["fieldConfig"]["defaults"]["thresholds"]
    )
    last = found["steps"][-1]["value"]
    [rule] = [each for each in rules() if each.record == f"threshold:{threshold}"]
    factors = re.fullmatch(r"vector\(([\d. *]+)\)", rule.expression)
    assert factors is not None
    assert last == math.prod(map(float, factors[1].split("*")))


# A dashboard that breaks each rule

Breaking = Callable[[dict[str, Any]], object]


def first(dashboard: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(panel for panel in panels(dashboard) if panel["type"] == kind)


def expression(text: str) -> Breaking:
    def change(dashboard: dict[str, Any]) -> None:
        first(dashboard, "timeseries")["targets"][0]["expr"] = text

    return change


def of_default(kind: str, key: str, value: object) -> Breaking:
    def change(dashboard: dict[str, Any]) -> None:
        first(dashboard, kind)["fieldConfig"]["defaults"][key] = value

    return change


BROKEN: tuple[tuple[lint.Rule, Breaking], ...] = (
    (lint.one_datasource_variable, lambda each: each["templating"]["list"].pop(0)),
    (
        lint.one_datasource_variable,
        lambda each: each["templating"]["list"][0].update(label="Prometheus"),
    ),
    (lint.the_datasource_is_used, lambda each: first(each, "stat").update(datasource=None)),
    (
        lint.the_datasource_is_used,
        lambda each: first(each, "stat")["targets"][0].update(datasource={"uid": "prometheus"}),
    ),
    (
        lint.the_datasource_is_used,
        lambda each: each["annotations"]["list"][0].update(datasource=None),
    ),
    (lint.the_datasource_is_used, lambda each: each["templating"]["list"][1].pop("datasource")),
    (lint.titles_and_descriptions, lambda each: first(each, "stat").update(title="")),
    (lint.titles_and_descriptions, lambda each: first(each, "table").update(description="")),
    (
        lint.titles_and_descriptions,
        lambda each: first(each, "table").update(title=first(each, "stat")["title"]),
    ),
    (lint.valid_units, of_default("stat", "unit", "cores")),
    (lint.valid_units, of_default("table", "unit", "")),
    (lint.queries_in_each_panel, lambda each: first(each, "stat")["targets"].clear()),
    (lint.rates_over_the_rate_interval, expression("sum(rate(worker_cpu_seconds_total{x}[5m]))")),
    (lint.counters_only_as_rates, expression("sum(worker_cpu_seconds_total{x})")),
    (lint.counters_only_as_rates, expression("max_over_time(worker_cpu_seconds_total{x}[5m])")),
    (lint.not_editable, lambda each: each.update(editable=True)),
    (
        lint.variables_follow_the_time,
        lambda each: each["templating"]["list"][1].update(refresh=1),
    ),
    (
        lint.variables_follow_the_time,
        lambda each: each["templating"]["list"][1].update(allValue=".*"),
    ),
    (lint.variables_exist_and_are_used, expression('worker_up{node=~"$nodes"}')),
    (
        lint.variables_exist_and_are_used,
        lambda each: each["templating"]["list"].append(
            {"name": "gpu", "type": "query", "query": {"query": ""}}
        ),
    ),
    (lint.queries_follow_the_variables, expression("max(worker_up)")),
    (
        lint.queries_follow_the_variables,
        expression('max(worker_up{node=~"$node", service="$service"})'),
    ),
    (
        lint.queries_follow_the_variables,
        lambda each: each["templating"]["list"][2].pop("includeAll"),
    ),
    (
        lint.queries_follow_the_variables,
        lambda each: each["templating"]["list"][2]["query"].update(query='up{node="$node"}'),
    ),
    (lint.queries_aggregate, expression('worker_up{node=~"$node"}')),
    (
        lint.queries_aggregate,
        expression('max by (node) (worker_up{node=~"$node"}) * worker_frozen{node=~"$node"}'),
    ),
    (lint.queries_aggregate, expression('max by (node, job) (worker_up{node=~"$node"})')),
    (lint.queries_aggregate, expression('max by (node, instance) (up{node=~"$node"})')),
    (lint.panels_fill_the_grid, lambda each: first(each, "stat")["gridPos"].update(w=1)),
    (lint.panels_fill_the_grid, lambda each: first(each, "table")["gridPos"].update(y=0)),
    (lint.panels_fill_the_grid, lambda each: first(each, "table")["gridPos"].update(w=25)),
    (lint.panels_fill_the_grid, lambda each: first(each, "stat").update(id=2)),
    (lint.absent_is_a_gap, of_default("timeseries", "min", None)),
    (
        lint.absent_is_a_gap,
        lambda each: first(each, "timeseries")["fieldConfig"]["defaults"]["custom"].update(
            spanNulls=True
        ),
    ),
    (
        lint.absent_is_a_gap,
        lambda each: first(each, "timeseries")["options"]["legend"].update(showLegend=False),
    ),
    (
        lint.absent_is_a_gap,
        lambda each: first(each, "stat")["options"]["reduceOptions"].update(calcs=[]),
    ),
    (lint.limits_are_dashed, expression('max(worker_memory_limit_bytes{node=~"$node"})')),
    (lint.limits_are_dashed, expression("max(threshold:worker_scrape:seconds)")),
    (
        lint.legends_name_labels,
        lambda each: first(each, "timeseries")["targets"][0].update(legendFormat="{{device}}"),
    ),
    (
        lint.overrides_name_columns,
        lambda each: first(each, "table")["options"].update(sortBy=[{"displayName": "None"}]),
    ),
    (
        lint.overrides_name_columns,
        lambda each: first(each, "table")["fieldConfig"]["overrides"][0]["matcher"].update(
            options="None"
        ),
    ),
    (
        lint.lines_are_limited,
        lambda each: first(each, "timeseries")["targets"][0].update(
            legendFormat="{{service}}/{{instance}}"
        ),
    ),
    (
        lint.bars_are_as_wide_as_their_window,
        expression("sum(increase(worker_restarts_total{x}[$__rate_interval]))"),
    ),
    (lint.nothing_is_hidden, lambda each: each["links"][0].update(placement="inControlsMenu")),
    (lint.nothing_is_hidden, lambda each: each["annotations"]["list"][0].update(hide=True)),
)


@pytest.mark.parametrize(("rule", "breaking"), BROKEN)
def test_a_rule_refuses_what_breaks_it(rule: lint.Rule, breaking: Breaking) -> None:
    broken = copy.deepcopy(DASHBOARDS["fleet"])
    breaking(broken)
    assert list(rule(broken))


def test_every_rule_is_broken_once() -> None:
    assert {rule for rule, _ in BROKEN} == set(lint.RULES)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("/d/worker-nothing?${__url_time_range}&${datasource:queryparam}", "no such dashboard"),
        ("/d/worker-fleet?${datasource:queryparam}", "the time or the data source is lost"),
        ("/d/worker-fleet?${__url_time_range}", "the time or the data source is lost"),
        (
            "/d/worker-fleet?${__url_time_range}&${datasource:queryparam}"
            "&var-gpu=${__field.name:percentencode}",
            "no variable gpu there",
        ),
        (
            "/d/worker-fleet?${__url_time_range}&${datasource:queryparam}&var-node=${__field.name}",
            "is not encoded",
        ),
        (
            "/d/worker-gpu?${__url_time_range}&${datasource:queryparam}&${gpu:queryparam}",
            "no variable gpu here",
        ),
        (
            "/d/worker-exporter?${__url_time_range}&${datasource:queryparam}&${service:queryparam}",
            "no variable service there",
        ),
        (
            "/d/worker-gpu?${__url_time_range}&${datasource:queryparam}"
            '&var-gpu=${__data.fields["Card"]:percentencode}',
            "no column Card",
        ),
        (
            "/d/worker-gpu?${__url_time_range}&${datasource:queryparam}"
            "&var-gpu=${__field.labels.card:percentencode}",
            "no label card",
        ),
    ],
)
def test_a_broken_link_is_found(url: str, fault: str) -> None:
    broken = copy.deepcopy(DASHBOARDS)
    first(broken["fleet"], "table")["fieldConfig"]["defaults"]["links"] = [{"url": url}]
    assert any(fault in said for said in lint.broken_links(broken))


def top_link(dashboard: dict[str, Any], url: str) -> None:
    dashboard["links"][0]["url"] = url


@pytest.mark.parametrize(
    ("breaking", "fault"),
    [
        (lambda each: each["links"].pop(), "links at the top to"),
        (lambda each: each["links"].append(each["links"][0]), "links at the top to"),
        (lambda each: each["links"][0].update(type="dashboards"), "another link is expected"),
        (lambda each: each["links"][0].update(keepTime=False), "another link is expected"),
        (
            lambda each: top_link(
                each,
                "/d/worker-service?${datasource:queryparam}&${node:queryparam}"
                "&${service:queryparam}",
            ),
            "service can be All here, but not there",
        ),
    ],
)
def test_a_broken_link_at_the_top_is_found(breaking: Breaking, fault: str) -> None:
    broken = copy.deepcopy(DASHBOARDS)
    breaking(broken["fleet"])
    assert any(fault in said for said in lint.broken_links(broken))


# The parts of tests/queries.py that need no server


def test_selectors_are_found() -> None:
    text = 'sum by (up) (rate(worker_x_total{a="}", b="worker_up"}[5m])) / on (node) a:worker_b:c'
    assert selectors(text) == [
        ("worker_x_total", '{a="}", b="worker_up"}'),
        ("a:worker_b:c", ""),
    ]


def test_variables_are_put_in_as_grafana_does() -> None:
    text = 'rate(worker_up{node=~"$node", x="${node}"}[$__rate_interval])'
    assert interpolated(text, {"node": ".+"}) == 'rate(worker_up{node=~".+", x=".+"}[1m])'
    with pytest.raises(KeyError):
        interpolated("$nothing", {})
