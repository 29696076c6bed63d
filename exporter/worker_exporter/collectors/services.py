"""Totals of services from their slices, which outlive the workers: cpu.stat, memory.*, io.stat."""

from collections.abc import Callable

from worker_exporter.cgroup import parse
from worker_exporter.cgroup.devices import Devices
from worker_exporter.cgroup.limits import UNKNOWN
from worker_exporter.cgroup.members import ServiceSlice
from worker_exporter.collectors.base import Host, MemberCollector, Moment, Source, register
from worker_exporter.collectors.cpu_limit import CpuLimit
from worker_exporter.collectors.totals import Figures, Totals
from worker_exporter.metrics.exposition import decimal
from worker_exporter.metrics.family import family

_CPU = "worker_service_cpu_seconds_total"
_QUOTA = {
    "worker_service_cpu_periods_total": b"nr_periods",
    "worker_service_cpu_throttled_periods_total": b"nr_throttled",
    "worker_service_cpu_throttled_seconds_total": b"throttled_usec",
}
_CORES = "worker_service_cpu_limit_cores"
_MEMORY = "worker_service_memory_current_bytes"
_MEMORY_LIMIT = "worker_service_memory_limit_bytes"
_EVENTS = "worker_service_memory_events_total"
_IO = {
    "worker_service_io_read_bytes_total": b"rbytes",
    "worker_service_io_written_bytes_total": b"wbytes",
}
_MODES = {b"user_usec": "user", b"system_usec": "system"}
_EVENT_KEYS = {value.encode(): value for value in family(_EVENTS).values}


@register("services", "totals of services, which outlive their workers", follows=ServiceSlice)
class ServicesCollector(MemberCollector[ServiceSlice]):
    """The families of service slices."""

    def __init__(self, host: Host) -> None:
        super().__init__("services", host)
        self._totals = {
            name: Totals(column, _seconds if "_seconds_" in name else decimal)
            for name, column in self.columns.items()
        }
        self._read("cpu.stat", (_CPU, *_QUOTA), self._take_cpu)
        self._read("memory.current", (_MEMORY,), self._take_memory)
        self._read("memory.events", (_EVENTS,), self._take_events)
        self._io = self._read("io.stat", tuple(_IO), self._take_io)
        self._cores = CpuLimit(self)
        self._memory_limit = self.limit("memory.max", parse.limit)
        self._devices = Devices(host.kernel.sysfs)
        self._slices: set[ServiceSlice] = set()

    def add(self, member: ServiceSlice) -> None:
        """A slice appeared."""
        super().add(member)
        self._slices.add(member)
        for totals in self._totals.values():
            totals.add(member)

    def remove(self, member: ServiceSlice) -> None:
        """A slice is gone: none of its samples may stay."""
        super().remove(member)
        self._slices.discard(member)
        self._cores.remove(member)
        for totals in self._totals.values():
            totals.remove(member)

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date."""
        if self._devices.renamed():
            self._begin_io_anew()
        for source in self.sources:
            source.collect()
        for member, cores in self._cores.changed():
            self._put_limit(_CORES, member, cores)
        for member, limit in self._memory_limit.changed():
            self._put_limit(_MEMORY_LIMIT, member, limit)
        for totals in self._totals.values():
            totals.collect()

    def _read(
        self,
        file: str,
        families: tuple[str, ...],
        take: Callable[[ServiceSlice, bytes], None],
    ) -> Source[ServiceSlice]:
        def lose(member: ServiceSlice) -> None:
            for name in families:
                self._totals[name].put(member, None)

        return self.source(file, (), take, lose)

    def _take_cpu(self, member: ServiceSlice, data: bytes) -> None:
        stat = parse.flat_keyed(data)
        self._totals[_CPU].put(member, _labelled(stat, _MODES))
        for name, key in _QUOTA.items():
            self._totals[name].put(member, _plain(int(stat[key])) if key in stat else None)

    def _take_memory(self, member: ServiceSlice, data: bytes) -> None:
        self._totals[_MEMORY].put(member, _plain(int(parse.number(data))))

    def _take_events(self, member: ServiceSlice, data: bytes) -> None:
        self._totals[_EVENTS].put(member, _labelled(parse.flat_keyed(data), _EVENT_KEYS))

    def _take_io(self, member: ServiceSlice, data: bytes) -> None:
        stat = parse.nested_keyed(data)
        for name, key in _IO.items():
            by_device: Figures = {
                (self._devices.name(number),): int(figures[key])
                for number, figures in stat.items()
                if key in figures
            }
            self._totals[name].put(member, by_device)

    def _begin_io_anew(self) -> None:
        for member in self._slices:
            self._io.file.refresh(member)
            for name in _IO:
                self._totals[name].forget(member)

    def _put_limit(self, name: str, member: ServiceSlice, limit: float | None) -> None:
        told = None if limit is None or limit is UNKNOWN else _plain(limit)
        self._totals[name].put(member, told)


def _plain(figure: float) -> Figures:
    return {(): figure}


def _labelled(stat: dict[bytes, bytes], labels: dict[bytes, str]) -> Figures:
    return {(label,): int(stat[key]) for key, label in labels.items() if key in stat}


def _seconds(microseconds: float) -> bytes:
    return parse.seconds(b"%d" % microseconds)
