"""Where the containers of a worker lie, by the daemon's cgroup driver: names and paths only."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from worker_exporter.cgroup.identity import slice_path


class Driver(StrEnum):
    """Who makes the daemon's cgroups: systemd, or the daemon itself (CgroupDriver in /info)."""

    SYSTEMD = "systemd"
    CGROUPFS = "cgroupfs"


@dataclass(frozen=True, slots=True)
class Place:
    """The cgroup that containers lie in. `parent` is what --cgroup-parent takes, `cgroup` the path
    below the cgroup root, `unit` the slice that it is, None for a plain directory.
    """

    parent: str
    cgroup: str
    unit: str | None = None


def in_slice(slice_name: str, service: str, instance: str | None) -> Place:
    """A slice: worker-llm-8090.slice for a worker, worker-llm.slice for a service."""
    unit = f"{'-'.join((_stem(slice_name), service, *_given(instance)))}.slice"
    return Place(unit, slice_path(unit), unit)


def in_directory(slice_name: str, service: str, instance: str | None, *, systemd: bool) -> Place:
    """A plain directory: worker.slice/llm/8090, and worker/llm/8090 where systemd runs, which would
    manage what lies in a slice, and take the containers' limits away.
    """
    root = _stem(slice_name) if systemd else slice_path(slice_name)
    path = "/".join((root, service, *_given(instance)))
    return Place(f"/{path}", path)


def possible(slice_name: str, service: str, instance: str) -> Sequence[Place]:
    """Every place that a worker's container may have, whatever the driver was when it started."""
    return (
        in_slice(slice_name, service, instance),
        in_directory(slice_name, service, instance, systemd=True),
        in_directory(slice_name, service, instance, systemd=False),
    )


def pattern(slice_name: str) -> str:
    """The exporter's --worker.pattern that finds what in_directory(systemd=True) places, and names
    a container right below its service by the first 12 digits of its id.
    """
    root = re.escape(_stem(slice_name))
    return rf"{root}/(?P<service>[^/]+)/(?P<instance>[^/]+?)(?:[0-9a-f]{{52}})?"


def container_name(slice_name: str, service: str, instance: str) -> str:
    """<stem>-<service>-<instance>, with _ for what Docker does not allow in a name."""
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", _stem(slice_name)).lstrip("_.-")
    return f"{stem}-{service}-{instance}"


def _stem(slice_name: str) -> str:
    return slice_name.removesuffix(".slice")


def _given(instance: str | None) -> tuple[str, ...]:
    return () if instance is None else (instance,)
