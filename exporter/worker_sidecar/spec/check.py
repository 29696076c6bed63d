"""What single values cannot tell: whether the parts of a file fit together, and the host."""

from collections.abc import Iterator, Mapping, Sequence

from worker_sidecar.errors import InputError, PermissionDeniedError
from worker_sidecar.ownership import Ownership
from worker_sidecar.spec import groups, secret, users
from worker_sidecar.spec.declared import Declared
from worker_sidecar.spec.model import File, InstanceEntry, ServiceEntry
from worker_sidecar.spec.problems import Key, Problem
from worker_sidecar.spec.template import unknown
from worker_sidecar.spec.values import BUILT_IN, DECLARABLE
from worker_sidecar.spec.worker import templates


def examine_templates(file: File) -> Iterator[Problem]:
    """Parameters and tokens that do not fit; the workers of such a service cannot be built."""
    for name, service in file.services.items():
        yield from _parameters(("services", name), service)
        yield from _tokens(("services", name), service)


def examine(file: File, ownership: Ownership, workers: Sequence[Declared]) -> Iterator[Problem]:
    """All else that does not fit; `workers` are those that could be built."""
    yield from _slices(file, ownership)
    for name, service in file.services.items():
        yield from _user_and_secrets(("services", name), service, file.services)
    yield from _ports(workers)
    yield from groups.examine(file)


def _slices(file: File, ownership: Ownership) -> Iterator[Problem]:
    """The slice, and the services' slices below it, that are not ours to write."""
    stem = file.slice.removesuffix(".slice")
    own = {f"{stem}-{name}.slice": ("services", name) for name in file.services}
    for slice_name, key in {file.slice: ("slice",), **own}.items():
        try:
            ownership.check(slice_name)
        except PermissionDeniedError as error:
            yield Problem(key, str(error), refused=True)
            if slice_name == file.slice:
                return
        except InputError as error:
            yield Problem(key, str(error))


def _parameters(key: Key, service: ServiceEntry) -> Iterator[Problem]:
    for name, parameter in service.parameters.items():
        if name not in BUILT_IN or parameter.type == DECLARABLE.get(name):
            continue
        declarable = DECLARABLE.get(name)
        text = f"must have type {declarable}" if declarable else "is a token's name already"
        yield Problem((*key, "parameters", name), text)
    for instance, entry in service.instances.items():
        for name in entry.parameters:
            if name not in service.parameters:
                text = f"is no parameter of the service; it has {_listed(service.parameters)}"
                yield Problem((*key, "instances", instance, "parameters", name), text)


def _tokens(key: Key, service: ServiceEntry) -> Iterator[Problem]:
    known = (*BUILT_IN, *(name for name in service.parameters if name not in BUILT_IN))
    for place, text in templates(service, InstanceEntry()).items():
        fault = unknown(text, known)
        if fault:
            yield Problem((*key, *_split(place)), fault)
    for name, instance in service.instances.items():
        for variable, text in instance.env.items():
            fault = unknown(text, known)
            if fault:
                yield Problem((*key, "instances", name, "env", variable), fault)


def _user_and_secrets(
    key: Key, service: ServiceEntry, services: Mapping[str, ServiceEntry]
) -> Iterator[Problem]:
    others = {name: other for name, other in services.items() if name != key[-1]}
    faults = [
        secret.examine((*key, "secrets", name), path) for name, path in service.secrets.items()
    ]
    if service.secret_env is not None:
        faults.append(secret.examine((*key, "secret_env"), service.secret_env))
    faults += [users.examine(key, service), users.examine_for_secrets(key, service, others)]
    yield from (fault for fault in faults if fault)


def _ports(workers: Sequence[Declared]) -> Iterator[Problem]:
    taken: dict[str, str] = {}
    for declared in workers:
        spec = declared.spec
        port = spec.metadata.get("port")
        if port in taken:
            key = ("services", spec.service, "instances", spec.instance)
            yield Problem(key, f"port {port} is {taken[port]}'s already; give each its own")
        elif port is not None:
            taken[port] = spec.name


def _split(place: str) -> Key:
    """The key of a template below its service, with the places in lists as numbers."""
    return tuple(int(part) if part.isdigit() else part for part in place.split("."))


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(names) or "none"
