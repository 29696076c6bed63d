"""What a worker does not share with another one: its port and its GPUs."""

import dataclasses
from collections.abc import Iterable

from worker_sidecar import gpu
from worker_sidecar.errors import InputError, RefusedError
from worker_sidecar.launch import declaration
from worker_sidecar.launch.launcher import Status, WorkerSpec
from worker_sidecar.launch.names import claimed_port, port_of


def with_port(spec: WorkerSpec) -> WorkerSpec:
    """`spec` with the port that its instance's name is, unless it has one.

    Raises InputError when its metadata has one that cannot be.
    """
    given = spec.metadata.get("port")
    if given is not None:
        if port_of(given) is None:
            raise InputError(f"{spec.name}: port {given!r} is no number from 1 to 65535")
        return spec
    if claimed_port(spec.instance) is None:
        return spec
    return dataclasses.replace(spec, metadata={**spec.metadata, "port": spec.instance})


def check_port(spec: WorkerSpec, living: Iterable[Status]) -> None:
    """Raises RefusedError when one of the `living` workers has the port of `spec`."""
    port = spec.metadata.get("port")
    for status in living:
        if port is not None and _port(status) == port:
            raise RefusedError(f"{spec.name} was not started: {status.name} has the port {port}")


def _port(status: Status) -> str | None:
    """Of what it was started with, where that is known: a worker to whom its cgroup is delegated
    can write its metadata, and would keep others from any port.
    """
    if status.declaration is None:
        return status.metadata.get("port")
    return declaration.port_of(status.declaration)


def with_gpus(spec: WorkerSpec, living: Iterable[Status]) -> WorkerSpec:
    """`spec` with the GPUs it asks for, those of `living` workers last. Raises as gpu.choose."""
    if spec.gpu is None:
        return spec
    taken = [
        int(index)
        for status in living
        for index in status.metadata.get("gpu", "").split(",")
        if index.isascii() and index.isdigit()
    ]
    return dataclasses.replace(spec, gpus=gpu.choose(spec.gpu, taken))
