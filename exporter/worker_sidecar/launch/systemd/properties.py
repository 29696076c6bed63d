"""Limits as properties of units, see systemd.resource-control(5), and back from D-Bus."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from worker_sidecar.launch.device import device_of
from worker_sidecar.launch.limits import IoLimit, Limits, cpu_list, cpu_set

ACCOUNTING = (
    "CPUAccounting=yes",
    "MemoryAccounting=yes",
    "IOAccounting=yes",
    "TasksAccounting=yes",
)

ABSENT = 2**64 - 1
"""What D-Bus says for infinity, and for a value that is not there."""

_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._:+@-]+")

_NONE = {"MemoryMax": "infinity", "MemoryHigh": "infinity", "MemorySwapMax": "infinity"}
"""How to lift what an empty value does not lift."""


def settings(limits: Limits) -> tuple[str, ...]:
    """`limits` as NAME=value. Raises InputError for an IO limit's path without a disk."""
    single = {
        "CPUQuota": None if limits.cpu is None else _percent(limits.cpu),
        "CPUWeight": limits.cpu_weight,
        "AllowedCPUs": None if limits.cpus is None else cpu_list(cpu_set(limits.cpus)),
        "MemoryMax": limits.memory,
        "MemoryHigh": limits.memory_high,
        "MemorySwapMax": limits.swap_max,
        "IOWeight": limits.io_weight,
        "TasksMax": limits.tasks,
    }
    given = [f"{name}={value}" for name, value in single.items() if value is not None]
    return (*given, *(setting for limit in limits.io for setting in _io(limit)))


def in_force(properties: Mapping[str, Any]) -> tuple[str, ...]:
    """What a unit is set to, as settings() and ACCOUNTING write it, from its D-Bus properties."""
    found = [name for name in ACCOUNTING if properties.get(name.removesuffix("=yes"))]
    for name, (property_name, text) in _SINGLE.items():
        value = properties.get(property_name, ABSENT)
        if value not in (ABSENT, b""):
            found.append(f"{name}={text(value)}")
    for name in _IO:
        found += [f"{name}={path} {value}" for path, value in properties.get(name, ())]
    return tuple(found)


def name_of(setting: str) -> str:
    """The property of a NAME=value."""
    return setting.partition("=")[0]


def of_device(setting: str) -> bool:
    """Whether a NAME=value limits one device: it is added to those before, and replaces none."""
    return "Max=/" in setting


def lifted(name: str) -> str:
    """The setting that lifts a limit."""
    return f"{name}={_NONE.get(name, '')}"


def _percent(cores: float) -> str:
    # systemd takes two decimals, and before 248 one
    return f"{round(cores * 100, 2):.10g}%"


def _cpus(mask: bytes) -> str:
    """A bit for each CPU, the lowest of the first byte for CPU 0."""
    return cpu_list(cpu for cpu in range(len(mask) * 8) if mask[cpu // 8] >> cpu % 8 & 1)


def _io(limit: IoLimit) -> Sequence[str]:
    bounds = zip(_IO, (limit.read_bandwidth, limit.write_bandwidth, limit.read_iops,
                       limit.write_iops), strict=True)  # fmt: skip
    major, minor = device_of(limit.path)
    # a space would end the path, and systemd takes % for its own after a reload
    path = limit.path if _PLAIN_PATH.fullmatch(limit.path) else f"/dev/block/{major}:{minor}"
    return [f"{name}={path} {bound}" for name, bound in bounds if bound is not None]


_IO = ("IOReadBandwidthMax", "IOWriteBandwidthMax", "IOReadIOPSMax", "IOWriteIOPSMax")

_SINGLE: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "CPUQuota": ("CPUQuotaPerSecUSec", lambda microseconds: _percent(microseconds / 1e6)),
    "CPUWeight": ("CPUWeight", str),
    "AllowedCPUs": ("AllowedCPUs", _cpus),
    "MemoryMax": ("MemoryMax", str),
    "MemoryHigh": ("MemoryHigh", str),
    "MemorySwapMax": ("MemorySwapMax", str),
    "IOWeight": ("IOWeight", str),
    "TasksMax": ("TasksMax", str),
}
"""By the name that set-property takes: the D-Bus property, and its value as it is set."""

NAMES = frozenset((*_SINGLE, *_IO))
"""Every property that settings() writes."""
