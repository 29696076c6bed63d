"""What differs between what is there and what is shipped."""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping

import yaml

_DIGITS = 16
"""Hexadecimal digits of a digest: enough to tell versions apart, short enough to be read."""


def digest(document: object) -> str:
    """A short name of a JSON document's content, whatever the order of its keys."""
    return digest_of_text(json.dumps(document, sort_keys=True, separators=(",", ":")))


def digest_of_text(text: str) -> str:
    """A short name of `text`."""
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def json_text(document: object) -> str:
    """A JSON document in the one form that can be compared line by line."""
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def yaml_text(document: Mapping[str, object]) -> str:
    """A YAML document in the one form that can be compared line by line."""
    return yaml.safe_dump(document, sort_keys=True, allow_unicode=True, width=100)


def diff(name: str, there: str, shipped: str) -> Iterator[str]:
    """The lines of a unified diff from what is `there` to what is `shipped`."""
    lines = difflib.unified_diff(
        there.splitlines(),
        shipped.splitlines(),
        f"{name} (there)",
        f"{name} (shipped)",
        lineterm="",
    )
    yield from lines
