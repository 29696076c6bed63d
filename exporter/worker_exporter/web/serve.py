"""Serving until a signal says stop."""

import asyncio
import signal
import socket
import ssl
from collections.abc import Sequence

from aiohttp import web

from worker_exporter import log
from worker_exporter.web.app import Site, make_app
from worker_exporter.web.listen import address_of
from worker_exporter.web.passes import Source

# aiohttp waits this long for running answers, then once more for their cancellation.
_GRACE_SECONDS = 0.2


async def serve(
    source: Source,
    site: Site,
    sockets: Sequence[socket.socket],
    context: ssl.SSLContext | None = None,
) -> None:
    """Answer on `sockets`, with TLS where there is a `context`, until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    ready = asyncio.Event()
    runner = make_runner(make_app(source, site, ready))
    await runner.setup()
    try:
        for listening in sockets:
            await web.SockSite(runner, listening, ssl_context=context).start()
            log.info("listening", address=address_of(listening), tls=context is not None)
        ready.set()
        await stop.wait()
        log.info("stopping")
        ready.clear()
    finally:
        await runner.cleanup()


def make_runner(app: web.Application) -> web.AppRunner:
    """A runner that logs no requests, notices clients that leave, and ends at once."""
    return web.AppRunner(
        app,
        access_log=None,
        # A client that went away must not keep its place among --web.max-requests.
        handler_cancellation=True,
        shutdown_timeout=_GRACE_SECONDS,
    )
