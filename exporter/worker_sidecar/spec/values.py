"""What the tokens of one worker stand for."""

from collections.abc import Mapping
from dataclasses import dataclass

from worker_sidecar.errors import InputError
from worker_sidecar.gpu.wanted import AUTO
from worker_sidecar.launch.names import claimed_port, port_of
from worker_sidecar.spec.declared import Service
from worker_sidecar.spec.model import InstanceEntry
from worker_sidecar.spec.parameter import Value, render
from worker_sidecar.spec.scalars import parse_port
from worker_sidecar.spec.template import tokens

BUILT_IN = ("service", "instance", "port", "model", "gpu")
"""The tokens of every service."""

DECLARABLE: Mapping[str, str] = {"port": "integer", "model": "string"}
"""Those of them that may be parameters too, with their types, so that requests can choose them."""

_HINTS = {
    "port": "name the instance by its port, or give it a port",
    "model": "give the instance a model",
    "gpu": "give the instance a gpu by number or UUID (what auto finds is known at the start only,"
    " and then in CUDA_VISIBLE_DEVICES or ROCR_VISIBLE_DEVICES)",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A worker that is wanted: its names, what the file says of it, and what a request chose."""

    service: Service
    instance: str
    entry: InstanceEntry
    chosen: Mapping[str, Value]

    @property
    def name(self) -> str:
        """service/instance."""
        return f"{self.service.name}/{self.instance}"

    @property
    def gpu(self) -> str | None:
        """Which GPU it is to have."""
        return self.entry.gpu or self.service.entry.gpu


def values_of(wanted: Wanted) -> Mapping[str, str]:
    """The values of all tokens that have one.

    Raises InputError for a parameter without a value, and for a port that cannot be.
    """
    given = {**_defaults(wanted), **_written(wanted), **wanted.chosen}
    for name in wanted.service.parameters:
        if name not in given:
            raise InputError(f"{wanted.name} needs the parameter {name}, which has no default")
    # A port that is the instance's name has to be one that the parameter allows, too.
    wanted.service.check({name: given[name] for name in wanted.service.parameters})
    values = {name: render(value) for name, value in given.items()}
    _check_port(wanted, values.get("port"))
    values |= {"service": wanted.service.name, "instance": wanted.instance}
    if wanted.gpu is not None and wanted.gpu != AUTO:
        values["gpu"] = wanted.gpu
    return values


def metadata_of(wanted: Wanted, values: Mapping[str, str]) -> Mapping[str, str]:
    """What is told of the worker. A number that only counts jobs is no port of it."""
    found = {name: values[name] for name in ("model", "port") if values.get(name)}
    if found.get("port") == wanted.instance and claimed_port(wanted.instance) is None:
        del found["port"]
    return found


def check_tokens(wanted: Wanted, values: Mapping[str, str], templates: Mapping[str, str]) -> None:
    """Raises InputError when one of the `templates`, by key, has a token without a value."""
    for key, text in templates.items():
        for token in tokens(text):
            if token not in values:
                hint = _HINTS.get(token, f"give it the parameter {token}")
                raise InputError(f"{wanted.name} has no {token} for {key}: {hint}")


def _defaults(wanted: Wanted) -> dict[str, Value]:
    """What holds where nobody says otherwise; the name of the instance may be its port."""
    found: dict[str, Value] = {
        name: parameter.default
        for name, parameter in wanted.service.parameters.items()
        if parameter.default is not None
    }
    if wanted.service.entry.model is not None:
        found["model"] = wanted.service.entry.model
    port = port_of(wanted.instance)
    return found if port is None else {**found, "port": port}


def _written(wanted: Wanted) -> dict[str, Value]:
    """What the file says of the instance."""
    texts = dict(wanted.entry.parameters)
    found: dict[str, Value] = {}
    for name, value in (("model", wanted.entry.model), ("port", wanted.entry.port)):
        if value is None:
            continue
        if name in texts:
            raise InputError(f"{wanted.name} has its {name} twice, as a parameter too; keep one")
        if name in wanted.service.parameters:
            texts[name] = render(value)
        else:
            found[name] = value
    return {**found, **wanted.service.typed(texts)}


def _check_port(wanted: Wanted, port: str | None) -> None:
    if port is None:
        return
    by_name = claimed_port(wanted.instance)
    if by_name is not None and port != str(by_name):
        raise InputError(
            f"{wanted.name} is on port {by_name} by its name and cannot have port {port}"
        )
    try:
        parse_port(port)
    except InputError as error:
        raise InputError(f"{wanted.name}: {error}") from None
