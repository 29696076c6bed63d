"""Workers on a machine with a GPU, and processes that hold its memory."""

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.gpu import smi
from tests.support import CannotMakeCgroupsError, end, follow_parent, join, made_slice
from tests.tools import missing

SLICE = f"gpu{os.getpid()}.slice"
WORKER = "llm/8080"
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Site:
    """Where a worker is. `flags` are those of its exporter, `join` puts a process into it."""

    flags: tuple[str, ...]
    join: Callable[[int], None]


@pytest.fixture(autouse=True)
def gpus() -> list[smi.Gpu]:
    """What is in this machine."""
    return smi.gpus()


@pytest.fixture(params=["cgroup", "files"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A worker in a cgroup of its own; and, as not every machine with a GPU lets one be made, in
    files that say the same.
    """
    if request.param == "files":
        yield _files(tmp_path / "cgroupfs")
        return
    with ExitStack() as stack:
        try:
            place = stack.enter_context(made_slice(SLICE))
        except CannotMakeCgroupsError as error:
            missing(str(error))
        os.makedirs(f"{place}/{WORKER}")
        yield Site((), functools.partial(join, f"{place}/{WORKER}"))


def _files(root: Path) -> Site:
    worker = root / SLICE / WORKER
    worker.mkdir(parents=True)
    (root / "cgroup.controllers").write_text("\n")
    (worker / "cgroup.events").write_text("populated 1\nfrozen 0\n")
    (worker / "cgroup.procs").write_text("")

    def join(pid: int) -> None:
        (worker / "cgroup.procs").write_text(f"{pid}\n")

    return Site((f"--path.cgroupfs={root}",), join)


class Holders:
    """Processes that hold memory of the first GPU."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[str]] = {}

    def start(self, size: int) -> int:
        """The PID of a new one that holds `size` bytes. The test is skipped where none can."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.gpu.cuda", str(size)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=functools.partial(follow_parent, os.getpid()),
        )
        self._running[process.pid] = process
        assert process.stdout is not None and process.stderr is not None
        if process.stdout.readline() != "holds\n":
            missing(f"no memory of a GPU can be had: {process.stderr.read().strip()}")
        return process.pid

    def end(self, pid: int) -> None:
        """End one of them."""
        process = self._running.pop(pid)
        end(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        """End all that still run."""
        for pid in list(self._running):
            self.end(pid)


@pytest.fixture
def holders() -> Iterator[Holders]:
    """They are all gone in the end."""
    with contextlib.closing(Holders()) as made:
        yield made
