"""Who changed what, with what result: one line in the log for each request that can."""

from contextvars import ContextVar
from dataclasses import dataclass

from aiohttp import web

from worker_exporter import log
from worker_sidecar.api.peer import Peer

_READING = ("GET", "HEAD", "OPTIONS")


@dataclass(slots=True)
class Deed:
    """The worker that a request is about, as far as it is known."""

    service: str | None = None
    instance: str | None = None


_DEED: ContextVar[Deed] = ContextVar("deed")


def begin() -> Deed:
    """A request begins in this task; about() adds to what is known of it."""
    deed = Deed()
    _DEED.set(deed)
    return deed


def about(service: str, instance: str) -> None:
    """The worker that is meant, whether or not there can be one of that name."""
    deed = _DEED.get(None) or begin()
    deed.service, deed.instance = service, instance


def changes(request: web.Request) -> bool:
    """Whether a request can change something."""
    return request.method not in _READING


def record(
    request: web.Request, peer: Peer, deed: Deed, status: int, result: str, seconds: float
) -> None:
    """Log a request that can change something, and what came of it."""
    log.info(
        "api request",
        method=request.method,
        path=request.path,
        service=deed.service,
        instance=deed.instance,
        **peer.fields,
        status=status,
        result=result,
        seconds=f"{seconds:.3f}",
    )
