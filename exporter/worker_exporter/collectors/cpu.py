"""CPU time, throttling and limits of workers: cpu.stat, cpu.max, cpuset.cpus.effective."""

from worker_exporter.cgroup import parse, procfs
from worker_exporter.cgroup.limits import UNKNOWN, PathLimit
from worker_exporter.cgroup.tree import Worker
from worker_exporter.collectors.base import Host, Moment, WorkerCollector, register
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
        self._quota = self.limit("cpu.max", parse.cpu_max)
        self._cpuset = self.limit("cpuset.cpus.effective", parse.cpu_count)
        self._seconds, self._periods, self._throttled, self._throttled_seconds, self._pct = (
            self._stat.columns
        )
        self._cores = self.columns["worker_cpu_limit_cores"]
        self._rates = SmoothedRates(host.time_constant)
        self._used: dict[Worker, float] = {}
        self._quotas: dict[Worker, float] = {}
        self._cpusets: dict[Worker, float] = {}
        self._online: int | None = None

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        super().remove(worker)
        self._forget_rate(worker)
        self._quotas.pop(worker, None)
        self._cpusets.pop(worker, None)

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date."""
        self._used = {}
        self._stat.collect()
        for worker, rate in self._rates.look(now.monotonic, self._used):
            self._pct.put(worker, two_decimals(rate))
        self._collect_limits()

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

    def _collect_limits(self) -> None:
        moved = _update(self._quotas, self._quota) + _update(self._cpusets, self._cpuset)
        if self._cpusets:
            online = _online_cpus(self.host.kernel.sysfs)
            moved += self._cpusets if online != self._online else ()
            self._online = online
        for worker in moved:
            limits = [self._quotas.get(worker), self._cpuset_limit(worker)]
            given = [limit for limit in limits if limit is not None]
            if given and UNKNOWN not in given:
                self._cores.put(worker, decimal(min(given)))
            else:
                self._cores.drop(worker)

    def _cpuset_limit(self, worker: Worker) -> float | None:
        """The CPUs of the worker's cpuset; None when those are all that are online."""
        cpus = self._cpusets.get(worker)
        return None if cpus is None or cpus == self._online else cpus


def _seconds(stat: dict[bytes, bytes], key: bytes) -> bytes | None:
    microseconds = stat.get(key)
    return None if microseconds is None else parse.seconds(microseconds)


def _update(values: dict[Worker, float], limit: PathLimit) -> list[Worker]:
    """Take what changed in `limit` over into `values`; the workers that changed."""
    changes = dict(limit.changed())
    for worker, value in changes.items():
        if value is None:
            values.pop(worker, None)
        else:
            values[worker] = value
    return list(changes)


def _online_cpus(sysfs: str) -> int | None:
    try:
        return parse.cpu_count(procfs.read(f"{sysfs}/devices/system/cpu/online"))
    except (OSError, ValueError):
        return None
