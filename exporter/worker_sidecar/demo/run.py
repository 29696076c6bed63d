"""`worker-sidecar demo`: starts workers and the exporter, shows the figures, removes it all."""

import dataclasses
import math
import os
import re
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from worker_exporter.cgroup.identity import slice_path
from worker_exporter.errors import UserError
from worker_sidecar.demo import figures, simulation, workload
from worker_sidecar.demo.ending import Ending
from worker_sidecar.demo.exporter import Exporter, choose_port
from worker_sidecar.demo.table import Screen, render
from worker_sidecar.errors import CreationFailedError, InputError
from worker_sidecar.launch import best
from worker_sidecar.launch.launcher import Launcher, Status, WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.site import Site

INTERVAL = 2.0
"""Seconds between two tables."""

GRACE = 2.0
"""Seconds the workers have to end by themselves; they need none."""

MARK = "demo"
"""Metadata of every worker a demo started: only these may a later demo clean up."""

WITHOUT_UNITS = "--no-collector.units"
"""A flag of the exporter: ask no systemd."""

_SLICE = re.compile(r"demo[a-z0-9_]*\.slice")
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Demo:
    """What the user chose: `port` of the exporter, `duration` in seconds, None for until Ctrl-C.

    Raises InputError for a slice that is not the demo's own to remove, or a bad duration.
    """

    slice_name: str = "demo.slice"
    port: int = 10390
    duration: float | None = None

    def __post_init__(self) -> None:
        if not _SLICE.fullmatch(self.slice_name):
            raise InputError(
                f"--slice {self.slice_name!r}: the demo removes all that is in its slice, so the "
                "name must begin with demo, as in demo_two.slice (a-z, 0-9 and _)"
            )
        if self.duration is not None and not 0 < self.duration < math.inf:
            raise InputError(f"--duration {self.duration} is not a number of seconds above 0")


@dataclass(frozen=True, slots=True)
class Scene:
    """What there is to see: the table's `title`, further `arguments` of the exporter, what brings
    the figures to the present, and what to say when it is over.
    """

    title: str
    arguments: Sequence[str]
    advance: Callable[[], None]
    farewell: str


def run(demo: Demo) -> None:
    """Show the demo until it ends, then remove every trace of it. Raises UserError."""
    with ExitStack() as stack:
        ending = stack.enter_context(Ending())
        stack.enter_context(_alone(demo.slice_name))
        place = stack.enter_context(_fresh_directory(demo.slice_name))
        site = site_of(demo.slice_name, place)
        choice = best.choose(site)
        if choice.monitored:
            _clean_up(choice.launcher, site)
            stack.callback(choice.launcher.down, GRACE)
            scene = _launch(choice.launcher, choice.reason, site)
        else:
            scene = _simulate(demo, place, choice.reason)
        exporter = _serve(demo, scene.arguments)
        stack.callback(exporter.stop)
        _say(f"Open {exporter.url}/ or {exporter.url}/metrics; Ctrl-C ends the demo.\n")
        _show(exporter, ending, scene, demo.duration)
    _say(f"Ended: {scene.farewell}")


def site_of(slice_name: str, place: str) -> Site:
    """The site of the demo's workers; what they leave outside their cgroups is in `place`."""
    return dataclasses.replace(
        best.site_for(slice_name), run_dir=f"{place}/run", log_dir=f"{place}/log"
    )


def specs() -> Sequence[WorkerSpec]:
    """The demo's workers."""

    def worker(service: str, instance: str, kind: str, **metadata: str) -> WorkerSpec:
        return WorkerSpec(
            service,
            instance,
            (sys.executable, "-I", "-S", workload.__file__, kind),
            limits=Limits(cpu=1.0, memory=256 * _MIB, tasks=16),
            metadata={MARK: "1", **metadata},
        )

    return (
        worker("llm", "8080", "serve", model="demo-7b", port="8080"),
        worker("llm", "8081", "serve-slowly", model="demo-1b", port="8081"),
        worker("trainer", "main", "train", model="demo-7b"),
        worker("ingest", "main", "ingest"),
        worker("idle", "main", "idle"),
    )


def _launch(launcher: Launcher, reason: str, site: Site) -> Scene:
    """Start the real workers."""
    started = [launcher.start(spec) for spec in specs()]
    unapplied = {name for status in started for name in status.unapplied}
    _say(f"Started {len(started)} workers in {_place_of(started, site)}")
    _say(f"by {launcher.name} ({reason}).")
    if unapplied:
        _say(f"This host could not set their limits of {', '.join(sorted(unapplied))}.")
    return Scene(
        title="Workers as the exporter sees them",
        # Without systemd there is no bus to ask, and the log would say so.
        arguments=() if launcher.name.startswith("systemd") else (WITHOUT_UNITS,),
        advance=lambda: None,
        farewell="workers and exporter stopped, every cgroup of the demo removed.",
    )


