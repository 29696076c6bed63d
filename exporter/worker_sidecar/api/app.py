"""The API as an aiohttp application: admission, errors as JSON, metrics and the audit log."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from worker_exporter import log
from worker_sidecar.api import audit
from worker_sidecar.api.errors import BusyError, TooManyRequestsError, UnauthorizedError
from worker_sidecar.api.handlers import MOST_BYTES, Handlers, answer
from worker_sidecar.api.host import Current
from worker_sidecar.api.models import Problem
from worker_sidecar.api.operations import OPERATIONS
from worker_sidecar.api.peer import Peer, peer_of
from worker_sidecar.api.rate import PeerRates, TotalRate
from worker_sidecar.api.settings import Rates
from worker_sidecar.api.token import TokenFile
from worker_sidecar.errors import PermissionDeniedError, SidecarError
from worker_sidecar.metrics import SidecarMetrics
from worker_sidecar.spec import Declared

HEALTH = "/healthz"
CLIENT_LEFT = 499
"""What is counted for a request whose client did not wait for the answer."""

_KINDS: Mapping[int, str] = {
    400: "bad-input",
    404: "not-found",
    405: "method-not-allowed",
    408: "timeout",
    413: "too-large",
    415: "wrong-content-type",
}


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask, and how much; without a `token` nobody may over TCP."""

    token: TokenFile | None = None
    rates: Rates = field(default_factory=Rates)
    headers: Mapping[str, str] = field(default_factory=dict)


def make_app(
    current: Current,
    access: Access,
    metrics: SidecarMetrics,
    started: Callable[[Declared], None],
) -> web.Application:
    """The application; see Handlers for `started`.

    Its shutdown ends the streams; what its threads do then is left behind.
    """
    handlers = Handlers(current, metrics, started)
    app = web.Application(
        client_max_size=MOST_BYTES
        + 1,  # aiohttp's versions differ in whether that much is too much
        middlewares=[_carried_through(), _answering(Gate(access), metrics)],
    )
    for operation in OPERATIONS:
        app.router.add_route(operation.method, operation.path, getattr(handlers, operation.name))

    async def end_streams(_: web.Application) -> None:
        handlers.end_streams()

    async def lifetime(_: web.Application) -> AsyncIterator[None]:
        yield
        handlers.close()

    async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(access.headers)

    app.on_shutdown.append(end_streams)
    app.cleanup_ctx.append(lifetime)
    app.on_response_prepare.append(add_headers)
    return app


class Gate:
    """Lets requests in, or raises why not."""

    def __init__(self, access: Access) -> None:
        rates = access.rates
        self._token = access.token
        self._peers = PeerRates(rates.peer, rates.peer_burst)
        self._total = TotalRate(rates.total, rates.total_burst)
        self._most = rates.simultaneous
        self._inside = 0

    @contextmanager
    def passage(self, request: web.Request, peer: Peer) -> Iterator[None]:
        """Be let in, for as long as the answer takes.

        Raises TooManyRequestsError, UnauthorizedError or BusyError.
        """
        if request.path == HEALTH:
            self._check(request, peer)
            yield
            return
        self._peers.take(peer.key)
        self._check(request, peer)
        # After the token: who has none cannot use up what belongs to all.
        self._total.take()
        if self._inside >= self._most:
            raise BusyError(f"{self._most} requests are being answered; ask again later")
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1

    def _check(self, request: web.Request, peer: Peer) -> None:
        if peer.local:
            return
        authorization = request.headers.get("Authorization", "")
        if self._token is None or not self._token.allows(authorization):
            raise UnauthorizedError("send the token of the API: Authorization: Bearer TOKEN")


def _carried_through() -> Middleware:
    """What changes something is done to its end, also when its client leaves."""
    running: set[asyncio.Task[web.StreamResponse]] = set()

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not audit.changes(request):
            return await handler(request)
        task = asyncio.ensure_future(handler(request))
        running.add(task)
        task.add_done_callback(running.discard)
        return await asyncio.shield(task)

    return middleware


def _answering(gate: Gate, metrics: SidecarMetrics) -> Middleware:
    """Every answer is counted, errors become JSON, and changes are logged."""

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.monotonic()
        peer = peer_of(request)
        deed = audit.begin()
        result = "done"
        try:
            with gate.passage(request, peer):
                response = await handler(request)
        except asyncio.CancelledError:
            metrics.requested(request.method, CLIENT_LEFT)
            if audit.changes(request):  # it is not the client who can end these
                took = time.monotonic() - began
                audit.record(request, peer, deed, CLIENT_LEFT, "interrupted by our end", took)
            raise
        except Exception as error:
            response, result = _refusal(error)
        metrics.requested(request.method, response.status)
        # A flood must not fill the log, and what was not let in changed nothing.
        if audit.changes(request) and result != TooManyRequestsError.kind:
            took = time.monotonic() - began
            audit.record(request, peer, deed, response.status, result, took)
        return response

    return middleware


def _refusal(error: Exception) -> tuple[web.Response, str]:
    """The answer for `error`, and its kind."""
    if isinstance(error, web.HTTPException):
        return _of_http(error)
    if isinstance(error, SidecarError):
        return _of_sidecar(error)
    log.error("a request failed", **log.describe(error))
    problem = Problem(error=SidecarError.kind, message="it failed; the sidecar's log says why")
    return answer(problem, status=500), problem.error


def _of_http(error: web.HTTPException) -> tuple[web.Response, str]:
    kind = _KINDS.get(error.status, HTTPStatus(error.status).phrase.lower().replace(" ", "-"))
    headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
    problem = Problem(error=kind, message=_said(error))
    return answer(problem, status=error.status, headers=headers), kind


def _of_sidecar(error: SidecarError) -> tuple[web.Response, str]:
    owner = error.owner if isinstance(error, PermissionDeniedError) else None
    message = " ".join(str(error).split())
    headers = {}
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, (TooManyRequestsError, BusyError)):
        headers["Retry-After"] = str(math.ceil(error.wait))
    problem = Problem(error=error.kind, message=message, owner=owner)
    return answer(problem, status=error.status, headers=headers), error.kind


def _said(error: web.HTTPException) -> str:
    if error.status == 404:
        return "there is nothing at this path; /openapi.json lists what there is"
    if error.status == 405:
        return (
            f"this path takes {', '.join(sorted(error.headers.get('Allow', '').split(',')))} only"
        )
    if error.status == 413:
        return f"the body is too large; {MOST_BYTES} bytes are allowed"
    return " ".join((error.text or error.reason).split())
