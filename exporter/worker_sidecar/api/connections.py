"""Connections to a listening socket: so many at a time that descriptors are left for the rest."""

import asyncio
import logging
import socket
import ssl
from dataclasses import dataclass
from typing import Any

from aiohttp import web

_IDLE = 75.0
"""Seconds after which a connection without a request is closed."""

_HANDSHAKE = 10.0
"""Seconds a TLS handshake may take."""


class _Faults(logging.Logger):
    """aiohttp's words about requests that are no HTTP: anybody who can connect could fill the log
    with them.
    """

    def exception(self, msg: object, *args: object, **more: Any) -> None:
        """Said to those who look for it."""
        self.debug(msg, *args, **more)


_FAULTS = _Faults(__name__)
_FAULTS.parent = logging.root


@dataclass(slots=True)
class _Count:
    """How many there are, and may be."""

    most: int
    now: int = 0


class _Connection(web.RequestHandler):
    """One that is counted, and closed at once when there are too many."""

    def __init__(self, manager: web.Server, count: _Count) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=_IDLE,
            logger=_FAULTS,
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
        )
        self._count = count
        self._counted = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._count.now >= self._count.most:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
            return
        self._count.now += 1
        self._counted = True
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self._counted:
            return
        self._counted = False
        self._count.now -= 1
        super().connection_lost(exc)


async def answer_on(
    listening: socket.socket, runner: web.AppRunner, context: ssl.SSLContext | None, most: int
) -> asyncio.Server:
    """Answer with the application of `runner`, which is set up, to `most` connections at a time.

    The runner's cleanup ends the connections; the server is the caller's to close.
    """
    server = runner.server
    assert server is not None
    count = _Count(most)
    return await asyncio.get_running_loop().create_server(
        lambda: _Connection(server, count),
        sock=listening,
        ssl=context,
        ssl_handshake_timeout=None if context is None else _HANDSHAKE,
    )
