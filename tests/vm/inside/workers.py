"""The workers on the booted machine: how each is started, and what the exporter must call it."""

import os
import pwd
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

HYBRID_MOUNT = Path("/sys/fs/cgroup/unified")
MOUNT = HYBRID_MOUNT if HYBRID_MOUNT.is_mount() else Path("/sys/fs/cgroup")
PROGRAMS = Path(__file__).with_name("programs.py")
USER = "alice"
UID = 1000
USER_MANAGER = f"user.slice/user-{UID}.slice/user@{UID}.service"
CONTAINER = "5e1f" * 16
DEADLINE_SECONDS = 300.0


@dataclass(frozen=True)
class Worker:
    """One worker: its labels, the unit it is started as, and the cgroup it must get.

    `program` is one of programs.py. `counted` is the unit whose figures are the worker's, where
    that is not `unit`: the slice around a container. `user` says that alice's manager runs it.
    """

    service: str
    instance: str
    unit: str
    slice: str
    cgroup: str
    program: str = "rest"
    properties: tuple[str, ...] = ()
    counted: str = ""
    user: bool = False

    @property
    def labels(self) -> dict[str, str]:
        """What names the worker in every sample."""
        return {"service": self.service, "instance": self.instance}

    @property
    def folder(self) -> Path:
        """The directory of its cgroup."""
        return MOUNT / self.cgroup

    @property
    def shown(self) -> str:
        """The unit that `systemctl show` is asked about."""
        return self.counted or self.unit


def _own(service: str, instance: str, program: str, *properties: str) -> Worker:
    """A worker as the sidecar makes it: a templated service in the service's own slice."""
    escaped = service.replace("-", "\\x2d")
    unit, within = f"worker-{escaped}@{instance}.service", f"worker-{escaped}.slice"
    path = f"worker.slice/{within}/{unit}"
    return Worker(service, instance, unit, within, path, program, properties)


LLM = _own(
    "llm", "8080", "rest", f"ExecStartPre=+/usr/bin/python3 {PROGRAMS} stamp model=llama port=8080"
)
PLAIN = Worker(
    service="vllm",
    instance="main",
    unit="vllm.service",
    slice="worker.slice",
    cgroup="worker.slice/vllm.service",
    properties=("AllowedCPUs=0",),
)
SCOPE = Worker(
    service="llm",
    instance="8081",
    unit="llm-8081.scope",
    slice="rbee.slice",
    cgroup="rbee.slice/llm-8081.scope",
)
NESTED = Worker(
    service="trainer",
    instance="main",
    unit="trainer.service",
    slice="my-team.slice",
    cgroup="my.slice/my-team.slice/trainer.service",
)
PREFIXED = Worker(
    service="embed",
    instance="9000",
    unit="my-team-embed@9000.service",
    slice="my-team.slice",
    cgroup="my.slice/my-team.slice/my-team-embed@9000.service",
)
IN_SLICE = Worker(
    service="llm",
    instance="8090",
    unit=f"docker-{CONTAINER}.scope",
    slice="worker-llm-8090.slice",
    cgroup="worker.slice/worker-llm.slice/worker-llm-8090.slice",
    counted="worker-llm-8090.slice",
)
CONTAINERED = Worker(
    service="embed",
    instance=CONTAINER[::-1][:12],
    unit=f"docker-{CONTAINER[::-1]}.scope",
    slice="worker-embed.slice",
    cgroup=f"worker.slice/worker-embed.slice/docker-{CONTAINER[::-1]}.scope",
)
OF_USER = Worker(
    service=f"llm@{UID}",
    instance="8080",
    unit="worker-llm@8080.service",
    slice="worker-llm.slice",
    cgroup=f"{USER_MANAGER}/worker.slice/worker-llm.slice/worker-llm@8080.service",
    user=True,
)
MEMORY = _own("mem", "1", "hold", "MemoryMax=300M", "MemoryHigh=150M", "MemorySwapMax=10M")
QUOTA = _own("burn", "1", "burn", "CPUQuota=20%")
DISK = _own("disk", "1", "disk", "IOAccounting=yes")
TASKS = _own("fork", "1", "fork", "TasksMax=8")
ESCAPED = _own("web-front", "7000", "rest")
FROZEN = _own("ice", "1", "rest")
STARVED = _own("starve", "1", "starve", "MemoryMax=64M", "MemorySwapMax=0", "OOMPolicy=continue")
RESTARTED = _own("phoenix", "1", "rest", "Restart=always", "RestartSec=100ms")
STOPPED = _own("gone", "1", "rest")

