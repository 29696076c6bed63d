"""A whole configuration: what one sidecar may write, start and answer for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from worker_sidecar.errors import NotFoundError
from worker_sidecar.launch.limits import Limits
from worker_sidecar.launch.names import check_names
from worker_sidecar.ownership import Ownership
from worker_sidecar.spec.declared import Declared, Service
from worker_sidecar.spec.model import DEFAULT_SLICE, InstanceEntry
from worker_sidecar.spec.values import Wanted
from worker_sidecar.spec.worker import build


@dataclass(frozen=True, slots=True)
class Config:
    """What workers.yaml says. `path` is None where there is no file.

    `workers` are the declared ones in the order of the file; `host_limits` hold for all workers
    together, None without a file; `free_commands`: a request to the API may bring a command of its
    own.
    """

    path: str | None
    slice_name: str
    ownership: Ownership
    workers: tuple[Declared, ...] = ()
    services: Mapping[str, Service] = field(default_factory=dict)
    host_limits: Limits | None = None
    free_commands: bool = False

    def find(self, service: str, instance: str) -> Declared | None:
        """The declared worker of this name."""
        for declared in self.workers:
            if (declared.spec.service, declared.spec.instance) == (service, instance):
                return declared
        return None

    def total(self, service: str) -> Limits | None:
        """The limits of all workers of a service together, None where it is not declared."""
        found = self.services.get(service)
        return None if found is None else found.total

    def request(self, service: str, instance: str, parameters: Mapping[str, object]) -> Declared:
        """A worker of a declared service with the `parameters` that were chosen for it.

        What is not chosen is as the file says of the instance, then of the service. Types are
        taken strictly; texts of a command line go through Service.typed() before. Raises
        NotFoundError for a service that is not declared, InputError for what cannot be.
        """
        check_names(service, instance)
        found = self.services.get(service)
        if found is None:
            known = ", ".join(self.services) or "none"
            raise NotFoundError(f"there is no service {service!r}; declared are: {known}")
        entry = found.entry.instances.get(instance, InstanceEntry())
        return build(Wanted(found, instance, entry, found.check(parameters)), self.host_limits)


EMPTY = Config(None, DEFAULT_SLICE, Ownership((DEFAULT_SLICE,)))
"""A host without a file."""
