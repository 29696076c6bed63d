"""What every launcher does and what it is given."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from worker_sidecar.errors import InputError
from worker_sidecar.launch.limits import NO_LIMITS, Limits
from worker_sidecar.launch.names import check_names
from worker_sidecar.launch.storage import check_shm_size, check_volumes, needs_image

METADATA_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")
METADATA_BYTES = 256
"""Longest metadata value, as long as a label value of the exporter may be."""

GRACE = 5.0
"""Seconds between the polite signal and the kill when a worker is stopped."""

_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED = ("started", "health", "declaration")
"""Metadata that is not the caller's to give."""


class Restart(StrEnum):
    """When systemd or Docker starts a worker again that ended by itself."""

    NO = "no"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class State(StrEnum):
    """What a worker is doing. STARTING to STOPPING are alive: it is there, or comes by itself.

    RESTARTING is between two attempts; FAILED is a unit or container whose end was a failure;
    ENDED is what is left of any other end (an empty cgroup, an exited container).
    """

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    FAILED = "failed"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, by its driver's number and its UUID. `rocr_name` is how ROCm's variable names one of
    AMD; None: it is NVIDIA's.
    """

    index: int
    uuid: str
    rocr_name: str | None = None

    @property
    def is_amd(self) -> bool:
        """Whether it is AMD's."""
        return self.rocr_name is not None


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """A worker to start.

    `argv` is the command (its first word a path or a name on PATH; with an `image` it may be
    empty, which runs the image's own) and `env` what is added to a bare environment. `metadata`
    (model, port, ...) becomes the xattrs `user.worker.*` of its cgroup. `user` is a name or a uid,
    None for the launcher's own; `directory` the working directory. `grace` is in seconds.

    `secrets` maps a credential's name to the file that holds it, and `secret_env` is a file of
    NAME=value lines: their contents are never on a command line, nor where others can read.
    `gpu` is what was asked for ("auto", a number, a UUID), `gpus` what was found for it at the
    start. `service_limits` hold for all workers of the service together, `host_limits` for all
    workers below the slice: exactly these, so what was set there before and is not among them is
    lifted; None leaves what is there.

    With an `image` only: `volumes`, each "HOST:CONTAINER" or "HOST:CONTAINER:ro", are paths of the
    host that the container sees; `shm_size` is the size of its /dev/shm in bytes, None for Docker's
    64 MiB.

    Raises InputError for what cannot be.
    """

    service: str
    instance: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    limits: Limits = NO_LIMITS
    metadata: Mapping[str, str] = field(default_factory=dict)
    user: str | None = None
    directory: str | None = None
    restart: Restart = Restart.NO
    grace: float = GRACE
    delegate: bool = False
    oom_score_adjust: int = 0
    secrets: Mapping[str, str] = field(default_factory=dict)
    secret_env: str | None = None
    image: str | None = None
    volumes: tuple[str, ...] = ()
    shm_size: int | None = None
    gpu: str | None = None
    gpus: tuple[Gpu, ...] = ()
    service_limits: Limits | None = None
    host_limits: Limits | None = None

    def __post_init__(self) -> None:
        check_names(self.service, self.instance)
        if self.image is None and (not self.argv or not self.argv[0]):
            raise InputError(f"worker {self.name} has no command to run")
        if any("\0" in text for text in (*self.argv, *self.env, *self.env.values())):
            raise InputError(f"the command of {self.name} contains a NUL")
        for name in self.env:
            if not _ENV.fullmatch(name):
                raise InputError(f"{name!r} is no name of an environment variable")
        for key, value in self.metadata.items():
            _check_metadata(key, value)
        if not 0 <= self.grace < math.inf:
            raise InputError(f"grace is {self.grace}; give a number of seconds, 0 or more")
        if not -1000 <= self.oom_score_adjust <= 1000:
            raise InputError(f"oom_score_adjust is {self.oom_score_adjust}, not -1000 to 1000")
        if self.directory is not None and not self.directory.startswith("/"):
            raise InputError(f"the working directory {self.directory!r} is no absolute path")
        self._check_storage()

    def _check_storage(self) -> None:
        if self.image is None and self.volumes:
            raise InputError(f"{self.name} {needs_image('volumes')}")
        if self.image is None and self.shm_size is not None:
            raise InputError(f"{self.name} {needs_image('shm_size')}")
        check_volumes(self.volumes)
        if self.shm_size is not None:
            check_shm_size(self.shm_size)

    @property
    def name(self) -> str:
        """How people call the worker: service/instance."""
        return f"{self.service}/{self.instance}"

    @property
    def environment(self) -> Mapping[str, str]:
        """`env`, and the variable that shows a worker only the GPUs that were found for it.

        That is CUDA_VISIBLE_DEVICES, and for AMD's ROCR_VISIBLE_DEVICES alone: HIP_VISIBLE_DEVICES
        would count again, from 0, what it leaves.
        """
        found = {
            "CUDA_VISIBLE_DEVICES": [gpu.uuid for gpu in self.gpus if not gpu.is_amd],
            "ROCR_VISIBLE_DEVICES": [gpu.rocr_name for gpu in self.gpus if gpu.rocr_name],
        }
        return {**self.env, **{name: ",".join(names) for name, names in found.items() if names}}

    @property
    def attributes(self) -> Mapping[str, str]:
        """What becomes the xattrs `user.worker.*`, but for `started` and `declaration`."""
        if not self.gpus:
            return self.metadata
        return {**self.metadata, "gpu": ",".join(str(gpu.index) for gpu in self.gpus)}


