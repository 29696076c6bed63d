"""What every dashboard has to hold: the rules of grafana/dashboard-linter, and the house's own.

A rule takes a dashboard's JSON and yields a line for each fault. Of the linter's rules those on
`job` and `instance` are left out; dashboards/json/.lint says why.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tests.queries import panels, queries, selectors

Dashboard = Mapping[str, Any]
Rule = Callable[[Dashboard], Iterator[str]]

COLUMNS = 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = {
    *("none", "short", "percentunit", "bytes", "binBps", "s", "cps", "ops", "iops", "reqps"),
    *("celsius", "watt", "joule", "dateTimeAsLocal", "dateTimeFromNow", "string"),
}
"""Those of Grafana's that dashboards of ours may use."""

GLOBALS = {"__rate_interval", "__range", "__interval"}
"""Variables that Grafana itself has."""

LABELS = {"node", "service", "instance", "gpu", "uuid", "mig"}
"""What the contract brings series together by; `instance` only within a service."""

_AGGREGATION = re.compile(r"\b(sum|max|min|count|topk)\s*(?:by\s*\([^)]*\)\s*)?(?:\((?=\d+,))?$")
_LIMIT = re.compile(r"^threshold:|^process_max_fds$|_(limit(_bytes|_cores)?|high_bytes)$")
_BY = re.compile(r"\bby \(([^)]*)\)")


def targets(dashboard: Dashboard) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each query of each panel, with its panel."""
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            yield panel, target


def variables(dashboard: Dashboard) -> dict[str, dict[str, Any]]:
    """The variables by their names."""
    return {each["name"]: each for each in dashboard["templating"]["list"]}


def properties(panel: Mapping[str, Any], name: str) -> Iterator[Any]:
    """The values of a property in a panel's overrides."""
    for override in panel["fieldConfig"]["overrides"]:
        for each in override["properties"]:
            if each["id"] == name:
                yield each["value"]


# Of the linter


def one_datasource_variable(dashboard: Dashboard) -> Iterator[str]:
    """template-datasource-rule"""
    found = [each for each in dashboard["templating"]["list"] if each["type"] == "datasource"]
    told = [(each["name"], each["label"], each["query"]) for each in found]
    if told != [("datasource", "Data source", "prometheus")]:
        yield f"not one variable `datasource` for a Prometheus, labelled Data source: {told}"


def the_datasource_is_used(dashboard: Dashboard) -> Iterator[str]:
    """panel-datasource-rule, and the same for queries, annotations and variables"""
    for panel in panels(dashboard):
        for part in (panel, *panel.get("targets", ())):
            if part.get("datasource") != DATASOURCE:
                yield f"{panel['title']}: another data source: {part.get('datasource')}"
    for each in (*dashboard["annotations"]["list"], *variables(dashboard).values()):
        if each.get("type") != "datasource" and each.get("datasource") != DATASOURCE:
            yield f"{each['name']}: another data source: {each.get('datasource')}"


def titles_and_descriptions(dashboard: Dashboard) -> Iterator[str]:
    """panel-title-description-rule; and no two panels have one title"""
    seen = set()
    for panel in panels(dashboard):
        title = panel.get("title")
        if not title or not panel.get("description", "").endswith((".", ")")):
            yield f"panel {panel['id']}: no title, or no description in sentences"
        if title in seen:
            yield f"{title}: another panel has this title"
        seen.add(title)


def valid_units(dashboard: Dashboard) -> Iterator[str]:
    """panel-units-rule"""
    for panel in panels(dashboard):
        for unit in (panel["fieldConfig"]["defaults"].get("unit"), *properties(panel, "unit")):
            if unit not in UNITS:
                yield f"{panel['title']}: no unit of Grafana's: {unit}"


def queries_in_each_panel(dashboard: Dashboard) -> Iterator[str]:
    """panel-no-targets-rule"""
    for panel in panels(dashboard):
        if not panel.get("targets"):
            yield f"{panel['title']}: no query"


def rates_over_the_rate_interval(dashboard: Dashboard) -> Iterator[str]:
    """target-rate-interval-rule"""
    for panel, target in targets(dashboard):
        for window in re.findall(r"\bi?rate\([^()]*\[([^\]]*)\]", target["expr"]):
            if window != "$__rate_interval":
                yield f"{panel['title']}: a rate over {window}"


def counters_only_as_rates(dashboard: Dashboard) -> Iterator[str]:
    """target-counter-agg-rule"""
    counter = re.compile(r"(?:(\w+)\()?\b(\w+_(?:total|bucket))\b(?:\{[^}]*\})?(\[)?")
    for panel, target in targets(dashboard):
        for function, name, window in counter.findall(target["expr"]):
            if function not in ("rate", "irate", "increase") or not window:
                yield f"{panel['title']}: {name} is a counter, and no rate is taken"


