"""Limits written to a cgroup's files, and read back: which of them the host took."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

from worker_sidecar.errors import InputError
from worker_sidecar.launch.device import device_of
from worker_sidecar.launch.limits import LARGEST, Limits, cpu_list, cpu_set

CPU_PERIOD = 100_000
"""Microseconds, the kernel's default period of cpu.max."""

SWAPS = "/proc/swaps"

_PAGE = os.sysconf("SC_PAGE_SIZE")
_CPU_TOLERANCE = 1e-3
"""Relative: a quota is whole microseconds of a period that others may have chosen smaller."""

_UNLIMITED = {
    "cpu.max": (f"max {CPU_PERIOD}", f"max {CPU_PERIOD}"),
    "cpu.weight": ("100", "100"),
    "cpuset.cpus": ("", "\n"),
    "memory.max": ("max", "max"),
    "memory.high": ("max", "max"),
    "memory.swap.max": ("max", "max"),
    "io.weight": ("default 100", "default 100"),
    "io.bfq.weight": ("default 100", "default 100"),
    "pids.max": ("max", "max"),
}
"""What each file says where nothing is limited, and what to write for that."""

DeviceLimits: TypeAlias = Mapping[str, int | None]


@dataclass(frozen=True, slots=True)
class _File:
    """One kernel file of a limit: what to write (one write each), and whether what it says holds.

    `limit` is the field of Limits.
    """

    limit: str
    name: str
    writes: tuple[str, ...]
    holds: Callable[[str], bool]


def check(limits: Limits) -> None:
    """Raises InputError for an IO limit's path without a block device."""
    _devices(limits)


def apply(directory: str, limits: Limits) -> tuple[str, ...]:
    """Write `limits` to the files of the cgroup `directory`.

    Returns the fields of Limits that the host did not take. Raises InputError, before anything is
    written, for an IO limit's path without a block device.
    """
    refused = {
        file.limit
        for file in _files(directory, limits, _devices(limits))
        for value in file.writes
        if not _written(f"{directory}/{file.name}", value)
    }
    return tuple(name for name in _asked(limits) if name in refused and _matters(name, limits))


def unapplied(directory: str, limits: Limits) -> tuple[str, ...]:
    """The fields of Limits that the cgroup's own files do not hold; () when it is gone.

    A file that is missing holds nothing. A device that is gone holds no IO limit.
    """
    try:
        devices: Mapping[tuple[int, int], DeviceLimits] | None = _devices(limits)
    except InputError:
        devices = None
    wrong = {
        file.limit
        for file in _files(directory, limits, devices or {})
        if not _holds(f"{directory}/{file.name}", file.holds)
    }
    if devices is None:
        wrong.add("io")
    if not wrong or not os.path.isdir(directory):
        return ()
    return tuple(name for name in _asked(limits) if name in wrong and _matters(name, limits))


def replace(directory: str, limits: Limits | None) -> tuple[str, ...]:
    """As apply(), for a cgroup that had other limits before: what `limits` leaves open is open
    again, and what holds is not written; None leaves all as it is. Returns what unapplied() does.
    """
    if limits is None:
        return ()
    for name, value in changes(directory, limits):
        _written(f"{directory}/{name}", value)
    return unapplied(directory, limits)


def writes(directory: str, limits: Limits) -> Iterator[tuple[str, str]]:
    """Name and content of each write that apply() would do. Raises InputError as that."""
    for file in _files(directory, limits, _devices(limits)):
        for value in file.writes:
            yield file.name, value


def changes(directory: str, limits: Limits | None) -> Iterator[tuple[str, str]]:
    """Name and content of each write that replace() would do. Raises InputError as that."""
    if limits is None:
        return
    devices = _devices(limits)
    files = _files(directory, limits, devices)
    given = {file.name for file in files}
    for name, (unlimited, value) in _UNLIMITED.items():
        content = _read(f"{directory}/{name}")
        if name not in given and content is not None and content != unlimited:
            yield name, value
    for device in _other_devices(directory, devices):
        yield "io.max", f"{device} rbps=max wbps=max riops=max wiops=max"
    for file in files:
        if not _holds(f"{directory}/{file.name}", file.holds):
            for value in file.writes:
                yield file.name, value


def _asked(limits: Limits) -> tuple[str, ...]:
    """Every field of Limits, in the order in which they are named."""
    return tuple(type(limits).__dataclass_fields__)


