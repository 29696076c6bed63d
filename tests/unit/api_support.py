"""The API with everything real but the launcher: a Unix socket and a TCP port to ask it by."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, UnixConnector, web
from prometheus_client import CollectorRegistry
from tests.unit.fake_launcher import FakeLauncher

from worker_exporter.web.listen import Address, address_of, open_sockets
from worker_sidecar.api.app import Access, make_app
from worker_sidecar.api.connections import answer_on
from worker_sidecar.api.host import Current, Host
from worker_sidecar.api.settings import Rates
from worker_sidecar.api.token import TokenFile
from worker_sidecar.api.unix import unix_socket
from worker_sidecar.control import Control
from worker_sidecar.launch.launcher import LogStream, Status, WorkerSpec
from worker_sidecar.metrics import SidecarMetrics
from worker_sidecar.spec import Declared, load
from worker_sidecar.stopped import Stopped

PATIENCE = 20.0
"""Seconds after which an event that did not come is a failure; never a measure of speed."""

TOKEN = "0123456789abcdef-token"
WORKERS = "/api/v1/workers"
HEADERS = {"X-Frame-Options": "deny"}
GENEROUS = Rates(peer=1e6, peer_burst=10**6, total=1e6, total_burst=10**6)

FILE = """\
slice: worker.slice
services:
  llm:
    command: [serve, --port, "{port}", --level, "{level}", --model, "{model}"]
    user: root
    model: small
    parameters:
      level: {type: integer, default: 3, min: 1, max: 9}
      color: {type: string, choices: [red, blue], default: red}
    instances:
      8080: {}
      8081: {model: large}
  job:
    command: [run, "{what}"]
    user: root
    parameters:
      what: {type: string}
"""


class HeldLog:
    """Output that comes when the test says so, and ends when it is closed."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._news = threading.Condition()
        self.closed = threading.Event()
        self.reading = threading.Semaphore(0)

    def say(self, piece: bytes) -> None:
        with self._news:
            self._pieces.append(piece)
            self._news.notify_all()

    def read(self) -> bytes:
        self.reading.release()
        with self._news:
            came = self._news.wait_for(lambda: self._pieces or self.closed.is_set(), PATIENCE)
            assert came, "nobody said anything"
            return self._pieces.pop(0) if self._pieces else b""

    def close(self) -> None:
        with self._news:
            self.closed.set()
            self._news.notify_all()


class Launcher(FakeLauncher):
    """Starts that wait for `go`, and output that is `log`."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Semaphore(0)
        self.log = HeldLog()
        self.asked: list[tuple[int, bool]] = []
        self.failure: Exception | None = None

    def start(self, spec: WorkerSpec) -> Status:
        self.began.release()
        assert self.go.wait(PATIENCE)
        if self.failure is not None:
            raise self.failure
        return super().start(spec)

    def logs(self, service: str, instance: str, lines: int, *, follow: bool) -> LogStream:
        super().logs(service, instance, lines, follow=follow)
        self.asked.append((lines, follow))
        return self.log


@dataclass(slots=True)
class Scene:
    """A running API. `unix` and `tcp` are clients of it."""

    launcher: Launcher
    control: Control
    current: Current
    registry: CollectorRegistry
    runner: web.AppRunner
    unix: ClientSession
    tcp: ClientSession
    place: tuple[str, int]
    started: list[Declared] = field(default_factory=list)

    async def ask(
        self, method: str, path: str, body: object = None, **more: Any
    ) -> tuple[int, Any]:
        """Status and JSON of an answer over the Unix socket."""
        if body is not None:
            more["json"] = body
        async with self.unix.request(method, path, **more) as response:
            text = await response.text()
            return response.status, json.loads(text)

    def counted(self, name: str, **labels: str) -> float | None:
        """The value of one sample of our metrics."""
        return self.registry.get_sample_value(name, labels)


@asynccontextmanager
async def serving(
    directory: Path, text: str = FILE, rates: Rates = GENEROUS, connections: int = 100
) -> AsyncIterator[Scene]:
    """The API on workers.yaml `text`, with files of its own in `directory`."""
    file = directory / "workers.yaml"
    file.write_text(text)
    token = directory / "token"
    token.write_text(f"{TOKEN}\n")
    token.chmod(0o600)
    config = load(str(file))
    launcher = Launcher()
    stopped = Stopped(str(directory / "run"))
    control = Control(launcher, stopped, None, config, config.slice_name)
    current = Current(Host(config, control, lambda *_: None))
    registry = CollectorRegistry()
    metrics = SidecarMetrics(registry)
    metrics.declare(config.services)
    started: list[Declared] = []
    access = Access(TokenFile(str(token)), rates, HEADERS)
    app = make_app(current, access, metrics, started.append)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
    await runner.setup()
    async with AsyncExitStack() as stack:
        path = str(directory / "api.sock")
        (tcp,) = open_sockets([Address("127.0.0.1", 0)])
        for listening in (stack.enter_context(unix_socket(path, None)), tcp):
            server = await answer_on(listening, runner, None, connections)
            stack.callback(server.close)
        stack.push_async_callback(runner.cleanup)
        stack.callback(launcher.log.close)
        stack.callback(launcher.go.set)
        address = address_of(tcp)
        unix = ClientSession("http://sidecar", connector=UnixConnector(path, limit=0))
        yield Scene(
            launcher,
            control,
            current,
            registry,
            runner,
            await stack.enter_async_context(unix),
            await stack.enter_async_context(ClientSession(f"http://{address}")),
            (address.host, address.port),
            started,
        )


def drive(directory: Path, scenario: Callable[[Scene], Awaitable[None]], **settings: Any) -> None:
    """Run `scenario` against an API that ends after it."""

    async def run() -> None:
        async with serving(directory, **settings) as scene:
            await scenario(scene)

    asyncio.run(asyncio.wait_for(run(), 3 * PATIENCE))


async def acquired(semaphore: threading.Semaphore) -> None:
    """Until a thread released `semaphore`."""
    assert await asyncio.to_thread(semaphore.acquire, True, PATIENCE)


def bearer(token: str = TOKEN) -> dict[str, str]:
    """The header that lets a TCP client in."""
    return {"Authorization": f"Bearer {token}"}


def us() -> dict[str, str]:
    """Ourselves as the audit log has us."""
    return {"uid": str(os.getuid()), "pid": str(os.getpid())}
