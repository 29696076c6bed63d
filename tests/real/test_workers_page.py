"""States of real cgroups, as the exporter's own process tells them on /workers."""

import http.client
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.real.cgroup_support import Process, wait_for
from tests.support import RunningExporter, running_exporter

SLICE = f"statestest{os.getpid()}.slice"
PATIENCE = 30.0
"""Seconds after which an answer that did not come is a failure; never a measure of speed."""


@contextmanager
def running(place: Path, threshold: str) -> Iterator[RunningExporter]:
    """An exporter of the workers in `place`, which asks no systemd: there may be none."""
    flags = (f"--telemetry.busy-threshold={threshold}", "--no-collector.units")
    with running_exporter(f"--worker.slice={place.name}", *flags) as exporter:
        yield exporter


@pytest.fixture
def exporter(place: Path) -> Iterator[RunningExporter]:
    # A machine that is slow, or shared, gives a busy process much less than a core.
    with running(place, "0.5") as exporter:
        yield exporter


def states(exporter: RunningExporter) -> dict[str, str]:
    connection = http.client.HTTPConnection(exporter.host, exporter.port, timeout=PATIENCE)
    with closing(connection):
        connection.request("GET", "/workers")
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers["Content-Type"] == "application/json; charset=utf-8"
        return {row["worker_id"]: row["state"] for row in json.loads(response.read())}


def test_busy_resting_frozen_and_empty_workers(
    exporter: RunningExporter, start: Callable[[str], Process], place: Path
) -> None:
    busy, _, frozen = (start(f"llm/{name}") for name in ("busy", "resting", "frozen"))
    (place / "llm/empty").mkdir()
    (place / "llm/frozen/cgroup.freeze").write_text("1")
    wait_for(place / "llm/frozen", "frozen 1")
    first = states(exporter)
    busy.tell("burn 0.5")
    second = states(exporter)
    assert list(second) == ["llm/busy", "llm/empty", "llm/frozen", "llm/resting"]
    assert second == first | {"llm/busy": "busy"}
    assert first == {
        "llm/busy": "ready",
        "llm/empty": "stopped",
        "llm/frozen": "frozen",
        "llm/resting": "ready",
    }
    (place / "llm/frozen/cgroup.freeze").write_text("0")
    wait_for(place / "llm/frozen", "frozen 0")
    assert states(exporter)["llm/frozen"] == "ready"
    frozen.end()
    wait_for(place / "llm/frozen", "populated 0")
    assert states(exporter)["llm/frozen"] == "stopped"


def test_a_worker_below_the_threshold_is_ready_however_much_it_does(
    start: Callable[[str], Process], place: Path
) -> None:
    worker = start("llm/8080")
    with running(place, "1e9") as exporter:
        for _ in range(2):
            assert states(exporter) == {"llm/8080": "ready"}
            worker.tell("burn 0.5")


def test_what_a_probe_says_of_a_real_cgroup(
    exporter: RunningExporter, start: Callable[[str], Process], place: Path
) -> None:
    start("llm/8080")
    for health, expected in (
        (b"0 1767225601 1e9", "starting"),
        (b"1 1767225602 1e9", "ready"),
        (b"0 1767225603 1e9", "error"),
    ):
        os.setxattr(place / "llm/8080", "user.worker.health", health)
        assert states(exporter) == {"llm/8080": expected}
