"""The start of a worker: systemd-run, and what is said when it fails."""

import asyncio
import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from worker_exporter import log
from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputOutputError,
    PermissionDeniedError,
)
from worker_sidecar.launch import cgroup
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.launcher import State, WorkerSpec
from worker_sidecar.launch.systemd import ending, reading
from worker_sidecar.launch.systemd.command import NO_PROGRAM
from worker_sidecar.launch.systemd.manager import Manager, NoSuchUnitError, Properties
from worker_sidecar.launch.systemd.place import Place, client_environment

PATIENCE = 120.0
"""Seconds for one client of systemd: it waits for the job, which TimeoutStartSec= (90 s) ends."""

_ATTEMPTS = 5
_RETRY = 0.1
"""Seconds: systemd forgets a unit that ended a moment after it ended."""

_EXISTS = "was already loaded or has a fragment file"
_DENIED = ("Access denied", "Interactive authentication required", "Permission denied")

_REASONS: Mapping[int, str] = {
    200: "its user cannot enter the working directory",
    NO_PROGRAM: "the program cannot be executed: no permission for its user, or no interpreter",
    206: "its standard input or output cannot be set up",
    214: "oom_score_adjust cannot be set",
    216: "its group is not known, or cannot be taken",
    217: "its user is not known, or cannot be taken",
    219: "its cgroup cannot be set up",
    226: "its mount namespace cannot be set up",
    243: "its secrets cannot be set up",
}
"""systemd's own exit statuses, see systemd.exec(5), "Process Exit Codes"."""

_FIRST_REASON = 200


async def start(
    manager: Manager, spec: WorkerSpec, place: Place, commands: Sequence[Sequence[str]]
) -> None:
    """Run `commands`, the last of which starts the worker; on return its program was executed,
    and may have failed already.

    A failed unit's result is logged and reset. Raises AlreadyRunningError, PermissionDeniedError,
    CreationFailedError, after which nothing is left of the worker, or InputOutputError.
    """
    unit = place.unit(spec.service, spec.instance)
    await _make_way(manager, spec, unit, place)
    *before, run = commands
    for command in before:
        _must_succeed(spec, await _client(command))
    for _ in range(_ATTEMPTS):
        done = await _client(run)
        if done.returncode == 0:
            return
        if _EXISTS not in done.stderr:
            break
        # somebody else was faster, it failed meanwhile, or systemd has yet to forget it
        await _make_way(manager, spec, unit, place)
        await asyncio.sleep(_RETRY)
    found = await manager.properties(unit)
    if not done.stderr.strip() and _executed(found):
        return  # it ended before systemd noticed that it had begun
    reason = _reason(unit, found, done)
    await _clear(manager, spec, unit, place)
    raise CreationFailedError(f"cannot start {spec.name}: {reason}")


async def _make_way(manager: Manager, spec: WorkerSpec, unit: str, place: Place) -> None:
    """Reset a failed unit. Raises AlreadyRunningError for a living one, CreationFailedError where
    a process of the last run does not end.
    """
    found = await manager.properties(unit)
    state = reading.state_of(found)
    if state is None:
        return
    if state is not State.FAILED:
        raise AlreadyRunningError(f"{spec.name} is already running: {unit} is {state}")
    directory = place.directory(found.get("ControlGroup", ""))
    if directory is not None and cgroup.populated(directory):
        raise CreationFailedError(
            f"cannot start {spec.name}: processes of its last run are still there; stop it first"
        )
    result, exit_status = reading.end_of(found)
    log.info(
        "the last run of the worker failed",
        service=spec.service,
        instance=spec.instance,
        result=result,
        exit_status=exit_status,
    )
    await manager.reset_failed(unit)


async def _clear(manager: Manager, spec: WorkerSpec, unit: str, place: Place) -> None:
    """Remove what a failed start left, but not what another one started in its place."""
    found = await manager.properties(unit)
    state = reading.state_of(found)
    ours = reading.declaration_of(found) == encode(spec)
    if state in (None, State.RUNNING) or not ours:
        return
    if state is State.FAILED:
        await manager.reset_failed(unit)
        return
    with suppress(NoSuchUnitError):
        await ending.end(manager, unit, 0, place)


def _executed(properties: Properties) -> bool:
    """Whether the unit's last end was its program's own doing (CLD_EXITED, see siginfo_t)."""
    own = properties.get("ExecMainStatus", 0) < _FIRST_REASON
    return properties.get("ExecMainCode") == os.CLD_EXITED and own


def _reason(unit: str, properties: Properties, done: "subprocess.CompletedProcess[str]") -> str:
    """What systemd's client says; of a program that could not be executed the unit tells."""
    if done.stderr.strip():
        return last_line(done)
    if reading.state_of(properties) is None:
        return f"{unit} was stopped before it was started"
    result, exit_status = reading.end_of(properties)
    if result == "oom-kill":
        return "its memory limit is too small, it was killed at once (oom-kill)"
    if result == "resources":
        return f"systemd lacks what it needs, or a limit is too small; see the journal of {unit}"
    if exit_status is None:
        return f"systemd says {result}; the journal of {unit} may say more"
    ended = f"it ended at once with {result}, exit status {exit_status}"
    return _REASONS.get(exit_status, ended)


def _must_succeed(spec: WorkerSpec, done: "subprocess.CompletedProcess[str]") -> None:
    if done.returncode:
        raise CreationFailedError(f"cannot start {spec.name}: {last_line(done)}")


async def _client(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a program of systemd's. Raises InputOutputError, or PermissionDeniedError."""
    done = await asyncio.to_thread(run_client, command)
    if done.returncode and any(word in done.stderr for word in _DENIED):
        raise PermissionDeniedError(
            f"systemd refuses: {last_line(done)}; be root, or take the user's own manager "
            "(systemd-user)"
        )
    return done


def run_client(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    """Run a program of systemd's, out of reach of the terminal's Ctrl-C."""
    try:
        return subprocess.run(
            command,
            env=client_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            start_new_session=True,
            timeout=PATIENCE,
        )
    except OSError as error:
        raise InputOutputError(f"cannot run {command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise InputOutputError(
            f"systemd does not answer: {command[0]} took more than {PATIENCE:.0f} s"
        ) from error


def last_line(done: "subprocess.CompletedProcess[str]") -> str:
    """The last thing a program said."""
    return done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
