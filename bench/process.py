"""What a process used, from outside it."""

import ctypes
import os
import re
import time
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_SETTLE_SECONDS = 0.0005


class CpuClock:
    """The CPU time of all threads of a process, in nanoseconds: clock_getcpuclockid(3)."""

    def __init__(self, pid: int) -> None:
        identifier = ctypes.c_int()
        error = _LIBC.clock_getcpuclockid(pid, ctypes.byref(identifier))
        if error:
            raise OSError(error, os.strerror(error))
        self._identifier = identifier.value

    def now(self) -> int:
        """What the process has used until now."""
        return time.clock_gettime_ns(self._identifier)

    def settled(self) -> int:
        """What it has used once it does nothing more: an answer is sent before its last work."""
        last = self.now()
        while True:
            time.sleep(_SETTLE_SECONDS)
            used = self.now()
            if used == last:
                return used
            last = used


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
    """The paths of what a process has open."""
    folder = f"/proc/{pid}/fd"
    return [os.readlink(f"{folder}/{name}") for name in os.listdir(folder)]
