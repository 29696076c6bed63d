"""A place for real cgroups, removed with all that is in it whatever happens."""

import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support import CannotMakeCgroupsError, made_slice
from tests.tools import missing

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
