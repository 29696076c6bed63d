"""Which of the formats we speak a client wants (RFC 9110, section 12); pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache


class Format(Enum):
    """A form of the answer; its value is the exact Content-Type."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Spoken:
    format: Format
    type: str
    subtype: str
    version: str


# The first wins where the client has no preference.
_SPOKEN = (
    _Spoken(Format.TEXT, "text", "plain", "0.0.4"),
    _Spoken(Format.OPENMETRICS, "application", "openmetrics-text", "1.0.0"),
)
_QUALITY = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


@lru_cache(maxsize=64)
def choose_format(accept: str) -> Format:
    """The format an Accept header prefers; text 0.0.4 where nothing we speak is acceptable.

    The most specific range that matches a format gives its quality; equal qualities go to the
    more specific range, then to the earlier one. Parameters other than `version` and `q`
    (`escaping`, `charset`) do not matter.
    """
    ranges = list(_elements(accept))
    best, best_rank = Format.TEXT, (0.0, 0, 0)
    for spoken in _SPOKEN:
        matches = [
            (specificity, quality, -position)
            for position, (name, parameters, quality) in enumerate(ranges)
            if (specificity := _specificity(spoken, name, parameters)) is not None
        ]
        if not matches:
            continue
        specificity, quality, position = max(matches)
        if quality > 0 and (quality, specificity, position) > best_rank:
            best, best_rank = spoken.format, (quality, specificity, position)
    return best


@lru_cache(maxsize=64)
def wants_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header takes gzip, and not sooner the plain bytes."""
    qualities = {name: quality for name, _, quality in _elements(accept_encoding)}
    gzip = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def _elements(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """The name, parameters and quality of each element; one with a broken quality is left out."""
    for element in header.split(","):
        name, *rest = (part.strip() for part in element.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {key.strip().lower(): value.strip(' \t"') for key, _, value in pairs}
        quality = parameters.pop("q", "1")
        if name and _QUALITY.fullmatch(quality):
            yield name.lower(), parameters, float(quality)


def _specificity(spoken: _Spoken, name: str, parameters: dict[str, str]) -> int | None:
    """How closely a media range fits `spoken`: 3 with its version to 0 for */*; None: not."""
    if name == "*/*":
        return 0
    if name == f"{spoken.type}/*":
        return 1
    if name != f"{spoken.type}/{spoken.subtype}":
        return None
    version = parameters.get("version")
    if version is None:
        return 2
    return 3 if version == spoken.version else None
