"""The table of `ps`, and other text in columns."""

import signal
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from worker_sidecar.demo.table import duration
from worker_sidecar.launch.launcher import State, Status
from worker_sidecar.reconcile import Absent, Name

_HEAD = ("SERVICE", "INSTANCE", "STATE", "PID", "UPTIME", "RESTARTS", "LAUNCHER", "CGROUP", "NOTE")
_NUMBERS = ("PID", "UPTIME", "RESTARTS")

_TOLD = (State.FAILED, State.ENDED, State.RESTARTING)
"""States in which the end of the last run is news."""


def rows(
    statuses: Iterable[Status], missing: Iterable[tuple[Name, Absent]], now: float
) -> list[tuple[str, ...]]:
    """The cells of each worker, then of each declared one that is not there; by name."""
    present = [_row(status, now) for status in statuses]
    others = [(*name, str(why), *["-"] * 5, "") for name, why in missing]
    return sorted([*present, *others], key=lambda cells: cells[:2])


def workers_table(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines of `ps`."""
    return columns([_HEAD, *cells], right=_NUMBERS)


def columns(lines: Sequence[Sequence[str]], right: Sequence[str] = ()) -> list[str]:
    """`lines`, the first of them the head, in aligned columns; those in `right` to the right.

    A last column without any content is left out with its head.
    """
    if all(not line[-1] for line in lines[1:]):
        lines = [line[:-1] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    to_right = [name in right for name in lines[0]]
    return [
        "  ".join(
            cell.rjust(width) if numbers else cell.ljust(width)
            for cell, width, numbers in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in lines
    ]


def as_json(status: Status, declared: bool) -> Mapping[str, Any]:
    """A worker as the API shows it; null for what is unknown, times in seconds since the epoch."""
    return {
        "service": status.service,
        "instance": status.instance,
        "state": status.state.value,
        "declared": declared,
        "launcher": status.launcher,
        "cgroup": status.cgroup,
        "unit": status.unit,
        "container": status.container,
        "pid": status.pid,
        "started": status.started,
        "restarts": status.restarts,
        "result": status.result,
        "exit_status": status.exit_status,
        "unapplied": list(status.unapplied),
        "metadata": dict(status.metadata),
    }


def absent_as_json(name: Name, why: Absent) -> Mapping[str, Any]:
    """A declared worker that is not there, with the same keys."""
    nobody = Status(*name, "", State.ENDED)
    return {**as_json(nobody, True), "state": why.value, "launcher": None}


def ending(result: str | None, exit_status: int | None) -> str:
    """How a run ended, in words; "" when nobody knows."""
    said = [] if result in (None, "success") else [str(result)]
    if exit_status is not None:
        said.append(f"exit status {exit_status}{_signal_of(exit_status)}")
    return ", ".join(said)


def _signal_of(exit_status: int) -> str:
    """The signal that 128 and more stand for, as a shell has it."""
    try:
        return f" ({signal.Signals(exit_status - 128).name})"
    except ValueError:
        return ""


def _row(status: Status, now: float) -> tuple[str, ...]:
    running = status.alive and status.started is not None
    return (
        status.service,
        status.instance,
        str(status.state),
        "-" if status.pid is None else str(status.pid),
        duration(now - status.started) if running and status.started is not None else "-",
        "-" if status.restarts is None else str(status.restarts),
        status.launcher,
        status.cgroup or "-",
        _note(status),
    )


def _note(status: Status) -> str:
    notes = []
    if status.state in _TOLD:
        notes.append(ending(status.result, status.exit_status))
    if status.unapplied:
        notes.append(f"limits that do not hold: {', '.join(status.unapplied)}")
    return "; ".join(note for note in notes if note)
