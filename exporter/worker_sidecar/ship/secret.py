"""Secrets of the user: from a file or the environment, never from the command line."""

import os

from worker_sidecar.errors import InputError


def secret(path: str | None, variable: str) -> str | None:
    """The one line in the file `path`, else the environment's `variable`; None without both.

    Raises InputError for a file that cannot be read or does not hold one line.
    """
    if path is None:
        return _one_line(os.environ.get(variable, ""), variable) or None
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(65536)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"{path} cannot be read: {reason}") from None
    return _one_line(text, path) or _empty(path)


def _one_line(text: str, source: str) -> str:
    line = text.strip()
    if not line.isprintable() or not line.isascii():
        raise InputError(f"{source} must hold a secret on one line, in ASCII")
    return line


def _empty(path: str) -> str:
    raise InputError(f"{path} is empty; it must hold the secret")
