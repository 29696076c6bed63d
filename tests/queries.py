"""Every query of the dashboards and the rules, run against a Prometheus.

`check(url, absent)` fails when one is refused, or finds nothing and nobody said why. Variables and
intervals are put in as Grafana does it.
"""

import itertools
import json
import math
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DASHBOARDS = ROOT / "dashboards/json"
RULES = (ROOT / "alerts/recording.yml", ROOT / "alerts/alerts.yml")

RANGE_SECONDS = 900
STEP_SECONDS = 15
NOW_SECONDS = 30
NOW_STEP_SECONDS = 5
RATE_INTERVAL = "1m"
"""What Grafana makes of $__rate_interval for a step and scrapes of 15 s: four scrapes."""

_CHOICES = 64
"""How many values of a variable that takes one at a time are tried until there is data."""

_NAME = r"(?:[a-z]+:[\w:]+|(?:worker|process|scrape|prometheus)_\w+|up|ALERTS(?:_FOR_STATE)?)"
_MATCHERS = r'\{(?:[^}"]|"(?:[^"\\]|\\.)*")*\}'
_SELECTOR = re.compile(rf"(?<![\w:\"])({_NAME})(?![\w(])\s*({_MATCHERS})?|({_MATCHERS})")
_CLAUSE = re.compile(
    r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)|\bgroup_(?:left|right)\b"
)
_LABEL_VALUES = re.compile(r"label_values\((?:(.+),\s*)?(\w+)\)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """One query. `place` says where it stands: "fleet / Workers running / A"."""

    place: str
    expression: str
    instant: bool
    variables: Sequence[Mapping[str, Any]] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a file. `record` or `alert` is empty."""

    record: str
    alert: str
    expression: str


def dashboards() -> dict[str, dict[str, Any]]:
    """The committed dashboards by the name of their file."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The panels of a dashboard, those in collapsed rows too, without the rows."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def queries(name: str, dashboard: Mapping[str, Any]) -> Iterator[Query]:
    """The queries of a dashboard's panels and annotations."""
    variables = dashboard["templating"]["list"]
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            place = f"{name} / {panel['title']} / {target['refId']}"
            yield Query(place, target["expr"], bool(target.get("instant")), variables)
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            place = f"{name} / annotation / {annotation['name']}"
            yield Query(place, annotation["expr"], False, variables)


def rules() -> list[Rule]:
    """The shipped rules, in their order."""
    return [
        Rule(rule.get("record", ""), rule.get("alert", ""), rule["expr"])
        for file in RULES
        for group in yaml.safe_load(file.read_text())["groups"]
        for rule in group["rules"]
    ]


def selectors(expression: str) -> list[tuple[str, str]]:
    """The name and the matchers of each selector, such as ("up", '{job="x"}'); either may be ""."""
    text = _CLAUSE.sub(" ", expression)
    return [(match[1] or "", match[2] or match[3] or "") for match in _SELECTOR.finditer(text)]


class Api:
    """Prometheus' HTTP API at `url`."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def values(self, label: str, selector: str) -> list[str]:
        """The values of a label, among the series of `selector` if there is one."""
        now = time.time()
        asked = {"start": now - RANGE_SECONDS, "end": now}
        if selector:
            asked["match[]"] = selector  # type: ignore[assignment]
        values: list[str] = self._get(f"label/{label}/values", asked)
        return values

    def try_out(self, expression: str) -> None:
        """Raise RefusedError where Prometheus does not take it."""
        self._get("query", {"query": expression})

    def has(self, expression: str) -> bool:
        """Whether there are values now, or were a moment ago: a missed scrape leaves none of it."""
        now, lately = (0, NOW_STEP_SECONDS), (NOW_SECONDS, NOW_STEP_SECONDS)
        return self._finds(expression, *now) or self._finds(expression, *lately)

    def had(self, expression: str) -> bool:
        """Whether there are values in the range that a dashboard shows."""
        return self._finds(expression, RANGE_SECONDS, STEP_SECONDS) or self.has(expression)

    def _finds(self, expression: str, seconds: int, step: int) -> bool:
        end = time.time()
        asked = {"query": expression, "start": end - seconds, "end": end, "step": step}
        rows = self._get("query_range", asked)["result"]
        return any(_is_number(value) for row in rows for _, value in row["values"])

    def _get(self, what: str, asked: Mapping[str, Any]) -> Any:
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(asked)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise RefusedError(json.load(error).get("error", str(error))) from None


class RefusedError(Exception):
    """Prometheus refuses a query; the text is its own."""


def _is_number(text: str) -> bool:
    return not math.isnan(float(text))


def interpolated(text: str, values: Mapping[str, str]) -> str:
    """`text` with variables and intervals put in; `values` are escaped already."""
    known = {
        **values,
        "__rate_interval": RATE_INTERVAL,
        "__interval": f"{STEP_SECONDS}s",
        "__range": f"{RANGE_SECONDS}s",
    }
    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda match: known[match[1] or match[2]], text)


def choices(api: Api, variables: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The values that somebody can choose: All where that is one, else each, at most 64."""
    found: list[dict[str, str]] = [{}]
    for variable in variables:
        if variable["type"] != "query":
            continue
        found = [
            {**values, variable["name"]: value}
            for values in found
            for value in _values(api, variable, values)
        ][:_CHOICES]
    return found


def _values(api: Api, variable: Mapping[str, Any], chosen: Mapping[str, str]) -> list[str]:
    query = variable["query"]
    match = _LABEL_VALUES.fullmatch(query if isinstance(query, str) else query["query"])
    assert match is not None, f"{variable['name']}: not understood: {query}"
    values = api.values(match[2], interpolated(match[1] or "", chosen))
    if variable.get("includeAll"):
        return [variable["allValue"]] if values else []
    return [value.replace("\\", "\\\\") for value in values]


@dataclass(slots=True)
class Checker:
    """What was found so far.

    A key of `absent` is a regular expression for the whole name of series that cannot be there, or
    for the whole place of a query that finds nothing; its value says why.
    """

    api: Api
    absent: Mapping[str, str]
    faults: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    missing: dict[str, bool] = field(default_factory=dict)

    def check_rule(self, rule: Rule) -> None:
        """A recording rule has to find something; of an alert, what it looks at."""
        place = f"rules / {rule.record or rule.alert}"
        if not self._is_accepted(place, rule.expression):
            return
        if rule.record:
            if not self.api.has(rule.expression):
                if self._excuse(place, rule.expression):
                    self.missing[rule.record] = True
            elif not self.api.has(rule.record):
                self.faults.append(f"{place}: it is not recorded")
            return
        for name, matchers in selectors(rule.expression):
            if not self.api.had(name + matchers):
                self._excuse(place, name)

    def check_query(self, query: Query) -> None:
        """A query has to find something for one of the values that can be chosen."""
        every = choices(self.api, query.variables)
        if not every:
            self.faults.append(f"{query.place}: a variable has no value")
        for values in every:
            expression = interpolated(query.expression, values)
            if not self._is_accepted(query.place, expression):
                return
            if self.api.has(expression) if query.instant else self.api.had(expression):
                self._found(query.place)
                return
        self._excuse(query.place, query.expression)

    def check_absent(self) -> None:
        """What is said to be absent must be, and must be asked for."""
        self.faults += [
            f"absent: {pattern!r} excuses nothing" for pattern in self.absent.keys() - self.used
        ]

    def _is_accepted(self, place: str, expression: str) -> bool:
        try:
            self.api.try_out(expression)
        except RefusedError as error:
            self.faults.append(f"{place}: {error}: {expression}")
            return False
        return True

    def _found(self, place: str) -> None:
        for pattern in self.absent:
            if re.fullmatch(pattern, place):
                self.faults.append(f"{place}: finds something, but {pattern!r} says it does not")

    def _excuse(self, place: str, expression: str) -> bool:
        """Whether it is known why `expression` finds nothing; else that is a fault."""
        names = {name for name, _ in selectors(expression) if name}
        here = [pattern for pattern in self.absent if re.fullmatch(pattern, place)]
        self.used.update(here)
        missing = [name for name in names if self._is_missing(name)]
        if here or missing:
            return True
        self.faults.append(f"{place}: finds nothing: {expression}")
        return False

    def _is_missing(self, name: str) -> bool:
        if name not in self.missing:
            self.missing[name] = self._look(name)
        return self.missing[name]

    def _look(self, name: str) -> bool:
        patterns = [pattern for pattern in self.absent if re.fullmatch(pattern, name)]
        self.used.update(patterns)
        if patterns and self.api.had(name):
            self.faults.append(f"{name}: is there, but {patterns[0]!r} says it is not")
        return bool(patterns)


def check(url: str, absent: Mapping[str, str]) -> None:
    """Run everything against the Prometheus at `url`, which has evaluated the shipped rules.

    A key of `absent` is a regular expression for the whole name of series (`worker_io_.*`), or for
    the whole place of a query (`gpu / GPUs gone / A`, `rules / WorkerGPUGone`): there nothing need
    be found, for the reason that is its value. Raises AssertionError with all faults: a query that
    is refused, that finds nothing and is not excused, an excuse that does not hold or is not used.
    """
    checker = Checker(Api(url), absent)
    for rule in rules():
        checker.check_rule(rule)
    for query in itertools.chain.from_iterable(queries(*each) for each in dashboards().items()):
        checker.check_query(query)
    checker.check_absent()
    assert not checker.faults, _told(checker.faults)


def _told(faults: Iterable[str]) -> str:
    return "\n".join(("", *faults))
