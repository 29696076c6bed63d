"""Output of workers on its way to clients."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from worker_exporter import log
from worker_exporter.web.thread import DaemonThread
from worker_sidecar.api.errors import BusyError
from worker_sidecar.api.threads import Threads
from worker_sidecar.launch.launcher import LogStream

AT_ONCE = 16
"""Clients that can read output at a time: each holds a thread while it waits for more."""

_SEND_SECONDS = 60.0
"""How long a client may take no output before it has to leave: others want its place."""

_HEADERS = {
    "Content-Type": "text/plain; charset=utf-8",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Streams:
    """Opens, sends and closes streams. All methods belong to one event loop."""

    def __init__(self) -> None:
        # As many may wait as read: a closed stream's thread can take a moment to notice.
        self._readers = Threads("log", AT_ONCE, AT_ONCE)
        self._closer = DaemonThread("log close")
        self._clients = 0
        self._open: set[LogStream] = set()
        self._ending = False

    async def send(
        self, request: web.Request, open_log: Callable[[], LogStream]
    ) -> web.StreamResponse:
        """Answer `request` with all that the stream has, until its end, the client's or ours.

        Raises BusyError, and what `open_log` raises, before anything is sent.
        """
        if self._clients >= AT_ONCE:
            raise BusyError(f"{AT_ONCE} clients read logs already; ask again later")
        self._clients += 1
        try:
            async with self._opened(open_log) as stream:
                return await self._copy(request, stream)
        finally:
            self._clients -= 1

    def end(self) -> None:
        """End all streams: their clients get what was read, and a proper end."""
        self._ending = True
        for stream in self._open:
            self._closer.submit(stream.close)

    def close(self) -> None:
        """Let the threads end; nothing is sent any more."""
        self._closer.close()
        self._readers.close()

    @asynccontextmanager
    async def _opened(self, open_log: Callable[[], LogStream]) -> AsyncIterator[LogStream]:
        opening = asyncio.ensure_future(self._readers.run(open_log))
        try:
            # A client that leaves meanwhile must not leave the stream open.
            stream = await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._close_opened)
            raise
        self._open.add(stream)
        try:
            yield stream
        finally:
            self._open.discard(stream)
            self._closer.submit(stream.close)

    async def _copy(self, request: web.Request, stream: LogStream) -> web.StreamResponse:
        response = web.StreamResponse(headers=_HEADERS)
        try:
            await response.prepare(request)
            while not self._ending and (piece := await self._readers.run(stream.read)):
                async with asyncio.timeout(_SEND_SECONDS):
                    await response.write(piece)
            await response.write_eof()
        except ConnectionError:
            return response  # the client has left
        except TimeoutError:
            log.warn("a client takes no output", path=request.path, seconds=_SEND_SECONDS)
            _cut_off(request)
        except Exception as error:
            log.error("output broke off", path=request.path, **log.describe(error))
            _cut_off(request)
        return response

    def _close_opened(self, opening: "asyncio.Future[LogStream]") -> None:
        if not opening.cancelled() and opening.exception() is None:
            self._closer.submit(opening.result().close)


def _cut_off(request: web.Request) -> None:
    """End the connection so that the answer does not look complete."""
    if request.transport is not None:
        request.transport.abort()
