"""What goes over the wire: requests and answers, the source of /openapi.json too."""

import os
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    TypeAdapter,
)

from worker_sidecar.errors import InputError
from worker_sidecar.launch.launcher import GRACE, Ended, Restart, Status, WorkerSpec
from worker_sidecar.launch.limits import (
    IoLimit,
    Limits,
    parse_bandwidth,
    parse_cpu,
    parse_memory,
)
from worker_sidecar.launch.names import INSTANCE, SERVICE
from worker_sidecar.launch.storage import parse_shm_size
from worker_sidecar.reconcile import Absent
from worker_sidecar.spec import Service

MOST_LINES = 100_000
LONGEST_GRACE = 3600.0

_INTEGER = re.compile(r"[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,20})?(?:[eE][-+]?[0-9]{1,3})?")

Parameter: TypeAlias = str | int | float | bool


def _written(form: re.Pattern[str]) -> BeforeValidator:
    """A value in a URL must be written plainly: no 1_0, no nan, no blanks."""

    def check(text: object) -> object:
        if isinstance(text, str) and not form.fullmatch(text):
            raise ValueError("give a plain decimal number")
        return text

    return BeforeValidator(check)


def _true_or_false(text: object) -> object:
    if text not in ("true", "false", True, False):
        raise ValueError("give true or false")
    return text


def _whole(number: object) -> object:
    """To JSON Schema 7.0 is an integer."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Whole: TypeAlias = Annotated[int, BeforeValidator(_whole)]
ServiceName: TypeAlias = Annotated[
    str,
    Field(
        description="Name of a service.",
        examples=["llm"],
        json_schema_extra={"pattern": f"^{SERVICE.pattern}$"},
    ),
]
InstanceName: TypeAlias = Annotated[
    str,
    Field(
        description="Name of an instance; a number from 1 to 65535 is its port too.",
        examples=["8080"],
        json_schema_extra={"pattern": f"^{INSTANCE.pattern}$"},
    ),
]
StateName: TypeAlias = Literal[
    "starting", "running", "restarting", "stopping", "failed", "ended", "stopped", "missing"
]
Grace: TypeAlias = Annotated[
    float,
    Field(ge=0, le=LONGEST_GRACE, description="Seconds between the polite signal and the kill."),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, ser_json_inf_nan="null")


class DeclaredStart(_Request):
    """A worker of a service in workers.yaml."""

    service: ServiceName
    instance: InstanceName
    parameters: Annotated[
        Mapping[str, Parameter],
        Field(description="Values of the service's parameters; those left out keep their default."),
    ] = {}
    strict: Annotated[
        bool, Field(description="Refuse a worker whose limits do not all hold on this host.")
    ] = False


class IoBody(_Request):
    """Upper bounds of the IO with one device; bandwidth in bytes a second, or as in "10M"."""

    path: Annotated[str, Field(description="A device's node, or any file or directory on it.")]
    read_bandwidth: Whole | str | None = None
    write_bandwidth: Whole | str | None = None
    read_iops: Whole | None = None
    write_iops: Whole | None = None

    def limit(self) -> IoLimit:
        """The same, understood. Raises InputError."""
        return IoLimit(
            path=self.path,
            read_bandwidth=_size(self.read_bandwidth, parse_bandwidth),
            write_bandwidth=_size(self.write_bandwidth, parse_bandwidth),
            read_iops=self.read_iops,
            write_iops=self.write_iops,
        )


class LimitsBody(_Request):
    """Upper bounds and weights; what is left out keeps the kernel's default."""

    cpu: Annotated[
        int | float | str | None, Field(description="Cores as in 0.5, or percent as in 200%.")
    ] = None
    cpu_weight: Annotated[Whole | None, Field(description="1 to 10000; 100 is usual.")] = None
    cpus: Annotated[str | None, Field(description="CPUs, as in 0-3,8.")] = None
    memory: Annotated[Whole | str | None, Field(description="Bytes, or as in 300M.")] = None
    memory_high: Annotated[Whole | str | None, Field(description="Bytes, or as in 300M.")] = None
    swap: Annotated[
        Whole | str | None, Field(description="Bytes, or as in 1G; 0 where only memory is limited.")
    ] = None
    io: tuple[IoBody, ...] = ()
    io_weight: Annotated[Whole | None, Field(description="1 to 10000; 100 is usual.")] = None
    tasks: Annotated[Whole | None, Field(description="Processes and threads.")] = None

    def limits(self) -> Limits:
        """The same, understood. Raises InputError."""
        return Limits(
            cpu=parse_cpu(self.cpu) if isinstance(self.cpu, str) else self.cpu,
            cpu_weight=self.cpu_weight,
            cpus=self.cpus,
            memory=_size(self.memory, parse_memory),
            memory_high=_size(self.memory_high, parse_memory),
            swap=_size(self.swap, parse_memory),
            io=tuple(body.limit() for body in self.io),
            io_weight=self.io_weight,
            tasks=self.tasks,
        )


