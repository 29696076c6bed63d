"""What the workers do, each until it is told to end; they say when they have done their part."""

import mmap
import os
import signal
import socket
import subprocess
import sys

MIB = 1 << 20
BLOCK = 64 << 10


def rest() -> None:
    """Nothing."""
    _ready()
    signal.pause()


def burn() -> None:
    """As much CPU as it gets."""
    _ready()
    while True:
        pass


def hold() -> None:
    """Memory of each kind: 40 MiB of its own, 4 MiB shared, 8 MiB of a file."""
    own = b"x" * (40 * MIB)
    shared = mmap.mmap(-1, 4 * MIB)
    shared.write(own[: 4 * MIB])
    with open("/var/tmp/hold", "wb") as file:
        file.write(own[: 8 * MIB])
        os.fsync(file.fileno())
    _ready()
    signal.pause()


def disk() -> None:
    """4 MiB written and 2 MiB read, past the page cache."""
    buffer = mmap.mmap(-1, BLOCK)
    file = os.open("/var/tmp/disk", os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    for block in range(4 * MIB // BLOCK):
        os.pwritev(file, [buffer], block * BLOCK)
    os.fsync(file)
    for block in range(2 * MIB // BLOCK):
        os.preadv(file, [buffer], block * BLOCK)
    _ready()
    signal.pause()


def fork() -> None:
    """Children, until the kernel refuses one more."""
    children = []
    try:
        while True:
            children.append(subprocess.Popen(["sleep", "infinity"]))
    except BlockingIOError:
        _ready()
    signal.pause()


def starve() -> None:
    """A child that is killed for want of memory, which this process outlives."""
    child = os.fork()
    if child == 0:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        hoard = []
        while True:
            hoard.append(b"x" * MIB)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
        _ready()
    signal.pause()


def stamp(attributes: list[str]) -> None:
    """Set the `name=value` in `attributes` as user.worker.* on the cgroup this runs in, and end."""
    with open("/proc/self/cgroup") as file:
        path = file.read().rstrip().rpartition("\n0::")[2].removeprefix("0::")
    hybrid = "/sys/fs/cgroup/unified"
    mount = hybrid if os.path.ismount(hybrid) else "/sys/fs/cgroup"
    for name, _, value in (attribute.partition("=") for attribute in attributes):
        os.setxattr(f"{mount}{path}", f"user.worker.{name}", value.encode())


def _ready() -> None:
    """Tell the service manager, see sd_notify(3); a scope has none to tell."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address is None:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"READY=1", address)


if __name__ == "__main__":
    if sys.argv[1] == "stamp":
        stamp(sys.argv[2:])
    else:
        {f.__name__: f for f in (rest, burn, hold, disk, fork, starve)}[sys.argv[1]]()
