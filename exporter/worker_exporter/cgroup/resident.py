"""Resident memory of workers by their processes, where there is no memory controller."""

from collections.abc import Iterator
from dataclasses import dataclass
from operator import attrgetter

from worker_exporter.cgroup import procfs
from worker_exporter.cgroup.descriptors import Reads
from worker_exporter.cgroup.files import GONE, Kernel, process_reads
from worker_exporter.cgroup.members import Worker
from worker_exporter.cgroup.processes import PIDS


@dataclass(eq=False, slots=True)
class _Process:
    pid: int
    worker: Worker


class ResidentMemory:
    """The sum of the resident sets of each worker's processes (/proc/PID/statm).

    An upper bound: pages that processes share count once for each. Left out where one of the
    processes cannot be read, since part of a sum is wrong.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._faults = kernel.faults
        self._faults.errors["statm"] += 0
        self._reads: Reads[_Process] = process_reads("statm", kernel, attrgetter("pid"))
        self._seen: dict[Worker, PIDS | None] = {}
        self._processes: dict[Worker, dict[int, _Process]] = {}
        self._bytes: dict[_Process, int | None] = {}
        self._unsettled: dict[Worker, None] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, worker: Worker) -> bool:
        return worker in self._seen

    def add(self, worker: Worker) -> None:
        """Follow the processes of `worker` from now on."""
        self._seen[worker] = None
        self._processes[worker] = {}
        self._unsettled[worker] = None

    def remove(self, worker: Worker) -> None:
        """Follow the processes of `worker` no more."""
        for process in list(self._processes.pop(worker, {}).values()):
            self._drop(process)
        self._seen.pop(worker, None)
        self._unsettled.pop(worker, None)

    def changed(self, pids: dict[Worker, PIDS | None]) -> Iterator[tuple[Worker, int | None]]:
        """Each worker whose sum changed since the last pass, in bytes; None: it cannot be told."""
        moved = self._unsettled | {
            worker: None for worker, seen in self._seen.items() if pids[worker] is not seen
        }
        self._unsettled = {}
        for worker in moved:
            self._seen[worker] = pids[worker]
            self._follow(worker, pids[worker] or ())
        for process, data in list(self._reads.changed()):
            self._take(process, data)
            moved[process.worker] = None
        for worker in moved:
            yield worker, self._sum(worker)

    def _follow(self, worker: Worker, pids: PIDS) -> None:
        """Read the processes `pids` of `worker` from now on, and no others."""
        processes = self._processes[worker]
        for pid in processes.keys() - set(pids):
            self._drop(processes.pop(pid))
        for pid in pids:
            if pid in processes and processes[pid] not in self._reads:
                self._drop(processes.pop(pid))
            if pid not in processes:
                processes[pid] = self._open(worker, pid)

    def _open(self, worker: Worker, pid: int) -> _Process:
        process = _Process(pid, worker)
        self._bytes[process] = None
        try:
            self._reads.add(process)
        except OSError as error:
            self._unsettled[worker] = None
            if error.errno not in GONE:
                self._faults.errors["statm"] += 1
        return process

    def _take(self, process: _Process, data: bytes | OSError) -> None:
        if isinstance(data, OSError):
            self._lose(process, data)
            return
        try:
            self._bytes[process] = procfs.resident_bytes(data)
        except ValueError:
            self._faults.errors["statm"] += 1
            self._bytes[process] = None
            self._reads.forget(process)

    def _lose(self, process: _Process, error: OSError) -> None:
        """A process that ended holds nothing; one that cannot be read holds nobody knows what."""
        self._reads.discard(process)
        self._unsettled[process.worker] = None
        self._bytes[process] = 0 if error.errno in GONE else None
        if error.errno not in GONE:
            self._faults.errors["statm"] += 1

    def _sum(self, worker: Worker) -> int | None:
        if self._seen[worker] is None:
            return None
        values = [self._bytes[process] for process in self._processes[worker].values()]
        known = [value for value in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    def _drop(self, process: _Process) -> None:
        self._reads.discard(process)
        del self._bytes[process]
