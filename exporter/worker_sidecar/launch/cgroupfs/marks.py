"""What is kept with a worker on its cgroup: extended attributes, and the owner."""

import errno
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from worker_exporter import log
from worker_sidecar.errors import InputError
from worker_sidecar.launch import cgroup
from worker_sidecar.launch.account import Account
from worker_sidecar.launch.launcher import METADATA_KEY, WorkerSpec
from worker_sidecar.launch.shim import MAIN_PROCESS

STARTED = "started"
DECLARATION = "declaration"

DELEGATED = ("", "/cgroup.procs", "/cgroup.threads", "/cgroup.subtree_control")
"""What belongs to whom a cgroup is delegated, see the kernel's admin-guide/cgroup-v2.rst."""

MAX_DEPTH = ("cgroup.max.depth", "32")
"""The file and its content for a delegated cgroup: who nests without end could not be removed."""


def mark(directory: str, spec: WorkerSpec, declaration: str) -> None:
    """Set the metadata, the declaration and the time of the start on a new cgroup.

    Raises InputError for more than the kernel keeps there, OSError else. A kernel without such
    attributes (before Linux 5.7) is a warning.
    """
    # the time first: without it the cgroup counts as new, and would be used for another run
    values = {STARTED: f"{time.time():.3f}", **spec.attributes, DECLARATION: declaration}
    try:
        for key, value in values.items():
            content = value.encode(errors="surrogateescape")
            os.setxattr(directory, f"user.worker.{key}", content)
            if key in (STARTED, DECLARATION):  # what we go by ourselves
                with suppress(PermissionError):
                    os.setxattr(directory, f"{cgroup.TRUSTED}{key}", content)
    except OSError as error:
        if error.errno in (errno.E2BIG, errno.ENOSPC, errno.ERANGE):
            raise InputError(
                f"{spec.name}: its command, environment and metadata are {len(declaration)} bytes, "
                "more than the kernel keeps on a cgroup (65536); put them into a file"
            ) from error
        if error.errno != errno.EOPNOTSUPP:
            raise
        log.warn(
            "this kernel keeps no metadata on cgroups, Linux 5.7 does",
            service=spec.service,
            instance=spec.instance,
        )


def delegate(directory: str, account: Account) -> None:
    """Give a cgroup to the worker's user, so that it can make others below it. Raises OSError."""
    name, depth = MAX_DEPTH
    Path(directory, name).write_text(depth)
    for name in DELEGATED:
        os.chown(f"{directory}{name}", account.uid, account.gid)


def metadata(attributes: Mapping[str, str]) -> Mapping[str, str]:
    """What of a worker's attributes is metadata: not the times, nor what is only ours."""
    return {
        key: value
        for key, value in attributes.items()
        if METADATA_KEY.fullmatch(key) and key not in (STARTED, DECLARATION)
    }


def started(attributes: Mapping[str, str]) -> float | None:
    """When the worker was started, in seconds since the epoch."""
    with suppress(KeyError, ValueError):
        seconds = float(attributes[STARTED])
        return seconds if math.isfinite(seconds) else None
    return None


def main_process(directory: str, attributes: Mapping[str, str]) -> int | None:
    """The PID of the command that was started, None once it ended; where the kernel keeps no
    attributes, of the first process.
    """
    noted = attributes.get(MAIN_PROCESS.removeprefix("user.worker."))
    if noted is None:
        return next(iter(cgroup.pids(directory)), None)
    with suppress(OSError, ValueError, IndexError):
        pid, began = noted.split()
        with open(f"/proc/{int(pid)}/stat", encoding="utf-8", errors="replace") as stat:
            fields = stat.read().rpartition(") ")[2].split()
        if fields[19] == began and fields[0] not in "ZX":
            return int(pid)
    return None
