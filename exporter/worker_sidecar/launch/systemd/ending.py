"""The end of a unit: politely, by force, and told as it was."""

import asyncio
from dataclasses import dataclass

from worker_sidecar.errors import InputError, InputOutputError
from worker_sidecar.launch import cgroup
from worker_sidecar.launch.systemd.manager import Manager, Properties
from worker_sidecar.launch.systemd.place import Place

PATIENCE = 10.0
"""Seconds for a killed process to end, and then for systemd to see that it did."""

_ROUND = 0.5
"""Seconds between two rounds of KillUnit: what was forked in between gets the next."""

_ROUNDS = 4


@dataclass(frozen=True, slots=True)
class End:
    """`forced`: it took SIGKILL. `properties` as the unit left them, before they were reset."""

    forced: bool
    properties: Properties


async def end(manager: Manager, unit: str, grace: float, place: Place) -> End:
    """Stop a loaded unit (also one that waits for its restart, or failed): TERM, `grace` seconds,
    then KILL to all of it until its cgroup is empty. No result of it is left.

    Raises InputError for a grace that systemd would not wait, KillFailedError when a process does
    not end, InputOutputError.
    """
    before = await manager.properties(unit)
    _check_grace(unit, grace, before)
    directory = place.directory(before.get("ControlGroup", ""))
    await manager.hold(unit)
    try:
        job = await manager.stop(unit)
        forced = not await manager.finished(job, grace)
        if forced:
            await manager.kill(unit)
        forced |= await _emptied(manager, unit, directory)
        if not await manager.finished(job, PATIENCE):
            raise InputOutputError(f"systemd does not finish to stop {unit}: systemctl list-jobs")
        after = await manager.properties(unit)
        if after.get("ActiveState") in ("active", "activating"):
            raise InputOutputError(f"{unit} was started again while it was stopped; stop it again")
        await manager.reset_failed(unit)
    finally:
        await manager.let_go(unit)
    return End(forced, after)


async def _emptied(manager: Manager, unit: str, directory: str | None) -> bool:
    """Kill what is left in the cgroup, first through systemd; whether something was.

    Raises KillFailedError.
    """
    if directory is None or await _is_empty(directory):
        return False
    for _ in range(_ROUNDS):
        await manager.kill(unit)
        if await _is_empty(directory):
            return True
    await asyncio.to_thread(cgroup.kill, directory)
    return True


async def _is_empty(directory: str) -> bool:
    return await asyncio.to_thread(cgroup.wait_empty, directory, _ROUND)


def _check_grace(unit: str, grace: float, properties: Properties) -> None:
    longest = properties.get("TimeoutStopUSec")
    if longest is not None and grace * 1e6 > longest:
        raise InputError(
            f"a grace of {grace:g} s: systemd kills {unit} after {longest / 1e6:g} s, as it was "
            "told at the start; give less, or start the worker with more"
        )