def not_editable(dashboard: Dashboard) -> Iterator[str]:
    """uneditable-dashboard"""
    if dashboard["editable"] is not False:
        yield "it is editable"


def variables_follow_the_time(dashboard: Dashboard) -> Iterator[str]:
    """template-on-time-change-reload-rule; and All is everything that has the label"""
    for name, variable in variables(dashboard).items():
        if variable["type"] == "query" and variable["refresh"] != 2:
            yield f"{name}: it is not asked for anew when the time changes"
        everything = (variable.get("includeAll"), variable.get("allValue"))
        if variable["type"] == "query" and variable["multi"] and everything != (True, ".+"):
            yield f"{name}: several can be chosen, so All has to be .+"


# Of the house


def variables_exist_and_are_used(dashboard: Dashboard) -> Iterator[str]:
    """Each variable in a query is one, and each one is in some query."""
    known = variables(dashboard)
    asked = [query.expression for query in queries("", dashboard)]
    asked += [each["query"]["query"] for each in known.values() if each["type"] == "query"]
    used = {name for text in asked for name in re.findall(r"\$\{?(\w+)", text)}
    yield from (f"${name} is no variable" for name in used - known.keys() - GLOBALS)
    yield from (f"${name} is in no query" for name in known.keys() - used - {"datasource"})


def queries_follow_the_variables(dashboard: Dashboard) -> Iterator[str]:
    """Every series is that of the chosen nodes, but for thresholds and the watchdog."""
    for query in queries("", dashboard):
        for name, matchers in selectors(query.expression):
            free = name.startswith("threshold:") or "WorkerWatchdog" in matchers.split("!=")[0]
            if not free and not re.search(r'\bnode=~?"\$node"', matchers):
                yield f"{query.place}: {name}{matchers} is not of the chosen nodes"
            for fault in _compared_wrongly(matchers, variables(dashboard)):
                yield f"{query.place}: {name}{matchers}: {fault}"
    for name, variable in variables(dashboard).items():
        if variable["type"] == "query":
            asked = variable["query"]["query"]
            for fault in _compared_wrongly(asked, variables(dashboard)):
                yield f"{name}: {asked}: {fault}"


