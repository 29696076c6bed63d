"""What the sidecar's probe last said of a worker: the xattr user.worker.health."""

import os

from worker_exporter.cgroup.members import Worker
from worker_exporter.cgroup.metadata import HEALTH, attributes, parse_health, read_health
from worker_exporter.collectors.base import Host, Moment, columns_of, register
from worker_exporter.metrics.exposition import decimal

_MISSED_INTERVALS = 3


@register("health", "what the sidecar's probe said")
class HealthCollector:
    """Readiness and the time of the last probe, read anew at every scrape."""

    def __init__(self, host: Host) -> None:
        self.columns = columns_of("health")
        self._errors = host.kernel.faults.errors
        self._errors[HEALTH] += 0
        self._ready = self.columns["worker_ready"]
        self._time = self.columns["worker_probe_timestamp_seconds"]
        self._last: dict[Worker, bytes | None] = {}
        self._expiry: dict[Worker, float] = {}
        self._passed: set[Worker] = set()

    def add(self, worker: Worker) -> None:
        """A worker appeared."""
        self._last[worker] = None

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        del self._last[worker]
        self._passed.discard(worker)
        self._drop(worker)

    def look_again(self, worker: Worker) -> None:
        """Nothing to do: attributes are looked for at every scrape."""

    def is_probed(self, worker: Worker) -> bool:
        """Whether anything, however old, says what a probe of `worker` found."""
        return self._last[worker] is not None

    def passed_once(self, worker: Worker) -> bool:
        """Whether a look at this cgroup ever found that its probe had passed."""
        return worker in self._passed

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date."""
        for worker, names in zip(self._last, self._attributes(), strict=True):
            value = read_health(worker) if HEALTH in names else None
            if value != self._last[worker]:
                self._last[worker] = value
                self._take(worker, value)
        self._expire(now.wall)

    def _attributes(self) -> list[list[str]]:
        """The names of each worker's extended attributes: cheaper than asking for one in vain."""
        places = [
            worker.location if worker.directory is None else worker.directory
            for worker in self._last
        ]
        try:
            return list(map(os.listxattr, places))
        except OSError:
            return [attributes(worker) for worker in self._last]

    def _take(self, worker: Worker, value: bytes | None) -> None:
        self._drop(worker)
        if value is None:
            return
        try:
            health = parse_health(value)
        except ValueError:
            self._errors[HEALTH] += 1
            return
        if health.ready == b"1":
            self._passed.add(worker)
        self._ready.put(worker, health.ready)
        self._time.put(worker, decimal(health.time))
        self._expiry[worker] = health.time + _MISSED_INTERVALS * health.interval

    def _expire(self, wall: float) -> None:
        """Leave out what nobody has confirmed for three intervals: the probe itself is dead."""
        for worker in [worker for worker, expiry in self._expiry.items() if expiry < wall]:
            self._ready.drop(worker)
            del self._expiry[worker]

    def _drop(self, worker: Worker) -> None:
        self._ready.drop(worker)
        self._time.drop(worker)
        self._expiry.pop(worker, None)
