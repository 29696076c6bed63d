"""Writes a worker's metadata onto its cgroup as extended attributes `user.worker.*`.

Run as a program by systemd before the worker's first instruction, at every (re)start, so it
imports nothing but os and sys: `python -I -S stamp.py CGROUP2_MOUNT key=value ...`.
"""

import os
import sys
import time
from collections.abc import Mapping


def stamp(directory: str, metadata: Mapping[str, str]) -> None:
    """Set `user.worker.<key>` on the cgroup `directory` for all of `metadata`, and `.started`,
    the present time in seconds since the epoch. Raises OSError.
    """
    for key, value in {**metadata, "started": f"{time.time():.3f}"}.items():
        os.setxattr(directory, f"user.worker.{key}", value.encode())


def own_cgroup(mount: str) -> str:
    """The directory of the calling process's cgroup below `mount`, from /proc/self/cgroup."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if line.startswith("0::"):
                return mount + line[3:].rstrip("\n")
    raise OSError("/proc/self/cgroup names no cgroup2")


def main(argv: list[str]) -> int:
    """The program. Exit code 1 and one line when the attributes cannot be set."""
    try:
        stamp(own_cgroup(argv[1]), dict(item.partition("=")[::2] for item in argv[2:]))
    except OSError as error:
        print(f"worker-sidecar: no metadata on this cgroup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
