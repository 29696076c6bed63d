"""The simulated tree of the demo."""

import itertools
import os
from pathlib import Path

import pytest

from worker_exporter.cgroup import procfs
from worker_sidecar.demo.simulation import WORKERS, Simulated, Simulation, files

MOMENTS = [0.0, 0.5, 1.0, 7.3, 12.0, 30.0, 31.0, 59.9, 600.0, 86400.0]


def flat(content: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in content.splitlines())}


@pytest.mark.parametrize("worker", WORKERS, ids=lambda worker: worker.service + worker.instance)
def test_counters_never_fall_and_no_file_becomes_shorter(worker: Simulated) -> None:
    for before, after in itertools.pairwise(MOMENTS):
        old, new = files(worker, before), files(worker, after)
        for name in old:
            assert len(old[name]) <= len(new[name]), name
        for key, value in flat(old["cpu.stat"]).items():
            assert value <= flat(new["cpu.stat"])[key], key
        for name in ("cpu.pressure", "io.pressure"):
            assert total(old[name]) <= total(new[name]), name


def total(pressure: str) -> int:
    return int(pressure.splitlines()[0].rpartition("=")[2])


def test_a_second_of_cpu_is_at_most_the_workers_cores() -> None:
    worker = Simulated("llm", "1", 1, 0.5, 420, 10.0)
    for second in range(60):
        used = [flat(files(worker, second + step)["cpu.stat"]) for step in (0, 1)]
        rise = used[1]["usage_usec"] - used[0]["usage_usec"]
        assert 0 <= rise <= 0.5 * 1e6 + 1
        assert used[1]["user_usec"] + used[1]["system_usec"] == used[1]["usage_usec"]


def test_a_reader_that_keeps_the_file_open_sees_it_advance(tmp_path: Path) -> None:
    simulation = Simulation(str(tmp_path), "demo.slice")
    place = tmp_path / "cgroup/demo.slice/simulated_llm/8080"
    descriptor = os.open(place / "cpu.stat", os.O_RDONLY)
    simulation._start -= 100
    simulation.advance()
    try:
        seen = os.pread(descriptor, 4096, 0).decode()
    finally:
        os.close(descriptor)
    assert flat(seen)["usage_usec"] > 10_000_000


def test_every_service_is_marked_and_every_process_has_a_start(tmp_path: Path) -> None:
    Simulation(str(tmp_path), "demo.slice")
    services = sorted(path.name for path in (tmp_path / "cgroup/demo.slice").iterdir())
    assert services == sorted({f"simulated_{worker.service}" for worker in WORKERS})
    for worker in WORKERS:
        stat = (tmp_path / f"proc/{worker.pid}/stat").read_bytes()
        started = procfs.start_ticks(stat) / procfs.CLOCK_TICKS
        assert 0 <= uptime() - started < 60


def uptime() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])
