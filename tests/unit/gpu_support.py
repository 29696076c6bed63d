"""Hosts with GPUs for tests: the stand-in as their driver, and what a test sees of its process."""

import contextlib
import gc
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.nvml.standin import Standin
from tests.tools import missing

PATIENCE = 60.0
"""Seconds until a test that goes wrong ends."""


def host(directory: Path, monkeypatch: pytest.MonkeyPatch, variant: str = "") -> Standin:
    """The stand-in for the processes that this test starts, with procfs and sysfs beside it."""
    standin = Standin(directory, variant)
    for name, value in standin.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("worker_exporter.gpu.drivers._NVIDIA_NODES", ())
    load(directory)
    (directory / "sys").mkdir(exist_ok=True)
    return standin


def load(directory: Path) -> None:
    """Make NVIDIA's driver seem to be loaded."""
    version = directory / "proc" / "driver" / "nvidia" / "version"
    version.parent.mkdir(parents=True, exist_ok=True)
    version.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15\n")


@contextlib.contextmanager
def unkillable(pid: int) -> Iterator[None]:
    """Have the process `pid` survive SIGKILL, as one that waits for a device in the kernel does.

    The freezer of cgroup v1 holds signals back; the test is skipped where there is none.
    """
    try:
        group = tempfile.mkdtemp(prefix="worker-exporter-", dir="/sys/fs/cgroup/freezer")
    except OSError:
        missing("no freezer of cgroup v1")
    try:
        Path(group, "cgroup.procs").write_text(str(pid))
        Path(group, "freezer.state").write_text("FROZEN")
        until(lambda: Path(group, "freezer.state").read_text() == "FROZEN\n")
        yield
    finally:
        Path(group, "freezer.state").write_text("THAWED")
        until(lambda: not Path(group, "cgroup.procs").read_text())
        os.rmdir(group)


def until(condition: Callable[[], bool]) -> None:
    """Wait for `condition`. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    return os.path.exists(f"/proc/{pid}")


def is_over(pid: int) -> bool:
    """Whether the process `pid` has ended, buried or not."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def children() -> set[int]:
    """The processes that this one has started and not buried."""
    tasks = Path("/proc/self/task")
    return {int(pid) for task in tasks.iterdir() for pid in (task / "children").read_text().split()}


def descriptors() -> set[str]:
    """What this process has open, without what tests before left to the garbage collector."""
    gc.collect()
    return set(os.listdir("/proc/self/fd"))
