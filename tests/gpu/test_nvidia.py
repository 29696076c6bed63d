"""The exporter's figures of a real GPU are those of nvidia-smi.

What is printed says which machine that was (`pytest -s`).
"""

import contextlib
import re
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from tests.gpu import smi
from tests.gpu.conftest import SLICE, Holders, Site
from tests.support import RunningExporter, running_exporter
from tests.tools import missing
from tests.unit.gpu_support import until

GIB = 1 << 30
INFO = "worker_node_gpu_info"

Labels = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of an answer."""

    name: str
    labels: Labels
    value: float


def scrape(exporter: RunningExporter) -> list[Sample]:
    """All samples of one scrape."""
    url = f"http://{exporter.host}:{exporter.port}/metrics"
    with urllib.request.urlopen(url) as answer:
        lines = answer.read().decode().splitlines()
    return [_sample(line) for line in lines if not line.startswith("#")]


def _sample(line: str) -> Sample:
    start, _, value = line.rpartition(" ")
    labels = dict(re.findall(r'(\w+)="([^"]*)"', start))
    return Sample(start.partition("{")[0], labels, float(value))


def of(samples: list[Sample], name: str, /, **labels: str) -> float | None:
    """The figure that has these labels; None where there is none."""
    found = [
        sample.value
        for sample in samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) < 2, f"{name} {labels} is there {len(found)} times"
    return found[0] if found else None


@contextlib.contextmanager
def running(*flags: str) -> Iterator[RunningExporter]:
    """An exporter that the driver has answered. It asks no systemd."""
    common = (f"--worker.slice={SLICE}", "--no-collector.units")
    with running_exporter(*common, *flags) as exporter:
        until(lambda: any(sample.name == INFO for sample in scrape(exporter)))
        yield exporter


def said_of(pid: int) -> float:
    """The bytes that nvidia-smi says a process holds."""
    mib = smi.processes().get(pid)
    if mib is None:
        missing(f"nvidia-smi does not say what process {pid} holds (PID namespace, or WSL)")
    return mib * smi.MIB


def test_memory_of_a_process_is_its_workers(site: Site, holders: Holders) -> None:
    inside = holders.start(GIB)
    site.join(inside)
    said = said_of(inside)
    with running(*site.flags) as exporter:
        samples = scrape(exporter)
        worker = {"service": "llm", "instance": "8080"}
        used = of(samples, "worker_gpu_memory_used_bytes", **worker)
        assert used == pytest.approx(said, rel=0.05)
        assert used is not None and used > GIB
        assert of(samples, "worker_gpu_processes", **worker) == 1
        one = of(samples, "worker_gpu_process_memory_used_bytes", pid=str(inside))
        assert one == used
        print(f"\na worker's process holds {used} bytes, nvidia-smi says {said}")

        before = unattributed(samples)
        outside = holders.start(GIB)
        samples = scrape(exporter)
        rise = unattributed(samples) - before
        assert rise == pytest.approx(said_of(outside), rel=0.05)
        assert of(samples, "worker_gpu_memory_used_bytes", **worker) == used
        print(f"one outside holds {rise} bytes, nvidia-smi says {said_of(outside)}")


def unattributed(samples: list[Sample]) -> float:
    """What processes outside all workers hold of all devices."""
    name = "worker_node_gpu_unattributed_memory_bytes"
    return sum(sample.value for sample in samples if sample.name == name)


def test_a_worker_that_ends_gives_its_memory_back(site: Site, holders: Holders) -> None:
    pid = holders.start(GIB)
    site.join(pid)
    said_of(pid)
    with running(*site.flags) as exporter:
        assert of(scrape(exporter), "worker_gpu_process_memory_used_bytes", pid=str(pid))
        holders.end(pid)
        samples = scrape(exporter)
    assert of(samples, "worker_gpu_process_memory_used_bytes", pid=str(pid)) is None
    assert of(samples, "worker_gpu_memory_used_bytes", service="llm") is None


def test_devices_are_those_of_nvidia_smi(gpus: list[smi.Gpu]) -> None:
    with running() as exporter:
        samples = scrape(exporter)
    later = smi.gpus()
    for before, after in zip(gpus, later, strict=True):
        check_device(samples, before, after)


def check_device(samples: list[Sample], before: smi.Gpu, after: smi.Gpu) -> None:
    """Compare a GPU with what nvidia-smi said of it before and after the scrape."""
    labels = {"gpu": before.index, "uuid": before.uuid}
    info = {"name": before.name, "driver": before.driver}
    assert of(samples, INFO, **labels, **info) == 1
    # A divided GPU's memory is told of its parts.
    if not before.is_divided:
        total = of(samples, "worker_node_gpu_memory_total_bytes", **labels)
        check_between(total, before.memory_total, after.memory_total, smi.MIB, slack=1)
        used = of(samples, "worker_node_gpu_memory_used_bytes", **labels)
        check_between(used, before.memory_used, after.memory_used, smi.MIB, slack=64)
    temperature = of(samples, "worker_node_gpu_temperature_celsius", **labels)
    check_between(temperature, before.temperature, after.temperature, 1, slack=3)
    power = of(samples, "worker_node_gpu_power_watts", **labels)
    check_between(power, before.power, after.power, 1, slack=50)
    print(f"\n{before.name}, driver {before.driver}: {temperature} °C, {power} W")


def check_between(
    found: float | None, before: float | None, after: float | None, unit: float, slack: float
) -> None:
    """See that a figure is what nvidia-smi says, in its units, or missing as it is there."""
    if before is None or after is None:
        assert found is None
        return
    assert found is not None
    assert min(before, after) - slack <= found / unit <= max(before, after) + slack
