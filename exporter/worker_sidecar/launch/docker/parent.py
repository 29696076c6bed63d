"""The cgroups that containers are put into, prepared before the containers and removed after."""

import os
from collections.abc import Sequence

from worker_exporter import log
from worker_exporter.cgroup.identity import slice_path
from worker_sidecar.launch import applied, cgroup
from worker_sidecar.launch.cgroupfs.hierarchy import create_hierarchy
from worker_sidecar.launch.declaration import image_of
from worker_sidecar.launch.docker import slices
from worker_sidecar.launch.docker.daemon import connect
from worker_sidecar.launch.docker.drivers import (
    directory_of,
    driver_of,
    mount_of,
    place_of,
    systemd_runs,
)
from worker_sidecar.launch.docker.place import Place, pattern, possible
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.names import check_names, check_service
from worker_sidecar.launch.site import Site


def cgroup_parent(site: Site, service: str, instance: str | None, socket: str) -> str:
    """What --cgroup-parent, or cgroup_parent: in a compose file, takes to make a container a worker
    of `service`, by the driver of the daemon on `socket`. The slice or directory is prepared.

    With an instance the worker has that name, and without it the first 12 digits of the
    container's id. Raises InputError, RefusedError, InputOutputError or CreationFailedError.
    """
    if instance is None:
        check_service(service)
    else:
        check_names(service, instance)
    mount_of(site)
    place = place_of(site, driver_of(connect(socket).info(), socket), service, instance)
    prepare(site, place, *([None] if instance is None else [None, None]))
    return place.parent


def prepare(site: Site, place: Place, *bounds: Limits | None) -> None:
    """Make the cgroup `place`, with `bounds`: its own limits, then those of the cgroups above it.
    They take the place of those that were set there before; None leaves them.

    Raises CreationFailedError, or InputError for an IO limit of no disk.
    """
    if place.unit is not None:
        for command in slice_commands(place, *bounds):
            slices.run(command)
        return
    mount = mount_of(site)
    create_hierarchy(mount, place.cgroup)
    for path, limits in _levels(place, bounds):
        applied.replace(f"{mount}/{path}", limits)
    if systemd_runs():
        flag = f"--worker.pattern={pattern(site.slice_name)}"
        log.info("this worker is outside of its slice; the exporter needs a flag", flag=flag)


def slice_commands(place: Place, *bounds: Limits | None) -> Sequence[Sequence[str]]:
    """What prepare() does for a slice, as commands."""
    units = [(os.path.basename(path), limits) for path, limits in _levels(place, bounds)]
    set_up = [slices.set_command(unit, limits) for unit, limits in units]
    return (*set_up, slices.start_command(units[-1][0]))


def clear(site: Site, place: Place) -> None:
    """Remove the cgroup `place`, where no process lives any more; gone is fine.

    Raises InputOutputError when it does not go.
    """
    directory = directory_of(site, place)
    if place.unit is None:
        cgroup.remove(directory)
    elif slices.known(place.unit) or os.path.isdir(directory):
        slices.remove(place.unit)


def left_of(site: Site, service: str, instance: str) -> Sequence[Place]:
    """The places of a worker that a container was to be put into and that are still there."""
    return [place for place in possible(site.slice_name, service, instance) if _left(site, place)]


def _left(site: Site, place: Place) -> bool:
    directory = directory_of(site, place)
    if place.unit is not None:
        return slices.known(place.unit) or os.path.isdir(directory)
    if place.cgroup.startswith(f"{slice_path(site.slice_name)}/"):
        # a plain process's directory may have the same name
        return image_of(cgroup.attributes(directory).get("declaration")) is not None
    return os.path.isdir(directory)


def _levels(place: Place, bounds: Sequence[Limits | None]) -> Sequence[tuple[str, Limits | None]]:
    """The path of each cgroup and its limits, from the top down."""
    paths = [place.cgroup]
    while len(paths) < len(bounds):
        paths.append(os.path.dirname(paths[-1]))
    return list(zip(paths, bounds, strict=True))[::-1]
