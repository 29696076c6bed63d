"""What an examination finds."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is what was looked at, `says` what was found, in one line. `advice` is what to do
    about it, None only where the level is "ok". A "warning" costs something (a limit, a metric);
    with a "problem" workers cannot run, or cannot be monitored.
    """

    name: str
    level: Literal["ok", "warning", "problem"]
    says: str
    advice: str | None = None


def ok(name: str, says: str) -> Finding:
    """All is well, or nothing has to be done."""
    return Finding(name, "ok", says)


def warning(name: str, says: str, advice: str) -> Finding:
    """It costs something."""
    return Finding(name, "warning", says, advice)


def problem(name: str, says: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(name, "problem", says, advice)
