"""A scraper like Prometheus: its headers, one connection kept alive, every answer checked."""

import gzip
import http.client
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench.signals import pause

ACCEPT = (
    "application/openmetrics-text;version=1.0.0,"
    "application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
"""What Prometheus 2.42 sends."""

_HEADERS = {
    "Accept": ACCEPT,
    "Accept-Encoding": "gzip",
    "User-Agent": "Prometheus/2.42.0",
    "X-Prometheus-Scrape-Timeout-Seconds": "10",
}


class FailedScrape(Exception):  # noqa: N818  (named for what happened, as the field does)
    """An answer that is not whole."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: `wall` in seconds until its last byte, `sent` the bytes on the wire."""

    wall: float
    sent: int
    text: bytes


class Client:
    """Scrapes one exporter."""

    def __init__(self, host: str, port: int) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=120)

    def scrape(self, query: str = "") -> Answer:
        """One scrape of /metrics with `query`. Raises FailedScrape when the answer is no 200, and
        KeyboardInterrupt when a signal has come.
        """
        pause()
        start = time.perf_counter()
        self._connection.request("GET", f"/metrics{query}", headers=_HEADERS)
        response = self._connection.getresponse()
        body = response.read()
        wall = time.perf_counter() - start
        if response.status != 200:
            raise FailedScrape(f"HTTP {response.status}: {body[:200]!r}")
        packed = response.headers.get("Content-Encoding") == "gzip"
        return Answer(wall, len(body), gzip.decompress(body) if packed else body)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def check(answer: Answer, workers: int) -> None:
    """Raise FailedScrape unless the answer is whole OpenMetrics with this many workers up."""
    if not answer.text.endswith(b"\n# EOF\n"):
        raise FailedScrape(f"no # EOF at the end: {answer.text[-200:]!r}")
    up = sum(line.endswith(b" 1") for line in _samples(answer, b"worker_up"))
    if up != workers:
        raise FailedScrape(f"{up} workers up instead of {workers}")


def check_units(answer: Answer, units: int) -> None:
    """Raise FailedScrape unless the answer has the state of this many units, and their restarts,
    which are read apart from it.
    """
    known = sum(line.endswith(b" 1") for line in _samples(answer, b"worker_unit_state"))
    read = sum(1 for _ in _samples(answer, b"worker_restarts_total"))
    if (known, read) != (units, units):
        raise FailedScrape(f"states of {known} units and restarts of {read} instead of {units}")


def check_gpus(answer: Answer, processes: int) -> None:
    """Raise FailedScrape unless the answer has the GPU memory of this many workers' processes."""
    held = sum(1 for _ in _samples(answer, b"worker_gpu_process_memory_used_bytes"))
    if held != processes:
        raise FailedScrape(f"GPU memory of {held} processes instead of {processes}")


def _samples(answer: Answer, name: bytes) -> Iterator[bytes]:
    return (line for line in answer.text.split(b"\n") if line.startswith(name + b"{"))
