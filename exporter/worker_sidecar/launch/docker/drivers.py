"""Who makes a daemon's cgroups, and where that puts containers."""

import os

from worker_sidecar.errors import InputOutputError, RefusedError
from worker_sidecar.launch.docker.daemon import Json, connect
from worker_sidecar.launch.docker.place import Driver, Place, in_directory, in_slice
from worker_sidecar.launch.site import Site

_SYSTEMD = "/run/systemd/system"


def systemd_runs() -> bool:
    """Whether systemd is this host's init, see sd_booted(3)."""
    return os.path.isdir(_SYSTEMD)


def mount_of(site: Site) -> str:
    """The cgroup2 mount. Raises RefusedError where there is none."""
    if site.mount is None:
        raise RefusedError("this host has no cgroup2, without which a container is no worker")
    return site.mount


def directory_of(site: Site, place: Place) -> str:
    """The directory of the cgroup `place`."""
    return f"{mount_of(site)}/{place.cgroup}"


def driver_of(info: Json, socket: str) -> Driver:
    """The daemon's cgroup driver, from /info.

    Raises RefusedError for a daemon whose containers are in no cgroup2 of the system.
    """
    version, name = str(info.get("CgroupVersion")), str(info.get("CgroupDriver"))
    if version != "2":
        raise RefusedError(
            f"the Docker daemon on {socket} uses cgroup v{version.removeprefix('v')}; workers need "
            "v2: boot with systemd.unified_cgroup_hierarchy=1"
        )
    options = info.get("SecurityOptions") or ()
    if any(str(option).startswith("name=rootless") for option in options):
        raise RefusedError(
            f"the Docker daemon on {socket} is rootless: its containers are in its user's cgroups, "
            "out of reach of our slices; use the system's daemon"
        )
    try:
        return Driver(name)
    except ValueError:
        raise RefusedError(
            f"the Docker daemon on {socket} uses the cgroup driver {name!r}; "
            "set native.cgroupdriver to systemd or cgroupfs"
        ) from None


def place_of(site: Site, driver: Driver, service: str, instance: str | None) -> Place:
    """Where `driver` is to put the containers of a worker, or of a service (no instance)."""
    if driver is Driver.SYSTEMD:
        return in_slice(site.slice_name, service, instance)
    return in_directory(site.slice_name, service, instance, systemd=systemd_runs())


def driver(socket: str) -> str:
    """The cgroup driver of the daemon on `socket`: "systemd" or "cgroupfs".

    Raises InputOutputError where it does not answer, RefusedError where workers cannot be its.
    """
    return driver_of(connect(socket).info(), socket).value


def unavailable(socket: str) -> str | None:
    """Why no worker can be a container of the daemon on `socket`, None when one can."""
    try:
        driver(socket)
    except (InputOutputError, RefusedError) as error:
        return str(error)
    return None
