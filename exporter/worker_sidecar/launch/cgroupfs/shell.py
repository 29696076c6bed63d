"""The start of a worker in a plain cgroup as lines for a shell."""

import os
import shlex
from collections.abc import Iterator, Sequence

from worker_sidecar.launch import applied, spawn
from worker_sidecar.launch.cgroupfs import hierarchy, marks
from worker_sidecar.launch.declaration import encode
from worker_sidecar.launch.limits import Limits


def command_lines(base: str, cgroup: str, start: spawn.Start) -> Sequence[str]:
    """What a start in the cgroup `cgroup` below the directory `base` does, in its order."""
    spec = start.spec
    directory = f"{base}/{cgroup}"
    service = os.path.dirname(directory)
    own_slice = os.path.dirname(service)
    return [
        *_make(base, cgroup),
        *_limit(own_slice, spec.host_limits),
        *_limit(service, spec.service_limits),
        f'setfattr -n user.worker.started -v "$(date +%s.%3N)" {shlex.quote(directory)}',
        *(
            f"setfattr -n user.worker.{key} -v {shlex.quote(_text(value))} {shlex.quote(directory)}"
            for key, value in {**spec.attributes, marks.DECLARATION: encode(spec)}.items()
        ),
        *_limit(directory, spec.limits),
        *(_delegate(directory, start) if spec.delegate else ()),
        *spawn.command_lines(start, directory),
    ]


def _make(base: str, cgroup: str) -> Iterator[str]:
    """Each level, and on it the controllers that the root has and the level above hands on."""
    directory = base
    controllers = hierarchy.available(base)
    for name in cgroup.split("/"):
        for controller in controllers:
            yield f"echo +{controller} > {shlex.quote(f'{directory}/cgroup.subtree_control')}"
        directory = f"{directory}/{name}"
        yield f"mkdir -p {shlex.quote(directory)}"


def _limit(directory: str, limits: Limits) -> Iterator[str]:
    for name, value in applied.writes(directory, limits):
        yield f"echo {shlex.quote(value)} > {shlex.quote(f'{directory}/{name}')}"


def _delegate(directory: str, start: spawn.Start) -> Iterator[str]:
    paths = " ".join(shlex.quote(f"{directory}{name}") for name in marks.DELEGATED)
    yield f"chown {start.account.uid}:{start.account.gid} {paths}"


def _text(value: str) -> str:
    """`value` as setfattr takes it, which otherwise reads 0x... and backslashes its own way."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
