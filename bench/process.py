"""What a process used, from outside it."""

import contextlib
import ctypes
import os
import re
import time
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_SETTLE_SECONDS = 0.0005


class CpuClock:
    """The CPU time of all threads of some processes, in nanoseconds: clock_getcpuclockid(3)."""

    def __init__(self, *pids: int) -> None:
        self._identifiers = tuple(map(_clock_of, pids))

    def now(self) -> int:
        """What the processes have used until now."""
        return sum(map(time.clock_gettime_ns, self._identifiers))

    def settled(self) -> int:
        """What they have used once they do nothing more: an answer is sent before the last work."""
        last = self.now()
        while True:
            time.sleep(_SETTLE_SECONDS)
            used = self.now()
            if used == last:
                return used
            last = used


def _clock_of(pid: int) -> int:
    identifier = ctypes.c_int()
    error = _LIBC.clock_getcpuclockid(pid, ctypes.byref(identifier))
    if error:
        raise OSError(error, os.strerror(error))
    return identifier.value


def children(pid: int) -> list[int]:
    """The processes that any of its threads started and that have not been waited for."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def resident_bytes(pid: int) -> int:
    """VmRSS of /proc/PID/status, in bytes."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.M)
    if found is None:
        raise ValueError(f"no VmRSS in /proc/{pid}/status")
    return int(found[1]) * 1024


def open_descriptors(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def open_paths(pid: int) -> list[str]:
    """The paths of what a process has open; of what it closes meanwhile perhaps not."""
    folder = f"/proc/{pid}/fd"
    paths = []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            paths.append(os.readlink(f"{folder}/{name}"))
    return paths
