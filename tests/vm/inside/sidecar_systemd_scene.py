"""What the checks on the systemd launcher share: the launcher, its workers, and what to ask."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from worker_sidecar.errors import NotFoundError, SidecarError
from worker_sidecar.launch.launcher import Status, WorkerSpec
from worker_sidecar.launch.site import Site
from worker_sidecar.launch.systemd import SystemdLauncher

from .workers import MOUNT, wait_for

PROGRAMS = Path(__file__).with_name("sidecar_programs.py")
SITE = Site("worker.slice", str(MOUNT), "/run/worker-sidecar", "/var/log/worker-sidecar")
TOP = MOUNT / "worker.slice"
CONTROL = Path("/run/systemd/system.control")
DUMPS = Path("/var/tmp/dumps")
LAUNCHER = SystemdLauncher(SITE, user=False)
MIB = 1 << 20

Error = TypeVar("Error", bound=SidecarError)


def spec(instance: str, program: str, *arguments: str, **fields: Any) -> WorkerSpec:
    """A worker of the service `t` that runs one of sidecar_programs.py."""
    fields.setdefault("service", "t")
    argv = ("/usr/bin/python3", str(PROGRAMS), program, *arguments)
    return WorkerSpec(instance=instance, argv=argv, **fields)


@contextmanager
def running(worker: WorkerSpec) -> Iterator[Status]:
    """The worker, and nothing of it afterwards."""
    status = LAUNCHER.start(worker)
    try:
        yield status
    finally:
        remove(worker)


def remove(worker: WorkerSpec) -> None:
    """Nothing of the worker."""
    with suppress(NotFoundError):
        LAUNCHER.kill(worker.service, worker.instance)


def dumper(instance: str, *arguments: str, **fields: Any) -> WorkerSpec:
    """A worker that dumps what it is given into a file of its own."""
    DUMPS.mkdir(mode=0o777, exist_ok=True)
    DUMPS.chmod(0o777)
    dump_file(instance).unlink(missing_ok=True)
    return spec(instance, "dump", str(dump_file(instance)), *arguments, **fields)


def dump_file(instance: str) -> Path:
    """What a dumper wrote."""
    return DUMPS / f"{instance}.json"


def dumped(instance: str) -> dict[str, Any]:
    """What a dumper was given at its first instruction."""
    file = dump_file(instance)
    wait_for(file.exists, f"the dump {file}")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def crash(worker: WorkerSpec) -> None:
    """Kill the main process, and wait for systemd to start it again."""
    before = LAUNCHER.status(worker.service, worker.instance)
    assert before.pid is not None and before.restarts is not None
    dump_file(worker.instance).unlink(missing_ok=True)
    os.kill(before.pid, 9)
    wait_for(
        lambda: (
            show(f"worker-{worker.service}@{worker.instance}.service", "NRestarts")
            == str((before.restarts or 0) + 1)
        ),
        f"the restart of {worker.name}",
    )


def show(unit: str, name: str) -> str:
    """A property of a unit, from systemctl."""
    command = ["systemctl", "show", f"--property={name}", "--value", unit]
    return subprocess.check_output(command, text=True).strip()


def unit_of(worker: WorkerSpec) -> str:
    """The unit that the worker must be."""
    return f"worker-{worker.service}@{worker.instance}.service"


def is_gone(worker: WorkerSpec) -> bool:
    """Whether systemd knows nothing of the worker, and no cgroup is left."""
    folder = TOP / f"worker-{worker.service}.slice" / unit_of(worker)
    loaded = subprocess.check_output(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", unit_of(worker)]
    )
    return not loaded and not folder.exists()


def raised(kind: type[Error], act: Callable[[], object]) -> Error:
    """The error that `act` raises, which must be of this kind and one line."""
    try:
        result = act()
    except kind as error:
        assert "\n" not in str(error), str(error)
        return error
    raise AssertionError(f"no {kind.__name__}, but {result}")


def read(path: Path) -> str:
    """The content of a kernel file."""
    return path.read_text().strip()


def marked(mark: str) -> list[str]:
    """The PIDs whose environment holds `mark`, wherever they are."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if mark.encode() in Path(f"/proc/{pid}/environ").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def await_signal(pid: int | None, field: str, number: int) -> None:
    """Wait until the process catches (SigCgt) or ignores (SigIgn) a signal, see proc(5)."""
    status = Path(f"/proc/{pid}/status")

    def does() -> bool:
        words = status.read_text().split()
        return bool(int(words[words.index(f"{field}:") + 1], 16) >> (number - 1) & 1)

    wait_for(does, f"signal {number} in {field} of process {pid}")
