"""How many cores a member may use: cpu.max and cpuset.cpus.effective, the smallest on its path."""

from collections.abc import Iterator
from typing import Generic

from worker_exporter.cgroup import parse, procfs
from worker_exporter.cgroup.limits import UNKNOWN, PathLimit
from worker_exporter.cgroup.members import AnyMember
from worker_exporter.collectors.base import MemberCollector


class CpuLimit(Generic[AnyMember]):
    """The limits of all members that `collector` follows, in cores."""

    def __init__(self, collector: MemberCollector[AnyMember]) -> None:
        self._sysfs = collector.host.kernel.sysfs
        self._quota = collector.limit("cpu.max", parse.cpu_max)
        self._cpuset = collector.limit("cpuset.cpus.effective", parse.cpu_count)
        self._quotas: dict[AnyMember, float] = {}
        self._cpusets: dict[AnyMember, float] = {}
        self._online: int | None = None

    def remove(self, member: AnyMember) -> None:
        """Follow the limit of `member` no more."""
        self._quotas.pop(member, None)
        self._cpusets.pop(member, None)

    def changed(self) -> Iterator[tuple[AnyMember, float | None]]:
        """Members whose limit may have changed since the last pass. None: unlimited, or a file
        on the path cannot be read, or makes no sense.
        """
        moved = _update(self._quotas, self._quota) + _update(self._cpusets, self._cpuset)
        if self._cpusets:
            online = _online_cpus(self._sysfs)
            moved += self._cpusets if online != self._online else ()
            self._online = online
        for member in moved:
            limits = [self._quotas.get(member), self._of_cpuset(member)]
            given = [limit for limit in limits if limit is not None]
            yield member, min(given) if given and UNKNOWN not in given else None

    def _of_cpuset(self, member: AnyMember) -> float | None:
        """The CPUs of the member's cpuset; None when those are all that are online."""
        cpus = self._cpusets.get(member)
        return None if cpus is None or cpus == self._online else cpus


def _update(values: dict[AnyMember, float], limit: PathLimit[AnyMember]) -> list[AnyMember]:
    """Take what changed in `limit` over into `values`; the members that changed."""
    changes = dict(limit.changed())
    for member, value in changes.items():
        if value is None:
            values.pop(member, None)
        else:
            values[member] = value
    return list(changes)


def _online_cpus(sysfs: str) -> int | None:
    try:
        return parse.cpu_count(procfs.read(f"{sysfs}/devices/system/cpu/online"))
    except (OSError, ValueError):
        return None
