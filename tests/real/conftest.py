"""Places for real cgroups, removed with all that is in them whatever happens."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.real.cgroup_support import Process
from tests.real.launch_support import Fifo, real_mount, remove_by_hand
from tests.support import CannotMakeCgroupsError, made_slice, open_to_all
from tests.tools import missing

from worker_sidecar.launch.cgroupfs import CgroupfsLauncher
from worker_sidecar.launch.site import Site

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # a shell that starts us in the background has it so, and what the tests start must hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The slice that the test's module names SLICE, at the root of this host's cgroup2."""
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(made_slice(request.module.SLICE))
        except CannotMakeCgroupsError as error:
            missing(str(error))
        yield Path(directory)


@pytest.fixture
def undisturbed() -> Iterator[None]:
    """What the test starts goes before what else the machine does, where root may say so: for
    tests that hold their subject to the second.
    """
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    yield
    os.setpriority(os.PRIO_PROCESS, 0, before)


@pytest.fixture
def start(place: Path) -> Iterator[Callable[[str], Process]]:
    """Starts a process in a cgroup of the slice, which is made where it is not there."""
    started: list[Process] = []

    def start(worker: str) -> Process:
        (place / worker).mkdir(parents=True, exist_ok=True)
        started.append(Process(place / worker))
        return started[-1]

    yield start
    for process in started:
        process.end()


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Site:
    """Where launchers put workers: the slice that the test's module names SLICE."""
    return Site(request.module.SLICE, real_mount(), str(tmp_path / "run"), str(tmp_path / "log"))


@pytest.fixture
def launcher(site: Site) -> Iterator[CgroupfsLauncher]:
    """The cgroupfs launcher; what it leaves is removed without it."""
    launcher = CgroupfsLauncher(site)
    try:
        yield launcher
    finally:
        remove_by_hand(launcher.directory)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[Fifo]:
    """What a worker says, waited for without polling."""
    fifo = Fifo(tmp_path / "said")
    yield fifo
    fifo.close()


@pytest.fixture
def open_path(tmp_path: Path) -> Path:
    """A directory that every user can reach."""
    return open_to_all(tmp_path)
