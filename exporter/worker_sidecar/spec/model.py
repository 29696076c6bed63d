"""The keys of workers.yaml. What a key means is written below it, here and in docs/workers-yaml.md.

These models judge one value at a time; what has to fit together is check.py's.
"""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from worker_sidecar.launch.launcher import GRACE, Restart
from worker_sidecar.launch.limits import IoLimit, Limits
from worker_sidecar.launch.storage import needs_image
from worker_sidecar.spec.parameter import Parameter
from worker_sidecar.spec.scalars import (
    Badness,
    Bandwidth,
    Boolean,
    Cpu,
    Cpus,
    CpuWeight,
    Directory,
    Duration,
    EnvName,
    GpuWanted,
    Image,
    InstanceName,
    Interval,
    IoWeight,
    Memory,
    MemoryHigh,
    Model,
    Operations,
    OwnerName,
    ParameterName,
    Path,
    Port,
    SecretName,
    ServiceName,
    ShmSize,
    SliceName,
    Swap,
    Tasks,
    Text,
    User,
    Volume,
    problem,
    scalar,
)
from worker_sidecar.spec.section import Section

Priority = Literal["low", "normal", "high"]

WEIGHTS = {"low": 25, "normal": None, "high": 400}
"""The CPU and IO weights of a priority; None leaves the kernel's 100."""

DEFAULT_SLICE = "worker.slice"


def _command(value: object) -> object:
    if not isinstance(value, list) or not value:
        raise problem('must be a list of words, as in ["vllm", "serve"]; no shell reads it')
    return value


def _restart(value: object) -> Restart:
    text = scalar(value)
    # A careful hand writes "no" in quotes, another one means the same by false.
    known = {**{restart.value: restart for restart in Restart}, "false": Restart.NO}
    if text not in known:
        raise problem(f"{text!r} is no restart policy; give no, on-failure or always")
    return known[text]


def _priority(value: object) -> str:
    if scalar(value) not in get_args(Priority):
        raise problem(f"{value!r} is no priority; give low, normal or high")
    return str(value)


Command = Annotated[tuple[Text, ...], BeforeValidator(_command)]
PriorityName = Annotated[Priority, BeforeValidator(_priority)]


class IoEntry(Section):
    """Limits of the IO with one device."""

    path: Path
    """A block device, or any file or directory, which stands for the device it lies on."""
    read_bandwidth: Bandwidth | None = None
    """Bytes a second, as in `100M` (1000 squared)."""
    write_bandwidth: Bandwidth | None = None
    """Bytes a second, as in `100M` (1000 squared)."""
    read_iops: Operations | None = None
    """Reads a second."""
    write_iops: Operations | None = None
    """Writes a second."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.model_fields_set <= {"path"}:
            raise problem(
                "limits nothing; give read_bandwidth, write_bandwidth, read_iops or write_iops"
            )
        return self


class LimitsEntry(Section):
    """Limits of one worker, or of several together."""

    cpu: Cpu | None = None
    """Cores, as in `2` or `0.5`, or percent of one, as in `200%`."""
    cpu_weight: CpuWeight | None = None
    """Share of the CPU when it is short, 1 to 10000; the kernel's default is 100."""
    cpus: Cpus | None = None
    """The CPUs to run on, as in `0-3,8`."""
    memory: Memory | None = None
    """Bytes, as in `8G` (1024 cubed); above it the kernel ends a process."""
    memory_high: MemoryHigh | None = None
    """Bytes; above it the kernel slows down and reclaims."""
    swap: Swap | None = None
    """Bytes of swap; `0` where `memory` is given and this is not."""
    io: tuple[IoEntry, ...] = ()
    """A list of devices and their limits."""
    io_weight: IoWeight | None = None
    """Share of the IO when it is short, 1 to 10000; the kernel's default is 100."""
    tasks: Tasks | None = None
    """Processes and threads."""

    @model_validator(mode="after")
    def _one_entry_a_device(self) -> Self:
        paths = [entry.path for entry in self.io]
        if len(set(paths)) < len(paths):
            raise problem("io has one path twice; give all its limits once")
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The fields of Limits that are given."""
        found: dict[str, Any] = {
            name: getattr(self, name) for name in self.model_fields_set if name != "io"
        }
        if self.io:
            found["io"] = tuple(IoLimit(**entry.model_dump()) for entry in self.io)
        return found

    @property
    def limits(self) -> Limits:
        """What the section says."""
        return Limits(**self.given)


class HealthEntry(Section):
    """How to ask a worker whether it is ready: one of `http`, `tcp` and `command`."""

    http: Text | None = None
    """A URL; a 2xx or 3xx answer is ready. Tokens are replaced."""
    tcp: Text | None = None
    """`host:port`; a connection is ready. Tokens are replaced."""
    command: Command | None = None
    """A list of words; exit code 0 is ready. Tokens are replaced."""
    interval: Interval = 10.0
    """Time from one look to the next."""
    timeout: Interval = 2.0
    """Time one look may take."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if len(self.model_fields_set & {"http", "tcp", "command"}) != 1:
            raise problem("give one of http, tcp and command")
        if self.timeout > self.interval:
            raise problem(f"timeout {self.timeout:g} s is longer than interval {self.interval:g} s")
        return self


