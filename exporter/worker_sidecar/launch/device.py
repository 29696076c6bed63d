"""The block device that an IO limit is about."""

import os
import re
import stat

from worker_sidecar.errors import InputError

_ESCAPE = re.compile(r"\\([0-7]{3})")


def device_of(
    path: str, sysfs: str = "/sys", mountinfo: str = "/proc/self/mountinfo"
) -> tuple[int, int]:
    """Major and minor number of the whole disk that `path` is the node or a partition of, or that
    the file system lies on which holds `path`; the kernel limits whole disks only.

    Raises InputError when `path` is not there, or no block device is behind it.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no name of a file"
        raise InputError(f"limit io: {path}: {reason}") from error
    if stat.S_ISCHR(found.st_mode):
        raise InputError(f"limit io: {path} is no block device")
    device = found.st_rdev if stat.S_ISBLK(found.st_mode) else found.st_dev
    if os.major(device) == 0:  # btrfs and others number their volumes themselves
        device = _mounted_device(device, path, mountinfo)
    return _whole_disk(os.major(device), os.minor(device), path, sysfs)


def _mounted_device(device: int, path: str, mountinfo: str) -> int:
    """The block device that the file system `device` was mounted from, see
    proc_pid_mountinfo(5).
    """
    kind = "a file system without a block device"
    for source, name in _mounts(os.path.realpath(path), device, mountinfo):
        try:
            node = os.stat(source)
        except OSError:
            node = None
        if node is not None and stat.S_ISBLK(node.st_mode):
            return node.st_rdev
        kind = name
    raise InputError(f"limit io: {path} lies on {kind}: name the disk itself, as in /dev/sda")


def _mounts(path: str, device: int, mountinfo: str) -> list[tuple[str, str]]:
    """Source and type of the mounts that `path` may lie on, the nearest mount point first."""
    found = []
    with open(mountinfo, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            left, _, right = line.rstrip("\n").partition(" - ")
            point = _unescaped(left.split(" ")[4])
            kind, source, *_ = right.split(" ")
            own = left.split(" ")[2] == f"{os.major(device)}:{os.minor(device)}"
            if own or f"{path}/".startswith(f"{point.rstrip('/')}/"):
                found.append((own, len(point), _unescaped(source), kind))
    # btrfs shows another number in mountinfo than stat() does, hence the mount point as well
    found.sort(reverse=True)
    return [(source, kind) for _, _, source, kind in found[:1]]


def _whole_disk(major: int, minor: int, path: str, sysfs: str) -> tuple[int, int]:
    entry = os.path.realpath(f"{sysfs}/dev/block/{major}:{minor}")
    if not os.path.isdir(entry):
        raise InputError(f"limit io: {path} lies on device {major}:{minor}, which is no disk here")
    if os.path.exists(f"{entry}/partition"):
        entry = os.path.dirname(entry)
    with open(f"{entry}/dev", encoding="ascii") as file:
        whole = file.read().strip().split(":")
    return int(whole[0]), int(whole[1])


def _unescaped(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)
