"""A real Prometheus with the scrape configuration that we ship."""

import contextlib
import functools
import http.client
import json
import os
import re
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tests.support import end, follow_parent, free_port

from bench.signals import pause
from worker_exporter.errors import UserError

SHIPPED = Path(__file__).parent.parent / "deploy" / "prometheus" / "prometheus.yml"

_PATIENCE = 180.0
_POLL_SECONDS = 0.05
_INTERVAL = "scrape_interval: 15s"

# A scrape that failed is only a debug message to Prometheus.
_COMPLAINT = re.compile(r'level=(warn|error)|msg="Scrape failed"')

_LATE = re.compile(r'msg="Scrape failed" err=".*(503 Service Unavailable|deadline exceeded)')

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Target:
    """An exporter to scrape: HOST:PORT, and the name of its node."""

    address: str
    node: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One series of an instant query."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """A running server."""

    def __init__(self, pid: int, port: int, log: Path) -> None:
        self.pid = pid
        self._port = port
        self._log = log

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    def query(self, expression: str) -> list[Sample]:
        """An instant query, as of now."""
        return [
            Sample(row["metric"], float(row["value"][1]))
            for row in self._get("query", query=expression)["result"]
        ]

    def samples(self, selector: str) -> list[tuple[float, float]]:
        """Every stored sample of a range selector of one series, such as `up[5m]`: time, value."""
        rows = self._get("query", query=selector)["result"]
        return [(at, float(value)) for row in rows for at, value in row["values"]]

    def targets(self) -> list[dict[str, Any]]:
        """The active targets, as its API shows them."""
        found: list[dict[str, Any]] = self._get("targets", state="active")["activeTargets"]
        return found

    def metadata(self, metric: str) -> list[dict[str, str]]:
        """What the targets said of a family: type, help, unit."""
        found: list[dict[str, str]] = self._get("targets/metadata", metric=metric)
        return found

    def complaints(self) -> list[str]:
        """The lines of its log that are warnings, errors or failed scrapes."""
        lines = self._log.read_text().splitlines()
        return [line for line in lines if _COMPLAINT.search(line)]

    def is_ready(self) -> bool:
        """Whether it answers queries."""
        try:
            return self._request("/-/ready")[0] == 200
        except OSError:
            return False

    def _get(self, what: str, **parameters: str) -> Any:
        status, body = self._request(f"/api/v1/{what}?{urllib.parse.urlencode(parameters)}")
        if status != 200:
            raise RuntimeError(f"Prometheus answers {status} to {what}: {body[:300]!r}")
        return json.loads(body)["data"]

    def _request(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()


@contextlib.contextmanager
def running_prometheus(
    program: str,
    folder: Path,
    targets: Sequence[Target],
    interval: str = "1s",
    edit: Callable[[str], str] = str,
) -> Iterator[Prometheus]:
    """`program` with the shipped configuration, its `interval` and targets put in, in `folder`.

    `edit` may change the configuration further. Raises UserError when it does not start.
    """
    config = SHIPPED.read_text()
    if _INTERVAL not in config:
        raise UserError(f"{SHIPPED} does not say {_INTERVAL!r}")
    (folder / SHIPPED.name).write_text(
        edit(config.replace(_INTERVAL, f"scrape_interval: {interval}"))
    )
    (folder / "targets").mkdir()
    (folder / "targets" / "test.yml").write_text(
        json.dumps([{"targets": [each.address], "labels": {"node": each.node}} for each in targets])
    )
    port, log = free_port(), folder / "prometheus.log"
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / SHIPPED.name}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--log.level=debug",
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=functools.partial(follow_parent, os.getpid()),
        )
    try:
        server = Prometheus(process.pid, port, log)

        def started() -> bool:
            if process.poll() is not None:
                raise UserError(f"Prometheus ended: {log.read_text()[-1000:]}")
            return server.is_ready()

        wait_for(started, "Prometheus to be ready")
        yield server
    finally:
        end(process)


def is_late(complaint: str) -> bool:
    """Whether a line of complaints() is about a scrape that took too long."""
    return _LATE.search(complaint) is not None


def wait_for(look: Callable[[], T], what: str) -> T:
    """What `look` gives, once it gives something. Raises TimeoutError after three minutes."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {_PATIENCE:g} s for {what}")
        pause(_POLL_SECONDS)
