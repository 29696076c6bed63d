"""What /proc tells of single processes and of the node."""

import os

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(statm: bytes) -> int:
    """The resident set of a process in bytes: the second field of /proc/PID/statm, in pages.

    Raises ValueError for content that is no statm.
    """
    fields = statm.split()
    if len(fields) < 2 or not statm.endswith(b"\n"):
        raise ValueError(f"no statm: {statm[:40]!r}")
    return int(fields[1]) * PAGE_BYTES


def unified_cgroup(data: bytes) -> str:
    """The cgroup v2 path that /proc/PID/cgroup names, below the cgroup root; "" for the root.

    A cgroup that was removed under a dying process goes by its old path. Raises ValueError for
    content without such a path.
    """
    for line in data.splitlines() if data.endswith(b"\n") else ():
        if line.startswith(b"0::/"):
            return os.fsdecode(line[4:].removesuffix(b" (deleted)"))
    raise ValueError(f"no cgroup v2 path: {data[:40]!r}")


def start_ticks(stat: bytes) -> int:
    """When a process started, in clock ticks since boot: field 22 of /proc/PID/stat.

    The second field, the command, may itself hold spaces and parentheses. Raises ValueError for
    content that is no stat.
    """
    fields = stat.rpartition(b")")[2].split()
    if len(fields) < 20 or not stat.endswith(b"\n"):
        raise ValueError(f"no stat: {stat[:40]!r}")
    return int(fields[19])


def boot_time(procfs: str) -> int:
    """When the kernel started, in seconds since the epoch: `btime` of /proc/stat.

    Raises OSError or ValueError.
    """
    for line in read(f"{procfs}/stat").splitlines():
        if line.startswith(b"btime "):
            return int(line.split()[1])
    raise ValueError("no btime in stat")


def oldest_start(procfs: str, pids: tuple[int, ...]) -> float | None:
    """When the oldest of `pids` started, in seconds since the epoch (to a clock tick, beside
    btime's whole second). None when none of them can be read.
    """
    ticks = [start for pid in pids if (start := _start(procfs, pid)) is not None]
    if not ticks:
        return None
    try:
        return boot_time(procfs) + min(ticks) / CLOCK_TICKS
    except (OSError, ValueError):
        return None


def read(path: str) -> bytes:
    """The whole of a small file. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.readall()


def _start(procfs: str, pid: int) -> int | None:
    try:
        return start_ticks(read(f"{procfs}/{pid}/stat"))
    except (OSError, ValueError):
        return None
