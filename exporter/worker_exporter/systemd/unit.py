"""What a manager of systemd says of one unit, see org.freedesktop.systemd1(5)."""

from collections.abc import Mapping
from dataclasses import dataclass

from worker_exporter.cgroup.identity import directory_of, slice_path

ROOT_SLICE = "-.slice"
"""The slice that is the manager's own cgroup."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A service or scope that is loaded: a row of ListUnitsByPatterns.

    `active` is its ActiveState, `sub` its SubState, `job` the id of its queued job or 0.
    """

    name: str
    active: str
    sub: str
    job: int

    @property
    def failed(self) -> bool:
        """Whether it failed and nobody has started or reset it since."""
        return self.active == "failed"

    @property
    def waits_for_restart(self) -> bool:
        """Whether its last run ended and systemd will start it again."""
        return self.active == "activating" and self.sub.startswith("auto-restart")

    @property
    def is_down(self) -> bool:
        """Whether its run is over: it failed, or waits for its restart."""
        return self.failed or self.waits_for_restart


@dataclass(frozen=True, slots=True)
class Details:
    """Properties of a service or scope, None where systemd has no such figure.

    `control_group` is its cgroup below the cgroup root without a leading slash, "" without one,
    and `slice` the name of the slice it belongs to. `restarts` (NRestarts) counts automatic ones;
    scopes have none. `started` (ExecMainStartTimestamp; a scope's ActiveEnterTimestamp) is in
    seconds since the epoch. The rest tells of the last run, and only once that is over:
    `exit_status` (ExecMainCode, ExecMainStatus) is 128 + n for signal n, `cpu_seconds`
    (CPUUsageNSec), `peak_memory_bytes` (MemoryPeak, from systemd 254 on), `duration_seconds`
    between ExecMainStartTimestampMonotonic and ExecMainExitTimestampMonotonic.
    """

    slice: str
    control_group: str
    result: str
    restarts: int | None = None
    started: float | None = None
    exit_status: int | None = None
    cpu_seconds: float | None = None
    peak_memory_bytes: int | None = None
    duration_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What one manager said in one pass: `units` by name, all that are loaded, and `details` of
    those that were chosen.

    Details that could not be read in time are missing, and their units are in `pending`.
    """

    units: Mapping[str, Unit]
    details: Mapping[str, Details]
    pending: frozenset[str] = frozenset()


def cgroup_path(manager: str, slice_name: str, unit: str) -> str:
    """The cgroup path that `unit` in the slice `slice_name` has when it runs; "" without a slice.

    `manager` is the cgroup path below which the manager's units lie.
    """
    if not slice_name.endswith(".slice"):
        return ""
    within = "" if slice_name == ROOT_SLICE else slice_path(slice_name)
    return "/".join(part for part in (manager, within, directory_of(unit)) if part)
