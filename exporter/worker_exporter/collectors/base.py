"""What a collector is, and the registry in which each enters itself."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from worker_exporter.cgroup.events import Events
from worker_exporter.cgroup.files import InterfaceFile, Kernel
from worker_exporter.cgroup.limits import UNKNOWN, PathLimit
from worker_exporter.cgroup.processes import PIDS, Processes
from worker_exporter.cgroup.tree import Worker
from worker_exporter.metrics.exposition import Column
from worker_exporter.metrics.family import families_of


@dataclass(frozen=True, slots=True)
class Moment:
    """When a pass began: `wall` in seconds since the epoch, `monotonic` in seconds."""

    wall: float
    monotonic: float


@dataclass(slots=True)
class Host:
    """What the collectors of one exporter share.

    `memory_sources` counts workers by where their resident memory comes from.
    """

    kernel: Kernel
    events: Events
    processes: Processes
    time_constant: float
    memory_sources: dict[str, int] = field(default_factory=dict)
    _pids_read: bool = False

    def begin(self) -> None:
        """A new pass begins: what was read in the last one is to be read again."""
        self._pids_read = False

    def pids(self) -> dict[Worker, PIDS | None]:
        """The PIDs of every worker, read at most once a pass."""
        if not self._pids_read:
            self.processes.refresh()
            self._pids_read = True
        return self.processes.pids


class Collector(Protocol):
    """Reads one subject for all workers, and keeps the text of its families."""

    columns: dict[str, Column]

    def add(self, worker: Worker) -> None:
        """A worker appeared."""

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""

    def look_again(self, worker: Worker) -> None:
        """Files of `worker` that were missing may be there now."""

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date. Raises anything when the collector as a whole failed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A collector in the registry, with what the command line says of it."""

    name: str
    summary: str
    make: Callable[[Host], Collector]
    default: bool = True


REGISTRY: dict[str, Entry] = {}


Make = TypeVar("Make", bound=Callable[[Host], Collector])


def register(name: str, summary: str) -> Callable[[Make], Make]:
    """Enter a collector in the registry; `name` makes its flag and chooses its families."""

    def enter(make: Make) -> Make:
        REGISTRY[name] = Entry(name, summary, make)
        return make

    return enter


@dataclass(slots=True)
class Source:
    """An interface file with the columns made of it, and how: `take` gets each changed content."""

    file: InterfaceFile[Worker]
    columns: tuple[Column, ...]
    take: Callable[[Worker, bytes], None]
    lost: Callable[[Worker], None] | None = None

    def collect(self) -> None:
        """Read all workers' files. What cannot be read, or makes no sense, is left out."""
        for worker, data in self.file.changed():
            if data is None:
                self._drop(worker)
                continue
            try:
                self.take(worker, data)
            except (ValueError, OverflowError):
                self.file.bad(worker)
                self._drop(worker)

    def _drop(self, worker: Worker) -> None:
        for column in self.columns:
            column.drop(worker)
        if self.lost is not None:
            self.lost(worker)


@dataclass(slots=True)
class LimitSource:
    """A limit file with the column of its smallest values on each worker's path."""

    limit: PathLimit
    column: Column

    def collect(self) -> None:
        """Read the limits of all workers and of the cgroups above them."""
        for worker, value in self.limit.changed():
            if value is None or value is UNKNOWN:
                self.column.drop(worker)
            else:
                self.column.put(worker, b"%d" % value)


class WorkerCollector:
    """The part that collectors of workers have in common: their columns and files."""

    def __init__(self, name: str, host: Host) -> None:
        self.host = host
        self.columns = columns_of(name)
        self.sources: list[Source] = []
        self.limits: list[PathLimit] = []

    def source(
        self,
        file: str,
        families: Iterable[str],
        take: Callable[[Worker, bytes], None],
        lost: Callable[[Worker], None] | None = None,
    ) -> Source:
        """A source of this collector: workers come and go in it from now on."""
        columns = tuple(self.columns[family] for family in families)
        source = Source(InterfaceFile(file, self.host.kernel), columns, take, lost)
        self.sources.append(source)
        return source

    def limit(self, file: str, parse: Callable[[bytes], float | None]) -> PathLimit:
        """A limit of this collector: workers come and go in it from now on."""
        limit = PathLimit(file, self.host.kernel, parse)
        self.limits.append(limit)
        return limit

    def add(self, worker: Worker) -> None:
        """A worker appeared."""
        for source in self.sources:
            source.file.add(worker)
        for limit in self.limits:
            limit.add(worker)

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        for source in self.sources:
            source.file.remove(worker)
        for limit in self.limits:
            limit.remove(worker)
        for column in self.columns.values():
            column.drop(worker)

    def look_again(self, worker: Worker) -> None:
        """Files of `worker` that were missing may be there now."""
        for source in self.sources:
            source.file.look_again(worker)
        for limit in self.limits:
            limit.look_again(worker)


def columns_of(collector: str) -> dict[str, Column]:
    """An empty column for each family of a collector, by the family's name."""
    return {family.name: Column(family) for family in families_of(collector)}
