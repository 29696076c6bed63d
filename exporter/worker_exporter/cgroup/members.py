"""The cgroups that are told of: workers and the slices of services, and what lies above them."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from worker_exporter.cgroup.files import Cgroup
from worker_exporter.cgroup.identity import Identity


@dataclass(eq=False, slots=True)
class Ancestor(Cgroup):
    """A cgroup between the cgroup root and a member, shared by all members below it."""

    parent: "Ancestor | None" = None


@dataclass(eq=False, slots=True)
class Member(Cgroup):
    """A cgroup that has an identity. One that is made anew under the same name is another."""

    identity: Identity = field(default_factory=lambda: Identity("", ""))
    parent: Ancestor | None = None

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """The labels that every sample of this cgroup carries."""
        return self.identity.labels

    def ancestors(self) -> Iterator[Ancestor]:
        """The cgroups above, the nearest first, without the cgroup root."""
        ancestor = self.parent
        while ancestor is not None:
            yield ancestor
            ancestor = ancestor.parent


@dataclass(eq=False, slots=True)
class Worker(Member):
    """The cgroup of a worker."""


@dataclass(eq=False, slots=True)
class ServiceSlice(Member):
    """The slice, or plain directory, in which the workers of a service lie, or lay.

    Its identity has no instance.
    """


AnyMember = TypeVar("AnyMember", bound=Member)
