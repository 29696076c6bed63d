"""Limits that hold for a member wherever on its path they are set."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Generic

from worker_exporter.cgroup.files import Cgroup, InterfaceFile, Kernel
from worker_exporter.cgroup.members import Ancestor, AnyMember

UNKNOWN = math.nan
"""A limit that cannot be told; to be compared by `is` or `in`."""


class PathLimit(Generic[AnyMember]):
    """The smallest value of one limit file on the path from each member up to the cgroup root."""

    def __init__(
        self, name: str, kernel: Kernel, parse: Callable[[bytes], float | int | None]
    ) -> None:
        self._parse = parse
        self._own_file: InterfaceFile[Cgroup] = InterfaceFile(name, kernel)
        self._path_file: InterfaceFile[Cgroup] = InterfaceFile(name, kernel)
        self._values: dict[Cgroup, float] = {}
        self._effective: dict[AnyMember, float | None] = {}
        self._below: Counter[Ancestor] = Counter()
        self._added = False

    def add(self, member: AnyMember) -> None:
        """Follow the limits of `member` from now on."""
        self._own_file.add(member)
        self._effective[member] = UNKNOWN
        self._added = True
        for ancestor in member.ancestors():
            self._below[ancestor] += 1
            if self._below[ancestor] == 1:
                self._path_file.add(ancestor)

    def remove(self, member: AnyMember) -> None:
        """Follow the limits of `member` no more."""
        self._own_file.remove(member)
        self._values.pop(member, None)
        del self._effective[member]
        for ancestor in member.ancestors():
            self._below[ancestor] -= 1
            if not self._below[ancestor]:
                del self._below[ancestor]
                self._path_file.remove(ancestor)
                self._values.pop(ancestor, None)

    def look_again(self, member: AnyMember) -> None:
        """Try files that were missing once more, of `member` and of what is above it."""
        self._own_file.look_again(member)
        for ancestor in member.ancestors():
            self._path_file.look_again(ancestor)

    def changed(self) -> Iterator[tuple[AnyMember, float | None]]:
        """Each member whose limit changed since the last pass. None: unlimited; UNKNOWN: a file
        on its path cannot be read, or makes no sense.
        """
        moved = [(file, *read) for file in self._files for read in file.changed()]
        if not moved and not self._added:
            return
        for file, cgroup, data in moved:
            self._take(file, cgroup, data)
        self._added = False
        for member in self._effective:
            value = self._smallest(member)
            if value != self._effective[member]:
                self._effective[member] = value
                yield member, value

    @property
    def _files(self) -> tuple[InterfaceFile[Cgroup], InterfaceFile[Cgroup]]:
        return self._path_file, self._own_file

    def _take(self, file: InterfaceFile[Cgroup], cgroup: Cgroup, data: bytes | None) -> None:
        self._values.pop(cgroup, None)
        if data is None:
            return
        try:
            value = self._parse(data)
        except ValueError:
            file.bad(cgroup)
            value = UNKNOWN
        if value is not None:
            self._values[cgroup] = value

    def _smallest(self, member: AnyMember) -> float | None:
        cgroups: list[Cgroup] = [member, *member.ancestors()]
        if self._own_file.is_denied(member) or any(
            map(self._path_file.is_denied, member.ancestors())
        ):
            return UNKNOWN
        values = [self._values.get(cgroup, math.inf) for cgroup in cgroups]
        if UNKNOWN in values:
            return UNKNOWN
        smallest = min(values)
        return None if smallest == math.inf else smallest
