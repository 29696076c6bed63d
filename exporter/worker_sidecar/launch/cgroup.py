"""Operations on any cgroup directory: who is in it, ending them, removing it."""

import errno
import fcntl
import itertools
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from worker_exporter.cgroup.files import ABSENT, GONE
from worker_sidecar.errors import (
    InputOutputError,
    KillFailedError,
    PermissionDeniedError,
    RefusedError,
)

KILL_PATIENCE = 10.0
"""Seconds until a killed process that does not end counts as stuck in the kernel."""

LOCK_PATIENCE = 60.0
"""Seconds to wait for another starter; a lock held for longer is somebody's mistake, or malice."""

KILL_FILE = "cgroup.kill"
"""Since Linux 5.14."""

TRUSTED = "trusted.worker."
"""Attributes that only root reads and writes; `user.` ones a worker can write on a cgroup that is
delegated to it.
"""

_PREFIXES = ("user.worker.", TRUSTED)
_OUT_OF_SIGHT = (*GONE, errno.ENAMETOOLONG)
"""Gone, or nested by a delegated worker deeper than a path can tell."""

_LOOK_AGAIN = 0.5
"""Seconds between two looks at cgroup.events without being told: the kernel delays what it tells by
10 ms, and tells nothing when the cgroup is removed meanwhile.
"""

_ROUND = 0.05
"""Seconds between two rounds of killing one by one."""

_ROUNDS = 5
"""How often to look for processes that were forked while the others were asked to end."""

_RETRY = 0.01


def populated(directory: str) -> bool:
    """Whether a process lives in the cgroup or below it (cgroup.events); False when it is gone.

    Raises InputOutputError when that cannot be read.
    """
    try:
        return b"populated 1" in _read(f"{directory}/cgroup.events")
    except OSError as error:
        if error.errno in GONE:
            return False
        raise _unreadable(directory, error) from error


def wait_empty(directory: str, patience: float) -> bool:
    """Wait at most `patience` seconds for `populated 0`; True when it came, or the cgroup is gone.

    The kernel tells by POLLPRI on cgroup.events. Raises InputOutputError as populated().
    """
    deadline = time.monotonic() + patience
    try:
        events = os.open(f"{directory}/cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in GONE:
            return True
        raise _unreadable(directory, error) from error
    try:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events, 4096, 0):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poll.poll(min(left, _LOOK_AGAIN) * 1000)
    except OSError as error:
        if error.errno not in GONE:
            raise _unreadable(directory, error) from error
    finally:
        os.close(events)
    return True


def end(directory: str, grace: float) -> bool:
    """End every process in or below the cgroup: TERM, `grace` seconds, then KILL.

    Returns whether it took the KILL. An empty or absent cgroup is fine. Raises KillFailedError
    with the PIDs that do not end, PermissionDeniedError, or RefusedError when the caller itself
    is in it.
    """
    if not populated(directory):
        return False
    _refuse_to_end_ourselves(directory)
    _ask(directory)
    if wait_empty(directory, grace):
        return False
    kill(directory)
    return True


def kill(directory: str) -> None:
    """As end(), with KILL at once: by cgroup.kill, before Linux 5.14 one by one until empty."""
    _refuse_to_end_ourselves(directory)
    if _kill_at_once(directory):
        empty = wait_empty(directory, KILL_PATIENCE)
    else:
        empty = _kill_one_by_one(directory)
    if not empty:
        raise KillFailedError(_survivors(directory))


def remove(directory: str) -> None:
    """Remove an empty cgroup and all below it; busy ones are tried again. Gone is fine.

    Raises InputOutputError when a process lives in it, or it stays busy.
    """
    deadline = time.monotonic() + KILL_PATIENCE
    while True:
        try:
            for path in reversed(list(_tree(directory))):
                with suppress(FileNotFoundError):
                    os.rmdir(path)
        except OSError as error:
            if populated(directory):
                raise InputOutputError(
                    f"cannot remove {directory}: processes {_listed(pids(directory))} live in it"
                ) from error
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise InputOutputError(f"cannot remove {directory}: {error.strerror}") from error
            time.sleep(_RETRY)
        else:
            return


def pids(directory: str) -> list[int]:
    """The processes in and below the cgroup (cgroup.procs), as far as this PID namespace sees."""
    return list(_members(directory))


def stuck(directory: str) -> list[int]:
    """Those of pids() in uninterruptible sleep (state D in /proc/PID/stat)."""
    return [pid for pid in pids(directory) if _state(pid) == "D"]


def attributes(directory: str) -> dict[str, str]:
    """The extended attributes user.worker.* of the cgroup, without that prefix; trusted.worker.*,
    which root alone sees, in their place.

    {} when it is gone, or where the kernel keeps none (before Linux 5.7).
    """
    found: dict[str, str] = {}
    with suppress(OSError):
        names = os.listxattr(directory)
        for prefix, name in itertools.product(_PREFIXES, names):
            if name.startswith(prefix):
                with suppress(OSError):
                    value = os.getxattr(directory, name)
                    found[name.removeprefix(prefix)] = value.decode(errors="replace")
    return found


