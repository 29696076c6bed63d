"""When interface files may have appeared: controllers were enabled from above."""

import os
from collections.abc import Iterator

from worker_exporter.cgroup.files import Cgroup, InterfaceFile, Kernel
from worker_exporter.cgroup.members import Member
from worker_exporter.cgroup.mount import Mount


class EnabledControllers:
    """cgroup.subtree_control of the cgroups above members, up to the cgroup root.

    It says which controllers' files the members and their slices have, so that missing ones need
    not be looked for at every scrape.
    """

    def __init__(self, mount: Mount, kernel: Kernel) -> None:
        self._root = Cgroup("", mount.path, os.stat(mount.path).st_ino)
        self._file: InterfaceFile[Cgroup] = InterfaceFile("cgroup.subtree_control", kernel)
        self._members: dict[Cgroup, set[Member]] = {}
        self._enabled: dict[Cgroup, bytes | None] = {}

    def add(self, member: Member) -> None:
        """Follow what is enabled for `member` from now on; to be called before its files are
        opened.
        """
        for above in self._above(member):
            if above not in self._members:
                self._members[above] = set()
                self._file.add(above)
                self._enabled[above] = _read(above)
            self._members[above].add(member)

    def remove(self, member: Member) -> None:
        """Follow what is enabled for `member` no more."""
        for above in self._above(member):
            members = self._members[above]
            members.discard(member)
            if not members:
                self._file.remove(above)
                del self._members[above], self._enabled[above]

    def changed(self) -> set[Member]:
        """The members for which, or above which, controllers were enabled or disabled since the
        last pass.
        """
        moved: set[Member] = set()
        for above, enabled in self._file.changed():
            if enabled != self._enabled[above]:
                self._enabled[above] = enabled
                moved |= self._members[above]
        return moved

    def _above(self, member: Member) -> Iterator[Cgroup]:
        yield from member.ancestors()
        yield self._root


def _read(cgroup: Cgroup) -> bytes | None:
    try:
        with open(f"{cgroup.location}/cgroup.subtree_control", "rb") as file:
            return file.read()
    except OSError:
        return None
