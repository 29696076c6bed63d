"""Other exporters of cgroups, where they are installed."""

import contextlib
import functools
import http.client
import os
import shutil
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.support import end, follow_parent, free_port

from bench.helper import BUILD
from bench.process import CpuClock, resident_bytes
from bench.signals import pause
from bench.workers import Workers

_START_PATIENCE = 60.0
_PERIOD = 1.0
_PERIODS = 10


@dataclass(frozen=True, slots=True)
class Peer:
    """An exporter to compare with. It answers on `port`; `remark` says what its figures mean."""

    name: str
    program: str
    command: Callable[[str, Workers, int], tuple[str, ...]]
    install: str
    remark: str


@dataclass(frozen=True, slots=True)
class PeerResult:
    """What one peer took, in seconds and bytes; `remark` says why it took nothing."""

    name: str
    remark: str
    cpu_seconds: float | None = None
    wall_seconds: float | None = None
    sent_bytes: int | None = None
    resident_bytes: int | None = None
    samples_per_worker: float | None = None


def _cgroups_exporter(program: str, workers: Workers, port: int) -> tuple[str, ...]:
    top = os.path.dirname(os.path.dirname(workers.directories[0]))
    return (
        *(program, "--cgroups-path", f"{top}/*/*"),
        *("--collector-interval", "1", "--collector-delay", "0"),
        *("--metrics-address", "127.0.0.1", "--metrics-port", str(port)),
    )


PEERS = (
    Peer(
        "cgroups-exporter",
        "cgroups-exporter",
        _cgroups_exporter,
        "python3 -m venv build/bench/peers &&"
        " build/bench/peers/bin/pip install cgroups-exporter argclass==1.1.0",
        "reads on a timer (set to 1 s), so CPU is that of one reading and one answer; "
        "three pressure files and cpu.stat",
    ),
)


def measure(peer: Peer, workers: Workers, wake: bool) -> PeerResult:
    """What one scrape a second costs `peer`, the workers woken before each or not."""
    if not workers.are_real:
        return PeerResult(peer.name, "reads real cgroups only")
    path = os.pathsep.join((str(BUILD / "peers" / "bin"), os.environ.get("PATH", "")))
    program = shutil.which(peer.program, path=path)
    if program is None:
        return PeerResult(peer.name, f"not installed: {peer.install}")
    port = free_port()
    with _running(peer.command(program, workers, port)) as pid:
        found = _wait_for_all(pid, port, workers)
        if found is None:
            return PeerResult(peer.name, "does not see these workers")
        return _scrape_each_second(peer, pid, port, workers, wake)


def _scrape_each_second(
    peer: Peer, pid: int, port: int, workers: Workers, wake: bool
) -> PeerResult:
    clock = CpuClock(pid)
    walls, sizes, text = [], [], b""
    before, start = clock.now(), time.monotonic()
    for period in range(1, _PERIODS + 1):
        if wake:
            workers.wake()
        pause(start + period * _PERIOD - time.monotonic())
        asked = time.perf_counter()
        text, size = _scrape(port)
        walls.append(time.perf_counter() - asked)
        sizes.append(size)
    used = clock.now() - before
    samples = sum(not line.startswith(b"#") for line in text.splitlines())
    return PeerResult(
        peer.name,
        peer.remark,
        used / 1e9 / _PERIODS,
        sorted(walls)[len(walls) // 2],
        sizes[-1],
        resident_bytes(pid),
        samples / len(workers.directories),
    )


def _wait_for_all(pid: int, port: int, workers: Workers) -> bytes | None:
    """Its first answer that names every worker; None when none comes in time."""
    last = os.path.basename(workers.directories[-1]).encode()
    deadline = time.monotonic() + _START_PATIENCE
    while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}/exe"):
        with contextlib.suppress(OSError, http.client.HTTPException):
            text, _ = _scrape(port)
            if last in text:
                return text
        pause(0.1)
    return None


def _scrape(port: int) -> tuple[bytes, int]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise http.client.HTTPException(f"HTTP {response.status}")
        packed = response.headers.get("Content-Encoding") == "gzip"
        return zlib.decompress(body, wbits=31) if packed else body, len(body)


@contextlib.contextmanager
def _running(command: tuple[str, ...]) -> Iterator[int]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=functools.partial(follow_parent, os.getpid()),
    )
    try:
        yield process.pid
    finally:
        end(process)
