"""HTTP and TCP probes against real servers."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from worker_exporter.web.listen import Address, address_of, open_sockets
from worker_sidecar.health.answer import Answer
from worker_sidecar.health.net import NetworkProbes

PATIENCE = 20.0
"""Seconds after which an event that did not come is a failure; never a measure of speed."""

Client = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def drive(scenario: Callable[[NetworkProbes], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE), NetworkProbes() as probes:
            await scenario(probes)

    asyncio.run(run())


@asynccontextmanager
async def http_server(
    status: int = 200, headers: dict[str, str] | None = None
) -> AsyncIterator[tuple[str, list[web.BaseRequest]]]:
    """A server that answers with `status`; its URL, and the requests it gets."""
    requests: list[web.BaseRequest] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        requests.append(request)
        return web.Response(status=status, headers=headers)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    (listening,) = open_sockets([Address("127.0.0.1", 0)])
    await web.SockSite(runner, listening).start()
    try:
        yield f"http://{address_of(listening)}/health?full=1", requests
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_server(client: Client, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """A server that does with a client what `client` does; its port."""
    async with await asyncio.start_server(client, host, 0) as server:
        yield server.sockets[0].getsockname()[1]


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


@pytest.mark.parametrize("status", [200, 204, 301, 302, 307, 399])
def test_2xx_and_3xx_are_ready(status: int) -> None:
    async def scenario(probes: NetworkProbes) -> None:
        async with http_server(status) as (url, _):
            assert await probes.http(url, PATIENCE) == Answer("ready", f"HTTP {status}")

    drive(scenario)


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 503])
def test_4xx_and_5xx_are_not_ready(status: int) -> None:
    async def scenario(probes: NetworkProbes) -> None:
        async with http_server(status) as (url, _):
            assert await probes.http(url, PATIENCE) == Answer("not_ready", f"HTTP {status}")

    drive(scenario)


def test_redirects_are_not_followed() -> None:
    async def scenario(probes: NetworkProbes) -> None:
        async with http_server(500) as (elsewhere, visits):
            async with http_server(302, {"Location": elsewhere}) as (url, _):
                assert (await probes.http(url, PATIENCE)).ready
            assert visits == []

    drive(scenario)


def test_the_request_says_who_asks_and_keeps_nothing() -> None:
    async def scenario(probes: NetworkProbes) -> None:
        async with http_server(headers={"Set-Cookie": "session=1"}) as (url, requests):
            # by name: no client keeps a cookie of an address
            named = url.replace("127.0.0.1", "localhost")
            await probes.http(named, PATIENCE)
            await probes.http(named, PATIENCE)
        first, second = requests
        assert first.method == "GET"
        assert first.path_qs == "/health?full=1"
        assert first.headers["User-Agent"].startswith("worker-sidecar/")
        assert first.headers["Connection"] == "close"
        assert "Cookie" not in second.headers

    drive(scenario)


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.delenv("no_proxy", raising=False)

    async def scenario(probes: NetworkProbes) -> None:
        async with http_server() as (url, _):
            assert (await probes.http(url, PATIENCE)).ready

    drive(scenario)


def test_a_closed_port_is_not_ready() -> None:
    async def scenario(probes: NetworkProbes) -> None:
        port = closed_port()
        refused = Answer("not_ready", "Connection refused")
        assert await probes.http(f"http://127.0.0.1:{port}/", PATIENCE) == refused
        assert await probes.tcp(f"127.0.0.1:{port}", PATIENCE) == refused

    drive(scenario)


def test_silence_is_a_timeout() -> None:
    async def scenario(probes: NetworkProbes) -> None:
        async with raw_server(silent) as port:
            with pytest.raises(TimeoutError):
                await probes.http(f"http://127.0.0.1:{port}/", 0.05)

    drive(scenario)


@pytest.mark.parametrize("words", [b"SSH-2.0-OpenSSH_9.2\r\n", b"", b"HTTP/1.1 abc\r\n\r\n"])
def test_what_is_no_http_is_not_ready(words: bytes) -> None:
    async def client(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        writer.close()

    async def scenario(probes: NetworkProbes) -> None:
        async with raw_server(client) as port:
            answer = await probes.http(f"http://127.0.0.1:{port}/", PATIENCE)
            assert answer.result == "not_ready"
            assert answer.reason

    drive(scenario)


def test_a_body_without_end_is_not_read() -> None:
    async def client(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65536)
            try:
                await writer.drain()
            except ConnectionError:
                return

    async def scenario(probes: NetworkProbes) -> None:
        async with raw_server(client) as port:
            assert (await probes.http(f"http://127.0.0.1:{port}/", PATIENCE)).ready

    drive(scenario)


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/", "http://[::1/", "nonsense"])
def test_what_cannot_be_asked_is_an_error(url: str) -> None:
    async def scenario(probes: NetworkProbes) -> None:
        assert (await probes.http(url, PATIENCE)).result == "error"

    drive(scenario)


def test_tcp_is_ready_when_it_is_accepted() -> None:
    async def scenario(probes: NetworkProbes) -> None:
        async with raw_server(silent) as port:
            assert await probes.tcp(f"127.0.0.1:{port}", PATIENCE) == Answer("ready", "connected")
            assert (await probes.tcp(f"localhost:{port}", PATIENCE)).ready

    drive(scenario)


def test_tcp_over_ipv6() -> None:
    async def scenario(probes: NetworkProbes) -> None:
        async with raw_server(silent, "::1") as port:
            assert (await probes.tcp(f"[::1]:{port}", PATIENCE)).ready

    drive(scenario)


@pytest.mark.parametrize("target", ["no-such-host.invalid:80", "127.0.0.1:", "127.0.0.1:http:x"])
def test_a_target_that_is_none_is_an_error(target: str) -> None:
    async def scenario(probes: NetworkProbes) -> None:
        answer = await probes.tcp(target, PATIENCE)
        assert answer.result == "error"
        assert target in answer.reason

    drive(scenario)


def test_names_are_found_while_the_loops_own_threads_are_all_at_work() -> None:
    go = threading.Event()

    async def scenario(probes: NetworkProbes) -> None:
        flood = [asyncio.create_task(asyncio.to_thread(go.wait, PATIENCE)) for _ in range(200)]
        try:
            async with raw_server(silent) as port, http_server() as (url, _):
                assert (await probes.tcp(f"localhost:{port}", PATIENCE / 2)).ready
                named = url.replace("127.0.0.1", "localhost")
                assert (await probes.http(named, PATIENCE / 2)).ready
            assert not any(task.done() for task in flood)
        finally:
            go.set()
            await asyncio.gather(*flood)

    drive(scenario)
