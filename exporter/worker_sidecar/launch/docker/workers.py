"""The workers among a daemon's containers, and how each of them is."""

import os
from collections.abc import Mapping, Sequence

from worker_sidecar.errors import NotFoundError
from worker_sidecar.launch import applied, cgroup
from worker_sidecar.launch.declaration import limits_of
from worker_sidecar.launch.docker.container import (
    INSTANCE,
    SERVICE,
    SLICE,
    Container,
    container_of,
)
from worker_sidecar.launch.docker.creation import own_limits
from worker_sidecar.launch.docker.daemon import Daemon
from worker_sidecar.launch.docker.drivers import directory_of, mount_of
from worker_sidecar.launch.launcher import Status
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.names import check_names
from worker_sidecar.launch.site import Site


def every(daemon: Daemon, site: Site) -> Sequence[Container]:
    """The workers below the slice, by service and instance."""
    found = _labelled(daemon, site, {})
    return sorted(found, key=lambda container: (container.service, container.instance))


def find(daemon: Daemon, site: Site, service: str, instance: str) -> Container | None:
    """The worker of that name, None where there is none."""
    check_names(service, instance)
    found = _labelled(daemon, site, {SERVICE: service, INSTANCE: instance})
    return next((container for container in found if container.alive), next(iter(found), None))


def known(daemon: Daemon, site: Site, service: str, instance: str) -> Container:
    """The worker of that name. Raises NotFoundError."""
    container = find(daemon, site, service, instance)
    if container is None:
        raise unknown(service, instance)
    return container


def unknown(service: str, instance: str) -> NotFoundError:
    """There is no such worker."""
    return NotFoundError(f"there is no worker {service}/{instance} in Docker")


def status_of(site: Site, container: Container) -> Status:
    """The container as a worker, its limits and metadata read back from the kernel."""
    return Status(
        service=container.service,
        instance=container.instance,
        launcher="docker",
        state=container.state,
        cgroup=container.place.cgroup,
        unit=container.place.unit,
        container=container.id,
        pid=container.pid,
        started=container.started,
        restarts=container.restarts,
        result=container.result,
        exit_status=container.exit_status,
        unapplied=_unapplied(site, container) if container.alive else (),
        metadata=_metadata(directory_of(site, container.place)),
        declaration=container.declaration,
    )


def _metadata(directory: str) -> Mapping[str, str]:
    found = cgroup.attributes(directory)
    return {key: value for key, value in found.items() if key != "declaration"}


def _labelled(daemon: Daemon, site: Site, labels: Mapping[str, str]) -> list[Container]:
    mount = mount_of(site)
    ids = daemon.containers({SLICE: site.slice_name, **labels})
    answers = [answer for found in ids if (answer := daemon.inspect(found)) is not None]
    workers = (container_of(answer, site.slice_name, mount) for answer in answers)
    return [container for container in workers if container is not None]


def _unapplied(site: Site, container: Container) -> tuple[str, ...]:
    """The limits that hold neither around the container nor on it: one of both is enough."""
    limits = limits_of(container.declaration)
    around = directory_of(site, container.place)
    on_it = f"{around}/{_own_cgroup(container)}"
    missing = applied.unapplied(around, limits)
    if not missing or not os.path.isdir(on_it):
        return missing
    own = own_limits(limits)
    held = {name for name in missing if _given(own, name)} - {*applied.unapplied(on_it, own)}
    return tuple(name for name in missing if name not in held)


def _own_cgroup(container: Container) -> str:
    """The name of the container's own cgroup, which the daemon's driver gives it."""
    return container.id if container.place.unit is None else f"docker-{container.id}.scope"


def _given(limits: Limits, name: str) -> bool:
    value = limits.swap_max if name == "swap" else getattr(limits, name)
    return value not in (None, ())
