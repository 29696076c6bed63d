"""Which workers and services exist: found anew at every scrape, known again by path and inode."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from worker_exporter import log
from worker_exporter.cgroup.files import ABSENT, GONE, Kernel
from worker_exporter.cgroup.identity import Identity, is_label_value
from worker_exporter.cgroup.members import Ancestor, AnyMember, Member, ServiceSlice, Worker
from worker_exporter.cgroup.mount import Mount, is_kernels
from worker_exporter.cgroup.roots import Root, Scope, fixed_roots, pattern_roots, user_roots


@dataclass(slots=True)
class _Directory:
    """A directory that may hold workers, with what was in it at the last look (name, inode)."""

    path: str
    root: Root
    entries: dict[str, int] = field(default_factory=dict)
    workers: dict[str, tuple[int, Identity]] = field(default_factory=dict)
    below: dict[str, "_Directory"] = field(default_factory=dict)

    def all_workers(self) -> Iterator[tuple[str, int, Identity]]:
        for path, (inode, identity) in self.workers.items():
            yield path, inode, identity
        for directory in self.below.values():
            yield from directory.all_workers()

    def services(self) -> Iterator[tuple[str, int, Identity]]:
        """Of a root's directory: those right in it that are of services."""
        for path, directory in self.below.items():
            service = self.root.service(path)
            if service is not None:
                yield path, self.entries[directory.path.rpartition("/")[2]], service


Candidates = Mapping[str, tuple[int, Identity]]
"""Cgroups to be served: inode and identity, by path."""


class Tree:
    """The workers of a host, the slices of their services, and the cgroups above them.

    `workers` and `services` by path; `duplicates` counts cgroups left out since their identity is
    taken, `dropped` those over the maximum or without a valid identity.
    """

    def __init__(self, mount: Mount, scope: Scope, kernel: Kernel) -> None:
        self.workers: dict[str, Worker] = {}
        self.services: dict[str, ServiceSlice] = {}
        self.duplicates = 0
        self.dropped = 0
        self._mount = mount.path
        self._scope = scope
        self._kernel = kernel
        kernel.faults.errors["directory"] += 0
        self._user_slices: dict[str, int] = {}
        self._ancestors: dict[str, Ancestor] = {}
        self._directories: dict[Root, _Directory] = {}
        self._fixed_roots = fixed_roots(scope, os.getuid())
        self._stale = False
        self._links_tell = is_kernels(mount.path)
        self._all_served = True
        self._all_held = True
        self._doubted: set[str] = set()
        self._said_missing: set[str] = set()

    @property
    def members(self) -> Iterator[Member]:
        """All workers and all slices of services."""
        yield from self.workers.values()
        yield from self.services.values()

    def refresh(self) -> tuple[list[Member], list[Member]]:
        """Look again: the members that are gone, and those that appeared, since the last look.

        Members that vanished meanwhile must have been forgotten before.
        """
        roots = [*self._fixed_roots, *self._user_roots(), *pattern_roots(self._scope)]
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
        return self._replace(self._choose(), self._choose_services())

    def forget(self, member: Member) -> None:
        """Leave out a member that vanished since the last look."""
        for known in (self.workers, self.services):
            if known.get(member.path) is member:
                del known[member.path]
                self._stale = True
                self._doubted.add(member.path.rpartition("/")[0])
        member.close(self._kernel.descriptors)

    def identify(self, path: str) -> Identity | None:
        """Who the cgroup `path` would be if it were there: a worker, as found on the way down.

        None for what is no worker, or lies in one. May be called by any thread.
        """
        found = [
            worker
            for root in tuple(self._directories)
            if path.startswith(f"{root.path}/" if root.path else "")
            and (worker := root.outermost(path, self._scope.patterns))
        ]
        outer, identity = min(found, key=lambda worker: len(worker[0]), default=("", None))
        return identity if outer == path else None

    def _look(self, directory: _Directory, status: os.stat_result | None) -> bool:
        """Look into `directory` and those below it. Whether anything differs from the last time."""
        below = {path: self._status(path) for path in directory.below}
        changed = False
        if not self._is_same(directory, status, below):
            entries = self._list(directory.path, directory.entries)
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
        that does not was forgotten by now, unless without a descriptor its successor was taken for
        it; any other cgroup would have to be looked at.
        """
        if status is None or not (self._links_tell and self._all_served and self._all_held):
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

    def _list(self, path: str, before: dict[str, int]) -> dict[str, int]:
        """The cgroups in `path` and their inodes; those of `before` where it cannot be listed."""
        try:
            with os.scandir(f"{self._mount}/{path}") as found:
                return {
                    entry.name: entry.inode()
                    for entry in found
                    if entry.is_dir(follow_symlinks=False)
                }
        except OSError as error:
            if error.errno in GONE | ABSENT:
                return {}
            self._kernel.faults.errors["directory"] += 1
            return before

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

    def _choose(self) -> Candidates:
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

    def _choose_services(self) -> Candidates:
        """The slices of services, as many as workers may be shown. A worker slice in another one
        is none.
        """
        roots = {root.path for root in self._directories if root.stem is not None}
        found = {
            path: (inode, identity)
            for directory in self._directories.values()
            for path, inode, identity in sorted(directory.services(), key=lambda each: each[0])
            if path not in roots and is_label_value(identity.service)
        }
        chosen = dict(islice(found.items(), self._scope.max_workers))
        self.dropped += len(found) - len(chosen)
        return chosen

    def _replace(
        self, workers: Candidates, services: Candidates
    ) -> tuple[list[Member], list[Member]]:
        gone: list[Member] = [
            *self._take_gone(self.workers, workers),
            *self._take_gone(self.services, services),
        ]
        for member in gone:
            member.close(self._kernel.descriptors)
        self._prune_ancestors()
        appeared: list[Member] = [
            *self._take_new(Worker, self.workers, workers),
            *self._take_new(ServiceSlice, self.services, services),
        ]
        self._all_held = all(worker.directory is not None for worker in self.workers.values())
        return gone, appeared

    def _take_gone(self, known: dict[str, AnyMember], chosen: Candidates) -> list[AnyMember]:
        gone = [
            member
            for path, member in known.items()
            if chosen.get(path) != (member.inode, member.identity)
        ]
        for member in gone:
            del known[member.path]
        return gone

    def _take_new(
        self, kind: type[AnyMember], known: dict[str, AnyMember], chosen: Candidates
    ) -> list[AnyMember]:
        appeared = [
            self._make(kind, path, inode, identity)
            for path, (inode, identity) in chosen.items()
            if path not in known
        ]
        known.update((member.path, member) for member in appeared)
        return appeared

    def _make(self, kind: type[AnyMember], path: str, inode: int, identity: Identity) -> AnyMember:
        parent = self._ancestor(path.rpartition("/")[0])
        member = kind(path, f"{self._mount}/{path}", inode, None, identity, parent)
        try:
            member.open(self._kernel.descriptors)
        except OSError as error:
            if error.errno in GONE:
                self._kernel.faults.vanished.add(member)
        return member

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
        """Forget the cgroups that have no member left below them."""
        used = {ancestor for member in self.members for ancestor in member.ancestors()}
        self._ancestors = {ancestor.path: ancestor for ancestor in used}

    def _user_roots(self) -> list[Root]:
        if self._scope.user_managers:
            self._user_slices = self._list("user.slice", self._user_slices)
        return user_roots(self._scope, self._user_slices)

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
