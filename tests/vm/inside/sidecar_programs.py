"""What the workers of the sidecar's checks do: `python3 sidecar_programs.py NAME ARGUMENT ...`."""

import json
import mmap
import os
import signal
import sys
import time

BLOCK = 64 << 10
MIB = 1 << 20


def rest(*arguments: str) -> None:
    """Nothing."""
    signal.pause()


def dump(file: str, *arguments: str) -> None:
    """Its arguments, environment and the attributes of its cgroup as they are at its first
    instruction, into `file`.
    """
    with open("/proc/self/cgroup") as lines:
        path = next(line.rstrip("\n")[3:] for line in lines if line.startswith("0::"))
    directory = f"/sys/fs/cgroup{path}"
    attributes = {name: os.getxattr(directory, name).decode() for name in os.listxattr(directory)}
    found = {
        "pid": os.getpid(),
        "arguments": [os.fsencode(word).hex() for word in arguments],
        "environment": dict(os.environ),
        "attributes": attributes,
        "directory": os.getcwd(),
        "uid": os.getuid(),
        "secret": _secret(),
    }
    with open(f"{file}.new", "w") as out:
        json.dump(found, out)
    os.rename(f"{file}.new", file)
    signal.pause()


def burn() -> None:
    """As much CPU as it gets."""
    while True:
        pass


def hoard() -> None:
    """All the memory it gets, from SIGUSR1 on."""
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.pause()
    hoarded = []
    while True:
        hoarded.append(b"x" * MIB)


def write(file: str) -> None:
    """As much to the disk, past the page cache, as it gets: four at once, so that one write
    always waits.
    """
    buffer = mmap.mmap(-1, BLOCK)
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o600)
    os.fork()
    os.fork()
    while True:
        for block in range(64):
            os.pwrite(out, buffer, block * BLOCK)


def deaf() -> None:
    """Nothing, and it does not hear SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("deaf", flush=True)
    signal.pause()


def bomb() -> None:
    """Children that have children, which all outlive SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)


def daemon() -> None:
    """A child that left its session and its parent, and does not hear SIGTERM."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        else:
            os._exit(0)
    signal.pause()


def talk(mark: str) -> None:
    """A line at once, and another at SIGUSR1."""
    signal.signal(signal.SIGUSR1, lambda *_: print(f"{mark} again", flush=True))
    print(f"{mark} once", flush=True)
    while True:
        signal.pause()


def stick(file: str) -> None:
    """Write to a file system that does not answer."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(file, "w") as out:
        out.write("x")
        os.fsync(out.fileno())
    signal.pause()


def _secret() -> str:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if directory is None:
        return ""
    with open(f"{directory}/token") as file:
        return file.read()


if __name__ == "__main__":
    programs = (rest, dump, burn, hoard, write, deaf, bomb, daemon, talk, stick)
    {program.__name__: program for program in programs}[sys.argv[1]](*sys.argv[2:])
