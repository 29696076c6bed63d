"""Probes of real workers, up to what the real exporter says of them."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from tests.parsers import read_text
from tests.support import RunningExporter, end, join, make_worker, remove_cgroup, running_exporter

from worker_exporter.cgroup.mount import find_mount
from worker_sidecar.health import Prober, living
from worker_sidecar.launch.launcher import WorkerSpec
from worker_sidecar.launch.site import Site
from worker_sidecar.metrics import SidecarMetrics
from worker_sidecar.spec import Declared, Probe

SLICE = f"probetest{os.getpid()}.slice"
PATIENCE = 30.0
"""Seconds after which an event that did not come is a failure; never a measure of speed."""

INTERVAL = 0.2

SERVER = """
import http.server, sys
class Answer(http.server.BaseHTTPRequestHandler):
    ready = False
    def do_GET(self):
        self.send_response(200 if Answer.ready else 503)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer)
import threading
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
for line in sys.stdin:
    Answer.ready = line == "ready\\n"
"""


@dataclass(slots=True)
class Server:
    """A worker that answers 503 until it is told to be ready."""

    process: "subprocess.Popen[str]"
    port: int

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def serving(directory: str, port: int = 0) -> Iterator[Server]:
    """A server in the cgroup, on `port` or any."""
    with subprocess.Popen(
        (sys.executable, "-I", "-S", "-c", SERVER, str(port)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            join(directory, process.pid)
            assert process.stdout is not None
            yield Server(process, int(process.stdout.readline()))
        finally:
            end(process)


@contextlib.contextmanager
def probing(workers: list[Declared]) -> Iterator[SidecarMetrics]:
    """The prober, in the thread of an event loop of its own."""
    site = Site(SLICE, find_mount().path, "/nonexistent", "/nonexistent")
    metrics = SidecarMetrics(CollectorRegistry())
    prober = Prober(workers, living(site), metrics)
    loop = asyncio.new_event_loop()
    task = loop.create_task(prober.run())

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield metrics
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE)
        loop.close()


def declared(instance: str, url: str) -> Declared:
    probe = Probe(kind="http", target=url, argv=(), interval=INTERVAL, timeout=PATIENCE)
    return Declared(WorkerSpec("llm", instance, ("server",)), probe)


def said(exporter: RunningExporter, family: str, instance: str) -> float | None:
    with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics") as answer:
        text = answer.read().decode()
    for found in read_text(text):
        for sample in found.samples:
            if sample.name == family and sample.labels.get("instance") == instance:
                return sample.value
    return None


def await_said(exporter: RunningExporter, instance: str, wanted: float | None) -> None:
    """Until the exporter says `wanted` as worker_ready; each scrape is a look, so none is slept
    through.
    """
    deadline = time.monotonic() + PATIENCE
    while (found := said(exporter, "worker_ready", instance)) != wanted:
        assert time.monotonic() < deadline, f"worker_ready is {found}, not {wanted}"


@pytest.mark.parametrize("layout", ["unit", "plain"])
def test_the_exporter_says_what_the_probe_found(place: Path, layout: str) -> None:
    directory = make(place, layout)
    with (
        serving(directory) as server,
        running_exporter(f"--worker.slice={SLICE}") as exporter,
        probing([declared("8080", f"http://127.0.0.1:{server.port}/")]) as metrics,
    ):
        await_said(exporter, "8080", 0)
        server.tell("ready")
        await_said(exporter, "8080", 1)
        probed = said(exporter, "worker_probe_timestamp_seconds", "8080")
        assert probed is not None
        assert abs(time.time() - probed) < PATIENCE
        server.tell("unready")
        await_said(exporter, "8080", 0)
        counts = metrics.exposition("")[0].decode()
        assert 'worker_sidecar_probes_total{result="ready",service="llm"} 0.0' not in counts
        assert 'worker_sidecar_probes_total{result="error",service="llm"} 0.0' in counts


def test_a_restart_gets_a_result_of_its_own(place: Path) -> None:
    directory = make(place, "unit")
    with contextlib.ExitStack() as stack:
        exporter = stack.enter_context(running_exporter(f"--worker.slice={SLICE}"))
        with serving(directory) as server:
            server.tell("ready")
            worker = declared("8080", f"http://127.0.0.1:{server.port}/")
            stack.enter_context(probing([worker]))
            await_said(exporter, "8080", 1)
        remove_cgroup(directory)
        await_said(exporter, "8080", None)
        os.mkdir(directory)
        assert said(exporter, "worker_ready", "8080") is None
        with serving(directory, server.port) as again:
            await_said(exporter, "8080", 0)
            again.tell("ready")
            await_said(exporter, "8080", 1)


def test_what_does_not_live_keeps_silent(place: Path) -> None:
    """An empty cgroup is no worker to ask, though somebody answers on its port."""
    empty, other = make(place, "plain"), make(place, "plain", "8081")
    with (
        serving(other) as server,
        running_exporter(f"--worker.slice={SLICE}") as exporter,
        probing([declared(name, f"http://127.0.0.1:{server.port}/") for name in ("8080", "8081")]),
    ):
        await_said(exporter, "8081", 0)
        server.tell("ready")
        await_said(exporter, "8081", 1)
        assert said(exporter, "worker_up", "8080") == 0
        assert said(exporter, "worker_ready", "8080") is None
        assert os.listxattr(empty) == []


def make(place: Path, layout: str, instance: str = "8080") -> str:
    makers: dict[str, Callable[[], str]] = {
        "unit": lambda: make_worker(str(place), "llm", instance),
        "plain": lambda: f"{place}/llm/{instance}",
    }
    directory = makers[layout]()
    os.makedirs(directory, exist_ok=True)
    return directory
