"""The sockets that `serve` answers on: its own, or those that systemd opened for it."""

import ipaddress
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from worker_exporter import log
from worker_exporter.web.listen import Address, address_of, open_sockets
from worker_sidecar.api.activation import passed_sockets
from worker_sidecar.api.settings import ServeSettings
from worker_sidecar.api.unix import locked, unix_socket
from worker_sidecar.errors import InputError


@dataclass(frozen=True, slots=True)
class Listening:
    """Listening sockets: of the API, and of the metrics."""

    unix: tuple[socket.socket, ...]
    tcp: tuple[socket.socket, ...]
    telemetry: tuple[socket.socket, ...]


@contextmanager
def open_listening(settings: ServeSettings) -> Iterator[Listening]:
    """All sockets, closed and removed at the end; on a failure none stays open.

    Raises RefusedError when another serves there, InputError or UserError for what cannot be.
    """
    passed = passed_sockets()
    unix = tuple(one for one in passed.api if one.family == socket.AF_UNIX)
    tcp = tuple(one for one in passed.api if one.family != socket.AF_UNIX)
    with ExitStack() as stack:
        for path in _paths(unix):
            stack.enter_context(locked(path))
        unix = unix or (stack.enter_context(unix_socket(settings.socket, settings.group)),)
        tcp += _opened(stack, settings.listen)
        if tcp and settings.token_file is None:
            raise InputError(
                "over TCP the API needs a token; name its file with --token-file,"
                " make one with: (umask 077; openssl rand -hex 32 > FILE)"
            )
        wanted = [] if settings.telemetry is None else [settings.telemetry]
        yield Listening(unix, tcp, passed.telemetry or _opened(stack, wanted))


def tell(listening: Listening, *, tls: bool) -> None:
    """Log where we listen, and what is not wise about it."""
    for one in listening.unix:
        log.info("listening", serves="api", socket=one.getsockname())
    for one in listening.tcp:
        log.info("listening", serves="api", address=address_of(one), tls=tls)
        if not tls and not _is_loopback(address_of(one)):
            log.warn(
                "the token crosses the network in clear; configure TLS", address=address_of(one)
            )
    for one in listening.telemetry:
        log.info("listening", serves="metrics", address=address_of(one), tls=tls)


def _opened(stack: ExitStack, addresses: Sequence[Address]) -> tuple[socket.socket, ...]:
    return tuple(stack.enter_context(one) for one in open_sockets(addresses))


def _paths(sockets: Sequence[socket.socket]) -> Iterator[str]:
    """Where they are in the file system; those in the abstract name space are nowhere."""
    for one in sockets:
        name = one.getsockname()
        if isinstance(name, str) and name.startswith("/"):
            yield name


def _is_loopback(address: Address) -> bool:
    return ipaddress.ip_address(address.host).is_loopback