class InstanceEntry(Section):
    """What one worker has of its own; the rest is its service's."""

    model: Model | None = None
    """The model it serves: the token `{model}` and the label of `worker_info`."""
    port: Port | None = None
    """The port it listens on, the token `{port}`; the instance's name where that is a port."""
    gpu: GpuWanted | None = None
    """As for the service."""
    priority: PriorityName | None = None
    """As for the service."""
    parameters: dict[ParameterName, Text] = Field(default={})
    """Values of the service's parameters."""
    env: dict[EnvName, Text] = Field(default={})
    """Environment variables, added to the service's."""
    limits: LimitsEntry = LimitsEntry()
    """Limits, in place of the service's of the same name."""


class ServiceEntry(Section):
    """One service: how its workers are started, and which ones there are."""

    command: Command | None = None
    """The command, a list of words. Tokens are replaced; no shell reads it."""
    image: Image | None = None
    """A container image to run by Docker; `command` may then be left out. Tokens are replaced."""
    volumes: tuple[Volume, ...] = ()
    """`HOST:CONTAINER` or `HOST:CONTAINER:ro`: what a container sees of the host. Tokens are
    replaced."""
    shm_size: ShmSize | None = None
    """Bytes of a container's /dev/shm, as in `8G`; Docker's default is `64M`."""
    user: User | None = None
    """Who the workers run as, a name or a uid; for root's sidecar it has to be written."""
    directory: Directory | None = None
    """The working directory, absolute. Tokens are replaced."""
    env: dict[EnvName, Text] = Field(default={})
    """Environment variables. Tokens are replaced in the values."""
    model: Model | None = None
    """The model, for instances that do not name their own."""
    secrets: dict[SecretName, Path] = Field(default={})
    """Names of credentials, and the files that hold them."""
    secret_env: Path | None = None
    """A file of NAME=value lines, added to the environment."""
    limits: LimitsEntry = LimitsEntry()
    """Limits of each instance."""
    total: LimitsEntry = LimitsEntry()
    """Limits of all instances together, set on the service's slice."""
    restart: Annotated[Restart, BeforeValidator(_restart)] = Restart.NO
    """`no`, `on-failure` or `always`."""
    grace: Duration = GRACE
    """Time between the polite signal and the kill when a worker is stopped."""
    delegate: Boolean = False
    """Whether a worker may make cgroups of its own below its cgroup."""
    oom_score_adjust: Badness = 0
    """From -1000, ended last when memory is short, to 1000, ended first."""
    gpu: GpuWanted | None = None
    """A number, a UUID, several of them, or `auto`: the one with most free memory at the start."""
    priority: PriorityName = "normal"
    """`low`, `normal` or `high`: the weights of CPU and IO, where the limits give none."""
    health: HealthEntry | None = None
    """How to ask whether a worker is ready."""
    parameters: dict[ParameterName, Parameter] = Field(default={})
    """What a request may choose; each is a token too."""
    instances: dict[InstanceName, InstanceEntry] = Field(default={})
    """The workers that should run, by name."""

    @model_validator(mode="after")
    def _runs_something(self) -> Self:
        if self.command is None and self.image is None:
            raise problem("has no command; give one, or an image")
        return self

    @model_validator(mode="after")
    def _has_what_a_container_has(self) -> Self:
        for key in ("volumes", "shm_size"):
            if self.image is None and getattr(self, key):
                raise problem(needs_image(key))
        return self


class ApiEntry(Section):
    """What the HTTP API may do."""

    free_commands: Boolean = False
    """Whether a request may bring a command of its own."""


class File(Section):
    """The whole file."""

    slice: SliceName = DEFAULT_SLICE
    """The slice of all workers."""
    owners: dict[SliceName, OwnerName] = Field(default={})
    """Whose the other slices are; `worker-sidecar` for one this sidecar may write below too."""
    total: LimitsEntry = LimitsEntry()
    """Limits of all workers together, set on the slice."""
    services: dict[ServiceName, ServiceEntry] = Field(default={})
    """The services by name."""
    api: ApiEntry = ApiEntry()
    """What the HTTP API may do."""
