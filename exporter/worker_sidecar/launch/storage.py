"""What a container has of storage: paths of the host in it, and the size of its /dev/shm."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from worker_sidecar.errors import InputError
from worker_sidecar.launch.limits import LARGEST, parse_memory


@dataclass(frozen=True, slots=True)
class Volume:
    """A file or directory of the host, `source`, that a container sees as `target`."""

    source: str
    target: str
    read_only: bool = False


def parse_volume(text: str) -> Volume:
    """HOST:CONTAINER or HOST:CONTAINER:ro, as for `docker run --volume`. Raises InputError.

    Both paths are written plainly, so that what a request puts into one cannot lead out of it.
    """
    source, *rest = text.split(":")
    if len(rest) not in (1, 2) or rest[1:] not in ([], ["ro"]):
        raise InputError(f"volume {text!r}: give HOST:CONTAINER or HOST:CONTAINER:ro")
    target = rest[0]
    for path in (source, target):
        if not _plain(path):
            raise InputError(f"volume {text!r}: {path!r} is no plain absolute path such as /srv/a")
    if target == "/":
        raise InputError(f"volume {text!r}: a container's / is its image's; give a path below it")
    return Volume(source, target, read_only=len(rest) == 2)


def parse_shm_size(text: str) -> int:
    """Bytes; "1G" is 1024 cubed of them. Raises InputError."""
    try:
        size = parse_memory(text)
    except InputError:
        raise InputError(f"shm_size {text!r}: give bytes, as in 512M or 8G") from None
    check_shm_size(size)
    return size


def check_shm_size(size: int) -> None:
    """Raises InputError for one that Docker would take for another, or not at all."""
    # 0 is Docker's own default of 64M, and the kernel's tmpfs has whole pages
    if not 4096 <= size <= LARGEST:
        raise InputError(f"shm_size is {size}; it goes from 4096 to {LARGEST:g}")


def check_volumes(texts: Sequence[str]) -> None:
    """Raises InputError for one that cannot be, and for two in one place."""
    targets = [parse_volume(text).target for text in texts]
    for target in targets:
        if targets.count(target) > 1:
            raise InputError(f"two volumes are mounted on {target}; keep one")


def overlap(one: str, other: str) -> bool:
    """Whether one of the two paths is or lies in the other."""
    return os.path.commonpath([one, other]) in (one, other)


def needs_image(key: str) -> str:
    """What to say of somebody who has `key` and no image."""
    return f"has {key}, which only a container can have: give an image"


def _plain(path: str) -> bool:
    """Whether `path` is absolute and has no ., no .., no empty part and nothing invisible."""
    parts = path[1:].split("/")
    inside = path == "/" or not {"", ".", ".."} & set(parts)
    return path.startswith("/") and inside and path.isprintable()
