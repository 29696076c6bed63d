"""What the tests of launchers share: workers that speak, and looks at processes without them."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support import END_PATIENCE
from tests.tools import missing

from worker_exporter.cgroup.mount import find_mount
from worker_exporter.errors import UserError
from worker_sidecar.launch.cgroupfs import CgroupfsLauncher
from worker_sidecar.launch.site import Site

PYTHON = (sys.executable, "-I", "-S", "-c")
SYSTEM_PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
"""For workers of other users, who may not be allowed to read ours."""

SLEEP = ("sleep", "1000")
PATIENCE = 20_000
"""Milliseconds until what does not come counts as a failure."""

NOBODY = 65534


def real_mount() -> str:
    """This host's cgroup2, where directories can be made in it; else the test is skipped."""
    try:
        path = find_mount().path
    except UserError as error:
        missing(str(error))
    if not os.access(path, os.W_OK):
        missing(f"{path} cannot be written to")
    return path


def wait_until_empty(directory: str) -> None:
    """Wait for `populated 0`, by the kernel's own notification."""
    descriptor = os.open(f"{directory}/cgroup.events", os.O_RDONLY)
    poll = select.poll()
    poll.register(descriptor, select.POLLPRI)
    try:
        while b"populated 1" in os.pread(descriptor, 4096, 0):
            assert poll.poll(PATIENCE), f"{directory} does not become empty"
    finally:
        os.close(descriptor)


def remove_by_hand(directory: str) -> None:
    """End and remove what a test left, without the launcher, which may be what is broken."""
    if not os.path.isdir(directory):
        return
    Path(directory, "cgroup.kill").write_text("1")
    wait_until_empty(directory)
    for path, _, _ in os.walk(directory, topdown=False):
        os.rmdir(path)


def runs(pid: int) -> bool:
    """Whether a process is there and no zombie (nobody may have waited for it yet)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def environ_of(pid: int) -> dict[str, str]:
    """The environment a process was given."""
    content = Path(f"/proc/{pid}/environ").read_text(errors="surrogateescape")
    return dict(item.partition("=")[::2] for item in content.split("\0") if item)


def processes_with(text: str) -> list[int]:
    """The living processes that have `text` among their arguments."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            cmdline = Path(f"/proc/{name}/cmdline").read_text(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text in cmdline.split("\0") and runs(int(name)):
            found.append(int(name))
    return found


def relay_bomb(fifo: "Fifo", uid: int, runners: int) -> str:
    """A program of `runners` processes, each of which becomes another one all the time: it forks,
    and the parent goes. They hear no SIGTERM, and are at most 200 of user `uid`.
    """
    return f"""if True:
        import os, resource, signal
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        out = os.open({fifo.path!r}, os.O_WRONLY | os.O_NONBLOCK)
        os.setgid({uid}); os.setuid({uid})
        resource.setrlimit(resource.RLIMIT_NPROC, (200, 200))
        def fork():
            while True:
                try:
                    return os.fork()
                except BlockingIOError:
                    os.sched_yield()
        for _ in range({runners} - 1):
            if fork() == 0:
                os.setsid()
                break
        os.write(out, b"ready ")
        while True:
            if fork():
                os._exit(0)
    """


class Fifo:
    """What workers say, waited for without polling."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        path.chmod(0o666)
        self.path = str(path)
        self._descriptor = os.open(path, os.O_RDWR)

    def line(self) -> str:
        """All that was said since, at least something."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        assert poll.poll(PATIENCE), "the worker said nothing"
        return os.read(self._descriptor, 65536).decode().strip()

    def times(self, word: str, count: int) -> None:
        """Wait until `word` was said `count` times."""
        said = ""
        while said.count(word) < count:
            said += self.line()

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def stuck_in_the_kernel(pid: int) -> Iterator[Callable[[], None]]:
    """Put a process into uninterruptible sleep by the freezer of cgroup v1; the yielded function
    lets it go again. Skips the test where that is not to be had.
    """
    freezer = Path("/sys/fs/cgroup/freezer")
    if not (freezer / "cgroup.procs").exists() or not os.access(freezer, os.W_OK):
        missing("the freezer of cgroup v1 is not mounted here")
    place = freezer / f"launchtest{os.getpid()}"
    place.mkdir()

    def release() -> None:
        (place / "freezer.state").write_text("THAWED")

    try:
        (place / "cgroup.procs").write_text(str(pid))
        (place / "freezer.state").write_text("FROZEN")
        while "FROZEN" not in (place / "freezer.state").read_text():
            os.sched_yield()
        yield release
    finally:
        release()
        _empty(place, freezer)


def _empty(place: Path, above: Path) -> None:
    """Remove a cgroup of v1; what is in it goes to the one `above`, or is just ending."""
    deadline = time.monotonic() + END_PATIENCE
    while place.exists():
        for pid in (place / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                (above / "cgroup.procs").write_text(pid)
        try:
            place.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            os.sched_yield()


def pids(launcher: CgroupfsLauncher, worker: str) -> list[int]:
    """The processes in the cgroup `<service>/<instance>`."""
    content = Path(launcher.directory, worker, "cgroup.procs").read_text()
    return [int(pid) for pid in content.split()]


def output(launcher: CgroupfsLauncher, service: str, instance: str) -> str:
    """All that a worker wrote, once it ended."""
    wait_until_empty(f"{launcher.directory}/{service}/{instance}")
    stream = launcher.logs(service, instance, 1000, follow=False)
    said = b"".join(iter(stream.read, b""))
    stream.close()
    return said.decode()


def in_a_process(site: Site, code: str, stdin: int | None = None) -> "subprocess.Popen[str]":
    """A Python of its own that runs `code` with a `launcher` for `site`."""
    program = f"""if True:
        import os, sys
        from worker_sidecar.errors import *
        from worker_sidecar.launch.cgroupfs import CgroupfsLauncher
        from worker_sidecar.launch.launcher import WorkerSpec
        from worker_sidecar.launch.site import Site
        launcher = CgroupfsLauncher({site!r})
    """
    command = [sys.executable, "-c", program + code.replace("\n", "\n    ")]
    return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True)
