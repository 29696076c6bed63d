"""What a launcher wrote on a worker's cgroup: extended attributes named user.worker.*."""

import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from worker_exporter.cgroup.files import Cgroup
from worker_exporter.cgroup.identity import is_label_value

PREFIX = "user.worker."
HEALTH = "user.worker.health"

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Metadata:
    """`model`, `port` and `gpu` are "" where not given, or not fit for a label.

    `started` is in seconds since the epoch.
    """

    model: str = ""
    port: str = ""
    gpu: str = ""
    started: float | None = None


METADATA = tuple(PREFIX + name for name in ("model", "port", "gpu", "started"))
"""The extended attributes that read_metadata() reads."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a probe said: `ready` 1 or 0, at `time` (seconds since the epoch), every `interval`
    seconds.
    """

    ready: bytes
    time: float
    interval: float


def read_metadata(cgroup: Cgroup, errors: Counter[str]) -> Metadata:
    """The metadata of `cgroup`: extended attributes user.worker.model, .port, .gpu, .started.

    A value that does not fit is left out and counted in `errors` under its attribute's name.
    """
    names = set(attributes(cgroup))

    def value(name: str, parse: Callable[[str], Value], default: Value) -> Value:
        attribute = PREFIX + name
        if attribute not in names:
            return default
        try:
            return parse(os.getxattr(_place(cgroup), attribute).decode())
        except (OSError, ValueError):
            errors[attribute] += 1
            return default

    return Metadata(
        model=value("model", _label, ""),
        port=value("port", _port, ""),
        gpu=value("gpu", _label, ""),
        started=value("started", _time, None),
    )


def attributes(cgroup: Cgroup) -> list[str]:
    """The names of the extended attributes of `cgroup` (listxattr); none when it is gone."""
    try:
        return os.listxattr(_place(cgroup))
    except OSError:
        return []


def read_health(cgroup: Cgroup) -> bytes | None:
    """The value of user.worker.health, None where there is none."""
    try:
        return os.getxattr(_place(cgroup), HEALTH)
    except OSError:
        return None


def parse_health(value: bytes) -> Health:
    """`ready time interval`, such as b"1 1767225600.5 10". Raises ValueError for anything else."""
    ready, time, interval = value.split()
    health = Health(ready, float(time), float(interval))
    if ready not in (b"0", b"1") or not 0 < health.time < math.inf or not health.interval > 0:
        raise ValueError(f"no health: {value[:40]!r}")
    return health


def port_of(text: str) -> str:
    """`text` if it is a port, a number from 1 to 65535 written plainly, else ""."""
    plain = text.isascii() and text.isdigit() and text[0] != "0" and len(text) <= 5
    return text if plain and int(text) <= 65535 else ""


def _place(cgroup: Cgroup) -> int | str:
    return cgroup.location if cgroup.directory is None else cgroup.directory


def _label(text: str) -> str:
    if not is_label_value(text):
        raise ValueError("no label value")
    return text


def _port(text: str) -> str:
    if not port_of(text):
        raise ValueError("no port")
    return text


def _time(text: str) -> float | None:
    time = float(text)
    if not 0 < time < math.inf:
        raise ValueError("no time")
    return time
