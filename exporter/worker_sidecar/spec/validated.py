"""From plain data to the models, and from the models' complaints to problems."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from worker_sidecar.spec.model import File
from worker_sidecar.spec.problems import Key, Problem
from worker_sidecar.spec.section import Section

_EXTENSION = "x-"
"""Keys at the top that begin so are the user's own: a place for anchors."""


def validate(data: object) -> tuple[File | None, Sequence[Problem]]:
    """The file that `data` says, or what is wrong with it."""
    if isinstance(data, dict):
        data = {key: value for key, value in data.items() if not key.startswith(_EXTENSION)}
    try:
        return File.model_validate(data), ()
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        return None, [_problem(detail) for detail in details]


def _problem(detail: ErrorDetails) -> Problem:
    key: Key = tuple(part for part in detail["loc"] if part != "[key]")
    kind = detail["type"]
    if kind == "extra_forbidden":
        return Problem(key, _unknown(str(key[-1]), _section_at(key[:-1])))
    if kind in ("model_type", "dict_type"):
        what = "must be a mapping of keys to values"
        return Problem(key, what if key else f"the file {what}, such as services")
    if kind == "missing":
        return Problem(key, "is missing; give it")
    if kind in ("tuple_type", "list_type"):
        return Problem(key, "must be a list")
    return Problem(key, detail["msg"])


def _unknown(name: str, section: type[Section] | None) -> str:
    known = sorted(section.model_fields) if section else []
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"is no key here; did you mean {near[0]}?"
    return f"is no key here; there are {', '.join(known)}"


def _section_at(key: Key) -> type[Section] | None:
    """The model of the section at `key`."""
    annotation: Any = File
    for part in key:
        section = _section_in(annotation)
        annotation = section.model_fields[str(part)].annotation if section else _items(annotation)
    return _section_in(annotation)


def _section_in(annotation: Any) -> type[Section] | None:
    """The model in an annotation such as X or X | None; None for a mapping or list of models."""
    for one in (annotation, *_choices(annotation)):
        if isinstance(one, type) and issubclass(one, Section):
            return one
    return None


def _choices(annotation: Any) -> Sequence[Any]:
    container = get_origin(annotation) in (dict, tuple, Mapping)
    return () if container else get_args(annotation)


def _items(annotation: Any) -> Any:
    """What a mapping or a list of this annotation holds."""
    arguments = get_args(annotation)
    return arguments[1] if get_origin(annotation) is dict else arguments[0]