@dataclass(frozen=True, slots=True)
class Status:
    """A worker that a launcher knows, as it is now. None is what cannot be known.

    `cgroup` is its path below the cgroup2 mount (for a container in a slice of its own, that
    slice), `unit` its systemd unit, `container` the full id of its container, `pid` its main
    process, `started` in seconds since the epoch, `restarts` how often it was started again,
    `result` and `exit_status` how its last run ended, in systemd's words (exit-code, signal,
    oom-kill, ...) and as a number, 128 + n for signal n. `unapplied` names the fields of Limits
    that were asked for and do not hold. `metadata` are the xattrs without `user.worker.`.
    `declaration` is what the worker was started with, see declaration.py; it never comes from what
    a worker itself can write where the launcher has a better place for it.
    """

    service: str
    instance: str
    launcher: str
    state: State
    cgroup: str | None = None
    unit: str | None = None
    container: str | None = None
    pid: int | None = None
    started: float | None = None
    restarts: int | None = None
    result: str | None = None
    exit_status: int | None = None
    unapplied: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    declaration: str | None = None

    @property
    def name(self) -> str:
        """How people call the worker: service/instance."""
        return f"{self.service}/{self.instance}"

    @property
    def alive(self) -> bool:
        """Whether it runs, or comes up by itself."""
        return self.state not in (State.FAILED, State.ENDED)


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a stop or a kill. `forced`: it took SIGKILL. `result` and `exit_status` as in
    Status, None where nobody waited for the process (plain cgroups).
    """

    service: str
    instance: str
    forced: bool
    result: str | None = None
    exit_status: int | None = None


class LogStream(Protocol):
    """A worker's output as it comes."""

    def read(self) -> bytes:
        """The next piece of it, at least one byte; b"" at its end. Blocks."""

    def close(self) -> None:
        """Let go of it; a read() that waits in another thread ends."""


class Launcher(Protocol):
    """Starts and stops workers in cgroups of their own, all below one slice.

    Every method blocks, and may be called from several threads and processes at once.
    """

    @property
    def name(self) -> str:
        """How this launcher is called: "systemd", "systemd --user", "cgroupfs", "docker", ..."""

    def commands(self, spec: WorkerSpec) -> Sequence[str]:
        """The shell lines that do what start() does, to be pasted; nothing is done."""

    def start(self, spec: WorkerSpec) -> Status:
        """Start a worker; on return its program runs in its cgroup and its metadata is there.

        What is left of an earlier run is logged with its result, and removed. Raises
        AlreadyRunningError, InputError, RefusedError or CreationFailedError.
        """

    def stop(self, service: str, instance: str, grace: float = GRACE) -> Ended:
        """End every process of a worker, politely for `grace` seconds, and what is left of it.

        Raises NotFoundError, or KillFailedError when a process cannot be ended.
        """

    def kill(self, service: str, instance: str) -> Ended:
        """As stop(), with SIGKILL at once."""

    def status(self, service: str, instance: str) -> Status:
        """One worker. Raises NotFoundError."""

    def list(self) -> Sequence[Status]:
        """The workers below the slice, by service and instance."""

    def logs(self, service: str, instance: str, lines: int, *, follow: bool) -> LogStream:
        """The last `lines` lines of a worker's last run, and with `follow` what comes after them.

        Raises NotFoundError when there is neither the worker nor any output of it.
        """

    def down(self, grace: float = GRACE) -> Sequence[Ended]:
        """Stop all workers below the slice and remove the slice; nothing there is no error."""


def _check_metadata(key: str, value: str) -> None:
    if not METADATA_KEY.fullmatch(key) or key in _RESERVED:
        raise InputError(f"metadata key {key!r} is no name: a letter, then a-z, 0-9 and _")
    if "\0" in value or not 0 < len(value.encode(errors="replace")) <= METADATA_BYTES:
        raise InputError(f"metadata {key} must be 1 to {METADATA_BYTES} bytes without NUL")