class FreeStart(_Request):
    """A worker with a command of its own; only where workers.yaml has `api: free_commands: true`.

    Secrets and volumes are for services in workers.yaml alone: a volume could give the host's / to
    a container's root, also where the sidecar itself is not root.
    """

    service: ServiceName
    instance: InstanceName
    command: Annotated[
        tuple[str, ...],
        Field(description="The program and its arguments; no shell looks at them."),
    ]
    user: Annotated[
        str | None,
        Field(description="Name or uid; required where the sidecar is root, except with an image."),
    ] = None
    directory: Annotated[str | None, Field(description="Absolute path to run in.")] = None
    env: Annotated[
        Mapping[str, str], Field(description="Added to a bare environment; others can read it.")
    ] = {}
    limits: LimitsBody = LimitsBody()
    metadata: Annotated[
        Mapping[str, str], Field(description="Labels of worker_info: model, port, ...")
    ] = {}
    restart: Restart = Restart.NO
    grace: Grace = GRACE
    delegate: Annotated[bool, Field(description="Let it make cgroups below its own.")] = False
    image: Annotated[str | None, Field(description="Run it in a container of this image.")] = None
    shm_size: Annotated[
        Whole | str | None, Field(description="Bytes of the container's /dev/shm, or as in 8G.")
    ] = None
    gpu: Annotated[str | None, Field(description="auto, a number, or a UUID.")] = None
    strict: Annotated[
        bool, Field(description="Refuse a worker whose limits do not all hold on this host.")
    ] = False

    def spec(
        self, service_limits: Limits | None = None, host_limits: Limits | None = None
    ) -> WorkerSpec:
        """The worker that is meant. Raises InputError."""
        if self.user is None and self.image is None and os.geteuid() == 0:
            raise InputError("user is required; write root if root is meant")
        return WorkerSpec(
            service=self.service,
            instance=self.instance,
            argv=self.command,
            env=self.env,
            limits=self.limits.limits(),
            metadata=self.metadata,
            user=self.user,
            directory=self.directory,
            restart=self.restart,
            grace=self.grace,
            delegate=self.delegate,
            image=self.image,
            shm_size=_size(self.shm_size, parse_shm_size),
            gpu=self.gpu,
            service_limits=service_limits,
            host_limits=host_limits,
        )


def _kind_of_start(body: object) -> str:
    return "free" if isinstance(body, dict) and "command" in body else "declared"


Start: TypeAlias = DeclaredStart | FreeStart
START: TypeAdapter[Start] = TypeAdapter(
    Annotated[
        Annotated[DeclaredStart, Tag("declared")] | Annotated[FreeStart, Tag("free")],
        Discriminator(_kind_of_start),
    ]
)
"""The body of POST /api/v1/workers."""


class ListQuery(_Query):
    """Which workers a list shows."""

    state: Annotated[StateName | None, Field(description="Only workers in this state.")] = None
    service: Annotated[str | None, Field(description="Only workers of this service.")] = None


class StopQuery(_Query):
    """How a worker is stopped."""

    grace: Annotated[Grace | None, _written(_NUMBER)] = None


class LogsQuery(_Query):
    """What of a worker's output is sent."""

    lines: Annotated[
        int,
        Field(ge=0, le=MOST_LINES, description="Last lines of the worker's last run."),
        _written(_INTEGER),
    ] = 100
    follow: Annotated[
        bool,
        Field(description="Go on with what comes after them, until the client leaves."),
        BeforeValidator(_true_or_false),
    ] = False


class NoQuery(_Query):
    """No parameters at all."""


