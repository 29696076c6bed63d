"""The pages of the exporter as an aiohttp application."""

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web
from aiohttp.typedefs import Handler

from worker_exporter.errors import UserError
from worker_exporter.web.auth import BasicAuth
from worker_exporter.web.config import WebConfig
from worker_exporter.web.landing import landing_page
from worker_exporter.web.negotiation import Format, choose_format, wants_gzip
from worker_exporter.web.passes import Page, PassError, Passes, Rendering, Source

_HEALTH_PATHS = ("/-/healthy", "/health")
_READY_PATH = "/-/ready"
_TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"
_LONGEST_WAIT = 2.0
_SHARE_OF_WAIT = 0.5
_JSON = "application/json; charset=utf-8"
_PATH = re.compile(r"/[A-Za-z0-9._~/-]*")


@dataclass(frozen=True, slots=True)
class Site:
    """How the pages behave."""

    telemetry_path: str = "/metrics"
    max_requests: int = 40  # scrapes at a time; 0: no limit
    timeout_offset: float = 0.5  # seconds, taken off the scraper's own timeout
    config: WebConfig = field(default_factory=WebConfig)
    summaries: Mapping[str, str] = field(default_factory=dict)  # of the collectors, by name


class QueryError(Exception):
    """One line about what is wrong with collect[] or exclude[]."""


def make_app(source: Source, site: Site, ready: asyncio.Event) -> web.Application:
    """The application; `ready` is set while the listening sockets are up.

    Its clean-up closes `source`, after the pass that runs then, without waiting for it.
    Raises UserError for a telemetry path that cannot be served.
    """
    check_telemetry_path(site.telemetry_path)
    passes = Passes(source)
    app = web.Application()
    if site.config.users:
        _require_password(app, BasicAuth(site.config.users))
    scraped = Scraped(passes, site)
    app.router.add_get(site.telemetry_path, scraped.metrics)
    app.router.add_get(Page.WORKERS.value, scraped.workers)
    for path in _HEALTH_PATHS:
        app.router.add_get(path, _healthy)
    app.router.add_get(_READY_PATH, _readiness(ready))
    if site.telemetry_path != "/":
        app.router.add_get("/", _landing(site, passes.names))
    if site.config.headers:
        app.on_response_prepare.append(_headers(site.config.headers))
    app.on_cleanup.append(_closing(passes.close))
    return app


def check_telemetry_path(path: str) -> str:
    """`path` itself; raises UserError where it is no path or another page has it."""
    if not _PATH.fullmatch(path):
        raise UserError(f"telemetry path {path!r}: write a path like /metrics")
    if path in (*_HEALTH_PATHS, _READY_PATH, Page.WORKERS.value):
        raise UserError(f"telemetry path {path!r}: another page is there; choose another path")
    return path


def select(names: frozenset[str], collect: list[str], exclude: list[str]) -> frozenset[str]:
    """Which of the enabled collectors `names` a query chooses; raises QueryError."""
    if collect and exclude:
        raise QueryError(f"use collect[] or exclude[], not both; collectors here: {_listed(names)}")
    for name in collect or exclude:
        if name not in names:
            raise QueryError(
                f"collector {name!r} is unknown or disabled; collectors here: {_listed(names)}"
            )
    return frozenset(collect) if collect else names - frozenset(exclude)


def deadline(header: str | None, offset: float) -> float | None:
    """Seconds a scrape may take: the scraper's own timeout less `offset`; None: no limit."""
    try:
        timeout = float(header or "")
    except ValueError:
        return None
    if not math.isfinite(timeout) or timeout <= 0:
        return None
    return timeout - offset if timeout > offset else timeout


def patience(seconds: float | None) -> float:
    """Seconds that a scrape waits for what is asked beside it, if it may take `seconds`: the rest
    must still be on time. None: it has all the time in the world, but nobody likes to wait.
    """
    return _LONGEST_WAIT if seconds is None else min(_LONGEST_WAIT, _SHARE_OF_WAIT * seconds)


