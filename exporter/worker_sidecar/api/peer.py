"""Who asks: the kernel's word for a Unix socket, the address for TCP."""

import asyncio
import socket
import struct
from dataclasses import dataclass

from aiohttp import web

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(frozen=True, slots=True)
class Peer:
    """`uid` and `pid` of a process on this host, or the `address` of a TCP client.

    The pid is that of the process that connected; it may have ended, or passed the socket on.
    """

    uid: int | None = None
    pid: int | None = None
    address: str | None = None

    @property
    def local(self) -> bool:
        """Whether it came over the Unix socket, whose mode has let it in."""
        return self.uid is not None

    @property
    def key(self) -> str:
        """What counts as one peer: a uid, or an address."""
        return f"uid {self.uid}" if self.local else self.address or "unknown"

    @property
    def fields(self) -> dict[str, object]:
        """Itself for the log."""
        return {"uid": self.uid, "pid": self.pid} if self.local else {"address": self.address}


def peer_of(request: web.Request) -> Peer:
    """Who sent `request`; one that has gone already is nobody."""
    transport = request.transport
    if transport is None:
        return Peer()
    return _of_socket(transport)


def _of_socket(transport: asyncio.BaseTransport) -> Peer:
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None and connection.family == socket.AF_UNIX:
        size = _CREDENTIALS.size
        pid, uid, _ = _CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        return Peer(uid=uid, pid=pid)
    name = transport.get_extra_info("peername")
    return Peer(address=str(name[0]) if isinstance(name, tuple) else None)
