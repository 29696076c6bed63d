"""Words to systemd, for a unit with Type=notify (sd_notify(3))."""

import os
import socket
import time

from worker_exporter import log


def ready() -> None:
    """The API answers; the unit counts as started, or as reloaded."""
    _send("READY=1")


def reloading() -> None:
    """The configuration is read again; ready() says when that is over."""
    _send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def stopping() -> None:
    """The end has begun."""
    _send("STOPPING=1")


def _send(words: str) -> None:
    place = os.environ.get("NOTIFY_SOCKET", "")
    if not place.startswith(("/", "@")):
        return
    # An @ stands for the abstract name space.
    address = "\0" + place[1:] if place[0] == "@" else place
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.sendto(words.encode(), address)
    except OSError as error:
        log.warn("systemd could not be told", words=words.partition("\n")[0], err=str(error))