def _compared_wrongly(text: str, known: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """Grafana makes regular expressions of those variables alone of which several can be chosen."""
    for operator, value in re.findall(
        r'\b(?:node|service|instance|gpu)(=~|!~|!=|=)"([^"]+)"', text
    ):
        variable = known.get(value.strip("$|"))
        if variable is None:
            yield f"{value} is no variable"
        elif operator != ("=~" if variable.get("includeAll") else "="):
            yield f"{operator} is not for {value}"


def queries_aggregate(dashboard: Dashboard) -> Iterator[str]:
    """No series stands alone, and what it is brought together by is in the contract."""
    for query in queries("", dashboard):
        if name := _alone(query.expression):
            yield f"{query.place}: {name} stands alone"
        for clause in _BY.findall(query.expression):
            by = set(re.split(r",\s*", clause))
            if "job" in by or ("instance" in by and "service" not in by):
                yield f"{query.place}: by ({clause})"


def _alone(expression: str) -> str:
    """The name of a series that no aggregation is around, or ""."""
    open_aggregations: list[bool] = []
    text = re.sub(r'"(?:[^"\\]|\\.)*"', lambda found: " " * len(found[0]), expression)
    names = {match.start(): match[0] for match in re.finditer(r"\b[a-zA-Z_][\w:]*(?=\{)", text)}
    for index, character in enumerate(text):
        if character == "(":
            open_aggregations.append(bool(_AGGREGATION.search(text[:index])))
        elif character == ")":
            open_aggregations.pop()
        elif index in names and not any(open_aggregations):
            return names[index]
    return ""


def panels_fill_the_grid(dashboard: Dashboard) -> Iterator[str]:
    """Rows are full, nothing overlaps, and ids count from 1 on."""
    yield from _places(dashboard["panels"])
    ids = [panel["id"] for panel in dashboard["panels"]]
    ids += [inner["id"] for each in dashboard["panels"] for inner in each.get("panels", ())]
    if sorted(ids) != list(range(1, len(ids) + 1)):
        yield f"ids are not 1 to {len(ids)}: {sorted(ids)}"


def _places(placed: list[dict[str, Any]]) -> Iterator[str]:
    cells: set[tuple[int, int]] = set()
    for panel in placed:
        at = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        if cells & mine:
            yield f"{panel['title']}: it overlaps another panel"
        if at["x"] + at["w"] > COLUMNS:
            yield f"{panel['title']}: it ends beyond column {COLUMNS}"
        cells |= mine
        yield from _places(panel.get("panels", []))
    for y in {y for _, y in cells}:
        if (width := sum(1 for cell in cells if cell[1] == y)) != COLUMNS:
            yield f"line {y} has {width} columns, not {COLUMNS}"


def absent_is_a_gap(dashboard: Dashboard) -> Iterator[str]:
    """Lines begin at 0 and do not bridge gaps; a legend and a value are shown."""
    for panel in panels(dashboard):
        defaults, options = panel["fieldConfig"]["defaults"], panel["options"]
        if defaults.get("custom", {}).get("spanNulls"):
            yield f"{panel['title']}: it bridges gaps"
        if panel["type"] == "timeseries":
            if defaults.get("min") != 0:
                yield f"{panel['title']}: it does not begin at 0"
            if not options["legend"]["showLegend"] or not options["legend"]["calcs"]:
                yield f"{panel['title']}: no legend"
        if panel["type"] == "stat" and options["reduceOptions"]["calcs"] != ["lastNotNull"]:
            yield f"{panel['title']}: not the last value"


def limits_are_dashed(dashboard: Dashboard) -> Iterator[str]:
    """A limit or a threshold is a dashed line in no stack."""
    for panel, target in targets(dashboard):
        name = selectors(target["expr"])[0][0]
        if panel["type"] != "timeseries" or not _LIMIT.search(name):
            continue
        if target["refId"] not in _dashed(panel):
            yield f"{panel['title']}: {name} is no dashed line"


def _dashed(panel: Mapping[str, Any]) -> set[str]:
    return {
        override["matcher"]["options"]
        for override in panel["fieldConfig"]["overrides"]
        if override["matcher"]["id"] == "byFrameRefID"
        and {
            ("custom.lineStyle", "dash"),
            ("custom.stacking", "none"),
        }
        <= {
            (each["id"], each["value"].get("fill") or each["value"].get("mode"))
            for each in override["properties"]
            if isinstance(each["value"], dict)
        }
    }


def legends_name_labels(dashboard: Dashboard) -> Iterator[str]:
    """A label in a legend is one that the query keeps."""
    for panel, target in targets(dashboard):
        kept = set(re.split(r",\s*", ", ".join(_BY.findall(target["expr"]))))
        for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
            if label not in kept:
                yield f"{panel['title']}: {{{{{label}}}}} is no label of {target['expr']}"


def overrides_name_columns(dashboard: Dashboard) -> Iterator[str]:
    """A column that is coloured, sized or sorted by is there."""
    for panel in panels(dashboard):
        if panel["type"] != "table":
            continue
        known = columns(panel)
        for override in panel["fieldConfig"]["overrides"]:
            if override["matcher"]["id"] != "byName":
                continue
            if override["matcher"]["options"] not in known:
                yield f"{panel['title']}: there is no column {override['matcher']['options']}"
        for each in panel["options"].get("sortBy") or ():
            if each["displayName"] not in known:
                yield f"{panel['title']}: there is no column {each['displayName']}"


def columns(panel: Mapping[str, Any]) -> set[str]:
    """The headers of a table."""
    return {
        header
        for each in panel["transformations"]
        for header in each["options"].get("renameByName", {}).values()
    }


def lines_are_limited(dashboard: Dashboard) -> Iterator[str]:
    """A line for each worker or GPU of all nodes is drawn for some of them only."""
    if "instance" in variables(dashboard):
        return
    for panel, target in targets(dashboard):
        each = re.search(r"\{\{(instance|gpu)\}\}", target.get("legendFormat", ""))
        if each and not re.search(r"\b(top|bottom)k\(", target["expr"]):
            yield f"{panel['title']}: a line for every {each[1]}"


def bars_are_as_wide_as_their_window(dashboard: Dashboard) -> Iterator[str]:
    """An increase over four scrapes is in four steps of one: one event would be four bars."""
    for panel, target in targets(dashboard):
        counts = re.search(r"\bincrease\(.*\[\$__rate_interval\]", target["expr"])
        if counts and panel.get("interval") != "1m":
            yield f"{panel['title']}: an event is counted in several steps"


def nothing_is_hidden(dashboard: Dashboard) -> Iterator[str]:
    """Links and annotations are not in a menu."""
    for each in (*dashboard["links"], *dashboard["annotations"]["list"]):
        if "placement" in each or each.get("hide") or each.get("asDropdown"):
            yield f"{each.get('name', each.get('title'))}: it is hidden"


RULES: tuple[Rule, ...] = (
    one_datasource_variable,
    the_datasource_is_used,
    titles_and_descriptions,
    valid_units,
    queries_in_each_panel,
    rates_over_the_rate_interval,
    counters_only_as_rates,
    not_editable,
    variables_follow_the_time,
    variables_exist_and_are_used,
    queries_follow_the_variables,
    queries_aggregate,
    panels_fill_the_grid,
    absent_is_a_gap,
    limits_are_dashed,
    legends_name_labels,
    overrides_name_columns,
    lines_are_limited,
    bars_are_as_wide_as_their_window,
    nothing_is_hidden,
)


def broken_links(dashboards: Mapping[str, Dashboard]) -> Iterator[str]:
    """Links that lead nowhere, or take along what is not there."""
    by_uid = {each["uid"]: each for each in dashboards.values()}
    for dashboard in dashboards.values():
        yield from _broken_at_the_top(dashboard, by_uid)
        for panel in panels(dashboard):
            found = panel["fieldConfig"]["defaults"].get("links") or []
            for link in (*found, *(each for some in properties(panel, "links") for each in some)):
                for fault in _broken(link["url"], panel, dashboard, by_uid):
                    yield f"{dashboard['title']} / {panel['title']}: {fault}: {link['url']}"


def _broken_at_the_top(dashboard: Dashboard, by_uid: Mapping[str, Dashboard]) -> Iterator[str]:
    """There is one to each other dashboard, with the time and whatever both have."""
    aims = [re.split("[/?]", link["url"])[2] for link in dashboard["links"]]
    if sorted((*aims, dashboard["uid"])) != sorted(by_uid):
        yield f"{dashboard['title']}: links at the top to {aims}"
    for link, aim in zip(dashboard["links"], aims, strict=True):
        for fault in _broken(link["url"], None, dashboard, by_uid):
            yield f"{dashboard['title']}: {fault}: {link['url']}"
        taken = set(re.findall(r"\$\{(\w+):queryparam\}", link["url"]))
        if (
            link["type"] != "link"
            or not link["keepTime"]
            or taken != _common(dashboard, by_uid.get(aim, dashboard))
        ):
            yield f"{dashboard['title']}: another link is expected: {link['url']}"


def _common(dashboard: Dashboard, other: Dashboard) -> set[str]:
    """The variables of both, less those where All here would be none of the choices there."""
    here, there = variables(dashboard), variables(other)
    return {
        name
        for name in here.keys() & there.keys()
        if there[name].get("includeAll") or not here[name].get("includeAll")
    }


def _broken(
    url: str,
    panel: Mapping[str, Any] | None,
    dashboard: Dashboard,
    by_uid: Mapping[str, Dashboard],
) -> Iterator[str]:
    path, _, asked = url.partition("?")
    uid = path.removeprefix("/d/")
    if panel is not None and "${" in uid:
        aims = _named_in_rows(panel)
        if not aims <= by_uid.keys():
            yield f"no such dashboards: {aims}"
    else:
        aims = {uid} & by_uid.keys()
        if not aims:
            yield "no such dashboard"
    time = "" if panel is None else "${__url_time_range}&"
    if not asked.startswith(f"{time}${{datasource:queryparam}}"):
        yield "the time or the data source is lost"
    known = {name for aim in aims & by_uid.keys() for name in variables(by_uid[aim])}
    for name in re.findall(r"\$\{(\w+):queryparam\}", asked):
        if name not in variables(dashboard):
            yield f"no variable {name} here"
        if name not in known:
            yield f"no variable {name} there"
        elif any(
            name in variables(by_uid[aim]) and name not in _common(dashboard, by_uid[aim])
            for aim in aims
        ):
            yield f"{name} can be All here, but not there"
    for name, value in re.findall(r"&var-(\w+)=(\$\{[^}]+\})", asked):
        if name not in known:
            yield f"no variable {name} there"
        if panel is not None:
            yield from _unknown_value(value, panel)


def _named_in_rows(panel: Mapping[str, Any]) -> set[str]:
    """The uids that a table's label `dashboard` can name."""
    names = re.findall(r'"dashboard", "(\w+)"', panel["targets"][0]["expr"])
    return {f"worker-{name}" for name in names}


def _unknown_value(value: str, panel: Mapping[str, Any]) -> Iterator[str]:
    if not value.endswith(":percentencode}"):
        yield f"{value} is not encoded"
    if match := re.match(r'\$\{__data\.fields\["([^"]+)"\]', value):
        if match[1] not in columns(panel):
            yield f"no column {match[1]}"
    elif match := re.match(r"\$\{__field\.labels\.(\w+)", value):
        if not any(match[1] in clause for clause in _BY.findall(panel["targets"][0]["expr"])):
            yield f"no label {match[1]}"
    elif not value.startswith(("${__data.fields[0]", "${__field.name")):
        yield f"{value} is nothing"
