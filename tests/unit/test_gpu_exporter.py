"""The real exporter beside a driver that hangs: it serves on time, and it stops."""

import contextlib
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.nvml.standin import GIB, Standin, gpu
from tests.support import RunningExporter, running_exporter
from tests.unit import gpu_support
from tests.unit.gpu_support import is_over, unkillable, until

WELL = gpu(0, used=5 * GIB)
HANGS = ("hang nvmlDeviceGetMemoryInfo_v2", WELL)
FAILED = 'worker_exporter_collector_success{collector="gpu"} 0'
FINE = 'worker_exporter_collector_success{collector="gpu"} 1'


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    made = gpu_support.host(tmp_path, monkeypatch)
    made.is_now(WELL)
    # The exporter reads the real /proc: amdgpu's directory is what says that there is a driver.
    (tmp_path / "sys/class/kfd/kfd/proc").mkdir(parents=True)
    yield made
    until(lambda: all(map(is_over, made.pids)))


@contextlib.contextmanager
def exporter(standin: Standin) -> Iterator[RunningExporter]:
    """The exporter of this host, which has the GPU in its answer."""
    with running_exporter(f"--path.sysfs={standin.directory}/sys") as running:
        until(lambda: FINE in scraped(running))
        yield running


def scraped(running: RunningExporter) -> str:
    """The answer to a scrape."""
    url = f"http://{running.host}:{running.port}/metrics"
    with urllib.request.urlopen(url) as answer:
        text: str = answer.read().decode()
    return text


def test_a_driver_that_hangs_costs_its_own_metrics_only(standin: Standin) -> None:
    used = f'worker_node_gpu_memory_used_bytes{{gpu="0",uuid="GPU-00000000"}} {5 * GIB}'
    with exporter(standin) as running:
        assert used in scraped(running)
        standin.is_now(*HANGS)
        for _ in range(3):
            text = scraped(running)
            assert FAILED in text
            assert "\nworker_node_gpu_" not in text
            assert "\nworker_node_cpus " in text
        standin.is_now(WELL)
        until(lambda: FINE in scraped(running))
        assert used in scraped(running)
        assert [line for line in running.log if "GPU drivers answer again" in line]


def test_it_stops_while_the_driver_hangs(standin: Standin) -> None:
    with exporter(standin) as running:
        standin.is_now(*HANGS)
        assert FAILED in scraped(running)
        stop(running)


def test_it_stops_while_the_process_that_asks_cannot_be_killed(standin: Standin) -> None:
    with exporter(standin) as running:
        with unkillable(standin.pids[0]):
            assert FAILED in scraped(running)
            stop(running)
            assert not is_over(standin.pids[0])
        until(lambda: is_over(standin.pids[0]))


def stop(running: RunningExporter) -> None:
    """Have it end, and see that nobody holds its port any more."""
    begin = time.monotonic()
    os.kill(running.pid, signal.SIGTERM)
    until(lambda: is_over(running.pid))
    print(f"the exporter ended {time.monotonic() - begin:.3f} s after SIGTERM")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((running.host, running.port))
        listener.listen()
