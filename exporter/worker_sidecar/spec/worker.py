"""One worker: from what its service and its instance say to what a launcher is given."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from worker_sidecar.errors import InputError
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.limits import Limits
from worker_sidecar.spec.declared import Declared, Probe
from worker_sidecar.spec.model import WEIGHTS, HealthEntry, InstanceEntry, ServiceEntry
from worker_sidecar.spec.template import fill, tokens
from worker_sidecar.spec.values import Wanted, check_tokens, metadata_of, values_of


def build(wanted: Wanted, host_limits: Limits | None) -> Declared:
    """The worker that is wanted. Raises InputError for what does not fit together."""
    service, instance = wanted.service.entry, wanted.entry
    values = values_of(wanted)
    check_tokens(wanted, values, templates(service, instance))
    spec = WorkerSpec(
        service=wanted.service.name,
        instance=wanted.instance,
        argv=_words(service.command, values),
        env={name: fill(text, values) for name, text in _env(service, instance).items()},
        limits=limits_of(service, instance),
        metadata=metadata_of(wanted, values),
        user=service.user,
        directory=_filled(service.directory, values),
        restart=service.restart,
        grace=service.grace,
        delegate=service.delegate,
        oom_score_adjust=service.oom_score_adjust,
        secrets=dict(service.secrets),
        secret_env=service.secret_env,
        image=_filled(service.image, values),
        volumes=tuple(_volume(text, values) for text in service.volumes),
        shm_size=service.shm_size,
        gpu=wanted.gpu,
        service_limits=wanted.service.total,
        host_limits=host_limits,
    )
    return Declared(spec, _probe(service.health, values))


def templates(service: ServiceEntry, instance: InstanceEntry) -> Mapping[str, str]:
    """The texts of a worker whose tokens are replaced, by their keys below the service."""
    health = service.health or HealthEntry.model_construct()
    found = {f"env.{name}": text for name, text in _env(service, instance).items()}
    for key, words in (("command", service.command), ("health.command", health.command)):
        found |= {f"{key}.{place}": word for place, word in enumerate(words or ())}
    found |= {f"volumes.{place}": text for place, text in enumerate(service.volumes)}
    singles = {
        "directory": service.directory,
        "image": service.image,
        "health.http": health.http,
        "health.tcp": health.tcp,
    }
    return found | {key: text for key, text in singles.items() if text is not None}


def limits_of(service: ServiceEntry, instance: InstanceEntry) -> Limits:
    """The limits of one worker: the instance's over the service's over those of its priority."""
    weight = WEIGHTS[instance.priority or service.priority]
    by_priority: dict[str, Any] = {"cpu_weight": weight, "io_weight": weight}
    return Limits(**{**by_priority, **service.limits.given, **instance.limits.given})


def _env(service: ServiceEntry, instance: InstanceEntry) -> Mapping[str, str]:
    return {**service.env, **instance.env}


def _words(words: tuple[str, ...] | None, values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(fill(word, values) for word in words or ())


def _filled(text: str | None, values: Mapping[str, str]) -> str | None:
    return None if text is None else fill(text, values)


def _volume(text: str, values: Mapping[str, str]) -> str:
    """`text` filled; what a request chose must neither end a path nor leave one's parent."""
    for token in tokens(text):
        if not values[token] or ":" in values[token]:
            raise InputError(f"volume {text!r}: {token} is {values[token]!r}, no part of a path")
    return fill(text, values)


def _probe(health: HealthEntry | None, values: Mapping[str, str]) -> Probe | None:
    if health is None:
        return None
    if health.http is not None:
        return Probe("http", _url(fill(health.http, values)), (), health.interval, health.timeout)
    if health.tcp is not None:
        address = _address(fill(health.tcp, values))
        return Probe("tcp", address, (), health.interval, health.timeout)
    argv = _words(health.command, values)
    return Probe("command", argv[0], argv, health.interval, health.timeout)


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        known = False
    if not known:
        raise InputError(f"health.http {text!r} is no URL; it must look like http://host:port/path")
    return text


def _address(text: str) -> str:
    try:
        parts = urlsplit(f"//{text}")
        known = parts.netloc == text and parts.hostname and parts.port and not parts.username
    except ValueError:
        known = False
    if not known:
        raise InputError(f"health.tcp {text!r} is no address; it must look like 127.0.0.1:8080")
    return text
