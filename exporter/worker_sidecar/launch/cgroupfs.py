"""Workers in plain cgroup directories, for hosts without systemd: <slice>/<service>/<instance>."""

import errno
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress

from worker_exporter.cgroup.identity import slice_path
from worker_sidecar.launch import shim
from worker_sidecar.launch.launcher import (
    GRACE,
    AlreadyRunningError,
    Launched,
    LaunchError,
    Limits,
    NotFoundError,
    WorkerSpec,
    check_names,
)
from worker_sidecar.launch.stamp import stamp

KILL_PATIENCE = 10.0
"""Seconds until a killed process that does not end counts as stuck in the kernel."""

_CONTROLLERS = ("cpu", "memory", "io", "pids")
_CPU_PERIOD = 100_000
"""Microseconds, the kernel's default period of cpu.max."""

_BARE_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_GONE = (errno.ENOENT, errno.ENODEV)
"""What a read of a cgroup file answers when the cgroup was removed before or meanwhile."""


class CgroupfsLauncher:
    """Makes a directory for each worker below `mount` and starts the worker inside it.

    Nothing supervises a worker afterwards. Its output goes to `<log_dir>/<service>/<instance>.log`.
    """

    name = "cgroupfs"

    def __init__(self, slice_name: str, mount: str, log_dir: str) -> None:
        self._mount = mount
        self._slice = slice_path(slice_name)
        self._log_dir = log_dir

    @property
    def directory(self) -> str:
        """See Launcher.directory."""
        return f"{self._mount}/{self._slice}"

    def start(self, spec: WorkerSpec) -> Launched:
        """See Launcher.start."""
        cgroup = f"{self._slice}/{spec.service}/{spec.instance}"
        directory = f"{self._mount}/{cgroup}"
        if os.path.isdir(directory):
            self._clear_ended(directory, spec)
        made = self._make(cgroup)
        try:
            # first the metadata: the exporter may find the new directory at any moment
            stamp(directory, spec.metadata)
            unapplied = _apply(directory, spec.limits)
            self._spawn(directory, spec)
        except (OSError, LaunchError) as error:
            _remove_all(made)
            if isinstance(error, LaunchError):
                raise
            raise LaunchError(f"cannot start {spec.service}/{spec.instance}: {error}") from error
        return Launched(spec.service, spec.instance, cgroup, None, True, unapplied)

    def stop(self, service: str, instance: str, grace: float = GRACE) -> None:
        """See Launcher.stop."""
        check_names(service, instance)
        directory = f"{self.directory}/{service}/{instance}"
        if not os.path.isdir(directory):
            raise NotFoundError(f"no worker {service}/{instance} below {self._slice}")
        _end(directory, grace)
        _remove_tree(directory)

    def list(self) -> Sequence[Launched]:
        """See Launcher.list."""
        return [
            Launched(service, instance, cgroup, None, _populated(f"{self._mount}/{cgroup}"))
            for service in _subdirectories(self.directory)
            for instance in _subdirectories(f"{self.directory}/{service}")
            for cgroup in [f"{self._slice}/{service}/{instance}"]
        ]

    def down(self, grace: float = GRACE) -> None:
        """See Launcher.down. The grace is one for all workers together."""
        if not os.path.isdir(self.directory):
            return
        _end(self.directory, grace)
        _remove_tree(self.directory)
        parent = os.path.dirname(self.directory)
        while parent != self._mount:
            with suppress(OSError):
                os.rmdir(parent)
            parent = os.path.dirname(parent)

    def _clear_ended(self, directory: str, spec: WorkerSpec) -> None:
        """Remove what an ended worker of the same name left; a running one is an error."""
        if _populated(directory):
            raise AlreadyRunningError(f"{spec.service}/{spec.instance} is already running")
        _remove_tree(directory)

    def _make(self, cgroup: str) -> Sequence[str]:
        """Make the directories of `cgroup` with controllers on where the host has them.

        Returns those that were not there before, deepest first.
        """
        made: list[str] = []
        directory = self._mount
        try:
            for name in cgroup.split("/"):
                _enable_controllers(directory)
                directory = f"{directory}/{name}"
                if not os.path.isdir(directory):
                    os.mkdir(directory)
                    made.insert(0, directory)
        except OSError as error:
            _remove_all(made)
            raise LaunchError(f"cannot make the cgroup {directory}: {error.strerror}") from error
        return made

    def _spawn(self, directory: str, spec: WorkerSpec) -> None:
        log_dir = f"{self._log_dir}/{spec.service}"
        os.makedirs(log_dir, mode=0o750, exist_ok=True)
        command = [sys.executable, "-I", "-S", shim.__file__]
        done = subprocess.run(
            [*command, directory, f"{log_dir}/{spec.instance}.log", *spec.argv],
            env={**_BARE_ENV, **spec.env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            start_new_session=True,
            cwd="/",
        )
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}"
            raise LaunchError(f"cannot start {spec.service}/{spec.instance}: {reason}")


