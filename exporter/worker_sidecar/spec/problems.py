"""What is wrong in a file: where, what, and what to do; all of it together becomes one error."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from worker_sidecar.errors import InputError, RefusedError, SidecarError

Key = tuple[str | int, ...]
"""Where something is in a document: names of keys, and places in lists from 0."""

SHOWN = 20
"""As many problems as a person reads at once."""

_NAME_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """`line` counts from 1, None while it is not known. `refused`: it could be, but must not."""

    key: Key
    text: str
    line: int | None = None
    refused: bool = False

    def __str__(self) -> str:
        return f"{dotted(self.key)}: {self.text}" if self.key else self.text


def dotted(key: Key) -> str:
    """`key` as people write it: services.llm.command.0"""
    return ".".join(_shown(str(part)) for part in key)


def error(problems: Sequence[Problem], path: str | None = None) -> SidecarError:
    """One error that tells of all `problems`, each a line of its own: FILE:LINE: KEY: TEXT.

    A RefusedError when all of them are refusals, else an InputError.
    """
    lines = list(dict.fromkeys(_lines(problems, path)))
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN} more"]
    kind = RefusedError if all(problem.refused for problem in problems) else InputError
    return kind("\n".join(lines))


def _lines(problems: Iterable[Problem], path: str | None) -> Iterable[str]:
    for problem in sorted(problems, key=lambda problem: problem.line or 0):
        place = "" if path is None else f"{path}:{problem.line or 1}: "
        yield f"{place}{problem}"


def _shown(name: str) -> str:
    plain = name if name.isprintable() else repr(name)[1:-1]
    return plain if len(plain) <= _NAME_SHOWN else f"{plain[:_NAME_SHOWN]}…"
