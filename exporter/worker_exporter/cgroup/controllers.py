"""When interface files may have appeared: controllers were enabled from above."""

import os
from collections.abc import Iterator

from worker_exporter.cgroup.files import Cgroup, InterfaceFile, Kernel
from worker_exporter.cgroup.mount import Mount
from worker_exporter.cgroup.tree import Worker


class EnabledControllers:
    """cgroup.subtree_control of the cgroups above workers, up to the cgroup root.

    It says which controllers' files the workers and their slices have, so that missing ones need
    not be looked for at every scrape.
    """

    def __init__(self, mount: Mount, kernel: Kernel) -> None:
        self._root = Cgroup("", mount.path, os.stat(mount.path).st_ino)
        self._file: InterfaceFile[Cgroup] = InterfaceFile("cgroup.subtree_control", kernel)
        self._workers: dict[Cgroup, set[Worker]] = {}
        self._enabled: dict[Cgroup, bytes | None] = {}

    def add(self, worker: Worker) -> None:
        """Follow what is enabled for `worker` from now on; to be called before its files are
        opened.
        """
        for above in self._above(worker):
            if above not in self._workers:
                self._workers[above] = set()
                self._file.add(above)
                self._enabled[above] = _read(above)
            self._workers[above].add(worker)

    def remove(self, worker: Worker) -> None:
        """Follow what is enabled for `worker` no more."""
        for above in self._above(worker):
            workers = self._workers[above]
            workers.discard(worker)
            if not workers:
                self._file.remove(above)
                del self._workers[above], self._enabled[above]

    def changed(self) -> set[Worker]:
        """The workers for which, or above which, controllers were enabled or disabled since the
        last pass.
        """
        moved: set[Worker] = set()
        for above, enabled in self._file.changed():
            if enabled != self._enabled[above]:
                self._enabled[above] = enabled
                moved |= self._workers[above]
        return moved

    def _above(self, worker: Worker) -> Iterator[Cgroup]:
        yield from worker.ancestors()
        yield self._root


def _read(cgroup: Cgroup) -> bytes | None:
    try:
        with open(f"{cgroup.location}/cgroup.subtree_control", "rb") as file:
            return file.read()
    except OSError:
        return None