def unavailable(mount: str, slice_name: str) -> str | None:
    """Why no cgroup can be made below `mount`, None when one can; tried by making one."""
    directory = f"{mount}/{slice_path(slice_name).split('/')[0]}"
    try:
        os.mkdir(directory)
        os.rmdir(directory)
    except FileExistsError:
        return None
    except OSError as error:
        return f"no directory can be made in {mount}: {error.strerror}"
    return None


def _enable_controllers(directory: str) -> None:
    """Turn on for the children of `directory` what it has; one at a time, for one may be busy."""
    try:
        available = _read(f"{directory}/cgroup.controllers").split()
    except OSError:
        return
    for controller in available:
        if controller in _CONTROLLERS:
            with suppress(OSError):
                _write(f"{directory}/cgroup.subtree_control", f"+{controller}")


def _apply(directory: str, limits: Limits) -> tuple[str, ...]:
    """Write the limits' files. Returns the names of those the host could not take."""
    wanted: list[tuple[str, str, str]] = []
    if limits.cpu_cores is not None:
        quota = f"{round(limits.cpu_cores * _CPU_PERIOD)} {_CPU_PERIOD}"
        wanted.append(("cpu", "cpu.max", quota))
    if limits.memory_bytes is not None:
        wanted.append(("memory", "memory.max", str(limits.memory_bytes)))
        wanted.append(("swap", "memory.swap.max", "0"))
    if limits.tasks is not None:
        wanted.append(("tasks", "pids.max", str(limits.tasks)))
    unapplied = []
    for limit, file, value in wanted:
        try:
            _write(f"{directory}/{file}", value)
        except OSError:
            unapplied.append(limit)
    return tuple(unapplied)


def _end(directory: str, grace: float) -> None:
    """End every process in or below `directory`. Raises LaunchError when one cannot be ended."""
    try:
        events = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _signal_all(directory, signal.SIGTERM)
        if _wait_empty(events, grace):
            return
        _kill(directory)
        if _wait_empty(events, KILL_PATIENCE):
            return
    finally:
        os.close(events)
    raise LaunchError(f"a process in {directory} does not end; it is stuck in the kernel")


def _kill(directory: str) -> None:
    try:
        _write(f"{directory}/cgroup.kill", "1")
    except FileNotFoundError:  # before Linux 5.14; a fork bomb may win here
        _signal_all(directory, signal.SIGKILL)


def _signal_all(directory: str, number: signal.Signals) -> None:
    for path in _tree(directory):
        with suppress(OSError):
            for line in _read(f"{path}/cgroup.procs").split():
                # 0 is a process of a foreign PID namespace, and kill(0) would be our own group
                if line != "0":
                    with suppress(ProcessLookupError):
                        os.kill(int(line), number)


def _wait_empty(events: int, patience: float) -> bool:
    """Wait for `populated 0` on an open cgroup.events. True when it came within `patience`."""
    deadline = time.monotonic() + patience
    poll = select.poll()
    poll.register(events, select.POLLPRI)
    while _is_populated(events):
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        poll.poll(left * 1000)
    return True


def _is_populated(events: int) -> bool:
    try:
        return b"populated 1" in os.pread(events, 4096, 0)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise


def _populated(directory: str) -> bool:
    try:
        return "populated 1" in _read(f"{directory}/cgroup.events")
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise


def _remove_tree(directory: str) -> None:
    """Remove an empty cgroup and those below it; busy ones (a dying process) are tried again."""
    deadline = time.monotonic() + KILL_PATIENCE
    for path in reversed(list(_tree(directory))):
        while True:
            try:
                os.rmdir(path)
            except FileNotFoundError:
                pass
            except OSError as error:
                if error.errno == errno.EBUSY and time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                raise LaunchError(f"cannot remove {path}: {error.strerror}") from error
            break


def _remove_all(made: Sequence[str]) -> None:
    for directory in made:
        with suppress(LaunchError):
            _remove_tree(directory)


def _tree(directory: str) -> Iterator[str]:
    """`directory` and all below it, parents first."""
    yield directory
    for name in _subdirectories(directory):
        yield from _tree(f"{directory}/{name}")


def _subdirectories(directory: str) -> Sequence[str]:
    try:
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _write(path: str, value: str) -> None:
    """One unbuffered write without creating: the kernel answers a bad one with an error."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)
