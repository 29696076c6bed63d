"""Which workers exist: found anew at every scrape, known again by path and inode."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from worker_exporter import log
from worker_exporter.cgroup.files import ABSENT, GONE, Cgroup, Kernel
from worker_exporter.cgroup.identity import (
    Identity,
    by_path,
    by_pattern,
    literal_directory,
    may_hold_workers,
    slice_path,
)
from worker_exporter.cgroup.mount import Mount, is_kernels

MAX_DEPTH = 32
"""How many levels below a slice, or a pattern's directory, are searched: whoever has a delegated
cgroup can nest without end.
"""


@dataclass(eq=False, slots=True)
class Ancestor(Cgroup):
    """A cgroup between the cgroup root and a worker, shared by all workers below it."""

    parent: "Ancestor | None" = None


@dataclass(eq=False, slots=True)
class Worker(Cgroup):
    """A cgroup that has an identity. One that is made anew under the same name is another."""

    identity: Identity = field(default_factory=lambda: Identity("", ""))
    parent: Ancestor | None = None

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels that every sample of this worker carries."""
        return ("service", self.identity.service), ("instance", self.identity.instance)

    def ancestors(self) -> Iterator[Ancestor]:
        """The cgroups above, the nearest first, without the cgroup root."""
        ancestor = self.parent
        while ancestor is not None:
            yield ancestor
            ancestor = ancestor.parent


@dataclass(frozen=True, slots=True)
class Scope:
    """Where workers are looked for, below the cgroup root."""

    slices: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...] = ()
    user_managers: bool = False
    max_workers: int = 2000


@dataclass(frozen=True, slots=True)
class _Root:
    """A directory to search. `stem` of its slice; None where only patterns name workers.

    `suffix` is put behind the service of workers in another user's manager.
    """

    path: str
    stem: str | None
    suffix: str = ""

    def identify(self, path: str, patterns: tuple[re.Pattern[str], ...]) -> Identity | None:
        identity = by_pattern(path, patterns)
        if identity is None and self.stem is not None:
            identity = by_path(self._below(path), self.stem)
        if identity is None or not self.suffix:
            return identity
        return Identity(identity.service + self.suffix, identity.instance)

    def leads_to_workers(self, path: str) -> bool:
        parts = self._below(path)
        return len(parts) < MAX_DEPTH and (self.stem is None or may_hold_workers(parts))

    def _below(self, path: str) -> tuple[str, ...]:
        return tuple(path.removeprefix(f"{self.path}/").split("/"))


@dataclass(slots=True)
class _Directory:
    """A directory that may hold workers, with what was in it at the last look (name, inode)."""

    path: str
    root: _Root
    entries: dict[str, int] = field(default_factory=dict)
    workers: dict[str, tuple[int, Identity]] = field(default_factory=dict)
    below: dict[str, "_Directory"] = field(default_factory=dict)

    def all_workers(self) -> Iterator[tuple[str, int, Identity]]:
        for path, (inode, identity) in self.workers.items():
            yield path, inode, identity
        for directory in self.below.values():
            yield from directory.all_workers()