class ServiceInfo(_Answer):
    """A service of workers.yaml: what a request may choose."""

    service: str
    parameters: Annotated[
        Mapping[str, Mapping[str, JsonValue]],
        Field(description="The JSON schema of each parameter's values."),
    ]
    required: Annotated[tuple[str, ...], Field(description="Parameters without a default.")]
    instances: Annotated[tuple[str, ...], Field(description="Those that are declared.")]

    @classmethod
    def of(cls, service: Service) -> Self:
        """What the file says of a service."""
        parameters = service.parameters
        return cls(
            service=service.name,
            parameters={name: one.schema_of_values() for name, one in parameters.items()},
            required=tuple(name for name, one in parameters.items() if one.default is None),
            instances=tuple(service.entry.instances),
        )


class ServiceList(_Answer):
    """Services by name."""

    services: tuple[ServiceInfo, ...]


class Worker(_Answer):
    """A worker as it is now; null is what cannot be known."""

    service: str
    instance: str
    state: Annotated[
        StateName,
        Field(
            description="starting to stopping are alive; failed and ended are what is left of a"
            " worker; a declared one that no launcher knows was stopped on purpose, or is missing."
        ),
    ]
    declared: Annotated[bool, Field(description="Whether workers.yaml names it.")]
    launcher: str | None = None
    cgroup: Annotated[str | None, Field(description="Path below the cgroup2 mount.")] = None
    unit: Annotated[str | None, Field(description="Its systemd unit.")] = None
    container: Annotated[str | None, Field(description="Full id of its container.")] = None
    pid: Annotated[int | None, Field(description="Its main process.")] = None
    started: Annotated[float | None, Field(description="Seconds since the epoch.")] = None
    restarts: Annotated[int | None, Field(description="How often it was started again.")] = None
    result: Annotated[
        str | None, Field(description="How its last run ended, in systemd's words.")
    ] = None
    exit_status: int | None = None
    unapplied: Annotated[
        tuple[str, ...], Field(description="Limits that were asked for and do not hold.")
    ] = ()
    metadata: Mapping[str, str] = {}

    @classmethod
    def absent(cls, service: str, instance: str, why: Absent) -> Self:
        """A declared worker of which nothing is there."""
        return cls(service=service, instance=instance, state=why.value, declared=True)

    @classmethod
    def of(cls, status: Status, *, declared: bool) -> Self:
        """What a launcher knows of a worker."""
        return cls(
            service=status.service,
            instance=status.instance,
            state=status.state.value,
            declared=declared,
            launcher=status.launcher,
            cgroup=_clean(status.cgroup),
            unit=_clean(status.unit),
            container=status.container,
            pid=status.pid,
            started=status.started,
            restarts=status.restarts,
            result=status.result,
            exit_status=status.exit_status,
            unapplied=status.unapplied,
            metadata={key: _clean(value) or "" for key, value in status.metadata.items()},
        )


class WorkerList(_Answer):
    """Workers by service and instance."""

    workers: tuple[Worker, ...]


class EndedWorker(_Answer):
    """What came of a stop or a kill."""

    service: str
    instance: str
    forced: Annotated[bool, Field(description="Whether it took SIGKILL.")]
    result: Annotated[str | None, Field(description="In systemd's words.")] = None
    exit_status: int | None = None

    @classmethod
    def of(cls, ended: Ended) -> Self:
        """What a launcher says of an end."""
        return cls(
            service=ended.service,
            instance=ended.instance,
            forced=ended.forced,
            result=ended.result,
            exit_status=ended.exit_status,
        )


class Health(_Answer):
    """The API answers."""

    status: Literal["ok"] = "ok"


class Problem(_Answer):
    """Why a request was not fulfilled."""

    error: Annotated[str, Field(description="The kind of error, for programs.")]
    message: Annotated[str, Field(description="One line for people.")]
    owner: Annotated[str | None, Field(description="Who owns the slice, where that is why.")] = None


def _size(value: int | str | None, parse: Callable[[str], int]) -> int | None:
    return parse(value) if isinstance(value, str) else value


def _clean(text: str | None) -> str | None:
    """`text` as UTF-8 can carry it: an xattr or a path may hold any bytes."""
    return None if text is None else text.encode(errors="replace").decode()
