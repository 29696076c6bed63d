"""Resource groups: what the parts may take of a whole."""

from collections.abc import Iterator, Sequence

from worker_sidecar.launch.limits import Limits, cpu_list, cpu_set
from worker_sidecar.spec.model import File, InstanceEntry, ServiceEntry
from worker_sidecar.spec.problems import Key, Problem
from worker_sidecar.spec.worker import limits_of


def examine(file: File) -> Iterator[Problem]:
    """Parts that do not fit: workers into their service, services into the host."""
    host = file.total.limits
    for name, service in file.services.items():
        key: Key = ("services", name)
        total = service.total.limits
        yield from _workers_in_service(key, service, total)
        yield from _cpus_within((*key, "total", "cpus"), total, host, "the host's total")
        if total.cpus is None:
            for place, limits in _parts(key, service):
                yield from _cpus_within(place, limits, host, "the host's total")
    parts = [_memory(service) for service in file.services.values()]
    yield from _memory_within(("total", "memory"), parts, host, "services")


def _workers_in_service(key: Key, service: ServiceEntry, total: Limits) -> Iterator[Problem]:
    for place, limits in _parts(key, service):
        yield from _cpus_within(place, limits, total, "the service's total")
    workers = [limits_of(service, instance).memory for instance in service.instances.values()]
    # A service without instances still says how large one is that is asked for.
    yield from _memory_within(
        (*key, "total", "memory"), workers or [service.limits.memory], total, "instances"
    )


def _parts(key: Key, service: ServiceEntry) -> Iterator[tuple[Key, Limits]]:
    """The limits of the service's workers, each with where its CPUs are given."""
    yield (*key, "limits", "cpus"), limits_of(service, InstanceEntry())
    for name, instance in service.instances.items():
        if instance.limits.cpus is not None:
            place = (*key, "instances", name, "limits", "cpus")
            yield place, limits_of(service, instance)


def _memory(service: ServiceEntry) -> int | None:
    """What a service may take: its total, else what its instances may."""
    if service.total.memory is not None:
        return service.total.memory
    parts = [limits_of(service, instance).memory for instance in service.instances.values()]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _memory_within(
    key: Key, parts: Sequence[int | None], whole: Limits, what: str
) -> Iterator[Problem]:
    together = sum(part for part in parts if part is not None)
    if whole.memory is not None and together > whole.memory:
        yield Problem(
            key,
            f"the {what} may take {_bytes(together)}, more than these {_bytes(whole.memory)};"
            " raise it, or lower theirs",
        )


def _cpus_within(key: Key, part: Limits, whole: Limits, whose: str) -> Iterator[Problem]:
    if part.cpus is None or whole.cpus is None:
        return
    outside = cpu_set(part.cpus) - cpu_set(whole.cpus)
    if outside:
        yield Problem(key, f"CPU {cpu_list(outside)} is not among {whose} ({whole.cpus})")


def _bytes(number: int) -> str:
    """`number` exactly, in the largest unit that leaves no rest."""
    for unit in ("", "K", "M", "G", "T"):
        if number % 1024 or number == 0:
            return f"{number}{unit}"
        number //= 1024
    return f"{number}P"
