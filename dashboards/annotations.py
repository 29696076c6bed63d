"""Events that are drawn into all graphs of a dashboard."""

from grafana_foundation_sdk.builders import dashboard as builders

from dashboards import looks, promql
from dashboards.variables import DATASOURCE

_STEP = "15s"
_WINDOW = "[1m]"


def critical_alerts(*matchers: str) -> builders.AnnotationQuery:
    """While a critical alert fires."""
    firing = " or ".join(promql.firing(f'severity="critical", {each}') for each in matchers)
    return _event(
        "Critical alerts",
        promql.largest(f"alertname, {promql.WORKER}", firing),
        looks.BAD,
        "{{alertname}}",
        "{{node}} {{service}} {{instance}}",
    )


def oom_kills(matchers: str) -> builders.AnnotationQuery:
    """When the kernel killed a process of a service for memory."""
    return _event(
        "OOM kills",
        f"({promql.oom_kills(matchers, _WINDOW)}) > 0",
        "dark-red",
        "OOM kill",
        "{{service}} on {{node}}",
    )


def restarts(matchers: str) -> builders.AnnotationQuery:
    """When systemd started a worker again."""
    return _event(
        "Restarts",
        f"{promql.restarts(matchers, _WINDOW)} > 0",
        looks.WARNING,
        "Restart",
        "{{service}}/{{instance}} on {{node}}",
    )


def starts(matchers: str) -> builders.AnnotationQuery:
    """When a worker started, by what it says itself: exact, also if no scrape was near."""
    began = promql.largest(promql.WORKER, f"worker_start_time_seconds{{{matchers}}}")
    event = _event(
        "Starts",
        f"{began} * 1000",
        looks.NOTICE,
        "Start",
        "{{service}}/{{instance}} on {{node}}",
    )
    return event.use_value_for_time(True)


def _event(
    name: str, expression: str, color: str, title: str, text: str
) -> builders.AnnotationQuery:
    return (
        builders.AnnotationQuery()
        .name(name)
        .datasource(DATASOURCE)
        .enable(True)
        .icon_color(color)
        .expr(expression)
        .step(_STEP)
        .title_format(title)
        .text_format(text)
    )
