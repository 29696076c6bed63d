"""What single values in the file mean: types that read the text as written."""

import re
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from worker_sidecar.errors import InputError
from worker_sidecar.gpu.wanted import check_wanted
from worker_sidecar.launch.launcher import METADATA_BYTES
from worker_sidecar.launch.limits import Limits, parse_bandwidth, parse_cpu, parse_memory
from worker_sidecar.launch.names import check_names, check_service, port_of
from worker_sidecar.launch.storage import parse_shm_size, parse_volume
from worker_sidecar.ownership import check_slice

T = TypeVar("T")

_WHOLE = re.compile(r"-?[0-9]{1,18}")
_DURATION = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) ?(?P<unit>ms|s|min|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1, None: 1, "m": 60, "min": 60, "h": 3600}
_LONGEST_DURATION = 7 * 24 * 3600
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,31}")
_SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@ -]{0,63}")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?|[0-9]{1,10}")
_LARGEST_UID = 2**32 - 2


def problem(text: str) -> PydanticCustomError:
    """What a validator raises to say `text` of the value at hand."""
    return PydanticCustomError("value", "{text}", {"text": text})


def scalar(value: object) -> str:
    """A single value's text."""
    if value is None:
        raise problem('has no value; give one, or "" for the empty text')
    if not isinstance(value, str):
        raise problem("must be a single value, not a list or a mapping")
    if "\0" in value:
        raise problem("contains a NUL, which no command line or file name can hold")
    return value


def _read(parse: Callable[[str], T]) -> BeforeValidator:
    """A validator that hands the text to `parse`, whose InputError becomes the problem."""

    def validate(value: object) -> T:
        try:
            return parse(scalar(value))
        except InputError as error:
            raise problem(str(error)) from None

    return BeforeValidator(validate)


def _matching(pattern: re.Pattern[str], hint: str) -> BeforeValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise InputError(f"{text!r} is no name; give {hint}")
        return text

    return _read(check)


def _checked(check: Callable[[str], object]) -> BeforeValidator:
    """A validator for a text that `check` raises InputError about, or does not."""

    def parse(text: str) -> str:
        check(text)
        return text

    return _read(parse)


def parse_whole(text: str) -> int:
    """A whole number. Raises InputError."""
    if not _WHOLE.fullmatch(text):
        raise InputError(f"{text!r} is no whole number")
    return int(text)


def parse_boolean(text: str) -> bool:
    """true or false. Raises InputError."""
    if text not in ("true", "false"):
        raise InputError(f"{text!r} is neither true nor false")
    return text == "true"


