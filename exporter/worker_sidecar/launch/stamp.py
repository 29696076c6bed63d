"""Writes a worker's metadata onto its cgroup as extended attributes `user.worker.*`.

Run as a program by systemd before the worker's first instruction, at every (re)start, so it
imports next to nothing: `python -I -S stamp.py CGROUP2_MOUNT key=value ...`, values as
quoted-printable.
"""

import os
import sys
import time
from binascii import a2b_qp
from collections.abc import Mapping


def stamp(directory: str, metadata: Mapping[str, str]) -> None:
    """Set `user.worker.<key>` on the cgroup `directory` for all of `metadata`, and `.started`,
    the present time in seconds since the epoch. Raises OSError, after the last of them was tried.
    """
    failure: OSError | None = None
    for key, value in {"started": f"{time.time():.3f}", **metadata}.items():
        try:
            os.setxattr(directory, f"user.worker.{key}", value.encode(errors="surrogateescape"))
        except OSError as error:  # what is too long must not keep the others away
            failure = OSError(error.errno, f"{key}: {error.strerror}")
    if failure is not None:
        raise failure


def own_cgroup(mount: str) -> str:
    """The directory of the calling process's cgroup below `mount`, from /proc/self/cgroup."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            if line.startswith("0::"):
                return mount + line[3:].rstrip("\n")
    raise OSError("/proc/self/cgroup names no cgroup2")


def decoded(value: str) -> str:
    """The text that a quoted-printable value stands for."""
    return os.fsdecode(a2b_qp(os.fsencode(value)))


def main(argv: list[str]) -> int:
    """The program. Exit code 1 and one line when the attributes cannot be set."""
    try:
        pairs = (item.partition("=")[::2] for item in argv[2:])
        stamp(own_cgroup(argv[1]), {key: decoded(value) for key, value in pairs})
    except OSError as error:
        print(f"worker-sidecar: no metadata on this cgroup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