WORKERS = (
    LLM,
    PLAIN,
    SCOPE,
    NESTED,
    PREFIXED,
    IN_SLICE,
    CONTAINERED,
    OF_USER,
    MEMORY,
    QUOTA,
    DISK,
    TASKS,
    ESCAPED,
    FROZEN,
    STARVED,
    RESTARTED,
    STOPPED,
)

# Two more by the name of another: the first slice wins, then the first path.
DUPLICATES = (
    replace(LLM, unit="llm-8080.scope", slice="rbee.slice", cgroup="rbee.slice/llm-8080.scope"),
)

SLICES = ("worker.slice", "rbee.slice", "my-team.slice")
SLICE_LIMITS = {"worker-mem.slice": "MemoryMax=200M"}


@contextmanager
def started(workers: tuple[Worker, ...]) -> Iterator[None]:
    """All of `workers`, ready, until the context ends."""
    if any(worker.user for worker in workers):
        start_user_manager()
    commands = [subprocess.Popen(_command(worker)) for worker in workers]
    try:
        for worker, command in zip(workers, commands, strict=True):
            _await_start(worker, command)
        yield
    finally:
        for command in commands:
            command.kill()
            command.wait()


def start_user_manager() -> None:
    """alice, and her service manager, which lingers without a session."""
    subprocess.run(["useradd", "--create-home", f"--uid={UID}", USER], check=True)
    subprocess.run(["loginctl", "enable-linger", USER], check=True)
    bus = Path(f"/run/user/{UID}/bus")
    wait_for(bus.exists, f"{bus}, the bus of {USER}'s manager")


def as_user(command: list[str]) -> list[str]:
    """`command`, run by alice with her service manager in reach."""
    home = pwd.getpwnam(USER).pw_dir
    environment = [f"XDG_RUNTIME_DIR=/run/user/{UID}", f"HOME={home}"]
    return ["runuser", "-u", USER, "--", "env", f"--chdir={home}", *environment, *command]


def wait_for(true: Callable[[], bool], what: str) -> None:
    """Return once `true()`; raises AssertionError with `what` when it takes too long."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, f"waited {DEADLINE_SECONDS:.0f} s for {what}"
        time.sleep(0.05)


def _command(worker: Worker) -> list[str]:
    program = ["/usr/bin/python3", str(PROGRAMS), worker.program]
    command = ["systemd-run", "--quiet", f"--unit={worker.unit}", f"--slice={worker.slice}"]
    if worker.unit.endswith(".scope"):
        return [*command, "--scope", *program]
    command += ["--property=Type=notify", *(f"--property={p}" for p in worker.properties)]
    if worker.user:
        return as_user([*command, "--user", *program])
    return [*command, *program]


def _await_start(worker: Worker, command: "subprocess.Popen[bytes]") -> None:
    if not worker.unit.endswith(".scope"):
        code = command.wait(DEADLINE_SECONDS)
        assert code == 0, f"systemd-run {worker.unit} ended with {code}"
        return
    # systemd-run becomes the program itself, once the scope holds it.
    cmdline = Path(f"/proc/{command.pid}/cmdline")
    wait_for(lambda: cmdline.read_bytes().startswith(b"/usr/bin/python3"), worker.unit)


def processes(worker: Worker) -> list[int]:
    """The PIDs in the worker's cgroup and below it, by what each says of itself in /proc."""
    top = f"/{worker.cgroup}"
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        path = next(line.partition("::")[2] for line in lines if line.startswith("0::"))
        if path == top or path.startswith(f"{top}/"):
            found.append(int(pid))
    return found