def _files(
    directory: str, limits: Limits, devices: Mapping[tuple[int, int], DeviceLimits]
) -> list[_File]:
    """The files that `limits` go to, see the kernel's admin-guide/cgroup-v2.rst."""
    files = []
    if limits.cpu is not None:
        quota = f"{round(limits.cpu * CPU_PERIOD)} {CPU_PERIOD}"
        files.append(_File("cpu", "cpu.max", (quota,), _is_quota(limits.cpu)))
    if limits.cpu_weight is not None:
        weight = str(limits.cpu_weight)
        files.append(_File("cpu_weight", "cpu.weight", (weight,), weight.__eq__))
    if limits.cpus is not None:
        wanted = cpu_set(limits.cpus)
        cpus = cpu_list(wanted)
        files.append(_File("cpus", "cpuset.cpus", (cpus,), _is_set(wanted)))
        # where none of them is to be had the kernel takes the parent's, and says so only here
        files.append(_File("cpus", "cpuset.cpus.effective", (), _is_within(wanted)))
    sizes = {
        "memory": ("memory.max", limits.memory),
        "memory_high": ("memory.high", limits.memory_high),
        "swap": ("memory.swap.max", limits.swap_max),
    }
    for limit, (name, size) in sizes.items():
        if size is not None:
            files.append(_File(limit, name, (str(size),), _is_size(size)))
    if devices:
        lines = tuple(_io_line(device, bounds) for device, bounds in devices.items())
        files.append(_File("io", "io.max", lines, _has_devices(devices)))
    if limits.io_weight is not None:
        files.append(_io_weight(directory, limits.io_weight))
    if limits.tasks is not None:
        tasks = str(limits.tasks)
        files.append(_File("tasks", "pids.max", (tasks,), tasks.__eq__))
    return files


def _matters(name: str, limits: Limits) -> bool:
    """A limit of swap holds by itself where there is no swap, whatever the kernel accounts."""
    if name != "swap":
        return True
    try:
        with open(SWAPS, encoding="utf-8", errors="replace") as file:
            return len(file.readlines()) > 1
    except OSError:
        return False


def _devices(limits: Limits) -> dict[tuple[int, int], DeviceLimits]:
    """The bounds by device; of two paths on one device the smaller bound counts."""
    found: dict[tuple[int, int], dict[str, int | None]] = {}
    for limit in limits.io:
        bounds = found.setdefault(device_of(limit.path), {})
        for key, value in {
            "rbps": limit.read_bandwidth,
            "wbps": limit.write_bandwidth,
            "riops": limit.read_iops,
            "wiops": limit.write_iops,
        }.items():
            known = [bound for bound in (bounds.get(key), value) if bound is not None]
            bounds[key] = min(known, default=None)
    return dict(found)


def _io_line(device: tuple[int, int], bounds: DeviceLimits) -> str:
    values = (f"{key}={'max' if value is None else value}" for key, value in bounds.items())
    return f"{device[0]}:{device[1]} {' '.join(values)}"


def _io_weight(directory: str, weight: int) -> _File:
    """io.weight, else io.bfq.weight, whose scale ends at 1000 (as systemd converts it)."""
    if os.path.exists(f"{directory}/io.weight") or not os.path.exists(f"{directory}/io.bfq.weight"):
        return _File("io_weight", "io.weight", (f"default {weight}",), _is_default(weight))
    if weight > 100:
        weight = 100 + (weight - 100) * 900 // 9900
    return _File("io_weight", "io.bfq.weight", (f"default {weight}",), _is_default(weight))


def _is_quota(cores: float) -> Callable[[str], bool]:
    def holds(content: str) -> bool:
        quota, period = content.split()
        return quota != "max" and abs(int(quota) / int(period) / cores - 1) < _CPU_TOLERANCE

    return holds


def _is_set(wanted: frozenset[int]) -> Callable[[str], bool]:
    return lambda content: bool(content) and cpu_set(content) == wanted


def _is_within(wanted: frozenset[int]) -> Callable[[str], bool]:
    return lambda content: bool(content) and cpu_set(content) <= wanted


def _is_size(size: int) -> Callable[[str], bool]:
    def holds(content: str) -> bool:
        found = LARGEST if content == "max" else int(content)
        return found // _PAGE == size // _PAGE

    return holds


def _is_default(weight: int) -> Callable[[str], bool]:
    """Of "default 100" and lines for devices; io.bfq.weight may say the number alone."""
    return lambda content: content.splitlines()[0].removeprefix("default ") == str(weight)


def _has_devices(devices: Mapping[tuple[int, int], DeviceLimits]) -> Callable[[str], bool]:
    def holds(content: str) -> bool:
        found = {}
        for line in content.splitlines():
            device, *items = line.split()
            found[device] = dict(item.split("=", 1) for item in items)
        return all(
            found.get(f"{major}:{minor}", {}).get(key, "max") == str(value)
            for (major, minor), bounds in devices.items()
            for key, value in bounds.items()
            if value is not None
        )

    return holds


def _other_devices(
    directory: str, devices: Mapping[tuple[int, int], DeviceLimits]
) -> Sequence[str]:
    """Of the devices that io.max tells of, those that `devices` does not."""
    kept = {f"{major}:{minor}" for major, minor in devices}
    limited = [line.split(" ")[0] for line in (_read(f"{directory}/io.max") or "").splitlines()]
    return [device for device in limited if device not in kept]


def _holds(path: str, holds: Callable[[str], bool]) -> bool:
    content = _read(path)
    try:
        return content is not None and holds(content)
    except (ValueError, IndexError, InputError):
        return False


def _read(path: str) -> str | None:
    """What a kernel file says, None where it is not there."""
    with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        return file.read().strip()
    return None


def _written(path: str, value: str) -> bool:
    """One unbuffered write without creating: the kernel answers a bad one with an error."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        try:
            return os.write(descriptor, value.encode()) > 0
        finally:
            os.close(descriptor)
    return False
