"""Pressure stall information of workers: the totals of cpu, memory and io.pressure."""

from worker_exporter.cgroup import parse
from worker_exporter.cgroup.members import Worker
from worker_exporter.collectors.base import Host, Moment, Source, WorkerCollector, register
from worker_exporter.metrics.exposition import Column


@register("pressure", "time lost waiting for CPU, memory and IO")
class PressureCollector(WorkerCollector):
    """How long some, and how long all tasks waited for each resource."""

    def __init__(self, host: Host) -> None:
        super().__init__("pressure", host)
        for resource in ("cpu", "memory", "io"):
            self._add_source(resource)

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date. PSI can be turned on and off for a single cgroup."""
        for source in self.sources:
            source.file.retry_missing()
            source.collect()

    def _add_source(self, resource: str) -> Source[Worker]:
        names = [
            f"worker_pressure_{resource}_{state}_seconds_total" for state in ("waiting", "stalled")
        ]
        waiting, stalled = (self.columns[name] for name in names)

        def take(worker: Worker, data: bytes) -> None:
            some, full = parse.pressure(data)
            _put(waiting, worker, some)
            _put(stalled, worker, full)

        return self.source(f"{resource}.pressure", names, take)


def _put(column: Column, worker: Worker, microseconds: bytes | None) -> None:
    column.put(worker, None if microseconds is None else parse.seconds(microseconds))
