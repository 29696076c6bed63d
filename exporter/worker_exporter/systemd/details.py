"""Which properties tell of a service or scope, and what they say.

Names and types are those of org.freedesktop.systemd1(5), its interfaces Unit, Service and Scope.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from worker_exporter.systemd.unit import Details, Unit

_INTERFACE = "org.freedesktop.systemd1."
_INFINITY = 2**64 - 1
_CLD_EXITED = 1
_CLD_KILLED = 2
_CLD_DUMPED = 3


@dataclass(frozen=True, slots=True)
class Property:
    """A property of a unit: its D-Bus interface, name and signature."""

    interface: str
    name: str
    signature: str


STATE_CHANGED = Property(f"{_INTERFACE}Unit", "StateChangeTimestampMonotonic", "t")
SUB_STATE = Property(f"{_INTERFACE}Unit", "SubState", "s")

_SCOPE = (
    Property(f"{_INTERFACE}Scope", "Slice", "s"),
    Property(f"{_INTERFACE}Scope", "ControlGroup", "s"),
    Property(f"{_INTERFACE}Scope", "Result", "s"),
    Property(f"{_INTERFACE}Unit", "ActiveEnterTimestamp", "t"),
)
_SCOPE_RUN = (
    Property(f"{_INTERFACE}Scope", "CPUUsageNSec", "t"),
    Property(f"{_INTERFACE}Scope", "MemoryPeak", "t"),
)
_SERVICE = (
    Property(f"{_INTERFACE}Service", "Slice", "s"),
    Property(f"{_INTERFACE}Service", "ControlGroup", "s"),
    Property(f"{_INTERFACE}Service", "Result", "s"),
    Property(f"{_INTERFACE}Service", "NRestarts", "u"),
    Property(f"{_INTERFACE}Service", "ExecMainStartTimestamp", "t"),
)
_SERVICE_RUN = (
    Property(f"{_INTERFACE}Service", "ExecMainStartTimestampMonotonic", "t"),
    Property(f"{_INTERFACE}Service", "ExecMainExitTimestampMonotonic", "t"),
    Property(f"{_INTERFACE}Service", "ExecMainCode", "i"),
    Property(f"{_INTERFACE}Service", "ExecMainStatus", "i"),
    Property(f"{_INTERFACE}Service", "CPUUsageNSec", "t"),
    Property(f"{_INTERFACE}Service", "MemoryPeak", "t"),
)

NEWER = frozenset({_SCOPE_RUN[-1], _SERVICE_RUN[-1]})
"""MemoryPeak, which systemd has from version 254 on."""


def slice_property(unit: str) -> Property:
    """The property that tells which slice a service or scope belongs to."""
    return _SCOPE[0] if _is_scope(unit) else _SERVICE[0]


def resettable(unit: str) -> tuple[Property, ...]:
    """What `systemctl reset-failed` sets back: Result, and of a service NRestarts."""
    return _SCOPE[2:3] if _is_scope(unit) else _SERVICE[2:4]


def properties_of(unit: Unit) -> tuple[Property, ...]:
    """What has to be read for the details of a service or scope in its state."""
    always, run = (_SCOPE, _SCOPE_RUN) if _is_scope(unit.name) else (_SERVICE, _SERVICE_RUN)
    return (*always, *run) if _run_is_over(unit) else always


def details_of(values: Mapping[str, Any]) -> Details | None:
    """What the values of properties_of() say; None without those that every unit has.

    A value that systemd does not have is None.
    """
    slice_name, group, result = values["Slice"], values["ControlGroup"], values["Result"]
    if slice_name is None or group is None or result is None:
        return None
    started = values.get("ExecMainStartTimestamp") or values.get("ActiveEnterTimestamp")
    cpu = _known(values.get("CPUUsageNSec"))
    return Details(
        slice=slice_name,
        control_group=group.removeprefix("/"),
        result=result,
        restarts=values.get("NRestarts"),
        started=started / 1e6 if started else None,
        exit_status=_exit_status(values.get("ExecMainCode"), values.get("ExecMainStatus")),
        cpu_seconds=None if cpu is None else cpu / 1e9,
        peak_memory_bytes=_known(values.get("MemoryPeak")),
        duration_seconds=_duration(
            values.get("ExecMainStartTimestampMonotonic"),
            values.get("ExecMainExitTimestampMonotonic"),
        ),
    )


def _run_is_over(unit: Unit) -> bool:
    return unit.is_down or unit.active == "inactive" or unit.sub == "exited"


def _is_scope(unit: str) -> bool:
    return unit.endswith(".scope")


def _known(value: int | None) -> int | None:
    return None if value == _INFINITY else value


def _exit_status(code: int | None, status: int | None) -> int | None:
    if status is None:
        return None
    if code == _CLD_EXITED:
        return status
    return 128 + status if code in (_CLD_KILLED, _CLD_DUMPED) else None


def _duration(start: int | None, end: int | None) -> float | None:
    """In seconds, of timestamps in microseconds; 0 is never."""
    return (end - start) / 1e6 if start and end and end >= start else None
