"""Secrets of workers that no service manager holds: files that only the worker's user can read."""

import os
import re
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress

from worker_sidecar.errors import CreationFailedError, InputError, RefusedError
from worker_sidecar.launch.account import Account

LARGEST = 1 << 20
"""Bytes of one secret, as for systemd's credentials."""

RUN_DIR_NAME = "worker-sidecar"
"""What the directory of Site.run_dir is called, or the one above it for slices of their own."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read(secrets: Mapping[str, str]) -> Mapping[str, bytes]:
    """The contents of `secrets`, a file for each name.

    Raises InputError for a bad name or file, RefusedError for a file that others can read.
    """
    for name in secrets:
        if not _NAME.fullmatch(name):
            raise InputError(f"secret {name!r} is no name of a file: A-Z, a-z, 0-9, _, . and -")
    return {name: _private(path) for name, path in secrets.items()}


def read_environment(path: str | None) -> Mapping[str, str]:
    """The variables of a file of NAME=value lines, values as written; empty lines and those that
    begin with # are passed over. {} without a file. Raises as read().
    """
    found: dict[str, str] = {}
    if path is None:
        return found
    lines = _private(path).decode(errors="surrogateescape").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not _VARIABLE.fullmatch(name) or "\0" in value:
            # never the line itself: it is a secret
            raise InputError(f"secret_env: line {number} of {path} is not NAME=value")
        found[name] = value
    return found


def place(directory: str, contents: Mapping[str, bytes], owner: Account) -> None:
    """Write each of `contents` into a file (0400) of `owner`'s in the new `directory` (0700).

    Another user than ourselves may look into that (0750, his group) but not write: what he made
    there would be ours to remove. What was there before is removed; nothing is made for no
    contents. Raises CreationFailedError.
    """
    remove(directory)
    if not contents:
        return
    try:
        _make_way(os.path.dirname(directory), owner)
        os.mkdir(directory, 0o700)
        for name, content in contents.items():
            path = f"{directory}/{name}"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
            with open(file, "wb") as out:
                out.write(content)
                if owner.switch:
                    os.fchown(file, owner.uid, owner.gid)
        if owner.switch:
            os.chown(directory, -1, owner.gid)
            os.chmod(directory, 0o750)
    except OSError as error:
        remove(directory)
        raise CreationFailedError(
            f"cannot write the secrets to {directory}: {error.strerror}"
        ) from error


def check_way(directory: str, owner: Account) -> None:
    """Raises CreationFailedError when `owner` cannot come as far as the `directory` of secrets."""
    parent = os.path.dirname(directory)
    if not owner.switch or owner.uid == 0 or not os.path.isdir(directory):
        return
    closed = _closed(parent, owner)
    if closed is not None:
        raise CreationFailedError(
            f"user {owner.name or owner.uid} could not read its secrets in {parent}: "
            f"chmod o+x {closed}"
        )


def remove(directory: str) -> None:
    """Remove what place() made, if it is there."""
    shutil.rmtree(directory, ignore_errors=True)


def _make_way(parent: str, owner: Account) -> None:
    """Make `parent` and the directory above it; another user may pass through what is ours of
    them, but not look.
    """
    above = os.path.dirname(parent)
    ours = [above, parent]
    if os.path.basename(os.path.dirname(above)) == RUN_DIR_NAME:
        ours.insert(0, os.path.dirname(above))  # that of a slice lies in that of all
    for directory in ours:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        mode = stat.S_IMODE(os.stat(directory).st_mode)
        if owner.switch and mode & 0o011 != 0o011:
            with suppress(PermissionError):
                os.chmod(directory, mode | 0o011)


def _closed(directory: str, owner: Account) -> str | None:
    """The topmost of the directories down to `directory` that `owner` cannot pass through."""
    parts = directory.split("/")
    for count in range(1, len(parts) + 1):
        path = "/".join(parts[:count]) or "/"
        found = os.stat(path)
        if found.st_uid == owner.uid:
            needed = stat.S_IXUSR
        elif found.st_gid in (owner.gid, *owner.groups):
            needed = stat.S_IXGRP
        else:
            needed = stat.S_IXOTH
        if not found.st_mode & needed:
            return path
    return None


def _private(path: str) -> bytes:
    """The content of a file that only its owner and group can read."""
    try:
        # a FIFO would keep us waiting for its writer
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            content = file.read(LARGEST + 1) if stat.S_ISREG(mode) else b""
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"secrets file {path}: {reason}") from error
    if not stat.S_ISREG(mode):
        raise InputError(f"secrets file {path} is no file")
    if mode & stat.S_IROTH:
        raise RefusedError(f"secrets file {path} can be read by everybody: chmod o-rwx {path}")
    if len(content) > LARGEST:
        raise InputError(f"secrets file {path} is larger than {LARGEST} bytes")
    return content
