"""Sockets that systemd opened for us (sd_listen_fds(3))."""

import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass

from worker_sidecar.errors import InputError

_FIRST = 3
_TELEMETRY = "telemetry"
"""FileDescriptorName= of a socket that is for the metrics; all others are for the API."""


@dataclass(frozen=True, slots=True)
class Passed:
    """The listening sockets that were passed, none of them as a rule."""

    api: tuple[socket.socket, ...] = ()
    telemetry: tuple[socket.socket, ...] = ()


def passed_sockets(environment: MutableMapping[str, str] | None = None) -> Passed:
    """Take the sockets of LISTEN_FDS over; no process we start inherits them or hears of them.

    Raises InputError for a descriptor that is no listening stream socket.
    """
    environment = os.environ if environment is None else environment
    pid, count, names = (
        environment.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdecimal():
        return Passed()
    called = names.split(":")
    api: list[socket.socket] = []
    telemetry: list[socket.socket] = []
    for number in range(int(count)):
        name = called[number] if number < len(called) else ""
        (telemetry if name == _TELEMETRY else api).append(_take(_FIRST + number))
    return Passed(tuple(api), tuple(telemetry))


def _take(descriptor: int) -> socket.socket:
    try:
        os.set_inheritable(descriptor, False)
        taken = socket.socket(fileno=descriptor)
        listens = taken.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise InputError(f"descriptor {descriptor} from systemd: {error.strerror}") from None
    if not listens or taken.type != socket.SOCK_STREAM:
        raise InputError(
            f"descriptor {descriptor} from systemd: no listening stream socket; use ListenStream="
        )
    taken.setblocking(False)
    return taken
