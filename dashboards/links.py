"""Links between the dashboards; all of them keep the time and the data source."""

from collections.abc import Iterable, Iterator, Mapping

from grafana_foundation_sdk.builders import dashboard as builders

TAG = "worker-exporter"
"""The tag that all these dashboards have, and no other."""


_TITLES = {
    "fleet": "Workers / Fleet",
    "service": "Workers / Service",
    "worker": "Workers / Worker",
    "gpu": "Workers / GPU",
    "exporter": "Workers / Exporter",
}

_SEVERAL: Mapping[str, tuple[str, ...]] = {
    "fleet": ("node", "service"),
    "service": ("node",),
    "worker": (),
    "gpu": ("node", "gpu"),
    "exporter": ("node",),
}
"""The variables of each dashboard of which several can be chosen, or all."""

_ONE: Mapping[str, tuple[str, ...]] = {
    "fleet": (),
    "service": ("service",),
    "worker": ("service", "node", "instance"),
    "gpu": (),
    "exporter": (),
}
"""Those of which one is."""


def title(name: str) -> str:
    """The title of the dashboard `name`."""
    return _TITLES[name]


def uid(name: str) -> str:
    """The uid of the dashboard `name`, such as "fleet"."""
    return f"worker-{name}"


def _url(name: str, chosen: Iterable[str], time: Iterable[str] = ("${__url_time_range}",)) -> str:
    return f"/d/{uid(name)}?" + "&".join((*time, _here("datasource"), *chosen))


def _here(variable: str) -> str:
    """What is chosen here, be it one value, several or all."""
    return f"${{{variable}:queryparam}}"


def _cells(columns: Mapping[str, str]) -> Iterator[str]:
    for variable, column in columns.items():
        yield f'var-{variable}=${{__data.fields["{column}"]:percentencode}}'


def from_row(name: str, *kept: str, **columns: str) -> builders.DashboardLink:
    """From a table's row to dashboard `name`: each variable is what its column says, or is kept."""
    return _link(name, [*map(_here, kept), *_cells(columns)])


def from_series(name: str, *labels: str) -> builders.DashboardLink:
    """From a line to dashboard `name`: each variable is the label of the same name."""
    return _link(
        name, [f"var-{label}=${{__field.labels.{label}:percentencode}}" for label in labels]
    )


def from_matrix() -> builders.DashboardLink:
    """From a cell of a matrix of nodes by services to its service."""
    row, column = "${__data.fields[0]:percentencode}", "${__field.name:percentencode}"
    return _link("service", [f"var-node={row}", f"var-service={column}"])


def to_what_a_row_names(column: str, **columns: str) -> builders.DashboardLink:
    """From a table's row to the dashboard that is named in its `column`."""
    name = f'${{__data.fields["{column}"]}}'
    return builders.DashboardLink(f"Open it in Workers / {name}").url(_url(name, _cells(columns)))


def keeping(name: str, *variables: str) -> builders.DashboardLink:
    """From a whole panel to dashboard `name`, with the variables of this one."""
    return _link(name, map(_here, variables))


def _link(name: str, chosen: Iterable[str]) -> builders.DashboardLink:
    return builders.DashboardLink(_TITLES[name]).url(_url(name, chosen))


def between(name: str) -> list[builders.DashboardLink]:
    """The links at the top of dashboard `name` to all others, with the time and what is chosen."""
    return [
        builders.DashboardLink(_TITLES[other])
        .url(_url(other, map(_here, _taken_along(name, other)), time=()))
        .keep_time(True)
        for other in _TITLES
        if other != name
    ]


def _taken_along(name: str, other: str) -> list[str]:
    """The variables of both; but All is no choice for one that takes a single value."""
    return [
        variable
        for variable in (*_SEVERAL[other], *_ONE[other])
        if variable in _ONE[name] or (variable in _SEVERAL[name] and variable in _SEVERAL[other])
    ]
