"""Plain cgroup directories: below which one we may make them, and how, controllers included."""

import errno
import os
import uuid
from collections.abc import Sequence
from contextlib import suppress

from worker_exporter import log
from worker_sidecar.errors import CreationFailedError

LEAF = "worker-sidecar"
"""The cgroup below a delegated one that its own processes go to. The kernel enables controllers
for the cgroups below another one only while no process is in that itself.
"""

CONTROLLERS = ("cpu", "cpuset", "memory", "io", "pids")

_TRIES = 20
"""How often to begin again when others remove what we make, or fork while we move them."""


def base_of(mount: str, own_path: str | None = None) -> str:
    """The directory below which this process makes its slice.

    That is `mount`, the root of cgroup2, where it may be written to; else the process's own
    cgroup, where that is delegated to its user, or the cgroup above, when it is in LEAF itself.
    `own_path` is the path below `mount` to take for the own one.

    A unit delegates with Delegate=yes, leaves the workers alone with KillMode=process, and needs
    DelegateSubgroup=worker-sidecar (systemd 254) to be started again while one of them lives:
    systemd takes no process into a cgroup with controllers enabled for those below (219/CGROUP).
    """
    if os.access(mount, os.W_OK):
        return mount
    path = _own_path() if own_path is None else own_path
    own = f"{mount}{path}".rstrip("/")
    above = os.path.dirname(own)
    if os.path.basename(own) == LEAF and _delegated(above):
        return above
    return own if path != "/" and _delegated(own) else mount


def unavailable(mount: str, slice_name: str) -> str | None:
    """Why no cgroup can be made for `slice_name`, None when one can; tried by making another."""
    base = base_of(mount)
    probe = f"{base}/worker-sidecar-probe-{uuid.uuid4().hex}"
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError as error:
        reason = f"no cgroup for {slice_name} can be made in {base}: {error.strerror}"
        if os.geteuid() != 0 and base == mount:
            return f"{reason}, and the cgroup {_own_path()} is not delegated to uid {os.geteuid()}"
        return reason
    return None


def create_hierarchy(mount: str, path: str) -> Sequence[str]:
    """Make the cgroup `path` below the cgroup directory `mount`, with the controllers that are to
    be had enabled at each level above it. What is there already stays as it is.

    Returns the directories that were made, parents first. Raises CreationFailedError; nothing is
    left of it then.
    """
    made: list[str] = []
    for attempt in range(_TRIES):
        try:
            _make(mount, path, made)
            return made
        except OSError as error:
            if error.errno == errno.ENOENT and attempt < _TRIES - 1:
                continue  # somebody removed a directory while we made the next
            remove_made(made)
            raise CreationFailedError(
                f"cannot make the cgroup {mount}/{path}: {error.strerror}"
            ) from error
    return made


def remove_made(made: Sequence[str]) -> None:
    """Remove those of `made` (parents first) that are empty."""
    for directory in reversed(made):
        with suppress(OSError):
            os.rmdir(directory)


def available(directory: str) -> Sequence[str]:
    """The controllers that the cgroup `directory` can enable for those below it."""
    try:
        found = _read(f"{directory}/cgroup.controllers").split()
    except OSError:
        return ()
    return [name for name in CONTROLLERS if name in found]


def _make(mount: str, path: str, made: list[str]) -> None:
    directory = mount
    for name in path.split("/"):
        _enable(directory)
        directory = f"{directory}/{name}"
        try:
            os.mkdir(directory)
        except FileExistsError:
            continue
        if directory not in made:
            made.append(directory)


def _enable(directory: str) -> None:
    """One at a time, for one may be busy. What cannot be had shows when limits are read back."""
    with suppress(OSError):
        enabled = _read(f"{directory}/cgroup.subtree_control").split()
        missing = [name for name in available(directory) if name not in enabled]
        # the root alone, which has no cgroup.type, may have processes beside cgroups
        if missing and os.path.exists(f"{directory}/cgroup.type"):
            _clear_own(directory)
        for controller in missing:
            with suppress(OSError):
                _write(f"{directory}/cgroup.subtree_control", f"+{controller}")


def _clear_own(directory: str) -> None:
    """Move the processes of `directory` into LEAF below it, if this one is among them.

    Before the first controller is enabled: with processes in it the kernel enables some (cpu, pids)
    for threads, and then takes no process into the cgroups below. Raises OSError.
    """
    for _ in range(_TRIES):
        pids = _read(f"{directory}/cgroup.procs").split()
        if str(os.getpid()) in pids:
            _make_leaf(directory)
        elif not pids or not os.path.exists(f"{directory}/{LEAF}"):
            return
        for pid in pids:
            with suppress(ProcessLookupError):
                _write(f"{directory}/{LEAF}/cgroup.procs", pid)


def _make_leaf(directory: str) -> None:
    try:
        os.mkdir(f"{directory}/{LEAF}")
    except FileExistsError:
        return
    if os.path.isdir("/run/systemd/system"):
        log.warn(
            "while a worker lives systemd cannot start this unit again: "
            f"set DelegateSubgroup={LEAF} (systemd 254)",
            cgroup=directory,
        )


def _delegated(directory: str) -> bool:
    return os.access(directory, os.W_OK) and os.access(f"{directory}/cgroup.procs", os.W_OK)


def _own_path() -> str:
    """This process's cgroup below the root of cgroup2, from /proc/self/cgroup; "/" if unknown."""
    with suppress(OSError), open("/proc/self/cgroup", errors="surrogateescape") as lines:
        for line in lines:
            if line.startswith("0::/") and "/../" not in line:
                return line[3:].rstrip("\n")
    return "/"


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
