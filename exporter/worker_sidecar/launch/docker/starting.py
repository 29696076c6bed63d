"""The start of a worker: its cgroup with limits and metadata, then its container inside."""

import re
from contextlib import suppress

from worker_exporter import log
from worker_sidecar.errors import (
    AlreadyRunningError,
    CreationFailedError,
    InputError,
    InputOutputError,
    RefusedError,
    SidecarError,
)
from worker_sidecar.launch import cgroup, secrets, spawn
from worker_sidecar.launch.account import Account
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.docker import creation, parent, workers
from worker_sidecar.launch.docker.container import Container
from worker_sidecar.launch.docker.creation import Recipe
from worker_sidecar.launch.docker.daemon import Daemon, DaemonError
from worker_sidecar.launch.docker.drivers import directory_of, driver_of, mount_of, place_of
from worker_sidecar.launch.docker.ending import remove
from worker_sidecar.launch.docker.lock import locked
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.site import Site
from worker_sidecar.launch.stamp import stamp

_USER = re.compile(r"(?P<uid>[0-9]{1,10})(?::(?P<gid>[0-9]{1,10}))?")
_LARGEST_ID = 2**32 - 2


def recipe_of(site: Site, daemon: Daemon, spec: WorkerSpec) -> Recipe:
    """What is to be made for `spec`; nothing is made.

    Raises InputError or RefusedError for what Docker cannot do here.
    """
    image = creation.image_to_run(spec)
    mount_of(site)
    place = place_of(site, driver_of(daemon.info(), daemon.socket), spec.service, spec.instance)
    folder = spawn.credentials(site, spec.service, spec.instance)
    files = {name: f"{folder}/{name}" for name in spec.secrets}
    return Recipe(spec, image, place, site.slice_name, files)


def start(site: Site, daemon: Daemon, spec: WorkerSpec) -> Container:
    """Start the worker, see Launcher.start. Nothing of it is left when that fails."""
    recipe = recipe_of(site, daemon, spec)
    contents = secrets.read(spec.secrets)
    owner = owner_of_secrets(daemon, recipe)
    with locked(site, spec.service, spec.instance):
        _clear_ended(site, daemon, recipe)
        try:
            _prepare(site, recipe)
            folder = spawn.credentials(site, spec.service, spec.instance)
            secrets.place(folder, contents, owner)
            return _run(site, daemon, recipe)
        except BaseException:
            _undo(site, daemon, recipe)
            raise


def owner_of_secrets(daemon: Daemon, recipe: Recipe) -> Account:
    """The user inside the container, whose the files of secrets must be.

    Raises InputError when the image is not there, or when only the image knows the user's number.
    """
    spec = recipe.spec
    found = daemon.image(recipe.image)
    if found is None:
        raise InputError(
            f"the image {recipe.image} of {spec.name} is not on this host: "
            f"docker pull {recipe.image}"
        )
    user = spec.user or str((found.get("Config") or {}).get("User") or "0")
    match = _USER.fullmatch("0" if user == "root" else user)
    if match is None:
        if not spec.secrets:
            return Account(0, 0, (), switch=False)
        raise InputError(
            f"{spec.name} has secrets and runs as {user!r}, whose number only the image knows: "
            "give user as a number"
        )
    uid = int(match["uid"])
    gid = int(match["gid"] or uid)
    if max(uid, gid) > _LARGEST_ID:
        raise InputError(f"user {user!r} of {spec.name} is no uid: it goes to {_LARGEST_ID}")
    return Account(uid, gid, (), switch=True)


def _clear_ended(site: Site, daemon: Daemon, recipe: Recipe) -> None:
    """Remove what an earlier run, or a start that was killed, left of this worker."""
    spec = recipe.spec
    container = workers.find(daemon, site, spec.service, spec.instance)
    if container is not None and container.alive:
        raise AlreadyRunningError(
            f"{spec.name} is already running: container {container.id[:12]} is {container.state}"
        )
    directory = directory_of(site, recipe.place)
    if cgroup.populated(directory):
        raise RefusedError(
            f"something runs in {directory} already that this sidecar did not start: "
            f"processes {', '.join(map(str, cgroup.pids(directory)[:10]))}"
        )
    if container is not None:
        log.info(
            "an earlier run is removed",
            service=spec.service,
            instance=spec.instance,
            result=container.result,
            exit_status=container.exit_status,
        )
        remove(site, daemon, container)
    parent.clear(site, recipe.place)


def _prepare(site: Site, recipe: Recipe) -> None:
    """The cgroup, and on it the limits and the metadata, before the container joins."""
    spec = recipe.spec
    parent.prepare(site, recipe.place, spec.limits, spec.service_limits, spec.host_limits)
    try:
        metadata = {**spec.attributes, "declaration": encode(spec)}
        stamp(directory_of(site, recipe.place), metadata)
    except OSError as error:  # a worker without metadata is better than none
        log.warn("a worker's metadata was not written", worker=spec.name, err=error.strerror)


def _run(site: Site, daemon: Daemon, recipe: Recipe) -> Container:
    spec = recipe.spec
    try:
        made = daemon.create(recipe.name, creation.body(recipe))
        daemon.start(made)
    except DaemonError as error:
        raise CreationFailedError(f"cannot start {spec.name}: {_reason(error, recipe)}") from error
    container = workers.find(daemon, site, spec.service, spec.instance)
    if container is None:
        raise InputOutputError(f"{spec.name} was started, and somebody removed its container")
    return container


def _reason(error: DaemonError, recipe: Recipe) -> str:
    if error.code == 409:
        return f"a container {recipe.name} is there that is no worker: docker rm or rename it"
    return str(error)


def _undo(site: Site, daemon: Daemon, recipe: Recipe) -> None:
    """Remove all that was made. The first error is the one to tell: another one is only logged."""
    spec = recipe.spec
    try:
        container = workers.find(daemon, site, spec.service, spec.instance)
        if container is not None:
            remove(site, daemon, container)
    except SidecarError as error:
        log.warn("a container that failed may be left", worker=spec.name, err=str(error))
    with suppress(SidecarError):
        parent.clear(site, recipe.place)
    secrets.remove(spawn.credentials(site, spec.service, spec.instance))
