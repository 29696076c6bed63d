"""The limits a worker, a service or a host's workers together can have."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields

from worker_sidecar.errors import InputError

_SIZE = re.compile(r"(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?)(?P<unit>[KMGTP]?)")
_CPU = re.compile(r"(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?)(?P<percent>%?)")
_CPUS = re.compile(r"[0-9]{1,9}(?:-[0-9]{1,9})?(?:,[0-9]{1,9}(?:-[0-9]{1,9})?)*")
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}

LARGEST = 2**63 - 1
"""What fits the kernel's own counters."""

CPUS = 8192
"""More CPUs than a Linux kernel can be built for."""


@dataclass(frozen=True, slots=True)
class IoLimit:
    """Upper bounds of the IO with one device. `path` is a block device's node, or any file or
    directory, which stands for the device it lies on. Bandwidth in bytes a second, None unlimited.
    """

    path: str
    read_bandwidth: int | None = None
    write_bandwidth: int | None = None
    read_iops: int | None = None
    write_iops: int | None = None

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or "\0" in self.path or "\n" in self.path:
            raise InputError(f"limit io: {self.path!r} is no absolute path of a device or file")
        for name in ("read_bandwidth", "write_bandwidth", "read_iops", "write_iops"):
            _check(f"io {name} of {self.path}", getattr(self, name), 1, LARGEST)


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds and weights; None leaves the kernel's default.

    `cpu` in cores (0.5 is half of one), `cpu_weight` and `io_weight` 1 to 10000 (100 is usual),
    `cpus` a set of CPUs such as "0-3,8", `memory`, `memory_high` and `swap` in bytes (`swap` is 0
    where only `memory` is given, else the limit would only move the worker's memory there),
    `tasks` in processes and threads. Raises InputError for a value that cannot be.
    """

    cpu: float | None = None
    cpu_weight: int | None = None
    cpus: str | None = None
    memory: int | None = None
    memory_high: int | None = None
    swap: int | None = None
    io: tuple[IoLimit, ...] = ()
    io_weight: int | None = None
    tasks: int | None = None

    def __post_init__(self) -> None:
        _check("cpu", self.cpu, 0.01, CPUS)
        _check("cpu_weight", self.cpu_weight, 1, 10_000)
        _check("memory", self.memory, 4096, LARGEST)
        _check("memory_high", self.memory_high, 4096, LARGEST)
        _check("swap", self.swap, 0, LARGEST)
        _check("io_weight", self.io_weight, 1, 10_000)
        _check("tasks", self.tasks, 1, 2**22)
        if self.cpus is not None:
            cpu_set(self.cpus)
        paths = [limit.path for limit in self.io]
        if len(set(paths)) != len(paths):
            raise InputError("limit io: one path is there twice; give all its limits once")

    @property
    def swap_max(self) -> int | None:
        """The swap limit that is meant, in bytes: 0 where memory alone is limited."""
        return 0 if self.swap is None and self.memory is not None else self.swap

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return any(getattr(self, field.name) not in (None, ()) for field in fields(self))


def parse_cpu(text: str) -> float:
    """ "200%" and "2" are two cores. Raises InputError."""
    match = _CPU.fullmatch(text)
    if match is None:
        raise InputError(f"limit cpu {text!r}: give cores, as in 2 or 0.5, or percent, as in 200%")
    return float(match["number"]) / (100 if match["percent"] else 1)


def parse_memory(text: str) -> int:
    """ "300M" is 300 times 1024 squared, as for systemd. Raises InputError."""
    return _size(text, 1024, "memory", "bytes, as in 300M or 8G")


def parse_bandwidth(text: str) -> int:
    """ "10M" is 10 times 1000 squared, as for systemd. Raises InputError."""
    return _size(text, 1000, "bandwidth", "bytes a second, as in 10M")


def cpu_set(text: str) -> frozenset[int]:
    """The CPUs of a list such as "0-3,8". Raises InputError."""
    if not _CPUS.fullmatch(text):
        raise InputError(f"limit cpus {text!r} is no list of CPUs such as 0-3,8")
    cpus: set[int] = set()
    for item in text.split(","):
        first, _, last = item.partition("-")
        begin, end = int(first), int(last or first)
        if not begin <= end < CPUS:
            raise InputError(f"limit cpus {text!r}: {item} is no range of CPUs")
        cpus.update(range(begin, end + 1))
    return frozenset(cpus)


def cpu_list(cpus: Iterable[int]) -> str:
    """The list, in the kernel's form, of a set of CPUs: "0-3,8"."""
    ranges: list[list[int]] = []
    for cpu in sorted(set(cpus)):
        if ranges and ranges[-1][1] == cpu - 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in ranges)


def _size(text: str, base: int, what: str, hint: str) -> int:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InputError(f"limit {what} {text!r}: give {hint}")
    return int(float(match["number"]) * base ** _POWERS[match["unit"]])


def _check(name: str, value: float | None, least: float, most: float) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not math.isfinite(value) or not least <= value <= most:
        raise InputError(f"limit {name} is {value}; it goes from {least:g} to {most:g}")


NO_LIMITS = Limits()
