"""The workers whose ends are told of, and how each is started and brought to its end."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .scraped import ADDRESS, BIN, UNIT, await_exporter
from .workers import MOUNT, USER_MANAGER, as_user, wait_for

GATES = Path("/run/gates")
BRIEF_PROGRAM = Path(__file__).with_name("units_burn.py")
BRIEF_TOLD = Path("/run/brief")
BRIEF_SLICE = "worker-brief.slice"
MIB = 1 << 20


@dataclass(frozen=True)
class Worker:
    """One worker of this run, in the slice of its service.

    `script` is for the shell; it can read a line from each `{gate}` in it once `open_gate` was
    called. `user` says that alice's manager runs it.
    """

    service: str
    instance: str
    script: str
    properties: tuple[str, ...] = ()
    scope: bool = False
    user: bool = False

    @property
    def unit(self) -> str:
        """Its unit; a service is named as the sidecar names it."""
        if self.scope:
            return f"{self.service}-{self.instance}.scope"
        return f"worker-{self.service}@{self.instance}.service"

    @property
    def slice(self) -> str:
        """The slice of its service."""
        return f"worker-{self.service}.slice"

    @property
    def labels(self) -> dict[str, str]:
        """What names it in every sample, whether it lives or not."""
        return {"service": self.service, "instance": self.instance}

    @property
    def folder(self) -> Path:
        """The directory of its cgroup, while it has one."""
        top = MOUNT / USER_MANAGER if self.user else MOUNT
        return top / "worker.slice" / self.slice / self.unit

    @property
    def gate(self) -> Path:
        """The pipe that its script waits at."""
        return GATES / self.unit


REST = "exec sleep infinity"
HOARD = "read _ < {gate}; exec tail /dev/zero"
DEAF = f"trap '' TERM; read _ < {{gate}}; {REST}"

OWN_LIMIT = Worker("own", "1", HOARD, (f"MemoryMax={48 * MIB}", "MemorySwapMax=0"))
SLICE_LIMIT = Worker("shared", "1", HOARD)
EXITED = Worker("exited", "3", "read _ < {gate}; exit 3")
KILLED = Worker("killed", "9", REST)
LOOPING = Worker(
    "looping",
    "1",
    "[ ! -p {gate} ] || read _ < {gate}; exit 1",
    ("Restart=always", "RestartSec=100ms", "StartLimitBurst=3", "StartLimitIntervalSec=1h"),
)
WAITING = Worker("waiting", "1", "read _ < {gate}; exit 4", ("Restart=always", "RestartSec=1h"))
DEAF_SERVICE = Worker("deaf", "1", DEAF, ("TimeoutStopSec=1s",))
DEAF_SCOPE = Worker("deaf", "2", DEAF, ("TimeoutStopSec=1s",), scope=True)
# Not started by systemd-run, which refuses a program that is not there.
MISSING = Worker("missing", "1", "")
STOPPED = Worker("stopped", "1", REST)
ENDED_SCOPE = Worker("ended", "1", "read _ < {gate}", scope=True)

PLAIN = Worker("plain", "1", REST)
SCOPE = Worker("plain", "2", REST, scope=True)
PHOENIX = Worker("phoenix", "1", REST, ("Restart=on-failure", "RestartSec=100ms"))
STARTING = Worker("starting", "1", REST, ("Type=notify", "TimeoutStartSec=infinity"))
RELOADING = Worker(
    "reloading", "1", REST, ("ExecReload=/bin/sleep infinity", "TimeoutStartSec=infinity")
)
WRITER = Worker(
    "writer",
    "1",
    "dd if=/dev/zero of=/var/tmp/writer bs=64k count=48 oflag=direct status=none; "
    "exec dd if=/var/tmp/writer of=/dev/null bs=64k count=16 iflag=direct status=none",
)
THROTTLED = Worker("throttled", "1", "while :; do :; done")
STOPPING = Worker("stopping", "1", DEAF, ("TimeoutStopSec=infinity",))

HERS = Worker("hers", "1", "read _ < {gate}; exit 5", user=True)

DEAD = (
    OWN_LIMIT,
    SLICE_LIMIT,
    EXITED,
    KILLED,
    LOOPING,
    WAITING,
    DEAF_SERVICE,
    DEAF_SCOPE,
    MISSING,
)
GONE = (STOPPED, ENDED_SCOPE)
ALIVE = (PLAIN, SCOPE, PHOENIX, STARTING, RELOADING, STOPPING)
STARTED = tuple(worker for worker in (*DEAD, *GONE, *ALIVE) if worker is not MISSING)

SLICE_LIMITS = {
    SLICE_LIMIT.slice: (f"MemoryMax={48 * MIB}", "MemorySwapMax=0"),
    THROTTLED.slice: ("CPUQuota=20%",),
    WRITER.slice: ("IOAccounting=yes",),
}


def systemctl(*words: str) -> str:
    """What systemctl prints. Raises subprocess.CalledProcessError."""
    return subprocess.check_output(["systemctl", *words], text=True).strip()


def start_exporter_of_user() -> None:
    """In place of the system's exporter one that alice runs."""
    systemctl("stop", UNIT)
    program = [str(BIN / "worker-exporter"), f"--web.listen-address={ADDRESS}"]
    command = ["systemd-run", "--user", "--quiet", f"--unit={UNIT}", *program]
    subprocess.run(as_user(command), check=True)
    await_exporter()


