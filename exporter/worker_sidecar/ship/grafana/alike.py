"""Two models of a dashboard without what differs only in spelling.

A Grafana that migrates a dashboard leaves out what is empty, or puts it in, and adds the
annotations that each dashboard has anyway. Nobody did that, and nobody wants to read it in a diff.
"""

from collections.abc import Mapping, Sequence
from typing import Any


def alike(one: Any, other: Any) -> tuple[Any, Any]:
    """`one` and `other` without the empty values that only one of them has."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return _mappings(one, other)
    if isinstance(one, list) and isinstance(other, list):
        return _lists(_chosen(one), _chosen(other))
    return _number(one), _number(other)


def _mappings(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Any, Any]:
    both = {key: alike(one[key], other[key]) for key in one.keys() & other.keys()}
    left = {key: pair[0] for key, pair in both.items()}
    right = {key: pair[1] for key, pair in both.items()}
    return left | _lone(one, both), right | _lone(other, both)


def _lone(mapping: Mapping[str, Any], both: Mapping[str, Any]) -> dict[str, Any]:
    """What only this one has, and what is not empty."""
    return {
        key: value for key, value in mapping.items() if key not in both and not _is_empty(value)
    }


def _is_empty(value: object) -> bool:
    """Not 0: an axis that begins there is another than one that begins anywhere."""
    if isinstance(value, Mapping):
        return all(_is_empty(each) for each in value.values())
    if isinstance(value, list):
        return not _chosen(value)
    return value is None or value is False or value == ""


def _number(value: Any) -> Any:
    """A whole number in one spelling."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _lists(one: Sequence[Any], other: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Entries are paired by their id, as panels have it; others by their place."""
    places = dict(zip(_names(other), range(len(other)), strict=True))
    left, right = list(one), list(other)
    for at, name in enumerate(_names(one)):
        if name in places:
            left[at], right[places[name]] = alike(one[at], other[places[name]])
    return left, right


def _names(entries: Sequence[Any]) -> list[tuple[str, object]]:
    return [
        ("place", at) if (own := _id(entry)) is None else ("id", own)
        for at, entry in enumerate(entries)
    ]


def _id(entry: object) -> int | str | None:
    own = entry.get("id") if isinstance(entry, Mapping) else None
    return own if isinstance(own, int | str) else None


def _chosen(entries: Sequence[Any]) -> list[Any]:
    """`entries` without the annotations that Grafana adds to each dashboard."""
    return [
        entry for entry in entries if not (isinstance(entry, Mapping) and entry.get("builtIn") == 1)
    ]
