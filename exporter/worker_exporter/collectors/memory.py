"""Memory of workers: the memory.* files, or the processes' resident sets without them."""

from worker_exporter.cgroup import parse
from worker_exporter.cgroup.members import Worker
from worker_exporter.cgroup.resident import ResidentMemory
from worker_exporter.collectors.base import (
    Host,
    LimitSource,
    Moment,
    Source,
    WorkerCollector,
    register,
)

_STAT_COLUMNS = {
    "worker_memory_anon_bytes": b"anon",
    "worker_memory_file_bytes": b"file",
    "worker_memory_shmem_bytes": b"shmem",
    "worker_memory_kernel_bytes": b"kernel",
}
_EVENTS = (b"high", b"max", b"oom", b"oom_kill", b"oom_group_kill")
_RSS = "worker_memory_rss_bytes"
_PAGE_FAULTS = "worker_memory_page_faults_total"
_REFAULTS = "worker_memory_refaults_total"


@register("memory", "memory use, limits, events and faults")
class MemoryCollector(WorkerCollector):
    """The families of the memory controller; resident memory on hosts without it, too."""

    def __init__(self, host: Host) -> None:
        super().__init__("memory", host)
        self._stat = self.source(
            "memory.stat",
            (*_STAT_COLUMNS, _RSS, _PAGE_FAULTS, _REFAULTS),
            self._take_stat,
            self._lose_stat,
        )
        self._current = self.source(
            "memory.current",
            ("worker_memory_current_bytes",),
            self._take_current,
            self._lose_current,
        )
        self._numbers = [
            self._number("memory.peak", "worker_memory_peak_bytes"),
            self._number("memory.swap.current", "worker_memory_swap_bytes"),
        ]
        self._events = self.source(
            "memory.events", ("worker_memory_events_total",), self._take_events
        )
        self._limits = [
            LimitSource(self.limit(file, parse.limit), self.columns[family])
            for file, family in (
                ("memory.max", "worker_memory_limit_bytes"),
                ("memory.high", "worker_memory_high_bytes"),
                ("memory.swap.max", "worker_memory_swap_limit_bytes"),
            )
        ]
        self._resident = ResidentMemory(host.kernel)
        self._summed: set[Worker] = set()
        self._charged: dict[Worker, int] = {}
        self._inactive: dict[Worker, int] = {}
        self._faults: dict[Worker, tuple[int, int]] = {}
        self._unset: dict[Worker, None] = {}

    def add(self, worker: Worker) -> None:
        """A worker appeared: its resident memory is its processes' until memory.stat says it."""
        super().add(worker)
        if worker not in self._stat.file:
            self._resident.add(worker)

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        super().remove(worker)
        self._leave_resident(worker)
        self._charged.pop(worker, None)
        self._inactive.pop(worker, None)
        self._faults.pop(worker, None)
        self._unset.pop(worker, None)

    def look_again(self, worker: Worker) -> None:
        """Files of `worker` that were missing may be there now."""
        super().look_again(worker)
        if worker in self._stat.file:
            self._leave_resident(worker)

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date."""
        self._unset.clear()
        for source in (self._current, self._stat, *self._numbers, self._events):
            source.collect()
        for limit in self._limits:
            limit.collect()
        self._collect_working_sets()
        self._collect_resident()

    def _number(self, file: str, family: str) -> Source[Worker]:
        column = self.columns[family]
        return self.source(
            file, (family,), lambda worker, data: column.put(worker, parse.number(data))
        )

    def _take_current(self, worker: Worker, data: bytes) -> None:
        charged = parse.number(data)
        self.columns["worker_memory_current_bytes"].put(worker, charged)
        self._charged[worker] = int(charged)
        self._unset[worker] = None

    def _lose_current(self, worker: Worker) -> None:
        self._charged.pop(worker, None)
        self._unset[worker] = None

    def _take_stat(self, worker: Worker, data: bytes) -> None:
        self._leave_resident(worker)
        stat = parse.flat_keyed(data)
        for family, key in _STAT_COLUMNS.items():
            self.columns[family].put(worker, stat.get(key))
        self.columns[_RSS].put(worker, _sum(stat, b"anon", b"file_mapped"))
        self.columns[_PAGE_FAULTS].put(
            worker, self._minor_faults(worker, stat), stat.get(b"pgmajfault")
        )
        self.columns[_REFAULTS].put(
            worker, stat.get(b"workingset_refault_anon"), stat.get(b"workingset_refault_file")
        )
        self._unset[worker] = None
        if b"inactive_file" in stat:
            self._inactive[worker] = int(stat[b"inactive_file"])
        else:
            self._inactive.pop(worker, None)

    def _lose_stat(self, worker: Worker) -> None:
        self._inactive.pop(worker, None)
        self._faults.pop(worker, None)
        self._unset[worker] = None
        if worker not in self._stat.file:
            # Told anew even where it was followed already: the column has just lost it.
            self._resident.remove(worker)
            self._resident.add(worker)

    def _minor_faults(self, worker: Worker, stat: dict[bytes, bytes]) -> bytes | None:
        """The faults that no disk was needed for: pgfault counts the major ones too, each a moment
        after pgmajfault does, so that the difference may fall though neither did.
        """
        if b"pgfault" not in stat or b"pgmajfault" not in stat:
            return None
        faults = int(stat[b"pgfault"])
        minor = faults - int(stat[b"pgmajfault"])
        faults_before, minor_before = self._faults.get(worker, (0, 0))
        if faults >= faults_before:
            minor = max(minor, minor_before)
        self._faults[worker] = faults, minor
        return b"%d" % minor if minor >= 0 else None

    def _leave_resident(self, worker: Worker) -> None:
        self._resident.remove(worker)
        self._summed.discard(worker)

    def _take_events(self, worker: Worker, data: bytes) -> None:
        events = parse.flat_keyed(data)
        self._events.columns[0].put(worker, *map(events.get, _EVENTS))

    def _collect_working_sets(self) -> None:
        column = self.columns["worker_memory_working_set_bytes"]
        for worker in self._unset:
            charged, inactive = self._charged.get(worker), self._inactive.get(worker)
            if charged is None or inactive is None:
                column.drop(worker)
            else:
                column.put(worker, b"%d" % max(charged - inactive, 0))

    def _collect_resident(self) -> None:
        column = self.columns[_RSS]
        if self._resident:
            for worker, resident in self._resident.changed(self.host.pids()):
                if resident is None:
                    column.drop(worker)
                    self._summed.discard(worker)
                else:
                    column.put(worker, b"%d" % resident)
                    self._summed.add(worker)
        self.host.memory_sources = {
            "cgroup": len(column) - len(self._summed),
            "proc": len(self._summed),
        }


def _sum(stat: dict[bytes, bytes], *keys: bytes) -> bytes | None:
    if not all(key in stat for key in keys):
        return None
    return b"%d" % sum(int(stat[key]) for key in keys)
