"""CPU time, throttling and limits of workers: cpu.stat, cpu.max, cpuset.cpus.effective."""

from worker_exporter.cgroup import parse
from worker_exporter.cgroup.members import Worker
from worker_exporter.collectors.base import Host, Moment, WorkerCollector, register
from worker_exporter.collectors.cpu_limit import CpuLimit
from worker_exporter.collectors.smoothing import SmoothedRates, two_decimals
from worker_exporter.metrics.exposition import decimal

_STAT_FAMILIES = (
    "worker_cpu_seconds_total",
    "worker_cpu_periods_total",
    "worker_cpu_throttled_periods_total",
    "worker_cpu_throttled_seconds_total",
    "worker_cpu_pct",
)

_USEC_PER_PERCENT = 1e4
"""Microseconds of CPU time in a second of 1 % use."""


@register("cpu", "CPU time, throttling and limits")
class CpuCollector(WorkerCollector):
    """The families of cpu.stat, the smoothed CPU use, and how many cores a worker may use."""

    def __init__(self, host: Host) -> None:
        super().__init__("cpu", host)
        self._stat = self.source("cpu.stat", _STAT_FAMILIES, self._take_stat, self._forget_rate)
        self._limit = CpuLimit(self)
        self._seconds, self._periods, self._throttled, self._throttled_seconds, self._pct = (
            self._stat.columns
        )
        self._cores = self.columns["worker_cpu_limit_cores"]
        self._rates = SmoothedRates(host.time_constant)
        self._used: dict[Worker, float] = {}

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        super().remove(worker)
        self._forget_rate(worker)
        self._limit.remove(worker)

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date."""
        self._used = {}
        self._stat.collect()
        for worker, rate in self._rates.look(now.monotonic, self._used):
            self._pct.put(worker, two_decimals(rate))
        for worker, cores in self._limit.changed():
            self._cores.put(worker, None if cores is None else decimal(cores))

    def _take_stat(self, worker: Worker, data: bytes) -> None:
        stat = parse.flat_keyed(data)
        self._seconds.put(worker, _seconds(stat, b"user_usec"), _seconds(stat, b"system_usec"))
        if b"usage_usec" in stat:
            self._used[worker] = int(stat[b"usage_usec"]) / _USEC_PER_PERCENT
        if b"nr_periods" in stat:
            self._periods.put(worker, stat[b"nr_periods"])
            self._throttled.put(worker, stat.get(b"nr_throttled"))
            self._throttled_seconds.put(worker, _seconds(stat, b"throttled_usec"))
        elif worker in self._periods:
            for column in (self._periods, self._throttled, self._throttled_seconds):
                column.drop(worker)

    def _forget_rate(self, worker: Worker) -> None:
        self._rates.forget(worker)
        self._used.pop(worker, None)


def _seconds(stat: dict[bytes, bytes], key: bytes) -> bytes | None:
    microseconds = stat.get(key)
    return None if microseconds is None else parse.seconds(microseconds)
