"""What a worker was started with, as text that is kept with it: it tells a later `apply` what
differs, and `ps` which limits should hold.
"""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from worker_sidecar.errors import InputError
from worker_sidecar.launch.launcher import GRACE, WorkerSpec
from worker_sidecar.launch.limits import IoLimit, Limits

_LOOKED_UP = ("service", "instance", "gpus")
"""Fields that name the worker, or that were found for it at its start."""


def encode(spec: WorkerSpec) -> str:
    """`spec` as canonical JSON: one object, keys sorted, what has its default left out."""
    content = {
        field.name: value
        for field in dataclasses.fields(spec)
        if field.name not in _LOOKED_UP
        if (value := _plain(getattr(spec, field.name))) != _plain(_default(field))
    }
    return json.dumps(content, sort_keys=True, separators=(",", ":"))


def limits_of(declaration: str | None) -> Limits:
    """The worker's own limits in a declaration; none where it has none or is not ours."""
    try:
        content = dict(json.loads(declaration or "{}").get("limits") or {})
        devices = tuple(IoLimit(**device) for device in content.pop("io", ()))
        return Limits(**content, io=devices)
    except (ValueError, TypeError, AttributeError, RecursionError, InputError):
        return Limits()


def grace_of(declaration: str | None) -> float:
    """The grace in seconds that a worker was declared with; the usual one where it has none."""
    grace = _content(declaration).get("grace")
    return float(grace) if isinstance(grace, int | float) and 0 <= grace < math.inf else GRACE


def image_of(declaration: str | None) -> str | None:
    """The image of the container that a declaration is for; None for a plain process's."""
    image = _content(declaration).get("image")
    return image if isinstance(image, str) else None


def port_of(declaration: str | None) -> str | None:
    """The port that a declaration is for; None where it has none."""
    metadata = _content(declaration).get("metadata")
    port = metadata.get("port") if isinstance(metadata, dict) else None
    return port if isinstance(port, str) else None


def differences(running: str | None, declared: str) -> Iterator[str]:
    """What differs, a line each: "limits.memory: 1073741824 -> 2147483648".

    No limits and limits that are not ours to say do not: a new worker would run under the same.
    A running worker without a declaration, or with one that is not ours, differs as a whole.
    """
    try:
        before = _leaves(json.loads(running or ""))
    except (ValueError, RecursionError):  # a delegated worker may have written it
        yield "it was not started by this sidecar"
        return
    after = _leaves(json.loads(declared))
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            yield f"{key}: {_shown(before.get(key))} -> {_shown(after.get(key))}"


def _content(declaration: str | None) -> Mapping[str, Any]:
    try:
        content = json.loads(declaration or "{}")
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _default(field: "dataclasses.Field[Any]") -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: object) -> object:
    """`value` as JSON has it, without what has its default."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain
            for field in dataclasses.fields(value)
            if (plain := _plain(getattr(value, field.name))) != _plain(_default(field))
        }
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _leaves(content: object, prefix: str = "") -> dict[str, object]:
    """The content of nested objects by dotted keys; a list is one leaf."""
    if not isinstance(content, dict):
        return {prefix: content}
    found: dict[str, object] = {}
    for key, value in content.items():
        found |= _leaves(value, f"{prefix}.{key}" if prefix else key)
    return found


def _shown(value: object) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
