"""Slices around containers, made by systemctl: systemd keeps the limits and the metadata on them
while containers come and go.
"""

import os
import shutil
import subprocess
from collections.abc import Sequence
from contextlib import suppress

from worker_sidecar.errors import CreationFailedError, InputOutputError
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.systemd.properties import (
    ACCOUNTING,
    NAMES,
    lifted,
    name_of,
    of_device,
    settings,
)

_CONTROL = "/run/systemd/system.control"
"""Where `set-property --runtime` keeps what it was told, see systemctl(1)."""

_NOT_LOADED = 5
"""Exit code of systemctl for a unit it does not know."""

_PATIENCE = 60.0
"""Seconds for one systemctl; it waits for the job."""


def set_command(unit: str, limits: Limits | None) -> Sequence[str]:
    """The command that accounts and limits the slice `unit`, whether it is active or not.

    `limits` take the place of those that were set here before; None leaves them.
    """
    its = () if limits is None else settings(limits)
    stale = () if limits is None else _stale(unit, its)
    return ("systemctl", "set-property", "--runtime", unit, *ACCOUNTING, *stale, *its)


def start_command(unit: str) -> Sequence[str]:
    """The command that makes the cgroup of the slice `unit`."""
    return ("systemctl", "start", unit)


def run(command: Sequence[str]) -> None:
    """Run one of the commands above. Raises CreationFailedError with systemd's words."""
    done = _run(command)
    if done.returncode:
        raise CreationFailedError(f"{' '.join(command[:2])} failed: {_words(done)}")


def remove(unit: str) -> None:
    """Stop the slice `unit`, and with it all that is in it, and forget what it was set to.

    Raises InputOutputError when systemd does not.
    """
    done = _run(("systemctl", "stop", unit))
    if done.returncode not in (0, _NOT_LOADED):
        raise InputOutputError(f"cannot stop {unit}: {_words(done)}")
    # not `revert`: it reloads the manager, which takes the GPUs away from running containers
    shutil.rmtree(f"{_CONTROL}/{unit}.d", ignore_errors=True)


def known(unit: str) -> bool:
    """Whether anything is left of a slice that was set up here."""
    return os.path.isdir(f"{_CONTROL}/{unit}.d")


def forget_below(slice_name: str) -> None:
    """Forget what slices below `slice_name` were set to that are not there any more."""
    stem = slice_name.removesuffix(".slice")
    with suppress(FileNotFoundError):
        for name in os.listdir(_CONTROL):
            unit = name.removesuffix(".d")
            if unit.startswith(f"{stem}-") and unit.endswith(".slice") and not _active(unit):
                shutil.rmtree(f"{_CONTROL}/{name}", ignore_errors=True)


def _stale(unit: str, its: Sequence[str]) -> Sequence[str]:
    """What lifts limits that were set before and are not among `its`."""
    replaced = {name_of(setting) for setting in its if not of_device(setting)}
    return [lifted(name) for name in _set_before(unit) if name not in replaced]


def _set_before(unit: str) -> Sequence[str]:
    """The limits in the drop-ins of set-property, 50-NAME.conf each; others may set more there."""
    return [name for name in sorted(NAMES) if os.path.exists(f"{_CONTROL}/{unit}.d/50-{name}.conf")]


def _active(unit: str) -> bool:
    return _run(("systemctl", "is-active", "--quiet", unit)).returncode == 0


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run a client of systemd, out of reach of the terminal's Ctrl-C."""
    try:
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            start_new_session=True,
            timeout=_PATIENCE,
        )
    except OSError as error:
        raise InputOutputError(f"cannot run {command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise InputOutputError(f"systemd does not answer: {' '.join(command[:2])} hangs") from error


def _words(done: subprocess.CompletedProcess[str]) -> str:
    return done.stderr.strip().rpartition("\n")[2] or "no reason given"
