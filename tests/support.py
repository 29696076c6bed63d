"""Real parts that tests and the benchmark share: a running exporter, cgroups that get removed."""

import contextlib
import ctypes
import errno
import functools
import itertools
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worker_exporter.cgroup.mount import find_mount
from worker_exporter.errors import UserError

START_PATIENCE = 60.0
"""Seconds until an exporter that does not listen counts as broken."""

END_PATIENCE = 10.0
"""Seconds until a process that does not end is killed, or counts as stuck."""

_LISTENING = re.compile(r'msg="?listening"?.* address=(\S+):(\d+)')
_PR_SET_PDEATHSIG = 1
_PORTS = itertools.count(20_000 + os.getpid() % 10_000)
_LIBC = ctypes.CDLL(None, use_errno=True)


class CannotMakeCgroupsError(Exception):
    """No cgroup can be made on this host; the text says why."""


@dataclass(frozen=True, slots=True)
class RunningExporter:
    """A `worker-exporter` that listens. `log` holds its last lines."""

    pid: int
    host: str
    port: int
    log: deque[str]


@contextlib.contextmanager
def running_exporter(*arguments: str, nofile: int | None = None) -> Iterator[RunningExporter]:
    """The real exporter in a process of its own on a free port of the loopback.

    `nofile` is its RLIMIT_NOFILE. Raises UserError with its last words when it does not listen.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "worker_exporter"),
            *("--web.listen-address=127.0.0.1:0", *arguments),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=functools.partial(_prepare, os.getpid(), nofile),
    )
    log = deque[str](maxlen=200)
    found: dict[str, str] = {}
    told = threading.Event()
    reader = threading.Thread(target=_follow, args=(process, log, found, told), daemon=True)
    reader.start()
    try:
        told.wait(START_PATIENCE)
        if not found:
            raise UserError(f"the exporter does not listen: {' / '.join(log) or 'it is silent'}")
        yield RunningExporter(process.pid, found["host"], int(found["port"]), log)
    finally:
        end(process)
        reader.join()


def free_port() -> int:
    """A port of the loopback that nobody listens on, and none that connections are made from."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def end(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """End `process`: politely, then not."""
    process.terminate()
    try:
        process.wait(END_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def follow_parent(parent: int) -> None:
    """For a preexec_fn: have the kernel end the new process when `parent` dies, even by SIGKILL.

    Ctrl-C in a terminal is for `parent` alone, which ends it in its own time.
    """
    os.setpgid(0, 0)
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


@contextlib.contextmanager
def made_slice(name: str) -> Iterator[str]:
    """The new cgroup `name` at the cgroup root, as a path in the file system.

    It is removed with all below it and all processes in it. Raises CannotMakeCgroupsError.
    """
    try:
        directory = f"{find_mount().path}/{name}"
        os.mkdir(directory)
    except (UserError, OSError) as error:
        raise CannotMakeCgroupsError(f"no cgroup can be made here: {error}") from None
    try:
        yield directory
    finally:
        remove_cgroup(directory)


def open_to_all(directory: Path) -> Path:
    """`directory`, once every user can reach what is in it."""
    for path in (directory, *directory.parents):
        if path.stat().st_uid == os.geteuid():
            path.chmod(path.stat().st_mode | 0o011)
    return directory


def make_worker(slice_directory: str, service: str, instance: str) -> str:
    """The cgroup of a worker where the sidecar would make it, below a slice's directory."""
    stem = os.path.basename(slice_directory).removesuffix(".slice")
    unit = f"{stem}-{service}"
    directory = f"{slice_directory}/{unit}.slice/{unit}@{instance}.service"
    os.makedirs(directory)
    return directory


def join(directory: str, pid: int) -> None:
    """Move the process `pid` into the cgroup."""
    with open(f"{directory}/cgroup.procs", "wb", buffering=0) as procs:
        procs.write(b"%d" % pid)


def remove_cgroup(directory: str) -> None:
    """End every process in or below `directory` and remove it with all below it.

    Again and again: what was just starting may enter after the others were killed.
    """
    deadline = time.monotonic() + END_PATIENCE
    while os.path.isdir(directory):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes in {directory} do not end")
        with contextlib.suppress(FileNotFoundError):
            _kill(directory)
        for path, _, _ in os.walk(directory, topdown=False):
            _remove_empty(path)


def _remove_empty(directory: str) -> None:
    try:
        os.rmdir(directory)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOENT):
            raise


def _kill(directory: str) -> None:
    with open(f"{directory}/cgroup.events", "rb", buffering=0) as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        with open(f"{directory}/cgroup.kill", "wb", buffering=0) as kill:
            kill.write(b"1")
        if b"populated 1" in os.pread(events.fileno(), 4096, 0):
            poll.poll(100)


def _prepare(parent: int, nofile: int | None) -> None:
    follow_parent(parent)
    if nofile is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (nofile, nofile))


def _follow(
    process: "subprocess.Popen[str]", log: deque[str], found: dict[str, str], told: threading.Event
) -> None:
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            log.append(line.rstrip())
            if not found and (match := _LISTENING.search(line)):
                found.update(host=match[1], port=match[2])
                told.set()
    told.set()
