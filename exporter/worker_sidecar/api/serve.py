"""`worker-sidecar serve`: applies workers.yaml, answers the API, and probes health."""

import asyncio
import os
import signal
import ssl
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Handler
from prometheus_client import CollectorRegistry

from worker_exporter import __version__, log
from worker_exporter.web.config import WebConfig, read_config
from worker_exporter.web.tls import ReloadingContext
from worker_sidecar import own
from worker_sidecar.api import notify
from worker_sidecar.api.app import Access, make_app
from worker_sidecar.api.connections import answer_on
from worker_sidecar.api.host import Current, Host
from worker_sidecar.api.keeper import Keeper
from worker_sidecar.api.listening import Listening, open_listening, tell
from worker_sidecar.api.settings import ServeSettings
from worker_sidecar.api.token import TokenFile
from worker_sidecar.control import open_control
from worker_sidecar.errors import InputError, SidecarError
from worker_sidecar.health import Prober, living
from worker_sidecar.launch.best import site_for
from worker_sidecar.metrics import SidecarMetrics

_GRACE = 0.5
"""Seconds that answers have at the end; aiohttp waits twice as long at most."""


def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT; the workers go on.

    Raises RefusedError when another serves on the socket, and SidecarError or UserError for
    settings or a workers.yaml that cannot be used.
    """
    host = _load(settings)
    config = _web_config(settings)
    context = None if config.tls is None else ReloadingContext(config.tls)
    with open_listening(settings) as listening:
        token = TokenFile(settings.token_file) if settings.token_file and listening.tcp else None
        access = Access(token, settings.rates, config.headers)
        log.info("starting", version=__version__, launcher=host.control.launcher.name)
        asyncio.run(_Service(settings, host, access).run(listening, context))
    _leave()


class _Service:
    """All that runs in the event loop."""

    def __init__(self, settings: ServeSettings, host: Host, access: Access) -> None:
        self._settings = settings
        self._access = access
        self._current = Current(host)
        self._metrics = SidecarMetrics(CollectorRegistry())
        self._failed: dict[str, str] = {}

    async def run(self, listening: Listening, context: ssl.SSLContext | None) -> None:
        """Serve on `listening` until a signal says stop."""
        stop = asyncio.Event()
        workers = self._current.host.config.workers
        prober = Prober(workers, lambda *name: self._current.host.place(*name), self._metrics)
        keeper = Keeper(self._current, lambda: _load(self._settings), prober, self._metrics)
        _on_signals(
            {signal.SIGTERM: stop.set, signal.SIGINT: stop.set, signal.SIGHUP: keeper.reload}
        )
        api = _runner(make_app(self._current, self._access, self._metrics, keeper.started))
        telemetry = _runner(self._telemetry(keeper))
        await api.setup()
        await telemetry.setup()
        most = self._settings.rates.connections
        servers = [
            *[await answer_on(one, api, None, most) for one in listening.unix],
            *[await answer_on(one, api, context, most) for one in listening.tcp],
            *[await answer_on(one, telemetry, context, most) for one in listening.telemetry],
        ]
        tell(listening, tls=context is not None)
        notify.ready()
        tasks = [self._task("probes", prober.run()), self._task("apply", keeper.run())]
        await stop.wait()
        log.info("stopping")
        notify.stopping()
        for server in servers:
            server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, api.cleanup(), telemetry.cleanup(), return_exceptions=True)

    def _telemetry(self, keeper: Keeper) -> web.Application:
        """The metrics and health; markers are read when somebody asks, and not before."""
        app = own.make_app(self._metrics, lambda: self._trouble(keeper))

        @web.middleware
        async def desired(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                self._metrics.desired(self._current.host.desired())
            except SidecarError as error:
                log.error("who was stopped on purpose cannot be known", err=str(error))
                self._metrics.desired(())
            return await handler(request)

        app.middlewares.append(desired)
        return app

    def _trouble(self, keeper: Keeper) -> str | None:
        return next(iter(self._failed.values()), keeper.trouble)

    def _task(self, name: str, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """`work` as a task whose failure is logged, and makes us unhealthy."""

        def ended(task: "asyncio.Task[None]") -> None:
            if not task.cancelled() and (error := task.exception()):
                self._failed[name] = f"{name} ended with an error; restart the sidecar"
                log.error(f"{name} ended", **log.describe(error))

        task = asyncio.create_task(work, name=name)
        task.add_done_callback(ended)
        return task


def _load(settings: ServeSettings) -> Host:
    """The configuration and its control. Raises SidecarError."""
    config = settings.load()
    control = open_control(config, settings.slice_name, settings.launcher, settings.emergency)
    site = site_for(settings.slice_name or config.slice_name)
    return Host(config, control, living(site))


def _web_config(settings: ServeSettings) -> WebConfig:
    if settings.web_config is None:
        return WebConfig()
    config = read_config(settings.web_config)
    if config.users:
        raise InputError(
            f"{settings.web_config}: basic_auth_users: the API takes a bearer token, --token-file"
        )
    return config


def _on_signals(handlers: dict[signal.Signals, Callable[[], None]]) -> None:
    loop = asyncio.get_running_loop()
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)


def _runner(app: web.Application) -> web.AppRunner:
    return web.AppRunner(
        app,
        # Who follows a log and leaves must not hold its thread; starts and stops are shielded.
        handler_cancellation=True,
        shutdown_timeout=_GRACE,
    )


def _leave() -> None:
    """End now, if there are threads that the interpreter would wait for.

    They are in the middle of a start or a question to a daemon that may never answer; it is as if
    we were killed, and the next apply finishes the work.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if any(not thread.daemon for thread in others):
        os._exit(0)
