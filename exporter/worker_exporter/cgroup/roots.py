"""The directories below which workers are looked for, and what a cgroup in each of them is."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from worker_exporter.cgroup.identity import (
    Identity,
    by_path,
    by_pattern,
    literal_directory,
    manager_path,
    may_hold_workers,
    service_of,
    slice_path,
)

MAX_DEPTH = 32
"""How many levels below a slice, or a pattern's directory, are searched: whoever has a delegated
cgroup can nest without end.
"""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where workers are looked for, below the cgroup root."""

    slices: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...] = ()
    user_managers: bool = False
    max_workers: int = 2000


@dataclass(frozen=True, slots=True)
class Root:
    """A directory to search. `stem` of its slice; None where only patterns name workers.

    `suffix` is put behind the service of workers in another user's manager.
    """

    path: str
    stem: str | None
    suffix: str = ""

    def identify(self, path: str, patterns: tuple[re.Pattern[str], ...]) -> Identity | None:
        """The identity of the cgroup `path`, which lies in this directory; None: no worker."""
        identity = by_pattern(path, patterns)
        if identity is None and self.stem is not None:
            identity = by_path(self._below(path), self.stem)
        if identity is None or not self.suffix:
            return identity
        return Identity(identity.service + self.suffix, identity.instance)

    def outermost(
        self, path: str, patterns: tuple[re.Pattern[str], ...]
    ) -> tuple[str, Identity] | None:
        """Of `path` and the cgroups around it the first that is a worker, on the way down."""
        parts = self._below(path)
        start = path.removesuffix("/".join(parts))
        for depth in range(1, len(parts) + 1):
            outer = start + "/".join(parts[:depth])
            if identity := self.identify(outer, patterns):
                return outer, identity
            if not self.leads_to_workers(outer):
                return None
        return None

    def service(self, path: str) -> Identity | None:
        """The service that the directory `path` is of, if it lies right in this root's slice."""
        parts = self._below(path)
        service = service_of(parts[0], self.stem) if self.stem and len(parts) == 1 else None
        return Identity(service + self.suffix, "") if service else None

    def leads_to_workers(self, path: str) -> bool:
        """Whether workers may lie below the directory `path`, itself none."""
        parts = self._below(path)
        return len(parts) < MAX_DEPTH and (self.stem is None or may_hold_workers(parts))

    def _below(self, path: str) -> tuple[str, ...]:
        return tuple(path.removeprefix(f"{self.path}/").split("/"))


def fixed_roots(scope: Scope, uid: int) -> list[Root]:
    """The slices at the cgroup root, then those in the manager of the user `uid`."""
    return [
        *(_slice_root(name) for name in scope.slices),
        *(_slice_root(name, manager_path(uid)) for name in scope.slices),
    ]


def user_roots(scope: Scope, names: Iterable[str]) -> list[Root]:
    """The slices in other users' managers, by the `names` of what is in user.slice."""
    own = os.getuid()
    matches = (re.fullmatch(r"user-(\d+)\.slice", name) for name in names)
    uids = sorted(int(match[1]) for match in matches if match)
    return [
        _slice_root(name, manager_path(uid), f"@{uid}")
        for name in scope.slices
        for uid in uids
        if uid != own
    ]


def pattern_roots(scope: Scope) -> list[Root]:
    """The directories that patterns point to."""
    return [Root(literal_directory(pattern), None) for pattern in scope.patterns]


def _slice_root(name: str, manager: str = "", suffix: str = "") -> Root:
    path = f"{manager}/{slice_path(name)}" if manager else slice_path(name)
    return Root(path, name.removesuffix(".slice"), suffix)
