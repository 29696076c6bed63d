"""The exporter's metrics about itself, by prometheus_client in a registry of their own."""

import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from worker_exporter import __version__
from worker_exporter.metrics.family import COUNTER, EXPORTER, Family, families_of
from worker_exporter.metrics.process import ProcessMetrics

Samples = Mapping[tuple[str, ...], float]
"""Figures by the values of the family's labels."""


@dataclass(frozen=True, slots=True)
class Report:
    """How one pass went: counts of workers, durations in seconds, and totals of read errors."""

    workers: int = 0
    duplicates: int = 0
    dropped: int = 0
    seconds: float = 0.0
    memory_sources: Mapping[str, int] = field(default_factory=dict)
    collector_seconds: Mapping[str, float] = field(default_factory=dict)
    collector_success: Mapping[str, bool] = field(default_factory=dict)
    read_errors: Mapping[str, int] = field(default_factory=dict)

    def samples(self) -> dict[str, Samples]:
        """The figures of every family about the exporter, by the family's name."""
        return {
            "worker_exporter_build_info": {(__version__, platform.python_version()): 1},
            "worker_exporter_workers": {(): self.workers},
            "worker_exporter_duplicate_workers": {(): self.duplicates},
            "worker_exporter_dropped_workers": {(): self.dropped},
            "worker_exporter_memory_source": _by_name(self.memory_sources),
            "worker_exporter_collector_duration_seconds": _by_name(self.collector_seconds),
            "worker_exporter_collector_success": _by_name(self.collector_success),
            "worker_exporter_read_errors_total": _by_name(self.read_errors),
            "worker_exporter_scrape_duration_seconds": {(): self.seconds},
        }


class OwnMetrics(Collector):
    """The registry of the exporter's own metrics, with process_* beside them."""

    def __init__(self) -> None:
        self._report = Report()
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._registry.register(ProcessMetrics())

    def text(self, report: Report) -> bytes:
        """All of them in text 0.0.4, after the pass that `report` tells of."""
        self._report = report
        return bytes(generate_latest(self._registry))

    def openmetrics(self, report: Report) -> bytes:
        """As text, in OpenMetrics 1.0 with the closing "# EOF"."""
        self._report = report
        return bytes(generate_openmetrics(self._registry))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterator[Metric]:
        """The families of the last report, for prometheus_client."""
        samples = self._report.samples()
        for family in families_of(EXPORTER):
            yield _metric(family, samples[family.name])


def _by_name(values: Mapping[str, float]) -> Samples:
    return {(name,): value for name, value in values.items()}


def _metric(family: Family, samples: Samples) -> Metric:
    make = CounterMetricFamily if family.type == COUNTER else GaugeMetricFamily
    metric = make(family.stem, family.help, labels=family.labels)
    for labels, value in samples.items():
        metric.add_metric(labels, value)
    return metric
