"""Who may write in which slice: each subtree has one writer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from worker_sidecar.errors import InputError, PermissionDeniedError

OURSELVES = "worker-sidecar"
"""The owner that stands for this sidecar in a map of owners."""

HOST_OWNERS: Mapping[str, str] = {
    "machine.slice": "systemd-machined",
    "system.slice": "systemd",
    "user.slice": "systemd-logind",
}
"""Whose the slices of every systemd host are, where no map of owners says otherwise."""

_PART = r"[A-Za-z0-9:_.\\]+"
_SLICE = re.compile(rf"{_PART}(?:-{_PART})*\.slice")
_LONGEST = 100
"""Leaves room for service and instance in the 255 characters of a unit's name."""


def check_slice(name: str) -> None:
    """Raises InputError when `name` cannot be the name of a slice of workers."""
    if not _SLICE.fullmatch(name) or name == ".slice" or len(name) > _LONGEST:
        raise InputError(
            f"{name!r} is no slice; it must look like worker.slice or my-team.slice,"
            f" at most {_LONGEST} characters"
        )


@dataclass(frozen=True, slots=True)
class Ownership:
    """`own` are the slices this sidecar writes below, `owners` whose the others are, by slice.

    A slice belongs to the owner of the nearest slice around it that is named: systemd nests by
    dashes, so my-team.slice lies in my.slice.
    """

    own: tuple[str, ...]
    owners: Mapping[str, str] = field(default_factory=dict)

    def check(self, slice_name: str) -> None:
        """Raises PermissionDeniedError unless the slice is ours, InputError if it is none."""
        check_slice(slice_name)
        owner = self.owner_of(slice_name)
        if owner == OURSELVES:
            return
        whose = f"belongs to {owner}" if owner else "is not one of ours"
        raise PermissionDeniedError(
            f"{slice_name} {whose}; worker-sidecar writes below {self._listed} only"
            ' (override: --emergency --reason "…")',
            owner,
        )

    @property
    def _listed(self) -> str:
        return " and ".join(self.own) or "slices of its own"

    def owner_of(self, place: str) -> str | None:
        """Whose a slice, or a path below the cgroup root, is; None when nobody is known.

        Ourselves are "worker-sidecar".
        """
        named = {**HOST_OWNERS, **self.owners, **dict.fromkeys(self.own, OURSELVES)}
        components = _components(place)
        around = [name for name in named if _begins(components, _components(name))]
        nearest = max(around, key=lambda name: len(_components(name)), default=None)
        return None if nearest is None else named[nearest]


def _components(place: str) -> tuple[str, ...]:
    """The cgroups from the root down to `place`: my-team.slice is in my.slice."""
    path = place.strip("/").split("/")
    if len(path) > 1 or not _SLICE.fullmatch(path[0]):
        return tuple(path)
    parts = path[0].removesuffix(".slice").split("-")
    return tuple("-".join(parts[: depth + 1]) + ".slice" for depth in range(len(parts)))


def _begins(components: tuple[str, ...], with_these: tuple[str, ...]) -> bool:
    return components[: len(with_these)] == with_these
