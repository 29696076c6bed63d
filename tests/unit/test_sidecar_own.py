"""The listener of the sidecar's own metrics, over a real socket."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import ClientSession, web
from prometheus_client import CollectorRegistry
from tests.parsers import READERS

from worker_exporter.web.listen import Address, address_of, open_sockets
from worker_sidecar.metrics import SidecarMetrics
from worker_sidecar.own import make_app

PATIENCE = 20.0
"""Seconds after which an event that did not come is a failure; never a measure of speed."""


def drive(
    scenario: Callable[[ClientSession], Awaitable[None]],
    healthy: Callable[[], str | None] = lambda: None,
) -> None:
    async def run() -> None:
        metrics = SidecarMetrics(CollectorRegistry())
        metrics.declare(["llm"])
        runner = web.AppRunner(make_app(metrics, healthy), access_log=None)
        await runner.setup()
        (listening,) = open_sockets([Address("127.0.0.1", 0)])
        try:
            await web.SockSite(runner, listening).start()
            async with (
                asyncio.timeout(PATIENCE),
                ClientSession(f"http://{address_of(listening)}") as client,
            ):
                await scenario(client)
        finally:
            await runner.cleanup()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("accept", "reader", "begin"),
    [
        ("application/openmetrics-text;version=1.0.0", "openmetrics", "application/openmetrics"),
        ("text/plain", "text", "text/plain; version=0.0.4"),
        ("*/*", "text", "text/plain; version=0.0.4"),
    ],
)
def test_metrics_in_the_format_asked_for(accept: str, reader: str, begin: str) -> None:
    async def scenario(client: ClientSession) -> None:
        async with client.get("/metrics", headers={"Accept": accept}) as response:
            assert response.status == 200
            assert response.headers["Content-Type"].startswith(begin)
            assert response.headers["Vary"] == "Accept"
            families = READERS[reader](await response.text())
            assert "worker_sidecar_build_info" in {family.name for family in families}

    drive(scenario)


@pytest.mark.parametrize("path", ["/-/healthy", "/healthz"])
def test_health_is_the_sidecars_own(path: str) -> None:
    trouble: list[str] = []

    async def scenario(client: ClientSession) -> None:
        async with client.get(path) as response:
            assert (response.status, await response.text()) == (200, "ok\n")
        trouble.append("workers.yaml is broken")
        async with client.get(path) as response:
            assert (response.status, await response.text()) == (503, "workers.yaml is broken\n")

    drive(scenario, lambda: trouble[0] if trouble else None)


def test_head_gets_no_body() -> None:
    async def scenario(client: ClientSession) -> None:
        for path in ("/metrics", "/-/healthy", "/healthz"):
            async with client.head(path) as response:
                assert (response.status, await response.read()) == (200, b"")

    drive(scenario)


@pytest.mark.parametrize("path", ["/", "/api/v1/workers", "/openapi.json", "/metrics/", "/-/ready"])
def test_nothing_else_is_there(path: str) -> None:
    async def scenario(client: ClientSession) -> None:
        async with client.get(path) as response:
            assert response.status == 404

    drive(scenario)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_changed(method: str) -> None:
    async def scenario(client: ClientSession) -> None:
        for path in ("/metrics", "/-/healthy"):
            async with client.request(method, path, data=b"x") as response:
                assert response.status == 405

    drive(scenario)