def _simulate(demo: Demo, place: str, reason: str) -> Scene:
    """As _launch, with invented workers, and says so."""
    _say(f"No cgroup can be made on this host: {reason}.")
    _say("The workers below are SIMULATED: invented figures in files like the kernel's.")
    tree = simulation.Simulation(place, demo.slice_name)
    return Scene(
        title="SIMULATED workers",
        arguments=(*tree.arguments, WITHOUT_UNITS),
        advance=tree.advance,
        farewell="exporter stopped, the simulated files removed.",
    )


def _serve(demo: Demo, arguments: Sequence[str]) -> Exporter:
    port = choose_port(demo.port)
    if demo.port not in (0, port):
        _say(f"Port {demo.port} is busy; the exporter takes {port}.")
    return Exporter(
        [
            f"--worker.slice={demo.slice_name}",
            f"--web.listen-address=127.0.0.1:{port}",
            *arguments,
        ]
    )


def _show(
    exporter: Exporter,
    ending: Ending,
    scene: Scene,
    duration: float | None,
) -> None:
    """A table every INTERVAL seconds until the end comes."""
    screen = Screen(sys.stdout)
    before = None
    end = time.monotonic() + (float("inf") if duration is None else duration)
    while True:
        scene.advance()
        sample = figures.read(exporter.metrics(), time.monotonic(), time.time())
        screen.show(render(figures.rows(before, sample), scene.title))
        before = sample
        left = end - time.monotonic()
        if ending.wait(min(INTERVAL, left)) or left <= INTERVAL:
            return


def _place_of(started: Sequence[Status], site: Site) -> str:
    """The directory of the cgroup that holds all the workers."""
    cgroups = [status.cgroup for status in started if status.cgroup is not None]
    return f"{site.mount}/{os.path.commonpath(cgroups)}"


def _clean_up(launcher: Launcher, site: Site) -> None:
    """Remove what a demo that was killed left behind; what is not a demo's is an error."""
    foreign = next(filter(None, map(_foreign, directories(site))), None)
    if foreign:
        raise UserError(
            f"{foreign} holds processes that no demo started; end them, or take another slice "
            "by --slice=demo_two.slice"
        )
    left = [worker for worker in launcher.list() if worker.alive]
    launcher.down(GRACE)
    if left:
        _say(f"Removed {len(left)} workers that an earlier demo left behind.")


def directories(site: Site) -> Sequence[str]:
    """Where the demo's slice may be: at the cgroup root, or in the caller's own manager."""
    uid = os.getuid()
    roots = ("", f"/user.slice/user-{uid}.slice/user@{uid}.service")
    return [f"{site.mount}{root}/{slice_path(site.slice_name)}" for root in roots]


def _foreign(directory: str) -> str | None:
    """A cgroup in or below `directory` that holds processes and is not inside a marked one."""
    try:
        if f"user.worker.{MARK}" in os.listxattr(directory):
            return None
        with open(f"{directory}/cgroup.procs", encoding="ascii") as procs:
            if procs.read(1):
                return directory
        with os.scandir(directory) as entries:
            below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return None
    return next((found for path in below if (found := _foreign(path))), None)


@contextmanager
def _alone(slice_name: str) -> Iterator[None]:
    """Hold the slice against a second demo; the kernel lets go of it however this one ends."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0worker-sidecar/demo/{os.getuid()}/{slice_name}")
        except OSError as error:
            raise UserError(
                f"a demo already runs in {slice_name}; end it, or take another slice "
                "by --slice=demo_two.slice"
            ) from error
        yield


@contextmanager
def _fresh_directory(slice_name: str) -> Iterator[str]:
    """A directory for the workers' output or the simulated tree, emptied before and removed after.

    Its name is fixed, so that what a killed demo left there is found again.
    """
    path = f"{tempfile.gettempdir()}/worker-sidecar-{os.getuid()}-{slice_name}"
    try:
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise UserError(f"{path} is not a directory of yours; remove it")
        shutil.rmtree(path)
    except FileNotFoundError:
        pass
    try:
        os.mkdir(path, 0o700)
    except OSError as error:
        raise CreationFailedError(f"cannot make {path}: {error.strerror}") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _say(line: str) -> None:
    print(line, flush=True)