@contextmanager
def locked(directory: str) -> Iterator[int]:
    """Hold the flock of `directory`, which must be there; yields its descriptor.

    A child that inherits the descriptor goes on holding the lock. Raises FileNotFoundError, or
    InputOutputError when another process does not let go of it.
    """
    descriptor = _lock(directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(directory: str) -> int:
    deadline = time.monotonic() + LOCK_PATIENCE
    while True:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # it may have been removed and made again while we waited
            if os.fstat(descriptor).st_ino == os.stat(directory).st_ino:
                return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise InputOutputError(f"{directory} stays locked by another process; lslocks names it")
        time.sleep(_RETRY)


def _ask(directory: str) -> None:
    """TERM to all; a frozen or stopped process gets it when it runs again, so that follows."""
    told: set[int] = set()
    for _ in range(_ROUNDS):
        before = len(told)
        for pid in _members(directory):
            if pid not in told:
                told.add(pid)
                for number in (signal.SIGTERM, signal.SIGCONT):
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
        if len(told) == before:
            break
    _thaw(directory)


def _kill_at_once(directory: str) -> bool:
    """Whether the kernel took it: one write that no fork escapes."""
    try:
        _write(f"{directory}/{KILL_FILE}", b"1")
    except OSError as error:
        return error.errno in GONE and not os.path.isdir(directory)
    return True


def _kill_one_by_one(directory: str) -> bool:
    """Freeze them, so that none forks away, then KILL each. Whether the cgroup became empty."""
    deadline = time.monotonic() + KILL_PATIENCE
    with suppress(OSError):  # before Linux 5.2 there is no such file, and a fork bomb may win
        _write(f"{directory}/cgroup.freeze", b"1")
    try:
        while time.monotonic() < deadline:
            _signal_each(directory)
            if wait_empty(directory, _ROUND):
                return True
        return False
    finally:
        _thaw(directory)


def _signal_each(directory: str) -> None:
    for pid in _members(directory):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        except PermissionError as error:
            raise PermissionDeniedError(
                f"process {pid} in {directory} belongs to another user: end it as that one, or root"
            ) from error


def _thaw(directory: str) -> None:
    for path in _tree(directory):
        with suppress(OSError):
            if _read(f"{path}/cgroup.freeze").strip() == b"1":
                _write(f"{path}/cgroup.freeze", b"0")


def _refuse_to_end_ourselves(directory: str) -> None:
    if os.getpid() in pids(directory):
        raise RefusedError(f"this very process runs in {directory}: call from outside of it")


def _survivors(directory: str) -> str:
    asleep = stuck(directory)
    if asleep:
        return (
            f"zombie worker: {_listed(asleep)} in {directory} cannot be killed, it is in "
            "uninterruptible sleep (state D); the device or file system it waits for must answer"
        )
    return f"{_listed(pids(directory)) or 'a process'} in {directory} does not end though killed"


def _listed(found: list[int]) -> str:
    shown = ", ".join(map(str, found[:10]))
    return shown + (f" and {len(found) - 10} more" if len(found) > 10 else "")


def _state(pid: int) -> str:
    """The process's state as in /proc/PID/stat: R, S, D, ...; "" when it is gone."""
    try:
        return _read(f"/proc/{pid}/stat").rpartition(b") ")[2][:1].decode()
    except OSError:
        return ""


def _members(directory: str) -> Iterator[int]:
    """The processes in and below the cgroup, read one cgroup at a time: who signals them does so
    before their PIDs can be those of others, however many cgroups a worker makes.
    """
    for path in _tree(directory):
        try:
            lines = _read(f"{path}/cgroup.procs").split()
        except OSError as error:
            # a threaded cgroup has none: the processes are those of the domain above it
            if error.errno in _OUT_OF_SIGHT or error.errno in ABSENT:
                continue
            raise _unreadable(path, error) from error
        # 0 is a process of a foreign PID namespace, and kill(0) would be our own group
        yield from (int(line) for line in lines if line != b"0")


def _tree(directory: str) -> Iterator[str]:
    """`directory` and all below it, parents first; what is out of sight is left out."""
    waiting = [directory]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as entries:
                below = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError as error:
            if error.errno in _OUT_OF_SIGHT:
                continue
            raise _unreadable(path, error) from error
        yield path
        waiting += below


def _unreadable(directory: str, error: OSError) -> InputOutputError:
    return InputOutputError(f"cannot read the cgroup {directory}: {error.strerror}")


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _write(path: str, value: bytes) -> None:
    """One unbuffered write without creating: the kernel answers a bad one with an error."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)
