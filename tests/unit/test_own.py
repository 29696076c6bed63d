"""The exporter's metrics about itself."""

import os
import resource
import time
from pathlib import Path

import pytest
from tests.parsers import read_openmetrics, read_text

from worker_exporter import __version__
from worker_exporter.metrics.family import EXPORTER, FAMILIES, families_of
from worker_exporter.metrics.own import OwnMetrics, Report

REPORT = Report(
    workers=3,
    duplicates=1,
    dropped=2,
    seconds=0.5,
    memory_sources={"cgroup": 2, "proc": 1},
    collector_seconds={"cpu": 0.25},
    collector_success={"cpu": True, "io": False},
    read_errors={"cpu.stat": 7},
)


@pytest.fixture
def own() -> OwnMetrics:
    return OwnMetrics()


def figures(own: OwnMetrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in read_openmetrics(own.openmetrics(REPORT).decode())
        for sample in family.samples
    }


def test_the_report_is_told(own: OwnMetrics) -> None:
    found = figures(own)
    assert found["worker_exporter_workers",] == 3
    assert found["worker_exporter_duplicate_workers",] == 1
    assert found["worker_exporter_dropped_workers",] == 2
    assert found["worker_exporter_scrape_duration_seconds",] == 0.5
    assert found["worker_exporter_memory_source", "cgroup"] == 2
    assert found["worker_exporter_memory_source", "proc"] == 1
    assert found["worker_exporter_collector_duration_seconds", "cpu"] == 0.25
    assert found["worker_exporter_collector_success", "cpu"] == 1
    assert found["worker_exporter_collector_success", "io"] == 0
    assert found["worker_exporter_read_errors_total", "cpu.stat"] == 7


def test_the_version_is_told(own: OwnMetrics) -> None:
    [build] = [
        each for each in read_text(own.text(REPORT).decode()) if each.name.endswith("build_info")
    ]
    [sample] = build.samples
    assert sample.labels["version"] == __version__
    assert sample.value == 1


def test_both_formats_say_the_same(own: OwnMetrics) -> None:
    names = {
        sample.name for family in read_text(own.text(REPORT).decode()) for sample in family.samples
    }
    assert names == {name for name, *_ in figures(own)}


def test_one_end_and_no_creation_times(own: OwnMetrics) -> None:
    answer = own.openmetrics(REPORT)
    assert answer.endswith(b"# EOF\n")
    assert answer.count(b"# EOF") == 1
    assert b"_created" not in answer + own.text(REPORT)
    assert b"# EOF" not in own.text(REPORT)


def test_no_family_is_in_both_halves(own: OwnMetrics) -> None:
    said = {family.name for family in read_openmetrics(own.openmetrics(REPORT).decode())}
    of_columns = {row.stem for row in FAMILIES if row.collector != EXPORTER}
    assert said.isdisjoint(of_columns)
    assert {row.stem for row in families_of(EXPORTER)} <= said


def test_the_process_itself(own: OwnMetrics) -> None:
    found = figures(own)
    opened = len(os.listdir("/proc/self/fd")) - 1
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert abs(found["process_open_fds",] - opened) <= 1
    assert found["process_max_fds",] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    resident = pages * os.sysconf("SC_PAGE_SIZE")
    assert found["process_resident_memory_bytes",] == pytest.approx(resident, rel=0.05)
    used = sum(os.times()[:2])
    assert found["process_cpu_seconds_total",] == pytest.approx(used, rel=0.1, abs=0.1)
    assert found["process_start_time_seconds",] == pytest.approx(start_of_this(), abs=2)


def start_of_this() -> float:
    """By way of the uptime, not of btime."""
    uptime = float(Path("/proc/uptime").read_text().split()[0])
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    age = uptime - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age
