"""The same families the usual way: read with open(), build Metric objects, generate_latest."""

import gzip
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.registry import Collector

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PRESSURES = ("cpu", "memory", "io")
_LABELS = ("service", "instance")

Figures = dict[str, dict[tuple[str, ...], float]]
"""Per family the figures of one worker, by the values of its further labels."""


@dataclass(frozen=True, slots=True)
class _Worker:
    directory: str
    cgroup: str
    service: str
    instance: str


class Library(Collector):
    """The families that every cgroup has, of all workers, through prometheus_client."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._workers = [_worker(directory) for directory in directories]
        self._started = time.time()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def answer(self) -> bytes:
        """One whole scrape in OpenMetrics, compressed as the library's own server does."""
        return gzip.compress(generate_latest(self._registry))  # type: ignore[no-untyped-call]

    def families(self) -> set[str]:
        """The names of the samples it has."""
        return {sample.name for metric in self.collect() for sample in metric.samples}

    def describe(self) -> list[Metric]:
        """Nothing, so that registering does not read."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Read all workers and build the library's objects."""
        metrics: dict[str, Metric] = {}
        for worker in self._workers:
            for name, samples in _figures(worker, self._started).items():
                if name not in metrics:
                    metrics[name] = _metric(name)
                for further, value in samples.items():
                    metrics[name].add_metric([worker.service, worker.instance, *further], value)  # type: ignore[attr-defined]
        yield from metrics.values()


_FURTHER = {"worker_cpu_seconds_total": ("mode",), "worker_info": ("cgroup", "unit", "port")}


def _metric(name: str) -> Metric:
    labels = (*_LABELS, *_FURTHER.get(name, ()))
    if name.endswith("_total"):
        return CounterMetricFamily(name.removesuffix("_total"), name, labels=labels)
    return GaugeMetricFamily(name, name, labels=labels)


def _figures(worker: _Worker, started: float) -> Figures:
    cpu = _flat(f"{worker.directory}/cpu.stat")
    events = _flat(f"{worker.directory}/cgroup.events")
    pids = _read(f"{worker.directory}/cgroup.procs").split()
    figures: Figures = {
        "worker_info": {(worker.cgroup, os.path.basename(worker.cgroup), worker.instance): 1},
        "worker_up": {(): events["populated"]},
        "worker_frozen": {(): events["frozen"]},
        "worker_start_time_seconds": {(): started},
        "worker_cpu_seconds_total": {
            ("user",): cpu["user_usec"] / 1e6,
            ("system",): cpu["system_usec"] / 1e6,
        },
        "worker_cpu_pct": {(): cpu["usage_usec"] / 1e4 / (time.time() - started)},
        "worker_memory_rss_bytes": {(): sum(map(_resident_bytes, pids))},
        "worker_processes": {(): len(pids)},
    }
    for resource in _PRESSURES:
        some, full = _pressure(f"{worker.directory}/{resource}.pressure")
        figures[f"worker_pressure_{resource}_waiting_seconds_total"] = {(): some}
        figures[f"worker_pressure_{resource}_stalled_seconds_total"] = {(): full}
    return figures


def _worker(directory: str) -> _Worker:
    unit = os.path.basename(directory)
    service, _, instance = unit.removesuffix(".service").partition("-")[2].partition("@")
    parts = directory.split("/")
    return _Worker(directory, "/".join(parts[-3:]), service, instance)


def _flat(path: str) -> dict[str, int]:
    pairs = (line.split() for line in _read(path).splitlines())
    return {key: int(value) for key, value in pairs}


def _pressure(path: str) -> tuple[float, float]:
    some, full = (int(line.rpartition("total=")[2]) / 1e6 for line in _read(path).splitlines())
    return some, full


def _resident_bytes(pid: str) -> int:
    return int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE_BYTES


def _read(path: str) -> str:
    with open(path) as file:
        return file.read()
