"""The rules that a Prometheus has loaded, against those that it should have."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from worker_sidecar.ship.errors import WrongServerError
from worker_sidecar.ship.http import Server
from worker_sidecar.ship.rules import Group, seconds


@dataclass(frozen=True, slots=True)
class Wanted:
    """A group, and the file that it should have been loaded from, as this host sees it."""

    path: str
    group: Group

    @property
    def file(self) -> str:
        """The file's name."""
        return os.path.basename(self.path)


@dataclass(frozen=True, slots=True)
class Look:
    """What a look at the rules came to: what is `wrong` with what is loaded, which rules are `sick`
    (their names and errors), and how many were not evaluated yet.
    """

    wrong: Sequence[str]
    sick: Sequence[str]
    pending: int


def look(server: Server, wanted: Sequence[Wanted]) -> Look:
    """Compare GET /api/v1/rules with `wanted`. Raises what Server.ask raises."""
    loaded = groups(server)
    wrong: list[str] = []
    sick: list[str] = []
    pending = 0
    for each in wanted:
        name = str(each.group["name"])
        found = [group for group in loaded if _is(group, each)]
        if not found:
            wrong.append(f"{name} is not loaded from a file {each.file}")
            continue
        wrong += _differences(server, each.group, found[0])
        rules = found[0].get("rules") or []
        sick += [f"{rule.get('name')}: {rule.get('lastError')}" for rule in rules if _is_sick(rule)]
        pending += sum(rule.get("health") == "unknown" for rule in rules)
    return Look(wrong, sick, pending)


def groups(server: Server) -> Sequence[Mapping[str, Any]]:
    """The groups of GET /api/v1/rules. Raises WrongServerError for another server's answer."""
    document = server.get("/api/v1/rules").json()
    data = document.get("data")
    if document.get("status") != "success" or not isinstance(data, dict):
        raise WrongServerError(f"its answer to {server.url}/api/v1/rules is not Prometheus'")
    return data.get("groups") or []


def elsewhere(server: Server, wanted: Sequence[Wanted]) -> Iterator[str]:
    """Groups of ours that are loaded from other files: two of one name would write each series
    twice, and fire each alert twice.
    """
    there = groups(server)
    for each in wanted:
        name = each.group["name"]
        places = [str(group.get("file", "")) for group in there if group.get("name") == name]
        own = [place for place in places if _is_own(place, each)]
        yield from (
            f"the group {name} is loaded from {place} already"
            for place in places
            if place not in own
        )
        if len(own) > 1:
            yield f"the group {name} is loaded twice, from {' and '.join(own)}"


def _is(group: Mapping[str, Any], wanted: Wanted) -> bool:
    """By the file's name only: the server may see its directory under another path."""
    file = os.path.basename(str(group.get("file", "")))
    return group.get("name") == wanted.group["name"] and file == wanted.file


def _is_own(place: str, wanted: Wanted) -> bool:
    """Whether the file that the server calls `place` can be ours, by all that this host knows."""
    if os.path.basename(place) != wanted.file:
        return False
    # one that is not here is seen under another path by the server, such as one in a container
    return not (os.path.isabs(place) and os.path.exists(place)) or _is_same_file(place, wanted.path)


def _is_same_file(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _is_sick(rule: Mapping[str, Any]) -> bool:
    return rule.get("health") == "err"


def _differences(server: Server, wanted: Group, found: Mapping[str, Any]) -> Iterator[str]:
    rules, loaded = wanted["rules"], found.get("rules") or []
    if len(rules) != len(loaded):
        yield f"{wanted['name']} is loaded with {len(loaded)} rules instead of {len(rules)}"
        return
    for rule, one in zip(rules, loaded, strict=True):
        name = rule.get("alert") or rule.get("record")
        if name != one.get("name"):
            yield f"{wanted['name']} is loaded with the rule {one.get('name')} instead of {name}"
        elif not _is_same(server, wanted, rule, one):
            yield f"{wanted['name']} is loaded with another {name}"


def _is_same(
    server: Server, group: Group, rule: Mapping[str, Any], loaded: Mapping[str, Any]
) -> bool:
    if {**_texts(group.get("labels")), **_texts(rule.get("labels"))} != _texts(
        loaded.get("labels")
    ):
        return False
    if "alert" in rule:
        if _texts(rule.get("annotations")) != _texts(loaded.get("annotations")):
            return False
        if seconds(rule.get("for")) != float(loaded.get("duration") or 0):
            return False
    return _is_same_query(server, str(rule["expr"]), str(loaded.get("query", "")))


def _is_same_query(server: Server, ours: str, theirs: str) -> bool:
    """Whether two expressions are one: Prometheus shows a rule's in its own spelling."""
    if _bare(ours) == _bare(theirs):
        return True
    spelled = [_spelled(server, query) for query in (ours, theirs)]
    return None in spelled or spelled[0] == spelled[1]


def _spelled(server: Server, query: str) -> str | None:
    """GET /api/v1/format_query; None before Prometheus 2.38, where nobody can tell."""
    answer = server.get("/api/v1/format_query", {"query": query}, expected=(400, 404))
    return _bare(str(answer.json().get("data"))) if answer.status == 200 else None


def _bare(query: str) -> str:
    return re.sub(r"\s+", "", query)


def _texts(labels: object) -> Mapping[str, str]:
    return {k: str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}
