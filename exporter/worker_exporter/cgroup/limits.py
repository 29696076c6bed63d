"""Limits that hold for a worker wherever on its path they are set."""

import math
from collections import Counter
from collections.abc import Callable, Iterator

from worker_exporter.cgroup.files import Cgroup, InterfaceFile, Kernel
from worker_exporter.cgroup.tree import Ancestor, Worker

UNKNOWN = math.nan
"""A limit that cannot be told; to be compared by `is` or `in`."""


class PathLimit:
    """The smallest value of one limit file on the path from each worker up to the cgroup root."""

    def __init__(
        self, name: str, kernel: Kernel, parse: Callable[[bytes], float | int | None]
    ) -> None:
        self._parse = parse
        self._own_file: InterfaceFile[Cgroup] = InterfaceFile(name, kernel)
        self._path_file: InterfaceFile[Cgroup] = InterfaceFile(name, kernel)
        self._values: dict[Cgroup, float] = {}
        self._effective: dict[Worker, float | None] = {}
        self._below: Counter[Ancestor] = Counter()
        self._added = False

    def add(self, worker: Worker) -> None:
        """Follow the limits of `worker` from now on."""
        self._own_file.add(worker)
        self._effective[worker] = UNKNOWN
        self._added = True
        for ancestor in worker.ancestors():
            self._below[ancestor] += 1
            if self._below[ancestor] == 1:
                self._path_file.add(ancestor)

    def remove(self, worker: Worker) -> None:
        """Follow the limits of `worker` no more."""
        self._own_file.remove(worker)
        self._values.pop(worker, None)
        del self._effective[worker]
        for ancestor in worker.ancestors():
            self._below[ancestor] -= 1
            if not self._below[ancestor]:
                del self._below[ancestor]
                self._path_file.remove(ancestor)
                self._values.pop(ancestor, None)

    def look_again(self, worker: Worker) -> None:
        """Try files that were missing once more, of `worker` and of what is above it."""
        self._own_file.look_again(worker)
        for ancestor in worker.ancestors():
            self._path_file.look_again(ancestor)

    def changed(self) -> Iterator[tuple[Worker, float | None]]:
        """Each worker whose limit changed since the last pass. None: unlimited; UNKNOWN: a file
        on its path cannot be read, or makes no sense.
        """
        moved = [(file, *read) for file in self._files for read in file.changed()]
        if not moved and not self._added:
            return
        for file, cgroup, data in moved:
            self._take(file, cgroup, data)
        self._added = False
        for worker in self._effective:
            value = self._smallest(worker)
            if value != self._effective[worker]:
                self._effective[worker] = value
                yield worker, value

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

    def _smallest(self, worker: Worker) -> float | None:
        cgroups = [worker, *worker.ancestors()]
        if self._own_file.is_denied(worker) or any(map(self._path_file.is_denied, cgroups[1:])):
            return UNKNOWN
        values = [self._values.get(cgroup, math.inf) for cgroup in cgroups]
        if UNKNOWN in values:
            return UNKNOWN
        smallest = min(values)
        return None if smallest == math.inf else smallest
