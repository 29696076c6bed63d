"""The dashboards and rules that are shipped: those of the package, or others'."""

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker_sidecar.errors import InputError

_HERE = Path(__file__).parent
_CHECKOUT = Path(__file__).parents[3]

UID = re.compile(r"[a-zA-Z0-9_-]{1,40}")
"""What Grafana takes as a uid."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard's JSON model, without what only a server knows: its numeric id and version."""

    uid: str
    title: str
    model: dict[str, Any]


def dashboards(directory: str | None = None) -> Sequence[Dashboard]:
    """The dashboards of `directory`, else the package's own; sorted by title.

    Raises InputError for what is no dashboard, or has the uid of another.
    """
    found = [
        _dashboard(path) for path in _files(directory, "dashboards", "dashboards/json", "json")
    ]
    _check_unique([dashboard.uid for dashboard in found], "uid")
    return sorted(found, key=lambda dashboard: dashboard.title)


def rule_files(directory: str | None = None) -> dict[str, str]:
    """The rule files of `directory`, else the package's own: names and text. Raises InputError."""
    return {path.name: _text(path) for path in _files(directory, "rules", "alerts", "yml")}


def stripped(model: dict[str, Any]) -> dict[str, Any]:
    """`model` without what a server sets: the numeric id, the version."""
    return {key: value for key, value in model.items() if key not in ("id", "version")}


def _files(directory: str | None, packaged: str, checkout: str, suffix: str) -> Sequence[Path]:
    place = Path(directory) if directory is not None else _own(packaged, checkout)
    try:
        # as the shell's *: an editor's lock is called .#alerts.yml
        found = sorted(
            path
            for path in place.iterdir()
            if path.suffix == f".{suffix}" and not path.name.startswith(".")
        )
    except OSError as error:
        raise InputError(f"{place}: {error.strerror}") from None
    if not found:
        raise InputError(f"{place} holds no *.{suffix}")
    return found


def _own(packaged: str, checkout: str) -> Path:
    """Package data of the wheel; in a checkout the directory that it is made from."""
    if os.path.isdir(_HERE / packaged):
        return _HERE / packaged
    return _CHECKOUT / checkout


def _text(path: Path) -> str:
    try:
        # without the mark that some editors begin a file with: Prometheus does not take it
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8") from None


def _dashboard(path: Path) -> Dashboard:
    try:
        model = json.loads(_text(path))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(model, dict):
        raise InputError(f"{path} is no dashboard: not a JSON object")
    if "__inputs" in model:
        raise InputError(f"{path} was exported for sharing: export it again without that")
    if {"apiVersion", "spec"} <= model.keys() or "dashboard" in model:
        raise InputError(f"{path} is an answer of Grafana's API: ship only the dashboard inside")
    uid, title = model.get("uid"), model.get("title")
    if not isinstance(uid, str) or not UID.fullmatch(uid):
        raise InputError(f"{path} needs a uid of 1 to 40 letters, digits, - and _")
    if not isinstance(title, str) or not title.strip() or not title.isprintable():
        raise InputError(f"{path} needs a title of one line")
    return Dashboard(uid, title, stripped(model))


def _check_unique(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two dashboards have the {what} {name}")
