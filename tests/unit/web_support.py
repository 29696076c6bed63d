"""A stand-in for the scraper, and a real server around it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ssl import SSLContext

from aiohttp import ClientSession, web

from worker_exporter.web.app import Site, make_app
from worker_exporter.web.listen import Address, address_of, open_sockets
from worker_exporter.web.serve import make_runner

PATIENCE = 20.0
"""Seconds after which an event that did not come is a failure; never a measure of speed."""


@dataclass
class FakeSnapshot:
    """Answers that name their pass, and count how often they are made."""

    number: int
    selected: frozenset[str]
    rendered: list[str] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def text(self) -> bytes:
        self._note("text")
        return f"text {self.number} {','.join(sorted(self.selected))}\n".encode()

    def openmetrics(self) -> bytes:
        self._note("openmetrics")
        return f"openmetrics {self.number} {','.join(sorted(self.selected))}\n# EOF\n".encode()

    def workers(self) -> bytes:
        self._note("workers")
        return f'["workers {self.number} {",".join(sorted(self.selected))}"]\n'.encode()

    def _note(self, form: str) -> None:
        self.rendered.append(form)
        self.threads.add(threading.current_thread().name)


class FakeSource:
    """Passes that begin and end when the test says so."""

    def __init__(self, *, held: bool = False) -> None:
        self.names = frozenset({"cpu", "io", "memory"})
        self.snapshots: list[FakeSnapshot] = []
        self.patience: list[float] = []
        self.failure: BaseException | None = None
        self.began = threading.Semaphore(0)
        self.go = threading.Event()
        self.closed = threading.Event()
        self.overlapped = False
        self._alone = threading.Lock()
        if not held:
            self.go.set()

    def scrape(self, selected: frozenset[str], patience: float = 1.0) -> FakeSnapshot:
        if not self._alone.acquire(blocking=False):
            self.overlapped = True
        self.patience.append(patience)
        snapshot = FakeSnapshot(len(self.snapshots) + 1, selected)
        self.snapshots.append(snapshot)
        self.began.release()
        assert self.go.wait(PATIENCE)
        self._alone.release()
        if self.failure is not None:
            raise self.failure
        return snapshot

    def close(self) -> None:
        self.closed.set()

    async def wait_begun(self) -> None:
        """Until one more pass has begun."""
        assert await asyncio.to_thread(self.began.acquire, True, PATIENCE)


@asynccontextmanager
async def serving(
    source: FakeSource,
    site: Site | None = None,
    context: SSLContext | None = None,
    *,
    ready: bool = True,
) -> AsyncIterator[ClientSession]:
    """The real application on a free port; yields a client whose paths are relative to it."""
    up = asyncio.Event()
    app = make_app(source, site or Site(), up)
    runner = make_runner(app)
    await runner.setup()
    (listening,) = open_sockets([Address("127.0.0.1", 0)])
    try:
        await web.SockSite(runner, listening, ssl_context=context).start()
        if ready:
            up.set()
        scheme = "http" if context is None else "https"
        base = f"{scheme}://{address_of(listening)}"
        async with ClientSession(base, auto_decompress=False) as client:
            yield client
    finally:
        source.go.set()
        await runner.cleanup()


def place_of(client: ClientSession) -> tuple[str, int]:
    """Host and port of the server behind a client of `serving`, for those who speak raw."""
    base = client._base_url
    assert base is not None and base.host is not None and base.port is not None
    return base.host, base.port
