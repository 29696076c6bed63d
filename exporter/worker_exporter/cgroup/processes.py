"""The processes of each worker: its own and those of the cgroups nested in it."""

import os
from dataclasses import dataclass, field

from worker_exporter.cgroup import parse
from worker_exporter.cgroup.files import Cgroup, InterfaceFile, Kernel
from worker_exporter.cgroup.members import Worker

MAX_DIRECTORIES = 256
"""A worker of more cgroups than this, itself included, is left out: walking them costs too much."""

PIDS = tuple[int, ...]


@dataclass(eq=False, slots=True)
class _Subtree:
    """The cgroups nested in a worker, as last seen; `children` counts those directly below each."""

    nested: dict[str, Cgroup] = field(default_factory=dict)
    children: dict[Cgroup, int] = field(default_factory=dict)
    too_large: bool = False


class Processes:
    """cgroup.procs of every worker's subtree, read once a pass.

    A worker without nested cgroups, as nearly all are, costs one read and one look at the link
    count of its directory. Nested ones are walked again when a link count changed or one of them
    is gone, so that what is remembered is what the kernel has.
    """

    def __init__(self, kernel: Kernel) -> None:
        self.pids: dict[Worker, PIDS | None] = {}
        self._kernel = kernel
        self._file: InterfaceFile[Cgroup] = InterfaceFile("cgroup.procs", kernel)
        self._by_cgroup: dict[Cgroup, PIDS | None] = {}
        self._subtrees: dict[Worker, _Subtree] = {}
        self._owners: dict[Cgroup, Worker] = {}

    def add(self, worker: Worker) -> None:
        """Follow the processes of `worker` from now on."""
        self.pids[worker] = None
        self._own(worker, worker)

    def remove(self, worker: Worker) -> None:
        """Follow the processes of `worker` no more."""
        subtree = self._subtrees.pop(worker, None)
        for cgroup in list(subtree.nested.values()) if subtree else []:
            self._disown(cgroup)
        self._disown(worker)
        del self.pids[worker]

    def refresh(self) -> None:
        """Read again. Afterwards `pids` has each worker's PIDs, as a new tuple where they changed;
        None where they cannot be told.
        """
        moved = {
            worker
            for worker, links in zip(self.pids, self._links(), strict=True)
            if (links != 2 or worker in self._subtrees) and self._restructured(worker)
        }
        for worker in moved:
            self._walk(worker)
        moved |= self._read()
        broken = {
            self._owners[cgroup]
            for cgroup in self._kernel.faults.vanished
            if cgroup in self._owners and self._owners[cgroup] is not cgroup
        }
        for worker in broken:
            self._walk(worker)
        if broken:
            moved |= self._read()
        for worker in moved:
            self.pids[worker] = self._sum(worker)

    def _links(self) -> list[int]:
        """The link count of each worker's directory; 0 where it cannot be told."""
        places = [
            worker.location if worker.directory is None else worker.directory
            for worker in self.pids
        ]
        try:
            return [status.st_nlink for status in map(os.stat, places)]
        except OSError:
            return [_links_of(worker) for worker in self.pids]

    def _restructured(self, worker: Worker) -> bool:
        """Whether cgroups nested in `worker` came or went since they were last walked."""
        subtree = self._subtrees.get(worker)
        if subtree is None or subtree.too_large:
            return True
        # One whose cgroup.procs cannot be read would go, and another come, without a trace.
        return any(
            _links_of(cgroup) != 2 + count or cgroup not in self._file
            for cgroup, count in subtree.children.items()
        )

    def _walk(self, worker: Worker) -> None:
        """Find the cgroups nested in `worker`, keeping those that were known."""
        known = self._subtrees.pop(worker, _Subtree()).nested
        subtree = _Subtree(too_large=_descendants(worker) >= MAX_DIRECTORIES)
        if not subtree.too_large:
            self._descend(worker, subtree, known)
        if subtree.too_large:
            subtree.nested.clear()
            subtree.children.clear()
        if subtree.nested or subtree.too_large:
            self._subtrees[worker] = subtree
        for path, cgroup in known.items():
            if subtree.nested.get(path) is not cgroup:
                self._disown(cgroup)
        for path, cgroup in subtree.nested.items():
            if known.get(path) is not cgroup:
                self._own(cgroup, worker)

    def _descend(self, cgroup: Cgroup, subtree: _Subtree, known: dict[str, Cgroup]) -> None:
        inodes = _directories(cgroup.location)
        subtree.children[cgroup] = len(inodes)
        for name, inode in inodes.items():
            if subtree.too_large or len(subtree.nested) + 1 >= MAX_DIRECTORIES:
                subtree.too_large = True
                return
            path = f"{cgroup.path}/{name}"
            nested = known.get(path)
            if nested is None or nested.inode != inode:
                nested = Cgroup(path, f"{cgroup.location}/{name}", inode)
            subtree.nested[path] = nested
            self._descend(nested, subtree, known)

    def _read(self) -> set[Worker]:
        """Read every cgroup.procs; the workers in whose subtree something changed."""
        moved = set()
        for cgroup, data in list(self._file.changed()):
            self._by_cgroup[cgroup] = self._parse(cgroup, data)
            moved.add(self._owners[cgroup])
        return moved

    def _parse(self, cgroup: Cgroup, data: bytes | None) -> PIDS | None:
        if data is None:
            return None
        try:
            pids = parse.process_ids(data)
        except ValueError:
            self._file.bad(cgroup)
            return None
        if 0 in pids:
            self._kernel.faults.foreign_processes = True
        return pids

    def _sum(self, worker: Worker) -> PIDS | None:
        subtree = self._subtrees.get(worker, _Subtree())
        if subtree.too_large:
            return None
        own = self._by_cgroup.get(worker)
        if own is None or any(map(self._file.is_denied, subtree.nested.values())):
            return None
        pids = list(own)
        for cgroup in subtree.nested.values():
            pids.extend(self._by_cgroup.get(cgroup) or ())
        return tuple(pids)

    def _own(self, cgroup: Cgroup, worker: Worker) -> None:
        self._owners[cgroup] = worker
        self._file.add(cgroup)

    def _disown(self, cgroup: Cgroup) -> None:
        self._file.remove(cgroup)
        self._by_cgroup.pop(cgroup, None)
        self._owners.pop(cgroup, None)
        if not isinstance(cgroup, Worker):
            cgroup.close(self._kernel.descriptors)


def _links_of(cgroup: Cgroup) -> int:
    try:
        return cgroup.links()
    except OSError:
        return 0


def _directories(location: str) -> dict[str, int]:
    try:
        with os.scandir(location) as found:
            return {
                entry.name: entry.inode() for entry in found if entry.is_dir(follow_symlinks=False)
            }
    except OSError:
        return {}


def _descendants(cgroup: Cgroup) -> int:
    """nr_descendants of cgroup.stat; 0 where it cannot be read."""
    try:
        with open(f"{cgroup.location}/cgroup.stat", "rb") as file:
            return int(parse.flat_keyed(file.read()).get(b"nr_descendants", b"0"))
    except (OSError, ValueError):
        return 0