def parse_duration(text: str) -> float:
    """Seconds; "10", "10s", "500ms", "5min" and "1h" are understood. Raises InputError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise InputError(f"{text!r} is no time; give seconds, or as in 500ms, 10s, 5min, 1h")
    seconds = float(match["number"]) * _SECONDS[match["unit"]]
    if seconds > _LONGEST_DURATION:
        raise InputError(f"{text!r} is longer than a week")
    return seconds


def parse_port(text: str) -> int:
    """A TCP port. Raises InputError."""
    port = port_of(text) if text else None
    if port is None:
        raise InputError(f"{text!r} is no port; it goes from 1 to 65535")
    return port


def _positive(text: str) -> float:
    seconds = parse_duration(text)
    if seconds < 0.1:
        raise InputError(f"{text!r} is too short; give 100ms or more")
    return seconds


def _badness(text: str) -> int:
    number = parse_whole(text)
    if not -1000 <= number <= 1000:
        raise InputError(f"{text} is not from -1000 to 1000")
    return number


def _user(text: str) -> str:
    if not _USER.fullmatch(text) or (text.isdigit() and int(text) > _LARGEST_UID):
        raise InputError(f"{text!r} is no user; give a name or a uid")
    return text


def _absolute(text: str) -> str:
    if not text.startswith("/"):
        raise InputError(f"{text!r} is no absolute path")
    return text


def _image(text: str) -> str:
    if not text or text.startswith("-") or any(part.isspace() for part in text):
        raise InputError(f"{text!r} is no image; give one as in vllm/vllm-openai:v0.9.2")
    return text


def _model(text: str) -> str:
    if not 0 < len(text.encode(errors="replace")) <= METADATA_BYTES:
        raise InputError(f"must be 1 to {METADATA_BYTES} bytes")
    return text


def _gpus(value: object) -> str:
    if isinstance(value, list):
        value = ",".join(scalar(item) for item in value)
    try:
        check_wanted(scalar(value))
    except InputError as error:
        raise problem(str(error)) from None
    return str(value)


def _limit(name: str, parse: Callable[[str], Any]) -> BeforeValidator:
    """A validator for one limit, which knows what is absurd."""

    def checked(text: str) -> object:
        value = parse(text)
        Limits(**{name: value})
        return value

    return _read(checked)


def _bound(parse: Callable[[str], int]) -> BeforeValidator:
    def above_zero(text: str) -> int:
        value = parse(text)
        if not 1 <= value < 2**63:
            raise InputError(f"{text!r} must be 1 or more, and below 2^63")
        return value

    return _read(above_zero)


def _schema(*types: str, **more: object) -> WithJsonSchema:
    return WithJsonSchema({"type": types[0] if len(types) == 1 else list(types), **more})


_NUMBER_OR_TEXT = ("string", "number")

Text = Annotated[str, BeforeValidator(scalar), _schema(*_NUMBER_OR_TEXT, "boolean")]
Boolean = Annotated[bool, _read(parse_boolean), _schema("boolean")]
Badness = Annotated[int, _read(_badness), _schema("integer", minimum=-1000, maximum=1000)]
Port = Annotated[int, _read(parse_port), _schema("integer", minimum=1, maximum=65535)]
Duration = Annotated[float, _read(parse_duration), _schema(*_NUMBER_OR_TEXT)]
Interval = Annotated[float, _read(_positive), _schema(*_NUMBER_OR_TEXT)]
User = Annotated[str, _read(_user), _schema("string", "integer")]
Path = Annotated[str, _read(_absolute), _schema("string", pattern="^/")]
Directory = Annotated[str, BeforeValidator(scalar), _schema("string")]
Image = Annotated[str, _read(_image), _schema("string")]
Volume = Annotated[str, _checked(parse_volume), _schema("string", pattern="^/")]
ShmSize = Annotated[int, _read(parse_shm_size), _schema("string", "integer")]
Model = Annotated[str, _read(_model), _schema("string")]
GpuWanted = Annotated[str, BeforeValidator(_gpus), _schema("string", "integer", "array")]

Cpu = Annotated[float, _limit("cpu", parse_cpu), _schema(*_NUMBER_OR_TEXT)]
Cpus = Annotated[str, _limit("cpus", str), _schema(*_NUMBER_OR_TEXT)]
CpuWeight = Annotated[int, _limit("cpu_weight", parse_whole), _schema("integer")]
IoWeight = Annotated[int, _limit("io_weight", parse_whole), _schema("integer")]
Tasks = Annotated[int, _limit("tasks", parse_whole), _schema("integer")]
Memory = Annotated[int, _limit("memory", parse_memory), _schema("string", "integer")]
MemoryHigh = Annotated[int, _limit("memory_high", parse_memory), _schema("string", "integer")]
Swap = Annotated[int, _limit("swap", parse_memory), _schema("string", "integer")]
Bandwidth = Annotated[int, _bound(parse_bandwidth), _schema("string", "integer")]
Operations = Annotated[int, _bound(parse_whole), _schema("integer", minimum=1)]

SliceName = Annotated[str, _checked(check_slice), _schema("string")]
OwnerName = Annotated[str, _matching(_OWNER, "a word, as in lattice"), _schema("string")]
ServiceName = Annotated[str, _checked(check_service), _schema("string")]
InstanceName = Annotated[str, _checked(lambda name: check_names("a", name)), _schema("string")]
ParameterName = Annotated[
    str, _matching(_PARAMETER, "a letter a-z, then a-z, 0-9 and _"), _schema("string")
]
EnvName = Annotated[
    str, _matching(_ENV, "a letter or _, then letters, digits and _"), _schema("string")
]
SecretName = Annotated[
    str, _matching(_SECRET, "letters, digits, and _.- but not first"), _schema("string")
]
