"""The bearer token that a request over TCP must carry."""

import hmac
import os
import stat

from worker_exporter import log
from worker_sidecar.errors import InputError, RefusedError

LEAST = 16
"""Characters a token has at least: fewer can be guessed."""

_MOST = 4096


class TokenFile:
    """The token in a file, read again when the file changes.

    Making one raises InputError or RefusedError, one line on what is wrong with the file. A
    change to what cannot be used is logged once, and nobody is let in until it is mended.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._seen = _stamp(path)
        self._token: bytes | None = _read(path)

    def allows(self, authorization: str) -> bool:
        """Whether the value of an Authorization header is the token, compared in constant time."""
        self._refresh()
        scheme, _, given = authorization.partition(" ")
        if self._token is None or scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(errors="surrogateescape"), self._token)

    def _refresh(self) -> None:
        stamp = _stamp(self._path)
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._token = _read(self._path)
        except (InputError, RefusedError) as error:
            self._token = None
            log.error("the new token file is unusable, TCP is closed to all", err=str(error))
        else:
            log.info("the token file was read again", path=self._path)


def _stamp(path: str) -> object:
    try:
        status = os.stat(path)
    except OSError as error:
        return error.errno
    # The change time too: it tells of a new mode or owner.
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _read(path: str) -> bytes:
    try:
        # A FIFO would block the open for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            _check(path, os.fstat(descriptor))
            token = file.read(_MOST + 1).strip()
    except OSError as error:
        raise InputError(f"token file {path}: cannot be read: {error.strerror}") from None
    if not LEAST <= len(token) <= _MOST or not all(0x21 <= byte <= 0x7E for byte in token):
        raise InputError(
            f"token file {path}: write one word of {LEAST} to {_MOST} letters, digits and signs;"
            f" make one with: openssl rand -hex 32"
        )
    return token


def _check(path: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"token file {path}: is no regular file")
    if status.st_mode & 0o027:
        raise RefusedError(f"token file {path}: others can read or change it; chmod 600 {path}")
    if status.st_uid not in (0, os.geteuid()):
        raise RefusedError(f"token file {path}: belongs to uid {status.st_uid}; chown it to root")
