"""The start of a worker in Docker as lines for a shell."""

import os
import shlex
from collections.abc import Iterator, Sequence

from worker_sidecar.launch import applied
from worker_sidecar.launch.account import Account
from worker_sidecar.launch.cgroupfs import hierarchy
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.docker import creation, parent
from worker_sidecar.launch.docker.creation import Recipe
from worker_sidecar.launch.docker.drivers import directory_of, mount_of
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.site import Site


def command_lines(site: Site, recipe: Recipe, owner: Account, socket: str) -> Sequence[str]:
    """What a start does, in its order. `owner` is whose the secrets will be."""
    return [
        *_prepare(site, recipe),
        *_stamp(directory_of(site, recipe.place), recipe),
        *_secrets(recipe, owner),
        shlex.join(creation.command(recipe, socket)),
    ]


def _prepare(site: Site, recipe: Recipe) -> Iterator[str]:
    spec, place = recipe.spec, recipe.place
    bounds = (spec.limits, spec.service_limits, spec.host_limits)
    if place.unit is not None:
        yield from map(shlex.join, parent.slice_commands(place, *bounds))
        return
    directory = mount_of(site)
    controllers = hierarchy.available(directory)
    for name in place.cgroup.split("/"):
        for controller in controllers:
            yield _echo(f"+{controller}", f"{directory}/cgroup.subtree_control")
        directory = f"{directory}/{name}"
        yield f"mkdir -p {shlex.quote(directory)}"
    for limits in bounds:
        yield from _limit(directory, limits)
        directory = os.path.dirname(directory)


def _limit(directory: str, limits: Limits) -> Iterator[str]:
    for name, value in applied.writes(directory, limits):
        yield _echo(value, f"{directory}/{name}")


def _stamp(directory: str, recipe: Recipe) -> Iterator[str]:
    quoted = shlex.quote(directory)
    yield f'setfattr -n user.worker.started -v "$(date +%s.%3N)" {quoted}'
    for key, value in {**recipe.spec.attributes, "declaration": encode(recipe.spec)}.items():
        yield f"setfattr -n user.worker.{key} -v {shlex.quote(_text(value))} {quoted}"


def _secrets(recipe: Recipe, owner: Account) -> Iterator[str]:
    for name, file in recipe.secrets.items():
        source = recipe.spec.secrets[name]
        yield shlex.join(["install", "-d", "-m", "0711", os.path.dirname(file)])
        user = [f"--owner={owner.uid}", f"--group={owner.gid}"]
        yield shlex.join(["install", "-m", "0400", *user, source, file])


def _echo(value: str, path: str) -> str:
    return f"echo {shlex.quote(value)} > {shlex.quote(path)}"


def _text(value: str) -> str:
    """`value` as setfattr takes it, which otherwise reads 0x... and backslashes its own way."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
