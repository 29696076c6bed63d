"""The start of a worker in Docker as lines for a shell."""

import os
import shlex
from collections.abc import Iterator, Sequence

from worker_sidecar.launch import applied
from worker_sidecar.launch.account import Account
from worker_sidecar.launch.cgroupfs import lines
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.docker import creation, parent
from worker_sidecar.launch.docker.creation import Recipe
from worker_sidecar.launch.docker.drivers import directory_of, mount_of
from worker_sidecar.launch.site import Site


def command_lines(site: Site, recipe: Recipe, owner: Account, socket: str) -> Sequence[str]:
    """What a start does, in its order. `owner` is whose the secrets will be."""
    spec = recipe.spec
    attributes = {**spec.attributes, "declaration": encode(spec)}
    return [
        *_prepare(site, recipe),
        *lines.mark(directory_of(site, recipe.place), attributes),
        *_secrets(recipe, owner),
        shlex.join(creation.command(recipe, socket)),
    ]


def _prepare(site: Site, recipe: Recipe) -> Iterator[str]:
    spec, place = recipe.spec, recipe.place
    above = (spec.service_limits, spec.host_limits)
    if place.unit is not None:
        yield from map(shlex.join, parent.slice_commands(place, spec.limits, *above))
        return
    mount = mount_of(site)
    yield from lines.make(mount, place.cgroup)
    directory = f"{mount}/{place.cgroup}"
    yield from lines.limit(directory, applied.writes(directory, spec.limits))
    for limits in above:
        directory = os.path.dirname(directory)
        yield from lines.limit(directory, applied.changes(directory, limits))


def _secrets(recipe: Recipe, owner: Account) -> Iterator[str]:
    for name, file in recipe.secrets.items():
        source = recipe.spec.secrets[name]
        yield shlex.join(["install", "-d", "-m", "0711", os.path.dirname(file)])
        user = [f"--owner={owner.uid}", f"--group={owner.gid}"]
        yield shlex.join(["install", "-m", "0400", *user, source, file])
