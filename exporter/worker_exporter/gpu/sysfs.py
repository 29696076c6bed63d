"""Small files below /sys. A driver often has no answer: that is None, and no fault."""

import errno
import os

_PAGE = 4096
"""The most bytes that a file of sysfs has."""


def read(path: str) -> str:
    """The text of a file, without spaces around it. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _PAGE).decode(errors="replace").strip()
    finally:
        os.close(descriptor)


def text(path: str, faults: set[str]) -> str | None:
    """As read(); None where there is no answer. A file that may not be opened is a fault.

    A GPU that sleeps or is being reset answers EPERM when it is read: that is no fault.
    """
    try:
        return read(path)
    except OSError as error:
        _note(path, error, faults)
        return None


def number(path: str, faults: set[str]) -> int | None:
    """The whole number in a file; None where there is none."""
    return whole(text(path, faults))


def names(path: str, faults: set[str]) -> list[str] | None:
    """What is in a directory, in no order; None where it is not. As text() about faults."""
    try:
        return os.listdir(path)
    except OSError as error:
        _note(path, error, faults)
        return None


def whole(digits: str | None) -> int | None:
    """`digits` as a number; None for anything else."""
    if digits is None or not digits.isascii() or not digits.removeprefix("-").isdecimal():
        return None
    return int(digits)


def refusal(path: str, error: OSError) -> str:
    """What is said of a path that may not be read."""
    return f"{path} cannot be read: {error.strerror}"


def _note(path: str, error: OSError, faults: set[str]) -> None:
    if error.errno == errno.EACCES:
        faults.add(refusal(path, error))
