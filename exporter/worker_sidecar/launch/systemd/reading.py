"""What systemd says of a unit, in the sidecar's words."""

import os
from collections.abc import Mapping

from worker_sidecar.launch import applied, cgroup
from worker_sidecar.launch.declaration import limits_of
from worker_sidecar.launch.launcher import State, Status
from worker_sidecar.launch.stamp import decoded
from worker_sidecar.launch.systemd.command import DECLARATION
from worker_sidecar.launch.systemd.manager import Properties
from worker_sidecar.launch.systemd.place import Place
from worker_sidecar.launch.systemd.properties import ABSENT

_STATES = {
    "active": State.RUNNING,
    "reloading": State.RUNNING,
    "refreshing": State.RUNNING,
    "activating": State.STARTING,
    "deactivating": State.STOPPING,
    "failed": State.FAILED,
}
_AUTO_RESTART = ("auto-restart", "auto-restart-queued")


def state_of(properties: Properties) -> State | None:
    """What a unit is doing (ActiveState, SubState); None for one that is not there, or ended well
    and is about to be forgotten.
    """
    if properties.get("LoadState") == "not-found":
        return None
    if properties.get("SubState") in _AUTO_RESTART:
        return State.RESTARTING
    return _STATES.get(properties.get("ActiveState", ""))


def end_of(properties: Properties) -> tuple[str | None, int | None]:
    """How a unit's last run ended (Result, ExecMainStatus); None for what did not run.

    The end by signal n is 128 + n, as for a shell and for Docker.
    """
    result = properties.get("Result") or None
    code, status = properties.get("ExecMainCode", 0), properties.get("ExecMainStatus")
    if code == 0 or status is None:
        return result, None
    return result, status + 128 if code in (os.CLD_KILLED, os.CLD_DUMPED) else status


def declaration_of(properties: Properties) -> str | None:
    """What the worker was started with, from the arguments of its helper (ExecStartPre): of
    whoever made the unit, not of the worker.
    """
    for _, words, *_ in properties.get("ExecStartPre", ()):
        for word in words:
            if word.startswith(DECLARATION):
                return decoded(word.removeprefix(DECLARATION))
    return None


def status_of(
    service: str, instance: str, properties: Properties, place: Place, launcher: str
) -> Status | None:
    """A worker by its unit's properties and its cgroup; None when there is no worker."""
    state = state_of(properties)
    if state is None or properties.get("Slice") != place.service_slice(service):
        return None
    declaration = declaration_of(properties)
    group = properties.get("ControlGroup", "")
    directory = place.directory(group)
    over = state in (State.FAILED, State.RESTARTING)
    result, exit_status = end_of(properties) if over else (None, None)
    return Status(
        service=service,
        instance=instance,
        launcher=launcher,
        state=state,
        cgroup=group.removeprefix("/") or None,
        unit=place.unit(service, instance),
        pid=properties.get("MainPID") or None,
        started=_seconds(properties.get("ExecMainStartTimestamp")),
        restarts=_number(properties.get("NRestarts")),
        result=result,
        exit_status=exit_status,
        unapplied=_unapplied(directory if state is State.RUNNING else None, declaration),
        metadata=_metadata(directory),
        declaration=declaration,
    )


def _unapplied(directory: str | None, declaration: str | None) -> tuple[str, ...]:
    return applied.unapplied(directory, limits_of(declaration)) if directory else ()


def _metadata(directory: str | None) -> Mapping[str, str]:
    found = cgroup.attributes(directory) if directory else {}
    return {key: value for key, value in found.items() if key != "declaration"}


def _number(value: int | None) -> int | None:
    return None if value == ABSENT else value


def _seconds(microseconds: int | None) -> float | None:
    return microseconds / 1e6 if microseconds and microseconds != ABSENT else None
