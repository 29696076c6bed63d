"""The usual process_* metrics of the exporter itself, at a cost that thousands of descriptors
do not raise: prometheus_client's own collector lists them all at every scrape.
"""

import os
import resource
import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_MOST_LISTED = 1024


class ProcessMetrics(Collector):
    """CPU, memory, descriptors and start of this process, from its clock and /proc/self."""

    def __init__(self) -> None:
        ticks = int(_read("/proc/self/stat").rpartition(b")")[2].split()[19])
        self._start = _boot_time() + ticks / _TICKS

    def collect(self) -> Iterator[Metric]:
        """The families, under the names every Prometheus client uses."""
        virtual, resident = _read("/proc/self/statm").split()[:2]
        yield CounterMetricFamily(
            "process_cpu_seconds",
            "Total user and system CPU time spent in seconds.",
            value=time.process_time(),
        )
        yield from _gauges(
            (
                "process_virtual_memory_bytes",
                "Virtual memory size in bytes.",
                int(virtual) * _PAGE_BYTES,
            ),
            (
                "process_resident_memory_bytes",
                "Resident memory size in bytes.",
                int(resident) * _PAGE_BYTES,
            ),
            (
                "process_start_time_seconds",
                "Start time of the process since unix epoch in seconds.",
                self._start,
            ),
            (
                "process_max_fds",
                "Maximum number of open file descriptors.",
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            ),
            ("process_open_fds", "Number of open file descriptors.", _open_descriptors()),
        )


def _gauges(*rows: tuple[str, str, float | None]) -> Iterator[Metric]:
    for name, help_text, value in rows:
        if value is not None:
            yield GaugeMetricFamily(name, help_text, value=value)


def _open_descriptors() -> int | None:
    """The size of /proc/self/fd, which counts since kernel 6.2; before, a short list is counted
    and a long one left out.
    """
    size = os.stat("/proc/self/fd").st_size
    if size:
        return size
    with os.scandir("/proc/self/fd") as entries:
        count = sum(1 for _ in zip(range(_MOST_LISTED + 1), entries, strict=False))
    return count - 1 if count <= _MOST_LISTED else None


def _boot_time() -> int:
    for line in _read("/proc/stat").splitlines():
        if line.startswith(b"btime "):
            return int(line.split()[1])
    return 0


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as file:
        return file.readall()
