"""Places for real cgroups, removed with all that is in them whatever happens."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.real.launch_support import Fifo, open_to_all, real_mount, remove_by_hand
from tests.support import CannotMakeCgroupsError, made_slice
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
