"""Typed parameters of a service: what a request may say in place of its tokens."""

import math
import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from worker_sidecar.errors import InputError
from worker_sidecar.spec.scalars import Text, parse_boolean, parse_whole, problem, scalar
from worker_sidecar.spec.section import Section

Value = str | int | float | bool
Kind = Literal["string", "integer", "number", "boolean"]

LONGEST = 4096
"""Characters a text may have."""

_KINDS = get_args(Kind)
_NUMBER = re.compile(r"-?[0-9]{1,18}(?:\.[0-9]{1,18})?(?:[eE][-+]?[0-9]{1,3})?")
_LARGEST = 2**63
_CALLED = {
    "string": "a text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
}


def _kind(value: object) -> str:
    if scalar(value) not in _KINDS:
        raise problem(f"{value!r} is no type; there are {', '.join(_KINDS)}")
    return str(value)


def _pattern(value: object) -> str:
    try:
        re.compile(scalar(value))
    except re.error as error:
        raise problem(f"{value!r} is no regular expression: {error}") from None
    return str(value)


def _bound(value: object) -> float:
    try:
        return _number(scalar(value))
    except InputError as error:
        raise problem(str(error)) from None


class Parameter(Section):
    """One parameter: its type, and which values it may have."""

    type: Annotated[Kind, BeforeValidator(_kind)] = "string"
    """`string`, `integer`, `number` or `boolean`."""
    description: Text | None = None
    """What it is for; shown to those who ask the API."""
    default: Value | None = None
    """What it is where nobody says; a parameter without a default has to be given."""
    choices: tuple[Value, ...] = ()
    """The only values it may have."""
    pattern: Annotated[str, BeforeValidator(_pattern)] | None = None
    """A regular expression that the whole text must match; for strings."""
    min: Annotated[float, BeforeValidator(_bound), Field(allow_inf_nan=False)] | None = None
    """The smallest number it may be; for integers and numbers."""
    max: Annotated[float, BeforeValidator(_bound), Field(allow_inf_nan=False)] | None = None
    """The largest number it may be; for integers and numbers."""

    @field_validator("default", mode="before")
    @classmethod
    def _typed_default(cls, value: object, info: ValidationInfo) -> Value:
        return _typed(scalar(value), info)

    @field_validator("choices", mode="before")
    @classmethod
    def _typed_choices(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, list) or not value:
            raise problem("must be a list of values, at least one")
        return tuple(_typed(scalar(item), info) for item in value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        numeric = self.type in ("integer", "number")
        if self.pattern is not None and self.type != "string":
            raise problem(f"pattern is for strings, not for type {self.type}")
        if not numeric and (self.min is not None or self.max is not None):
            raise problem(f"min and max are for integers and numbers, not for type {self.type}")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise problem(f"min {self.min:g} is above max {self.max:g}")
        if self.default is not None:
            try:
                self.check(self.default)
            except InputError as error:
                raise problem(f"the default {error}") from None
        return self

    def parse(self, text: str) -> Value:
        """The value that `text`, from a command line or a file, is. Raises InputError."""
        return self.check(_parse(self.type, text))

    def check(self, value: object) -> Value:
        """`value`, from JSON, when it is one this parameter may have. Raises InputError.

        Types are taken strictly: neither "5" nor true is an integer.
        """
        checked = _of_kind(self.type, value)
        if self.choices and checked not in self.choices:
            listed = ", ".join(render(choice) for choice in self.choices)
            raise InputError(f"{render(checked)!r} is not one of {listed}")
        if isinstance(checked, str):
            self._check_text(checked)
        else:
            self._check_bounds(checked)
        return checked

    def schema_of_values(self) -> dict[str, Any]:
        """The JSON schema of the values it may have."""
        keys = {
            "description": self.description,
            "default": self.default,
            "enum": list(self.choices) or None,
            "pattern": None if self.pattern is None else f"^(?:{self.pattern})$",
            "minimum": self.min,
            "maximum": self.max,
        }
        return {"type": self.type} | {name: key for name, key in keys.items() if key is not None}

    def _check_text(self, text: str) -> None:
        if self.pattern is not None and not re.fullmatch(self.pattern, text):
            raise InputError(f"{text!r} does not match {self.pattern!r}")

    def _check_bounds(self, number: float) -> None:
        if self.min is not None and number < self.min:
            raise InputError(f"{render(number)} is below {self.min:g}")
        if self.max is not None and number > self.max:
            raise InputError(f"{render(number)} is above {self.max:g}")


def render(value: Value) -> str:
    """`value` as it replaces a token."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _typed(text: str, info: ValidationInfo) -> Value:
    try:
        return _parse(info.data.get("type", "string"), text)
    except InputError as error:
        raise problem(str(error)) from None


def _parse(kind: Kind, text: str) -> Value:
    if kind == "integer":
        return parse_whole(text)
    if kind == "number":
        return _number(text)
    if kind == "boolean":
        return parse_boolean(text)
    return _line(text)


def _of_kind(kind: Kind, value: object) -> Value:
    if kind == "boolean" and isinstance(value, bool):
        return value
    if kind == "string" and isinstance(value, str):
        return _line(value)
    number = not isinstance(value, bool) and isinstance(value, int | float)
    if kind == "integer" and number and isinstance(value, int) and abs(value) < _LARGEST:
        return value
    if kind == "number" and number and isinstance(value, int | float) and _is_finite(value):
        return value
    raise InputError(f"must be {_CALLED[kind]}")


def _number(text: str) -> int | float:
    if not _NUMBER.fullmatch(text) or not math.isfinite(float(text)):
        raise InputError(f"{text!r} is no number")
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _is_finite(number: float) -> bool:
    return -_LARGEST < number < _LARGEST


def _line(text: str) -> str:
    """`text` when it is one line that a command line and an environment can hold."""
    if len(text) > LONGEST:
        raise InputError(f"is longer than {LONGEST} characters")
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise InputError("contains a control character or a line break")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError("contains half a character (a lone surrogate)") from None
    return text