@contextmanager
def living(workers: tuple[Worker, ...]) -> Iterator[None]:
    """All of `workers`, each with a process of its own, until the context ends."""
    for name, limits in SLICE_LIMITS.items():
        systemctl("set-property", "--runtime", name, *limits)
    commands = [start(worker) for worker in workers]
    try:
        await_processes(workers)
        yield
    finally:
        # The machine's end would wait for what hears no SIGTERM.
        systemctl("kill", "--signal=KILL", STOPPING.unit)
        for command in commands:
            command.kill()
            command.wait()


def start(worker: Worker) -> "subprocess.Popen[bytes]":
    """Start it; a scope is the command itself, the command of a service ends soon."""
    if "{gate}" in worker.script:
        GATES.mkdir(exist_ok=True)
        os.mkfifo(worker.gate)
    command = ["systemd-run", "--quiet", f"--unit={worker.unit}", f"--slice={worker.slice}"]
    command += [f"--property={each}" for each in worker.properties]
    command += ["--scope"] if worker.scope else ["--no-block"]
    command += ["--user"] if worker.user else []
    command += ["sh", "-c", worker.script.replace("{gate}", str(worker.gate))]
    return subprocess.Popen(as_user(command) if worker.user else command)


def await_processes(workers: tuple[Worker, ...]) -> None:
    """Wait until the cgroup of each is populated."""
    wait_for(lambda: all(map(_is_populated, workers)), "a process in each worker")


def _is_populated(worker: Worker) -> bool:
    try:
        return "populated 1" in (worker.folder / "cgroup.events").read_text()
    except FileNotFoundError:
        return False


def open_gate(worker: Worker) -> None:
    """Let its script go on, once it waits. There is no gate from then on."""
    wait_for(lambda: _passes(worker), f"{worker.unit} at its gate")


def _passes(worker: Worker) -> bool:
    try:
        gate = os.open(worker.gate, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return False
    worker.gate.unlink()
    os.write(gate, b"\n")
    os.close(gate)
    return True


def define_units() -> None:
    """Unit files of MISSING, and of the brief workers, which burn CPU for 200 ms."""
    units = Path("/run/systemd/system")
    missing = f"[Service]\nType=exec\nSlice={MISSING.slice}\nExecStart=/opt/no/program\n"
    (units / MISSING.unit).write_text(missing)
    BRIEF_TOLD.mkdir()
    brief = f"/usr/bin/python3 -I -S {BRIEF_PROGRAM} {BRIEF_TOLD}/%i"
    template = f"[Service]\nSlice={BRIEF_SLICE}\nExecStart={brief}\n"
    (units / "worker-brief@.service").write_text(template)
    systemctl("daemon-reload")


def end_all() -> None:
    """Bring all of DEAD and GONE to their ends, and wait until systemd is done with them."""
    for worker in (*DEAD, *GONE):
        if "{gate}" in worker.script:
            open_gate(worker)
    systemctl("kill", "--signal=KILL", KILLED.unit)
    systemctl("stop", "--no-block", DEAF_SERVICE.unit, DEAF_SCOPE.unit, STOPPED.unit)
    subprocess.run(["systemctl", "start", "--no-block", MISSING.unit], check=True)
    wait_for(lambda: all(map(_is_over, (*DEAD, *GONE))), "the ends of the workers")


def _is_over(worker: Worker) -> bool:
    state = systemctl("show", "--property=ActiveState,SubState", "--value", worker.unit).split()
    if worker in GONE:
        return state == ["inactive", "dead"]
    return state == (["activating", "auto-restart"] if worker is WAITING else ["failed", "failed"])
