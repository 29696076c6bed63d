"""The start of a worker in a plain cgroup as lines for a shell."""

import os
import shlex
from collections.abc import Iterator, Sequence

from worker_sidecar.launch import applied, spawn
from worker_sidecar.launch.cgroupfs import lines, marks
from worker_sidecar.launch.declaration import encode


def command_lines(base: str, cgroup: str, start: spawn.Start) -> Sequence[str]:
    """What a start in the cgroup `cgroup` below the directory `base` does, in its order."""
    spec = start.spec
    directory = f"{base}/{cgroup}"
    service = os.path.dirname(directory)
    own_slice = os.path.dirname(service)
    return [
        *lines.make(base, cgroup),
        *lines.limit(own_slice, applied.changes(own_slice, spec.host_limits)),
        *lines.limit(service, applied.changes(service, spec.service_limits)),
        *lines.mark(directory, {**spec.attributes, marks.DECLARATION: encode(spec)}),
        *lines.limit(directory, applied.writes(directory, spec.limits)),
        *(_delegate(directory, start) if spec.delegate else ()),
        *spawn.command_lines(start, directory),
    ]


def _delegate(directory: str, start: spawn.Start) -> Iterator[str]:
    yield from lines.limit(directory, [marks.MAX_DEPTH])
    paths = " ".join(shlex.quote(f"{directory}{name}") for name in marks.DELEGATED)
    yield f"chown {start.account.uid}:{start.account.gid} {paths}"
