"""What a collector is, and the registry in which each enters itself."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar, cast

from worker_exporter.cgroup.events import Events
from worker_exporter.cgroup.files import InterfaceFile, Kernel
from worker_exporter.cgroup.limits import UNKNOWN, PathLimit
from worker_exporter.cgroup.members import AnyMember, Member, Worker
from worker_exporter.cgroup.places import Places
from worker_exporter.cgroup.processes import PIDS, Processes
from worker_exporter.gpu.asking import Gpus
from worker_exporter.metrics.exposition import Column
from worker_exporter.metrics.family import families_of
from worker_exporter.systemd.membership import WorkerUnits


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
    units: WorkerUnits
    gpus: Gpus
    places: Places
    time_constant: float
    memory_sources: dict[str, int] = field(default_factory=dict)
    _pids_read: bool = False

    def begin(self) -> None:
        """A new pass begins: what was read in the last one is to be read again."""
        self._pids_read = False
        self.units.begin()

    def close(self) -> None:
        """Give descriptors of processes back, and ask nobody any more."""
        self.places.close()
        self.units.close()
        self.gpus.close()

    def add(self, worker: Worker) -> None:
        """A worker appeared."""
        self.events.add(worker)
        self.processes.add(worker)
        self.units.add(worker)

    def remove(self, worker: Worker) -> None:
        """A worker is gone."""
        self.events.remove(worker)
        self.processes.remove(worker)
        self.units.remove(worker)

    def pids(self) -> dict[Worker, PIDS | None]:
        """The PIDs of every worker, read at most once a pass."""
        if not self._pids_read:
            self.processes.refresh()
            self._pids_read = True
        return self.processes.pids


class Incomplete(Exception):  # noqa: N818  (no error: what was collected is right)
    """Some of what a collector is for could not be had in this pass; it said why by itself.

    Its columns hold the rest, and nothing that is old.
    """


class Collector(Protocol):
    """Reads one subject, and keeps the text of its families."""

    columns: dict[str, Column]

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date.

        Raises Incomplete, or anything else when the collector as a whole failed.
        """


Followed = TypeVar("Followed", bound=Member, contravariant=True)


class Follower(Protocol[Followed]):
    """A collector of one kind of members: it is told which there are."""

    def add(self, member: Followed, /) -> None:
        """A member appeared."""

    def remove(self, member: Followed, /) -> None:
        """A member is gone: none of its samples may stay."""

    def look_again(self, member: Followed, /) -> None:
        """Files of `member` that were missing may be there now."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A collector in the registry, with what the command line says of it.

    It is a Follower of the members of the kind `follows`.
    """

    name: str
    summary: str
    make: Callable[[Host], Collector]
    follows: type[Member] | None
    default: bool = True

    def followers(self, collector: Collector, member: Member) -> Iterator[Follower[Member]]:
        """`collector`, made by this entry, if `member` is of the kind that it follows."""
        if self.follows is type(member):
            yield cast(Follower[Member], collector)


REGISTRY: dict[str, Entry] = {}


Make = TypeVar("Make", bound=Callable[[Host], Collector])


def register(
    name: str, summary: str, follows: type[Member] | None = Worker
) -> Callable[[Make], Make]:
    """Enter a collector in the registry; `name` makes its flag and chooses its families."""

    def enter(make: Make) -> Make:
        REGISTRY[name] = Entry(name, summary, make, follows)
        return make

    return enter


@dataclass(slots=True)
class Source(Generic[AnyMember]):
    """An interface file with the columns made of it, and how: `take` gets each changed content."""

    file: InterfaceFile[AnyMember]
    columns: tuple[Column, ...]
    take: Callable[[AnyMember, bytes], None]
    lost: Callable[[AnyMember], None] | None = None

    def collect(self) -> None:
        """Read all members' files. What cannot be read, or makes no sense, is left out."""
        for member, data in self.file.changed():
            if data is None:
                self._drop(member)
                continue
            try:
                self.take(member, data)
            except (ValueError, OverflowError):
                self.file.bad(member)
                self._drop(member)

    def _drop(self, member: AnyMember) -> None:
        for column in self.columns:
            column.drop(member)
        if self.lost is not None:
            self.lost(member)


@dataclass(slots=True)
class LimitSource(Generic[AnyMember]):
    """A limit file with the column of its smallest values on each member's path."""

    limit: PathLimit[AnyMember]
    column: Column

    def collect(self) -> None:
        """Read the limits of all members and of the cgroups above them."""
        for member, value in self.limit.changed():
            if value is None or value is UNKNOWN:
                self.column.drop(member)
            else:
                self.column.put(member, b"%d" % value)


class MemberCollector(Generic[AnyMember]):
    """The part that collectors of members have in common: their columns and files."""

    def __init__(self, name: str, host: Host) -> None:
        self.host = host
        self.columns = columns_of(name)
        self.sources: list[Source[AnyMember]] = []
        self.limits: list[PathLimit[AnyMember]] = []

    def source(
        self,
        file: str,
        families: Iterable[str],
        take: Callable[[AnyMember, bytes], None],
        lost: Callable[[AnyMember], None] | None = None,
    ) -> Source[AnyMember]:
        """A source of this collector: members come and go in it from now on."""
        columns = tuple(self.columns[family] for family in families)
        source: Source[AnyMember] = Source(
            InterfaceFile(file, self.host.kernel), columns, take, lost
        )
        self.sources.append(source)
        return source

    def limit(self, file: str, parse: Callable[[bytes], float | None]) -> PathLimit[AnyMember]:
        """A limit of this collector: members come and go in it from now on."""
        limit: PathLimit[AnyMember] = PathLimit(file, self.host.kernel, parse)
        self.limits.append(limit)
        return limit

    def add(self, member: AnyMember) -> None:
        """A member appeared."""
        for source in self.sources:
            source.file.add(member)
        for limit in self.limits:
            limit.add(member)

    def remove(self, member: AnyMember) -> None:
        """A member is gone: none of its samples may stay."""
        for source in self.sources:
            source.file.remove(member)
        for limit in self.limits:
            limit.remove(member)
        for column in self.columns.values():
            column.drop(member)

    def look_again(self, member: AnyMember) -> None:
        """Files of `member` that were missing may be there now."""
        for source in self.sources:
            source.file.look_again(member)
        for limit in self.limits:
            limit.look_again(member)


WorkerCollector = MemberCollector[Worker]


def columns_of(collector: str) -> dict[str, Column]:
    """An empty column for each family of a collector, by the family's name."""
    return {family.name: Column(family) for family in families_of(collector)}
