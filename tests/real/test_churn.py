"""Workers come and go all the time while the exporter is scraped."""

import os
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from prometheus_client.metrics_core import Metric
from tests.parsers import read_openmetrics
from tests.support import (
    RunningExporter,
    running_exporter,
)

SECONDS = float(os.environ.get("CHURN_SECONDS", "30"))
RATE = 200
ALIVE = 20
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2"
SLICE = f"churntest{os.getpid()}.slice"


@pytest.fixture
def exporter(place: Path, undisturbed: None) -> Iterator[RunningExporter]:
    with running_exporter(f"--worker.slice={SLICE}", "--no-collector.units") as exporter:
        yield exporter


class Churn(threading.Thread):
    """Makes RATE workers a second and removes each when ALIVE younger ones are there."""

    def __init__(self, service: Path) -> None:
        super().__init__()
        self.made = 0
        self.ending = threading.Event()
        self._service = service

    def run(self) -> None:
        alive: deque[Path] = deque()
        began = time.monotonic()
        while not self.ending.is_set():
            alive.append(self._service / f"w{self.made}")
            alive[-1].mkdir()
            self.made += 1
            if len(alive) > ALIVE:
                alive.popleft().rmdir()
            self.ending.wait(began + self.made / RATE - time.monotonic())
        for worker in alive:
            worker.rmdir()


def scrape(session: requests.Session, exporter: RunningExporter) -> list[Metric]:
    address = f"http://{exporter.host}:{exporter.port}/metrics"
    answer = session.get(address, headers={"Accept": ACCEPT}, timeout=30)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.text.count("# EOF") == 1
    return list(read_openmetrics(answer.text))


def series(families: list[Metric]) -> Counter[tuple[str, ...]]:
    return Counter(
        (sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items())))
        for family in families
        for sample in family.samples
    )


def instances(families: list[Metric], name: str) -> set[str]:
    return {
        sample.labels["instance"]
        for family in families
        for sample in family.samples
        if sample.name == name
    }


def figure(families: list[Metric], name: str) -> float:
    [value] = [
        sample.value for family in families for sample in family.samples if sample.name == name
    ]
    return value


def failures(families: list[Metric]) -> list[str]:
    """Collectors that failed, and files that could not be read."""
    return [
        str(sample)
        for family in families
        for sample in family.samples
        if (sample.name == "worker_exporter_collector_success" and not sample.value)
        or (sample.name == "worker_exporter_read_errors_total" and sample.value)
    ]


def test_no_scrape_fails_while_workers_come_and_go(place: Path, exporter: RunningExporter) -> None:
    for worker in ("steady/1", "steady/2"):
        (place / worker).mkdir(parents=True)
    service = place / "llm"
    service.mkdir()
    churn = Churn(service)
    seen: set[str] = set()
    scrapes = 0
    with requests.Session() as session:
        scrape(session, exporter)
        before = scrape(session, exporter)
        churn.start()
        try:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end or not seen:
                families = scrape(session, exporter)
                check(families)
                seen |= instances(families, "worker_info")
                scrapes += 1
        finally:
            churn.ending.set()
            churn.join()
        scrape(session, exporter)
        after = scrape(session, exporter)
    assert churn.made > SECONDS * RATE / 2
    assert len(seen) > 2
    assert instances(after, "worker_info") == {"1", "2"}
    assert series(after) == series(before)
    assert figure(after, "process_open_fds") == figure(before, "process_open_fds")
    assert not [line for line in exporter.log if "level=error" in line or "Traceback" in line]


def check(families: list[Metric]) -> None:
    assert [each for each, count in series(families).items() if count > 1] == []
    assert failures(families) == []
    everyone = instances(families, "worker_info")
    assert everyone >= {"1", "2"}
    assert figure(families, "worker_exporter_workers") == len(everyone)
    for name in ("worker_up", "worker_cpu_seconds_total", "worker_processes"):
        assert instances(families, name) == everyone
