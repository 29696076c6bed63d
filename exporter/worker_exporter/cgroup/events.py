"""cgroup.events of every worker: read first in a pass, since it shows which workers are gone."""

from worker_exporter.cgroup.files import InterfaceFile, Kernel
from worker_exporter.cgroup.members import Worker

FILE = "cgroup.events"


class Events:
    """The content of each worker's cgroup.events: whether it is populated, and frozen.

    `content` has the bytes as last read, the same object until they change; None where they
    cannot be read.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.content: dict[Worker, bytes | None] = {}
        self._file: InterfaceFile[Worker] = InterfaceFile(FILE, kernel)

    def add(self, worker: Worker) -> None:
        """Follow `worker` from now on."""
        self.content[worker] = None
        self._file.add(worker)

    def remove(self, worker: Worker) -> None:
        """Follow `worker` no more."""
        self._file.remove(worker)
        del self.content[worker]

    def refresh(self) -> None:
        """Read all again. Workers that are gone are among the faults' `vanished` afterwards."""
        for worker, data in self._file.changed():
            self.content[worker] = data
