"""From the flags of `run` to a worker's specification: pure."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker_sidecar.errors import InputError
from worker_sidecar.launch.launcher import Restart, WorkerSpec
from worker_sidecar.launch.limits import (
    IoLimit,
    Limits,
    parse_bandwidth,
    parse_cpu,
    parse_memory,
)
from worker_sidecar.launch.storage import parse_shm_size, parse_volume


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags as they were written; None or nothing for those that were not given."""

    cpu: str | None = None
    cpu_weight: int | None = None
    cpus: str | None = None
    memory: str | None = None
    memory_high: str | None = None
    swap: str | None = None
    tasks: int | None = None
    io_weight: int | None = None
    io_read_bandwidth: Sequence[str] = ()
    io_write_bandwidth: Sequence[str] = ()
    io_read_iops: Sequence[str] = ()
    io_write_iops: Sequence[str] = ()
    user: str | None = None
    directory: str | None = None
    env: Sequence[str] = ()
    secret: Sequence[str] = ()
    secret_env: str | None = None
    restart: str | None = None
    grace: float | None = None
    delegate: bool | None = None
    oom_score_adjust: int | None = None
    image: str | None = None
    volume: Sequence[str] = ()
    shm_size: str | None = None
    gpu: str | None = None
    model: str | None = None
    port: int | None = None
    metadata: Sequence[str] = field(default_factory=tuple)


def changed(spec: WorkerSpec, flags: Flags) -> WorkerSpec:
    """`spec` with what the flags say. Raises InputError for what cannot be meant."""
    metadata = dict(pairs("--metadata", "KEY=VALUE", flags.metadata))
    if flags.model is not None:
        metadata["model"] = flags.model
    if flags.port is not None:
        metadata["port"] = str(flags.port)
    given: dict[str, Any] = {
        "user": flags.user,
        "directory": flags.directory,
        "secret_env": flags.secret_env,
        "restart": None if flags.restart is None else Restart(flags.restart),
        "grace": flags.grace,
        "delegate": flags.delegate,
        "oom_score_adjust": flags.oom_score_adjust,
        "image": flags.image,
        "shm_size": _parsed(flags.shm_size, parse_shm_size),
        "gpu": flags.gpu,
    }
    return dataclasses.replace(
        spec,
        **{name: value for name, value in given.items() if value is not None},
        env={**spec.env, **dict(pairs("--env", "NAME=VALUE", flags.env))},
        secrets={**spec.secrets, **dict(pairs("--secret", "NAME=FILE", flags.secret))},
        metadata={**spec.metadata, **metadata},
        limits=_limits(spec.limits, flags),
        volumes=_volumes(spec.volumes, flags.volume),
    )


def pairs(flag: str, form: str, texts: Iterable[str]) -> Iterable[tuple[str, str]]:
    """The two halves of each text around its first "=". Raises InputError without one."""
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise InputError(f"{flag} {text!r}: give {form}")
        yield name, value


def _volumes(before: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Those of `before`, but for the places in the container that `given` has another for."""
    targets = {parse_volume(text).target for text in given}
    return (*(text for text in before if parse_volume(text).target not in targets), *given)


def _limits(before: Limits, flags: Flags) -> Limits:
    given: dict[str, Any] = {
        "cpu": _parsed(flags.cpu, parse_cpu),
        "cpu_weight": flags.cpu_weight,
        "cpus": flags.cpus,
        "memory": _parsed(flags.memory, parse_memory),
        "memory_high": _parsed(flags.memory_high, parse_memory),
        "swap": _parsed(flags.swap, parse_memory),
        "tasks": flags.tasks,
        "io_weight": flags.io_weight,
    }
    return dataclasses.replace(
        before,
        **{name: value for name, value in given.items() if value is not None},
        io=_io_limits(before.io, flags),
    )


def _io_limits(before: Sequence[IoLimit], flags: Flags) -> tuple[IoLimit, ...]:
    """The limits of each path, those that the flags name changed."""
    limits = {limit.path: limit for limit in before}
    parts: Mapping[str, tuple[Sequence[str], Callable[[str], int]]] = {
        "read_bandwidth": (flags.io_read_bandwidth, parse_bandwidth),
        "write_bandwidth": (flags.io_write_bandwidth, parse_bandwidth),
        "read_iops": (flags.io_read_iops, _operations),
        "write_iops": (flags.io_write_iops, _operations),
    }
    for name, (texts, parse) in parts.items():
        flag = f"--io-{name.replace('_', '-')}"
        for path, text in _paths(flag, texts).items():
            limit = limits.get(path) or IoLimit(path)
            part: dict[str, Any] = {name: parse(text)}
            limits[path] = dataclasses.replace(limit, **part)
    return tuple(limits.values())


def _paths(flag: str, texts: Iterable[str]) -> Mapping[str, str]:
    """By path what a flag says of it; the last "=" parts, for a path may contain one."""
    found: dict[str, str] = {}
    for text in texts:
        path, equals, value = text.rpartition("=")
        if not path or not equals:
            raise InputError(f"{flag} {text!r}: give PATH=NUMBER, as in /dev/vda=10M")
        if path in found:
            raise InputError(f"{flag}: {path} is there twice")
        found[path] = value
    return found


def _operations(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InputError(f"limit iops {text!r}: give operations a second, as in 500")
    return int(text)


def _parsed(text: str | None, parse: Callable[[str], float]) -> float | None:
    return None if text is None else parse(text)
