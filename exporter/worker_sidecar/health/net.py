"""Probes over the network: HTTP and TCP."""

import asyncio
import os
import socket
from functools import partial
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

import worker_exporter
from worker_exporter.web.thread import DaemonThread
from worker_sidecar.health.answer import Answer

_HEADERS = {
    "User-Agent": f"worker-sidecar/{worker_exporter.__version__}",
    "Accept": "*/*",
    "Connection": "close",
}


class Names(AbstractResolver):
    """The system's own name resolution, each in a thread of its own: the loop's executor can be
    full of other work, and one name server that is silent must not hold another name.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of `host`. Raises socket.gaierror."""
        thread = DaemonThread(f"resolve {host}")
        try:
            found = await thread.run(
                partial(socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM)
            )
        finally:
            thread.close()
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=int(address[1]),
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Nothing is kept."""


class NetworkProbes:
    """Asks over HTTP and TCP; a context manager that holds the HTTP client.

    No proxy, no cookies, no connection kept: each probe is what a new client would see.
    """

    def __init__(self) -> None:
        self._names = Names()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "NetworkProbes":
        self._session = aiohttp.ClientSession(
            # A worker's certificate is seldom made for 127.0.0.1, and the probe tells it no secret.
            connector=aiohttp.TCPConnector(
                limit=0, force_close=True, resolver=self._names, ssl=False
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            timeout=aiohttp.ClientTimeout(total=None),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def http(self, url: str, timeout: float) -> Answer:
        """GET `url`: 200 to 399 is ready. Redirects are not followed: they are an answer, and
        where they lead is not the worker. Raises TimeoutError after `timeout` seconds.
        """
        assert self._session is not None
        try:
            async with (
                asyncio.timeout(timeout),
                self._session.get(url, allow_redirects=False) as response,
            ):
                status = response.status
        except aiohttp.InvalidURL as error:
            return Answer("error", str(error))
        except aiohttp.ClientConnectorError as error:
            if isinstance(error.os_error, socket.gaierror):
                return Answer("error", str(error))
            return Answer("not_ready", _reason(error.os_error))
        except (aiohttp.ClientError, ConnectionError) as error:
            return Answer("not_ready", str(error) or type(error).__name__)
        return Answer("ready" if 200 <= status < 400 else "not_ready", f"HTTP {status}")

    async def tcp(self, target: str, timeout: float) -> Answer:
        """Connect to `target`, HOST:PORT: an accepted connection is ready.

        Raises TimeoutError after `timeout` seconds.
        """
        host, _, port = target.rpartition(":")
        async with asyncio.timeout(timeout):
            try:
                addresses = await self._names.resolve(host.strip("[]"), int(port))
            except (OSError, ValueError) as error:
                return Answer("error", f"{target}: {error}")
            return await _connect(addresses)


async def _connect(addresses: list[ResolveResult]) -> Answer:
    reason = "no address"
    for address in addresses:
        try:
            _, writer = await asyncio.open_connection(address["host"], address["port"])
        except OSError as error:
            reason = _reason(error)
        else:
            writer.close()
            return Answer("ready", "connected")
    return Answer("not_ready", reason)


def _reason(error: OSError) -> str:
    """The kernel's words; asyncio's own repeat the address."""
    return os.strerror(error.errno) if error.errno else str(error)