class Scraped:
    """The pages that are made of a pass; --web.max-requests counts them together."""

    def __init__(self, passes: Passes, site: Site) -> None:
        self._passes = passes
        self._limit = site.max_requests or math.inf
        self._offset = site.timeout_offset
        self._running = 0

    async def metrics(self, request: web.Request) -> web.Response:
        """One scrape, or one line that says why not."""
        try:
            selected = self._selected(request)
        except QueryError as error:
            return _line(400, str(error))
        accepted = choose_format(", ".join(request.headers.getall("Accept", ())))
        return await self._answer(request, selected, accepted)

    async def workers(self, request: web.Request) -> web.Response:
        """Names and states of all workers by one scrape, or one line that says why not."""
        return await self._answer(request, self._passes.names, Page.WORKERS)

    async def _answer(
        self, request: web.Request, selected: frozenset[str], form: Format | Page
    ) -> web.Response:
        if self._running >= self._limit:
            return _line(503, f"already {self._running} scrapes at a time, see --web.max-requests")
        self._running += 1
        try:
            return await self._scrape(request, selected, form)
        finally:
            self._running -= 1

    async def _scrape(
        self, request: web.Request, selected: frozenset[str], form: Format | Page
    ) -> web.Response:
        gzip = wants_gzip(", ".join(request.headers.getall("Accept-Encoding", ())))
        rendering = Rendering(form, gzip)
        seconds = deadline(request.headers.get(_TIMEOUT_HEADER), self._offset)
        try:
            async with asyncio.timeout(seconds):
                body = await self._passes.body(selected, rendering, patience(seconds))
        except TimeoutError:
            return _line(
                503, f"no answer within {seconds:g} s, the scrape timeout less --web.timeout-offset"
            )
        except PassError:
            return _line(500, "the scrape failed; the exporter's log says why")
        return web.Response(body=body, headers=_HEADERS[rendering])

    def _selected(self, request: web.Request) -> frozenset[str]:
        if not request.query_string:
            return self._passes.names
        query = request.query
        return select(
            self._passes.names, query.getall("collect[]", []), query.getall("exclude[]", [])
        )


def _rendering_headers(rendering: Rendering) -> dict[str, str]:
    if isinstance(rendering.format, Page):
        headers = {"Content-Type": _JSON, "Vary": "Accept-Encoding"}
    else:
        headers = {"Content-Type": rendering.format.value, "Vary": "Accept, Accept-Encoding"}
    return headers | {"Content-Encoding": "gzip"} if rendering.gzip else headers


_HEADERS = {
    rendering: _rendering_headers(rendering)
    for rendering in (Rendering(f, gzip) for f in (*Format, *Page) for gzip in (False, True))
}


def _line(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) or "none"


async def _healthy(_: web.Request) -> web.Response:
    return _line(200, "ok")


def _readiness(ready: asyncio.Event) -> Handler:
    async def readiness(_: web.Request) -> web.Response:
        return _line(200, "ready") if ready.is_set() else _line(503, "not ready")

    return readiness


def _landing(site: Site, names: frozenset[str]) -> Handler:
    collectors = [(name, site.summaries.get(name, "")) for name in sorted(names)]
    page = landing_page(site.telemetry_path, collectors)

    async def landing(_: web.Request) -> web.Response:
        return web.Response(text=page, content_type="text/html")

    return landing


def _require_password(app: web.Application, auth: BasicAuth) -> None:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if await auth.allows(request.headers.get("Authorization", "")):
            return await handler(request)
        refusal = _line(401, "Unauthorized")
        refusal.headers["WWW-Authenticate"] = "Basic"
        return refusal

    app.middlewares.append(guard)
    app.on_cleanup.append(_closing(auth.close))


def _headers(
    headers: Mapping[str, str],
) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    async def add(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(headers)

    return add


def _closing(close: Callable[[], None]) -> Callable[[web.Application], Awaitable[None]]:
    async def closing(_: web.Application) -> None:
        close()

    return closing
