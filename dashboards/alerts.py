"""Panels about the alerts themselves, which Prometheus writes as series while they fire."""

from grafana_foundation_sdk.models import dashboard as models

from dashboards import links, looks, promql
from dashboards.panels import NUMBER, Series, graph, timeline
from dashboards.promql import WORKER, largest
from dashboards.tables import Label, Value, table

_EMPTY = "No alert fires"
_ROW = f"alertname, {WORKER}, gpu, dashboard"

_ABOUT = (
    ("service", ".+", "service"),
    ("instance", ".+", "worker"),
    ("alertname", "Worker(GPU|VRAM(N|U)).*", "gpu"),
)
"""Label, what it has to be, and the dashboard that then shows what the alert is about; the last
that fits counts.
"""


def firing_now(matchers: str, span: int) -> models.Panel:
    """A row for each alert that fires, the worst first, with the way to what it is about."""
    rank = largest(_ROW, _with_dashboard(_ranked(matchers)))
    since = largest(_ROW, _with_dashboard(_since(matchers)))
    there = links.to_what_a_row_names(
        "Look at", node="Node", service="Service", instance="Instance"
    )
    return table(
        "What is wrong now",
        "The alerts that fire (Prometheus' series `ALERTS`), the critical ones first, and since "
        "when their condition has held. A click on an alert, or in the last column, opens the "
        "dashboard that shows what it is about; docs/runbooks says what to do. Empty is well, "
        "unless a number above says that no rules are loaded.",
        Value("Severity", rank, cell="background", texts=looks.SEVERITIES, width=100),
        Label("alertname", "Alert", there, width=260),
        Label("node", "Node", links.from_row("exporter", node="Node")),
        Label("service", "Service", links.from_row("service", node="Node", service="Service")),
        Label(
            "instance",
            "Instance",
            links.from_row("worker", node="Node", service="Service", instance="Instance"),
        ),
        Label("gpu", "GPU", links.from_row("gpu", node="Node", gpu="GPU"), width=70),
        Value("Since", since, "dateTimeFromNow", width=150),
        Label("dashboard", "Look at", there, width=110),
        span=span,
        sort_by="Severity",
        empty=_EMPTY,
    )


def firing_over_time(matchers: str, span: int) -> models.Panel:
    """How many alerts fire, by severity."""
    each = largest(f"alertname, severity, {WORKER}, gpu", promql.firing(matchers))
    return graph(
        "Alerts by severity",
        "How many alerts fire. A broad step is one cause with many victims: look for a node or an "
        "exporter among them.",
        NUMBER,
        Series(f"count by (severity) ({each})", "{{severity}}"),
        span=span,
        stacked=True,
        colors={"critical": looks.BAD, "warning": looks.WARNING, "info": looks.NOTICE},
    )


def alerts_over_time(*matchers: str, span: int) -> models.Panel:
    """When each alert fired, coloured by its severity."""
    rank = largest("alertname", " or ".join(map(_ranked, matchers)))
    return timeline(
        "Alerts",
        "When each alert fired on what is chosen here, red for critical, orange for warning, blue "
        "for information. The last line says that the rules are evaluated at all; alone it is "
        "well. docs/runbooks has a page for each of them.",
        Series(rank, "{{alertname}}", texts=looks.SEVERITIES),
        Series(f"max({promql.WATCHDOG})", "(rules)", texts={1: ("evaluated", looks.GOOD)}),
        span=span,
        empty="No alert fired",
    )


def _ranked(matchers: str) -> str:
    """The severity as a number, so that the worst can be sorted to the top."""
    ranks = {"critical": 3, "warning": 2, "info": 1}
    firing = {
        rank: promql.firing(f'severity="{severity}", {matchers}')
        for severity, rank in ranks.items()
    }
    return " or ".join(
        f"{rank} * {each}" for rank, each in {**firing, 0: promql.firing(matchers)}.items()
    )


def _since(matchers: str) -> str:
    """When the condition of each alert that fires began to hold, in milliseconds."""
    began = f"ALERTS_FOR_STATE{{{promql.SHIPPED}, {matchers}}}"
    return f"1000 * ({began} and ignoring (alertstate) {promql.firing(matchers)})"


def _with_dashboard(expression: str) -> str:
    """With a label `dashboard`: where to look at what the alert is about."""
    found = f'label_replace({expression}, "dashboard", "exporter", "", "")'
    for label, pattern, dashboard in _ABOUT:
        found = f'label_replace({found}, "dashboard", "{dashboard}", "{label}", "{pattern}")'
    return found
