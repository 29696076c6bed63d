"""When a worker's interface files may have appeared: its controllers were enabled from above."""

from worker_exporter.cgroup.files import Cgroup, InterfaceFile, Kernel
from worker_exporter.cgroup.tree import Ancestor, Worker


class EnabledControllers:
    """cgroup.subtree_control of the cgroups right above workers.

    It says which controllers' files the workers have, so that missing ones need not be looked for
    at every scrape.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._file: InterfaceFile[Cgroup] = InterfaceFile("cgroup.subtree_control", kernel)
        self._workers: dict[Cgroup, set[Worker]] = {}
        self._enabled: dict[Cgroup, bytes | None] = {}

    def add(self, worker: Worker) -> None:
        """Follow what is enabled for `worker` from now on; to be called before its files are
        opened.
        """
        if worker.parent is None:
            return
        if worker.parent not in self._workers:
            self._workers[worker.parent] = set()
            self._file.add(worker.parent)
            self._enabled[worker.parent] = _read(worker.parent)
        self._workers[worker.parent].add(worker)

    def remove(self, worker: Worker) -> None:
        """Follow what is enabled for `worker` no more."""
        if worker.parent is None:
            return
        workers = self._workers[worker.parent]
        workers.discard(worker)
        if not workers:
            self._file.remove(worker.parent)
            del self._workers[worker.parent], self._enabled[worker.parent]

    def changed(self) -> set[Worker]:
        """The workers for which controllers were enabled or disabled since the last pass."""
        moved: set[Worker] = set()
        for parent, enabled in self._file.changed():
            if enabled != self._enabled[parent]:
                self._enabled[parent] = enabled
                moved |= self._workers[parent]
        return moved


def _read(parent: Ancestor) -> bytes | None:
    try:
        with open(f"{parent.location}/cgroup.subtree_control", "rb") as file:
            return file.read()
    except OSError:
        return None
