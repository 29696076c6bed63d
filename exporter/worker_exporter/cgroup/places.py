"""In which cgroup a process is: /proc/PID/cgroup, read anew at every pass."""

from collections.abc import Iterable, Mapping

from worker_exporter.cgroup import procfs
from worker_exporter.cgroup.descriptors import Reads
from worker_exporter.cgroup.files import GONE, Kernel, process_reads

FILE = "cgroup"


class Places:
    """The cgroups of some processes; one that got the PID of a dead one is looked at anew."""

    def __init__(self, kernel: Kernel) -> None:
        self._faults = kernel.faults
        self._faults.errors[FILE] += 0
        self._reads: Reads[int] = process_reads(FILE, kernel, int)
        self._paths: dict[int, str | None] = {}

    def look(self, pids: Iterable[int]) -> Mapping[int, str]:
        """The cgroup of each of `pids`, as a path below the cgroup root.

        Left out are those that ended, that /proc hides, or whose file makes no sense.
        """
        wanted = set(pids)
        for pid in self._paths.keys() - wanted:
            self._forget(pid)
        for pid in wanted - self._paths.keys():
            self._open(pid)
        ended = self._read()
        for pid in ended:
            self._open(pid)
        if ended:
            self._read()
        return {pid: path for pid, path in self._paths.items() if path is not None}

    def close(self) -> None:
        """Give all descriptors back."""
        for pid in list(self._paths):
            self._forget(pid)

    def _open(self, pid: int) -> None:
        try:
            self._reads.add(pid)
        except OSError as error:
            self._count(error)
        else:
            self._paths[pid] = None

    def _read(self) -> list[int]:
        """Read what changed; the processes that ended."""
        ended = []
        for pid, data in list(self._reads.changed()):
            if isinstance(data, OSError):
                self._count(data)
                self._forget(pid)
                ended.append(pid)
                continue
            try:
                self._paths[pid] = procfs.unified_cgroup(data)
            except ValueError:
                self._faults.errors[FILE] += 1
                self._paths[pid] = None
                self._reads.forget(pid)
        return ended

    def _forget(self, pid: int) -> None:
        self._reads.discard(pid)
        self._paths.pop(pid, None)

    def _count(self, error: OSError) -> None:
        if error.errno not in GONE:
            self._faults.errors[FILE] += 1
