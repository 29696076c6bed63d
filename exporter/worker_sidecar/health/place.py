"""Where a living worker's cgroup is, and what a probe leaves on it."""

import errno
import os
from collections.abc import Callable, Iterator

from worker_exporter.cgroup.identity import slice_path
from worker_exporter.cgroup.metadata import HEALTH
from worker_sidecar.launch.cgroupfs.hierarchy import base_of
from worker_sidecar.launch.docker.place import possible
from worker_sidecar.launch.site import Site


def living(site: Site) -> Callable[[str, str], str | None]:
    """Finds the cgroup directory of a worker (service, instance) that has a living process; None
    where there is none. Reads nothing but cgroup.events, so that it never waits for systemd or
    Docker.
    """

    def place(service: str, instance: str) -> str | None:
        return next(filter(_populated, _candidates(site, service, instance)), None)

    return place


def write(directory: int, *, ready: bool, time: float, interval: float) -> None:
    """Put `user.worker.health` on the cgroup that the descriptor `directory` is open on, unless
    it is gone. `time` is in seconds since the epoch. Raises OSError.
    """
    value = f"{int(ready)} {time:.3f} {interval:g}"
    try:
        os.setxattr(directory, HEALTH, value.encode())
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise


def open_directory(path: str) -> int | None:
    """A descriptor of this very cgroup, which a later one of the same name is not; None: gone."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def _candidates(site: Site, service: str, instance: str) -> Iterator[str]:
    """A unit's, and what may be around a container, or a process without systemd; each in the
    system's part of the tree, in our own part of it, and in that of our own systemd manager.
    """
    if site.mount is None:
        return
    group = f"{site.slice_name.removesuffix('.slice')}-{service}"
    unit = f"{slice_path(f'{group}.slice')}/{group}@{instance}.service"
    others = [place.cgroup for place in possible(site.slice_name, service, instance)]
    uid = os.geteuid()
    manager = f"{site.mount}/user.slice/user-{uid}.slice/user@{uid}.service"
    for root in dict.fromkeys((site.mount, base_of(site.mount), manager)):
        yield from (f"{root}/{path}" for path in (unit, *others))


def _populated(directory: str) -> bool:
    try:
        with open(f"{directory}/cgroup.events", "rb", buffering=0) as events:
            return b"populated 1" in events.read(4096)
    except OSError:
        return False
