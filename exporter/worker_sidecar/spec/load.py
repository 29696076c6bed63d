"""workers.yaml, from the file to the configuration."""

import os
import stat
from collections.abc import Iterable, Sequence
from dataclasses import replace

from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.launch.limits import Limits
from worker_sidecar.ownership import HOST_OWNERS, OURSELVES, Ownership
from worker_sidecar.spec.check import examine, examine_templates
from worker_sidecar.spec.config import Config
from worker_sidecar.spec.declared import Declared, Service
from worker_sidecar.spec.document import DocumentError, Node, line_of, parse, plain
from worker_sidecar.spec.model import File
from worker_sidecar.spec.problems import Problem, error
from worker_sidecar.spec.validated import validate
from worker_sidecar.spec.values import Wanted
from worker_sidecar.spec.worker import build

MAX_BYTES = 1 << 20
"""No file that a person keeps is larger."""


def load(path: str) -> Config:
    """The configuration in the file at `path`.

    Raises InputError for what is wrong in it, a line "FILE:LINE: KEY: what and what to do" for
    each fault, or RefusedError when nothing is wrong but files of secrets that others can read,
    users that cannot keep them, or a file that everybody can write. Nothing of a file with a fault
    is used.
    """
    try:
        root, problems = parse(_read(path))
    except DocumentError as fault:
        raise error([fault.problem], path) from None
    if root is None:
        raise InputError(f"{path}: is empty; it needs at least a key services")
    file, faults = validate(plain(root))
    found: Sequence[Problem] = [*problems, *faults]
    if file is None or found:
        raise error(_located(found, root), path)
    config, found = _config(path, file)
    if found:
        raise error(_located(found, root), path)
    return config


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else fault
        raise InputError(f"{path}: cannot be read: {reason}") from None
    if mode & stat.S_IWOTH and stat.S_ISREG(mode):
        raise RefusedError(f"{path}: can be written by everybody: chmod o-w {path}")
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES >> 20} MiB; is it the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        raise InputError(f"{path}:{line}: is not UTF-8; save it so") from None


def _config(path: str, file: File) -> tuple[Config, Sequence[Problem]]:
    """The configuration, and all that does not fit together in it."""
    services = {name: Service(name, entry) for name, entry in file.services.items()}
    problems = list(examine_templates(file))
    broken = {problem.key[1] for problem in problems}
    sound = [service for name, service in services.items() if name not in broken]
    workers, faults = _workers(sound, file.total.limits)
    ownership = _ownership(file)
    problems += [*faults, *examine(file, ownership, workers)]
    config = Config(
        path=path,
        slice_name=file.slice,
        ownership=ownership,
        workers=workers,
        services=services,
        host_limits=file.total.limits,
        free_commands=file.api.free_commands,
    )
    return config, problems


def _workers(
    services: Iterable[Service], host_limits: Limits
) -> tuple[tuple[Declared, ...], Sequence[Problem]]:
    """The workers that can be built, and what hinders the others."""
    workers: list[Declared] = []
    problems: list[Problem] = []
    for service in services:
        for instance, entry in service.entry.instances.items():
            try:
                workers.append(build(Wanted(service, instance, entry, {}), host_limits))
            except InputError as fault:
                key = ("services", service.name, "instances", instance)
                problems.append(Problem(key, str(fault)))
    return tuple(workers), problems


def _ownership(file: File) -> Ownership:
    """Ours are the slice, unless somebody else is named as its owner, and those named as ours."""
    owners = {**HOST_OWNERS, **file.owners}
    own = {file.slice: owners.get(file.slice, OURSELVES), **file.owners}
    return Ownership(
        tuple(name for name, owner in own.items() if owner == OURSELVES),
        {name: owner for name, owner in file.owners.items() if owner != OURSELVES},
    )


def _located(problems: Iterable[Problem], root: Node) -> Sequence[Problem]:
    return [
        replace(problem, line=problem.line or line_of(root, problem.key)) for problem in problems
    ]
