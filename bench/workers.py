"""Many workers, each with a tiny process: in real cgroups, or files in memory where none can be."""

import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import CannotMakeCgroupsError, made_slice, make_worker

from bench.helper import running_helper

INSTANCES = 50
"""Workers of one service."""

_FIRST_PORT = 8000
_ROOM = 100  # so many more may be shown, for those that are dead
_CONTROLLERS = ("cpu", "memory", "io", "pids")


@dataclass(frozen=True, slots=True)
class Workers:
    """Running workers. `wake` has each use some CPU and memory and returns when all have.

    `flags` point an exporter at them; `are_real` says whether their cgroups are the kernel's.
    `root` is the directory that their slice lies in, as the cgroup root does.
    """

    are_real: bool
    root: str
    directories: tuple[str, ...]
    flags: tuple[str, ...]
    wake: Callable[[], None]

    @property
    def kind(self) -> str:
        """What they are, in words."""
        return "real cgroups" if self.are_real else "fixture files in memory"


@contextlib.contextmanager
def running_workers(count: int) -> Iterator[Workers]:
    """`count` workers in a slice of their own, in services of 50; all gone in the end."""
    with contextlib.ExitStack() as stack:
        slice_name = f"bench{os.getpid()}.slice"
        flags = (f"--worker.slice={slice_name}", f"--worker.max={count + _ROOM}")
        try:
            top = stack.enter_context(made_slice(slice_name))
        except CannotMakeCgroupsError:
            yield stack.enter_context(_fixture(count, slice_name, flags))
            return
        directories = _make(top, count)
        helper = stack.enter_context(running_helper("workers", directories))
        yield Workers(True, os.path.dirname(top), directories, flags, lambda: _ask(helper.ask))


def _make(top: str, count: int) -> tuple[str, ...]:
    for service in range(-(-count // INSTANCES)):
        name = f"{os.path.basename(top).removesuffix('.slice')}-s{service:03}.slice"
        os.mkdir(f"{top}/{name}")
        _enable(top)
        _enable(f"{top}/{name}")
    return tuple(
        make_worker(top, f"s{number // INSTANCES:03}", str(_FIRST_PORT + number % INSTANCES))
        for number in range(count)
    )


def _enable(directory: str) -> None:
    """Turn on for the cgroups below what the host hands down, so that they have all files."""
    available = Path(f"{directory}/cgroup.controllers").read_text().split()
    wanted = [f"+{name}" for name in available if name in _CONTROLLERS]
    if wanted:
        Path(f"{directory}/cgroup.subtree_control").write_text(" ".join(wanted))


@contextlib.contextmanager
def _fixture(count: int, slice_name: str, flags: tuple[str, ...]) -> Iterator[Workers]:
    root = tempfile.mkdtemp(prefix="bench-", dir="/dev/shm")
    try:
        with running_helper("workers", ["-"] * count) as helper:
            children = Path(f"/proc/{helper.pid}/task/{helper.pid}/children").read_text().split()
            top = f"{root}/{slice_name}"
            directories = tuple(
                make_worker(
                    top, f"s{number // INSTANCES:03}", str(_FIRST_PORT + number % INSTANCES)
                )
                for number in range(count)
            )
            for directory, pid in zip(directories, children, strict=True):
                Path(f"{directory}/cgroup.procs").write_text(f"{pid}\n")
                Path(f"{directory}/cgroup.events").write_text("populated 1\nfrozen 0\n")
            turns = itertools.count(1)

            def wake() -> None:
                _ask(helper.ask)
                _write_figures(directories, next(turns))

            wake()
            yield Workers(
                False,
                root,
                directories,
                (*flags, f"--path.cgroupfs={root}"),
                wake,
            )
    finally:
        shutil.rmtree(root)


def _write_figures(directories: tuple[str, ...], turn: int) -> None:
    """The files of a hybrid host's cgroups after so many turns."""
    user, system = 90 * turn, 10 * turn
    cpu = f"usage_usec {user + system}\nuser_usec {user}\nsystem_usec {system}\n"
    line = f"avg10=0.00 avg60=0.00 avg300=0.00 total={17 * turn}\n"
    for directory in directories:
        Path(f"{directory}/cpu.stat").write_text(cpu)
        for resource in ("cpu", "memory", "io"):
            Path(f"{directory}/{resource}.pressure").write_text(f"some {line}full {line}")


def _ask(ask: Callable[[], str]) -> None:
    answer = ask()
    if answer != "done":
        raise RuntimeError(f"the workers said {answer!r}")
