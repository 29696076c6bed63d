"""What every launcher does and what it is given."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from worker_exporter.errors import UserError

SERVICE = re.compile(r"[a-z0-9_]{1,64}")
INSTANCE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]{0,63}")
METADATA_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")
METADATA_BYTES = 256
"""Longest metadata value, as long as a label value of the exporter may be."""

GRACE = 5.0
"""Seconds between the polite signal and the kill when a worker is stopped."""

_KERNEL_FILE = re.compile(r"(?:cgroup|cpu|cpuset|memory|io|pids|hugetlb|misc|rdma|dmem)\..*")
_UNIT = re.compile(
    r".*\.(?:service|scope|slice|socket|mount|swap|target|device|automount|timer|path)"
)


class LaunchError(UserError):
    """A worker could not be started or stopped, in one line."""


class AlreadyRunningError(LaunchError):
    """The worker that should be started runs already."""


class NotFoundError(LaunchError):
    """There is no such worker."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of one worker; None leaves it unlimited.

    `cpu_cores` in cores (0.5 is half of one), `memory_bytes` in bytes (swap is then forbidden,
    else the limit only moves the worker's memory there), `tasks` in processes and threads.
    """

    cpu_cores: float | None = None
    memory_bytes: int | None = None
    tasks: int | None = None

    def __post_init__(self) -> None:
        for name in ("cpu_cores", "memory_bytes", "tasks"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"limit {name} is {value}; give a number above 0, or none at all")


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker to start.

    `argv` is the command (its first word a path or a name on PATH) and `env` what is added to a
    bare environment. `metadata` (model, port, ...) becomes the xattrs `user.worker.*` of its
    cgroup. Raises UserError for a name, command or key that cannot be.
    """

    service: str
    instance: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = Limits()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_names(self.service, self.instance)
        if not self.argv or not self.argv[0]:
            raise UserError(f"worker {self.service}/{self.instance} has no command to run")
        if any("\0" in text for text in (*self.argv, *self.env, *self.env.values())):
            raise UserError(f"the command of {self.service}/{self.instance} contains a NUL")
        for key, value in self.metadata.items():
            _check_metadata(key, value)


@dataclass(frozen=True, slots=True)
class Launched:
    """A worker that a launcher knows.

    `cgroup` is its path below the cgroup2 mount, `unit` its systemd unit (None without systemd),
    `running` whether a process is in it, `unapplied` the limits the host could not set.
    """

    service: str
    instance: str
    cgroup: str
    unit: str | None
    running: bool
    unapplied: tuple[str, ...] = ()


class Launcher(Protocol):
    """Starts and stops workers in cgroups of their own, all below one slice."""

    @property
    def name(self) -> str:
        """How this launcher is called: "systemd", "systemd --user" or "cgroupfs"."""

    @property
    def directory(self) -> str:
        """Where the slice is in the file system, there or not."""

    def start(self, spec: WorkerSpec) -> Launched:
        """Start a worker; on return its program runs in its cgroup and its metadata is there.

        Raises AlreadyRunningError, or LaunchError after which nothing is left of it.
        """

    def stop(self, service: str, instance: str, grace: float = GRACE) -> None:
        """End every process of a worker, politely for `grace` seconds, and remove its cgroup.

        Raises NotFoundError, or LaunchError when a process cannot be ended.
        """

    def list(self) -> Sequence[Launched]:
        """The workers below the slice, by service and instance."""

    def down(self, grace: float = GRACE) -> None:
        """Stop all workers below the slice and remove the slice; nothing there is no error."""


def check_names(service: str, instance: str) -> None:
    """Raises UserError when the two cannot be the names of a worker."""
    if not SERVICE.fullmatch(service):
        raise UserError(
            f"service {service!r} is no name: 1 to 64 of a-z, 0-9 and _ (a dash would nest slices)"
        )
    if not INSTANCE.fullmatch(instance):
        raise UserError(
            f"instance {instance!r} is no name: 1 to 64 of A-Z, a-z, 0-9, _ and ., not . first"
        )
    if _KERNEL_FILE.fullmatch(instance) or _UNIT.fullmatch(instance):
        raise UserError(f"instance {instance!r} looks like a kernel file or a unit; name it else")


def _check_metadata(key: str, value: str) -> None:
    if not METADATA_KEY.fullmatch(key):
        raise UserError(f"metadata key {key!r} is no name: a letter, then a-z, 0-9 and _")
    if "\0" in value or not 0 < len(value.encode(errors="replace")) <= METADATA_BYTES:
        raise UserError(f"metadata {key} must be 1 to {METADATA_BYTES} bytes without NUL")
