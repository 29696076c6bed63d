"""What all dashboards have in common: their name, their links, their variables and the time."""

from collections.abc import Sequence

from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.models import dashboard as models

from dashboards import links
from dashboards.grid import Section, laid_out

Variable = builders.DatasourceVariable | builders.QueryVariable


def dashboard(
    name: str,
    description: str,
    variables: Sequence[Variable],
    annotations: Sequence[builders.AnnotationQuery],
    sections: Sequence[Section],
    since: str = "now-1h",
) -> models.Dashboard:
    """The dashboard `name`, such as "fleet", with its uid and its title."""
    built = (
        builders.Dashboard(links.title(name))
        .uid(links.uid(name))
        .description(description)
        .tags([links.TAG])
        .readonly()
        .time(since, "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .links(list(links.between(name)))
        .variables(list(variables))
        .annotations(list(annotations))
        .build()
    )
    built.panels = laid_out(sections)
    return built
