"""Where the cgroup2 hierarchy is mounted, on unified and on hybrid hosts."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from worker_exporter.errors import UserError


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount of cgroup2.

    `path` is the directory it is mounted on, `root` the part of the hierarchy that it shows
    ("/" for all of it, "/.." when the mount belongs to a foreign cgroup namespace).
    """

    path: str
    root: str = "/"

    @property
    def foreign(self) -> bool:
        """Whether the mount shows another cgroup namespace, so that its paths mean nothing here."""
        return self.root.startswith("/..")


def find_mount(procfs: str = "/proc") -> Mount:
    """The cgroup2 mount to read, from `<procfs>/self/mountinfo`.

    Raises UserError when there is none, or when mountinfo cannot be read.
    """
    mountinfo = f"{procfs}/self/mountinfo"
    try:
        with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
            mounts = parse_mountinfo(lines)
    except OSError as error:
        raise UserError(
            f"cannot read {mountinfo}: {error.strerror}; "
            "give the cgroup2 mount by --path.cgroupfs or another --path.procfs"
        ) from error
    if not mounts:
        raise UserError(
            f"no cgroup2 is mounted according to {mountinfo}; mount one "
            "(mount -t cgroup2 none /sys/fs/cgroup/unified) or name it by --path.cgroupfs"
        )
    return min(mounts, key=_rank)


def given_mount(path: str) -> Mount:
    """The cgroup2 mount the user named; on a hybrid host its `unified` directory is meant.

    Raises UserError when `path` is no directory or has neither cgroup2 files nor directories.
    """
    if not os.path.isdir(path):
        raise UserError(f"--path.cgroupfs: {path} is not a directory; name a cgroup2 mount")
    unified = os.path.join(path, "unified")
    if _is_cgroup2(unified) and not _is_cgroup2(path):
        return Mount(unified)
    return Mount(path)


def shows_part(path: str) -> bool:
    """Whether the mount on `path` begins below the host's root cgroup, as in a cgroup namespace of
    a container's own: the root cgroup alone has no cgroup.type.
    """
    return os.path.exists(f"{path}/cgroup.type")


def is_kernels(path: str) -> bool:
    """Whether the directory `path` is in a mounted cgroup2, not in a copy of one.

    Only the kernel's own tells by link counts and errors what happened to a cgroup.
    """
    try:
        device = os.stat(path).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            mounted = [line.split(" ", 3)[2] for line in lines if " - cgroup2 " in line]
    except OSError:
        return False
    return f"{os.major(device)}:{os.minor(device)}" in mounted


def parse_mountinfo(lines: Iterable[str]) -> list[Mount]:
    """The cgroup2 mounts among the lines of a mountinfo file, see proc_pid_mountinfo(5).

    A mount that a later one covers (the same mount point) is not among them.
    """
    mounts: dict[str, Mount] = {}
    for line in lines:
        fields, _, source = line.partition(" - ")
        columns = fields.split(" ")
        if len(columns) < 5:
            continue
        path = _unescape(columns[4])
        mounts.pop(path, None)
        if source.startswith("cgroup2 "):
            mounts[path] = Mount(path, _unescape(columns[3]))
    return list(mounts.values())


def _rank(mount: Mount) -> tuple[bool, bool, int]:
    """The mount that shows the host's root first, foreign namespaces last."""
    return mount.foreign, mount.root != "/", len(mount.root)


def _is_cgroup2(path: str) -> bool:
    return os.path.exists(os.path.join(path, "cgroup.controllers"))


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
