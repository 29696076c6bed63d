"""Sums over the slices of one service: the same service may lie in several roots."""

from collections.abc import Callable, Mapping
from functools import reduce

from worker_exporter.cgroup.identity import Identity
from worker_exporter.cgroup.members import ServiceSlice
from worker_exporter.metrics.exposition import Column
from worker_exporter.metrics.family import COUNTER

Figures = Mapping[tuple[str, ...], float]
"""Figures by the values of the family's labels."""

_Place = tuple[str, int]
"""A slice's path and inode: no two have had the same."""

_ANEW: _Place = ("", 0)
"""Where is kept what slices had counted that count anew."""


class Totals:
    """One family: its figures by slice, and their sums by service in a column.

    A sum is told only when each slice has its part. A counter keeps what a slice had counted that
    is gone, or counts anew, while others of its service are there: what was used was used. A slice
    that comes back as it was, such as one that was over the maximum, has that itself.
    """

    def __init__(self, column: Column, show: Callable[[float], bytes]) -> None:
        self._column = column
        self._show = show
        self._slices: dict[Identity, dict[ServiceSlice, Figures | None]] = {}
        self._counted: dict[ServiceSlice, Figures] = {}
        self._of_gone: dict[Identity, dict[_Place, Figures]] = {}
        self._moved: set[Identity] = set()

    def add(self, part: ServiceSlice) -> None:
        """A slice appeared; it has no figures yet."""
        self._slices.setdefault(part.identity, {})[part] = None
        self._of_gone.get(part.identity, {}).pop((part.path, part.inode), None)
        self._moved.add(part.identity)

    def put(self, part: ServiceSlice, figures: Figures | None) -> None:
        """The figures of a slice; None: they cannot be told."""
        service = part.identity
        parts = self._slices[service]
        parts[part] = figures
        self._moved.add(service)
        if figures is None or self._column.family.type != COUNTER:
            return
        before = self._counted.get(part, {})
        self._counted[part] = figures
        if len(parts) > 1 or service in self._of_gone:
            fallen = (labels for labels in before if figures.get(labels, 0) < before[labels])
            self._keep(service, _ANEW, {labels: before[labels] for labels in fallen})

    def forget(self, part: ServiceSlice) -> None:
        """The next figures of a slice have other labels: none of its counters fell."""
        self._counted.pop(part, None)

    def remove(self, part: ServiceSlice) -> None:
        """A slice is gone."""
        service = part.identity
        parts = self._slices[service]
        del parts[part]
        self._moved.add(service)
        counted = self._counted.pop(part, {})
        if parts:
            self._keep(service, (part.path, part.inode), counted)
        else:
            del self._slices[service]
            self._of_gone.pop(service, None)

    def collect(self) -> None:
        """Bring the column up to date."""
        for service in self._moved:
            parts = self._slices.get(service)
            if parts is None:
                self._column.drop(service)
            else:
                self._column.put_labelled(service, self._sum(service, list(parts.values())))
        self._moved.clear()

    def _keep(self, service: Identity, place: _Place, counted: Figures) -> None:
        if counted:
            of_gone = self._of_gone.setdefault(service, {})
            of_gone[place] = _added(of_gone.get(place, {}), counted)

    def _sum(self, service: Identity, parts: list[Figures | None]) -> dict[tuple[str, ...], bytes]:
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return {}
        of_gone = self._of_gone.get(service, {}).values()
        nothing: Figures = {}
        total = reduce(_added, [*of_gone, *known], nothing)
        return {labels: self._show(figure) for labels, figure in total.items()}


def _added(one: Figures, other: Figures) -> Figures:
    return {labels: one.get(labels, 0) + other.get(labels, 0) for labels in {**one, **other}}