class Tree:
    """The workers of a host, and the cgroups above them.

    `workers` by path; `duplicates` counts cgroups left out since their identity is taken, `dropped`
    those over the maximum or without a valid identity.
    """

    def __init__(self, mount: Mount, scope: Scope, kernel: Kernel) -> None:
        self.workers: dict[str, Worker] = {}
        self.duplicates = 0
        self.dropped = 0
        self._mount = mount.path
        self._scope = scope
        self._kernel = kernel
        kernel.faults.errors["directory"] += 0
        self._ancestors: dict[str, Ancestor] = {}
        self._directories: dict[_Root, _Directory] = {}
        self._fixed_roots = _fixed_roots(scope, os.getuid())
        self._stale = False
        self._links_tell = is_kernels(mount.path)
        self._all_served = True
        self._doubted: set[str] = set()
        self._said_missing: set[str] = set()

    def refresh(self) -> tuple[list[Worker], list[Worker]]:
        """Look again: the workers that are gone, and those that appeared, since the last look.

        Workers that vanished meanwhile must have been forgotten before.
        """
        roots = [*self._fixed_roots, *self._user_roots(), *_pattern_roots(self._scope)]
        directories = {
            root: self._directories.get(root) or _Directory(root.path, root) for root in roots
        }
        changed = directories.keys() != self._directories.keys()
        self._directories = directories
        for directory in directories.values():
            changed |= self._look(directory, self._status(directory.path))
        self._doubted.clear()
        self._say_missing_slices()
        if not changed and not self._stale:
            return [], []
        self._stale = False
        return self._replace(self._choose())

    def forget(self, worker: Worker) -> None:
        """Leave out a worker that vanished since the last look."""
        if self.workers.get(worker.path) is worker:
            del self.workers[worker.path]
            self._stale = True
            self._doubted.add(worker.path.rpartition("/")[0])
        worker.close(self._kernel.descriptors)

    def _look(self, directory: _Directory, status: os.stat_result | None) -> bool:
        """Look into `directory` and those below it. Whether anything differs from the last time."""
        below = {path: self._status(path) for path in directory.below}
        changed = False
        if not self._is_same(directory, status, below):
            entries = self._list(directory.path)
            changed = entries != directory.entries
            self._sort_out(directory, entries)
        for path, child in directory.below.items():
            changed |= self._look(child, below.get(path) or self._status(path))
        return changed

    def _is_same(
        self,
        directory: _Directory,
        status: os.stat_result | None,
        below: dict[str, os.stat_result | None],
    ) -> bool:
        """Whether `directory` holds what it held, told without listing it.

        It does if it has as many cgroups as before and each of those before still lives. A worker
        that does not was forgotten by now; any other cgroup would have to be looked at.
        """
        if status is None or not self._links_tell or not self._all_served:
            return False
        if directory.path in self._doubted:
            return False
        if not status.st_nlink - 2 == len(directory.entries) == len(directory.workers) + len(below):
            return False
        inodes = directory.entries
        return all(
            child is not None and child.st_ino == inodes[path.rpartition("/")[2]]
            for path, child in below.items()
        )

    def _status(self, path: str) -> os.stat_result | None:
        try:
            return os.stat(f"{self._mount}/{path}")
        except OSError:
            return None

    def _list(self, path: str) -> dict[str, int]:
        try:
            with os.scandir(f"{self._mount}/{path}") as found:
                return {
                    entry.name: entry.inode()
                    for entry in found
                    if entry.is_dir(follow_symlinks=False)
                }
        except OSError as error:
            if error.errno not in GONE | ABSENT:
                self._kernel.faults.errors["directory"] += 1
            return {}

    def _sort_out(self, directory: _Directory, entries: dict[str, int]) -> None:
        """Tell the workers among new entries from the directories to look into."""
        known = directory.entries
        workers, below = {}, {}
        for name, inode in entries.items():
            path = f"{directory.path}/{name}" if directory.path else name
            if known.get(name) == inode and path in directory.workers:
                workers[path] = directory.workers[path]
            elif known.get(name) == inode and path in directory.below:
                below[path] = directory.below[path]
            elif identity := directory.root.identify(path, self._scope.patterns):
                workers[path] = inode, identity
            elif directory.root.leads_to_workers(path):
                below[path] = _Directory(path, directory.root)
        directory.entries, directory.workers, directory.below = entries, workers, below

    def _choose(self) -> dict[str, tuple[int, Identity]]:
        """Of all candidates those to serve: the outermost, valid, first of their identity."""
        found: dict[str, tuple[int, Identity]] = {}
        for directory in self._directories.values():
            for path, inode, identity in sorted(directory.all_workers(), key=lambda each: each[0]):
                found.setdefault(path, (inode, identity))
        chosen: dict[str, tuple[int, Identity]] = {}
        taken: set[Identity] = set()
        self.duplicates = self.dropped = 0
        for path, (inode, identity) in found.items():
            if _is_nested(path, found):
                continue
            if not identity.valid:
                self.dropped += 1
            elif identity in taken:
                self.duplicates += 1
            elif len(chosen) >= self._scope.max_workers:
                self.dropped += 1
            else:
                taken.add(identity)
                chosen[path] = inode, identity
        self._all_served = len(chosen) == len(found)
        return chosen

    def _replace(
        self, chosen: dict[str, tuple[int, Identity]]
    ) -> tuple[list[Worker], list[Worker]]:
        gone = [
            worker
            for path, worker in self.workers.items()
            if chosen.get(path) != (worker.inode, worker.identity)
        ]
        for worker in gone:
            del self.workers[worker.path]
            worker.close(self._kernel.descriptors)
        self._prune_ancestors()
        appeared = [
            self._make(path, inode, identity)
            for path, (inode, identity) in chosen.items()
            if path not in self.workers
        ]
        self.workers.update((worker.path, worker) for worker in appeared)
        return gone, appeared

    def _make(self, path: str, inode: int, identity: Identity) -> Worker:
        parent = self._ancestor(path.rpartition("/")[0])
        worker = Worker(path, f"{self._mount}/{path}", inode, None, identity, parent)
        try:
            worker.open(self._kernel.descriptors)
        except OSError as error:
            if error.errno in GONE:
                self._kernel.faults.vanished.add(worker)
        return worker

    def _ancestor(self, path: str) -> Ancestor | None:
        if not path:
            return None
        location = f"{self._mount}/{path}"
        inode = _inode(location)
        known = self._ancestors.get(path)
        if known is None or known.inode != inode:
            parent = self._ancestor(path.rpartition("/")[0])
            known = self._ancestors[path] = Ancestor(path, location, inode, None, parent)
        return known

    def _prune_ancestors(self) -> None:
        """Forget the cgroups that have no worker left below them."""
        used = {ancestor for worker in self.workers.values() for ancestor in worker.ancestors()}
        self._ancestors = {ancestor.path: ancestor for ancestor in used}

    def _user_roots(self) -> list[_Root]:
        if not self._scope.user_managers:
            return []
        own = os.getuid()
        names = (re.fullmatch(r"user-(\d+)\.slice", name) for name in self._list("user.slice"))
        uids = sorted(int(match[1]) for match in names if match)
        return [
            _slice_root(name, _manager(uid), f"@{uid}")
            for name in self._scope.slices
            for uid in uids
            if uid != own
        ]

    def _say_missing_slices(self) -> None:
        for name in self._scope.slices:
            there = any(
                directory.entries
                for root, directory in self._directories.items()
                if root.stem == name.removesuffix(".slice")
            )
            if there:
                self._said_missing.discard(name)
            elif name not in self._said_missing:
                self._said_missing.add(name)
                log.info("no worker yet: the slice is not there or empty", slice=name)


def _fixed_roots(scope: Scope, uid: int) -> list[_Root]:
    return [
        *(_slice_root(name) for name in scope.slices),
        *(_slice_root(name, _manager(uid)) for name in scope.slices),
    ]


def _pattern_roots(scope: Scope) -> list[_Root]:
    return [_Root(literal_directory(pattern), None) for pattern in scope.patterns]


def _slice_root(name: str, manager: str = "", suffix: str = "") -> _Root:
    path = f"{manager}/{slice_path(name)}" if manager else slice_path(name)
    return _Root(path, name.removesuffix(".slice"), suffix)


def _manager(uid: int) -> str:
    return f"user.slice/user-{uid}.slice/user@{uid}.service"


def _is_nested(path: str, found: dict[str, tuple[int, Identity]]) -> bool:
    outer = path.rpartition("/")[0]
    while outer:
        if outer in found:
            return True
        outer = outer.rpartition("/")[0]
    return False


def _inode(location: str) -> int:
    try:
        return os.stat(location).st_ino
    except OSError:
        return 0
