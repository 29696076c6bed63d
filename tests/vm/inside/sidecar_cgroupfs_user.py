"""Checks on plain cgroups without root: below the own cgroup, where that is delegated.

`python -m inside.sidecar_cgroupfs_user` is the sidecar of these checks: it acts on lines of its
standard input and answers each with one of JSON.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from worker_sidecar.launch.cgroupfs import CgroupfsLauncher, unavailable
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.site import Site

from .workers import MOUNT

UNIT = "user-sidecar.service"
OWN = MOUNT / "system.slice" / UNIT
STATE = Path("/var/tmp/user-sidecar")
SITE = Site("plain.slice", str(MOUNT), f"{STATE}/run", f"{STATE}/log")
MIB = 1 << 20
LIMITS = Limits(cpu=0.5, memory=64 * MIB, tasks=9)
PATTERN = (
    r"system\.slice/user-sidecar\.service/plain\.slice/"
    r"(?P<service>[^/]+)/(?P<instance>[^/]+)"
)


def user_without_delegation_is_told() -> None:
    """In one line that names the cgroup."""
    with _sidecar() as ask:
        said = ask("unavailable")
    assert "is not delegated to uid 65534" in said, said
    assert f"/system.slice/{UNIT}" in said, said


def user_with_delegation_has_limits() -> None:
    """The sidecar makes way for its workers, whose limits hold; the exporter finds them."""
    from .sidecar_cgroupfs_checks import once

    with _sidecar("--property=Delegate=yes", "--property=KillMode=process") as ask:
        assert ask("unavailable") is None
        started = ask("start")
        assert started["unapplied"] == [], started
        assert started["cgroup"] == f"system.slice/{UNIT}/plain.slice/t/8080"
        folder = MOUNT / started["cgroup"]
        assert (folder / "memory.max").read_text().strip() == str(64 * MIB)
        assert (folder / "pids.max").read_text().strip() == "9"
        assert (folder / "cpu.max").read_text().strip() == "50000 100000"
        assert (folder / "cgroup.procs").read_text().split() == [str(started["pid"])]
        assert (OWN / "cgroup.procs").read_text() == ""
        assert ask("pid") in (OWN / "worker-sidecar/cgroup.procs").read_text().split()
        answer = once(f"--worker.pattern={PATTERN}")
        assert 'worker_up{service="t",instance="8080"} 1' in answer, answer
        # a launcher of its own, as after a restart, begins where the first one moved to
        assert ask("list") == ["t/8080"]
        assert ask("stop") == []
        assert not folder.exists()


@contextmanager
def _sidecar(*properties: str) -> "Iterator[Any]":
    """A process of nobody's in a unit, asked by a function."""
    STATE.mkdir(exist_ok=True)
    STATE.chmod(0o777)
    command = [
        *("systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={UNIT}"),
        *("--uid=nobody", f"--working-directory={Path(__file__).parents[1]}", *properties),
        *(sys.executable, "-m", "inside.sidecar_cgroupfs_user"),
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdin is not None and process.stdout is not None

        def ask(what: str) -> Any:
            process.stdin.write(f"{what}\n")
            process.stdin.flush()
            line = process.stdout.readline()
            assert line, f"no answer to {what}"
            return json.loads(line)

        yield ask
        process.stdin.close()


def _answer(what: str) -> Any:
    if what == "unavailable":
        return unavailable(str(MOUNT), SITE.slice_name)
    if what == "pid":
        return Path("/proc/self/stat").read_text().split()[0]
    launcher = CgroupfsLauncher(SITE)
    if what == "start":
        worker = WorkerSpec("t", "8080", ("sleep", "infinity"), limits=LIMITS)
        started = launcher.start(worker)
        return {
            "cgroup": started.cgroup,
            "pid": started.pid,
            "unapplied": list(started.unapplied),
        }
    if what == "stop":
        launcher.down()
    return [status.name for status in launcher.list()]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(_answer(line.strip())), flush=True)
