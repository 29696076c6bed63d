"""What each operation does."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from worker_sidecar.api import audit, models
from worker_sidecar.api.host import Current, Host
from worker_sidecar.api.openapi import document
from worker_sidecar.api.operations import WORKERS
from worker_sidecar.api.streams import Streams
from worker_sidecar.api.threads import Threads
from worker_sidecar.errors import InputError, RefusedError, SidecarError
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.metrics import STARTED, SidecarMetrics
from worker_sidecar.spec import Declared

MOST_BYTES = 64 * 1024
"""Longest body of a request."""

BODY_SECONDS = 10.0
"""How long a client may take to send one."""

_READING = (4, 60)
"""Threads for questions, and how many may wait for one."""

_CHANGING = (16, 48)
"""Threads for starts and kills."""

_STOPPING = (16, 48)
"""Threads for stops, each of which can take as long as its grace: no kill must wait for one."""

Q = TypeVar("Q", bound=BaseModel)


class Handlers:
    """A method for each operation, called as it is named."""

    def __init__(
        self, current: Current, metrics: SidecarMetrics, started: Callable[[Declared], None]
    ) -> None:
        """`started` hears, in the event loop, of each worker of a declared service that starts."""
        self._current = current
        self._metrics = metrics
        self._started = started
        self._reading = Threads("reading", *_READING)
        self._changing = Threads("changing", *_CHANGING)
        self._stopping = Threads("stopping", *_STOPPING)
        self._streams = Streams()
        self._document = document()

    def end_streams(self) -> None:
        """Let clients go that wait for output."""
        self._streams.end()

    def close(self) -> None:
        """Let the threads end, when what they do has ended."""
        self._reading.close()
        self._changing.close()
        self._stopping.close()
        self._streams.close()

    async def list_workers(self, request: web.Request) -> web.StreamResponse:
        query = _query(models.ListQuery, request)
        workers = await self._reading.run(self._current.host.workers)
        chosen = tuple(
            worker
            for worker in workers
            if query.state in (None, worker.state) and query.service in (None, worker.service)
        )
        return answer(models.WorkerList(workers=chosen))

    async def get_worker(self, request: web.Request) -> web.StreamResponse:
        service, instance = _names(request)
        _query(models.NoQuery, request)
        return answer(
            await self._reading.run(partial(self._current.host.worker, service, instance))
        )

    async def start_worker(self, request: web.Request) -> web.StreamResponse:
        _query(models.NoQuery, request)
        body = await _start_body(request)
        audit.about(body.service, body.instance)
        host = self._current.host
        if isinstance(body, models.FreeStart):
            if not host.config.free_commands:
                raise RefusedError(
                    "workers.yaml allows no free commands; name a service of it, or set there"
                    " api: {free_commands: true}"
                )
            worker = await self._changing.run(partial(self._start_free, host, body))
        else:
            declared, worker = await self._changing.run(partial(self._start_declared, host, body))
            self._started(declared)
        place = f"{WORKERS}/{worker.service}/{worker.instance}"
        return answer(worker, status=201, headers={"Location": place})

    async def stop_worker(self, request: web.Request) -> web.StreamResponse:
        service, instance = _names(request)
        query = _query(models.StopQuery, request)
        control = self._current.host.control
        stop = partial(control.stop, service, instance, query.grace)
        return answer(models.EndedWorker.of(await self._stopping.run(stop)))

    async def kill_worker(self, request: web.Request) -> web.StreamResponse:
        service, instance = _names(request)
        _query(models.NoQuery, request)
        kill = partial(self._current.host.control.kill, service, instance)
        return answer(models.EndedWorker.of(await self._changing.run(kill)))

    async def get_logs(self, request: web.Request) -> web.StreamResponse:
        service, instance = _names(request)
        query = _query(models.LogsQuery, request)
        control = self._current.host.control
        return await self._streams.send(
            request, partial(control.logs, service, instance, query.lines, follow=query.follow)
        )

    async def list_services(self, request: web.Request) -> web.StreamResponse:
        _query(models.NoQuery, request)
        services = self._current.host.config.services
        found = tuple(models.ServiceInfo.of(services[name]) for name in sorted(services))
        return answer(models.ServiceList(services=found))

    async def get_health(self, request: web.Request) -> web.StreamResponse:
        _query(models.NoQuery, request)
        return answer(models.Health())

    async def get_openapi(self, request: web.Request) -> web.StreamResponse:
        _query(models.NoQuery, request)
        return web.json_response(self._document)

    def _start_declared(
        self, host: Host, body: models.DeclaredStart
    ) -> tuple[Declared, models.Worker]:
        declared = host.config.request(body.service, body.instance, body.parameters)
        return declared, self._start(host, declared.spec, body.strict)

    def _start_free(self, host: Host, body: models.FreeStart) -> models.Worker:
        above = (host.config.total(body.service), host.config.host_limits)
        return self._start(host, body.spec(*above), body.strict)

    def _start(self, host: Host, spec: WorkerSpec, strict: bool) -> models.Worker:
        began = time.monotonic()
        try:
            worker = host.start(spec, strict=strict)
        except SidecarError as error:
            self._metrics.launched(spec.service, error.kind)
            raise
        self._metrics.launched(spec.service, STARTED)
        self._metrics.launch_took(time.monotonic() - began, spec.service)
        return worker


def answer(content: BaseModel, status: int = 200, **more: Any) -> web.Response:
    """`content` as JSON."""
    body = content.model_dump_json().encode()
    return web.Response(body=body, status=status, content_type="application/json", **more)


async def _start_body(request: web.Request) -> models.Start:
    """What is to be started. Raises InputError or web.HTTPException."""
    if request.content_type != "application/json" or "Content-Encoding" in request.headers:
        raise web.HTTPUnsupportedMediaType(text="send plain JSON, Content-Type: application/json")
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout(text=f"the body did not come in {BODY_SECONDS:g} s") from None
    except (web.RequestPayloadError, ConnectionError):
        raise web.HTTPBadRequest(text="the body broke off") from None
    if len(body) > MOST_BYTES:
        raise web.HTTPRequestEntityTooLarge(MOST_BYTES, len(body))
    try:
        return models.START.validate_json(body)
    except ValidationError as error:
        raise InputError(_problems(error)) from None


def _names(request: web.Request) -> tuple[str, str]:
    """Service and instance as they are in the path; Control checks them."""
    service, instance = request.match_info["service"], request.match_info["instance"]
    audit.about(service, instance)
    return service, instance


def _query(model: type[Q], request: web.Request) -> Q:
    """The parameters of the URL. Raises InputError."""
    given = request.query
    twice = {name for name in given if len(given.getall(name)) > 1}
    if twice:
        raise InputError(f"{', '.join(sorted(twice))}: is there twice in the URL")
    try:
        return model.model_validate_strings(dict(given))
    except ValidationError as error:
        raise InputError(_problems(error)) from None


def _problems(error: ValidationError) -> str:
    """What is wrong, in one line that does not repeat what was sent: it may hold a secret."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(_problem(item["loc"], item["msg"]) for item in found[:5])


def _problem(place: tuple[int | str, ...], message: str) -> str:
    # The name of the branch of a union is not the client's.
    path = place[1:] if place and place[0] in ("declared", "free") else place
    said = message.removeprefix("Value error, ")
    return f"{'.'.join(map(str, path))}: {said}" if path else said
