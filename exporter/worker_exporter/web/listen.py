"""The sockets the exporter answers on."""

import errno
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from worker_exporter.errors import UserError

_BACKLOG = 128


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; an empty host means every address of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """`:10390`, `127.0.0.1:0`, `[::1]:10390` or `name:10390`.

    Raises UserError for anything else.
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not _is_port(port) or (not bracketed and set("[]:") & set(host)):
        raise UserError(
            f"cannot listen on {text!r}: write :PORT, HOST:PORT or [IPV6]:PORT with a port to 65535"
        )
    return Address(host[1:-1] if bracketed else host, int(port))


def open_sockets(addresses: Iterable[Address]) -> list[socket.socket]:
    """A listening socket for each address; on a failure none stays open.

    Raises UserError when an address cannot be had.
    """
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            sockets.append(_open(address))
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise UserError(f"cannot listen on {address}: {_reason(error)}") from None
    return sockets


def address_of(listening: socket.socket) -> Address:
    """The real address of a socket, with the port the kernel chose."""
    return Address(*listening.getsockname()[:2])


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535


def _open(address: Address) -> socket.socket:
    if address.host:
        return _listen(*_resolve(address))
    try:
        return _listen(socket.AF_INET6, ("::", address.port))
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            raise
        return _listen(socket.AF_INET, ("0.0.0.0", address.port))


def _resolve(address: Address) -> tuple[int, tuple[Any, ...]]:
    found = socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    # `localhost` means 127.0.0.1 to those who write it.
    found.sort(key=lambda entry: entry[0] != socket.AF_INET)
    return found[0][0], found[0][4]


def _listen(family: int, where: tuple[Any, ...]) -> socket.socket:
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(where[0] != "::"))
        listening.bind(where)
        listening.listen(_BACKLOG)
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "the host's name is not known here"
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; end the program that holds it or choose another port"
    if error.errno == errno.EACCES:
        return "no permission; choose a port from 1024 up"
    if error.errno == errno.EADDRNOTAVAIL:
        return "no interface of this machine has the address"
    return os.strerror(error.errno or 0)
