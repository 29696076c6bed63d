"""The sidecar's metrics about itself, by prometheus_client in a registry of their own."""

import platform
from collections.abc import Iterable, Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.registry import Collector

from worker_exporter import __version__
from worker_exporter.metrics.process import ProcessMetrics
from worker_exporter.web.negotiation import Format, choose_format
from worker_sidecar import errors

STARTED = "started"
LAUNCH_RESULTS = (
    STARTED,
    *(
        error.kind
        for error in (
            errors.AlreadyRunningError,
            errors.CreationFailedError,
            errors.InputError,
            errors.InputOutputError,
            errors.PermissionDeniedError,
            errors.RefusedError,
            errors.SidecarError,
        )
    ),
)
"""How a start can end: well, or by the kind of its error; anything else is "failed"."""

PROBE_RESULTS = ("ready", "not_ready", "timeout", "error")
"""How a probe can end; only the first makes a worker ready."""

METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")
"""Methods that are counted by name; a client can invent others, they are "other"."""

_LAUNCH_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PROBE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class SidecarMetrics:
    """What the sidecar did, and which workers it should be running. Safe in several threads.

    Counters of a service that is declared start at 0. Names that nobody declared and that never
    ran are a client's invention: what they cost is counted without a service.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry
        self._known: set[str] = set()
        self._desired = _Desired()
        build = Gauge(
            "worker_sidecar_build_info",
            "Always 1; the running version (the package).",
            ("version", "python"),
            registry=registry,
        )
        build.labels(__version__, platform.python_version()).set(1)
        registry.register(self._desired)
        self._launches = Counter(
            "worker_sidecar_launches_total",
            "Starts that were asked for, by what became of them (the launcher's answer).",
            ("service", "result"),
            registry=registry,
        )
        self._launch_seconds = Histogram(
            "worker_sidecar_launch_duration_seconds",
            "How long a start took, to the worker's first instruction (the monotonic clock).",
            ("service",),
            buckets=_LAUNCH_BUCKETS,
            registry=registry,
        )
        self._probes = Counter(
            "worker_sidecar_probes_total",
            "Health probes, by what they found (the worker's answer).",
            ("service", "result"),
            registry=registry,
        )
        self._probe_seconds = Histogram(
            "worker_sidecar_probe_duration_seconds",
            "How long a health probe took (the monotonic clock).",
            ("service",),
            buckets=_PROBE_BUCKETS,
            registry=registry,
        )
        self._requests = Counter(
            "worker_sidecar_api_requests_total",
            "Answers of the API, by method and status code (the HTTP server).",
            ("method", "code"),
            registry=registry,
        )
        registry.register(ProcessMetrics())

    def declare(self, services: Iterable[str]) -> None:
        """Count the launches of `services` from 0 on."""
        for service in services:
            self._known.add(service)
            for result in LAUNCH_RESULTS:
                self._launches.labels(service, result)

    def probing(self, services: Iterable[str]) -> None:
        """Count the probes of `services` from 0 on."""
        for service in services:
            for result in PROBE_RESULTS:
                self._probes.labels(service, result)

    def desired(self, workers: Iterable[tuple[str, str, int]]) -> None:
        """The declared workers, all of them: service, instance, and 1, or 0 for one that was
        stopped on purpose.
        """
        rows = tuple(workers)
        self.declare({service for service, _, _ in rows})
        self._desired.rows = rows

    def launched(self, service: str, result: str) -> None:
        """One start came to `result`, one of LAUNCH_RESULTS."""
        if result == STARTED:
            self._known.add(service)
        told = result if result in LAUNCH_RESULTS else errors.SidecarError.kind
        self._launches.labels(self._label(service), told).inc()

    def launch_took(self, seconds: float, service: str) -> None:
        """One start took `seconds`."""
        self._launch_seconds.labels(self._label(service)).observe(seconds)

    def probed(self, service: str, result: str) -> None:
        """One probe came to `result`, one of PROBE_RESULTS."""
        self._probes.labels(service, result).inc()

    def probe_took(self, seconds: float, service: str) -> None:
        """One probe took `seconds`."""
        self._probe_seconds.labels(service).observe(seconds)

    def requested(self, method: str, code: int) -> None:
        """The API answered a request with the HTTP status `code`."""
        self._requests.labels(method if method in METHODS else "other", str(code)).inc()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The answer to a scrape, and its Content-Type, as the Accept header has it."""
        wanted = choose_format(accept)
        if wanted is Format.OPENMETRICS:
            body = generate_openmetrics(self._registry)  # type: ignore[no-untyped-call]
        else:
            body = generate_latest(self._registry)
        return bytes(body), wanted.value

    def _label(self, service: str) -> str:
        return service if service in self._known else ""


class _Desired(Collector):
    """worker_desired: not kept per worker, so that an undeclared one is gone at once."""

    def __init__(self) -> None:
        self.rows: tuple[tuple[str, str, int], ...] = ()

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(
            "worker_desired",
            "1 for a declared worker, 0 when it was stopped on purpose; absent when undeclared "
            "(workers.yaml and the markers of stop).",
            labels=("service", "instance"),
        )
        for service, instance, wanted in self.rows:
            family.add_metric((service, instance), wanted)
        yield family
