"""Lines for a shell that make, limit and mark a cgroup as the launchers do."""

import shlex
from collections.abc import Iterable, Iterator, Mapping

from worker_sidecar.launch.cgroupfs import hierarchy


def make(base: str, cgroup: str) -> Iterator[str]:
    """The cgroup `cgroup` below the directory `base`: each level, and on it the controllers that
    the root has and the level above hands on.
    """
    directory = base
    controllers = hierarchy.available(base)
    for name in cgroup.split("/"):
        for controller in controllers:
            yield _echo(f"+{controller}", f"{directory}/cgroup.subtree_control")
        directory = f"{directory}/{name}"
        yield f"mkdir -p {shlex.quote(directory)}"


def limit(directory: str, writes: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Writes of applied.writes() or applied.changes() to the files of `directory`."""
    for name, value in writes:
        yield _echo(value, f"{directory}/{name}")


def mark(directory: str, attributes: Mapping[str, str]) -> Iterator[str]:
    """The time of the start and `attributes` as the xattrs user.worker.* of `directory`."""
    quoted = shlex.quote(directory)
    yield f'setfattr -n user.worker.started -v "$(date +%s.%3N)" {quoted}'
    for key, value in attributes.items():
        yield f"setfattr -n user.worker.{key} -v {shlex.quote(_text(value))} {quoted}"


def _echo(value: str, path: str) -> str:
    return f"echo {shlex.quote(value.strip())} > {shlex.quote(path)}"


def _text(value: str) -> str:
    """`value` as setfattr takes it, which otherwise reads 0x... and backslashes its own way."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
