"""Tasks and processes of workers: the pids.* files and cgroup.procs."""

from worker_exporter.cgroup import parse
from worker_exporter.cgroup.members import Worker
from worker_exporter.cgroup.processes import PIDS
from worker_exporter.collectors.base import Host, LimitSource, Moment, WorkerCollector, register


@register("tasks", "tasks, their limit, processes")
class TasksCollector(WorkerCollector):
    """How many tasks and processes a worker has and may have."""

    def __init__(self, host: Host) -> None:
        super().__init__("tasks", host)
        self.source("pids.current", ("worker_tasks",), self._take_current)
        self.source("pids.events", ("worker_tasks_limit_hits_total",), self._take_events)
        self._limit = LimitSource(
            self.limit("pids.max", parse.limit), self.columns["worker_tasks_limit"]
        )
        self._seen: dict[Worker, PIDS | None] = {}

    def add(self, worker: Worker) -> None:
        """A worker appeared."""
        super().add(worker)
        self._seen[worker] = None

    def remove(self, worker: Worker) -> None:
        """A worker is gone: none of its samples may stay."""
        super().remove(worker)
        del self._seen[worker]

    def collect(self, now: Moment) -> None:
        """Bring all columns up to date."""
        for source in self.sources:
            source.collect()
        self._limit.collect()
        self._collect_processes()

    def _take_current(self, worker: Worker, data: bytes) -> None:
        self.columns["worker_tasks"].put(worker, parse.number(data))

    def _take_events(self, worker: Worker, data: bytes) -> None:
        events = parse.flat_keyed(data)
        self.columns["worker_tasks_limit_hits_total"].put(worker, events.get(b"max"))

    def _collect_processes(self) -> None:
        column = self.columns["worker_processes"]
        pids = self.host.pids()
        for worker, seen in self._seen.items():
            now = pids[worker]
            if now is seen:
                continue
            self._seen[worker] = now
            if now is None:
                column.drop(worker)
            else:
                column.put(worker, b"%d" % len(now))
