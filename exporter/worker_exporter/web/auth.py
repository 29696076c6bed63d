"""Basic authentication against bcrypt hashes."""

import base64
import hashlib
import secrets
from collections.abc import Mapping

import bcrypt

from worker_exporter.web.thread import DaemonThread

_MAX_CACHED = 100
# bcrypt never looked further; the library refuses longer ones instead.
_BCRYPT_BYTES = 72


class BasicAuth:
    """Knows who may ask.

    A comparison takes tens of milliseconds by design, so it runs in a thread of its own, once
    for each right password; unknown users cost as much as known ones.
    """

    def __init__(self, users: Mapping[str, str]) -> None:
        """`users` maps at least one name to its bcrypt hash."""
        self._hashes = {user.encode(): hashed.encode() for user, hashed in users.items()}
        self._dearest = max(self._hashes.values(), key=lambda hashed: hashed[4:6])
        self._key = secrets.token_bytes(32)
        self._known: set[bytes] = set()
        self._thread = DaemonThread("bcrypt")

    async def allows(self, authorization: str) -> bool:
        """Whether the value of an Authorization header names a user and the right password."""
        credentials = _decode(authorization)
        if credentials is None:
            return False
        user, password = credentials
        digest = self._digest(user, password)
        if digest in self._known:
            return True
        return await self._thread.run(lambda: self._compare(user, password, digest))

    def close(self) -> None:
        """Let the thread end."""
        self._thread.close()

    def _digest(self, user: bytes, password: bytes) -> bytes:
        size = len(user).to_bytes(8, "big")
        return hashlib.blake2b(size + user + password, key=self._key).digest()

    def _compare(self, user: bytes, password: bytes, digest: bytes) -> bool:
        if digest in self._known:
            return True
        hashed = self._hashes.get(user, self._dearest)
        right = bcrypt.checkpw(password[:_BCRYPT_BYTES], hashed) and user in self._hashes
        if right and len(self._known) < _MAX_CACHED:
            self._known.add(digest)
        return right


def _decode(authorization: str) -> tuple[bytes, bytes] | None:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded, validate=True).partition(b":")
    except ValueError:
        return None
    return (user, password) if colon else None
