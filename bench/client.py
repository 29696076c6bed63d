"""A scraper like Prometheus: its headers, one connection kept alive, every answer checked."""

import gzip
import http.client
import time
from dataclasses import dataclass

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

    def __init__(self, host: str, port: int, path: str = "/metrics") -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=120)
        self._path = path

    def scrape(self) -> Answer:
        """One scrape. Raises FailedScrape when the answer is no 200."""
        start = time.perf_counter()
        self._connection.request("GET", self._path, headers=_HEADERS)
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
    up = sum(
        line.startswith(b"worker_up{") and line.endswith(b" 1") for line in answer.text.split(b"\n")
    )
    if up != workers:
        raise FailedScrape(f"{up} workers up instead of {workers}")
