"""The slices of all workers and of one service: their accounting, their limits, their end."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress

from worker_exporter import log
from worker_sidecar.launch import applied
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.limits import NO_LIMITS, Limits
from worker_sidecar.launch.systemd.command import slice_command
from worker_sidecar.launch.systemd.manager import Manager
from worker_sidecar.launch.systemd.place import Place
from worker_sidecar.launch.systemd.properties import (
    ACCOUNTING,
    in_force,
    lifted,
    name_of,
    of_device,
    settings,
)


async def preparations(manager: Manager, spec: WorkerSpec, place: Place) -> list[Sequence[str]]:
    """The commands that set what is not set yet: the limits of all workers together and of the
    service, and the accounting of the service, which goes on while none of its workers runs.

    Limits take the place of those that were set here before; None leaves them.
    """
    wanted: Sequence[tuple[str, Sequence[str], Limits | None]] = (
        (place.slice_name, (), spec.host_limits),
        (place.service_slice(spec.service), ACCOUNTING, spec.service_limits),
    )
    commands: list[Sequence[str]] = []
    for unit, accounting, limits in wanted:
        its = (*accounting, *settings(limits or NO_LIMITS))
        found = in_force(await manager.properties(unit))
        stale = [] if limits is None else _stale(unit, its, found, place)
        changes = [*stale, *(setting for setting in its if setting not in found)]
        if changes:
            commands.append(slice_command(unit, changes, place))
    return commands


def warn_of_unapplied(spec: WorkerSpec, cgroup: str, place: Place) -> None:
    """Log which limits of the slices above the worker's `cgroup` do not hold."""
    for limits, above in ((spec.service_limits, 1), (spec.host_limits, 2)):
        path = "/".join(cgroup.split("/")[:-above])
        missing = _unapplied(f"{place.mount}/{path}", limits)
        if missing:
            log.warn("limits do not hold", cgroup=path, limits=",".join(missing))


def forget(place: Place) -> None:
    """Remove what set-property wrote for the slices; `revert` would reload the manager."""
    with suppress(OSError):
        for name in os.listdir(place.control):
            ours = name == f"{place.slice_name}.d" or name.startswith(f"{place.stem}-")
            if ours and name.endswith(".slice.d"):
                shutil.rmtree(f"{place.control}/{name}", ignore_errors=True)


def _stale(unit: str, its: Sequence[str], found: Sequence[str], place: Place) -> list[str]:
    """What lifts limits that were set here before, and are not wanted any more."""
    kept = {setting for setting in its if setting in found}
    gone = {name_of(setting) for setting in found if setting not in (*kept, *ACCOUNTING)}
    changed = {name_of(setting) for setting in its if not of_device(setting)}
    return [
        lifted(name)
        for name in sorted(gone - changed)
        if os.path.exists(f"{place.control}/{unit}.d/50-{name}.conf")
    ]


def _unapplied(directory: str, limits: Limits | None) -> Sequence[str]:
    return applied.unapplied(directory, limits) if limits else ()
